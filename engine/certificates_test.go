//go:build e2e

package engine_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"

	"yunfan.io/engine/pki"
	"yunfan.io/engine/topology"
)

const shortLife = 90 * time.Second

// TestSEC07_CertificatesAreRenewed gives a cluster certificates for a minute and a half, signed by an authority of the
// enterprise, and uses it for longer than that.
func TestSEC07_CertificatesAreRenewed(t *testing.T) {
	var root []byte
	i := startWith(t, fmt.Sprintf("{name: e2e-certs, certificateLifetime: %s, clusters: [{name: north, nodes: 1}]}", shortLife), func(data string) { root = enterprise(t, data) })
	g := NewWithT(t)
	before, pids := certificatesOf(i), i.pids()
	user := use(t, i, root)

	g.Eventually(func() []string { return same(before, certificatesOf(i)) }).WithTimeout(patience).WithPolling(time.Second).Should(BeEmpty(), "certificates that are not renewed")
	last := time.Time{}
	for _, c := range before {
		if c.NotAfter.After(last) && !c.Authority {
			last = c.NotAfter
		}
	}
	g.Eventually(time.Now).WithTimeout(patience).WithPolling(time.Second).Should(BeTemporally(">", last.Add(5*time.Second)), "until the first ones have ended")

	// A pod needs everything: API server, etcd, controller manager, scheduler and kubelet, with certificates of now.
	i.kubectl("north", strings.ReplaceAll(keeper, "keep", "late"), "apply", "-f", "-")
	g.Eventually(func() error {
		_, err := i.tryKubectl("north", "", "wait", "--for=condition=Ready", "pod/late-0", "--timeout=60s")
		return err
	}).WithTimeout(patience).Should(Succeed())
	user.stop()
	now := i.pids()
	for _, target := range []string{"north/etcd", "north/kube-apiserver", "north/north-1/containerd"} {
		g.Expect(now[target]).To(Equal(pids[target]), "%s goes on", target)
	}
	for _, target := range []string{"north/kube-controller-manager", "north/kube-scheduler", "north/north-1/kubelet", "north/north-1/kube-proxy"} {
		g.Expect(now[target]).NotTo(Equal(pids[target]), "%s was started anew", target)
	}
	t.Logf("%d writes and %d events while %d serving certificates were seen; %d writes were repeated; failures: %v", user.writes, user.events, len(user.serials), user.closed, user.failures)
	g.Expect(user.failures).To(BeEmpty())
	g.Expect(user.closed).To(BeNumerically("<=", len(user.serials)), "as often as there were new certificates")
	g.Expect(user.writes).To(BeNumerically(">", 300))
	g.Expect(user.events).To(BeNumerically(">", 300))
	g.Expect(len(user.serials)).To(BeNumerically(">=", 2))
}

// enterprise writes an authority to where the engine looks for it.
func enterprise(t *testing.T, data string) (root []byte) {
	t.Helper()
	g := NewWithT(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	g.Expect(err).NotTo(HaveOccurred())
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Enterprise Root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	g.Expect(err).NotTo(HaveOccurred())
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	g.Expect(err).NotTo(HaveOccurred())
	root = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	dir := topology.Paths{Data: data}.Authority()
	g.Expect(os.MkdirAll(dir, 0o700)).To(Succeed())
	g.Expect(os.WriteFile(filepath.Join(dir, "ca.crt"), root, 0o600)).To(Succeed())
	g.Expect(os.WriteFile(filepath.Join(dir, "ca.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600)).To(Succeed())
	return root
}

func certificatesOf(i *instance) []pki.Certificate {
	i.t.Helper()
	var out []pki.Certificate
	if err := json.Unmarshal([]byte(i.run("certificates", "-o", "json")), &out); err != nil {
		i.t.Fatal(err)
	}
	return out
}

// same names the certificates, but for authorities, that have not changed.
func same(before, now []pki.Certificate) []string {
	ends := map[string]time.Time{}
	for _, c := range now {
		ends[c.Name] = c.NotAfter
	}
	var out []string
	for _, c := range before {
		if !c.Authority && ends[c.Name].Equal(c.NotAfter) {
			out = append(out, c.Name)
		}
	}
	return out
}

// closed tells whether the client itself closed its connection, in order to sign in with its new certificate.
func closed(err error) bool {
	return strings.Contains(err.Error(), "use of closed network connection") || strings.Contains(err.Error(), "client connection force closed")
}

// user writes ten times a second and watches what it writes, trusting the enterprise's authority only.
type user struct {
	stop     func()
	writes   int
	events   int
	closed   int // writes that were repeated, see closed
	failures []string
	serials  map[string]bool
}

func use(t *testing.T, i *instance, root []byte) *user {
	t.Helper()
	g := NewWithT(t)
	transport.CertCallbackRefreshDuration = 5 * time.Second // five minutes would do for certificates that live longer
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(i.data, "clusters/north/pki/admin.kubeconfig"))
	g.Expect(err).NotTo(HaveOccurred())
	config.CAFile = filepath.Join(t.TempDir(), "root.crt")
	g.Expect(os.WriteFile(config.CAFile, root, 0o600)).To(Succeed())
	client, err := dynamic.NewForConfig(config)
	g.Expect(err).NotTo(HaveOccurred())
	address, err := url.Parse(config.Host)
	g.Expect(err).NotTo(HaveOccurred())

	ctx, cancel := context.WithCancel(t.Context())
	u := &user{serials: map[string]bool{}}
	var mu sync.Mutex
	fail := func(what string, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil && ctx.Err() == nil {
			u.failures = append(u.failures, fmt.Sprintf("%s %s: %v", time.Now().Format(time.TimeOnly), what, err))
		}
	}
	maps := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace("default")
	object, err := maps.Create(ctx, &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "counter"}}}, metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	var wg sync.WaitGroup
	wg.Go(func() {
		for tick := time.NewTicker(100 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			write := func() error {
				_, err := maps.Patch(ctx, "counter", "application/merge-patch+json", fmt.Appendf(nil, `{"data": {"n": "%d"}}`, u.writes), metav1.PatchOptions{})
				return err
			}
			err := write()
			if err != nil && closed(err) {
				u.closed++
				err = write()
			}
			fail("writing", err)
			u.writes++
			conn, err := tls.Dial("tcp", address.Host, &tls.Config{InsecureSkipVerify: true})
			if err == nil {
				u.serials[conn.ConnectionState().PeerCertificates[0].SerialNumber.String()] = true
				err = conn.Close()
			}
			fail("connecting", err)
		}
	})
	wg.Go(func() {
		for version := object.GetResourceVersion(); ctx.Err() == nil; { // a watch that ends goes on from where it was, as every client does
			watch, err := maps.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=counter", ResourceVersion: version})
			if fail("watching", err); err != nil {
				<-time.After(100 * time.Millisecond)
				continue
			}
			for event := range watch.ResultChan() {
				changed, ok := event.Object.(*unstructured.Unstructured)
				if !ok {
					if err := fmt.Errorf("%v", event.Object); !closed(err) {
						fail("watching", err)
					}
					break
				}
				u.events, version = u.events+1, changed.GetResourceVersion()
			}
		}
	})
	u.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(u.stop)
	return u
}
