//go:build e2e

package route_test

import (
	"net"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
	"yunfan.io/yunfan/e2e/load"
)

// site is a tenant with one application of several components in two clusters. Each component answers with its own name
// as its version.
type site struct{ *journey.Journey }

func newSite(t *testing.T, components ...string) *site {
	t.Helper()
	s := &site{journey.Begin(t)}
	s.Partition("bj", journey.Beijing)
	s.Partition("sh", journey.Shanghai)
	var all []v1alpha1.Component
	for _, name := range components {
		all = append(all, journey.Users(name, name, func(c *v1alpha1.Component, _ *corev1.Container) {
			if name == "service1" || name == "service2" {
				c.Service.Ports[0].Port, c.Service.Ports[0].TargetPort = 80, new(intstr.FromString("http"))
			}
		}))
	}
	s.Ready(s.Application("site", journey.In("bj", "sh"), all...))
	return s
}

func (s *site) host(name string) string { return name + "." + s.Tenant + ".example.com" }

// rule leads a path to components of the site, with weights.
func rule(name, path string, backends ...v1alpha1.RouteBackend) v1alpha1.RouteRule {
	r := v1alpha1.RouteRule{Name: name, Backends: backends}
	if path != "" {
		r.Matches = []v1alpha1.RouteMatch{{Path: &v1alpha1.PathMatch{Type: v1alpha1.MatchPrefix, Value: path}}}
	}
	return r
}

func to(component string) v1alpha1.RouteBackend {
	return v1alpha1.RouteBackend{Application: "site", Component: component}
}

func part(component string, weight int32) v1alpha1.RouteBackend {
	return v1alpha1.RouteBackend{Application: "site", Component: component, Weight: &weight}
}

// route creates one and waits until it is served.
func (s *site) route(name string, hosts []string, rules []v1alpha1.RouteRule, change ...func(*v1alpha1.RouteSpec)) *v1alpha1.Route {
	s.Helper()
	r := &v1alpha1.Route{ObjectMeta: journey.Named(s.Tenant, name), Spec: v1alpha1.RouteSpec{Hosts: hosts, Rules: rules}}
	for _, f := range change {
		f(&r.Spec)
	}
	s.Create(r)
	s.RouteReady(r)
	return r
}

// change a route and wait until that is served.
func (s *site) change(r *v1alpha1.Route, f func(*v1alpha1.RouteSpec)) {
	s.Helper()
	s.Update(r, func() { f(&r.Spec) })
	s.RouteReady(r)
}

// ask once, with a connection of its own.
func (s *site) ask(host string, k load.Kind) load.Answer {
	s.Helper()
	l := s.Load(host, 0)
	defer l.Stop()
	k.NewConnection = true
	return l.Do(k)
}

// gets proves which component answers a path.
func (s *site) gets(host, path, component string) {
	s.Helper()
	for range 4 {
		a := s.ask(host, load.Kind{Path: path})
		s.Expect(a.Error).To(BeEmpty(), "%s%s", host, path)
		s.Expect(a.Who.Version).To(Equal(component), "%s%s of %s", host, path, a.Who.Partition)
	}
}

