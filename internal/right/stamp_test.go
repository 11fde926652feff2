package right_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientrest "k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/testkit"
)

func run(namespace, name string) *v1alpha1.WorkflowRun {
	return &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1alpha1.WorkflowRunSpec{Definition: &v1alpha1.WorkflowSpec{Steps: []v1alpha1.WorkflowStep{{Name: "a", Action: "wait"}}}},
	}
}

func approval(namespace, name string) *v1alpha1.Approval {
	return &v1alpha1.Approval{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1alpha1.ApprovalSpec{Run: "r", RunUID: "u", Step: "s", Digest: "d", Decision: v1alpha1.DecisionApproved},
	}
}

// called is a client of the hub for somebody of another name.
func called(t *testing.T, name string, groups ...string) client.Client {
	t.Helper()
	config := clientrest.CopyConfig(hub.Config)
	config.Impersonate = clientrest.ImpersonationConfig{UserName: name, Groups: groups}
	c, err := client.New(config, client.Options{Scheme: hub.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// stamping waits until the hub has read the policies that stamp.
func stamping(t *testing.T, tenant string) {
	t.Helper()
	operator := as(t, "yunfan:tenant:"+tenant+":operator")
	NewWithT(t).Eventually(func(g Gomega) {
		r, a, app := run(tenant, "probe"), approval(tenant, "probe"), application(tenant, "probe", in("x")...)
		for _, o := range []client.Object{r, a, app} {
			g.Expect(operator.Create(t.Context(), o, client.DryRunAll)).To(Succeed())
		}
		g.Expect(r.Spec.User).NotTo(BeNil())
		g.Expect(a.Spec.User).NotTo(BeNil())
		g.Expect(app.Annotations).To(HaveKey(v1alpha1.AnnotationChangedBy))
	}, "30s").Should(Succeed())
}

func actorOf(tenant string, name string, groups ...string) *v1alpha1.Actor {
	a := &v1alpha1.Actor{Name: name, Groups: []string{"yunfan:authenticated"}}
	for _, g := range groups {
		a.Groups = append(a.Groups, "yunfan:tenant:"+tenant+":"+g)
	}
	return a
}

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func patchOf(t *testing.T, c client.Client, o client.Object, text string) error {
	t.Helper()
	return c.Patch(t.Context(), o, client.RawPatch("application/merge-patch+json", []byte(text)))
}

// TestOPS10_RunsCarryTheirUser has people start and steer runs under names of others.
func TestOPS10_RunsCarryTheirUser(t *testing.T) {
	index := start(t)
	tenant, other := newTenant(t), newTenant(t)
	stamping(t, tenant)
	li := as(t, "yunfan:tenant:"+tenant+":operator", "yunfan:tenant:"+other+":admin")
	wang := called(t, "yunfan:wang", "yunfan:authenticated", "yunfan:tenant:"+tenant+":admin")
	admin := called(t, "yunfan-admin", "system:masters")
	me := actorOf(tenant, "yunfan:li", "operator")

	t.Run("forged user", func(t *testing.T) {
		r := run(tenant, "forged")
		r.Spec.User = &v1alpha1.Actor{Name: "yunfan:wang", Groups: []string{v1alpha1.GroupPlatformAdmin}}
		r.Spec.ChangedBy = nil
		refused(t, "a run in another's name", li.Create(t.Context(), r), "")
		same(t, "user", me, r.Spec.User)
		same(t, "finalizers", []string{v1alpha1.FinalizerRun}, r.Finalizers)
	})
	t.Run("steering", func(t *testing.T) {
		r := run(tenant, "steered")
		r.Finalizers = []string{v1alpha1.FinalizerRun}
		refused(t, "a run", li.Create(t.Context(), r), "")
		same(t, "finalizers", []string{v1alpha1.FinalizerRun}, r.Finalizers)
		refused(t, "a label", patchOf(t, li, r, `{"metadata":{"labels":{"a":"b"}}}`), "")
		if r.Spec.ChangedBy != nil {
			t.Errorf("a label has changed who steered it: %v", r.Spec.ChangedBy)
		}
		refused(t, "a pause", patchOf(t, wang, r, `{"spec":{"paused":true,"reason":"lunch","changedBy":{"name":"yunfan:li"}}}`), "")
		same(t, "who paused", actorOf(tenant, "yunfan:wang", "admin"), r.Spec.ChangedBy)
		same(t, "user", me, r.Spec.User)
		refused(t, "somebody else in changedBy", patchOf(t, wang, r, `{"spec":{"changedBy":{"name":"yunfan:li"}}}`), "leave it as it is")
		refused(t, "nobody in changedBy", patchOf(t, li, r, `{"spec":{"changedBy":null}}`), "leave it as it is")
		if err := patchOf(t, li, r, `{"spec":{"user":{"name":"yunfan:wang"}}}`); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "who started a run cannot be changed") {
			t.Errorf("another user: %v", err)
		}
		refused(t, "other steps", patchOf(t, li, r, `{"spec":{"definition":{"steps":[{"name":"b","action":"wait"}]}}}`), "start another run")
		refused(t, "other inputs", patchOf(t, li, r, `{"spec":{"inputs":{"a":1}}}`), "start another run")
		refused(t, "without finalizer", patchOf(t, li, r, `{"metadata":{"finalizers":null}}`), "finalizers keep a run")
		refused(t, "the platform's mark", patchOf(t, li, r, `{"metadata":{"labels":{"yunfan.io/made-by":"platform"}}}`), "is the platform's")
		refused(t, "status", li.Status().Patch(t.Context(), r.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"status":{"phase":"Succeeded"}}`))), "cannot patch resource")
		refused(t, "deleting", li.Delete(t.Context(), r), "cannot delete resource")
		refused(t, "abort", patchOf(t, li, r, `{"spec":{"aborted":true}}`), "")
		same(t, "who aborted", me, r.Spec.ChangedBy)
	})
	t.Run("made by the platform", func(t *testing.T) {
		r := run(tenant, "made")
		r.Labels = map[string]string{v1alpha1.LabelMadeBy: v1alpha1.MadeByPlatform}
		refused(t, "made by a tenant", li.Create(t.Context(), r.DeepCopy()), "is the platform's")
		refused(t, "made by a platform administrator", as(t, v1alpha1.GroupPlatformAdmin).Create(t.Context(), r.DeepCopy()), "is the platform's")
		r.Spec.User = me
		refused(t, "made by the platform for li", admin.Create(t.Context(), r), "")
		same(t, "user", me, r.Spec.User)
		refused(t, "taking the mark away", patchOf(t, li, r, `{"metadata":{"labels":null}}`), "is the platform's")
		own := run(tenant, "own")
		refused(t, "made by the platform for itself", admin.Create(t.Context(), own), "")
		if own.Spec.User == nil || own.Spec.User.Name != "yunfan-admin" {
			t.Errorf("user: %v", own.Spec.User)
		}
		refused(t, "aborted by the platform", patchOf(t, admin, own, `{"spec":{"aborted":true}}`), "")
		if own.Spec.ChangedBy == nil || own.Spec.ChangedBy.Name != "yunfan-admin" {
			t.Errorf("who aborted: %v", own.Spec.ChangedBy)
		}
	})
	t.Run("who may not", func(t *testing.T) {
		for name, c := range map[string]client.Client{
			"viewer": as(t, "yunfan:tenant:"+tenant+":viewer"), "another tenant's Admin": as(t, "yunfan:tenant:"+other+":admin"),
			"limited viewer": as(t, "yunfan:tenant:"+tenant+":limited", "yunfan:partition:"+tenant+":a:viewer"), "nobody": as(t),
		} {
			refused(t, name+" starts a run", c.Create(t.Context(), run(tenant, "not")), "cannot create resource")
			refused(t, name+" approves", c.Create(t.Context(), approval(tenant, "not")), "cannot create resource")
		}
	})
	t.Run("limited", func(t *testing.T) {
		c := called(t, "yunfan:zhao", "yunfan:authenticated", "yunfan:tenant:"+tenant+":limited", "yunfan:tenant:"+tenant+":limited-operator", "yunfan:partition:"+tenant+":a:operator")
		r := run(tenant, "limited")
		refused(t, "a run of his own", c.Create(t.Context(), r), "")
		want := actorOf(tenant, "yunfan:zhao", "limited", "limited-operator")
		want.Groups = append(want.Groups, "yunfan:partition:"+tenant+":a:operator")
		same(t, "user", want, r.Spec.User)
		refused(t, "his own", patchOf(t, c, r, `{"spec":{"paused":true}}`), "")
		theirs := run(tenant, "theirs")
		refused(t, "a run", li.Create(t.Context(), theirs), "")
		refused(t, "another's", patchOf(t, c, theirs, `{"spec":{"aborted":true}}`), "ask an Operator of the whole tenant")
		about := run(tenant, "about") // made by the platform, about an application in his partition
		about.Labels = map[string]string{v1alpha1.LabelMadeBy: v1alpha1.MadeByPlatform, v1alpha1.LabelApplication: "his"}
		elsewhere := run(tenant, "elsewhere")
		elsewhere.Labels = map[string]string{v1alpha1.LabelMadeBy: v1alpha1.MadeByPlatform, v1alpha1.LabelApplication: "other"}
		testkit.Create(t, hub.Client, application(tenant, "his", in("a", "b")...), application(tenant, "other", in("b")...), about, elsewhere)
		zhao := rest.User{Name: "yunfan:zhao", Groups: r.Spec.User.Groups}
		NewWithT(t).Eventually(func() map[string]bool {
			reads := map[string]bool{}
			for _, name := range []string{"limited", "theirs", "about", "elsewhere"} {
				reads[name] = index.Own(t.Context(), zhao, authorizationv1.ResourceAttributes{
					Verb: "get", Group: "yunfan.io", Resource: "workflowruns", Namespace: tenant, Name: name,
				})
			}
			return reads
		}, "10s").Should(Equal(map[string]bool{"limited": true, "theirs": false, "about": true, "elsewhere": false}))
	})
}

// TestOPS10_ApprovalsAreSaidOnce forges, changes and deletes approvals.
func TestOPS10_ApprovalsAreSaidOnce(t *testing.T) {
	start(t)
	tenant := newTenant(t)
	stamping(t, tenant)
	admin := as(t, "yunfan:tenant:"+tenant+":admin")
	platform := called(t, "yunfan-admin", "system:masters")
	forged := approval(tenant, "forged")
	forged.Spec.User = &v1alpha1.Actor{Name: "yunfan:wang", Groups: []string{v1alpha1.GroupPlatformAdmin}}
	byAdmin, byPlatform := forged.DeepCopy(), forged.DeepCopy()
	byPlatform.Name = "platform"
	refused(t, "an approval in another's name", admin.Create(t.Context(), byAdmin), "")
	same(t, "user", actorOf(tenant, "yunfan:li", "admin"), byAdmin.Spec.User)
	refused(t, "the platform approves in another's name", platform.Create(t.Context(), byPlatform), "")
	if byPlatform.Spec.User.Name != "yunfan-admin" || len(byPlatform.Spec.User.Groups) != 0 {
		t.Errorf("an approval that the platform gave in another's name is his: %v", byPlatform.Spec.User)
	}
	kept := approval(tenant, "kept")
	kept.Finalizers = []string{"example.com/ever"}
	refused(t, "an approval for ever", admin.Create(t.Context(), kept), "finalizers would keep")
	for name, c := range map[string]client.Client{"Admin": admin, "platform administrator": as(t, v1alpha1.GroupPlatformAdmin)} {
		refused(t, name+" changes", patchOf(t, c, byAdmin.DeepCopy(), `{"metadata":{"labels":{"a":"b"}}}`), "cannot patch resource")
		refused(t, name+" deletes", c.Delete(t.Context(), byAdmin.DeepCopy()), "cannot delete resource")
		refused(t, name+" writes status", c.Status().Patch(t.Context(), byAdmin.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"status":{}}`))), "cannot patch resource")
	}
	// Somebody with a role of his own on the hub that has the verbs of Kubernetes, and not ours.
	machine := grantAll(t, tenant, "approvals", "get", "create", "update", "patch", "delete")
	refused(t, "changing by a role of one's own", patchOf(t, machine, byAdmin.DeepCopy(), `{"metadata":{"labels":{"a":"b"}}}`), "an approval is what somebody said")
	refused(t, "deleting by a role of one's own", machine.Delete(t.Context(), byAdmin.DeepCopy()), "an approval is what somebody said")
	collector := called(t, "system:serviceaccount:kube-system:generic-garbage-collector", "system:masters")
	refused(t, "the garbage collector", collector.Delete(t.Context(), byAdmin.DeepCopy()), "")
	refused(t, "the platform", platform.Delete(t.Context(), byPlatform), "")
}

