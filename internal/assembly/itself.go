package assembly

import (
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/internal/certificate"
	"yunfan.io/yunfan/internal/health"
	"yunfan.io/yunfan/internal/rest"
)

// leaderLease is held by the server that runs the controllers.
const leaderLease = "yunfan-server"

// itself is what the platform tells of itself: certificates and health.
func itself(mgr manager.Manager, authorizer *rest.Authorizer, o Options) ([]rest.Route, error) {
	live, err := client.New(mgr.GetConfig(), client.Options{Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
	if err != nil {
		return nil, fmt.Errorf("assembling: %w", err)
	}
	certificates := &certificate.List{Hub: live, HubConfig: mgr.GetConfig(), Namespace: o.Namespace, URL: o.URL, InstanceDir: o.InstanceDir, Authorizer: authorizer}
	monitor := &health.Monitor{Authorizer: authorizer, Checks: []health.Check{
		health.Leader(live, o.Namespace, leaderLease), health.Hub(mgr.GetConfig()), health.Members(mgr.GetClient()), health.Directories(mgr.GetClient()),
		health.Certificates(certificates.FirstToEnd),
	}}
	if o.Records != nil {
		monitor.Checks = append(monitor.Checks, health.Records(o.Records.Check))
	}
	if o.Registry != "" {
		monitor.Checks = append(monitor.Checks, health.Registry(o.Registry))
	}
	runnables := []manager.Runnable{monitor}
	if o.InstanceDir != "" {
		monitor.Checks = append(monitor.Checks, health.Engine(o.InstanceDir), health.Disk(o.InstanceDir))
		runnables = append(runnables, &certificate.Refresh{Hub: live, Namespace: o.Namespace, InstanceDir: o.InstanceDir})
	}
	for _, runnable := range runnables {
		if err := mgr.Add(runnable); err != nil {
			return nil, fmt.Errorf("assembling: %w", err)
		}
	}
	return append(certificates.Routes(), monitor.Routes()...), nil
}
