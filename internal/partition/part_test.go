package partition_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

func partOf(parent string, more ...func(*v1alpha1.PartitionSpec)) func(*v1alpha1.PartitionSpec) {
	return func(s *v1alpha1.PartitionSpec) {
		s.Parent = parent
		for _, f := range more {
			f(s)
		}
	}
}

// own is the quota of CPU that the cluster enforces in the partition itself.
func (w *world) own(p *v1alpha1.Partition) string {
	quota := &corev1.ResourceQuota{}
	if err := w.member.Client.Get(w.Context(), client.ObjectKey{Namespace: p.Status.Namespace, Name: "yunfan"}, quota); err != nil {
		return err.Error()
	}
	return text(quota.Spec.Hard, "requests.cpu")
}

func busy(namespace, cpu string) *corev1.Pod {
	return pod(namespace, func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = list("cpu", cpu) })
}

func TestRES15_PartsTakeTheirQuotaFromTheParent(t *testing.T) {
	t.Parallel() // it waits more than it works
	w := start(t)
	g := NewWithT(t)
	tenant := w.tenant(list("requests.cpu", "4"))
	w.neverMore(tenant, "4")
	parent := w.ready(tenant, "prod", cpu("4"))
	blue := w.ready(tenant, "blue", partOf("prod", cpu("1")))
	g.Expect(w.own(parent)).To(Equal("3"), "the parent gave 1 away before the part was made")
	green := w.ready(tenant, "green", partOf("prod", cpu("2")))
	g.Expect(w.own(parent)).To(Equal("1"))
	g.Expect(w.stored(tenant).Status.Allocated).To(HaveLen(1), "parts take nothing from the tenant")

	red := w.partition(tenant, "red", partOf("prod", cpu("1500m")))
	w.eventually(red, v1alpha1.ReasonQuotaExceeded, "1500m is asked for, but of the 4 of partition prod 3 is given to others (blue 1, green 2), so 1 is left")
	g.Expect(red.Status.Namespace).To(BeEmpty())
	w.update(red, func(s *v1alpha1.PartitionSpec) { s.Quota = list("pods", "3") })
	w.eventually(red, v1alpha1.ReasonQuotaExceeded, `partition prod has a quota of 4 requests.cpu, so each of its partitions needs one: set spec.quota["requests.cpu"]`)
	w.delete(red)
	w.gone(hub.Client, red)

	g.Eventually(func() error { return w.member.Client.Create(t.Context(), busy(parent.Status.Namespace, "600m")) }, "15s").Should(Succeed())
	g.Expect(w.member.Client.Create(t.Context(), busy(parent.Status.Namespace, "600m"))).To(MatchError(ContainSubstring("limited: requests.cpu=1")))
	w.update(blue, cpu("1500m"))
	w.eventually(blue, v1alpha1.ReasonQuotaExceeded, "(green 2) and 600m is used there, so 1400m is left")
	g.Expect(w.own(blue)).To(Equal("1"), "it keeps what it has")
	w.update(blue, cpu("1400m"))
	w.eventually(blue, v1alpha1.ReasonReady, "")
	g.Expect(w.own(parent)).To(Equal("600m"))

	w.update(parent, cpu("3"))
	w.eventually(parent, v1alpha1.ReasonQuotaExceeded, "3 is too little, its parts were given 3400m (blue 1400m, green 2): lower their quotas first")
	w.update(green, cpu("1"))
	w.eventually(green, v1alpha1.ReasonReady, "")
	w.eventually(parent, v1alpha1.ReasonReady, "")
	g.Eventually(func() string { return w.own(parent) }, "10s").Should(Equal("600m"))
	g.Eventually(func() string { return text(w.stored(tenant).Status.Allocated[0].Quota, "requests.cpu") }, "10s").Should(Equal("3"))

	w.delete(parent)
	w.eventually(parent, v1alpha1.ReasonInUse, "these partitions are parts of it: blue, green")
	late := w.partition(tenant, "late", partOf("prod", cpu("100m")))
	w.eventually(late, v1alpha1.ReasonPartitionNotFound, "is being deleted")
	w.delete(late)
	w.delete(blue)
	w.gone(hub.Client, blue)
	g.Eventually(func() []v1alpha1.Allocation {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(parent), parent)).To(Succeed())
		return parent.Status.Allocated
	}, "10s").Should(HaveLen(1), "what a part had is given back")
	w.delete(green)
	w.gone(hub.Client, green)
	w.gone(hub.Client, parent)
	g.Expect(w.stored(tenant).Status.Allocated).To(BeEmpty())
}

