//go:build e2e

package workflow_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"testing"

	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
	"yunfan.io/yunfan/internal/workflow/history"
)

// TestOPS10_AFlowDrawnByAUser has one automatic, one manual and one failing step: it runs, waits, fails, is retried and
// is archived.
func TestOPS10_AFlowDrawnByAUser(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing, journey.Public)
	operator, admin := member(j, "li", v1alpha1.RoleOperator), member(j, "wang", v1alpha1.RoleAdmin)
	port := journey.Port()
	page := "http://" + net.JoinHostPort(j.Nodes(journey.Beijing)[0], strconv.Itoa(int(port))) + "/"

	j.Expect(operator.workflow("release",
		v1alpha1.WorkflowStep{Name: "build", Action: "container", With: with("partition", "bj", "image", journey.EchoImage, "command", []string{"/bin/print", "built", "${{ inputs.version }}"})},
	)).To(MatchError(ContainSubstring("version")), "an input that is not declared is refused with its place")
	workflow := &v1alpha1.Workflow{ObjectMeta: journey.Named(j.Tenant, "release"), Spec: v1alpha1.WorkflowSpec{
		DisplayName: "发布", Inputs: []v1alpha1.WorkflowInput{{Name: "version", Type: v1alpha1.TypeString, Required: true}},
		Steps: []v1alpha1.WorkflowStep{
			{Name: "build", Action: "container", With: with("partition", "bj", "image", journey.EchoImage, "command", []string{"/bin/print", "built", "${{ inputs.version }}"})},
			{Name: "ask", Action: "approve", Needs: []string{"build"}, With: with("roles", []string{"Admin"}, "subject", "release ${{ inputs.version }}")},
			{Name: "check", Action: "http", Needs: []string{"ask"}, With: with("url", page), Retry: &v1alpha1.StepRetry{Limit: 1}},
		},
		Outputs: with("status", "${{ steps.check.outputs.status }}", "by", "${{ steps.ask.outputs.by }}"),
	}}
	j.Expect(operator.Create(j.Context(), workflow)).To(Succeed())
	j.Eventually(func() bool {
		j.Expect(j.Get(workflow)).To(Succeed())
		return meta.IsStatusConditionTrue(workflow.Status.Conditions, "Valid")
	}).WithTimeout(patience).Should(BeTrue())

	run, err := operator.start("release", with("version", "v2"))
	j.Expect(err).NotTo(HaveOccurred())
	j.Expect(run.Spec.User.Name).To(Equal("yunfan:" + operator.Name))
	j.Eventually(func() v1alpha1.StepPhase {
		j.Expect(j.Get(run)).To(Succeed())
		return stepOf(run, "ask").Phase
	}).Should(Equal(v1alpha1.StepWaiting), "it runs, and waits")
	j.Eventually(func() string { return operator.log(run, "build") }).WithTimeout(patience).Should(ContainSubstring("built v2"))
	j.Expect(admin.inbox()).To(HaveExactElements(And(HaveField("Relation", history.RelationDecide), HaveField("Subject", "release v2"), HaveField("AskedBy", operator.Name))))
	j.Expect(operator.inbox()).To(HaveExactElements(HaveField("Relation", history.RelationAsked)))

	j.Expect(admin.decide(run, "ask", v1alpha1.DecisionApproved)).To(HavePrefix("True "))
	j.Eventually(phase(j, run)).Should(Equal(v1alpha1.RunFailed), "nobody serves the page")
	j.Expect(stepOf(run, "check").Attempt).To(Equal(int32(2)), "it was tried again")
	j.Expect(stepOf(run, "check").Message).NotTo(BeEmpty())
	j.Expect(operator.inbox()).To(BeEmpty())

	j.Ready(j.Application("page", journey.In("bj"), journey.Echo("page", journey.NodePort(port))))
	j.Expect(j.Get(run)).To(Succeed())
	before := run.DeepCopy()
	run.Spec.Retry = &v1alpha1.RunRetry{Number: 1}
	j.Expect(operator.Patch(j.Context(), run, client.MergeFrom(before))).To(Succeed())
	j.Eventually(phase(j, run)).Should(Equal(v1alpha1.RunSucceeded), "it is retried from where it failed")
	j.Expect(stepOf(run, "build").Attempt).To(Equal(int32(1)), "what was done is not done again")
	j.Expect(string(run.Status.Outputs["status"])).To(Equal("200"))
	j.Expect(string(run.Status.Outputs["by"])).To(Equal(`["` + admin.Name + `"]`))
	archived(j, operator, run)
}

