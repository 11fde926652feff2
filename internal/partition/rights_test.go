package partition_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

// TestSEC01_FourBindings has a namespace with what an earlier version made: it becomes what this one makes, four
// bindings and nothing else of RBAC.
func TestSEC01_FourBindings(t *testing.T) {
	w := start(t)
	tenant := w.tenant(nil)
	namespace := testkit.Namespace(t, w.member.Client)
	former := metav1.ObjectMeta{Namespace: namespace, Name: v1alpha1.DeliveryServiceAccount,
		Labels: map[string]string{v1alpha1.LabelTenant: tenant, v1alpha1.LabelPartition: "prod"}}
	testkit.Create(t, w.member.Client, &rbacv1.Role{ObjectMeta: former},
		&rbacv1.RoleBinding{ObjectMeta: former, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: former.Name}})
	w.ready(tenant, "prod", func(s *v1alpha1.PartitionSpec) { s.Namespace = namespace; s.Adopt = true })

	g := NewWithT(t)
	var roles rbacv1.RoleList
	var bindings rbacv1.RoleBindingList
	g.Expect(w.member.Client.List(t.Context(), &roles, client.InNamespace(namespace))).To(Succeed())
	g.Expect(w.member.Client.List(t.Context(), &bindings, client.InNamespace(namespace))).To(Succeed())
	got := map[string][]string{}
	for _, b := range bindings.Items {
		g.Expect(b.RoleRef.Kind).To(Equal("ClusterRole"))
		g.Expect(b.RoleRef.Name).To(Equal(b.Name))
		for _, s := range b.Subjects {
			got[b.Name] = append(got[b.Name], s.Name)
		}
	}
	want := map[string][]string{
		"yunfan-delivery": {"yunfan-delivery"},
		"yunfan-admin":    {"yunfan:tenant:" + tenant + ":admin"},
		"yunfan-operator": {"yunfan:tenant:" + tenant + ":operator", "yunfan:partition:" + tenant + ":prod:operator"},
		"yunfan-viewer":   {"yunfan:tenant:" + tenant + ":viewer", "yunfan:partition:" + tenant + ":prod:viewer"},
	}
	if diff := cmp.Diff(want, got); diff != "" || len(roles.Items) > 0 {
		t.Errorf("%d roles; -want +got:\n%s", len(roles.Items), diff)
	}
}
