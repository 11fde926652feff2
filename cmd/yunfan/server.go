package main

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"yunfan.io/yunfan/internal/cli"
	"yunfan.io/yunfan/internal/server"
)

const serverCommand = "server"

// auditKeep is half a year.
const auditKeep = 180 * 24 * time.Hour

func newServerCommand() *cobra.Command {
	o, kubeconfig, verbose := server.Options{}, "", false
	var proxies []string
	cmd := &cobra.Command{
		Use:   serverCommand + " [--kubeconfig FILE]",
		Short: "Run the platform's controllers and API on a hub, which may be any Kubernetes cluster",
		Long: `Run the platform's controllers and API on a hub, which may be any Kubernetes cluster.

The server installs its own kinds. It needs a user who may do everything on the hub. Several servers run side by side:
all of them answer requests, one of them runs the controllers. In a pod of the hub it needs no --kubeconfig.`,
		Example: `  yunfan server --kubeconfig hub.kubeconfig --listen :8443 --advertise https://yunfan.example.com:8443`,
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			log := logr.FromSlogHandler(slog.NewJSONHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			ctrl.SetLogger(log)
			klog.SetLogger(log)
			var err error
			if o.Hub, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
				return cli.Usagef("reading the hub's kubeconfig (--kubeconfig): %w", err)
			}
			for _, proxy := range proxies {
				prefix, err := netip.ParsePrefix(proxy)
				if err != nil {
					return cli.Usagef("--trusted-proxies %q: write addresses such as 10.0.0.0/8: %w", proxy, err)
				}
				o.Assembly.Audit.TrustedProxies = append(o.Assembly.Audit.TrustedProxies, prefix)
			}
			server.SaveMemory()
			return server.Run(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig of the hub (default: the pod's own service account)")
	flags.StringVar(&o.Listen, "listen", "127.0.0.1:8443", "address of the HTTPS API, HOST:PORT")
	flags.StringVar(&o.Advertise, "advertise", "", "URL under which users and the hub reach --listen; the hub gets webhooks only if it is given")
	flags.StringVar(&o.HealthListen, "health-listen", "", "address for /healthz and /readyz over plain HTTP, HOST:PORT (default: only on --listen)")
	flags.StringVar(&o.Records, "records", "sqlite:///var/lib/yunfan/records.db", "database for audit, usage and finished runs: sqlite:///FILE, or postgres://USER:PASSWORD@HOST:PORT/NAME, which several servers need")
	flags.StringSliceVar(&proxies, "trusted-proxies", nil, "addresses of load balancers before the server, as 10.0.0.0/8: audit believes what they say of where a request comes from (X-Forwarded-For)")
	flags.DurationVar(&o.Assembly.Audit.Keep, "audit-keep", auditKeep, "how long rows of audit are kept; 0 for ever")
	flags.Int64Var(&o.Assembly.Audit.MaxRows, "audit-rows", 0, "how many rows of audit are kept; 0 for all")
	flags.Var(&o.Assembly.Outbound.Allow, "outbound-allow", "addresses that workflows, webhooks and mail may reach whatever else is said, as 10.1.0.0/16,10.2.3.4; without it never this machine and link-local ones")
	flags.Var(&o.Assembly.Outbound.Deny, "outbound-deny", "addresses that they may not reach, besides those that they never may")
	flags.StringVar(&o.Assembly.InstanceDir, "instance-dir", "", "data directory of the embedded clusters, whose processes, certificates and disk are looked after")
	flags.StringVar(&o.Assembly.Registry, "registry", "", "URL of the registry, whose health is told")
	flags.BoolVar(&o.LeaderElection, "leader-election", true, "let several servers run side by side")
	flags.BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}
