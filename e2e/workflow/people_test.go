//go:build e2e

package workflow_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
	"yunfan.io/yunfan/internal/workflow/history"
)

// patience is how long something takes at most that needs no pod.
const patience = time.Minute

// someone is a person with clients of his own.
type someone struct {
	*journey.Person
	client.Client

	j    *journey.Journey
	home string // where the command line keeps that he has signed in
}

// member signs somebody in who has a role in the journey's tenant; none if role is empty.
func member(j *journey.Journey, name string, role v1alpha1.Role) *someone {
	j.Helper()
	p := &someone{Person: j.Person(name), j: j}
	if role != "" {
		j.Create(&v1alpha1.Membership{
			ObjectMeta: journey.Named(j.Tenant, p.Name),
			Spec:       v1alpha1.MembershipSpec{Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectUser, Name: p.Name}, Role: role},
		})
	}
	p.connect()
	if role != "" { // a membership has its effect within a moment
		j.Eventually(func() error {
			return p.List(j.Context(), &v1alpha1.WorkflowRunList{}, client.InNamespace(j.Tenant))
		}).WithTimeout(patience).Should(Succeed())
	}
	return p
}

func (p *someone) connect() {
	p.j.Helper()
	all := scheme.Scheme
	p.j.Expect(v1alpha1.AddToScheme(all)).To(Succeed())
	var err error
	p.Client, err = p.Person.Client(all)
	p.j.Expect(err).NotTo(HaveOccurred())
}

// start starts a run of a workflow of the tenant.
func (p *someone) start(workflow string, inputs map[string]json.RawMessage) (*v1alpha1.WorkflowRun, error) {
	run := &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.j.Tenant, GenerateName: workflow + "-"},
		Spec:       v1alpha1.WorkflowRunSpec{Workflow: workflow, Inputs: inputs},
	}
	return run, p.Create(p.j.Context(), run)
}

// decide decides on a step and gives what the server says of it: the reason of Accepted, or how creating was refused.
func (p *someone) decide(run *v1alpha1.WorkflowRun, step string, decision v1alpha1.Decision, change ...func(*v1alpha1.ApprovalSpec)) string {
	p.j.Helper()
	p.j.Expect(p.j.Get(run)).To(Succeed())
	approval := &v1alpha1.Approval{
		ObjectMeta: metav1.ObjectMeta{Namespace: run.Namespace, GenerateName: run.Name + "-"},
		Spec: v1alpha1.ApprovalSpec{
			Run: run.Name, RunUID: string(run.UID), Step: step, Digest: stepOf(run, step).Approval.Digest, Decision: decision, Comment: "as agreed",
		},
	}
	for _, c := range change {
		c(&approval.Spec)
	}
	if err := p.Create(p.j.Context(), approval); err != nil {
		return err.Error()
	}
	var said string
	p.j.Eventually(func() string {
		p.j.Expect(p.j.Get(approval)).To(Succeed())
		for _, c := range approval.Status.Conditions {
			if c.Type == v1alpha1.ConditionAccepted {
				said = string(c.Status) + " " + c.Reason + ": " + c.Message
			}
		}
		return said
	}).WithTimeout(patience).ShouldNot(BeEmpty(), "whether it counts is said")
	return said
}

func stepOf(run *v1alpha1.WorkflowRun, name string) v1alpha1.StepStatus {
	for _, s := range run.Status.Steps {
		if s.Name == name {
			return s
		}
	}
	return v1alpha1.StepStatus{Name: name}
}

// get reads a view as the person; the answer's code and, if it is 200, its body in into.
func (p *someone) get(path string, into any) int {
	p.j.Helper()
	code, text, err := p.Do(p.j.Context(), http.MethodGet, path, nil)
	p.j.Expect(err).NotTo(HaveOccurred())
	if code == http.StatusOK && into != nil {
		p.j.Expect(json.Unmarshal(text, into)).To(Succeed(), "%s", text)
	}
	return code
}

// runs are those that the person sees in the list of all.
func (p *someone) runs(query string) []history.Row {
	p.j.Helper()
	var page struct{ Items []history.Row }
	p.j.Expect(p.get("/api/v1/workflow-runs?tenant="+p.j.Tenant+"&"+query, &page)).To(Equal(http.StatusOK))
	return page.Items
}

// inbox is what waits for the person in the tenant.
func (p *someone) inbox() []history.Wanted {
	p.j.Helper()
	var page struct{ Items []history.Wanted }
	p.j.Expect(p.get("/api/v1/approvals?tenant="+p.j.Tenant, &page)).To(Equal(http.StatusOK))
	return page.Items
}

func pathOf(run *v1alpha1.WorkflowRun) string {
	return "/api/v1/tenants/" + run.Namespace + "/workflow-runs/" + url.PathEscape(run.Name)
}

// log reads the log of a step.
func (p *someone) log(run *v1alpha1.WorkflowRun, step string) string {
	p.j.Helper()
	code, text, err := p.Do(p.j.Context(), http.MethodGet, pathOf(run)+"/steps/"+step+"/log", nil)
	p.j.Expect(err).NotTo(HaveOccurred())
	p.j.Expect(code).To(Equal(http.StatusOK), "%s", text)
	return string(text)
}

// signIn signs the person in at a terminal.
func (p *someone) signIn() {
	p.j.Helper()
	p.home = p.j.TempDir()
	ca := filepath.Join(p.home, "ca.pem")
	p.j.Expect(os.WriteFile(ca, p.Config.CAData, 0o600)).To(Succeed())
	out, code := p.typed(p.Password+"\n", "login", "--server", p.Config.Host, "--ca", ca, "--user", p.Name)
	p.j.Expect(code).To(BeZero(), out)
}

// yunfan runs the command line as the person, and gives what it says and its exit code.
func (p *someone) yunfan(args ...string) (string, int) {
	p.j.Helper()
	return p.typed("", append(args, "-n", p.j.Tenant)...)
}

func (p *someone) typed(input string, args ...string) (string, int) {
	p.j.Helper()
	ctx, cancel := context.WithTimeout(p.j.Context(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.j.Command(ctx, "yunfan").Path, args...)
	cmd.Env = append(os.Environ(), "YUNFAN_CONFIG="+p.home, "KUBECONFIG="+filepath.Join(p.home, "kubeconfig"))
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		p.j.Fatalf("running yunfan: %v", err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// workflow creates one in the tenant, as a person would write it.
func (p *someone) workflow(name string, steps ...v1alpha1.WorkflowStep) error {
	return p.Create(p.j.Context(), &v1alpha1.Workflow{ObjectMeta: journey.Named(p.j.Tenant, name), Spec: v1alpha1.WorkflowSpec{Steps: steps}})
}

// with are inputs of a step.
func with(pairs ...any) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	for i := 0; i < len(pairs); i += 2 {
		text, err := json.Marshal(pairs[i+1])
		if err != nil {
			panic(err)
		}
		out[pairs[i].(string)] = text
	}
	return out
}

// phase is where a run is, for Eventually.
func phase(j *journey.Journey, run *v1alpha1.WorkflowRun) func() v1alpha1.RunPhase {
	return func() v1alpha1.RunPhase {
		j.Expect(j.Get(run)).To(Succeed())
		return run.Status.Phase
	}
}
