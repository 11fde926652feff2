//go:build e2e

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
	"yunfan.io/yunfan/e2e/load"
)

const (
	shopHost = "shop.bench.example.com"
	// releaseRate of requests a second while something is changed.
	releaseRate = 200
	// changesOfWeight is how many times the weights of a route are changed.
	changesOfWeight = 10
	// latencyTime is how long each way to the pod is measured, and latencyRate the requests a second.
	latencyTime = 15 * time.Second
	latencyRate = 300
	shopPort    = int32(30777)
)

// release measures what routes and rollouts cost: what edge and gateway add to a request, and how soon a change is seen
// by users.
func (b *bench) release(ctx context.Context) error {
	a := b.shop()
	if err := b.Clusters[journey.Hub].Create(ctx, a); err != nil {
		return fmt.Errorf("creating the shop: %w", err)
	}
	if err := b.ready(ctx, a, &a.Status.Conditions); err != nil {
		return err
	}
	r := routeTo("shop", shopHost, a.Name, "red")
	if err := b.Clusters[journey.Hub].Create(ctx, r); err != nil {
		return fmt.Errorf("creating the route: %w", err)
	}
	if err := b.ready(ctx, r, &r.Status.Conditions); err != nil {
		return err
	}
	edge, err := b.Edge(ctx, "http")
	if err != nil {
		return err
	}
	for _, part := range []func(context.Context, string, *v1alpha1.Application, *v1alpha1.Route) error{
		b.latency, b.weights, b.switches, b.manyRoutes,
	} {
		if err := part(ctx, edge, a, r); err != nil {
			return err
		}
	}
	return nil
}

// shop is an application with two components of one pod each, in both partitions.
func (b *bench) shop() *v1alpha1.Application {
	a := &v1alpha1.Application{
		ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: tenant},
		Spec: v1alpha1.ApplicationSpec{Version: "v1", Components: []v1alpha1.Component{
			journey.Users("red", "red-1", journey.NodePort(shopPort)), journey.Users("blue", "blue-1"),
		}},
	}
	for _, member := range members {
		a.Spec.Placement.Partitions = append(a.Spec.Placement.Partitions, v1alpha1.PartitionChoice{Name: member})
	}
	return a
}

func routeTo(name, host, application, component string) *v1alpha1.Route {
	return &v1alpha1.Route{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: tenant},
		Spec: v1alpha1.RouteSpec{Hosts: []string{host}, Rules: []v1alpha1.RouteRule{{
			Name: "all", Backends: []v1alpha1.RouteBackend{{Application: application, Component: component}},
		}}},
	}
}

// latency compares the way over edge and gateway with that straight to the pod through a port of its node, both in turns.
func (b *bench) latency(ctx context.Context, edge string, _ *v1alpha1.Application, _ *v1alpha1.Route) error {
	var nodes corev1.NodeList
	if err := b.Clusters[journey.Shanghai].List(ctx, &nodes); err != nil {
		return fmt.Errorf("listing nodes: %w", err)
	}
	direct := ""
	for _, address := range nodes.Items[0].Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			direct = net.JoinHostPort(address.Address, strconv.Itoa(int(shopPort)))
		}
	}
	// Isolated partitions let the gateway in, and not this machine.
	if err := b.public(ctx); err != nil {
		return err
	}
	for _, kind := range []load.Kind{{Name: "kept connections"}, {Name: "new connections", NewConnection: true}} {
		kind.Share = 1
		var took [2][]time.Duration
		var cpu float64
		requests := 0
		for i, address := range []string{direct, edge} {
			before := costs(b.dir)
			l := load.Start(ctx, load.Config{Address: address, Host: shopHost, Rate: latencyRate, Kinds: []load.Kind{kind}})
			if err := wait(ctx, latencyTime); err != nil {
				return err
			}
			report := l.Stop()
			if report.Failed > 0 {
				return fmt.Errorf("%s: %s\n%s", address, report, report.Timeline())
			}
			for _, a := range report.Answers {
				took[i] = append(took[i], a.Took)
			}
			slices.Sort(took[i])
			if address == edge {
				cpu, requests = carriers(before, costs(b.dir)), report.Asked
			}
		}
		figure(kind.Name, "direct P50 %.2f ms, P99 %.2f ms; edge and gateway P50 %.2f ms, P99 %.2f ms; added P50 %.2f ms; CPU of both %.2f ms a request",
			quantile(took[0], 0.5), quantile(took[0], 0.99), quantile(took[1], 0.5), quantile(took[1], 0.99),
			quantile(took[1], 0.5)-quantile(took[0], 0.5), 1000*cpu/float64(requests))
	}
	return nil
}