// Parts are carved out by two servers while pods are started in the parent as fast as it goes: what is granted is never
// more than the quota, and what runs in the parent never more than is left to it.
func TestRES15_CarvingIsAtomic(t *testing.T) {
	w := start(t)
	w.secondServer()
	g := NewWithT(t)
	tenant := w.tenant(list("requests.cpu", "6"))
	w.neverMore(tenant, "6")
	parent := w.ready(tenant, "prod", cpu("6"))
	var started atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		for ctx.Err() == nil && started.Load() < 25 {
			err := w.member.Client.Create(ctx, busy(parent.Status.Namespace, "100m"))
			if err == nil {
				started.Add(1)
			} else if !apierrors.IsForbidden(err) && ctx.Err() == nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	parts := make([]*v1alpha1.Partition, 8)
	for i := range parts {
		parts[i] = w.partition(tenant, fmt.Sprintf("p%d", i), partOf("prod", cpu("1")))
	}
	ready := 0
	g.Eventually(func(g Gomega) {
		ready = 0
		for _, p := range parts {
			g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(p), p)).To(Succeed())
			c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
			g.Expect(c).NotTo(BeNil())
			g.Expect(c.Reason).To(BeElementOf(v1alpha1.ReasonReady, v1alpha1.ReasonQuotaExceeded), c.Message)
			if c.Reason == v1alpha1.ReasonReady {
				ready++
			}
		}
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(parent), parent)).To(Succeed())
		g.Expect(parent.Status.Allocated).To(HaveLen(ready))
	}, "60s", "200ms").Should(Succeed())
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	quota := &corev1.ResourceQuota{}
	w.get(quota, parent.Status.Namespace, "yunfan")
	used, hard := quota.Status.Used["requests.cpu"], quota.Spec.Hard["requests.cpu"]
	if used.Cmp(hard) > 0 || ready == 0 {
		t.Errorf("%d parts, the parent itself uses %s of %s", ready, used.String(), hard.String())
	}
	for _, p := range parts {
		w.delete(p)
	}
	w.delete(parent)
}

