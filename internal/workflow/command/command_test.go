package command

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cli"
	"yunfan.io/yunfan/internal/testkit"
	"yunfan.io/yunfan/internal/workflow/history"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

// world is a tenant with a workflow, and the command line of somebody who may do everything in it.
type world struct {
	*Command

	tenant        string
	out, progress bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{tenant: testkit.Namespace(t, hub.Client)}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	member := &testkit.Member{Config: hub.Config}
	if err := os.WriteFile(kubeconfig, member.Kubeconfig(t, ""), 0o600); err != nil {
		t.Fatal(err)
	}
	access, flags := &cli.Access{}, pflag.NewFlagSet("", pflag.PanicOnError)
	access.Flags(flags)
	if err := flags.Parse([]string{"--kubeconfig", kubeconfig, "-n", w.tenant}); err != nil {
		t.Fatal(err)
	}
	w.Command = &Command{Access: access, Out: &w.out, Progress: &w.progress, Wait: cli.Wait{Timeout: time.Minute}}
	testkit.Create(t, hub.Client, &v1alpha1.Workflow{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.tenant, Name: "release"},
		Spec: v1alpha1.WorkflowSpec{
			Inputs: []v1alpha1.WorkflowInput{{Name: "version", Type: v1alpha1.TypeString}, {Name: "pods", Type: v1alpha1.TypeInteger}},
			Steps:  []v1alpha1.WorkflowStep{{Name: "ask", Action: "approve"}},
		},
	})
	return w
}

func (w *world) run(t *testing.T) *v1alpha1.WorkflowRun {
	t.Helper()
	var list v1alpha1.WorkflowRunList
	if err := hub.Client.List(t.Context(), &list, client.InNamespace(w.tenant)); err != nil || len(list.Items) != 1 {
		t.Fatalf("%d runs: %v", len(list.Items), err)
	}
	return &list.Items[0]
}

func (w *world) set(t *testing.T, run *v1alpha1.WorkflowRun, status v1alpha1.WorkflowRunStatus) {
	t.Helper()
	run.Status = status
	if err := hub.Client.Status().Update(t.Context(), run); err != nil {
		t.Fatal(err)
	}
}

var asked = v1alpha1.WorkflowRunStatus{Phase: v1alpha1.RunWaiting, Steps: []v1alpha1.StepStatus{{Name: "ask", Phase: v1alpha1.StepWaiting, Approval: &v1alpha1.ApprovalWanted{
	Digest: "d1", Subject: "release v2", Values: map[string]json.RawMessage{"cpu": json.RawMessage(`"8"`), "pods": json.RawMessage(`3`)},
}}}}

func TestOPS10_StartOnTheCommandLine(t *testing.T) {
	g := NewWithT(t)
	w := newWorld(t)
	file := StartOptions{File: "-", Stdin: strings.NewReader("version: v1\npods: 4\n"), Inputs: []string{"version=2"}}
	g.Expect(w.Start(t.Context(), "release", file)).To(Succeed())
	run := w.run(t)
	g.Expect(run.Spec.Inputs).To(Equal(map[string]json.RawMessage{"version": json.RawMessage(`"2"`), "pods": json.RawMessage(`4`)}), "each as the workflow wants it")
	g.Expect(w.out.String()).To(Equal("run " + run.Name + ": started\n"))
	g.Expect(run.Name).To(HavePrefix("release-"))
	for _, wrong := range []string{"color=red", "pods=many", "version"} {
		err := w.Start(t.Context(), "release", StartOptions{Inputs: []string{wrong}})
		g.Expect(cli.ExitCode(err)).To(Equal(cli.ExitUsage), "%s: %v", wrong, err)
	}
	g.Expect(cli.ExitCode(w.Start(t.Context(), "missing", StartOptions{}))).To(Equal(cli.ExitNotFound))

	w.Wait.Wanted = true
	started, ended := run, make(chan error)
	go func() { ended <- w.finish(t.Context(), hub.Client, started, 0) }()
	w.set(t, run.DeepCopy(), v1alpha1.WorkflowRunStatus{Phase: v1alpha1.RunFailed, Message: "step ask was rejected"})
	err := <-ended
	g.Expect(err).To(MatchError(ContainSubstring("step ask was rejected")))
	g.Expect(cli.ExitCode(err)).To(Equal(cli.ExitFailed))
}