// archived takes the run from the hub, as the trimmer does after a while, and looks at it again.
func archived(j *journey.Journey, who *someone, run *v1alpha1.WorkflowRun) {
	j.Helper()
	j.Expect(apierrors.IsForbidden(who.Delete(j.Context(), run.DeepCopy()))).To(BeTrue(), "history is not a tenant's to delete")
	j.Expect(j.Hub().Delete(j.Context(), run.DeepCopy())).To(Succeed())
	j.Eventually(func() bool { return apierrors.IsNotFound(j.Get(run.DeepCopy())) }).WithTimeout(patience).Should(BeTrue())
	rows := who.runs("phase=Succeeded&workflow=release&search=" + run.Name)
	j.Expect(rows).To(HaveExactElements(And(
		HaveField("UID", string(run.UID)), HaveField("Archived", true), HaveField("User", who.Name), HaveField("Steps", 3), HaveField("StepsDone", 3), HaveField("DisplayName", "发布"))))
	detail := &history.Detail{}
	j.Expect(who.get(pathOf(run), detail)).To(Equal(http.StatusOK))
	j.Expect(detail.IsArchived).To(BeTrue())
	j.Expect(detail.Run.Status.Outputs).To(HaveLen(2))
	j.Expect(detail.Approvals).To(HaveLen(1))
	j.Expect(who.log(run, "build")).To(ContainSubstring("built v2"))
}

// TestAUD03_EachStepHasItsRecord reads from a run's record who did what, from when to when, with which result.
func TestAUD03_EachStepHasItsRecord(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	operator, admin := member(j, "li", v1alpha1.RoleOperator), member(j, "wang", v1alpha1.RoleAdmin)
	j.Expect(operator.workflow("change",
		v1alpha1.WorkflowStep{Name: "before", Action: "wait", With: with("for", "1s")},
		v1alpha1.WorkflowStep{Name: "ask", Action: "approve", Needs: []string{"before"}, With: with("subject", "the change")},
		v1alpha1.WorkflowStep{Name: "after", Action: "wait", Needs: []string{"ask"}, With: with("for", "1s")},
	)).To(Succeed())
	run, err := operator.start("change", nil)
	j.Expect(err).NotTo(HaveOccurred())
	j.Eventually(phase(j, run)).WithTimeout(patience).Should(Equal(v1alpha1.RunWaiting))
	j.Eventually(func() v1alpha1.StepPhase {
		j.Expect(j.Get(run)).To(Succeed())
		return stepOf(run, "ask").Phase
	}).WithTimeout(patience).Should(Equal(v1alpha1.StepWaiting))
	j.Expect(admin.decide(run, "ask", v1alpha1.DecisionApproved)).To(HavePrefix("True "))
	j.Eventually(phase(j, run)).WithTimeout(patience).Should(Equal(v1alpha1.RunSucceeded))

	detail := &history.Detail{}
	j.Expect(operator.get(pathOf(run), detail)).To(Equal(http.StatusOK))
	actors := map[string]string{"before": operator.Name, "ask": admin.Name, "after": operator.Name}
	for _, s := range detail.Run.Status.Steps {
		j.Expect(s.Phase).To(Equal(v1alpha1.StepSucceeded), s.Name)
		j.Expect(s.StartTime.Before(s.FinishTime)).To(BeTrue(), s.Name)
		j.Expect(s.Actor).To(HaveSuffix(actors[s.Name]), "who did %s", s.Name)
	}
	j.Eventually(func() string { return operator.log(run, "ask") }).WithTimeout(patience).Should(And(ContainSubstring(admin.Name), ContainSubstring("as agreed")))
	for name := range actors {
		j.Eventually(func() string { return operator.log(run, name) }).WithTimeout(patience).ShouldNot(BeEmpty(), "step %s has a log", name)
	}

	audit := func(who *someone, resource, user string) []string {
		var page struct {
			Items []struct{ User, Action, Resource, Result string }
		}
		j.Expect(who.get(fmt.Sprintf("/api/v1/audit?tenant=%s&resource=%s&user=%s&action=create", j.Tenant, resource, user), &page)).To(Equal(http.StatusOK))
		var rows []string
		for _, r := range page.Items {
			rows = append(rows, r.User+" "+r.Action+" "+r.Result)
		}
		return rows
	}
	j.Expect(audit(admin, "approvals", admin.Name)).To(HaveExactElements(admin.Name + " create Succeeded"))
	j.Expect(audit(admin, "workflowruns", operator.Name)).To(HaveExactElements(operator.Name + " create Succeeded"))
}

