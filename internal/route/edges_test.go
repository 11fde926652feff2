package route

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/route/table"
	"yunfan.io/yunfan/internal/testkit"
)

func TestEveryReplicaGetsTheNewestTable(t *testing.T) {
	g := NewWithT(t)
	well, hanging := &standIn{}, &standIn{hangs: true}
	r := start(t, map[string]*standIn{"http://well": well, "http://hanging": hanging})
	tenant := testkit.Namespace(t, hub.Client)
	cluster, partition, d := placeOf(t, tenant, "a", "bj", 3, "192.0.2.1:30080")
	e := newEdge(t, "http://well", "http://hanging")
	route := routeObject(tenant, "r", []string{tenant + ".example.com"}, to("a"))
	create(t, application(tenant, "a"), route)

	has := func() []string {
		if served := well.table(); served != nil {
			for _, pool := range served.Pools {
				if pool.Name == tenant+".r.a" {
					return pool.Targets[0].Servers
				}
			}
		}
		return nil
	}
	g.Eventually(has, patience).Should(Equal([]string{"192.0.2.1:30080"}), "a replica that hangs does not hold up the other")
	g.Eventually(readyOf(t, route), patience).Should(And(HavePrefix("Updating: edge "+e.Name+" at http://hanging"), Not(ContainSubstring("http://well"))))
	newest := fresh(t, d)
	g.Expect(r.Edges().Settled(newest)).To(ContainSubstring("http://hanging"))
	g.Expect(r.Edges().Applied(r.Edges().Generation())).To(BeFalse())

	hanging.set(func(s *standIn) { s.hangs = false })
	g.Eventually(func() string { return r.Edges().Settled(fresh(t, d)) }, patience).Should(BeEmpty())
	g.Eventually(readyOf(t, route), patience).Should(HavePrefix("Ready"))
	g.Expect(r.Edges().Applied(r.Edges().Generation())).To(BeTrue())
	g.Expect(r.Edges().Carries("192.0.2.1:30080")).To(BeTrue())
	g.Expect(r.Edges().Carries("192.0.2.2:30080")).To(BeFalse())

	// The answer is about the Delivery as it was given, however old the hub's own table is.
	hanging.set(func(s *standIn) { s.refuses = "no" })
	newest = fresh(t, d)
	newest.Spec.Traffic = &v1alpha1.Traffic{Closed: true}
	g.Expect(hub.Client.Update(t.Context(), newest)).To(Succeed())
	g.Expect(r.Edges().Settled(newest)).NotTo(BeEmpty())
	well.set(func(s *standIn) {
		s.flying = map[string]int{table.TargetName(partition.MemberNamespace(), cluster.Name): 2}
	})
	g.Eventually(func() string { return r.Edges().Settled(newest) }, patience).Should(ContainSubstring("refused the newest table: no"))
	g.Eventually(func() int { n, _ := r.Edges().InFlight(newest); return n }, patience).Should(Equal(2))
	hanging.set(func(s *standIn) { s.refuses = "" })
	g.Eventually(func() string { return r.Edges().Settled(newest) }, patience).Should(BeEmpty())
	g.Eventually(partitionsText(t, route), patience).Should(Equal("a/bj Closed 0: it is closed"))
}

func TestARestartedReplicaGetsTheTableAgain(t *testing.T) {
	g := NewWithT(t)
	s := &standIn{}
	r := start(t, map[string]*standIn{"http://one": s})
	e := newEdge(t, "http://one")
	g.Eventually(edgeReady(t, e), patience).Should(HavePrefix("Ready"))
	s.set(func(s *standIn) { s.served = nil })
	g.Eventually(func() *table.Table { return s.table() }, patience).ShouldNot(BeNil())
	g.Eventually(func() bool { return r.Edges().Applied(r.Edges().Generation()) }, patience).Should(BeTrue())
	s.set(func(s *standIn) { s.silent = true })
	g.Eventually(edgeReady(t, e), patience).Should(ContainSubstring("connection refused"))
	g.Expect(hub.Client.Delete(t.Context(), e)).To(Succeed())
	g.Eventually(func() bool { return r.Edges().Applied(r.Edges().Generation()) }, patience).Should(BeTrue(), "an edge that is gone is not waited for")
}

func TestChangesAreGathered(t *testing.T) {
	s := &standIn{hangs: true}
	edges := newEdges(time.Millisecond, time.Millisecond)
	edges.connect(replicaKey{"e", "http://one"}, s)
	t.Cleanup(func() { edges.disconnect(replicaKey{"e", "http://one"}) })
	var last *built
	for i := range 500 {
		w := manyRoutes(i%3 + 1)
		b, err := build(&w.facts)
		if err != nil {
			t.Fatal(err)
		}
		last = b
		edges.publish(b)
	}
	s.set(func(s *standIn) { s.hangs = false })
	NewWithT(t).Eventually(func() bool { return edges.Applied(last.generation) }, patience).Should(BeTrue())
	if s.set(func(s *standIn) {}); s.applied > 10 {
		t.Errorf("500 tables were brought one by one: %d", s.applied)
	}
}

