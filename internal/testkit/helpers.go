package testkit

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

var names atomic.Int64

// Name gives a name, fit for any object, that no other test of the package uses.
func Name(t testing.TB) string {
	t.Helper()
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return -1
	}, t.Name())
	const limit = 24
	clean = strings.TrimPrefix(clean, "test")
	if len(clean) > limit {
		clean = clean[:limit]
	}
	return fmt.Sprintf("t%s%d", clean, names.Add(1))
}

// Create creates the objects, in order; a refusal fails the test.
func Create(t testing.TB, c client.Client, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := c.Create(t.Context(), o); err != nil {
			t.Fatalf("creating %T %s: %v", o, client.ObjectKeyFromObject(o), err)
		}
	}
}

// Namespace creates a namespace with a name of the test's own and gives the name.
func Namespace(t testing.TB, c client.Client) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Name(t)}}
	Create(t, c, ns)
	return ns.Name
}

// StartManager runs a manager of the hub until the test ends; setup registers controllers with it before.
func StartManager(t testing.TB, hub *Hub, setup ...func(manager.Manager) error) manager.Manager {
	t.Helper()
	return StartManagerWith(t, hub, manager.Options{}, setup...)
}

// StartManagerWith is StartManager with options, such as those of leader election.
func StartManagerWith(t testing.TB, hub *Hub, options manager.Options, setup ...func(manager.Manager) error) manager.Manager {
	t.Helper()
	skip := true
	options.Scheme = hub.Scheme
	options.Metrics = metricsserver.Options{BindAddress: "0"}
	options.Controller = config.Controller{SkipNameValidation: &skip}
	mgr, err := ctrl.NewManager(rest.CopyConfig(hub.Config), options)
	if err != nil {
		t.Fatalf("making a manager: %v", err)
	}
	for _, s := range setup {
		if err := s(mgr); err != nil {
			t.Fatalf("registering controllers: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("running the manager: %v", err)
		}
	})
	if !mgr.GetCache().WaitForCacheSync(ctx) {
		t.Fatal("the manager's cache was not filled")
	}
	return mgr
}

// Lead lets another server be the leader, by the Lease of the name given in PlatformNamespace, until the function that it
// gives is called or the test ends.
func (h *Hub) Lead(t testing.TB, lease string) (yield func()) {
	t.Helper()
	const long = 3600
	other, duration, now := "another-server", int32(long), metav1.NowMicro()
	held := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: PlatformNamespace, Name: lease},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &other, LeaseDurationSeconds: &duration, AcquireTime: &now, RenewTime: &now,
		},
	}
	if err := h.Client.Create(t.Context(), held); err != nil {
		t.Fatalf("taking the lead: %v", err)
	}
	yield = func() { _ = h.Client.Delete(context.Background(), held) }
	t.Cleanup(yield)
	return yield
}

// Kubeconfig gives a kubeconfig for the member, with everything inside it. Through names another address, such as a
// Proxy's; empty for the member's own.
func (m *Member) Kubeconfig(t testing.TB, through string) []byte {
	t.Helper()
	text, err := m.kubeconfig(through)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (m *Member) kubeconfig(through string) ([]byte, error) {
	server := m.Config.Host
	if through != "" {
		server = "https://" + through
	}
	kubeconfig := clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"member": {
			Server: server, CertificateAuthorityData: m.Config.CAData,
		}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"admin": {
			ClientCertificateData: m.Config.CertData, ClientKeyData: m.Config.KeyData,
		}},
		Contexts:       map[string]*clientcmdapi.Context{"member": {Cluster: "member", AuthInfo: "admin"}},
		CurrentContext: "member",
	}
	data, err := clientcmd.Write(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("writing a kubeconfig: %w", err)
	}
	return data, nil
}

// Address is the host and port at which the member's API server listens.
func (m *Member) Address() string {
	host := strings.TrimPrefix(m.Config.Host, "https://")
	return strings.TrimSuffix(host, "/")
}

// logger writes the controllers' errors to standard error, or everything when YUNFAN_TEST_LOG is set.
func logger() logr.Logger {
	everything := os.Getenv("YUNFAN_TEST_LOG") != ""
	return funcr.New(func(prefix, args string) {
		if everything || !strings.HasPrefix(args, `"level"`) {
			fmt.Fprintln(os.Stderr, prefix, args)
		}
	}, funcr.Options{Verbosity: 1})
}
