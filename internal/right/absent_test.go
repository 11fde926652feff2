package right_test

import (
	"testing"

	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/right"
	"yunfan.io/yunfan/internal/testkit"
)

func TestSEC03_PeopleWhoAreNotThere(t *testing.T) {
	index := start(t)
	tenant := newTenant(t)
	clientset, err := kubernetes.NewForConfig(hub.Config)
	g := NewWithT(t)
	g.Expect(err).NotTo(HaveOccurred())
	authorizer := rest.NewAuthorizer(clientset)
	authorizer.DecideFirst(index.Decide)
	absent := right.Absent{Index: index, Authorizer: authorizer}
	name := func(s string) string { return tenant + "-" + s }
	user := func(s string, change ...func(*v1alpha1.User)) *v1alpha1.User {
		u := &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: name(s)}}
		for _, c := range change {
			c(u)
		}
		return u
	}
	foreigner := user("foreigner", func(u *v1alpha1.User) { u.Spec.Directory = "corp" })
	li := user("li")
	testkit.Create(t, hub.Client, li, user("wang"), foreigner, user("gone", func(u *v1alpha1.User) { u.Spec.Disabled = true }),
		user("root", func(u *v1alpha1.User) { u.Spec.PlatformAdministrator = true }),
		&v1alpha1.UserGroup{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: "team"}, Spec: v1alpha1.UserGroupSpec{Users: []string{name("wang"), name("gone")}}},
		member(tenant, "li", v1alpha1.SubjectUser, name("li"), v1alpha1.RoleOperator),
		member(tenant, "team", v1alpha1.SubjectGroup, "team", v1alpha1.RoleOperator),
		member(tenant, "corp", v1alpha1.SubjectGroup, "corp:"+tenant, v1alpha1.RoleOperator),
		member(tenant, "limited", v1alpha1.SubjectUser, name("root"), v1alpha1.RoleOperator, "some"),
	)
	foreigner.Status.DirectoryGroups = []string{"corp:" + tenant}
	g.Expect(hub.Client.Status().Update(t.Context(), foreigner)).To(Succeed())

	g.Eventually(func() ([]string, error) { return absent.Members(t.Context(), tenant, v1alpha1.RoleOperator) }, "10s").
		Should(Equal([]string{name("foreigner"), name("li"), name("wang")}), "once each, without those disabled or limited")
	g.Expect(absent.Members(t.Context(), tenant, v1alpha1.RoleAdmin)).To(BeEmpty())
	g.Expect(absent.PlatformAdministrators(t.Context())).To(ContainElement(name("root")))

	deploy := authorizationv1.ResourceAttributes{Group: "yunfan.io", Resource: "partitions", Verb: "deploy", Namespace: tenant, Name: "prod"}
	may := func(who string) func() (bool, error) {
		return func() (bool, error) { return absent.May(t.Context(), v1alpha1.Actor{Name: who}, deploy) }
	}
	g.Eventually(may("yunfan:"+name("li")), "10s").Should(BeTrue())
	g.Expect(may("yunfan:"+name("gone"))()).To(BeFalse(), "disabled")
	g.Expect(may("yunfan:nobody")()).To(BeFalse())
	g.Expect(may(name("li"))()).To(BeFalse(), "a user of the hub with the same name")
	g.Expect(hub.Client.Delete(t.Context(), member(tenant, "li", v1alpha1.SubjectUser, "", ""))).To(Succeed())
	g.Eventually(may("yunfan:"+name("li")), "10s").Should(BeFalse(), "what he might do when he asked does not count")
}
