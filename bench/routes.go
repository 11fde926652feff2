//go:build e2e

package main

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