// TestDEP07_WhoChangedAnApplication has people write the annotation that says so.
func TestDEP07_WhoChangedAnApplication(t *testing.T) {
	start(t)
	tenant := newTenant(t)
	stamping(t, tenant)
	li := as(t, "yunfan:tenant:"+tenant+":operator")
	wang := called(t, "yunfan:wang", "yunfan:authenticated", "yunfan:tenant:"+tenant+":operator")
	platform := called(t, "yunfan-admin", "system:masters")
	app := application(tenant, "score", in("a")...)
	app.Annotations = map[string]string{v1alpha1.AnnotationChangedBy: "yunfan:wang", "other": "stays"}
	is := func(reason, want string) {
		t.Helper()
		same(t, reason, want, app.Annotations[v1alpha1.AnnotationChangedBy])
	}
	refused(t, "made by li in wang's name", li.Create(t.Context(), app), "")
	is("who made it", "yunfan:li")
	same(t, "another annotation", "stays", app.Annotations["other"])
	refused(t, "a label by wang", patchOf(t, wang, app, `{"metadata":{"labels":{"a":"b"}}}`), "")
	is("a label is no change of it", "yunfan:li")
	refused(t, "wang takes the annotations away", patchOf(t, wang, app, `{"metadata":{"annotations":null}}`), "")
	is("without a change of the spec", "yunfan:li")
	refused(t, "wang forges it", patchOf(t, wang, app, `{"metadata":{"annotations":{"yunfan.io/changed-by":"yunfan:zhao"}}}`), "")
	is("without a change of the spec", "yunfan:li")
	refused(t, "wang changes it as li", patchOf(t, wang, app, `{"metadata":{"annotations":{"yunfan.io/changed-by":"yunfan:li"}},"spec":{"version":"v2"}}`), "")
	is("who changed it", "yunfan:wang")
	refused(t, "the platform's finalizer", patchOf(t, platform, app, `{"metadata":{"finalizers":["yunfan.io/application"]}}`), "")
	is("the platform writes metadata", "yunfan:wang")
	refused(t, "the platform's own change", patchOf(t, platform, app, `{"spec":{"version":"v3"}}`), "")
	is("the platform changes it", "yunfan:wang")
	refused(t, "the platform's change for zhao", patchOf(t, platform, app, `{"metadata":{"annotations":{"yunfan.io/changed-by":"yunfan:zhao"}},"spec":{"version":"v4"}}`), "")
	is("the platform says for whom", "yunfan:zhao")
	broken := application(tenant, "glass", in("a")...)
	refused(t, "break-glass", platform.Create(t.Context(), broken), "")
	same(t, "break-glass", "yunfan-admin", broken.Annotations[v1alpha1.AnnotationChangedBy])
}

