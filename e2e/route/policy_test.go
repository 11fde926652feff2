//go:build e2e

package route_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
	"yunfan.io/yunfan/e2e/load"
)

// many asks fast, without errors, and gives the answers by version.
func (s *site) many(host string, requests int, k load.Kind) map[string]int {
	s.Helper()
	k.Name, k.Share = "kept", 1
	l := s.Load(host, 400, func(c *load.Config) { c.Kinds = []load.Kind{k} })
	s.Eventually(func() int { return l.Report().Asked }).Should(BeNumerically(">=", requests))
	report := l.Stop()
	s.NoneLost(report)
	return report.Versions(time.Time{}, time.Time{})
}

func percent(got map[string]int, version string) float64 {
	all := 0
	for _, n := range got {
		all += n
	}
	return 100 * float64(got[version]) / float64(max(all, 1))
}

// TestMSH_Policies has one application with three versions as components, as EX-11 has them.
func TestMSH_Policies(t *testing.T) {
	s := newSite(t, "reviews-v1", "reviews-v2", "reviews-v3")
	host := s.host("reviews")
	r := s.route("route-to-v2", []string{host}, []v1alpha1.RouteRule{rule("all", "", part("reviews-v2", 100))})
	t.Run("MSH-02 all to one, then 30 and 70; what is not 100 together is refused", func(t *testing.T) {
		s.Expect(s.many(host, 200, load.Kind{})).To(And(HaveLen(1), HaveKey("reviews-v2")))
		s.change(r, func(spec *v1alpha1.RouteSpec) {
			spec.Rules[0].Backends = []v1alpha1.RouteBackend{part("reviews-v1", 30), part("reviews-v2", 70)}
		})
		got := s.many(host, 3000, load.Kind{})
		t.Logf("MSH-02 30/70: %v", got)
		s.Expect(percent(got, "reviews-v1")).To(BeNumerically("~", 30, 3))
		for _, wrong := range [][]v1alpha1.RouteBackend{
			{part("reviews-v1", 30), part("reviews-v2", 60)}, {part("reviews-v1", 100), part("reviews-v2", 100)}, {to("reviews-v1"), to("reviews-v2")},
		} {
			bad := r.DeepCopy()
			bad.Spec.Rules[0].Backends = wrong
			err := s.Hub().Update(s.Context(), bad)
			s.Expect(err).To(MatchError(ContainSubstring("100 together")))
		}
	})
	t.Run("MSH-03 jason gets v2, the others half and half", func(t *testing.T) {
		jason := rule("jason", "", to("reviews-v2"))
		jason.Matches = []v1alpha1.RouteMatch{
			{Headers: []v1alpha1.ValueMatch{{Name: "user", Type: v1alpha1.MatchExact, Value: "jason"}}},
			{Cookies: []v1alpha1.ValueMatch{{Name: "user", Type: v1alpha1.MatchExact, Value: "jason"}}},
		}
		s.change(r, func(spec *v1alpha1.RouteSpec) {
			spec.Rules = []v1alpha1.RouteRule{rule("all", "", part("reviews-v2", 50), part("reviews-v3", 50)), jason}
		})
		got := s.many(host, 3000, load.Kind{})
		t.Logf("MSH-03 50/50: %v", got)
		s.Expect(got).To(HaveLen(2))
		s.Expect(percent(got, "reviews-v2")).To(BeNumerically("~", 50, 3))
		for name, value := range map[string]string{"user": "jason", "Cookie": "user=jason"} {
			s.Expect(s.many(host, 100, load.Kind{Headers: map[string]string{name: value}})).To(And(HaveLen(1), HaveKey("reviews-v2")))
		}
	})
	t.Run("MSH-04 copies go to v3, answers come of v2 only", func(t *testing.T) {
		s.change(r, func(spec *v1alpha1.RouteSpec) {
			spec.Rules = []v1alpha1.RouteRule{rule("all", "", to("reviews-v2"))}
			spec.Rules[0].Mirror = &v1alpha1.RouteMirror{Component: "reviews-v3", Percent: 100}
		})
		got := s.many(host, 200, load.Kind{Path: "/mirrored"})
		s.Expect(got).To(And(HaveLen(1), HaveKey("reviews-v2")))
		s.Eventually(func() int {
			return s.logged(journey.Beijing, "bj", "reviews-v3", "/mirrored") + s.logged(journey.Shanghai, "sh", "reviews-v3", "/mirrored")
		}).WithTimeout(30 * time.Second).Should(BeNumerically(">=", got["reviews-v2"]*9/10))
	})
	t.Run("policies", func(t *testing.T) { policies(t, s, r, host) })
}

