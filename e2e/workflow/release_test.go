//go:build e2e

package workflow_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

// release is a tenant with a partition for production that asks for approval and one for tests that does not.
type release struct {
	*journey.Journey
	app *v1alpha1.Application
}

// as is the hub through the platform in somebody's name.
func (r *release) as(person *journey.Person) client.Client {
	r.Helper()
	c, err := person.Client(r.Hub().Scheme())
	r.Expect(err).NotTo(HaveOccurred())
	return c
}

// member is a person with a role, which has its effect within a moment.
func (r *release) member(name string, role v1alpha1.Role) *journey.Person {
	r.Helper()
	person := r.Person(name)
	r.Create(&v1alpha1.Membership{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.Tenant, Name: person.Name},
		Spec:       v1alpha1.MembershipSpec{Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectUser, Name: person.Name}, Role: role},
	})
	r.Eventually(func() error {
		return r.as(person).List(r.Context(), &v1alpha1.WorkflowRunList{}, client.InNamespace(r.Tenant))
	}).Should(Succeed())
	return person
}

// changes the image of the application, as somebody.
func (r *release) changes(person *journey.Person, version, image string) {
	r.Helper()
	r.Eventually(func() error {
		if err := r.Get(r.app); err != nil {
			return err
		}
		r.app.Spec.Version = version
		r.app.Spec.Components[0].Template.Spec.Containers[0].Image = image
		return r.as(person).Update(r.Context(), r.app)
	}).Should(Succeed())
}

// waits gives the run of the application's release that somebody must approve, with its step.
func (r *release) waits(user string) (*v1alpha1.WorkflowRun, *v1alpha1.StepStatus) {
	r.Helper()
	run := &v1alpha1.WorkflowRun{}
	r.Eventually(func(g Gomega) {
		g.Expect(r.Get(r.app)).To(Succeed())
		g.Expect(r.app.Status.ObservedGeneration).To(Equal(r.app.Generation))
		g.Expect(r.app.Status.Release).NotTo(BeNil())
		g.Expect(r.app.Status.Release.Phase).To(Equal(v1alpha1.ReleaseWaiting))
		g.Expect(r.Hub().Get(r.Context(), r.Key(r.app.Status.Release.Run), run)).To(Succeed())
		g.Expect(run.Status.Steps).To(HaveLen(1))
		g.Expect(run.Status.Steps[0].Approval).NotTo(BeNil(), run.Status.Message)
	}).Should(Succeed())
	r.Expect(run.Spec.User.Name).To(Equal(v1alpha1.UserPrefix + user))
	return run, &run.Status.Steps[0]
}

// decides on a run as somebody.
func (r *release) decides(person *journey.Person, run *v1alpha1.WorkflowRun, decision v1alpha1.Decision, comment string) error {
	r.Helper()
	step := run.Status.Steps[0]
	return r.as(person).Create(r.Context(), &v1alpha1.Approval{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.Tenant, GenerateName: run.Name + "-"},
		Spec: v1alpha1.ApprovalSpec{
			Run: run.Name, RunUID: string(run.UID), Step: step.Name, Digest: step.Approval.Digest, Decision: decision, Comment: comment,
		},
	})
}

// images that run in a partition.
func (r *release) images(partition string) func() []string {
	return func() []string {
		var all []string
		for _, pod := range r.Pods(journey.Beijing, r.Tenant+"-"+partition, "web") {
			if pod.DeletionTimestamp == nil {
				all = append(all, pod.Spec.Containers[0].Image)
			}
		}
		return all
	}
}

// audited says who did something according to the audit.
func (r *release) audited(person *journey.Person, resource, action string) func() []string {
	return func() []string {
		query := url.Values{"tenant": {r.Tenant}, "resource": {resource}, "action": {action}, "result": {"Succeeded"}}
		code, text, err := person.Do(r.Context(), http.MethodGet, "/api/v1/audit?"+query.Encode(), nil)
		r.Expect(err).NotTo(HaveOccurred())
		r.Expect(code).To(Equal(http.StatusOK), string(text))
		var page struct {
			Items []struct {
				User string `json:"user"`
			} `json:"items"`
		}
		r.Expect(json.Unmarshal(text, &page)).To(Succeed())
		var users []string
		for _, row := range page.Items {
			users = append(users, row.User)
		}
		return users
	}
}