// TestOPS10_WhoMayDoWhat tries what is not one's to do.
func TestOPS10_WhoMayDoWhat(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	operator, viewer, stranger := member(j, "li", v1alpha1.RoleOperator), member(j, "chen", v1alpha1.RoleViewer), member(j, "zhao", "")
	admin, other := member(j, "wang", v1alpha1.RoleAdmin), member(j, "sun", v1alpha1.RoleAdmin)
	j.Expect(apierrors.IsForbidden(viewer.workflow("mine", v1alpha1.WorkflowStep{Name: "s", Action: "wait", With: with("for", "1s")}))).To(BeTrue())
	j.Expect(operator.workflow("grant",
		v1alpha1.WorkflowStep{Name: "ask", Action: "approve", With: with("roles", []string{"Admin"}, "values", map[string]any{"cpu": "8", "room": "A1"}, "editable", []string{"cpu"})},
	)).To(Succeed())
	for _, who := range []*someone{viewer, stranger} {
		_, err := who.start("grant", nil)
		j.Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%s starts it: %v", who.Name, err)
	}
	run, err := admin.start("grant", nil)
	j.Expect(err).NotTo(HaveOccurred())
	j.Eventually(func() v1alpha1.StepPhase {
		j.Expect(j.Get(run)).To(Succeed())
		return stepOf(run, "ask").Phase
	}).WithTimeout(patience).Should(Equal(v1alpha1.StepWaiting))

	j.Expect(viewer.decide(run, "ask", v1alpha1.DecisionApproved)).To(ContainSubstring("approvals"), "a viewer may not even try")
	j.Expect(operator.decide(run, "ask", v1alpha1.DecisionApproved)).To(ContainSubstring("none of those who may decide"))
	j.Expect(admin.decide(run, "ask", v1alpha1.DecisionApproved)).To(ContainSubstring("somebody else must decide"), "never one's own")
	j.Expect(other.decide(run, "ask", v1alpha1.DecisionApproved, func(s *v1alpha1.ApprovalSpec) { s.Digest = "another" })).To(ContainSubstring("digest"))
	j.Expect(other.decide(run, "ask", v1alpha1.DecisionApproved, func(s *v1alpha1.ApprovalSpec) { s.Values = with("room", "B2") })).To(ContainSubstring("room cannot be changed"))
	forged := func(s *v1alpha1.ApprovalSpec) {
		s.User = &v1alpha1.Actor{Name: "yunfan:" + other.Name, Groups: []string{v1alpha1.GroupPlatformAdmin}}
	}
	j.Expect(operator.decide(run, "ask", v1alpha1.DecisionApproved, forged)).To(ContainSubstring("none of those who may decide"), "the stamp is admission's")
	j.Expect(phase(j, run)()).To(Equal(v1alpha1.RunWaiting))

	for _, path := range []string{pathOf(run), pathOf(run) + "/steps/ask/log"} {
		j.Expect(stranger.get(path, nil)).To(Equal(http.StatusForbidden), path)
		j.Expect(viewer.get(path, nil)).To(Equal(http.StatusOK), path)
	}
	j.Expect(stranger.runs("")).To(BeEmpty(), "of another tenant one sees nothing")
	j.Expect(stranger.inbox()).To(BeEmpty())
	j.Expect(viewer.inbox()).To(BeEmpty())
	j.Expect(viewer.runs("")).To(HaveLen(1))
	j.Expect(other.inbox()).To(HaveLen(1))

	less := func(s *v1alpha1.ApprovalSpec) { s.Values = with("cpu", "4") }
	j.Expect(other.decide(run, "ask", v1alpha1.DecisionApproved, less)).To(HavePrefix("True "))
	j.Eventually(phase(j, run)).WithTimeout(patience).Should(Equal(v1alpha1.RunSucceeded))
	var values map[string]string
	j.Expect(json.Unmarshal(stepOf(run, "ask").Outputs["values"], &values)).To(Succeed())
	j.Expect(values).To(Equal(map[string]string{"cpu": "4", "room": "A1"}), "a part of what was asked for")
}