// policies of the edge and the gateway, one after the other.
func policies(t *testing.T, s *site, r *v1alpha1.Route, host string) {
	t.Helper()
	t.Run("MSH-05 delay, refusal for chosen users, time-out", func(t *testing.T) {
		s.change(r, func(spec *v1alpha1.RouteSpec) {
			spec.Rules = []v1alpha1.RouteRule{rule("all", "", to("reviews-v2"))}
			spec.Fault = &v1alpha1.RouteFault{Delay: &v1alpha1.FaultDelay{Percent: 100, Duration: metav1.Duration{Duration: 2 * time.Second}}}
		})
		a := s.ask(host, load.Kind{})
		s.Expect(a.Error).To(BeEmpty())
		s.Expect(a.Took).To(BeNumerically("~", 2500*time.Millisecond, 600*time.Millisecond))
		s.change(r, func(spec *v1alpha1.RouteSpec) {
			spec.Fault = &v1alpha1.RouteFault{
				Matches: []v1alpha1.RouteMatch{{Headers: []v1alpha1.ValueMatch{{Name: "user", Type: v1alpha1.MatchExact, Value: "jason"}}}},
				Abort:   &v1alpha1.FaultAbort{Percent: 100, Status: 418},
			}
			spec.Rules[0].Timeout = &metav1.Duration{Duration: time.Second}
		})
		s.Expect(s.ask(host, load.Kind{Headers: map[string]string{"user": "jason"}}).Status).To(Equal(418))
		s.gets(host, "/", "reviews-v2")
		slow := s.ask(host, load.Kind{Path: "/slow?ms=4000"})
		s.Expect(slow.Status).To(Equal(504), slow.Error)
		s.Expect(slow.Took).To(BeNumerically("<", 3500*time.Millisecond))
		s.change(r, func(spec *v1alpha1.RouteSpec) { spec.Fault, spec.Rules[0].Timeout = nil, nil })
		s.Expect(s.ask(host, load.Kind{Path: "/slow?ms=1500"}).Error).To(BeEmpty(), "removing the rule heals")
	})
	t.Run("MSH-06 ten a second get answers, the rest 429", func(t *testing.T) {
		s.change(r, func(spec *v1alpha1.RouteSpec) { spec.RateLimit = &v1alpha1.RateLimit{Requests: 10} })
		l := s.Load(host, 50, func(c *load.Config) { c.Kinds = []load.Kind{{Name: "kept", Share: 1, Good: []int{200, 429}}} })
		s.Wait(8 * time.Second)
		report := l.Stop()
		s.NoneLost(report)
		status := map[int]int{}
		for _, a := range report.Answers {
			status[a.Status]++
		}
		rate := float64(status[200]) / report.Took.Seconds()
		t.Logf("MSH-06 %v in %s: %.1f a second", status, report.Took.Round(time.Second/10), rate)
		s.Expect(rate).To(BeNumerically("~", 10, 3))
		s.Expect(status[429]).To(BeNumerically(">", report.Asked/2))
		s.change(r, func(spec *v1alpha1.RouteSpec) { spec.RateLimit = nil })
	})
	t.Run("MSH-07 allow and deny lists", func(t *testing.T) {
		const friend, foe = "127.0.0.50", "127.0.0.51"
		from := func(address string) int {
			l := s.Load(host, 0, func(c *load.Config) { c.From = net.ParseIP(address) })
			defer l.Stop()
			return l.Do(load.Kind{NewConnection: true, Headers: map[string]string{"X-Forwarded-For": friend}}).Status
		}
		s.change(r, func(spec *v1alpha1.RouteSpec) {
			spec.Allow, spec.Deny = []string{"127.0.0.48/29"}, []string{foe + "/32"}
		})
		s.Expect([]int{from(friend), from(foe), from("127.0.0.9")}).To(Equal([]int{200, 403, 403}))
		s.change(r, func(spec *v1alpha1.RouteSpec) { spec.Allow = nil })
		s.Expect([]int{from(friend), from(foe), from("127.0.0.9")}).To(Equal([]int{200, 403, 200}))
		s.change(r, func(spec *v1alpha1.RouteSpec) { spec.Deny = nil })
	})
	t.Run("redirect, rewrite, headers", func(t *testing.T) {
		s.change(r, func(spec *v1alpha1.RouteSpec) {
			moved := v1alpha1.RouteRule{Name: "moved", Redirect: &v1alpha1.RouteRedirect{Host: "new.example.com", Status: 301}}
			moved.Matches = []v1alpha1.RouteMatch{{Path: &v1alpha1.PathMatch{Type: v1alpha1.MatchPrefix, Value: "/old"}}}
			inside := rule("inside", "/shop", to("reviews-v3"))
			inside.Rewrite = &v1alpha1.RouteRewrite{Prefix: "/status"}
			spec.Rules = append(spec.Rules, moved, inside)
		})
		s.Expect(s.ask(host, load.Kind{Path: "/old/page?x=1"}).Status).To(Equal(301))
		s.Expect(s.ask(host, load.Kind{Path: "/shop/404"}).Status).To(Equal(404), "the backend sees /status/404")
		s.Expect(s.ask(host, load.Kind{Path: "/shop/202"}).Who.Version).To(Equal("reviews-v3"))
	})
}

