package right_test

import (
	"fmt"
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

func member(namespace, name string, kind v1alpha1.SubjectKind, subject string, role v1alpha1.Role, partitions ...string) *v1alpha1.Membership {
	return &v1alpha1.Membership{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1alpha1.MembershipSpec{Subject: v1alpha1.Subject{Kind: kind, Name: subject}, Role: role, Partitions: partitions},
	}
}

func TestSEC03_GroupsOfAUser(t *testing.T) {
	index := start(t)
	one, two := newTenant(t), newTenant(t)
	testers := &v1alpha1.UserGroup{ObjectMeta: metav1.ObjectMeta{Namespace: one, Name: "testers"}, Spec: v1alpha1.UserGroupSpec{Users: []string{"li", "wang"}}}
	inTesters := member(one, "testers", v1alpha1.SubjectGroup, "testers", v1alpha1.RoleOperator, "test")
	li := member(one, "li", v1alpha1.SubjectUser, "li", v1alpha1.RoleViewer)
	testkit.Create(t, hub.Client, testers, inTesters, li,
		// Of another tenant, a group with the same name: its members are others.
		member(two, "testers", v1alpha1.SubjectGroup, "testers", v1alpha1.RoleAdmin),
		member(two, "ops", v1alpha1.SubjectGroup, "corp:ops", v1alpha1.RoleAdmin),
		member(two, "zhao", v1alpha1.SubjectUser, "zhao", v1alpha1.RoleViewer, "a", "b"),
	)
	g := NewWithT(t)
	all := func(groups ...string) []string { return append([]string{"yunfan:authenticated"}, groups...) }
	limited := []string{
		"yunfan:partition:" + one + ":test:operator", "yunfan:tenant:" + one + ":limited", "yunfan:tenant:" + one + ":limited-operator",
	}
	g.Eventually(groupsOf(index, "li"), "10s").Should(Equal(all(append(limited, "yunfan:tenant:"+one+":viewer")...)))
	g.Eventually(groupsOf(index, "wang"), "10s").Should(Equal(all(limited...)))
	g.Eventually(groupsOf(index, "zhao"), "10s").Should(Equal(all(
		"yunfan:partition:"+two+":a:viewer", "yunfan:partition:"+two+":b:viewer", "yunfan:tenant:"+two+":limited")))
	g.Expect(groupsOf(index, "testers")()).To(Equal(all()), "a user with a group's name is not the group")

	ops := &v1alpha1.User{
		ObjectMeta: metav1.ObjectMeta{Name: "ops"}, Spec: v1alpha1.UserSpec{PlatformAdministrator: true},
		Status: v1alpha1.UserStatus{DirectoryGroups: []string{"corp:ops", "other:ops", "corp:yunfan:platform-admin", "corp:system:masters"}},
	}
	groups, err := index.Groups(t.Context(), ops)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(groups).To(Equal(all("yunfan:platform-admin", "yunfan:tenant:"+two+":admin")))

	testers.Spec.Users = []string{"wang"}
	g.Expect(hub.Client.Update(t.Context(), testers)).To(Succeed())
	g.Eventually(groupsOf(index, "li"), "10s").Should(Equal(all("yunfan:tenant:"+one+":viewer")), "out of the group")
	g.Expect(hub.Client.Delete(t.Context(), li)).To(Succeed())
	g.Eventually(groupsOf(index, "li"), "10s").Should(Equal(all()), "and out of the tenant")
}

// TestGroupsAreFound measures what resolving a user costs beside many others.
func TestGroupsAreFound(t *testing.T) {
	index := start(t)
	tenant := newTenant(t)
	for i := range 200 {
		testkit.Create(t, hub.Client, member(tenant, fmt.Sprintf("m%d", i), v1alpha1.SubjectUser, fmt.Sprintf("u%d", i), v1alpha1.RoleViewer))
	}
	NewWithT(t).Eventually(groupsOf(index, "u199"), "10s").Should(ContainElement("yunfan:tenant:" + tenant + ":viewer"))
	result := testing.Benchmark(func(b *testing.B) {
		b.Helper()
		for range b.N {
			groupsOf(index, "u7")()
		}
	})
	t.Logf("groups of a user among 200: %s", result)
	if result.NsPerOp() > int64(5e6) {
		t.Errorf("a request waits %d ns for its user's groups: is there an index?", result.NsPerOp())
	}
}
