package partition_test

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

func contains(err error, text string) bool { return err != nil && strings.Contains(err.Error(), text) }

func TestRES01_NodePools(t *testing.T) {
	t.Parallel() // it waits more than it works
	w := startAlone(t)
	g := NewWithT(t)
	own := w.node("own", map[string]string{"pool": "edu"})
	w.node("shared", map[string]string{"pool": "all"})
	tenant, other := w.tenant(nil), w.tenant(nil)
	exclusive := func(s *v1alpha1.PartitionSpec) {
		s.Nodes = v1alpha1.NodePool{Selector: map[string]string{"pool": "edu"}, Exclusive: true}
	}
	taints := func() string {
		w.get(own, "", own.Name)
		var out []string
		for _, taint := range own.Spec.Taints {
			if taint.Key == v1alpha1.TaintTenant { // The API server has one of its own for new nodes.
				out = append(out, taint.Key+"="+taint.Value+":"+string(taint.Effect))
			}
		}
		return strings.Join(out, ",")
	}
	p := w.ready(tenant, "prod", exclusive)
	g.Expect(taints()).To(Equal("yunfan.io/tenant=" + tenant + ":NoSchedule"))
	g.Expect(p.Status.Nodes).To(BeEquivalentTo(1))
	g.Expect(text(p.Status.Free, "cpu")).To(Equal("4"))

	w.eventually(w.partition(other, "greedy", exclusive), v1alpha1.ReasonInvalid, "already kept for tenant "+tenant)
	rest := w.ready(other, "rest")
	g.Eventually(func() int32 { w.eventually(rest, v1alpha1.ReasonReady, ""); return rest.Status.Nodes }, "10s").Should(
		BeEquivalentTo(1), "nodes kept for another tenant are not in the pool")

	running := pod("default", func(p *corev1.Pod) {
		p.Spec.NodeName = "shared"
		p.Spec.Containers[0].Resources.Requests = list("cpu", "1500m")
	})
	testkit.Create(t, w.member.Client, running)
	g.Eventually(func() string { w.eventually(rest, v1alpha1.ReasonReady, ""); return text(rest.Status.Free, "cpu") }, "15s").Should(Equal("2500m"))

	w.update(p, func(s *v1alpha1.PartitionSpec) { s.Nodes.Exclusive = false })
	g.Eventually(taints, "10s").ShouldNot(ContainSubstring(tenant), "the pool is no longer exclusive, and another wants it")
	g.Eventually(taints, "10s").Should(Equal("yunfan.io/tenant=" + other + ":NoSchedule"))
	greedy := &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: other, Name: "greedy"}}
	w.delete(greedy)
	g.Eventually(taints, "10s").Should(BeEmpty(), "a partition that goes gives its nodes back")
}

// What a tenant must not reach is refused by the member, whoever asks.
func TestRES01_MemberRefuses(t *testing.T) {
	w := start(t)
	tenant := w.tenant(nil)
	p := w.ready(tenant, "prod", func(s *v1alpha1.PartitionSpec) { s.Nodes.Selector = map[string]string{"pool": "edu"} })
	ns := p.Status.Namespace
	inPool := func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"pool": "edu", "more": "x"} }
	tolerate := func(toleration corev1.Toleration) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{toleration} }
	}
	yes := true
	cases := map[string]struct {
		reason string
		change func(*corev1.Pod)
		rule   string // empty if it is allowed
	}{
		"Plain":          {"an ordinary pod", func(*corev1.Pod) {}, ""},
		"HostPath":       {"the node's files", func(p *corev1.Pod) { p.Spec.Volumes = hostPath("/") }, "hostPath volumes"},
		"Privileged":     {"the node's devices", func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes} }, "privileged"},
		"HostNetwork":    {"the node's network", func(p *corev1.Pod) { p.Spec.HostNetwork = true }, "host namespaces"},
		"HostPID":        {"the node's processes", func(p *corev1.Pod) { p.Spec.HostPID = true }, "host namespaces"},
		"HostIPC":        {"the node's shared memory", func(p *corev1.Pod) { p.Spec.HostIPC = true }, "host namespaces"},
		"OtherPool":      {"other nodes", func(p *corev1.Pod) { p.Spec.NodeSelector["pool"] = "fin" }, "must have the node selector pool=edu"},
		"NoPool":         {"any node", func(p *corev1.Pod) { p.Spec.NodeSelector = nil }, "must have the node selector pool=edu"},
		"NodeName":       {"one node, past the scheduler", func(p *corev1.Pod) { p.Spec.NodeName = "n" }, "must not name their node"},
		"OwnToleration":  {"the tenant's own nodes", tolerate(corev1.Toleration{Key: v1alpha1.TaintTenant, Value: tenant}), ""},
		"Toleration":     {"another tenant's nodes", tolerate(corev1.Toleration{Key: v1alpha1.TaintTenant, Value: "fin"}), "must not tolerate the taint"},
		"AnyTenant":      {"every tenant's nodes", tolerate(corev1.Toleration{Key: v1alpha1.TaintTenant, Operator: "Exists"}), "must not tolerate the taint"},
		"AnyTaint":       {"all nodes", tolerate(corev1.Toleration{Operator: "Exists"}), "must not tolerate the taint"},
		"OtherTaint":     {"a taint of somebody else's", tolerate(corev1.Toleration{Key: "gpu", Operator: "Exists"}), ""},
		"ServiceAccount": {"the rights to deliver", func(p *corev1.Pod) { p.Spec.ServiceAccountName = v1alpha1.DeliveryServiceAccount }, "must not run as"},
		"Priority":       {"the place of the system's pods", func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-node-critical" }, "priority class of the system"},
	}
	refusedOnce(w, pod(ns))
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := w.member.Client.Create(t.Context(), pod(ns, inPool, tc.change))
			if tc.rule == "" && err != nil || tc.rule != "" && !contains(err, tc.rule) {
				t.Errorf("a pod that wants %s: want %q, got %v", tc.reason, tc.rule, err)
			}
		})
	}

	t.Run("Update", func(t *testing.T) {
		running := pod(ns, inPool)
		testkit.Create(t, w.member.Client, running)
		running.Spec.Tolerations = append(running.Spec.Tolerations, corev1.Toleration{Key: v1alpha1.TaintTenant, Value: "fin"})
		if err := w.member.Client.Update(t.Context(), running); !contains(err, "must not tolerate") {
			t.Errorf("a toleration that is added later: want a refusal, got %v", err)
		}
	})
	t.Run("OtherNamespaces", func(t *testing.T) {
		testkit.Create(t, w.member.Client, pod(testkit.Namespace(t, w.member.Client), tolerate(corev1.Toleration{Operator: "Exists"})))
	})
	t.Run("Identity", func(t *testing.T) { refusesToIdentity(w, p) })
}

