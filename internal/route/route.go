// Package route is the hub's side of Routes and Edges: whose a host is, which requests go to which partition, and what
// every edge serves of that at this moment.
package route

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/route/edge"
)

// Options are what routes are told of the server they are part of.
type Options struct {
	// Namespace is the platform's own on the hub: credentials of edges are there.
	Namespace string
	// Authorizer decides who sees what.
	Authorizer *rest.Authorizer
	// Drivers make the driver of one endpoint; the platform's own if nil.
	Drivers map[v1alpha1.EdgeDriver]NewDriver
	// Poll is how often an edge is asked for its state, and Quick while something is not confirmed; a second and 200 ms
	// if zero.
	Poll, Quick time.Duration
}

// NewDriver makes the driver of one endpoint with the content of its Secret.
type NewDriver func(endpoint string, credentials map[string][]byte) (edge.Driver, error)

// Routes is what the platform knows and does of Routes and Edges.
type Routes struct {
	client  client.Client
	live    client.Reader
	members member.Lookup
	edges   *Edges
	o       Options

	// gateways says which gateways do not have a Route as it is; nil if nobody knows.
	gateways func(ctx context.Context, route *v1alpha1.Route) (waiting string, err error)
	// problems says what of a Route gateways cannot do; nil if nobody knows.
	problems func(ctx context.Context, route *v1alpha1.Route) ([]string, error)

	routeKick, edgeKick, partitionKick kicker

	mu           sync.Mutex
	certificates map[client.ObjectKey]*certificate // by version object; only those in use
}

// New gives the Routes of a server.
func New(mgr manager.Manager, members member.Lookup, o Options) *Routes {
	r := &Routes{
		client: mgr.GetClient(), live: mgr.GetAPIReader(), members: members, o: o,
		certificates: map[client.ObjectKey]*certificate{},
	}
	if r.o.Drivers == nil {
		r.o.Drivers = drivers()
	}
	r.edges = newEdges(o.Poll, o.Quick)
	r.edges.changed = func(c changes) {
		r.edgeKick.add(client.ObjectKey{Name: c.edge})
		r.routeKick.add(c.routes...)
		r.partitionKick.add(c.partitions...)
	}
	return r
}

// Edges tells what edges serve.
func (r *Routes) Edges() *Edges { return r.edges }

// SetupWithManager registers the controllers.
func (r *Routes) SetupWithManager(mgr manager.Manager) error {
	if err := mgr.Add(r.edges); err != nil {
		return fmt.Errorf("adding the edges: %w", err)
	}
	for _, c := range []interface{ SetupWithManager(ctrl.Manager) error }{
		&routes{r}, &hosts{r}, &tables{r}, &connector{Routes: r}, &partitions{r},
	} {
		if err := c.SetupWithManager(mgr); err != nil {
			return err
		}
	}
	return nil
}

// ready says whether a cluster's control plane answers.
func ready(cluster *v1alpha1.Cluster) bool {
	return meta.IsStatusConditionTrue(cluster.Status.Conditions, v1alpha1.ConditionReady)
}

var onlyDeleted = predicate.Funcs{
	CreateFunc: func(event.CreateEvent) bool { return false },
	UpdateFunc: func(event.UpdateEvent) bool { return false },
}

// routesOfAll has every Route looked at again.
func (r *Routes) routesOfAll() {
	if b := r.edges.current(); b != nil {
		for key := range b.routes {
			r.routeKick.add(key)
		}
	}
}
