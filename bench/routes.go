//go:build e2e

package main

import (
	"context"
	"fmt"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
	"yunfan.io/yunfan/e2e/load"
)

// shops is how many applications with a route of their own there are, in three partitions each.
const shops = 200

// manyRoutes adds applications without pods, and a route to each, and measures again how soon a change is live, and what the
// edge takes.
func (b *bench) manyRoutes(ctx context.Context, edge string, _ *v1alpha1.Application, r *v1alpha1.Route) error {
	hub := b.Clusters[journey.Hub]
	third := &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Name: "third", Namespace: tenant}, Spec: v1alpha1.PartitionSpec{Cluster: journey.Beijing}}
	if err := hub.Create(ctx, third); err != nil {
		return fmt.Errorf("creating a partition: %w", err)
	}
	if err := b.ready(ctx, third, &third.Status.Conditions); err != nil {
		return err
	}
	before := costs(b.dir)
	began := time.Now()
	var last *v1alpha1.Route
	for i := range shops {
		a := application(fmt.Sprintf("shop-%d", i), "1", "none", 0, v1alpha1.PlacementDuplicated)
		a.Spec.Placement.Partitions = append(a.Spec.Placement.Partitions, v1alpha1.PartitionChoice{Name: third.Name})
		if err := hub.Create(ctx, a); err != nil {
			return fmt.Errorf("creating an application: %w", err)
		}
		last = routeTo(a.Name, a.Name+".bench.example.com", a.Name, a.Name)
		last.Spec.Health = &v1alpha1.RouteHealth{Interval: &metav1.Duration{Duration: time.Minute}}
		if err := hub.Create(ctx, last); err != nil {
			return fmt.Errorf("creating a route: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	if err := b.readyAgain(ctx, last); err != nil {
		return err
	}
	figure(fmt.Sprintf("%d applications in 3 partitions, with routes", shops), "served everywhere after %.1f s", time.Since(began).Seconds())
	l := load.Start(ctx, load.Config{Address: edge, Host: shopHost, Rate: releaseRate})
	defer l.Stop()
	var seen, confirmed []time.Duration
	for i := range changesOfWeight {
		component := []string{"blue", "red"}[i%2]
		former := r.DeepCopy()
		r.Spec.Rules[0].Backends[0].Component = component
		if err := hub.Patch(ctx, r, client.MergeFrom(former)); err != nil {
			return fmt.Errorf("changing the route: %w", err)
		}
		changed := time.Now()
		first, err := firstOf(ctx, l, changed, map[string]string{"blue": "blue-1", "red": "red-canary"}[component])
		if err != nil {
			return err
		}
		seen = append(seen, first.Sub(changed))
		if err := b.readyAgain(ctx, r); err != nil {
			return err
		}
		confirmed = append(confirmed, time.Since(changed))
	}
	spread("one route changed until a user's request sees it", seen)
	spread("and until every gateway and edge confirm it", confirmed)
	after := costs(b.dir)
	for _, name := range []string{"haproxy", "traefik", "yunfan edge", "yunfan server"} {
		figure("memory of "+name, "%d MiB, before %d MiB", after[name].pss>>10, before[name].pss>>10)
	}
	return nil
}

// partitions moves all requests from one partition to the other, which is the edge's work alone.
func (b *bench) partitions(ctx context.Context, l *load.Load, r *v1alpha1.Route) error {
	var seen []time.Duration
	for i := range changesOfWeight {
		open, closed := members[i%2], members[(i+1)%2]
		former := r.DeepCopy()
		r.Spec.Partitions = []v1alpha1.RoutePartition{{Name: closed, Closed: true}}
		if err := b.Clusters[journey.Hub].Patch(ctx, r, client.MergeFrom(former)); err != nil {
			return fmt.Errorf("changing the route: %w", err)
		}
		changed := time.Now()
		if err := b.readyAgain(ctx, r); err != nil {
			return err
		}
		last, _ := l.Report().Last(func(a load.Answer) bool { return a.Who.Partition == tenant+"-"+closed })
		seen = append(seen, max(last.At.Sub(changed), 0))
		if at, ok := l.Report().First(changed, func(a load.Answer) bool { return a.Who.Partition == tenant+"-"+open }); !ok {
			return fmt.Errorf("partition %s does not answer at %s", open, at.At)
		}
	}
	spread("partition closed until the last request goes there", seen)
	former := r.DeepCopy()
	r.Spec.Partitions = nil
	if err := b.Clusters[journey.Hub].Patch(ctx, r, client.MergeFrom(former)); err != nil {
		return fmt.Errorf("changing the route: %w", err)
	}
	return b.readyAgain(ctx, r)
}

// gatewayAlone changes an object of the gateway itself, in one member: what it needs without the platform.
func (b *bench) gatewayAlone(ctx context.Context) error {
	const host = "alone.bench.example.com"
	c := b.Clusters[journey.Shanghai]
	var nodes corev1.NodeList
	if err := c.List(ctx, &nodes); err != nil {
		return fmt.Errorf("listing nodes: %w", err)
	}
	address := ""
	for _, a := range nodes.Items[0].Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			address = net.JoinHostPort(a.Address, "30080")
		}
	}
	spec := func(service string) map[string]any {
		return map[string]any{
			"parentRefs": []any{map[string]any{"name": "yunfan", "namespace": "yunfan-gateway"}}, "hostnames": []any{host},
			"rules": []any{map[string]any{"backendRefs": []any{map[string]any{"name": service, "port": int64(8080)}}}},
		}
	}
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
		"metadata": map[string]any{"name": "alone", "namespace": tenant + "-" + journey.Shanghai}, "spec": spec("red"),
	}}
	if err := c.Create(ctx, object); err != nil {
		return fmt.Errorf("creating an object of the gateway: %w", err)
	}
	l := load.Start(ctx, load.Config{Address: address, Host: host, Rate: releaseRate, Kinds: []load.Kind{{Name: "kept", Share: 1}}})
	defer l.Stop()
	if _, err := firstOf(ctx, l, time.Now(), "red-1"); err != nil {
		return err
	}
	var seen []time.Duration
	for i := range changesOfWeight {
		service := []string{"blue", "red"}[i%2]
		former := object.DeepCopy()
		object.Object["spec"] = spec(service)
		if err := c.Patch(ctx, object, client.MergeFrom(former)); err != nil {
			return fmt.Errorf("changing an object of the gateway: %w", err)
		}
		changed := time.Now()
		first, err := firstOf(ctx, l, changed, service+"-1")
		if err != nil {
			return err
		}
		seen = append(seen, first.Sub(changed))
	}
	spread("the gateway alone: object changed until a request sees it", seen)
	return client.IgnoreNotFound(c.Delete(ctx, object))
}