// TestOPS10_OnTheCommandLine does it all at a terminal.
func TestOPS10_OnTheCommandLine(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	operator, admin := member(j, "li", v1alpha1.RoleOperator), member(j, "wang", v1alpha1.RoleAdmin)
	operator.signIn()
	admin.signIn()
	j.Expect(operator.workflow("ship",
		v1alpha1.WorkflowStep{Name: "rest", Action: "wait", With: with("for", "1s")},
		v1alpha1.WorkflowStep{Name: "ask", Action: "approve", Needs: []string{"rest"}, With: with("subject", "ship it", "values", map[string]any{"pods": 3}, "editable", []string{"pods"})},
	)).To(Succeed())
	say := func(who *someone, code int, args ...string) string {
		out, got := who.yunfan(args...)
		j.Expect(got).To(Equal(code), "yunfan %v: %s", args, out)
		return out
	}
	say(operator, 2, "run", "ship", "--input", "x=1")
	say(operator, 4, "run", "missing")
	say(operator, 0, "run", "ship", "--name", "first")
	run := &v1alpha1.WorkflowRun{ObjectMeta: journey.Named(j.Tenant, "first")}
	j.Eventually(phase(j, run)).WithTimeout(patience).Should(Equal(v1alpha1.RunWaiting))
	j.Eventually(func() string { out, _ := admin.yunfan("approvals"); return out }).WithTimeout(patience).Should(ContainSubstring("ship it"))
	j.Expect(say(operator, 0, "runs", "show", "first")).To(And(ContainSubstring("└─ ask"), ContainSubstring("waits for 1 of Admin"), ContainSubstring("yunfan approve first ask")))
	j.Expect(say(operator, 5, "approve", "first")).To(ContainSubstring("first"))
	say(admin, 2, "reject", "first")
	j.Expect(say(admin, 0, "reject", "first", "--comment", "not today")).To(ContainSubstring("rejected"))
	j.Eventually(phase(j, run)).WithTimeout(patience).Should(Equal(v1alpha1.RunFailed))
	j.Expect(say(admin, 7, "approve", "first")).To(ContainSubstring("waits for no decision"))

	say(operator, 0, "retry", "first", "--reason", "tomorrow")
	j.Eventually(phase(j, run)).WithTimeout(patience).Should(Equal(v1alpha1.RunWaiting))
	say(operator, 0, "pause", "first")
	say(operator, 0, "resume", "first")
	j.Eventually(func() string {
		out, _ := admin.yunfan("approve", "first", "ask", "--value", "pods=2", "--comment", "two will do")
		return out
	}).WithTimeout(patience).Should(ContainSubstring("approved"))
	j.Eventually(phase(j, run)).WithTimeout(patience).Should(Equal(v1alpha1.RunSucceeded))
	j.Expect(say(operator, 0, "runs", "log", "first", "ask", "-f")).To(And(ContainSubstring("not today"), ContainSubstring("two will do")))
	j.Expect(say(operator, 0, "runs", "--phase", "Succeeded")).To(ContainSubstring("first"))

	say(operator, 0, "run", "ship", "--name", "second")
	say(operator, 0, "abort", "second", "--reason", "wrong one")
	second := &v1alpha1.WorkflowRun{ObjectMeta: journey.Named(j.Tenant, "second")}
	j.Eventually(phase(j, second)).WithTimeout(patience).Should(Equal(v1alpha1.RunAborted))
	j.Expect(say(operator, 0, "runs", "-o", "json")).To(ContainSubstring(`"phase": "Aborted"`))
}
