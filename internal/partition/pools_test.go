package partition_test

import (
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

// usable makes a node that the scheduler uses: nobody else takes the taint off that new nodes have.
func (w *world) usable(name string, labels map[string]string) {
	w.Helper()
	n := w.node(name, labels)
	n.Spec.Taints = nil
	if err := w.member.Client.Update(w.Context(), n); err != nil {
		w.Fatal(err)
	}
}

// Figure 2-4 of the book: tenant 1 owns node1 and node2, tenants 2 and 3 share node3, tenants 3 and 4 share node4. Real
// scheduler, real admission; the nodes are objects.
func TestRES04_NodesOfFourTenants(t *testing.T) {
	w := startAlone(t)
	w.member.StartScheduler(t)
	g := NewWithT(t)
	for name, tenants := range map[string]string{"node1": "t1", "node2": "t1", "node3": "t2 t3", "node4": "t3 t4"} {
		labels := map[string]string{}
		for tenant := range strings.FieldsSeq(tenants) {
			labels["edu.example/"+tenant] = "yes"
		}
		w.usable(name, labels)
	}
	where := map[string]string{"t1": "node1 node2", "t2": "node3", "t3": "node3 node4", "t4": "node4"}
	partitions := map[string]*v1alpha1.Partition{}
	for name := range where {
		partitions[name] = w.ready(w.tenant(nil), name, func(s *v1alpha1.PartitionSpec) {
			s.Nodes = v1alpha1.NodePool{Selector: map[string]string{"edu.example/" + name: "yes"}, Exclusive: name == "t1"}
		})
	}
	refusedOnce(w, pod(partitions["t1"].Status.Namespace))
	of := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.NodeSelector = map[string]string{"edu.example/" + name: "yes"}
			p.Spec.Containers[0].Resources.Requests = list("cpu", "100m")
			if name == "t1" {
				p.Spec.Tolerations = []corev1.Toleration{{Key: v1alpha1.TaintTenant, Value: partitions[name].Namespace, Effect: corev1.TaintEffectNoSchedule}}
			}
		}
	}
	const each = 8
	// Tenant 3 comes first: the scheduler prefers the emptier of its two nodes.
	for _, name := range []string{"t3", "t1", "t2", "t4"} {
		for range each {
			testkit.Create(t, w.member.Client, pod(partitions[name].Status.Namespace, of(name)))
		}
	}
	for name, p := range partitions {
		g.Eventually(func(g Gomega) {
			var pods corev1.PodList
			g.Expect(w.member.Client.List(t.Context(), &pods, client.InNamespace(p.Status.Namespace))).To(Succeed())
			nodes := map[string]bool{}
			for i := range pods.Items {
				node := pods.Items[i].Spec.NodeName
				g.Expect(node).NotTo(BeEmpty())
				nodes[node] = true
			}
			used := []string{}
			for node := range nodes {
				used = append(used, node)
			}
			slices.Sort(used)
			g.Expect(strings.Join(used, " ")).To(Equal(where[name]), "tenant "+name)
		}, "30s", "200ms").Should(Succeed())
	}

	t.Run("NobodyElseOnExclusiveNodes", func(t *testing.T) {
		intruder := func(change ...func(*corev1.Pod)) error {
			return w.member.Client.Create(t.Context(), pod(partitions["t3"].Status.Namespace, append([]func(*corev1.Pod){of("t3")}, change...)...))
		}
		g := NewWithT(t)
		g.Expect(intruder(func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"edu.example/t1": "yes"} })).To(MatchError(ContainSubstring("must have the node selector edu.example/t3=yes")))
		g.Expect(intruder(of("t1"))).To(MatchError(ContainSubstring("must ")), "with another tenant's toleration")
		g.Expect(intruder(func(p *corev1.Pod) { p.Spec.NodeName = "node1" })).To(MatchError(ContainSubstring("must not name their node")))
		// Who has no partition at all gets no toleration either: the taint alone keeps him off.
		outside := pod(testkit.Namespace(t, w.member.Client), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"edu.example/t1": "yes"} })
		testkit.Create(t, w.member.Client, outside)
		g.Eventually(func() string {
			g.Expect(w.member.Client.Get(t.Context(), client.ObjectKeyFromObject(outside), outside)).To(Succeed())
			for _, c := range outside.Status.Conditions {
				if c.Reason == corev1.PodReasonUnschedulable {
					return c.Message
				}
			}
			return ""
		}, "20s", "200ms").Should(ContainSubstring("untolerated taint"))
	})

	t.Run("WithoutBindingAllNodesAreShared", func(t *testing.T) {
		g := NewWithT(t)
		free := w.ready(w.tenant(nil), "free")
		p := pod(free.Status.Namespace)
		testkit.Create(t, w.member.Client, p)
		g.Eventually(func() string {
			g.Expect(w.member.Client.Get(t.Context(), client.ObjectKeyFromObject(p), p)).To(Succeed())
			return p.Spec.NodeName
		}, "20s", "200ms").Should(BeElementOf("node3", "node4"))
		g.Eventually(func() int32 { w.eventually(free, v1alpha1.ReasonReady, ""); return free.Status.Nodes }, "15s").Should(BeEquivalentTo(2))
	})
}