// TestING01_FourKindsOfRules answers the four samples of EX-06 from the backends that they name.
func TestING01_FourKindsOfRules(t *testing.T) {
	s := newSite(t, "api", "web", "doc", "webapp", "service1", "service2")
	t.Run("ING-01 one host, several paths to different services", func(t *testing.T) {
		host := s.host("mywebsite")
		s.route("paths", []string{host}, []v1alpha1.RouteRule{rule("api", "/api", to("api")), rule("web", "/web", to("web")), rule("doc", "/doc", to("doc"))})
		s.gets(host, "/api", "api")
		s.gets(host, "/api/v1/users?x=y", "api")
		s.gets(host, "/web/", "web")
		s.gets(host, "/doc/index.html", "doc")
		s.Expect(s.ask(host, load.Kind{Path: "/other"}).Status).To(Equal(404))
		s.Expect(s.ask(host, load.Kind{Path: "/apis"}).Status).To(Equal(404), "a prefix goes by whole segments")
	})
	t.Run("ING-01 everything to one backend", func(t *testing.T) {
		host := s.host("single")
		s.route("single", []string{host}, []v1alpha1.RouteRule{rule("all", "", to("webapp"))})
		s.gets(host, "/", "webapp")
		s.gets(host, "/a/b/c", "webapp")
	})
	t.Run("ING-01 several hosts to different services", func(t *testing.T) {
		foo, bar := s.host("foo.bar"), s.host("bar.foo")
		s.route("foo", []string{foo}, []v1alpha1.RouteRule{rule("all", "", to("service1"))})
		s.route("bar", []string{bar}, []v1alpha1.RouteRule{rule("all", "", to("service2"))})
		s.gets(foo, "/", "service1")
		s.gets(bar, "/", "service2")
		s.Expect(s.ask(s.host("nobody"), load.Kind{}).Status).To(Or(Equal(404), Equal(503)))
	})
	t.Run("ING-01 without a host: https unless plain HTTP is switched on", func(t *testing.T) {
		r := s.route("any", nil, []v1alpha1.RouteRule{rule("demo", "/demo", to("webapp"))})
		anywhere, _, err := net.SplitHostPort(s.EdgeAddress("http"))
		s.Expect(err).NotTo(HaveOccurred())
		s.Expect(s.ask(anywhere, load.Kind{Path: "/demo"}).Status).To(BeElementOf(301, 302, 307, 308))
		s.change(r, func(spec *v1alpha1.RouteSpec) { spec.PlainHTTP = v1alpha1.PlainHTTPServe })
		s.gets(anywhere, "/demo", "webapp")
		s.gets("whatever.example.net", "/demo/x", "webapp")
		s.gets(s.host("single"), "/demo", "webapp")
		s.Expect(s.Hub().Delete(s.Context(), r)).To(Succeed())
	})
}

// TestING03_RulesUnderLoad adds and removes rules while users come, and scales: nothing is lost.
func TestING03_RulesUnderLoad(t *testing.T) {
	s := journey.Begin(t).Shop(1)
	report := s.UnderLoad(func(l *load.Load) {
		for _, path := range []string{"/one", "/two", "/three"} {
			s.Update(s.Route, func() {
				r := rule("r"+path[1:], path, v1alpha1.RouteBackend{Application: "web", Component: "web"})
				r.RequestHeaders = &v1alpha1.HeaderChange{Set: map[string]string{"X-Rule": path}}
				s.Route.Spec.Rules = append(s.Route.Spec.Rules, r)
			})
			began := time.Now()
			s.RouteReady(s.Route)
			l.Note("%s is served everywhere after %s", path, time.Since(began))
		}
		s.Update(s.Route, func() { s.Route.Spec.Rules = s.Route.Spec.Rules[:1] })
		s.RouteReady(s.Route)
		other := s.RouteTo("other", "other."+s.Host, "web", "web")
		s.RouteReady(other)
		s.Expect(s.Hub().Delete(s.Context(), other)).To(Succeed())
		l.Note("another route is gone")
	})
	s.NoneLost(report)

	t.Run("ING-03 scaling from 1 to 3 spreads, back loses nothing", func(t *testing.T) {
		report := s.UnderLoad(func(l *load.Load) {
			s.Update(s.App, func() { s.App.Spec.Components[0].Replicas = new(int32(3)) })
			s.Ready(s.App)
			l.Note("scaled to 3")
			s.Eventually(func() int { return len(l.Report().Pods(time.Now().Add(-2*time.Second), time.Time{})) }).Should(Equal(9), "three pods in each of three partitions answer")
			s.Update(s.App, func() { s.App.Spec.Components[0].Replicas = new(int32(1)) })
			s.Ready(s.App)
			l.Note("scaled to 1")
			s.Eventually(func() int { return len(l.Report().Pods(time.Now().Add(-2*time.Second), time.Time{})) }).Should(Equal(3))
		})
		s.NoneLost(report)
	})
	t.Run("REL-07 a partition is closed and opened by hand", func(t *testing.T) {
		report := s.UnderLoad(func(l *load.Load) {
			s.Update(s.Route, func() { s.Route.Spec.Partitions = []v1alpha1.RoutePartition{{Name: "bj1", Closed: true}} })
			s.RouteReady(s.Route)
			closed := time.Now()
			l.Note("bj1 is closed")
			s.Wait(3 * time.Second)
			s.Expect(l.Report().Partitions(closed, time.Time{})).NotTo(HaveKey(s.Tenant + "-bj1"))
			s.Expect(s.Get(s.Route)).To(Succeed())
			for _, p := range s.Route.Status.Partitions {
				s.Expect(p.State).To(Equal(map[string]v1alpha1.TrafficState{"bj1": v1alpha1.TrafficClosed, "bj2": v1alpha1.TrafficOpen, "sh": v1alpha1.TrafficOpen}[p.Partition]))
			}
			s.Update(s.Route, func() { s.Route.Spec.Partitions = nil })
			s.RouteReady(s.Route)
			l.Note("bj1 is open")
			s.Eventually(func() map[string]int {
				return l.Report().Partitions(time.Now().Add(-time.Second), time.Time{})
			}).Should(HaveKey(s.Tenant + "-bj1"))
		})
		s.NoneLost(report)
	})
}