// TestStampOfManyGroups has somebody in as many groups as there can be start a run: what admission may cost allows it.
func TestStampOfManyGroups(t *testing.T) {
	start(t)
	tenant := newTenant(t)
	stamping(t, tenant)
	var here, elsewhere []string
	for i := range 1490 {
		here = append(here, fmt.Sprintf("yunfan:partition:%s:%s-%d:operator", tenant, strings.Repeat("p", 30), i))
		elsewhere = append(elsewhere, fmt.Sprintf("yunfan:tenant:%s-%d:operator", strings.Repeat("t", 30), i))
	}
	for name, groups := range map[string][]string{"partitions of one tenant": here, "many tenants": elsewhere} {
		t.Run(name, func(t *testing.T) {
			c := as(t, append([]string{"yunfan:tenant:" + tenant + ":operator"}, groups...)...)
			r := run(tenant, testkit.Name(t))
			refused(t, "a run", c.Create(t.Context(), r), "")
			refused(t, "a pause", patchOf(t, c, r, `{"spec":{"paused":true}}`), "")
			refused(t, "an approval", c.Create(t.Context(), approval(tenant, testkit.Name(t))), "")
			want := 2
			if slices.Equal(groups, here) {
				want += len(here)
			}
			same(t, "groups of the tenant", want, len(r.Spec.User.Groups))
		})
	}
}