func hostPath(path string) []corev1.Volume {
	return []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}}}}
}

// refusedOnce waits until the API server has read the policy, which takes it a moment after it was created.
func refusedOnce(w *world, p *corev1.Pod) {
	w.Helper()
	NewWithT(w).Eventually(func() error {
		return client.NewDryRunClient(w.member.Client).Create(w.Context(), p.DeepCopy())
	}, "15s", "50ms").ShouldNot(Succeed())
}

// refusesToIdentity tries what the identity of a partition must not do.
func refusesToIdentity(w *world, p *v1alpha1.Partition) {
	c := w.as(p)
	elsewhere := testkit.Namespace(w, w.member.Client)
	name := func(namespace string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: namespace, Name: "x"} }
	for reason, o := range map[string]client.Object{
		"pods past their workloads":       pod(p.Status.Namespace),
		"objects of another namespace":    &corev1.ConfigMap{ObjectMeta: name(elsewhere)},
		"rights":                          &rbacv1.RoleBinding{ObjectMeta: name(p.Status.Namespace), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}},
		"rights over the cluster":         &rbacv1.ClusterRole{ObjectMeta: name("")},
		"another quota":                   &corev1.ResourceQuota{ObjectMeta: name(p.Status.Namespace)},
		"volumes of the node's files":     &corev1.PersistentVolume{ObjectMeta: name("")},
		"namespaces outside its own":      &corev1.Namespace{ObjectMeta: name("")},
		"service accounts for other pods": &corev1.ServiceAccount{ObjectMeta: name(p.Status.Namespace)},
	} {
		if err := c.Create(w.Context(), o); !apierrors.IsForbidden(err) {
			w.Errorf("creating %s: want Forbidden, got %v", reason, err)
		}
	}
	if err := c.Create(w.Context(), &corev1.ConfigMap{ObjectMeta: name(p.Status.Namespace)}); err != nil {
		w.Errorf("creating what is delivered: %v", err)
	}
}

func TestRES01_Deletion(t *testing.T) {
	t.Parallel() // it waits more than it works
	w := start(t)
	tenant := w.tenant(nil)
	kept := w.ready(tenant, "kept")
	score := w.delivery(kept, "score")
	w.delete(kept)
	w.eventually(kept, v1alpha1.ReasonDeliveriesExist, "score")
	w.get(&corev1.Namespace{}, "", kept.Status.Namespace)
	w.delete(score)
	w.gone(hub.Client, kept)
	w.gone(w.member.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: kept.Status.Namespace}})

	wiped := w.ready(tenant, "wiped", func(s *v1alpha1.PartitionSpec) { s.DeletionPolicy = v1alpha1.DeletionDelete })
	other := w.delivery(wiped, "score")
	w.delete(wiped)
	w.gone(hub.Client, other)
	w.gone(hub.Client, wiped)

	stored := &v1alpha1.Tenant{}
	if err := hub.Client.Get(t.Context(), client.ObjectKey{Name: tenant}, stored); err != nil || len(stored.Status.Allocated) != 0 {
		t.Errorf("the tenant still has allocations: %v, %v", stored.Status.Allocated, err)
	}
}

