package route

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/route/edge"
	"yunfan.io/yunfan/internal/route/haproxy"
	"yunfan.io/yunfan/internal/route/table"
	"yunfan.io/yunfan/internal/testkit"
)

// gatewayServer answers with the partition that the edge chose, once it is let.
func gatewayServer(t *testing.T, hold <-chan struct{}) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-hold
		}
		fmt.Fprint(w, r.Header.Get(table.HeaderPartition))
	}))
	t.Cleanup(s.Close)
	return s
}

// haproxyEdge runs an agent with a real HAProxy, and makes the Edge for it. It gives the address for users.
func haproxyEdge(t *testing.T) (address string) {
	t.Helper()
	dir, free := t.TempDir(), func() string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }()
		return listener.Addr().String()
	}
	o := edge.Options{
		Dir: dir, Driver: "haproxy", Drivers: map[string]edge.New{"haproxy": haproxy.New}, Listen: free(), HTTP: free(),
		Drain: time.Second, Log: slog.New(slog.DiscardHandler),
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- edge.Run(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the agent ended: %v", err)
		}
	})
	read := func(name string) (content []byte) {
		NewWithT(t).Eventually(func() (err error) { content, err = os.ReadFile(filepath.Join(dir, name)); return err }, patience).Should(Succeed())
		return content
	}
	name := testkit.Name(t)
	create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: testkit.PlatformNamespace, Name: name},
		Data:       map[string][]byte{"token": read("token"), "ca.crt": read("tls.crt")},
	}, &v1alpha1.Edge{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.EdgeSpec{
		Endpoints: []string{"https://" + o.Listen}, CredentialsSecretRef: v1alpha1.SecretReference{Name: name}, Addresses: []string{"http://" + o.HTTP},
	}})
	return o.HTTP
}

func TestING03_ARealHAProxyServesRoutesAndClosesPartitions(t *testing.T) {
	g := NewWithT(t)
	var r *Routes
	testkit.StartManager(t, hub, func(mgr manager.Manager) error {
		r = New(mgr, noMembers{}, Options{Namespace: testkit.PlatformNamespace})
		return r.SetupWithManager(mgr)
	})
	tenant := testkit.Namespace(t, hub.Client)
	host := tenant + ".example.com"
	hold := make(chan struct{})
	first, second := gatewayServer(t, hold), gatewayServer(t, hold)
	c1, p1, d1 := placeOf(t, tenant, "a", "bj", 1, strings.TrimPrefix(first.URL, "http://"))
	c2, p2, _ := placeOf(t, tenant, "a", "sh", 1, strings.TrimPrefix(second.URL, "http://"))
	route := routeObject(tenant, "r", []string{host}, to("a"))
	create(t, application(tenant, "a"), route)
	address := haproxyEdge(t)
	g.Eventually(readyOf(t, route), patience).Should(Equal("Ready: "))
	g.Eventually(trafficReady(t, p1), patience).Should(Equal("True Ready "))

	ask := func(path string) string {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, http.NoBody)
		if err != nil {
			return err.Error()
		}
		request.Host = host
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err.Error()
		}
		defer func() { _ = answer.Body.Close() }()
		body, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK {
			return fmt.Sprint(answer.Status, err)
		}
		return string(body)
	}
	name1, name2 := table.TargetName(p1.MemberNamespace(), c1.Name), table.TargetName(p2.MemberNamespace(), c2.Name)
	seen := map[string]bool{}
	g.Eventually(func() map[string]bool {
		answer := ask("/")
		for _, name := range []string{name1, name2} {
			if answer == name || strings.HasPrefix(answer, name+".") {
				seen[name] = true
				return seen
			}
		}
		t.Errorf("an answer that no gateway gave: %s", answer)
		return seen
	}, patience).Should(HaveLen(2), "both partitions get requests")

	// What is under way when a partition is closed ends in peace, and is counted until then.
	slow := make(chan string, 8)
	for range cap(slow) {
		go func() { slow <- ask("/slow") }()
	}
	g.Eventually(func() int { n, _ := r.Edges().InFlight(fresh(t, d1)); return n }, patience).Should(BeNumerically(">", 0))
	closed := fresh(t, d1)
	closed.Spec.Traffic = &v1alpha1.Traffic{Closed: true}
	g.Expect(hub.Client.Update(t.Context(), closed)).To(Succeed())
	g.Eventually(func() string { return r.Edges().Settled(closed) }, patience).Should(BeEmpty())
	for range 20 {
		g.Expect(ask("/")).To(HavePrefix(name2), "nothing new goes to a partition that is closed")
	}
	n, known := r.Edges().InFlight(closed)
	g.Expect(n).To(BeNumerically(">", 0))
	g.Expect(known).To(BeTrue())
	close(hold)
	for range cap(slow) {
		g.Expect(<-slow).To(HavePrefix(tenant), "no request is lost")
	}
	g.Eventually(func() int { n, _ := r.Edges().InFlight(closed); return n }, patience).Should(BeZero())

	second.Close()
	g.Eventually(trafficReady(t, p2), patience).Should(HavePrefix("False ProbeFailed"))
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(closed), closed)).To(Succeed())
	closed.Spec.Traffic = nil
	g.Expect(hub.Client.Update(t.Context(), closed)).To(Succeed())
	g.Eventually(func() string { return ask("/") }, patience).Should(HavePrefix(name1), "what does not answer is closed by the edge itself")
}