func TestOPS10_DecideOnTheCommandLine(t *testing.T) {
	g := NewWithT(t)
	w := newWorld(t)
	g.Expect(w.Start(t.Context(), "release", StartOptions{})).To(Succeed())
	run := w.run(t)
	approve := Decision{Decision: v1alpha1.DecisionApproved, Comment: "fine", Values: []string{"cpu=4", "pods=2"}}
	err := w.Decide(t.Context(), run.Name, "", approve)
	g.Expect(cli.ExitCode(err)).To(Equal(cli.ExitInvalid), "nothing waits: %v", err)
	w.set(t, run, asked)
	g.Expect(cli.ExitCode(w.Decide(t.Context(), run.Name, "other", approve))).To(Equal(cli.ExitNotFound))
	g.Expect(cli.ExitCode(w.Decide(t.Context(), run.Name, "", Decision{Decision: v1alpha1.DecisionRejected}))).To(Equal(cli.ExitUsage), "a rejection says why")
	g.Expect(cli.ExitCode(w.Decide(t.Context(), run.Name, "", Decision{Decision: v1alpha1.DecisionApproved, Values: []string{"memory=1"}}))).To(Equal(cli.ExitUsage))

	for reason, tc := range map[string]struct {
		status metav1.ConditionStatus
		reason string
		code   int
	}{
		"ItCounts":       {metav1.ConditionTrue, "Counted", 0},
		"Own":            {metav1.ConditionFalse, "OwnRun", cli.ExitForbidden},
		"NotAllowed":     {metav1.ConditionFalse, "NotAllowed", cli.ExitForbidden},
		"DecidedAlready": {metav1.ConditionFalse, "AlreadyDecided", cli.ExitInvalid},
	} {
		ended := make(chan error)
		go func() { ended <- w.Decide(t.Context(), run.Name, "", approve) }()
		var given v1alpha1.ApprovalList
		g.Eventually(func() int {
			if err := hub.Client.List(t.Context(), &given, client.InNamespace(w.tenant)); err != nil {
				t.Fatal(err)
			}
			return len(given.Items)
		}, "30s", "20ms").Should(Equal(1), reason)
		one := &given.Items[0]
		g.Expect(one.Spec.Values).To(Equal(map[string]json.RawMessage{"cpu": json.RawMessage(`"4"`), "pods": json.RawMessage(`2`)}), "of the types that are asked for")
		g.Expect([]string{one.Spec.Run, one.Spec.RunUID, one.Spec.Step, one.Spec.Digest, one.Spec.Comment}).To(Equal([]string{run.Name, string(run.UID), "ask", "d1", "fine"}))
		one.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAccepted, Status: tc.status, Reason: tc.reason, Message: "says the server", LastTransitionTime: metav1.Now()}}
		g.Expect(hub.Client.Status().Update(t.Context(), one)).To(Succeed())
		err := <-ended
		g.Expect(cli.ExitCode(err)).To(Equal(tc.code), "%s: %v", reason, err)
		g.Expect(err == nil || strings.Contains(err.Error(), "says the server")).To(BeTrue(), "%v", err)
		g.Expect(hub.Client.Delete(t.Context(), one)).To(Succeed())
	}
}

func TestOPS10_SteerOnTheCommandLine(t *testing.T) {
	g := NewWithT(t)
	w := newWorld(t)
	g.Expect(w.Start(t.Context(), "release", StartOptions{Inputs: []string{"pods=4"}})).To(Succeed())
	name := w.run(t).Name
	code := cli.ExitCode
	g.Expect(w.Pause(t.Context(), name, "lunch")).To(Succeed())
	g.Expect([]any{w.run(t).Spec.Paused, w.run(t).Spec.Reason}).To(Equal([]any{true, "lunch"}))
	g.Expect(w.Resume(t.Context(), name, "")).To(Succeed())
	g.Expect(w.run(t).Spec.Paused).To(BeFalse())
	g.Expect(code(w.Resume(t.Context(), name, ""))).To(Equal(cli.ExitInvalid))
	g.Expect(code(w.Retry(t.Context(), name, "", ""))).To(Equal(cli.ExitInvalid), "it has not finished")
	g.Expect(w.Abort(t.Context(), name, "wrong version")).To(Succeed())
	g.Expect(w.run(t).Spec.Aborted).To(BeTrue())
	w.set(t, w.run(t), v1alpha1.WorkflowRunStatus{Phase: v1alpha1.RunAborted, Retries: 2})
	g.Expect(code(w.Pause(t.Context(), name, ""))).To(Equal(cli.ExitInvalid))
	g.Expect(code(w.Abort(t.Context(), name, ""))).To(Equal(cli.ExitInvalid))
	g.Expect(w.Retry(t.Context(), name, "ask", "again")).To(Succeed())
	spec := w.run(t).Spec
	g.Expect(*spec.Retry).To(Equal(v1alpha1.RunRetry{Number: 3, From: "ask"}))
	g.Expect([]any{spec.Aborted, spec.Reason}).To(Equal([]any{false, "again"}))
	g.Expect(spec.Inputs).To(HaveKey("pods"), "nothing else changes")
	w.set(t, w.run(t), v1alpha1.WorkflowRunStatus{Phase: v1alpha1.RunSucceeded, Retries: 3})
	g.Expect(code(w.Retry(t.Context(), name, "", ""))).To(Equal(cli.ExitInvalid), "nothing failed")
	g.Expect(code(w.Pause(t.Context(), "missing", ""))).To(Equal(cli.ExitNotFound))
}

