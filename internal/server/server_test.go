package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/assembly"
	yunfanrest "yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/testkit"
)

const patience = 30 * time.Second

func installClient(t *testing.T, config *rest.Config) client.Client {
	t.Helper()
	scheme, err := installScheme()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestInstall(t *testing.T) {
	hub := testkit.StartMember(t)
	c := installClient(t, hub.Config)
	if err := Install(t.Context(), c); err != nil {
		t.Fatalf("installing on a hub that never saw Yunfan: %v", err)
	}
	get := func() *apiextensionsv1.CustomResourceDefinition {
		definition := &apiextensionsv1.CustomResourceDefinition{}
		if err := c.Get(t.Context(), client.ObjectKey{Name: "tenants.yunfan.io"}, definition); err != nil {
			t.Fatal(err)
		}
		return definition
	}

	t.Run("Again", func(t *testing.T) {
		before := get().ResourceVersion
		if err := Install(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if after := get().ResourceVersion; after != before {
			t.Errorf("installing the same again changed the kind (resourceVersion %s to %s)", before, after)
		}
	})

	t.Run("Upgrade", func(t *testing.T) {
		// An older version knew no displayName; an administrator added a label, and a tenant is stored.
		old := definition(t, "tenants.yunfan.io")
		delete(schemaOf(t, old), "displayName")
		if err := apply(t.Context(), c, old); err != nil {
			t.Fatal(err)
		}
		labelled := get()
		labelled.Labels = map[string]string{"team": "ops"}
		if err := c.Update(t.Context(), labelled); err != nil {
			t.Fatal(err)
		}
		testkit.Create(t, hub.Client, &v1alpha1.Tenant{ObjectMeta: objectMeta("old")})

		if err := Install(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if got := get(); got.Labels["team"] != "ops" {
			t.Error("an upgrade must leave what others added to the kind")
		}
		tenant := &v1alpha1.Tenant{}
		NewWithT(t).Eventually(func() error {
			if err := hub.Client.Get(t.Context(), client.ObjectKey{Name: "old"}, tenant); err != nil {
				return err
			}
			tenant.Spec.DisplayName = "again"
			if err := hub.Client.Update(t.Context(), tenant); err != nil {
				return err
			}
			if tenant.Spec.DisplayName != "again" {
				return fmt.Errorf("the new field is not kept yet")
			}
			return nil
		}).WithTimeout(patience).Should(Succeed(), "stored objects stay and take the new field")
	})

	t.Run("StoredVersions", func(t *testing.T) {
		got := get()
		if len(got.Status.StoredVersions) != 1 || got.Status.StoredVersions[0] != "v1alpha1" {
			t.Errorf("stored versions are %v", got.Status.StoredVersions)
		}
	})
}

// runServer runs a server with one route and one webhook until the test ends.
func runServer(t *testing.T, hub *rest.Config, advertise bool) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	o := Options{
		Hub: hub, Listen: freeAddress(t), LeaderElection: true,
		Capabilities: func(mgr manager.Manager, _ *yunfanrest.Authorizer, _ assembly.Options) (yunfanrest.Parts, error) {
			mgr.GetWebhookServer().Register("/validate-yunfan-io-v1alpha1-tenant", admission.WithValidator[*v1alpha1.Tenant](mgr.GetScheme(), refuseBad{}))
			return yunfanrest.Parts{Routes: []yunfanrest.Route{{Pattern: "GET /hello", Handler: yunfanrest.Get(func(r *http.Request) (string, error) {
				return yunfanrest.UserOf(r.Context()).Name, nil
			})}}}, nil
		},
	}
	if advertise {
		o.Advertise = "https://" + o.Listen
	}
	done := make(chan error, 1)
	go func() { done <- Run(ctx, o) }()
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("running the server: %v", err)
		}
	})
	return stop
}

// refuseBad is a webhook that refuses the display name "bad".
type refuseBad struct{}

func (refuseBad) ValidateCreate(_ context.Context, t *v1alpha1.Tenant) (admission.Warnings, error) {
	if t.Spec.DisplayName == "bad" {
		return nil, fmt.Errorf("bad is no name")
	}
	return nil, nil
}

func (v refuseBad) ValidateUpdate(ctx context.Context, _, t *v1alpha1.Tenant) (admission.Warnings, error) {
	return v.ValidateCreate(ctx, t)
}

func (refuseBad) ValidateDelete(context.Context, *v1alpha1.Tenant) (admission.Warnings, error) {
	return nil, nil
}