// The samples of the book, against a real API server: see RES-05 and RES-06.
func TestRES05_LimitsOfTheBook(t *testing.T) {
	w := start(t)
	g := NewWithT(t)
	p := w.ready(w.tenant(nil), "prod", func(s *v1alpha1.PartitionSpec) {
		s.Limits = []corev1.LimitRangeItem{
			{
				Type: corev1.LimitTypePod, Max: list("cpu", "4", "memory", "2Gi"), Min: list("cpu", "200m", "memory", "6Mi"),
				MaxLimitRequestRatio: list("cpu", "3", "memory", "2"),
			},
			{
				Type: corev1.LimitTypeContainer, Default: list("cpu", "300m", "memory", "200Mi"), DefaultRequest: list("cpu", "200m", "memory", "100Mi"),
				Max: list("cpu", "2", "memory", "1Gi"), Min: list("cpu", "100m", "memory", "3Mi"), MaxLimitRequestRatio: list("cpu", "5", "memory", "4"),
			},
		}
	})
	sized := func(requests, limits corev1.ResourceList) *corev1.Pod {
		return pod(p.Status.Namespace, func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
		})
	}
	plain := sized(nil, nil)
	testkit.Create(t, w.member.Client, plain)
	got := plain.Spec.Containers[0].Resources
	g.Expect([]string{text(got.Limits, "cpu"), text(got.Limits, "memory"), text(got.Requests, "cpu"), text(got.Requests, "memory")}).To(
		Equal([]string{"300m", "200Mi", "200m", "100Mi"}), "a container without resources")
	for _, tc := range []struct {
		name             string
		requests, limits corev1.ResourceList
		words            []string // none if it is allowed
	}{
		{"within everything", list("cpu", "500m", "memory", "512Mi"), list("cpu", "1500m", "memory", "1Gi"), nil},
		{"5 CPU", list("cpu", "2", "memory", "100Mi"), list("cpu", "5", "memory", "200Mi"), []string{"maximum cpu usage per Container is 2, but limit is 5", "maximum cpu usage per Pod is 4, but limit is 5"}},
		{"ratio 6", list("cpu", "200m", "memory", "100Mi"), list("cpu", "1200m", "memory", "100Mi"), []string{"cpu max limit to request ratio per Container is 5, but provided ratio is 6", "cpu max limit to request ratio per Pod is 3, but provided ratio is 6"}},
		{"memory ratio 3", list("cpu", "300m", "memory", "100Mi"), list("cpu", "300m", "memory", "300Mi"), []string{"memory max limit to request ratio per Pod is 2, but provided ratio is 3"}},
		{"too small", list("cpu", "50m", "memory", "2Mi"), list("cpu", "100m", "memory", "4Mi"), []string{"minimum cpu usage per Container is 100m, but request is 50m", "minimum memory usage per Container is 3Mi, but request is 2Mi"}},
		{"3 GiB", list("cpu", "200m", "memory", "2Gi"), list("cpu", "200m", "memory", "3Gi"), []string{"maximum memory usage per Container is 1Gi, but limit is 3Gi", "maximum memory usage per Pod is 2Gi"}},
	} {
		err := w.member.Client.Create(t.Context(), sized(tc.requests, tc.limits))
		if tc.words == nil {
			g.Expect(err).NotTo(HaveOccurred(), tc.name)
		}
		for _, word := range tc.words {
			g.Expect(err).To(MatchError(ContainSubstring(word)), tc.name)
		}
	}
}

func TestRES06_QuotaOfTheBook(t *testing.T) {
	w := start(t)
	g := NewWithT(t)
	sample := list("requests.cpu", "1", "requests.memory", "1Gi", "limits.cpu", "2", "limits.memory", "2Gi", "pods", "4", "configmaps", "10",
		"persistentvolumeclaims", "4", "replicationcontrollers", "20", "secrets", "10", "services", "10", "services.loadbalancers", "2")
	p := w.ready(w.tenant(nil), "prod", func(s *v1alpha1.PartitionSpec) { s.Quota = sample })
	ns := p.Status.Namespace
	sized := func(cpu, limit string) *corev1.Pod {
		return pod(ns, func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list("cpu", cpu, "memory", "100Mi"), Limits: list("cpu", limit, "memory", "100Mi")}
		})
	}
	create := func(o client.Object) error { return w.member.Client.Create(t.Context(), o) }
	g.Eventually(func() error { return create(sized("700m", "700m")) }, "15s").Should(Succeed())
	g.Expect(create(sized("400m", "400m"))).To(MatchError(ContainSubstring("exceeded quota: yunfan, requested: requests.cpu=400m, used: requests.cpu=700m, limited: requests.cpu=1")))
	for range 3 {
		g.Expect(create(sized("100m", "100m"))).To(Succeed())
	}
	g.Expect(create(sized("0", "100m"))).To(MatchError(ContainSubstring("requested: pods=1, used: pods=4, limited: pods=4")), "the 5th pod")
	for range 10 {
		g.Expect(create(service(ns, corev1.ServiceTypeClusterIP))).To(Succeed())
	}
	g.Expect(create(service(ns, corev1.ServiceTypeClusterIP))).To(MatchError(ContainSubstring("requested: services=1, used: services=10, limited: services=10")), "the 11th service")

	// RES-07: what is shown is what the cluster counts.
	quota := &corev1.ResourceQuota{}
	g.Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(p), p)).To(Succeed())
		w.get(quota, ns, "yunfan")
		g.Expect(quota.Status.Hard).To(HaveLen(len(sample)))
		for name := range sample {
			g.Expect(text(p.Status.Hard, string(name))+" "+text(p.Status.Used, string(name))).To(
				Equal(text(quota.Status.Hard, string(name))+" "+text(quota.Status.Used, string(name))), string(name))
		}
		g.Expect(text(p.Status.Used, "pods") + " " + text(p.Status.Used, "services")).To(Equal("4 10"))
	}, "15s", "200ms").Should(Succeed())
}

func service(namespace string, kind corev1.ServiceType) *corev1.Service {
	s := &corev1.Service{Spec: corev1.ServiceSpec{Type: kind, Ports: []corev1.ServicePort{{Port: 80}}}}
	s.Namespace, s.GenerateName = namespace, "s-"
	return s
}
