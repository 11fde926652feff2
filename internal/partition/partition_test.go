package partition_test

import (
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

func TestRES01_PartitionIsMadeInItsCluster(t *testing.T) {
	w := start(t)
	g := NewWithT(t)
	tenant := w.tenant(nil)
	p := w.ready(tenant, "prod", func(s *v1alpha1.PartitionSpec) {
		s.Nodes.Selector = map[string]string{"pool": "edu", "disk": "ssd"}
		s.Limits = []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, Default: list("cpu", "300m"), DefaultRequest: list("cpu", "200m")}}
		s.Isolation = v1alpha1.Isolation{Ingress: v1alpha1.IsolationPartition, Egress: v1alpha1.IsolationTenant}
	})
	name := tenant + "-prod"
	g.Expect(p.Status.Namespace).To(Equal(name))
	ns := &corev1.Namespace{}
	w.get(ns, "", name)
	g.Expect(ns.Labels).To(HaveKeyWithValue("pod-security.kubernetes.io/enforce", "baseline"))
	g.Expect(ns.Labels).To(HaveKeyWithValue(v1alpha1.LabelTenant, tenant))
	g.Expect(ns.Annotations).To(HaveKeyWithValue(v1alpha1.AnnotationNodeSelector, "disk=ssd,pool=edu"))
	w.get(&corev1.LimitRange{}, name, "yunfan")
	policy := &networkingv1.NetworkPolicy{}
	w.get(policy, name, "yunfan-egress")
	g.Expect(policy.Spec.Egress).To(HaveLen(2), "the name service and the tenant's pods")

	other := w.ready(tenant, "test")
	for _, partition := range []*v1alpha1.Partition{p, other} {
		c := w.as(partition)
		service := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: partition.Status.Namespace, Name: "myweb"},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}}},
		}
		g.Eventually(func() error { return c.Create(t.Context(), service) }, "5s").Should(Succeed(), "names are isolated")
	}
	first, second := &corev1.Service{}, &corev1.Service{}
	w.get(first, p.Status.Namespace, "myweb")
	w.get(second, other.Status.Namespace, "myweb")
	g.Expect(first.Spec.ClusterIP).NotTo(Equal(second.Spec.ClusterIP))
	w.delete(p)
	w.gone(hub.Client, p)
	w.gone(w.member.Client, ns)
	w.get(second, other.Status.Namespace, "myweb")
}

func (w *world) as(p *v1alpha1.Partition) client.Client {
	w.Helper()
	m, ok := w.set.Member(w.cluster)
	if !ok {
		w.Fatal("the member is not joined")
	}
	c, err := m.As(p.Status.Namespace)
	if err != nil {
		w.Fatal(err)
	}
	return c
}

func TestRES01_DriftIsCorrected(t *testing.T) {
	w := start(t)
	p := w.ready(w.tenant(nil), "prod", func(s *v1alpha1.PartitionSpec) { s.Quota = list("pods", "3") })
	quota, role := &corev1.ResourceQuota{}, &rbacv1.RoleBinding{}
	w.get(quota, p.Status.Namespace, "yunfan")
	w.get(role, p.Status.Namespace, v1alpha1.DeliveryServiceAccount)
	quota.Spec.Hard = list("pods", "100")
	if err := w.member.Client.Update(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	if err := w.member.Client.Delete(t.Context(), role); err != nil {
		t.Fatal(err)
	}
	NewWithT(t).Eventually(func(g Gomega) {
		w.get(quota, p.Status.Namespace, "yunfan")
		g.Expect(text(quota.Spec.Hard, "pods")).To(Equal("3"))
		g.Expect(w.member.Client.Get(t.Context(), client.ObjectKeyFromObject(role), role)).To(Succeed())
	}, "10s").Should(Succeed())

	w.update(p, func(s *v1alpha1.PartitionSpec) { s.Quota = nil; s.Isolation.Ingress = v1alpha1.IsolationAll })
	w.eventually(p, v1alpha1.ReasonReady, "")
	w.gone(w.member.Client, quota)
	w.gone(w.member.Client, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: p.Status.Namespace, Name: "yunfan-ingress"}})
}