func TestRun(t *testing.T) {
	hub := testkit.StartMember(t)
	g := NewWithT(t)
	stop := runServer(t, hub.Config, true)

	where := &corev1.ConfigMap{}
	g.Eventually(func() error {
		return hub.Client.Get(t.Context(), client.ObjectKey{Namespace: Namespace, Name: ConfigMapName}, where)
	}).WithTimeout(patience).Should(Succeed(), "the server says where it is")
	get := func(path string, certificates ...tls.Certificate) (int, string) {
		return get(t, where, path, certificates...)
	}
	g.Eventually(func() int { code, _ := get("/readyz"); return code }).WithTimeout(patience).Should(Equal(http.StatusOK))
	pair, err := tls.X509KeyPair(hub.Config.CertData, hub.Config.KeyData)
	g.Expect(err).NotTo(HaveOccurred())

	code, _ := get("/hello", pair)
	g.Expect(code).To(Equal(http.StatusOK), "so that there is a measurement to see")
	for name, tc := range map[string]struct {
		reason, path string
		certificates []tls.Certificate
		code         int
		says         string
	}{
		"Health":     {"probes need no user", "/healthz", nil, 200, "ok"},
		"Anonymous":  {"everything else does", "/hello", nil, 401, "Unauthorized"},
		"User":       {"the hub's users are ours", "/hello", []tls.Certificate{pair}, 200, "admin"},
		"Metrics":    {"measurements are for those who may see them", "/metrics", []tls.Certificate{pair}, 200, "yunfan_http_request_duration_seconds"},
		"NoMetrics":  {"and for nobody else", "/metrics", nil, 401, "Unauthorized"},
		"WebhookGet": {"a webhook takes reviews only", "/validate-yunfan-io-v1alpha1-tenant", []tls.Certificate{pair}, 404, "there is no"},
	} {
		t.Run(name, func(t *testing.T) {
			code, body := get(tc.path, tc.certificates...)
			if code != tc.code || !strings.Contains(body, tc.says) {
				t.Errorf("%s: got %d %.300s", tc.reason, code, body)
			}
		})
	}

	t.Run("Webhook", func(t *testing.T) {
		g := NewWithT(t)
		registered := &admissionregistrationv1.ValidatingWebhookConfiguration{}
		g.Eventually(func() error { return hub.Client.Get(t.Context(), client.ObjectKey{Name: "yunfan"}, registered) }).WithTimeout(patience).Should(Succeed())
		g.Expect(registered.Webhooks).To(HaveLen(1))
		g.Expect(*registered.Webhooks[0].FailurePolicy).To(Equal(admissionregistrationv1.Ignore), "a hub that cannot reach us goes on")
		g.Eventually(func() error {
			tenant := &v1alpha1.Tenant{ObjectMeta: objectMeta(testkit.Name(t)), Spec: v1alpha1.TenantSpec{DisplayName: "bad"}}
			return hub.Client.Create(t.Context(), tenant)
		}).WithTimeout(patience).Should(MatchError(ContainSubstring("bad is no name")), "the hub asks us, and trusts our certificate")
	})

	t.Run("Lease", func(t *testing.T) {
		lease := &coordinationv1.Lease{}
		NewWithT(t).Expect(hub.Client.Get(t.Context(), client.ObjectKey{Namespace: Namespace, Name: leaderLease}, lease)).To(Succeed())
	})

	t.Run("Stop", func(t *testing.T) {
		g := NewWithT(t)
		began := time.Now()
		g.Expect(stop()).To(Succeed(), "a stop is no failure")
		g.Expect(time.Since(began)).To(BeNumerically("<", stopTime))
		tenant := &v1alpha1.Tenant{ObjectMeta: objectMeta(testkit.Name(t)), Spec: v1alpha1.TenantSpec{DisplayName: "bad"}}
		g.Expect(hub.Client.Create(t.Context(), tenant)).To(Succeed(), "without a server the hub goes on")
	})
}

func TestRunWithoutAdvertise(t *testing.T) {
	hub := testkit.StartMember(t)
	g := NewWithT(t)
	runServer(t, hub.Config, false)
	where := &corev1.ConfigMap{}
	g.Eventually(func() error {
		return hub.Client.Get(t.Context(), client.ObjectKey{Namespace: Namespace, Name: ConfigMapName}, where)
	}).WithTimeout(patience).Should(Succeed())
	g.Expect(where.Data[KeyURL]).To(HavePrefix("https://127.0.0.1:"))
	g.Eventually(func() int { code, _ := get(t, where, "/readyz"); return code }).WithTimeout(patience).Should(Equal(http.StatusOK))
	hooks := &admissionregistrationv1.ValidatingWebhookConfigurationList{}
	g.Expect(hub.Client.List(t.Context(), hooks)).To(Succeed())
	g.Expect(hooks.Items).To(BeEmpty(), "a hub that was told no URL must not be sent to one")
}

// get asks the server with the CA that it published.
func get(t *testing.T, where *corev1.ConfigMap, path string, certificates ...tls.Certificate) (int, string) {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(where.Data[KeyCA])) {
		t.Fatal("the server published no CA")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certificates}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: patience}).Get(where.Data[KeyURL] + path)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}
