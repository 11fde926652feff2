// Package assembly is the one list of every capability: what the server consists of, one constructor per line, in the
// order in which they are made.
package assembly

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/access"
	"yunfan.io/yunfan/internal/application"
	"yunfan.io/yunfan/internal/audit"
	"yunfan.io/yunfan/internal/cluster"
	"yunfan.io/yunfan/internal/configuration"
	"yunfan.io/yunfan/internal/delivery"
	"yunfan.io/yunfan/internal/logs"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/nodeport"
	"yunfan.io/yunfan/internal/outbound"
	"yunfan.io/yunfan/internal/partition"
	"yunfan.io/yunfan/internal/proxy"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/right"
	"yunfan.io/yunfan/internal/route"
	"yunfan.io/yunfan/internal/route/gateway"
	"yunfan.io/yunfan/internal/route/gateway/install"
	"yunfan.io/yunfan/internal/secret"
	"yunfan.io/yunfan/internal/tenant"
	"yunfan.io/yunfan/internal/usage"
)

// Uncached keeps Secrets and ConfigMaps of the hub out of the cache: it would hold those of every namespace.
func Uncached() []client.Object { return []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}} }

// controller is a controller of the hub.
type controller interface {
	SetupWithManager(mgr manager.Manager) error
}

// Options are what capabilities are told of the server they are part of.
type Options struct {
	// URL is where users reach the server, without a path.
	URL *url.URL
	// Namespace is where the platform keeps its own objects on the hub.
	Namespace string
	// Records is where rows beside the hub are kept; nil only in tests without them.
	Records *record.Database
	// Place tells this server from others, and is the same when it is started again.
	Place string
	// Audit is what an administrator chose of it.
	Audit audit.Options
	// Outbound says which addresses may be reached by what users write: requests in workflows, webhooks, mail.
	Outbound outbound.Policy
	// InstanceDir is the data directory of the embedded clusters; empty without them.
	InstanceDir string
	// Registry is the URL of the registry whose health is told; empty for none.
	Registry string
}

// Add registers every capability's controllers and webhooks with the manager and gives their parts of the server.
func Add(mgr manager.Manager, authorizer *rest.Authorizer, o Options) (rest.Parts, error) {
	members, err := member.NewSet(mgr)
	if err != nil {
		return rest.Parts{}, fmt.Errorf("assembling: %w", err)
	}
	hub := mgr.GetClient()
	ports := &nodeport.Ports{Hub: hub, Live: mgr.GetAPIReader(), Members: members}
	partitions := partition.New(members, right.MemberObjects()...)
	rights, err := right.NewIndex(context.Background(), hub, mgr.GetFieldIndexer())
	if err != nil {
		return rest.Parts{}, fmt.Errorf("assembling: %w", err)
	}
	authorizer.DecideFirst(rights.Decide)
	people := access.New(mgr, access.Options{Groups: rights.Groups, Authorizer: authorizer, Namespace: o.Namespace, URL: o.URL})
	open := proxy.NewOpen(people.Still)
	secrets, err := secret.New(mgr, authorizer)
	if err != nil {
		return rest.Parts{}, fmt.Errorf("assembling: %w", err)
	}

	routes := route.New(mgr, members, route.Options{Namespace: o.Namespace, Authorizer: authorizer})
	traffic := routes.Traffic()

	for _, c := range []controller{
		cluster.New(members, partitions),
		tenant.New(),
		&right.Bindings{Namespace: o.Namespace},
		people,
		open,
		partitions,
		configuration.New(mgr),
		application.New(mgr, ports, o.Records != nil), // rollouts are runs, which need records
		&delivery.Keeper{Hub: hub, Members: members},
		&nodeport.Garbage{Ports: ports},
		&nodeport.Reporter{Hub: hub, Members: members},
		install.New(members),
		routes,
	} {
		if err := c.SetupWithManager(mgr); err != nil {
			return rest.Parts{}, fmt.Errorf("assembling: %w", err)
		}
	}
	members.Register(
		delivery.Controller{},
		gateway.NewController(traffic.Gateways()),
	)
	mgr.GetWebhookServer().Register(application.WebhookPath, application.NewWebhook(mgr))
	mgr.GetWebhookServer().Register(route.WebhookPath, routes.Webhook())

	parts := rest.Parts{Routes: slices.Concat(
		(&cluster.API{Hub: hub, Members: members, Authorizer: authorizer}).Routes(),
		(&tenant.API{Hub: hub, Authorizer: authorizer}).Routes(),
		(&partition.API{Hub: hub, Authorizer: authorizer}).Routes(),
		(&application.API{Hub: hub, Authorizer: authorizer, DryRun: dryRun(mgr, members)}).Routes(),
		(&delivery.API{Hub: hub, Members: members, Authorizer: authorizer}).Routes(),
		(&logs.API{Hub: hub, Members: members, Authorizer: authorizer}).Routes(),
		ports.Routes(authorizer),
		secrets.Routes(),
		routes.Routes(),
		(&right.API{Hub: hub, Index: rights, Authorizer: authorizer}).Routes(),
		(&proxy.Proxy{Hub: hub, HubConfig: mgr.GetConfig(), Members: members, Authorizer: authorizer, Rights: rights}).Routes(),
	), Wrappers: []rest.Wrapper{open.Wrap}}
	parts.Add(people.Parts())
	if o.Records != nil {
		history := &usage.History{Hub: hub, Records: o.Records}
		if err := history.SetupWithManager(mgr); err != nil {
			return rest.Parts{}, fmt.Errorf("assembling: %w", err)
		}
		parts.Routes = append(parts.Routes, (&usage.API{History: history, Authorizer: authorizer}).Routes()...)
		absent := right.Absent{Index: rights, Authorizer: authorizer}
		later, err := (&overTime{mgr: mgr, members: members, absent: absent, secrets: secrets, usage: history, traffic: traffic, o: o}).add()
		if err != nil {
			return rest.Parts{}, err
		}
		parts.Routes = append(parts.Routes, later...)
		log, err := audit.New(context.Background(), mgr, o.Records, members, o.Namespace, o.Place, o.Audit)
		if err == nil {
			err = mgr.Add(log)
		}
		if err != nil {
			return rest.Parts{}, fmt.Errorf("assembling: %w", err)
		}
		parts.Routes = append(parts.Routes, log.Routes(authorizer)...)
		parts.Wrappers = slices.Insert(parts.Wrappers, 0, log.Wrap) // what other wrappers refuse has a row, too
	}
	self, err := itself(mgr, authorizer, o)
	if err != nil {
		return rest.Parts{}, err
	}
	parts.Routes = append(parts.Routes, self...)
	if shadowing := proxy.Shadowing(parts.Routes); len(shadowing) > 0 {
		return rest.Parts{}, fmt.Errorf("assembling: these views would answer in place of Kubernetes: %s", strings.Join(shadowing, ", "))
	}
	return parts, nil
}

// dryRun lets applications ask delivery for previews.
func dryRun(mgr manager.Manager, members member.Lookup) application.DryRun {
	preview := &delivery.Preview{Hub: mgr.GetAPIReader(), Members: members}
	return func(ctx context.Context, p *v1alpha1.Partition, r *v1alpha1.ApplicationRevision, spec v1alpha1.DeliverySpec, inventory []v1alpha1.InventoryEntry) (any, error) {
		return preview.DryRun(ctx, p, r, spec, inventory)
	}
}
