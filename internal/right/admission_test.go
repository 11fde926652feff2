package right_test

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

func application(namespace, name string, choices ...v1alpha1.PartitionChoice) *v1alpha1.Application {
	return &v1alpha1.Application{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.ApplicationSpec{
			Placement: v1alpha1.Placement{Partitions: choices},
			Components: []v1alpha1.Component{{Name: "web", Workload: v1alpha1.WorkloadDeployment, Template: &corev1.PodTemplateSpec{
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}},
			}}},
		},
	}
}

func in(names ...string) []v1alpha1.PartitionChoice {
	var all []v1alpha1.PartitionChoice
	for _, name := range names {
		all = append(all, v1alpha1.PartitionChoice{Name: name})
	}
	return all
}

// refused checks that an error is a Kubernetes Forbidden that says why; no error is wanted if says is empty.
func refused(t *testing.T, what string, err error, says string) {
	t.Helper()
	switch {
	case says == "" && err != nil:
		t.Errorf("%s is refused: %v", what, err)
	case says != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), says)):
		t.Errorf("%s: want a refusal that says %q, got: %v", what, says, err)
	}
}

// active waits until the hub has read the admission policies.
func active(t *testing.T, tenant string) {
	t.Helper()
	limited := as(t, "yunfan:tenant:"+tenant+":limited-operator")
	admin := as(t, "yunfan:tenant:"+tenant+":admin")
	NewWithT(t).Eventually(func(g Gomega) {
		a := application(tenant, "a", in("x")...)
		g.Expect(apierrors.IsForbidden(limited.Create(t.Context(), a, client.DryRunAll))).To(BeTrue())
		c := &v1alpha1.Configuration{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: "c"}, Spec: v1alpha1.ConfigurationSpec{Files: map[string]string{"a": "b"}}}
		g.Expect(apierrors.IsForbidden(limited.Create(t.Context(), c, client.DryRunAll))).To(BeTrue())
		p := &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: "p"}, Spec: v1alpha1.PartitionSpec{Cluster: "beijing"}}
		g.Expect(apierrors.IsForbidden(admin.Create(t.Context(), p, client.DryRunAll))).To(BeTrue())
	}, "20s").Should(Succeed())
}

func TestRES15_DeployAsksForEachPartition(t *testing.T) {
	start(t)
	tenant, other := newTenant(t), newTenant(t)
	active(t, tenant)
	operator := []string{"yunfan:tenant:" + tenant + ":operator"}
	limited := []string{
		"yunfan:tenant:" + tenant + ":limited", "yunfan:tenant:" + tenant + ":limited-operator",
		"yunfan:partition:" + tenant + ":a:operator", "yunfan:partition:" + tenant + ":b:operator", "yunfan:partition:" + tenant + ":seen:viewer",
		// In another tenant the partition has the same name.
		"yunfan:partition:" + other + ":c:operator",
	}
	many := in("a", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "m9")
	selector := v1alpha1.PartitionChoice{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}
	for name, tc := range map[string]struct {
		reason  string
		groups  []string
		choices []v1alpha1.PartitionChoice
		says    string
	}{
		"Operator":          {"all partitions of the tenant", operator, in("a", "c"), ""},
		"OperatorSelector":  {"a selector, too", operator, []v1alpha1.PartitionChoice{selector}, ""},
		"Limited":           {"his partitions", limited, in("a", "b"), ""},
		"LimitedForeign":    {"one that is not his", limited, in("a", "c"), "may not deploy to partition c of tenant " + tenant + ": it needs the role Operator there"},
		"LimitedViewer":     {"one in which he looks only", limited, in("seen"), "may not deploy to partition seen"},
		"LimitedSelector":   {"a selector may match any", limited, []v1alpha1.PartitionChoice{selector}, "partitions that it does not name"},
		"LimitedMany":       {"more than are asked for one by one", limited, many, "may not deploy to partition m1"},
		"Viewer":            {"looks only", []string{"yunfan:tenant:" + tenant + ":viewer"}, in("a"), "cannot create resource"},
		"OtherTenantsAdmin": {"has nothing here", []string{"yunfan:tenant:" + other + ":admin"}, in("a"), "cannot create resource"},
		"Platform":          {"everything", []string{"yunfan:platform-admin"}, in("a"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := as(t, tc.groups...).Create(t.Context(), application(tenant, testkit.Name(t), tc.choices...))
			refused(t, tc.reason, err, tc.says)
		})
	}
	t.Run("Changes", func(t *testing.T) {
		c := as(t, limited...)
		mine, foreign := application(tenant, "mine", in("a")...), application(tenant, "foreign", in("c")...)
		testkit.Create(t, hub.Client, mine, foreign)
		patch := func(app *v1alpha1.Application, text string) error {
			return c.Patch(t.Context(), app.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(text)))
		}
		refused(t, "changing his own", patch(mine, `{"spec":{"version":"v2"}}`), "")
		refused(t, "moving it to a foreign partition", patch(mine, `{"spec":{"placement":{"partitions":[{"name":"c"}]}}}`), "partition c")
		refused(t, "taking a foreign one over", patch(foreign, `{"spec":{"placement":{"partitions":[{"name":"a"}]}}}`), "partition c")
		refused(t, "changing a foreign one", patch(foreign, `{"metadata":{"labels":{"a":"b"}}}`), "partition c")
		refused(t, "deleting a foreign one", c.Delete(t.Context(), foreign), "partition c")
		refused(t, "deleting his own", c.Delete(t.Context(), mine), "")
		refused(t, "deleting all", c.DeleteAllOf(t.Context(), &v1alpha1.Application{}, client.InNamespace(tenant)), "cannot deletecollection")
	})
}

