//go:build e2e

package journey

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/load"
)

const (
	// usersPerSecond is the constant load under which things are released.
	usersPerSecond = 200
	// baseline is how long users come before anything is done, and after it.
	baseline        = 2 * time.Second
	versionVariable = "ECHO_VERSION"
)

// Shop is an application in three partitions of two clusters, with a Route that leads to it.
type Shop struct {
	*Journey

	App   *v1alpha1.Application
	Route *v1alpha1.Route
	Host  string
}

// Shop makes the tenant's partitions bj1 and bj2 in Beijing and sh in Shanghai, the application web in each of them with
// a route to it, and waits until users are answered by all three.
func (j *Journey) Shop(replicas int32, changes ...Change) *Shop {
	j.Helper()
	for name, cluster := range map[string]string{"bj1": Beijing, "bj2": Beijing, "sh": Shanghai} {
		p := &v1alpha1.Partition{ObjectMeta: Named(j.Tenant, name), Spec: v1alpha1.PartitionSpec{Cluster: cluster}}
		j.Create(p)
	}
	s := &Shop{Journey: j, Host: j.Tenant + ".example.com"}
	s.App = j.Application("web", In("bj1", "bj2", "sh"), Users("web", "v1", append([]Change{Replicas(replicas)}, changes...)...))
	s.Route = j.RouteTo("web", s.Host, "web", "web", func(r *v1alpha1.RouteSpec) {
		// Probes that are late because the machine is busy close no partition.
		r.Health = &v1alpha1.RouteHealth{Path: "/readyz", Failures: 10}
	})
	j.Ready(s.App)
	j.RouteReady(s.Route)
	l := s.Load(0)
	defer l.Stop()
	j.Eventually(func() int {
		for range 10 {
			l.Do(load.Kind{NewConnection: true})
		}
		return len(l.Report().Partitions(time.Time{}, time.Time{}))
	}).WithTimeout(time.Minute).Should(gomega.Equal(3), "users reach all partitions")
	return s
}

// Users is a component that tells its version and its partition with each answer.
func Users(name, version string, changes ...Change) v1alpha1.Component {
	c := Echo(name, append([]Change{Env(versionVariable, version), Readiness("/readyz"), func(c *v1alpha1.Component, main *corev1.Container) {
		// Requests of two seconds are to end in peace.
		c.Template.Spec.TerminationGracePeriodSeconds = new(int64(10))
		main.ReadinessProbe.TimeoutSeconds, main.ReadinessProbe.FailureThreshold = 10, 3 // the machine may be busy
		main.Env = append(main.Env, corev1.EnvVar{Name: "ECHO_PARTITION", ValueFrom: &corev1.EnvVarSource{
			FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"},
		}})
	}}, changes...)...)
	return c
}

// RouteTo creates a route that leads everything of a host to a component.
func (j *Journey) RouteTo(name, host, application, component string, change ...func(*v1alpha1.RouteSpec)) *v1alpha1.Route {
	j.Helper()
	r := &v1alpha1.Route{ObjectMeta: Named(j.Tenant, name), Spec: v1alpha1.RouteSpec{
		Rules: []v1alpha1.RouteRule{{Name: "all", Backends: []v1alpha1.RouteBackend{{Application: application, Component: component}}}},
	}}
	if host != "" {
		r.Spec.Hosts = []string{host}
	}
	for _, c := range change {
		c(&r.Spec)
	}
	j.Create(r)
	return r
}

// RouteReady waits until every edge and every gateway serves a route as it is.
func (j *Journey) RouteReady(r *v1alpha1.Route) {
	j.Helper()
	j.Eventually(j.Condition(r, v1alpha1.ConditionReady)).Should(gomega.HavePrefix("True"))
}

// EdgeAddress is where users reach the edge, by scheme: http or https.
func (j *Journey) EdgeAddress(scheme string) string {
	j.Helper()
	address, err := j.World.Edge(j.ctx, scheme)
	if err != nil {
		j.Fatal(err)
	}
	return address
}

// Edge is where users reach the edge, as host and port, by scheme: http or https.
func (w *World) Edge(ctx context.Context, scheme string) (string, error) {
	var edges v1alpha1.EdgeList
	if err := w.Clusters[Hub].List(ctx, &edges); err != nil {
		return "", fmt.Errorf("listing edges: %w", err)
	}
	for _, e := range edges.Items {
		for _, address := range e.Spec.Addresses {
			u, err := url.Parse(address)
			if err != nil || u.Scheme != scheme {
				continue
			}
			if u.Port() != "" {
				return u.Host, nil
			}
			return net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[scheme]), nil
		}
	}
	return "", fmt.Errorf("no edge has an address for %s", scheme)
}

// Load asks for pages of a host through the edge; see load.Start.
func (j *Journey) Load(host string, rate int, change ...func(*load.Config)) *load.Load {
	j.Helper()
	c := load.Config{Address: j.EdgeAddress("http"), Host: host, Rate: rate}
	for _, f := range change {
		f(&c)
	}
	return load.Start(context.WithoutCancel(j.ctx), c)
}

// Load of the shop's host.
func (s *Shop) Load(rate int, change ...func(*load.Config)) *load.Load {
	s.Helper()
	return s.Journey.Load(s.Host, rate, change...)
}

// UnderLoad does something while users come, and gives what they saw. What the events tell stands beside failures.
func (s *Shop) UnderLoad(do func(l *load.Load), change ...func(*load.Config)) *load.Report {
	s.Helper()
	l := s.Load(usersPerSecond, change...)
	stopped := false
	s.Cleanup(func() {
		if !stopped { // the test has ended in the middle
			report := l.Stop()
			s.Logf("%s\n%s", report, report.Timeline())
		}
	})
	s.Wait(baseline)
	begun := time.Now()
	do(l)
	l.Note("done after %s", time.Since(begun).Round(time.Second/10))
	s.Wait(baseline)
	stopped = true
	report := l.Stop()
	s.Logf("%s", report)
	if rate := float64(report.Asked) / report.Took.Seconds(); rate < usersPerSecond*0.8 {
		s.Errorf("only %.0f requests a second were made, which proves little", rate)
	}
	return report
}

// Wait lets time pass.
func (j *Journey) Wait(d time.Duration) {
	j.Helper()
	select {
	case <-time.After(d):
	case <-j.ctx.Done():
		j.Fatal(j.ctx.Err())
	}
}

// NoneLost fails the test if a request has, and lays the failures beside what was done at that time.
func (j *Journey) NoneLost(report *load.Report, events ...load.Event) {
	j.Helper()
	if report.Failed > 0 {
		j.Errorf("%d of %d requests failed:\n%s", report.Failed, report.Asked, report.Timeline(events...))
	}
}

// PartitionOf is the name of the partition that an answer came from.
func (s *Shop) PartitionOf(namespace string) string {
	return strings.TrimPrefix(namespace, s.Tenant+"-")
}

// In is the same shop for a part of the test.
func (s *Shop) In(t *testing.T) *Shop {
	t.Helper()
	sub := *s.Journey
	sub.T, sub.ctx, sub.Gomega = t, t.Context(), patient(t)
	return &Shop{Journey: &sub, App: s.App, Route: s.Route, Host: s.Host}
}
