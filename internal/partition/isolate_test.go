package partition_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

func own(t *testing.T, name, text string) v1alpha1.PartitionNetworkPolicy {
	t.Helper()
	p := v1alpha1.PartitionNetworkPolicy{Name: name}
	if err := yaml.UnmarshalStrict([]byte(text), &p.Spec); err != nil {
		t.Fatal(err)
	}
	return p
}

// policies of a namespace by name.
func (w *world) policies(namespace string) map[string]networkingv1.NetworkPolicySpec {
	w.Helper()
	var list networkingv1.NetworkPolicyList
	if err := w.member.Client.List(w.Context(), &list, client.InNamespace(namespace)); err != nil {
		w.Fatal(err)
	}
	out := map[string]networkingv1.NetworkPolicySpec{}
	for _, p := range list.Items {
		out[p.Name] = p.Spec
	}
	return out
}

func TestNET08_PoliciesOfAPartition(t *testing.T) {
	w := start(t)
	g := NewWithT(t)
	p := w.ready(w.tenant(nil), "prod", func(s *v1alpha1.PartitionSpec) {
		s.NetworkPolicies = []v1alpha1.PartitionNetworkPolicy{
			own(t, "test-network-policy", "{podSelector: {matchLabels: {role: db}}, ingress: [{from: [{podSelector: {matchLabels: {role: frontend}}}], ports: [{port: 6379}]}]}"),
		}
	})
	ns := p.Status.Namespace
	names := func() []string { return slices.Sorted(maps.Keys(w.policies(ns))) }
	g.Expect(names()).To(Equal([]string{"test-network-policy", "yunfan-egress", "yunfan-gateway", "yunfan-ingress"}))
	theirs := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "theirs"}}
	testkit.Create(t, w.member.Client, theirs)

	t.Run("Drift", func(t *testing.T) {
		policy := &networkingv1.NetworkPolicy{}
		w.get(policy, ns, "test-network-policy")
		before := policy.Spec.DeepCopy()
		policy.Spec.Ingress = nil
		if err := w.member.Client.Update(t.Context(), policy); err != nil {
			t.Fatal(err)
		}
		NewWithT(t).Eventually(func() string { return cmp.Diff(*before, w.policies(ns)["test-network-policy"]) }, "10s").Should(BeEmpty())
	})
	w.update(p, func(s *v1alpha1.PartitionSpec) {
		s.NetworkPolicies = []v1alpha1.PartitionNetworkPolicy{own(t, "theirs", "{podSelector: {}}")}
	})
	w.eventually(p, v1alpha1.ReasonInvalid, "network policy theirs that is not Yunfan's")
	w.update(p, func(s *v1alpha1.PartitionSpec) {
		s.NetworkPolicies = []v1alpha1.PartitionNetworkPolicy{own(t, "bad", "{podSelector: {}, ingress: [{ports: [{port: 0}]}]}")}
	})
	w.eventually(p, v1alpha1.ReasonInvalid, "the cluster refuses the network policy")
	w.update(p, func(s *v1alpha1.PartitionSpec) { s.NetworkPolicies, s.Isolation.Ingress = nil, v1alpha1.IsolationAll })
	w.eventually(p, v1alpha1.ReasonReady, "")
	g.Eventually(names, "10s").Should(Equal([]string{"theirs", "yunfan-egress"}), "those of others stay")
}

func TestCLU05_PoliciesFollowAddresses(t *testing.T) {
	w := start(t)
	g := NewWithT(t)
	p := w.ready(w.tenant(nil), "prod")
	except := func() []string { return w.policies(p.Status.Namespace)["yunfan-egress"].Egress[0].To[1].IPBlock.Except }
	g.Expect(except()).To(ContainElements("192.168.1.10/32", "192.168.1.12/30"))
	other := &v1alpha1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Name: testkit.Name(t)},
		Spec:       v1alpha1.ClusterSpec{Connection: v1alpha1.ClusterConnection{KubeconfigSecretRef: &v1alpha1.SecretReference{Name: "x"}}},
	}
	testkit.Create(t, hub.Client, other)
	other.Status.Network = v1alpha1.ClusterNetwork{APIServers: []string{"192.168.2.10:6443"}, Nodes: []string{"192.168.2.11/32"}}
	if err := hub.Client.Status().Update(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	g.Eventually(except, "10s").Should(ContainElements("192.168.1.10/32", "192.168.1.12/30", "192.168.2.10/32", "192.168.2.11/32"))
	w.delete(other)
	g.Eventually(except, "10s").ShouldNot(ContainElement("192.168.2.10/32"))
}

func TestNET09_ServicesArePublished(t *testing.T) {
	w := start(t)
	g := NewWithT(t)
	p := w.ready(w.tenant(nil), "prod")
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Status.Namespace, Name: "web", Labels: map[string]string{v1alpha1.LabelTenant: p.Namespace, v1alpha1.LabelPartition: p.Name}},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	testkit.Create(t, w.member.Client, service)
	published := func() bool { _, there := w.policies(p.Status.Namespace)["yunfan-published-web"]; return there }
	g.Eventually(published, "10s").Should(BeTrue())
	cluster := &v1alpha1.Cluster{}
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKey{Name: w.cluster}, cluster)).To(Succeed())
	cluster.Status.Network.Pods = nil
	g.Expect(hub.Client.Status().Update(t.Context(), cluster)).To(Succeed())
	g.Eventually(published, "10s").Should(BeFalse(), "other tenants' pods cannot be told from the outside")
	w.eventually(p, v1alpha1.ReasonReady, "set spec.podCIDRs of the cluster")
}

func TestNET08_LabelsOfNamespaces(t *testing.T) {
	w := start(t)
	g := NewWithT(t)
	tenant := w.tenant(nil)
	p := w.ready(tenant, "prod")
	p.Labels = map[string]string{
		"project": "myproject", v1alpha1.LabelTenant: "other", "pod-security.kubernetes.io/enforce": "privileged", "admission.gatekeeper.sh/ignore": "yes",
	}
	g.Expect(hub.Client.Update(t.Context(), p)).To(Succeed())
	ns := &corev1.Namespace{}
	g.Eventually(func() string { w.get(ns, "", p.Status.Namespace); return ns.Labels["project"] }, "10s").Should(Equal("myproject"))
	g.Expect(ns.Labels).To(HaveKeyWithValue(v1alpha1.LabelTenant, tenant))
	g.Expect(ns.Labels).To(HaveKeyWithValue("pod-security.kubernetes.io/enforce", "baseline"))
	g.Expect(ns.Labels).NotTo(HaveKey("admission.gatekeeper.sh/ignore"), "whoever labels a partition turns no other's rules off")
	p.Labels = nil
	g.Expect(hub.Client.Update(t.Context(), p)).To(Succeed())
	g.Eventually(func() string { w.get(ns, "", p.Status.Namespace); return ns.Labels["project"] }, "10s").Should(BeEmpty())
}
