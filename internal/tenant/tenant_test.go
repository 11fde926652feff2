package tenant_test

import (
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/tenant"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

func run(t *testing.T) {
	t.Helper()
	hub.StartControllers(t, "namespace-controller")
	testkit.StartManager(t, hub, func(mgr manager.Manager) error { return tenant.New().SetupWithManager(mgr) })
}

func create(t *testing.T, name string) *v1alpha1.Tenant {
	t.Helper()
	o := &v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: name}}
	testkit.Create(t, hub.Client, o)
	return o
}

func eventually(t *testing.T, o *v1alpha1.Tenant, reason, message string) {
	t.Helper()
	NewWithT(t).Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o)).To(Succeed())
		condition := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionReady)
		g.Expect(condition).NotTo(BeNil())
		g.Expect(condition.Reason).To(Equal(reason), condition.Message)
		g.Expect(condition.Message).To(ContainSubstring(message))
	}, "15s", "100ms").Should(Succeed())
}

func gone(t *testing.T, o client.Object) {
	t.Helper()
	NewWithT(t).Eventually(func() error {
		return client.IgnoreNotFound(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o))
	}, "1s").Should(Succeed())
	NewWithT(t).Eventually(func() bool {
		return hub.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o) != nil
	}, "20s").Should(BeTrue())
}

func remove(t *testing.T, o client.Object) {
	t.Helper()
	if err := hub.Client.Delete(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

func TestRES01_TenantOwnsItsNamespace(t *testing.T) {
	run(t)
	o := create(t, testkit.Name(t))
	eventually(t, o, v1alpha1.ReasonReady, "")
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: o.Name}}
	if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(ns), ns); err != nil || ns.Labels[v1alpha1.LabelTenant] != o.Name {
		t.Fatalf("namespace with labels %v, %v", ns.Labels, err)
	}

	p := &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: o.Name, Name: "prod"}, Spec: v1alpha1.PartitionSpec{Cluster: "c"}}
	testkit.Create(t, hub.Client, p)
	remove(t, o)
	eventually(t, o, v1alpha1.ReasonInUse, "partition prod")
	remove(t, p)
	gone(t, o)
	gone(t, ns)
}

func TestRES01_TenantLeavesForeignNamespacesAlone(t *testing.T) {
	run(t)
	foreign := testkit.Namespace(t, hub.Client)
	o := create(t, foreign)
	eventually(t, o, v1alpha1.ReasonNamespaceTaken, "choose another name")
	remove(t, o)
	gone(t, o)
	ns := &corev1.Namespace{}
	if err := hub.Client.Get(t.Context(), client.ObjectKey{Name: foreign}, ns); err != nil || !ns.DeletionTimestamp.IsZero() {
		t.Errorf("the foreign namespace was deleted: %v", err)
	}
}

func TestRES01_TenantNamespaceIsMadeAnew(t *testing.T) {
	run(t)
	o := create(t, testkit.Name(t))
	eventually(t, o, v1alpha1.ReasonReady, "")
	ns := &corev1.Namespace{}
	get := func() error { return hub.Client.Get(t.Context(), client.ObjectKey{Name: o.Name}, ns) }
	if err := get(); err != nil {
		t.Fatal(err)
	}
	before := ns.UID
	remove(t, ns)
	NewWithT(t).Eventually(func() bool { return get() == nil && ns.UID != before }, "20s").Should(BeTrue())
	eventually(t, o, v1alpha1.ReasonReady, "")
}