// TestTrafficReady cuts a member off: the edge closes its partition by itself, users get answers of the others, and when
// it is back it gets its share again.
func TestTrafficReady(t *testing.T) {
	s := journey.Begin(t).Shop(1)
	s.Update(s.Route, func() {
		s.Route.Spec.Retries = 2
		s.Route.Spec.Health = &v1alpha1.RouteHealth{Interval: &metav1.Duration{Duration: 500 * time.Millisecond}}
	})
	s.RouteReady(s.Route)
	partition := &v1alpha1.Partition{ObjectMeta: journey.Named(s.Tenant, "sh")}
	s.Eventually(s.Condition(partition, v1alpha1.ConditionTrafficReady)).Should(HavePrefix("True"))
	var lost time.Time
	report := s.UnderLoad(func(l *load.Load) {
		s.Drill("isolate", journey.Shanghai)
		lost = time.Now()
		heal := s.Heal("heal", journey.Shanghai)
		l.Note("Shanghai is cut off")
		s.Eventually(s.Condition(partition, v1alpha1.ConditionTrafficReady)).WithTimeout(time.Minute).Should(HavePrefix("False"))
		s.Logf("TrafficReady was False after %s", time.Since(lost).Round(100*time.Millisecond))
		l.Note("TrafficReady is False")
		closed := time.Now()
		s.Wait(3 * time.Second)
		s.Expect(l.Report().Partitions(closed, time.Time{})).NotTo(HaveKey(s.Tenant + "-sh"))
		heal()
		s.Eventually(s.Condition(partition, v1alpha1.ConditionTrafficReady)).Should(HavePrefix("True"))
		s.Eventually(func() map[string]int {
			return l.Report().Partitions(time.Now().Add(-time.Second), time.Time{})
		}).Should(HaveKey(s.Tenant + "-sh"))
	})
	for _, f := range report.Failures {
		if f.At.After(lost.Add(10 * time.Second)) {
			s.Errorf("a request of %s, long after the member was lost, failed: %s", f.At, f.Error)
		}
	}
	s.Logf("%d of %d requests were lost with the member", report.Failed, report.Asked)
	s.Expect(report.Failed).To(BeNumerically("<", report.Asked/20))
}
