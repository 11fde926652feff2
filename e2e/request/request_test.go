//go:build e2e

// Package request_test holds the journeys of resource requests: somebody applies, somebody else decides, and what was
// granted is there until it is given back.
package request_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

// people of one journey, each with his own way through the platform.
type people struct {
	*journey.Journey

	administrator, operator, viewer *journey.Person
}

func begin(t *testing.T) *people {
	t.Helper()
	j := journey.Begin(t)
	p := &people{Journey: j, operator: j.Person("li"), viewer: j.Person("wang"),
		administrator: j.Person("zhao", func(u *v1alpha1.UserSpec) { u.PlatformAdministrator = true })}
	for person, role := range map[*journey.Person]v1alpha1.Role{p.operator: v1alpha1.RoleOperator, p.viewer: v1alpha1.RoleViewer} {
		j.Create(&v1alpha1.Membership{
			ObjectMeta: journey.Named(j.Tenant, person.Name),
			Spec:       v1alpha1.MembershipSpec{Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectUser, Name: person.Name}, Role: role},
		})
	}
	return p
}

func (p *people) as(person *journey.Person) client.Client {
	p.Helper()
	c, err := person.Client(p.Hub().Scheme())
	p.Expect(err).NotTo(HaveOccurred())
	return c
}

// applies creates a request in somebody's name. A membership has its effect within a moment.
func (p *people) applies(person *journey.Person, name string, wanted v1alpha1.WantedResources) *v1alpha1.ResourceRequest {
	p.Helper()
	request := &v1alpha1.ResourceRequest{ObjectMeta: journey.Named(p.Tenant, name), Spec: v1alpha1.ResourceRequestSpec{
		Form: v1alpha1.RequestForm{
			ProjectGroup: "教务系统", Applicant: "李四", Phone: "+86 10 1234 5678", Email: "li@example.org", Application: "score (Web)",
			Purpose: "学生成绩管理", ServerType: v1alpha1.ServerApplicationHost, Machines: 1,
		},
		Wanted: wanted,
	}}
	p.Eventually(func() error { return p.as(person).Create(p.Context(), request.DeepCopy()) }).Should(Succeed())
	p.Expect(p.Hub().Get(p.Context(), p.Key(name), request)).To(Succeed())
	p.Expect(request.Spec.User).NotTo(BeNil())
	p.Expect(request.Spec.User.Name).To(Equal(v1alpha1.UserPrefix + person.Name))
	return request
}

func (p *people) request(name string) *v1alpha1.ResourceRequest {
	request := &v1alpha1.ResourceRequest{}
	p.Expect(p.Hub().Get(p.Context(), p.Key(name), request)).To(Succeed())
	return request
}

func (p *people) phase(name string) func() v1alpha1.RequestPhase {
	return func() v1alpha1.RequestPhase { return p.request(name).Status.Phase }
}

// waiting gives the run of a request, and its step that waits for somebody.
func (p *people) waiting(name string) (*v1alpha1.WorkflowRun, *v1alpha1.StepStatus) {
	p.Helper()
	run, step := &v1alpha1.WorkflowRun{}, &v1alpha1.StepStatus{}
	p.Eventually(func() string {
		request := p.request(name)
		if request.Status.Run == "" || p.Hub().Get(p.Context(), p.Key(request.Status.Run), run) != nil {
			return ""
		}
		for i := range run.Status.Steps {
			if run.Status.Steps[i].Phase == v1alpha1.StepWaiting && run.Status.Steps[i].Approval != nil {
				step = &run.Status.Steps[i]
				return step.Approval.Digest
			}
		}
		return ""
	}).ShouldNot(BeEmpty())
	return run, step
}

// decides creates an Approval in somebody's name.
func (p *people) decides(person *journey.Person, request string, decision v1alpha1.Decision, comment string, values map[string]any) error {
	p.Helper()
	run, step := p.waiting(request)
	approval := &v1alpha1.Approval{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Tenant, GenerateName: run.Name + "-"},
		Spec: v1alpha1.ApprovalSpec{
			Run: run.Name, RunUID: string(run.UID), Step: step.Name, Digest: step.Approval.Digest, Decision: decision, Comment: comment,
			Values: map[string]json.RawMessage{},
		},
	}
	for key, value := range values {
		text, err := json.Marshal(value)
		p.Expect(err).NotTo(HaveOccurred())
		approval.Spec.Values[key] = text
	}
	return p.as(person).Create(p.Context(), approval)
}

// told waits until somebody has a message with these words.
func (p *people) told(person *journey.Person, words string) {
	p.Helper()
	p.Eventually(func() string {
		p.Expect(person.Again(p.Context())).To(Succeed())
		_, text, err := person.Do(p.Context(), http.MethodGet, "/api/v1/me/messages", nil)
		p.Expect(err).NotTo(HaveOccurred())
		return string(text)
	}).Should(ContainSubstring(words))
}

// ledger gives the rows of a request as somebody sees them.
func (p *people) ledger(person *journey.Person, request string) string {
	p.Helper()
	p.Expect(person.Again(p.Context())).To(Succeed())
	code, text, err := person.Do(p.Context(), http.MethodGet, "/api/v1/resource-ledger?format=csv&tenant="+p.Tenant, nil)
	p.Expect(err).NotTo(HaveOccurred())
	p.Expect(code).To(Equal(http.StatusOK), string(text))
	var rows []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, request) {
			rows = append(rows, line)
		}
	}
	return strings.Join(rows, "")
}