// logged counts requests for a path in the logs of a component's pods.
func (s *site) logged(cluster, partition, component, path string) int {
	s.Helper()
	n := 0
	for _, pod := range s.Pods(cluster, s.Tenant+"-"+partition, component) {
		n += strings.Count(s.Try(cluster, "-n", pod.Namespace, "logs", pod.Name), `"path":"`+path+`"`)
	}
	return n
}

// TestING04_Certificate serves https with an uploaded certificate and shows when it expires.
func TestING04_Certificate(t *testing.T) {
	s := newSite(t, "web")
	host := s.host("secure")
	ends := time.Now().Add(40 * 24 * time.Hour).UTC().Truncate(time.Second)
	chain, key, roots := certificate(t, host, ends)
	c := &v1alpha1.Configuration{ObjectMeta: journey.Named(s.Tenant, "cert"), Spec: v1alpha1.ConfigurationSpec{SecretType: corev1.SecretTypeTLS}}
	s.Create(c.WriteSecret(corev1.SecretTypeTLS, map[string][]byte{"tls.crt": chain, "tls.key": key}), c)
	r := s.route("secure", []string{host}, []v1alpha1.RouteRule{rule("all", "", to("web"))}, func(spec *v1alpha1.RouteSpec) {
		spec.TLS = &v1alpha1.RouteTLS{Configuration: "cert"}
	})
	s.Expect(r.Status.Certificate).NotTo(BeNil())
	s.Expect(r.Status.Certificate.NotAfter.UTC()).To(Equal(ends), "expiry is shown")
	l := s.Load(host, 0, func(c *load.Config) {
		c.Address, c.TLS = s.EdgeAddress("https"), &tls.Config{RootCAs: roots, ServerName: host}
	})
	defer l.Stop()
	s.Expect(l.Do(load.Kind{}).Error).To(BeEmpty())
	s.Expect(s.ask(host, load.Kind{}).Status).To(BeElementOf(301, 302, 307, 308), "plain HTTP goes to https")
	s.Expect(s.Kubectl(journey.Hub, "-n", s.Tenant, "get", "routes,deliveries,edges", "-o", "yaml", "--show-managed-fields")).NotTo(ContainSubstring("PRIVATE KEY"))
}