func TestRES15_PartsAreNotWiderThanTheirParent(t *testing.T) {
	t.Parallel() // it waits more than it works
	w := startAlone(t)
	g := NewWithT(t)
	w.node("own", map[string]string{"pool": "edu"})
	tenant := w.tenant(nil)
	w.ready(tenant, "prod", func(s *v1alpha1.PartitionSpec) {
		s.Nodes.Selector = map[string]string{"pool": "edu"}
		s.PodSecurity = v1alpha1.PodSecurityRestricted
		s.Isolation = v1alpha1.Isolation{Ingress: v1alpha1.IsolationPartition, Egress: v1alpha1.IsolationTenant}
	})
	plain := w.ready(tenant, "plain", partOf("prod"))
	ns := &corev1.Namespace{}
	w.get(ns, "", plain.Status.Namespace)
	g.Expect(ns.Labels).To(HaveKeyWithValue("pod-security.kubernetes.io/enforce", "restricted"))
	g.Expect(ns.Annotations).To(HaveKeyWithValue(v1alpha1.AnnotationNodeSelector, "pool=edu"))
	g.Expect(plain.NodePool().Selector).To(Equal(map[string]string{"pool": "edu"}), "what is delivered gets it, too")
	policy := &networkingv1.NetworkPolicy{}
	w.get(policy, plain.Status.Namespace, "yunfan-ingress")
	g.Expect(policy.Spec.Ingress[0].From[0].PodSelector).NotTo(BeNil(), "from its own pods only")

	narrow := w.ready(tenant, "narrow", partOf("prod", func(s *v1alpha1.PartitionSpec) { s.Nodes.Selector = map[string]string{"disk": "ssd"} }))
	g.Expect(narrow.NodePool().Selector).To(Equal(map[string]string{"pool": "edu", "disk": "ssd"}))

	other := w.ready(tenant, "other")
	testkit.Namespace(t, w.member.Client)
	for name, tc := range map[string]struct {
		change  func(*v1alpha1.PartitionSpec)
		reason  string
		message string
	}{
		"nodes": {func(s *v1alpha1.PartitionSpec) { s.Nodes.Selector = map[string]string{"pool": "fin"} }, v1alpha1.ReasonInvalid, "spec.nodes.selector pool=fin is not among the nodes of prod"},
		"exclusive": {func(s *v1alpha1.PartitionSpec) {
			s.Nodes = v1alpha1.NodePool{Selector: map[string]string{"pool": "edu"}, Exclusive: true}
		}, v1alpha1.ReasonInvalid, "are not kept for the tenant"},
		"security":   {func(s *v1alpha1.PartitionSpec) { s.PodSecurity = v1alpha1.PodSecurityPrivileged }, v1alpha1.ReasonInvalid, "spec.podSecurity Privileged is weaker than Restricted of prod"},
		"api-server": {func(s *v1alpha1.PartitionSpec) { s.Isolation.APIServer = true }, v1alpha1.ReasonInvalid, "the API server is closed to prod"},
		"policy": {func(s *v1alpha1.PartitionSpec) { s.NetworkPolicies = []v1alpha1.PartitionNetworkPolicy{{Name: "open"}} }, v1alpha1.ReasonInvalid,
			"spec.networkPolicies open may open what spec.isolation of prod closes"},
		"ingress":   {func(s *v1alpha1.PartitionSpec) { s.Isolation.Ingress = v1alpha1.IsolationAll }, v1alpha1.ReasonInvalid, "spec.isolation.ingress All is weaker than Partition of prod"},
		"depth":     {func(s *v1alpha1.PartitionSpec) { s.Parent = "plain" }, v1alpha1.ReasonInvalid, "is itself a part of prod"},
		"cluster":   {func(s *v1alpha1.PartitionSpec) { s.Parent = "elsewhere" }, v1alpha1.ReasonInvalid, "is in cluster nowhere"},
		"unknown":   {func(s *v1alpha1.PartitionSpec) { s.Parent = "none" }, v1alpha1.ReasonPartitionNotFound, "does not exist in tenant " + tenant},
		"namespace": {func(s *v1alpha1.PartitionSpec) { s.Namespace = "somebody-elses" }, v1alpha1.ReasonInvalid, "begins with " + tenant + "-"},
	} {
		if name == "cluster" {
			w.partition(tenant, "elsewhere", func(s *v1alpha1.PartitionSpec) { s.Cluster = "nowhere" })
		}
		p := w.partition(tenant, name, partOf("prod", tc.change))
		w.eventually(p, tc.reason, tc.message)
		if p.Status.Namespace != "" {
			t.Errorf("%s: it was made nevertheless", name)
		}
	}
	node := &corev1.Node{}
	w.get(node, "", "own")
	for _, taint := range node.Spec.Taints {
		g.Expect(taint.Key).NotTo(Equal(v1alpha1.TaintTenant), "a refused partition keeps no nodes")
	}

	t.Run("LaterToo", func(t *testing.T) {
		part := w.ready(tenant, "later", partOf("other", func(s *v1alpha1.PartitionSpec) { s.Isolation.Ingress = v1alpha1.IsolationTenant }))
		w.update(other, func(s *v1alpha1.PartitionSpec) {
			s.PodSecurity = v1alpha1.PodSecurityRestricted
			s.Isolation.Ingress = v1alpha1.IsolationNone
		})
		g.Eventually(func() map[string]string { w.get(ns, "", part.Status.Namespace); return ns.Labels }, "10s").Should(
			HaveKeyWithValue("pod-security.kubernetes.io/enforce", "restricted"), "what the parent becomes its parts become")
	})
}