// TestONB05_FromApplicationToReturn is the life of a request: an operator applies for a Production partition of 4
// cores, the platform administrator grants a part of it with a comment, the partition and its quota are there, the ledger
// shows it, and it is given back after a notice when its term is over.
func TestONB05_FromApplicationToReturn(t *testing.T) {
	t.Parallel()
	p := begin(t)
	const name = "score-prod"
	until := metav1.NewTime(time.Now().Add(100 * time.Second).Truncate(time.Second))
	wanted := v1alpha1.WantedResources{
		Type: v1alpha1.RequestNew, Partition: "prod", Cluster: journey.Beijing, Environment: "Production",
		Quota: corev1.ResourceList{"requests.cpu": resource.MustParse("4"), "requests.memory": resource.MustParse("4Gi")}, Until: &until,
	}
	refused := func(err error) { p.Helper(); p.Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err) }
	request := p.applies(p.operator, name, wanted)
	second := request.DeepCopy()
	second.ObjectMeta = journey.Named(p.Tenant, "by-a-viewer")
	refused(p.as(p.viewer).Create(p.Context(), second))

	p.Eventually(p.phase(name)).Should(Equal(v1alpha1.RequestApplied))
	p.told(p.administrator, name)
	p.Expect(p.Hub().Get(p.Context(), p.Key("prod"), &v1alpha1.Partition{})).NotTo(Succeed(), "nothing is given before somebody decides")
	p.Expect(p.decides(p.operator, name, v1alpha1.DecisionApproved, "", nil)).NotTo(Succeed(), "nobody decides on what is his own")
	p.Expect(p.decides(p.viewer, name, v1alpha1.DecisionApproved, "", nil)).NotTo(Succeed())
	part := map[string]any{"quota": map[string]string{"requests.cpu": "3", "requests.memory": "4Gi"}}
	p.Expect(p.decides(p.administrator, name, v1alpha1.DecisionApproved, "three cores are enough until the new nodes come", part)).To(Succeed())

	p.Eventually(p.phase(name)).Should(Equal(v1alpha1.RequestActive))
	granted := p.request(name).Status
	p.Expect(granted.Comment).To(ContainSubstring("three cores"))
	p.Expect(granted.By).To(ContainElement(ContainSubstring(p.administrator.Name)))
	p.Expect(granted.Granted.Quota["requests.cpu"]).To(Equal(resource.MustParse("3")))
	quota := &corev1.ResourceQuota{}
	p.Expect(p.Clusters[journey.Beijing].Get(p.Context(), client.ObjectKey{Namespace: p.Tenant + "-prod", Name: "yunfan"}, quota)).To(Succeed())
	p.Expect(quota.Spec.Hard["requests.cpu"]).To(Equal(resource.MustParse("3")), "the member itself holds it")
	p.told(p.operator, name)
	p.Expect(p.ledger(p.operator, name)).To(And(ContainSubstring("Applied"), ContainSubstring("Approved"), ContainSubstring("Active"),
		ContainSubstring(p.administrator.Name), ContainSubstring("three cores")))
	stranger := p.Person("qian")
	code, text, err := stranger.Do(p.Context(), http.MethodGet, "/api/v1/resource-ledger?format=csv", nil)
	p.Expect(err).NotTo(HaveOccurred())
	p.Expect(string(text)).NotTo(ContainSubstring(p.Tenant), "%d", code)

	p.told(p.operator, "request.expiring")
	p.Eventually(p.phase(name)).Should(Equal(v1alpha1.RequestReturned))
	p.Expect(time.Now()).To(BeTemporally(">=", until.Time), "not before its time")
	p.Eventually(func() bool {
		return apierrors.IsNotFound(p.Hub().Get(p.Context(), p.Key("prod"), &v1alpha1.Partition{}))
	}).Should(BeTrue())
	p.Expect(p.ledger(p.administrator, name)).To(And(ContainSubstring("Expired"), ContainSubstring("Returned")))
}

// TestONB05_RejectedLeavesNothing: the applicant has the reason, and nothing else is different from before.
func TestONB05_RejectedLeavesNothing(t *testing.T) {
	t.Parallel()
	p := begin(t)
	const name = "too-much"
	before := &v1alpha1.Tenant{}
	p.Expect(p.Hub().Get(p.Context(), client.ObjectKey{Name: p.Tenant}, before)).To(Succeed())
	p.applies(p.operator, name, v1alpha1.WantedResources{
		Type: v1alpha1.RequestNew, Partition: "big", Cluster: journey.Shanghai, Environment: "Test",
		Quota: corev1.ResourceList{"requests.cpu": resource.MustParse("64")},
	})
	p.Expect(p.decides(p.administrator, name, v1alpha1.DecisionRejected, "", nil)).NotTo(Succeed(), "a rejection needs a reason")
	p.Expect(p.decides(p.administrator, name, v1alpha1.DecisionRejected, "there are not that many cores", nil)).To(Succeed())
	p.Eventually(p.phase(name)).Should(Equal(v1alpha1.RequestRejected))
	p.Expect(p.request(name).Status.Comment + p.request(name).Status.Message).To(ContainSubstring("not that many cores"))
	p.told(p.operator, "not that many cores")

	var partitions v1alpha1.PartitionList
	p.Expect(p.Hub().List(p.Context(), &partitions, client.InNamespace(p.Tenant))).To(Succeed())
	p.Expect(partitions.Items).To(BeEmpty())
	after := &v1alpha1.Tenant{}
	p.Expect(p.Hub().Get(p.Context(), client.ObjectKey{Name: p.Tenant}, after)).To(Succeed())
	p.Expect(after.Spec).To(Equal(before.Spec))
	p.Expect(p.ledger(p.operator, name)).To(And(ContainSubstring("Rejected"), ContainSubstring("not that many cores")))
}