// carriers is the CPU time, in seconds, of the programs that carry requests.
func carriers(before, after map[string]cost) (cpu float64) {
	for _, name := range []string{"haproxy", "traefik"} {
		cpu += after[name].cpu - before[name].cpu
	}
	return cpu
}

// public lets this machine reach the pods of the partitions.
func (b *bench) public(ctx context.Context) error {
	hub := b.Clusters[journey.Hub]
	for _, member := range members {
		p := &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Name: member, Namespace: tenant}}
		if err := hub.Get(ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		before := p.DeepCopy()
		journey.Public(&p.Spec)
		if err := hub.Patch(ctx, p, client.MergeFrom(before)); err != nil {
			return fmt.Errorf("opening a partition: %w", err)
		}
	}
	return wait(ctx, settle)
}

// weights changes the weights of a route, and tells when the first answer of the other component comes; beside it, what
// the gateway needs by itself.
func (b *bench) weights(ctx context.Context, edge string, _ *v1alpha1.Application, r *v1alpha1.Route) error {
	hub := b.Clusters[journey.Hub]
	l := load.Start(ctx, load.Config{Address: edge, Host: shopHost, Rate: releaseRate})
	defer l.Stop()
	var seen, confirmed []time.Duration
	for i := range changesOfWeight {
		component := []string{"blue", "red"}[i%2]
		before := r.DeepCopy()
		r.Spec.Rules[0].Backends[0].Component = component
		if err := hub.Patch(ctx, r, client.MergeFrom(before)); err != nil {
			return fmt.Errorf("changing the route: %w", err)
		}
		changed := time.Now()
		first, err := firstOf(ctx, l, changed, component+"-1")
		if err != nil {
			return err
		}
		seen = append(seen, first.Sub(changed))
		if err := b.readyAgain(ctx, r); err != nil {
			return err
		}
		confirmed = append(confirmed, time.Since(changed))
	}
	spread("route changed until a user's request sees it", seen)
	spread("and until every gateway and edge confirm it", confirmed)
	if report := l.Report(); report.Failed > 0 {
		figure("requests lost meanwhile", "%d of %d\n%s", report.Failed, report.Asked, report.Timeline())
	}
	if err := b.partitions(ctx, l, r); err != nil {
		return err
	}
	return b.gatewayAlone(ctx)
}

// firstOf waits for the first answer of a version to a request that was sent after a time, and gives when that was sent.
func firstOf(ctx context.Context, l *load.Load, after time.Time, version string) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if first, ok := l.Report().First(after, func(a load.Answer) bool { return a.Who.Version == version }); ok {
			return first.At, nil
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return time.Time{}, fmt.Errorf("waiting for an answer of %s: %w", version, err)
		}
	}
}

// readyAgain waits until an object is ready at its newest generation.
func (b *bench) readyAgain(ctx context.Context, r *v1alpha1.Route) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if err := b.Clusters[journey.Hub].Get(ctx, client.ObjectKeyFromObject(r), r); err != nil {
			return err
		}
		for _, c := range r.Status.Conditions {
			if c.Type == v1alpha1.ConditionReady && c.Status == metav1.ConditionTrue && c.ObservedGeneration == r.Generation {
				return nil
			}
		}
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return errors.Join(fmt.Errorf("waiting for route %s: %+v", r.Name, r.Status.Conditions), err)
		}
	}
}

// change gives the shop another version by a strategy, and waits until its rollout is there.
func (b *bench) change(ctx context.Context, a *v1alpha1.Application, version string, strategy v1alpha1.Strategy) (*v1alpha1.Rollout, error) {
	hub := b.Clusters[journey.Hub]
	if err := hub.Get(ctx, client.ObjectKeyFromObject(a), a); err != nil {
		return nil, err
	}
	before, last := a.DeepCopy(), a.Status.Rollout
	a.Spec.Version, a.Spec.Strategy = version, strategy
	journey.SetVersion(&a.Spec.Components[0], "red-"+version)
	if err := hub.Patch(ctx, a, client.MergeFrom(before)); err != nil {
		return nil, fmt.Errorf("changing the shop: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for a.Status.Rollout == last {
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return nil, fmt.Errorf("waiting for a rollout: %w; %+v", err, a.Status.Conditions)
		}
		if err := hub.Get(ctx, client.ObjectKeyFromObject(a), a); err != nil {
			return nil, err
		}
	}
	return &v1alpha1.Rollout{ObjectMeta: metav1.ObjectMeta{Name: a.Status.Rollout, Namespace: tenant}}, nil
}

