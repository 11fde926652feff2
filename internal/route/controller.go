package route

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
	"yunfan.io/yunfan/internal/route/table"
)

const (
	// workers look after Routes at the same time.
	workers = 8
	// updatingInterval is how often one is looked at that waits for edges or gateways, besides when one of them tells.
	updatingInterval = 2 * time.Second
	// expiryInterval is how often it is looked whether a certificate has expired.
	expiryInterval = time.Hour
)

// routes claims hosts and tells how Routes are carried.
type routes struct{ *Routes }

// SetupWithManager registers the controller.
func (c *routes) SetupWithManager(mgr ctrl.Manager) error {
	err := ctrl.NewControllerManagedBy(mgr).Named("route").
		For(&v1alpha1.Route{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.Application{}, handler.EnqueueRequestsFromMapFunc(c.ofApplication), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.RouteHost{}, handler.EnqueueRequestsFromMapFunc(c.ofHost), builder.WithPredicates(onlyDeleted)).
		Watches(&v1alpha1.Edge{}, handler.EnqueueRequestsFromMapFunc(c.all), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(c.routeKick.source()).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(c)
	if err != nil {
		return fmt.Errorf("registering the route controller: %w", err)
	}
	return nil
}

func (c *routes) matching(ctx context.Context, namespace string, test func(*v1alpha1.Route) bool) (requests []ctrl.Request) {
	var list v1alpha1.RouteList
	if err := c.client.List(ctx, &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil // Only a cache that is shutting down fails.
	}
	for i := range list.Items {
		if test(&list.Items[i]) {
			requests = append(requests, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return requests
}

func (c *routes) all(ctx context.Context, _ client.Object) []ctrl.Request {
	return c.matching(ctx, "", func(*v1alpha1.Route) bool { return true })
}

func (c *routes) ofApplication(ctx context.Context, o client.Object) []ctrl.Request {
	return c.matching(ctx, o.GetNamespace(), func(r *v1alpha1.Route) bool { return slices.Contains(applicationsOf(r), o.GetName()) })
}

// ofHost finds those that name a host which was released, and those that wait for one.
func (c *routes) ofHost(ctx context.Context, o client.Object) []ctrl.Request {
	host := o.(*v1alpha1.RouteHost).Spec.Host
	return c.matching(ctx, "", func(r *v1alpha1.Route) bool {
		ready := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionReady)
		return slices.Contains(hostsOf(r), host) || ready != nil && ready.Reason == v1alpha1.ReasonHostTaken
	})
}

// Reconcile looks after one Route.
func (c *routes) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	route := &v1alpha1.Route{}
	if err := c.client.Get(ctx, req.NamespacedName, route); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !route.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	result, err := reconcile.Run(ctx, c.client, route, v1alpha1.ConditionReady, v1alpha1.ReasonReady,
		c.observe,
		func(_ context.Context, route *v1alpha1.Route) error { return validate(&route.Spec) },
		c.claim,
		c.conflicts,
		func(ctx context.Context, route *v1alpha1.Route) error { return findBackends(ctx, c.client, route) },
		c.secured,
		c.served,
		c.remark,
	)
	if err == nil && result.RequeueAfter == 0 && route.Spec.TLS != nil {
		result.RequeueAfter = expiryInterval
	}
	return result, err
}

// observe tells how the Route is carried, also if something is wrong with it.
func (c *routes) observe(ctx context.Context, route *v1alpha1.Route) error {
	var edges v1alpha1.EdgeList
	if err := c.client.List(ctx, &edges, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing edges: %w", err)
	}
	route.Status.Addresses = nil
	for i := range edges.Items {
		route.Status.Addresses = append(route.Status.Addresses, edges.Items[i].Spec.Addresses...)
	}
	slices.Sort(route.Status.Addresses)
	route.Status.Addresses = slices.Compact(route.Status.Addresses)
	certificate, err := c.certificateOf(ctx, route)
	if err != nil {
		return err
	}
	route.Status.Certificate = certificate.status()
	if b := c.edges.current(); b != nil {
		route.Status.Partitions = c.edges.partitionsOf(b, client.ObjectKeyFromObject(route))
	}
	return nil
}

// conflicts tells what the table leaves out of the Route.
func (c *routes) conflicts(_ context.Context, route *v1alpha1.Route) error {
	b := c.edges.current()
	if b == nil {
		return nil
	}
	o := b.routes[client.ObjectKeyFromObject(route)]
	if o == nil || o.generation != route.Generation {
		return nil
	}
	var messages []string
	for _, p := range o.problems {
		if p.reason == v1alpha1.ReasonConflict {
			messages = append(messages, p.message)
		}
	}
	if messages != nil {
		return reconcile.Stall(v1alpha1.ReasonConflict, "%s: write the rules of a host into one route, or let them differ by path", strings.Join(messages, "; "))
	}
	return nil
}

// secured wants a certificate where one is named.
func (c *routes) secured(ctx context.Context, route *v1alpha1.Route) error {
	certificate, err := c.certificateOf(ctx, route)
	if err != nil {
		return err
	}
	if certificate != nil && certificate.leaf == nil {
		return reconcile.Stall(v1alpha1.ReasonCertificateInvalid, "%s", certificate.problem)
	}
	return nil
}

// served waits until every edge and every gateway has the Route as it is.
func (c *routes) served(ctx context.Context, route *v1alpha1.Route) error {
	waiting, connected := c.edges.routeSettled(route)
	if !connected {
		return reconcile.Stall(v1alpha1.ReasonNoEdge, "no edge is connected, so nothing brings requests here: a platform administrator creates an Edge")
	}
	if waiting == "" && c.gateways != nil {
		var err error
		if waiting, err = c.gateways(ctx, route); err != nil {
			return err
		}
	}
	if waiting != "" {
		return reconcile.Wait(v1alpha1.ReasonUpdating, updatingInterval, "%s", waiting)
	}
	return nil
}

// remark says what is not as it should be, although all is served.
func (c *routes) remark(ctx context.Context, route *v1alpha1.Route) error {
	certificate, err := c.certificateOf(ctx, route)
	if err != nil {
		return err
	}
	var remarks []string
	if text := certificate.remark(route.Spec.Hosts, time.Now()); text != "" {
		remarks = append(remarks, text)
	}
	for i := range route.Status.Partitions {
		if p := &route.Status.Partitions[i]; p.State == v1alpha1.TrafficDown {
			remarks = append(remarks, fmt.Sprintf("%s in %s gets nothing: %s", p.Application, p.Partition, p.Message))
		}
	}
	for _, application := range applicationsOf(route) {
		if !slices.ContainsFunc(route.Status.Partitions, func(p v1alpha1.RoutePartitionStatus) bool { return p.Application == application }) {
			remarks = append(remarks, fmt.Sprintf("application %s is in no partition yet", application))
		}
	}
	if c.problems != nil {
		problems, err := c.problems(ctx, route)
		if err != nil {
			return err
		}
		remarks = append(remarks, problems...)
	}
	if remarks != nil {
		return reconcile.Remark("%s", strings.Join(remarks, "; "))
	}
	return nil
}

// routeSettled says who does not serve a Route as it is, and whether there is an edge at all.
func (e *Edges) routeSettled(route *v1alpha1.Route) (waiting string, connected bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.newest == nil {
		return "the table of all routes is not made yet", true
	}
	o := e.newest.routes[client.ObjectKeyFromObject(route)]
	switch {
	case o == nil || o.generation < route.Generation:
		return "the table of all routes does not have the newest of it yet", true
	case len(e.newest.edges) == 0:
		return "", false
	case len(o.problems) > 0:
		return o.problems[0].message, true
	}
	return e.waiting(o.pools), true
}

// partitionsOf tells what the partitions of a Route get.
func (e *Edges) partitionsOf(b *built, key client.ObjectKey) (out []v1alpha1.RoutePartitionStatus) {
	e.mu.Lock()
	defer e.mu.Unlock()
	o := b.routes[key]
	if o == nil {
		return nil
	}
	for i := range b.table.Pools {
		pool := &b.table.Pools[i]
		name := parsePool(pool.Name)
		if name.tenant != key.Namespace || name.route != key.Name || strings.HasSuffix(pool.Name, restSuffix) {
			continue
		}
		total, first := 0, len(out)
		for j := range pool.Targets {
			t := &pool.Targets[j]
			_, partition, _ := strings.Cut(t.Label, "/")
			_, cluster, _ := strings.Cut(t.Name, ".")
			status := v1alpha1.RoutePartitionStatus{Application: name.application, Partition: partition, Cluster: cluster}
			status.State, status.Message = e.stateOf(pool.Name, t)
			if status.State == v1alpha1.TrafficOpen {
				total += t.Weight
				status.Share = int32(t.Weight)
			}
			out = append(out, status)
		}
		for j := range out[first:] {
			if total > 0 {
				out[first+j].Share = int32((int(out[first+j].Share)*100 + total/2) / total)
			}
		}
	}
	slices.SortFunc(out, func(x, y v1alpha1.RoutePartitionStatus) int {
		return cmp.Or(cmp.Compare(x.Application, y.Application), cmp.Compare(x.Partition, y.Partition))
	})
	return out
}

// stateOf a target: what it should be, and what probes say.
func (e *Edges) stateOf(pool string, t *table.Target) (state v1alpha1.TrafficState, message string) {
	if t.Closed {
		return v1alpha1.TrafficClosed, "it is closed"
	}
	_, cluster, _ := strings.Cut(t.Name, ".")
	if len(t.Servers) == 0 {
		return v1alpha1.TrafficDown, fmt.Sprintf("cluster %s has no gateway: set its spec.gateway.mode to Managed", cluster)
	}
	var probes []string
	seen, up := false, false
	for _, r := range e.sorted() {
		for i := range r.state.Targets {
			if s := &r.state.Targets[i]; s.Pool == pool && s.Target == t.Name {
				seen, up = true, up || s.Up
				if !s.Up && s.Probe != "" && !slices.Contains(probes, s.Probe) {
					probes = append(probes, s.Probe)
				}
			}
		}
	}
	if seen && !up {
		return v1alpha1.TrafficDown, cmp.Or(strings.Join(probes, "; "), "it does not answer the edge's probes")
	}
	return v1alpha1.TrafficOpen, ""
}