func TestTrafficReadyIsWhatEdgesSee(t *testing.T) {
	g := NewWithT(t)
	s := &standIn{}
	start(t, map[string]*standIn{"http://one": s})
	tenant := testkit.Namespace(t, hub.Client)
	c1, p1, _ := placeOf(t, tenant, "a", "bj", 3, "192.0.2.1:30080")
	_, p2, _ := placeOf(t, tenant, "a", "sh", 1, "192.0.2.2:30080")
	route := routeObject(tenant, "r", []string{tenant + ".example.com"}, to("a"))
	create(t, application(tenant, "a"), route)
	g.Eventually(trafficReady(t, p1), patience).Should(HavePrefix("Unknown NoEdge"))
	newEdge(t, "http://one")
	g.Eventually(trafficReady(t, p1), patience).Should(Equal("True Ready "))
	g.Eventually(partitionsText(t, route), patience).Should(Equal("a/bj Open 75: , a/sh Open 25: "))
	g.Eventually(readyOf(t, route), patience).Should(Equal("Ready: "))

	target := table.TargetName(p1.MemberNamespace(), c1.Name)
	s.set(func(s *standIn) { s.down = map[string]string{target: "HTTP 503"} })
	g.Eventually(trafficReady(t, p1), patience).Should(Equal("False ProbeFailed a: HTTP 503"))
	g.Eventually(trafficReady(t, p2), patience).Should(Equal("True Ready "))
	g.Eventually(partitionsText(t, route), patience).Should(Equal("a/bj Down 0: HTTP 503, a/sh Open 100: "))

	s.set(func(s *standIn) { s.down[table.TargetName(p2.MemberNamespace(), p2.Spec.Cluster)] = "HTTP 503" })
	for _, p := range []*v1alpha1.Partition{p1, p2} {
		g.Eventually(trafficReady(t, p), patience).Should(Equal("False ProbeFailed all partitions fail at once, so the edge itself may be sick: a: HTTP 503"))
	}
	s.set(func(s *standIn) { s.down = nil })
	g.Eventually(trafficReady(t, p1), patience).Should(Equal("True Ready "))
	s.set(func(s *standIn) { s.silent = true })
	g.Eventually(trafficReady(t, p1), patience).Should(HavePrefix("Unknown NoEdge no edge tells of it"), "what was seen last is not what is")
}

func TestADeliveryThatIsHealthyAgainIsOpened(t *testing.T) {
	g := NewWithT(t)
	start(t, nil)
	tenant := testkit.Namespace(t, hub.Client)
	_, _, d := placeOf(t, tenant, "a", "bj", 3, "192.0.2.1:30080")
	d.Spec.Traffic = &v1alpha1.Traffic{Closed: true, UntilHealthy: true}
	g.Expect(hub.Client.Update(t.Context(), d)).To(Succeed())
	traffic := func() v1alpha1.Traffic { return *fresh(t, d).Spec.Traffic }
	g.Consistently(traffic, "500ms").Should(Equal(v1alpha1.Traffic{Closed: true, UntilHealthy: true}))
	d.Status.ObservedGeneration = d.Generation
	d.Status.Conditions = []metav1.Condition{{
		Type: v1alpha1.ConditionHealthy, Status: metav1.ConditionTrue, Reason: "Ready", ObservedGeneration: d.Generation, LastTransitionTime: metav1.Now(),
	}}
	g.Expect(hub.Client.Status().Update(t.Context(), d)).To(Succeed())
	g.Eventually(traffic, patience).Should(Equal(v1alpha1.Traffic{}))
}