// until waits for a state of a rollout.
func (b *bench) until(ctx context.Context, r *v1alpha1.Rollout, what string, is func(*v1alpha1.Rollout) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := b.Clusters[journey.Hub].Get(ctx, client.ObjectKeyFromObject(r), r)
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		if err == nil && is(r) {
			return nil
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("waiting until rollout %s %s: %w; %s %s", r.Name, what, err, r.Status.Phase, r.Status.Message)
		}
	}
}

// switches measures a canary step and a blue/green switch, there and back, as users see them.
func (b *bench) switches(ctx context.Context, edge string, a *v1alpha1.Application, _ *v1alpha1.Route) error {
	hold := &metav1.Duration{Duration: time.Second}
	ended := func(r *v1alpha1.Rollout) bool { return r.Status.Phase.Ended() }
	l := load.Start(ctx, load.Config{Address: edge, Host: shopHost, Rate: releaseRate})
	defer l.Stop()
	r, err := b.change(ctx, a, "canary", v1alpha1.Strategy{Type: v1alpha1.StrategyCanary, Canary: &v1alpha1.CanaryStrategy{
		Steps: []v1alpha1.CanaryStep{{Weight: 0, Hold: hold}, {Weight: 50, Hold: hold}, {Weight: 100, Hold: hold}},
	}})
	if err != nil {
		return err
	}
	if err := b.until(ctx, r, "ends", ended); err != nil {
		return err
	}
	if err := b.steps(ctx, r, l); err != nil {
		return err
	}
	began := time.Now()
	r, err = b.change(ctx, a, "green", v1alpha1.Strategy{Type: v1alpha1.StrategyBlueGreen, BlueGreen: &v1alpha1.BlueGreenStrategy{Keep: &metav1.Duration{Duration: time.Hour}}})
	if err != nil {
		return err
	}
	first, err := firstOf(ctx, l, began, "red-green")
	if err != nil {
		return err
	}
	if err := wait(ctx, 5*time.Second); err != nil {
		return err
	}
	last, _ := l.Report().Last(func(a load.Answer) bool { return a.Who.Version == "red-canary" })
	figure("blue/green switch", "both versions answer for %.2f s", last.At.Sub(first).Seconds())
	run := &v1alpha1.WorkflowRun{ObjectMeta: metav1.ObjectMeta{Name: r.Name, Namespace: tenant}}
	if err := b.until(ctx, r, "has a run", func(r *v1alpha1.Rollout) bool { return r.Status.Run != "" }); err != nil {
		return err
	}
	run.Name = r.Status.Run
	if err := b.Clusters[journey.Hub].Patch(ctx, run, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"aborted":true}}`))); err != nil {
		return fmt.Errorf("aborting the rollout: %w", err)
	}
	aborted := time.Now()
	if err := b.until(ctx, r, "ends", ended); err != nil {
		return err
	}
	last, _ = l.Report().Last(func(a load.Answer) bool { return a.Who.Version == "red-green" })
	figure("and back, asked until the last answer of green", "%.2f s", last.At.Sub(aborted).Seconds())
	report := l.Report()
	figure("requests meanwhile", "%d, %d lost", report.Asked, report.Failed)
	return nil
}

// steps tells how long the steps of a canary took, and when users saw the first of them.
func (b *bench) steps(ctx context.Context, r *v1alpha1.Rollout, l *load.Load) error {
	run := &v1alpha1.WorkflowRun{}
	if err := b.Clusters[journey.Hub].Get(ctx, client.ObjectKey{Namespace: tenant, Name: r.Status.Run}, run); err != nil {
		return fmt.Errorf("reading the run: %w", err)
	}
	first, _ := l.Report().First(r.Status.StartTime.Time, func(a load.Answer) bool { return a.Who.Version == "red-canary" })
	for _, s := range run.Status.Steps {
		if s.StartTime == nil || s.FinishTime == nil {
			continue
		}
		seen := ""
		if !first.At.Before(s.StartTime.Time) && first.At.Before(s.FinishTime.Time) {
			seen = fmt.Sprintf("; a user's request sees it after %.2f s", first.At.Sub(s.StartTime.Time).Seconds())
		}
		figure("canary, step "+s.Name, "%.2f s%s", s.FinishTime.Sub(s.StartTime.Time).Seconds(), seen)
	}
	return nil
}
