package application

import (
	"encoding/pem"
	"net/http/httptest"
	"testing"

	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

// askWebhook has the hub's API server ask our handler about the Applications of one namespace.
func askWebhook(t *testing.T, namespace string) {
	t.Helper()
	mgr := testkit.StartManager(t, hub)
	server := httptest.NewTLSServer(NewWebhook(mgr))
	t.Cleanup(server.Close)
	kinds := admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update, admissionv1.Delete},
		Rule:       admissionv1.Rule{APIGroups: []string{"yunfan.io"}, APIVersions: []string{"v1alpha1"}, Resources: []string{"applications"}},
	}
	registration := &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: namespace},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name: "applications.validate.yunfan.io", Rules: []admissionv1.RuleWithOperations{kinds},
			ClientConfig: admissionv1.WebhookClientConfig{
				URL:      new(server.URL + WebhookPath),
				CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
			},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": namespace}},
			FailurePolicy:     ptr.To(admissionv1.Fail), SideEffects: ptr.To(admissionv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
		}},
	}
	testkit.Create(t, hub.Client, registration)
	t.Cleanup(func() { _ = hub.Client.Delete(t.Context(), registration) })
	// The API server takes up a registration a moment after it is stored.
	unsound := score(namespace)
	unsound.Name, unsound.Generation, web(unsound).DependsOn = "probe", 0, []string{"nothing"}
	NewWithT(t).Eventually(func() bool {
		err := hub.Client.Create(t.Context(), unsound.DeepCopy(), client.DryRunAll)
		return apierrors.IsForbidden(err)
	}, wait).Should(BeTrue())
}

func TestWebhookRefusesEarly(t *testing.T) {
	g := NewWithT(t)
	tn := bareTenant(t)
	askWebhook(t, tn.namespace)
	app := score(tn.namespace)
	app.Generation = 0
	app.Spec.Placement.Partitions[0].Name = "prod-gz"
	err := hub.Client.Create(t.Context(), app)
	g.Expect(err).To(MatchError(ContainSubstring("no partition prod-gz: create the partition")))

	tn.partition("prod-gz", "guangzhou")
	g.Expect(hub.Client.Create(t.Context(), app)).To(Succeed(), "what was created a moment ago is known, also if the cache lags")

	web(app).DependsOn = []string{"score-record"}
	g.Expect(hub.Client.Update(t.Context(), app)).NotTo(Succeed())
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(app), app)).To(Succeed())
	app.Spec.Components[0].DependsOn = []string{"score-record"}
	g.Expect(hub.Client.Update(t.Context(), app)).To(MatchError(ContainSubstring("db-service → score-record → db-service")))
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(app), app)).To(Succeed())

	g.Expect(hub.Client.Delete(t.Context(), &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: tn.namespace, Name: "prod-gz"}})).To(Succeed())
	controllerutil.AddFinalizer(app, Finalizer)
	g.Expect(hub.Client.Update(t.Context(), app)).To(Succeed(), "a spec that stays the same is not judged again")
	g.Expect(hub.Client.Delete(t.Context(), app)).To(Succeed())
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(app), app)).To(Succeed())
	controllerutil.RemoveFinalizer(app, Finalizer)
	g.Expect(hub.Client.Update(t.Context(), app)).To(Succeed(), "deletion is never kept up")
}

func TestWebhookLetsThroughWhatOnlyTakesAMoment(t *testing.T) {
	g := NewWithT(t)
	tn := bareTenant(t)
	askWebhook(t, tn.namespace)
	app := score(tn.namespace)
	app.Generation = 0
	web(app).Configurations = []v1alpha1.ConfigurationUse{{Name: "tomcat-conf", MountPath: "/c"}}
	g.Expect(hub.Client.Create(t.Context(), app)).To(MatchError(ContainSubstring("no configuration tomcat-conf")))
	testkit.Create(t, hub.Client, &v1alpha1.Configuration{ObjectMeta: metav1.ObjectMeta{Namespace: tn.namespace, Name: "tomcat-conf"},
		Spec: v1alpha1.ConfigurationSpec{Files: map[string]string{"a": "b"}}})
	g.Expect(hub.Client.Create(t.Context(), app)).To(Succeed(), "the configuration is not stored yet, and will be")
}
