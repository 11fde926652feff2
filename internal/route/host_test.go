package route

import (
	"context"
	"encoding/pem"
	"net/http/httptest"
	"sync"
	"testing"

	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

func TestHostBelongsToOneTenant(t *testing.T) {
	g := NewWithT(t)
	start(t, nil)
	edu, bank := testkit.Namespace(t, hub.Client), testkit.Namespace(t, hub.Client)
	host := edu + ".example.com"
	create(t, application(edu, "a"), application(bank, "a"))
	first, second := routeObject(edu, "r", []string{host}, to("a")), routeObject(bank, "r", []string{host}, to("a"))
	create(t, first)
	g.Eventually(readyOf(t, first), patience).Should(HavePrefix(v1alpha1.ReasonNoEdge))
	create(t, second)
	g.Eventually(readyOf(t, second), patience).Should(Equal("HostTaken: host " + host +
		" is taken by another tenant: choose another host, or ask the platform's administrators who has it"))

	other := routeObject(edu, "other", []string{host}, to("a", "/other"))
	create(t, other)
	g.Expect(hub.Client.Delete(t.Context(), first)).To(Succeed())
	g.Eventually(readyOf(t, other), patience).Should(HavePrefix(v1alpha1.ReasonNoEdge), "the tenant has another Route for it")
	g.Consistently(readyOf(t, second), "1s").Should(HavePrefix(v1alpha1.ReasonHostTaken))
	g.Expect(hub.Client.Delete(t.Context(), other)).To(Succeed())
	g.Eventually(readyOf(t, second), patience).Should(HavePrefix(v1alpha1.ReasonNoEdge), "it is free once the tenant's last Route for it is gone")

	other = second.DeepCopy()
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(second), other)).To(Succeed())
	other.Spec.Hosts = []string{"new." + host}
	g.Expect(hub.Client.Update(t.Context(), other)).To(Succeed())
	g.Eventually(func() bool {
		err := hub.Client.Get(t.Context(), client.ObjectKey{Name: v1alpha1.RouteHostName(host)}, &v1alpha1.RouteHost{})
		return apierrors.IsNotFound(err)
	}, patience).Should(BeTrue(), "a host that a Route no longer names is released")
}

func TestWildcardsAndHostsOfTwoTenants(t *testing.T) {
	g := NewWithT(t)
	start(t, nil)
	edu, bank := testkit.Namespace(t, hub.Client), testkit.Namespace(t, hub.Client)
	domain := edu + ".example.com"
	create(t, application(edu, "a"), application(bank, "a"))
	exact := routeObject(bank, "exact", []string{"shop." + domain}, to("a"))
	create(t, exact)
	g.Eventually(readyOf(t, exact), patience).Should(HavePrefix(v1alpha1.ReasonNoEdge))
	wide := routeObject(edu, "wide", []string{"*." + domain}, to("a"))
	create(t, wide)
	g.Eventually(readyOf(t, wide), patience).Should(HavePrefix(v1alpha1.ReasonNoEdge), "what nobody has yet can be had by a wildcard")
	late := routeObject(bank, "late", []string{"late." + domain}, to("a"))
	deep := routeObject(bank, "deep", []string{"*.deep." + domain}, to("a"))
	create(t, late, deep)
	for _, route := range []*v1alpha1.Route{late, deep} {
		g.Eventually(readyOf(t, route), patience).Should(ContainSubstring("is in *."+domain+", which another tenant has"), "the domain is kept from others from then on")
	}
	g.Consistently(readyOf(t, exact), "1s").Should(HavePrefix(v1alpha1.ReasonNoEdge), "and nobody loses what he had")
}

func TestOfManyTenantsOneGetsTheHost(t *testing.T) {
	g := NewWithT(t)
	r := start(t, nil)
	host := testkit.Name(t) + ".example.com"
	const tenants = 12
	got := make([]string, tenants)
	var group sync.WaitGroup
	for i := range tenants {
		group.Go(func() {
			taken, err := r.claimHost(context.Background(), host, "tenant"+string(rune('a'+i)))
			if got[i] = taken; err != nil {
				got[i] = err.Error()
			}
		})
	}
	group.Wait()
	g.Expect(got).To(ContainElement("host "+host+" is taken by another tenant"), "the others are told")
	winners := 0
	for _, taken := range got {
		if taken == "" {
			winners++
		}
	}
	g.Expect(winners).To(Equal(1), "%v", got)
}

func TestWebhookRefusesEarly(t *testing.T) {
	g := NewWithT(t)
	r := start(t, nil)
	edu, bank := testkit.Namespace(t, hub.Client), testkit.Namespace(t, hub.Client)
	server := httptest.NewTLSServer(r.Webhook())
	t.Cleanup(server.Close)
	registration := &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: edu},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name: "routes.validate.yunfan.io", Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
				Rule:       admissionv1.Rule{APIGroups: []string{"yunfan.io"}, APIVersions: []string{"v1alpha1"}, Resources: []string{"routes"}},
			}},
			ClientConfig: admissionv1.WebhookClientConfig{
				URL:      new(server.URL + WebhookPath),
				CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
			},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": edu}},
			FailurePolicy:     ptr.To(admissionv1.Fail), SideEffects: ptr.To(admissionv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
		}},
	}
	create(t, registration, application(edu, "a"), application(bank, "a"))
	sound := routeObject(edu, "r", []string{edu + ".example.com"}, to("a"))
	unsound := sound.DeepCopy()
	unsound.Spec.Rules[0].Backends[0].Component = "none"
	g.Eventually(func() error { return hub.Client.Create(t.Context(), unsound.DeepCopy(), client.DryRunAll) }, patience).
		Should(MatchError(ContainSubstring("application a has no component none")))
	foreign := routeObject(bank, "r", []string{"foreign." + edu + ".example.com"}, to("a"))
	create(t, foreign)
	g.Eventually(readyOf(t, foreign), patience).Should(HavePrefix(v1alpha1.ReasonNoEdge))
	taken := routeObject(edu, "taken", foreign.Spec.Hosts, to("a"))
	g.Expect(hub.Client.Create(t.Context(), taken)).To(MatchError(ContainSubstring("is taken by another tenant")))
	create(t, sound)
}