func TestRES15_OwnRoleOfTheHub(t *testing.T) {
	start(t)
	tenant := newTenant(t)
	active(t, tenant)
	where := metav1.ObjectMeta{Namespace: tenant, Name: "ci"}
	testkit.Create(t, hub.Client,
		&rbacv1.Role{ObjectMeta: where, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"yunfan.io"}, Resources: []string{"applications"}, Verbs: []string{"create"}},
			{APIGroups: []string{"yunfan.io"}, Resources: []string{"partitions"}, ResourceNames: []string{"a", "b"}, Verbs: []string{"deploy"}},
		}},
		&rbacv1.RoleBinding{ObjectMeta: where, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "ci"},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "machines"}}})
	ci := as(t, "machines")
	NewWithT(t).Eventually(func() error {
		return ci.Create(t.Context(), application(tenant, "x", in("a", "b")...), client.DryRunAll)
	}, "10s").Should(Succeed())
	refused(t, "a third one", ci.Create(t.Context(), application(tenant, "y", in("a", "b", "c")...)), "partition c")
}

func TestRES15_ConfigurationsAskForEachPartition(t *testing.T) {
	start(t)
	tenant := newTenant(t)
	active(t, tenant)
	c := as(t, "yunfan:tenant:"+tenant+":limited-operator", "yunfan:partition:"+tenant+":a:operator")
	for name, tc := range map[string]struct {
		reason string
		spec   v1alpha1.ConfigurationSpec
		says   string
	}{
		"Default": {"goes everywhere", v1alpha1.ConfigurationSpec{}, "set publication to Selected"},
		"Own":     {"his partition", v1alpha1.ConfigurationSpec{Publication: v1alpha1.PublicationSelected, Partitions: []string{"a"}}, ""},
		"Foreign": {"not his", v1alpha1.ConfigurationSpec{Publication: v1alpha1.PublicationSelected, Partitions: []string{"a", "b"}}, "partition b"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.spec.Files = map[string]string{"a": "b"}
			err := c.Create(t.Context(), &v1alpha1.Configuration{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: testkit.Name(t)}, Spec: tc.spec})
			refused(t, tc.reason, err, tc.says)
		})
	}
}

func TestRES15_TenantsSplitOnly(t *testing.T) {
	start(t)
	tenant := newTenant(t)
	active(t, tenant)
	admin := as(t, "yunfan:tenant:"+tenant+":admin")
	whole := &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: "whole", Finalizers: []string{"yunfan.io/test"}}, Spec: v1alpha1.PartitionSpec{Cluster: "beijing"}}
	part := &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: "part", Finalizers: []string{"yunfan.io/test"}}, Spec: v1alpha1.PartitionSpec{Cluster: "beijing", Parent: "whole"}}
	testkit.Create(t, hub.Client, whole, part)
	for name, tc := range map[string]struct {
		reason string
		spec   v1alpha1.PartitionSpec
		says   string
	}{
		"Whole":      {"quota of the tenant is allocated by the platform", v1alpha1.PartitionSpec{}, "sub-partitions only"},
		"Part":       {"a part of one", v1alpha1.PartitionSpec{Parent: "whole"}, ""},
		"Privileged": {"a way out of the partition", v1alpha1.PartitionSpec{Parent: "whole", PodSecurity: v1alpha1.PodSecurityPrivileged}, "Privileged is not for tenants"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.spec.Cluster = "beijing"
			err := admin.Create(t.Context(), &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: testkit.Name(t)}, Spec: tc.spec})
			refused(t, tc.reason, err, tc.says)
			refused(t, "platform administrator", as(t, "yunfan:platform-admin").Create(t.Context(),
				&v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: testkit.Name(t)}, Spec: tc.spec}), "")
		})
	}
	patch := func(p *v1alpha1.Partition, text string) error {
		return admin.Patch(t.Context(), p.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(text)))
	}
	refused(t, "changing the whole", patch(whole, `{"spec":{"environment":"Test"}}`), "sub-partitions only")
	refused(t, "deleting the whole", admin.Delete(t.Context(), whole), "sub-partitions only")
	refused(t, "changing a part", patch(part, `{"spec":{"environment":"Test"}}`), "")
	refused(t, "approval of releases to the whole", patch(whole, `{"spec":{"releaseApproval":"Required"}}`), "sub-partitions only")
	refused(t, "approval of releases to a part", patch(part, `{"spec":{"releaseApproval":"Required"}}`), "")
	refused(t, "a part without its finalizer", patch(part, `{"metadata":{"finalizers":null}}`), "finalizers keep a partition")
	refused(t, "status", admin.Status().Patch(t.Context(), part.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"status":{"pods":1}}`))), "cannot patch resource")
	refused(t, "deleting a part", admin.Delete(t.Context(), part), "")
}