// grantAll is a client of somebody who is no user of the platform and has verbs on a resource by a role of his own.
func grantAll(t *testing.T, tenant, resource string, verbs ...string) client.Client {
	t.Helper()
	where := metav1.ObjectMeta{Namespace: tenant, Name: resource}
	testkit.Create(t, hub.Client,
		&rbacv1.Role{ObjectMeta: where, Rules: []rbacv1.PolicyRule{{APIGroups: []string{"yunfan.io"}, Resources: []string{resource}, Verbs: verbs}}},
		&rbacv1.RoleBinding{ObjectMeta: where, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: resource},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "machine"}}})
	NewWithT(t).Eventually(func() error {
		return called(t, "machine").Get(t.Context(), client.ObjectKey{Namespace: tenant, Name: "unknown"}, &v1alpha1.Approval{})
	}, "10s").ShouldNot(MatchError(ContainSubstring("forbidden")))
	return called(t, "machine")
}

// TestStampOnOldHubs takes the mutating policies away, as on a hub before Kubernetes 1.36: nobody is believed, and
// whoever writes his own name gets on.
func TestStampOnOldHubs(t *testing.T) {
	start(t)
	tenant := newTenant(t)
	stamping(t, tenant)
	for _, name := range []string{"yunfan-stamp-workflowruns", "yunfan-stamp-approvals", "yunfan-stamp-applications"} {
		if err := hub.Client.Delete(t.Context(), &admissionv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	c := as(t, "yunfan:tenant:"+tenant+":operator")
	NewWithT(t).Eventually(func(g Gomega) {
		app := application(tenant, "probe", in("a")...)
		g.Expect(c.Create(t.Context(), app, client.DryRunAll)).To(Succeed())
		g.Expect(app.Annotations).NotTo(HaveKey(v1alpha1.AnnotationChangedBy))
		g.Expect(c.Create(t.Context(), run(tenant, "probe"), client.DryRunAll)).NotTo(Succeed())
		g.Expect(c.Create(t.Context(), approval(tenant, "probe"), client.DryRunAll)).NotTo(Succeed())
	}, "30s").Should(Succeed())
	for name, tc := range map[string]struct {
		reason string
		user   *v1alpha1.Actor
		says   string
	}{
		"nobody":   {"a name is needed", nil, "you are yunfan:li"},
		"another":  {"not another's", &v1alpha1.Actor{Name: "yunfan:wang"}, "write your own name there"},
		"groups":   {"not another's groups", &v1alpha1.Actor{Name: "yunfan:li", Groups: []string{v1alpha1.GroupPlatformAdmin}}, "write your own name there"},
		"oneself":  {"one's own name", &v1alpha1.Actor{Name: "yunfan:li"}, ""},
		"complete": {"one's own name and groups", actorOf(tenant, "yunfan:li", "operator"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			r, a := run(tenant, testkit.Name(t)), approval(tenant, testkit.Name(t))
			r.Spec.User, a.Spec.User = tc.user, tc.user
			refused(t, tc.reason, c.Create(t.Context(), r), tc.says)
			refused(t, tc.reason, c.Create(t.Context(), a), tc.says)
		})
	}
	app := application(tenant, "score", in("a")...)
	app.Annotations = map[string]string{v1alpha1.AnnotationChangedBy: "yunfan:wang"}
	refused(t, "an application in another's name", c.Create(t.Context(), app.DeepCopy()), "then write yunfan:li there")
	app.Annotations = nil
	refused(t, "without a name", c.Create(t.Context(), app), "")
	refused(t, "a name without a change", patchOf(t, c, app.DeepCopy(), `{"metadata":{"annotations":{"yunfan.io/changed-by":"yunfan:li"}}}`), "leave it as it is")
	refused(t, "a change in another's name", patchOf(t, c, app.DeepCopy(), `{"metadata":{"annotations":{"yunfan.io/changed-by":"yunfan:wang"}},"spec":{"version":"v2"}}`), "then write yunfan:li there")
	refused(t, "a change in one's own", patchOf(t, c, app, `{"metadata":{"annotations":{"yunfan.io/changed-by":"yunfan:li"}},"spec":{"version":"v2"}}`), "")
	wang := called(t, "yunfan:wang", "yunfan:authenticated", "yunfan:tenant:"+tenant+":operator")
	refused(t, "a change under the last one's name", patchOf(t, wang, app, `{"spec":{"version":"v3"}}`), "then write yunfan:wang there")
}