func TestRES01_ClusterLostAndBack(t *testing.T) {
	t.Parallel() // it waits more than it works
	w := start(t)
	p := w.ready(w.tenant(nil), "prod", func(s *v1alpha1.PartitionSpec) { s.Quota = list("pods", "3") })
	NewWithT(t).Eventually(func() int { w.eventually(p, v1alpha1.ReasonReady, ""); return len(p.Status.Hard) }, "10s").Should(Equal(1))
	w.proxy.Freeze(t)
	w.eventually(p, v1alpha1.ReasonUnreachable, "last seen")
	if len(p.Status.Hard) != 1 || p.Status.Namespace == "" {
		t.Errorf("what was last seen is lost: %+v", p.Status)
	}
	w.update(p, func(s *v1alpha1.PartitionSpec) { s.Quota = list("pods", "5") })
	w.proxy.Pass(t)
	w.eventually(p, v1alpha1.ReasonReady, "")
	quota := &corev1.ResourceQuota{}
	w.get(quota, p.Status.Namespace, "yunfan")
	if got := text(quota.Spec.Hard, "pods"); got != "5" {
		t.Errorf("the change made meanwhile was not applied: pods %s", got)
	}
}

func TestCLU01_RemovedClusterKeepsAndReturns(t *testing.T) {
	w := start(t)
	p := w.ready(w.tenant(nil), "prod")
	ns := &corev1.Namespace{}
	w.get(ns, "", p.Status.Namespace)
	uid := ns.UID

	w.set.Disconnect(w.cluster)
	cluster := &v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: w.cluster}}
	w.delete(cluster)
	w.eventually(p, v1alpha1.ReasonClusterNotFound, "join it under this name")
	w.get(ns, "", p.Status.Namespace)
	w.create()
	w.join()
	w.eventually(p, v1alpha1.ReasonReady, "")
	w.get(ns, "", p.Status.Namespace)
	if ns.UID != uid {
		t.Error("the namespace was made anew")
	}

	w.set.Disconnect(w.cluster)
	w.delete(&v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: w.cluster}}, p)
	w.gone(hub.Client, p)
	w.get(ns, "", p.MemberNamespace())
}

func TestCLU01_CleanMember(t *testing.T) {
	t.Parallel() // it waits more than it works
	w := startAlone(t)
	tenant := w.tenant(nil)
	node := w.node("n", map[string]string{"pool": "edu"})
	adopted := testkit.Namespace(t, w.member.Client)
	own := w.ready(tenant, "own", func(s *v1alpha1.PartitionSpec) {
		s.Nodes = v1alpha1.NodePool{Selector: map[string]string{"pool": "edu"}, Exclusive: true}
	})
	w.ready(tenant, "adopted", func(s *v1alpha1.PartitionSpec) { s.Namespace, s.Adopt = adopted, true })
	labels := map[string]string{v1alpha1.LabelPartition: "adopted"}
	delivered := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: adopted, Name: "delivered", Labels: labels}}
	theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: adopted, Name: "theirs"}}
	testkit.Create(t, w.member.Client, delivered, theirs)

	m, _ := w.set.Member(w.cluster)
	w.set.Retire(w.cluster)
	g := NewWithT(t)
	g.Eventually(func() (string, error) { return w.controller.CleanMember(t.Context(), m) }, "20s").Should(BeEmpty())
	w.gone(w.member.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: own.Status.Namespace}})
	w.gone(w.member.Client, delivered)
	w.get(theirs, adopted, "theirs")
	w.get(node, "", "n")
	for _, taint := range node.Spec.Taints {
		g.Expect(taint.Key).NotTo(Equal(v1alpha1.TaintTenant))
	}
}

// TestServerRestarts: a partition stays ready while its cluster is only being connected again, and not when the cluster
// is known not to answer.
func TestServerRestarts(t *testing.T) {
	w := start(t)
	p := w.ready(w.tenant(nil), "prod")
	w.set.Disconnect(w.cluster)
	say := func(status metav1.ConditionStatus, reason string) {
		t.Helper()
		cluster := &v1alpha1.Cluster{}
		if err := hub.Client.Get(t.Context(), client.ObjectKey{Name: w.cluster}, cluster); err != nil {
			t.Fatal(err)
		}
		cluster.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: status, Reason: reason, LastTransitionTime: metav1.Now()}}
		if err := hub.Client.Status().Update(t.Context(), cluster); err != nil {
			t.Fatal(err)
		}
	}
	say(metav1.ConditionFalse, v1alpha1.ReasonReconciling)
	NewWithT(t).Consistently(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(p), p)).To(Succeed())
		g.Expect(meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionReady)).To(BeTrue())
	}, "2s", "100ms").Should(Succeed())
	say(metav1.ConditionFalse, v1alpha1.ReasonUnreachable)
	w.eventually(p, v1alpha1.ReasonUnreachable, "does not answer")
	say(metav1.ConditionTrue, v1alpha1.ReasonReady)
	w.eventually(p, v1alpha1.ReasonClusterNotReady, "is being connected")
}