// certificate for a host, signed by itself.
func certificate(t *testing.T, host string, until time.Time) (chain, key []byte, roots *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: until, IsCA: true, BasicConstraintsValid: true,
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	chain = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed})
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(chain)
	return chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), roots
}

// TestNET11_Affinity keeps a client in one partition and at one pod.
func TestNET11_Affinity(t *testing.T) {
	s := journey.Begin(t).Shop(2)
	s.Update(s.Route, func() { s.Route.Spec.Affinity = &v1alpha1.RouteAffinity{Type: v1alpha1.AffinityCookie} })
	s.RouteReady(s.Route)
	t.Run("NET-11 a cookie", func(t *testing.T) {
		used := map[string]bool{}
		for range 8 {
			pods := map[string]bool{}
			l := s.Load(0, func(c *load.Config) { c.Cookies = true })
			for range 12 {
				a := l.Do(load.Kind{NewConnection: true})
				s.Expect(a.Error).To(BeEmpty())
				pods[a.Who.Pod], used[a.Who.Pod] = true, true
			}
			l.Stop()
			s.Expect(pods).To(HaveLen(1), "one client, one pod")
		}
		s.Expect(len(used)).To(BeNumerically(">", 1), "not all clients the same")
	})
	s.Update(s.Route, func() { s.Route.Spec.Affinity = &v1alpha1.RouteAffinity{Type: v1alpha1.AffinityClientIP} })
	s.RouteReady(s.Route)
	t.Run("NET-11 the client's address", func(t *testing.T) {
		for _, address := range []string{"127.0.0.21", "127.0.0.22", "127.0.0.23"} {
			partitions := map[string]bool{}
			l := s.Load(0, func(c *load.Config) { c.From = net.ParseIP(address) })
			for range 12 {
				a := l.Do(load.Kind{NewConnection: true})
				s.Expect(a.Error).To(BeEmpty())
				partitions[a.Who.Partition] = true
			}
			l.Stop()
			s.Expect(partitions).To(HaveLen(1), "one address, one partition")
		}
	})
}

// TestHostOfAnotherTenant is refused, at once or in the status, and the first tenant keeps it.
func TestHostOfAnotherTenant(t *testing.T) {
	first, second := newSite(t, "web"), newSite(t, "web")
	host := first.host("mine")
	first.route("mine", []string{host}, []v1alpha1.RouteRule{rule("all", "", to("web"))})
	for _, hosts := range [][]string{{host}, {second.host("good"), host}} {
		r := &v1alpha1.Route{
			ObjectMeta: metav1.ObjectMeta{Namespace: second.Tenant, Name: "taken"},
			Spec:       v1alpha1.RouteSpec{Hosts: hosts, Rules: []v1alpha1.RouteRule{rule("all", "", to("web"))}},
		}
		said := second.Condition(r, v1alpha1.ConditionReady)
		if err := second.Hub().Create(second.Context(), r); err != nil {
			said = func() (string, error) { return err.Error(), nil }
		}
		second.Eventually(said).WithTimeout(20 * time.Second).Should(And(ContainSubstring(host), Not(HavePrefix("True"))))
		s := first.ask(host, load.Kind{})
		first.Expect(s.Who.Partition).To(HavePrefix(first.Tenant))
		first.Expect(client.IgnoreNotFound(second.Hub().Delete(second.Context(), r))).To(Succeed())
	}
}
