package cluster_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cluster"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

func run(t *testing.T, cleaners ...cluster.Cleaner) *member.Set {
	t.Helper()
	var set *member.Set
	testkit.StartManager(t, hub, func(mgr manager.Manager) (err error) {
		if set, err = member.NewSet(mgr); err != nil {
			return err
		}
		return cluster.New(set, cleaners...).SetupWithManager(mgr)
	})
	return set
}

// join creates a Cluster with its Secret and has both removed when the test ends.
func join(t *testing.T, name string, kubeconfig []byte, change ...func(*v1alpha1.Cluster)) *v1alpha1.Cluster {
	t.Helper()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: testkit.PlatformNamespace, Name: name},
		Data:       map[string][]byte{"kubeconfig": kubeconfig},
	}
	c := &v1alpha1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.ClusterSpec{Connection: v1alpha1.ClusterConnection{
			KubeconfigSecretRef: &v1alpha1.SecretReference{Name: name},
		}},
	}
	for _, f := range change {
		f(c)
	}
	testkit.Create(t, hub.Client, secret, c)
	t.Cleanup(func() {
		ctx := context.Background()
		_ = hub.Client.Delete(ctx, c)
		_ = hub.Client.Patch(ctx, c, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`)))
		_ = hub.Client.Delete(ctx, secret)
	})
	return c
}

// ready gives the condition Ready of the cluster as it is now, and the cluster.
func ready(t *testing.T, name string) (metav1.Condition, *v1alpha1.Cluster) {
	t.Helper()
	c := &v1alpha1.Cluster{}
	if err := hub.Client.Get(t.Context(), client.ObjectKey{Name: name}, c); err != nil {
		return metav1.Condition{Reason: err.Error()}, c
	}
	if condition := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady); condition != nil {
		return *condition, c
	}
	return metav1.Condition{}, c
}

func eventually(t *testing.T, name, within, reason, message string) *v1alpha1.Cluster {
	t.Helper()
	var c *v1alpha1.Cluster
	NewWithT(t).Eventually(func(g Gomega) {
		var condition metav1.Condition
		condition, c = ready(t, name)
		g.Expect(condition.Reason).To(Equal(reason), condition.Message)
		g.Expect(condition.Message).To(ContainSubstring(message))
		if reason == v1alpha1.ReasonReady {
			g.Expect(condition.Status).To(Equal(metav1.ConditionTrue))
		} else {
			g.Expect(condition.Status).To(Equal(metav1.ConditionFalse))
		}
	}, within, "100ms").Should(Succeed())
	return c
}

func node(name string, ready corev1.ConditionStatus, cpu, memory string) *corev1.Node {
	resources := corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory), "pods": resource.MustParse("110")}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: corev1.NodeStatus{
			Capacity: resources, Allocatable: resources,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
		},
	}
}

func pod(namespace, name, node, cpu string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{"cpu": resource.MustParse(cpu)},
			Limits:   corev1.ResourceList{"cpu": resource.MustParse(cpu)},
		}}}},
	}
}

func TestCLU02_JoinedClusterTellsWhatItHas(t *testing.T) {
	run(t)
	m := testkit.StartMember(t)
	ns := testkit.Namespace(t, m.Client)
	down := node("b", corev1.ConditionFalse, "4", "8Gi")
	testkit.Create(t, m.Client, node("a", corev1.ConditionTrue, "2", "4Gi"), down, pod(ns, "one", "a", "300m"), pod(ns, "two", "a", "200m"))
	ended := pod(ns, "ended", "a", "1")
	testkit.Create(t, m.Client, ended)
	ended.Status.Phase = corev1.PodSucceeded
	if err := m.Client.Status().Update(t.Context(), ended); err != nil {
		t.Fatal(err)
	}
	name := testkit.Name(t)
	join(t, name, m.Kubeconfig(t, ""))
	c := eventually(t, name, "20s", v1alpha1.ReasonReady, "")

	var system corev1.Namespace
	if err := m.Client.Get(t.Context(), client.ObjectKey{Name: "kube-system"}, &system); err != nil {
		t.Fatal(err)
	}
	g := NewWithT(t)
	g.Expect(c.Status.UID).To(BeEquivalentTo(system.UID))
	g.Expect(c.Status.KubernetesVersion).To(HavePrefix("v1."))
	g.Expect(c.Status.LastSeenTime.Time).To(BeTemporally("~", time.Now(), 10*time.Second))
	expect := func(list corev1.ResourceList, name corev1.ResourceName, want string) {
		t.Helper()
		got := list[name]
		g.Expect(got.Cmp(resource.MustParse(want))).To(Equal(0), "%s is %s, want %s", name, got.String(), want)
	}
	g.Expect(c.Status.Nodes).To(Equal(v1alpha1.NodeCount{Total: 2, Ready: 1}))
	expect(c.Status.Capacity, "cpu", "6")
	expect(c.Status.Allocatable, "cpu", "2")
	expect(c.Status.Allocatable, "memory", "4Gi")
	expect(c.Status.Requested, "cpu", "500m")
	expect(c.Status.Requested, "pods", "2")

	down.Status.Conditions[0].Status = corev1.ConditionTrue
	if err := m.Client.Status().Update(t.Context(), down); err != nil {
		t.Fatal(err)
	}
	g.Eventually(func() int32 { _, c := ready(t, name); return c.Status.Nodes.Ready }, "5s").Should(BeEquivalentTo(2))
}

func TestCLU01_SameClusterCannotJoinTwice(t *testing.T) {
	set := run(t)
	m := testkit.StartMember(t)
	first, second := testkit.Name(t)+"-z", testkit.Name(t)+"-a"
	older := join(t, first, m.Kubeconfig(t, ""))
	eventually(t, first, "20s", v1alpha1.ReasonReady, "")
	NewWithT(t).Eventually(func() bool { return time.Now().Truncate(time.Second).After(older.CreationTimestamp.Time) }, "2s").Should(BeTrue(),
		"creation times have whole seconds")
	join(t, second, m.Kubeconfig(t, ""))
	eventually(t, second, "20s", v1alpha1.ReasonAlreadyJoined, first)
	eventually(t, first, "5s", v1alpha1.ReasonReady, "")
	if _, found := set.Member(second); found {
		t.Error("controllers run for a cluster that is joined under another name")
	}

	if err := hub.Client.Delete(t.Context(), older); err != nil {
		t.Fatal(err)
	}
	eventually(t, second, "20s", v1alpha1.ReasonReady, "")
}

func TestCLU01_UnusableKubeconfigs(t *testing.T) {
	run(t)
	m := testkit.StartMember(t)
	good := m.Kubeconfig(t, "")
	other := testkit.Member{Config: hub.Config, Client: hub.Client}
	wrongCA := testkit.Member{Config: m.Config}
	wrongCA.Config = copyWith(m.Config, hub.Config.CAData, m.Config.CertData, m.Config.KeyData)
	wrongUser := testkit.Member{Config: copyWith(m.Config, m.Config.CAData, hub.Config.CertData, hub.Config.KeyData)}
	name := testkit.Name(t)
	join(t, name, []byte("{nonsense: ["))
	eventually(t, name, "10s", v1alpha1.ReasonCredentialsInvalid, "not a kubeconfig")

	steps := []struct {
		reason     string
		kubeconfig []byte
		want       string
		message    string
	}{
		{"the kubeconfig is mended", good, v1alpha1.ReasonReady, ""},
		{"its authority is another's", wrongCA.Kubeconfig(t, ""), v1alpha1.ReasonCredentialsInvalid, "certificate cannot be verified"},
		{"it is mended again", good, v1alpha1.ReasonReady, ""},
		{"its user is unknown", wrongUser.Kubeconfig(t, ""), v1alpha1.ReasonCredentialsInvalid, "refuses the credentials"},
		{"the key is missing", nil, v1alpha1.ReasonCredentialsInvalid, `nothing under the key "kubeconfig"`},
		{"nobody listens", m.Kubeconfig(t, "127.0.0.1:1"), v1alpha1.ReasonUnreachable, "refused"},
		{"it leads to another cluster", other.Kubeconfig(t, ""), v1alpha1.ReasonIdentityChanged, "another cluster answers"},
		{"it is mended at last", good, v1alpha1.ReasonReady, ""},
	}
	for _, step := range steps {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: testkit.PlatformNamespace, Name: name}}
		secret.Data = map[string][]byte{"kubeconfig": step.kubeconfig}
		if err := hub.Client.Update(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
		t.Log(step.reason)
		eventually(t, name, "15s", step.want, step.message)
	}
}

func TestCLU01_SilentClusterIsNotReadyWithin10Seconds(t *testing.T) {
	run(t)
	m := testkit.StartMember(t)
	proxy := testkit.NewProxy(t, m.Address())
	name := testkit.Name(t)
	join(t, name, m.Kubeconfig(t, proxy.Address()))
	eventually(t, name, "20s", v1alpha1.ReasonReady, "")
	for mode, disturb := range map[string]func(testing.TB){"killed": proxy.Refuse, "frozen": proxy.Freeze, "isolated": proxy.Drop} {
		disturb(t)
		c := eventually(t, name, "10s", v1alpha1.ReasonUnreachable, "check the cluster's control plane")
		if age := time.Since(c.Status.LastSeenTime.Time); age > 11*time.Second {
			t.Errorf("%s: last seen %s ago, it was there 10 s ago", mode, age)
		}
		if c.Status.KubernetesVersion == "" || c.Status.UID == "" {
			t.Errorf("%s: what was last seen is lost: %+v", mode, c.Status)
		}
		proxy.Pass(t)
		eventually(t, name, "10s", v1alpha1.ReasonReady, "")
	}
}

// cleaner has something left the given number of times.
type cleaner struct{ left, asked atomic.Int32 }

func (c *cleaner) CleanMember(ctx context.Context, m *member.Member) (string, error) {
	c.asked.Add(1)
	if err := m.Client.Get(ctx, client.ObjectKey{Name: "default"}, &corev1.Namespace{}); err != nil {
		return "", err
	}
	if c.left.Add(-1) >= 0 {
		return "namespace x", nil
	}
	return "", nil
}

func TestCLU01_Removal(t *testing.T) {
	clean := &cleaner{}
	set := run(t, clean)
	m := testkit.StartMember(t)
	proxy := testkit.NewProxy(t, m.Address())
	g := NewWithT(t)
	deleting := func(c *v1alpha1.Cluster) { c.Spec.OnRemoval = v1alpha1.RemovalDelete }
	gone := func(name string) {
		t.Helper()
		g.Eventually(func() string { c, _ := ready(t, name); return c.Reason }, "10s").Should(ContainSubstring("not found"))
		g.Eventually(func() bool { _, ok := set.Connection(name); return ok }, "5s").Should(BeFalse())
	}

	keep := join(t, testkit.Name(t), m.Kubeconfig(t, proxy.Address()))
	eventually(t, keep.Name, "20s", v1alpha1.ReasonReady, "")
	if err := hub.Client.Delete(t.Context(), keep); err != nil {
		t.Fatal(err)
	}
	gone(keep.Name)
	g.Expect(clean.asked.Load()).To(BeZero(), "Keep leaves everything")

	clean.left.Store(1)
	wipe := join(t, testkit.Name(t), m.Kubeconfig(t, proxy.Address()), deleting)
	eventually(t, wipe.Name, "20s", v1alpha1.ReasonReady, "")
	if err := hub.Client.Delete(t.Context(), wipe); err != nil {
		t.Fatal(err)
	}
	eventually(t, wipe.Name, "5s", v1alpha1.ReasonDeleting, "namespace x")
	gone(wipe.Name)
	g.Expect(clean.asked.Load()).To(BeEquivalentTo(2))

	dead := join(t, testkit.Name(t), m.Kubeconfig(t, proxy.Address()), deleting)
	eventually(t, dead.Name, "20s", v1alpha1.ReasonReady, "")
	proxy.Freeze(t)
	if err := hub.Client.Delete(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	eventually(t, dead.Name, "15s", v1alpha1.ReasonUnreachable, "yunfan.io/force-removal=true")
	_, now := ready(t, dead.Name)
	force := now.DeepCopy()
	force.Annotations = map[string]string{v1alpha1.AnnotationForceRemoval: "true"}
	if err := hub.Client.Patch(t.Context(), force, client.MergeFrom(now)); err != nil {
		t.Fatal(err)
	}
	gone(dead.Name)
}