func TestING04_TheCertificateOfAHost(t *testing.T) {
	g := NewWithT(t)
	s := &standIn{}
	start(t, map[string]*standIn{"http://one": s})
	newEdge(t, "http://one")
	tenant := testkit.Namespace(t, hub.Client)
	host := tenant + ".example.com"
	placeOf(t, tenant, "a", "bj", 1, "192.0.2.1:30080")
	route := routeObject(tenant, "r", []string{host}, to("a"))
	route.Spec.TLS = &v1alpha1.RouteTLS{Configuration: "cert"}
	create(t, application(tenant, "a"), route)
	g.Eventually(readyOf(t, route), patience).Should(HavePrefix("CertificateInvalid: there is no configuration cert"))

	configuration := &v1alpha1.Configuration{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: "cert"},
		Spec:       v1alpha1.ConfigurationSpec{Type: v1alpha1.ConfigurationSecret, Files: map[string]string{"tls.crt": "", "tls.key": ""}},
	}
	create(t, configuration)
	notAfter := time.Now().Add(90 * 24 * time.Hour).Truncate(time.Second)
	chain, key := selfSigned(t, notAfter, host)
	store(t, configuration, "v1", chain, key)
	g.Eventually(readyOf(t, route), patience).Should(Equal("Ready: "))
	stored := &v1alpha1.Route{}
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(route), stored)).To(Succeed())
	g.Expect(stored.Status.Certificate.NotAfter.Time).To(BeTemporally("==", notAfter))
	g.Expect(stored.Status.Certificate.Hosts).To(Equal([]string{host}))
	want := table.Certificate{Name: tenant + ".r", Hosts: []string{host}, Chain: string(chain), Key: string(key)}
	served := func() string {
		for _, c := range s.table().Certificates {
			if c.Name == want.Name {
				return cmp.Diff(want, c)
			}
		}
		return "none"
	}
	g.Eventually(served, patience).Should(BeEmpty())
	g.Expect(s.table().Pools[0].RedirectHTTP).To(BeTrue(), "with a certificate plain HTTP is redirected")

	store(t, configuration, "v2", []byte("garbage"), key)
	g.Eventually(readyOf(t, route), patience).Should(ContainSubstring("version v2 of configuration cert: tls.crt and tls.key do not fit together, or are not PEM; version v1 is served instead"))
	g.Expect(served()).To(BeEmpty(), "a bad version takes nothing away")

	chain, key = selfSigned(t, time.Now().Add(-time.Hour), "other.example.com")
	store(t, configuration, "v3", chain, key)
	g.Eventually(readyOf(t, route), patience).Should(And(ContainSubstring("has expired on"), ContainSubstring("is not for "+host)))
}

// store writes a version as the configuration's controller does.
func store(t *testing.T, c *v1alpha1.Configuration, version string, chain, key []byte) {
	t.Helper()
	create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: v1alpha1.VersionObjectName(c.Name, version)},
		Data:       map[string][]byte{"tls.crt": chain, "tls.key": key},
	})
	c.Status.Version = version
	c.Status.Versions = append([]v1alpha1.ConfigurationVersion{{Name: version, CreatedAt: metav1.Now()}}, c.Status.Versions...)
	if err := hub.Client.Status().Update(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func selfSigned(t *testing.T, notAfter time.Time, host string) (chain, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: notAfter.Add(-24 * 365 * time.Hour), NotAfter: notAfter,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	var c, k bytes.Buffer
	for out, block := range map[*bytes.Buffer]*pem.Block{&c: {Type: "CERTIFICATE", Bytes: der}, &k: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := pem.Encode(out, block); err != nil {
			t.Fatal(err)
		}
	}
	return c.Bytes(), k.Bytes()
}

func fresh(t *testing.T, d *v1alpha1.Delivery) *v1alpha1.Delivery {
	t.Helper()
	stored := &v1alpha1.Delivery{}
	if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(d), stored); err != nil {
		t.Fatal(err)
	}
	return stored
}

func partitionsText(t *testing.T, route *v1alpha1.Route) func() string {
	t.Helper()
	return func() (text string) {
		stored := &v1alpha1.Route{}
		if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(route), stored); err != nil {
			return err.Error()
		}
		for i, p := range stored.Status.Partitions {
			if i > 0 {
				text += ", "
			}
			text += p.Application + "/" + p.Partition + " " + string(p.State) + " " + strconv.Itoa(int(p.Share)) + ": " + p.Message
		}
		return text
	}
}

func edgeReady(t *testing.T, e *v1alpha1.Edge) func() string {
	t.Helper()
	return func() string {
		stored := &v1alpha1.Edge{}
		if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(e), stored); err != nil {
			return err.Error()
		}
		c := meta.FindStatusCondition(stored.Status.Conditions, v1alpha1.ConditionReady)
		if c == nil {
			return "nothing yet"
		}
		return c.Reason + ": " + c.Message
	}
}

func trafficReady(t *testing.T, p *v1alpha1.Partition) func() string {
	t.Helper()
	return func() string {
		stored := &v1alpha1.Partition{}
		if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(p), stored); err != nil {
			return err.Error()
		}
		c := meta.FindStatusCondition(stored.Status.Conditions, v1alpha1.ConditionTrafficReady)
		if c == nil {
			return "nothing yet"
		}
		return string(c.Status) + " " + c.Reason + " " + c.Message
	}
}