func TestRES03_RES06_QuotaIsEnforcedAndShown(t *testing.T) {
	w := start(t)
	p := w.ready(w.tenant(nil), "prod", func(s *v1alpha1.PartitionSpec) {
		s.Quota = list("requests.cpu", "1", "requests.memory", "1G", "limits.cpu", "2", "limits.memory", "2G", "pods", "4",
			"configmaps", "10", "persistentvolumeclaims", "4", "replicationcontrollers", "20", "secrets", "10", "services", "10",
			"services.loadbalancers", "2")
		s.Limits = []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, Default: list("cpu", "300m", "memory", "200M"),
			DefaultRequest: list("cpu", "200m", "memory", "100M"), Max: list("cpu", "2")}}
	})
	ns := p.Status.Namespace
	g := NewWithT(t)
	g.Eventually(func() string {
		w.eventually(p, v1alpha1.ReasonReady, "")
		return text(p.Status.Hard, "pods")
	}, "20s").Should(Equal("4"))
	for range 4 {
		testkit.Create(t, w.member.Client, pod(ns))
	}
	cases := map[string]struct {
		reason string
		object client.Object
		rule   string
	}{
		"Pods": {"the fifth pod", pod(ns), "exceeded quota: yunfan"},
		"CPU": {"a container with more than the maximum", pod(ns, func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = list("cpu", "5", "memory", "1M")
		}), "maximum cpu usage per Container is 2"},
	}
	for name, tc := range cases {
		t.Run("RES-06 "+name, func(t *testing.T) {
			if err := w.member.Client.Create(t.Context(), tc.object); !apierrors.IsForbidden(err) || !contains(err, tc.rule) {
				t.Errorf("%s: want a refusal with %q, got %v", tc.reason, tc.rule, err)
			}
		})
	}
	g.Eventually(func() string {
		w.eventually(p, v1alpha1.ReasonReady, "")
		return text(p.Status.Used, "pods") + " " + text(p.Status.Used, "requests.cpu") + " " + text(p.Status.Used, "limits.memory")
	}, "20s").Should(Equal("4 800m 800M"))
	g.Eventually(func() int32 { w.eventually(p, v1alpha1.ReasonReady, ""); return p.Status.Pods }, "10s").Should(BeEquivalentTo(4))
}

func TestRES01_Namespaces(t *testing.T) {
	w := start(t)
	tenant := w.tenant(nil)
	foreign := testkit.Namespace(t, w.member.Client)
	explicit := func(name string) func(*v1alpha1.PartitionSpec) {
		return func(s *v1alpha1.PartitionSpec) { s.Namespace = name }
	}
	w.eventually(w.partition(tenant, "foreign", explicit(foreign)), v1alpha1.ReasonNamespaceTaken, "set spec.adopt")
	ns := &corev1.Namespace{}
	w.get(ns, "", foreign)
	if len(ns.Labels) != 1 || len(ns.Annotations) != 0 {
		t.Errorf("a foreign namespace was touched: %v %v", ns.Labels, ns.Annotations)
	}
	long := "a-tenant-that-has-forty-characters-in-it"
	testkit.Create(t, hub.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: long}}, &v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: long}})
	w.eventually(w.partition(long, "a-partition-with-as-long-a-name"), v1alpha1.ReasonNameReserved, "63 characters")
	stray := testkit.Namespace(t, hub.Client)
	w.eventually(w.partition(stray, "p"), v1alpha1.ReasonInvalid, "not a tenant's")

	first := w.ready(tenant, "first", explicit("shared-"+tenant))
	second := w.partition(w.tenant(nil), "second", explicit("shared-"+tenant))
	w.eventually(second, v1alpha1.ReasonNamespaceTaken, `partition "first" of tenant "`+tenant+`"`)
	w.eventually(first, v1alpha1.ReasonReady, "")

	adopted := w.ready(tenant, "adopted", explicit(foreign), func(s *v1alpha1.PartitionSpec) { s.Adopt = true })
	ours := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: foreign, Name: "theirs"}}
	testkit.Create(t, w.member.Client, ours)
	w.delete(adopted)
	w.gone(hub.Client, adopted)
	w.get(ns, "", foreign)
	for key := range ns.Labels {
		if key != corev1.LabelMetadataName {
			t.Errorf("the namespace that was adopted still has the label %s", key)
		}
	}
	w.get(ours, foreign, "theirs")
	w.gone(w.member.Client, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: foreign, Name: v1alpha1.DeliveryServiceAccount}})
}

func TestRES01_TenantQuotaBoundsItsPartitions(t *testing.T) {
	t.Parallel() // it waits more than it works
	w := start(t)
	name := w.tenant(list("requests.cpu", "4"))
	cpu := func(amount string) func(*v1alpha1.PartitionSpec) {
		return func(s *v1alpha1.PartitionSpec) { s.Quota = list("requests.cpu", amount) }
	}
	w.eventually(w.partition(name, "unbound"), v1alpha1.ReasonQuotaExceeded, `set spec.quota["requests.cpu"]`)
	first := w.ready(name, "first", cpu("3"))
	second := w.partition(name, "second", cpu("2"))
	w.eventually(second, v1alpha1.ReasonQuotaExceeded, "first 3")
	if second.Status.Namespace != "" {
		t.Error("a partition that the quota does not hold was made nevertheless")
	}
	w.update(first, cpu("2"))
	w.eventually(second, v1alpha1.ReasonReady, "")
	w.update(first, cpu("3"))
	w.eventually(first, v1alpha1.ReasonQuotaExceeded, "second 2")
	quota := &corev1.ResourceQuota{}
	w.get(quota, first.Status.Namespace, "yunfan")
	if got := text(quota.Spec.Hard, "requests.cpu"); got != "2" {
		t.Errorf("the cluster has quota %s, but only 2 were given", got)
	}
	w.delete(second)
	w.gone(hub.Client, second)
	w.eventually(first, v1alpha1.ReasonReady, "")
}