func TestOPS10_RunForPeople(t *testing.T) {
	at := metav1.NewMicroTime(time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)) //nolint:gosmopolitan // people read local time
	later := metav1.NewMicroTime(at.Add(90 * time.Second))
	step := func(name, action string, needs ...string) v1alpha1.WorkflowStep {
		return v1alpha1.WorkflowStep{Name: name, Action: action, Needs: needs}
	}
	d := &history.Detail{Archived: history.Archived{
		Run: v1alpha1.WorkflowRun{
			ObjectMeta: metav1.ObjectMeta{Namespace: "edu", Name: "release-1"},
			Spec:       v1alpha1.WorkflowRunSpec{Workflow: "release", User: &v1alpha1.Actor{Name: "yunfan:li"}},
			Status: v1alpha1.WorkflowRunStatus{
				Phase: v1alpha1.RunWaiting, Message: "waits for approval", Inputs: map[string]json.RawMessage{"version": json.RawMessage(`"v2"`)},
				Definition: &v1alpha1.WorkflowSpec{Steps: []v1alpha1.WorkflowStep{
					step("publish", "http", "ask", "test"), step("build", "container"), step("test", "container", "build"), step("scan", "http", "build"), step("ask", "approve", "test"),
				}},
				Steps: []v1alpha1.StepStatus{
					{Name: "build", Phase: v1alpha1.StepSucceeded, Attempt: 2, StartTime: &at, FinishTime: &later, Actor: "yunfan:li"},
					{Name: "test", Phase: v1alpha1.StepSucceeded, Attempt: 1, StartTime: &at, FinishTime: &later, Actor: "yunfan:li"},
					{Name: "scan", Phase: v1alpha1.StepFailed, Attempt: 1, StartTime: &at, FinishTime: &later, Actor: "yunfan:li", Message: "answered 500"},
					{Name: "ask", Phase: v1alpha1.StepWaiting, Attempt: 1, StartTime: &at, Approval: &v1alpha1.ApprovalWanted{
						Subject: "publish v2", Roles: []v1alpha1.ApproverRole{v1alpha1.ApproverAdmin}, Users: []string{"chen"}, Count: 2,
					}},
				},
			},
		},
		Approvals: []v1alpha1.Approval{{
			ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(at.Time)},
			Spec:       v1alpha1.ApprovalSpec{Step: "ask", Decision: v1alpha1.DecisionApproved, User: &v1alpha1.Actor{Name: "yunfan:wang"}, Comment: "good"},
		}},
	}}
	want := `Run release-1 of tenant edu, workflow release, started by li
Waiting: waits for approval
Inputs:
    version = "v2"

STEP               ACTION      PHASE       ATTEMPT   STARTED               TOOK    BY   MESSAGE
build              container   Succeeded   2         2026-03-01 12:00:00   1m30s   li   -
├─ test            container   Succeeded   1         2026-03-01 12:00:00   1m30s   li   -
│  └─ ask          approve     Waiting     1         2026-03-01 12:00:00   -       -    -
│     └─ publish   http        Pending     -         -                     -       -    (also after test)
└─ scan            http        Failed      1         2026-03-01 12:00:00   1m30s   li   answered 500

Step ask waits for 2 of Admin, chen: publish v2
  yunfan approve release-1 ask -n edu

Approved by wang at 2026-03-01 12:00:00 (step ask): good
`
	out := &bytes.Buffer{}
	if err := printRun(out, d); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
