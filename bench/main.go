//go:build e2e

// Command bench measures an instance of its own, in one run: how soon its clusters are ready, how soon changes reach
// the members, how 100 applications and 100 pods compare with plain kubectl, what everything costs when idle, what going
// through the platform adds to a request, what many tenants with many users cost, what many workflow runs, and what
// routes and rollouts. The parts named as arguments (idle, changes, applications, audit, pods, through, tenants, workflows,
// release, conformance), or all.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"yunfan.io/yunfan/e2e/journey"
)

// many is how many changes, applications and pods are measured.
const many = 100

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	heading("Start")
	start := time.Now()
	instance, err := journey.Start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, instance.Stop()) }()
	// Watches end before the clusters do: afterwards their addresses lead elsewhere.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	figure("engine, hub and registry up", "%.1f s", time.Since(start).Seconds())
	world, err := journey.Open(ctx, instance)
	if err != nil {
		return err
	}
	figure("both members joined and Ready", "%.1f s", time.Since(start).Seconds())

	b := &bench{World: world, dir: instance.DataDir}
	if err := b.prepare(ctx); err != nil {
		return fmt.Errorf("preparing: %w", err)
	}
	for _, part := range []struct {
		name, title string
		run         func(context.Context) error
	}{
		{"idle", "Idle, 60 s, no application", b.idle},
		{"changes", "One application at a time, no pods: sent to the hub until the last member holds every object", b.oneAtATime},
		{"applications", fmt.Sprintf("%d applications at once, no pods, two members", many), b.atOnce},
		{"audit", "Audit: rows a second on this disk, and what one adds to a write", b.audit},
		{"pods", fmt.Sprintf("%d pods over two members, kubectl apply until all are Ready, images pulled cold", many), b.pods},
		{"through", "Through the platform, against going to the API server directly", b.through},
		{"tenants", fmt.Sprintf("%d tenants with %d partitions and %d users each", manyTenants, len(members), usersPerTenant), b.tenants},
		{"workflows", fmt.Sprintf("%d and %d runs of %d steps, and lists of them", fewRuns, manyRuns, stepsOfRun), b.workflows},
		{"release", "Routes and rollouts, two members", b.release},
		{"conformance", "Conformance suite of the Gateway API, against the gateway of a member", b.conformance},
	} {
		if len(os.Args) > 1 && !slices.Contains(os.Args[1:], part.name) {
			continue
		}
		heading(part.title)
		if err := part.run(ctx); err != nil {
			return fmt.Errorf("measuring %q: %w", part.title, err)
		}
	}
	return nil
}

func heading(title string) { fmt.Printf("\n%s\n", title) }

func figure(name, format string, args ...any) {
	fmt.Printf("  %-44s %s\n", name, fmt.Sprintf(format, args...))
}

// spread prints the median, the 99th percentile and the maximum.
func spread(name string, times []time.Duration) {
	slices.Sort(times)
	at := func(percent int) float64 { return times[(len(times)*percent-1)/100].Seconds() }
	figure(name, "P50 %.2f s   P99 %.2f s   max %.2f s   (%d)", at(50), at(99), times[len(times)-1].Seconds(), len(times))
}

// beside prints our time, that of plain kubectl, and the ratio.
func beside(name string, ours, plain time.Duration) {
	figure(name, "%.1f s   plain kubectl %.1f s   ratio %.2f", ours.Seconds(), plain.Seconds(), ours.Seconds()/plain.Seconds())
}
