package partition_test

import (
	"context"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/partition"
	"yunfan.io/yunfan/internal/testkit"
)

var (
	hub    *testkit.Hub
	shared *testkit.Member
)

// ownControllers are Kubernetes' own that members run.
var ownControllers = []string{"namespace-controller", "resourcequota-controller"}

func TestMain(m *testing.M) { testkit.MainWithMember(m, &hub, &shared, ownControllers...) }

// world is a hub with the controller and one joined member, whose name is the cluster's.
type world struct {
	*testing.T
	cluster    string
	member     *testkit.Member
	proxy      *testkit.Proxy
	set        *member.Set
	controller *partition.Controller
}

// start joins the member that all tests share: for those without nodes, that take nothing away from others.
func start(t *testing.T) *world {
	t.Helper()
	return startWith(t, shared)
}

// startAlone joins a member of the test's own.
func startAlone(t *testing.T) *world {
	t.Helper()
	own := testkit.StartMember(t)
	own.StartControllers(t, ownControllers...)
	return startWith(t, own)
}

func startWith(t *testing.T, m *testkit.Member) *world {
	t.Helper()
	w := &world{T: t, cluster: testkit.Name(t), member: m}
	w.proxy = testkit.NewProxy(t, w.member.Address())
	testkit.StartManager(t, hub, func(mgr manager.Manager) (err error) {
		if w.set, err = member.NewSet(mgr); err != nil {
			return err
		}
		w.controller = partition.New(w.set)
		return w.controller.SetupWithManager(mgr)
	})
	w.create()
	w.join()
	return w
}

// create creates the Cluster with its addresses, as the cluster controller finds them.
func (w *world) create() {
	w.Helper()
	cluster := &v1alpha1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Name: w.cluster},
		Spec:       v1alpha1.ClusterSpec{Connection: v1alpha1.ClusterConnection{KubeconfigSecretRef: &v1alpha1.SecretReference{Name: "x"}}},
	}
	testkit.Create(w, hub.Client, cluster)
	cluster.Status.Network = v1alpha1.ClusterNetwork{
		APIServers: []string{"192.168.1.10:6443"}, Nodes: []string{"192.168.1.12/30"}, Pods: []string{"10.244.0.0/16"},
	}
	if err := hub.Client.Status().Update(w.Context(), cluster); err != nil {
		w.Fatal(err)
	}
}

// join stands for the cluster controller.
func (w *world) join() {
	w.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig(w.member.Kubeconfig(w, w.proxy.Address()))
	if err != nil {
		w.Fatal(err)
	}
	m, err := w.set.Connect(w.cluster, "1", config)
	if err != nil {
		w.Fatal(err)
	}
	NewWithT(w).Eventually(func() bool { ok, _ := m.Answering(); return ok }, "20s").Should(BeTrue())
	w.set.Admit(w.cluster)
}

// tenant creates a tenant with its hub namespace and gives its name.
func (w *world) tenant(quota corev1.ResourceList) string {
	w.Helper()
	name := testkit.Namespace(w, hub.Client)
	testkit.Create(w, hub.Client, &v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.TenantSpec{Quota: quota}})
	return name
}

func (w *world) partition(tenant, name string, change ...func(*v1alpha1.PartitionSpec)) *v1alpha1.Partition {
	w.Helper()
	p := &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: name}, Spec: v1alpha1.PartitionSpec{Cluster: w.cluster}}
	for _, f := range change {
		f(&p.Spec)
	}
	testkit.Create(w, hub.Client, p)
	w.Cleanup(func() {
		ctx := context.Background()
		_ = hub.Client.Delete(ctx, p)
		_ = hub.Client.Patch(ctx, p, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`)))
	})
	return p
}

// ready makes a partition and waits for it.
func (w *world) ready(tenant, name string, change ...func(*v1alpha1.PartitionSpec)) *v1alpha1.Partition {
	w.Helper()
	p := w.partition(tenant, name, change...)
	w.eventually(p, v1alpha1.ReasonReady, "")
	return p
}

// eventually waits until the partition's condition Ready has the reason, and reads it into p.
func (w *world) eventually(p *v1alpha1.Partition, reason, message string) {
	w.Helper()
	NewWithT(w).Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(w.Context(), client.ObjectKeyFromObject(p), p)).To(Succeed())
		condition := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
		g.Expect(condition).NotTo(BeNil())
		g.Expect(condition.Reason).To(Equal(reason), condition.Message)
		g.Expect(condition.Message).To(ContainSubstring(message))
		g.Expect(condition.ObservedGeneration).To(Equal(p.Generation))
	}, "20s", "100ms").Should(Succeed())
}

func (w *world) update(p *v1alpha1.Partition, change func(*v1alpha1.PartitionSpec)) {
	w.Helper()
	before := p.DeepCopy()
	change(&p.Spec)
	if err := hub.Client.Patch(w.Context(), p, client.MergeFrom(before)); err != nil {
		w.Fatal(err)
	}
}

func (w *world) delete(objects ...client.Object) {
	w.Helper()
	for _, o := range objects {
		if err := hub.Client.Delete(w.Context(), o); err != nil {
			w.Fatal(err)
		}
	}
}

func (w *world) gone(c client.Client, o client.Object) {
	w.Helper()
	NewWithT(w).Eventually(func() string {
		if err := c.Get(w.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err.Error()
		}
		return "still there"
	}, "20s").Should(ContainSubstring("not found"))
}

// get reads an object of the member; it is there or the test fails.
func (w *world) get(o client.Object, namespace, name string) {
	w.Helper()
	if err := w.member.Client.Get(w.Context(), client.ObjectKey{Namespace: namespace, Name: name}, o); err != nil {
		w.Fatalf("reading %T: %v", o, err)
	}
}

func (w *world) delivery(p *v1alpha1.Partition, application string) *v1alpha1.Delivery {
	w.Helper()
	d := &v1alpha1.Delivery{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: v1alpha1.DeliveryName(application, p.Name),
			Labels: map[string]string{v1alpha1.LabelPartition: p.Name, v1alpha1.LabelCluster: w.cluster},
		},
		Spec: v1alpha1.DeliverySpec{
			Application: application, Partition: p.Name, Cluster: w.cluster,
			Tracks: []v1alpha1.Track{{Role: v1alpha1.TrackStable, Revision: "r"}},
		},
	}
	testkit.Create(w, hub.Client, d)
	return d
}

func (w *world) node(name string, labels map[string]string) *corev1.Node {
	w.Helper()
	has := list("cpu", "4", "memory", "8Gi", "pods", "110")
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Status: corev1.NodeStatus{
			Capacity: has, Allocatable: has,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
	testkit.Create(w, w.member.Client, n)
	return n
}

func pod(namespace string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "p-"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

// list makes a list of quantities from names and values in turn.
func list(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

func text(l corev1.ResourceList, name string) string {
	q := l[corev1.ResourceName(name)]
	return q.String()
}
