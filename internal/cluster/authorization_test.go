package cluster

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/internal/testkit"
)

// TestSEC06_AuthorizationMode asks a real API server, first as it should be, then when it lets everybody do everything.
// A server with mode AlwaysAllow answers the same; it has no anonymous users, by whom envtest sees that it is ready.
func TestSEC06_AuthorizationMode(t *testing.T) {
	g := NewWithT(t)
	m := testkit.StartMember(t)
	expect := func(status metav1.ConditionStatus, reason string) {
		t.Helper()
		g.Eventually(func(g Gomega) {
			got := authorization(t.Context(), m.Client, 3)
			g.Expect(got.Status).To(Equal(status), got.Message)
			g.Expect(got.Reason).To(Equal(reason))
			g.Expect(got.ObservedGeneration).To(Equal(int64(3)))
		}, 30*time.Second).Should(Succeed())
	}
	expect(metav1.ConditionTrue, "RBAC")
	testkit.Create(t, m.Client, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "everybody"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: "system:authenticated"}},
	})
	expect(metav1.ConditionFalse, "AlwaysAllow")
}