// TestDEP07_ReleaseToProductionIsApproved has an Operator change the image: tests get it at once, production waits until
// the tenant's Admin approves it.
func TestDEP07_ReleaseToProductionIsApproved(t *testing.T) {
	r := &release{Journey: journey.Begin(t)}
	r.Partition("prod", journey.Beijing, func(s *v1alpha1.PartitionSpec) {
		s.Environment, s.ReleaseApproval = "Production", v1alpha1.ReleaseApprovalRequired
	})
	r.Partition("test", journey.Beijing)
	li, wang, zhao := r.member("li", v1alpha1.RoleOperator), r.member("wang", v1alpha1.RoleAdmin), r.member("zhao", v1alpha1.RoleViewer)
	root := r.Person("root", func(s *v1alpha1.UserSpec) { s.PlatformAdministrator = true })

	const first, second = journey.EchoImage, "registry.yunfan.internal/examples/score-record:v1"
	r.app = &v1alpha1.Application{ObjectMeta: metav1.ObjectMeta{Namespace: r.Tenant, Name: "web"}, Spec: v1alpha1.ApplicationSpec{
		Version: "v1", Placement: journey.In("prod", "test"), Components: []v1alpha1.Component{journey.Echo("web")},
	}}
	r.Expect(r.as(li).Create(r.Context(), r.app)).To(Succeed())
	r.Eventually(r.images("test")).Should(Equal([]string{first}))
	run, _ := r.waits(li.Name)
	r.Expect(r.images("prod")()).To(BeEmpty())
	r.Eventually(r.Condition(r.app, v1alpha1.ConditionReady)).Should(HavePrefix("False WaitingForApproval"))

	t.Run("not by oneself, not by a Viewer, not by changing it", func(t *testing.T) {
		r.Expect(r.decides(li, run, v1alpha1.DecisionApproved, "")).NotTo(Succeed())
		err := r.decides(zhao, run, v1alpha1.DecisionApproved, "")
		r.Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
		forged := run.DeepCopy()
		forged.Status.Phase = v1alpha1.RunSucceeded
		err = r.as(li).Status().Update(r.Context(), forged)
		r.Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
		p := &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: r.Tenant, Name: "prod"}}
		r.Expect(r.Get(p)).To(Succeed())
		p.Spec.ReleaseApproval = ""
		err = r.as(wang).Update(r.Context(), p)
		r.Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
		r.Expect(r.images("prod")()).To(BeEmpty())
	})
	r.Expect(r.decides(wang, run, v1alpha1.DecisionApproved, "go")).To(Succeed())
	r.Eventually(r.images("prod")).Should(Equal([]string{first}))
	r.Ready(r.app)
	r.Expect(r.app.Status.Release.By).To(Equal([]string{wang.Name}))

	r.changes(wang, "v2", second)
	r.Eventually(r.images("test")).Should(ConsistOf(second))
	run, step := r.waits(wang.Name)
	r.Expect(step.Approval.Subject).To(ContainSubstring("with image " + second + " instead of with image " + first))
	t.Run("the only Admin is the author", func(t *testing.T) {
		r.Expect(r.decides(wang, run, v1alpha1.DecisionApproved, "")).NotTo(Succeed())
		r.Expect(r.images("prod")()).To(Equal([]string{first}))
		r.Expect(r.decides(root, run, v1alpha1.DecisionRejected, "not on a Friday")).To(Succeed())
		r.Eventually(r.Condition(r.app, v1alpha1.ConditionReady)).Should(And(HavePrefix("False ApprovalRejected"), ContainSubstring("not on a Friday"), ContainSubstring(root.Name)))
		r.Expect(r.images("prod")()).To(Equal([]string{first}))
	})
	r.changes(li, "v1", first)
	r.Eventually(r.images("test")).Should(ConsistOf(first))
	r.Ready(r.app)
	r.Expect(r.app.Status.Release).To(BeNil(), "what runs there needs no approval")

	r.Eventually(r.audited(root, "applications", "create")).Should(ContainElement(ContainSubstring(li.Name)))
	r.Eventually(r.audited(root, "approvals", "create")).Should(ConsistOf(ContainSubstring(wang.Name), ContainSubstring(root.Name)))
}
