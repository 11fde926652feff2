//go:build e2e

package workflow_test

import (
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

// script is a step that runs commands of the echo image in a row.
func script(name, partition, commands string, needs ...string) v1alpha1.WorkflowStep {
	return v1alpha1.WorkflowStep{Name: name, Action: "container", Needs: needs, With: with(
		"partition", partition, "image", journey.EchoImage, "args", []string{"sh", "-c", commands}, "env", map[string]string{"COLOUR": "blue"},
		"resources", map[string]any{"limits": map[string]string{"cpu": "200m", "memory": "64Mi"}})}
}

// containersGone waits until nothing of the run is left in the partition.
func containersGone(j *journey.Journey, cluster, namespace string) {
	j.Helper()
	j.Eventually(func() (left []string) {
		var jobs batchv1.JobList
		j.Expect(j.Clusters[cluster].List(j.Context(), &jobs, client.InNamespace(namespace))).To(Succeed())
		for _, job := range jobs.Items {
			left = append(left, "job "+job.Name)
		}
		for _, pod := range j.Pods(cluster, namespace, "") {
			left = append(left, "pod "+pod.Name)
		}
		return left
	}).Should(BeEmpty())
}

// TestOPS10_ContainerStep runs real containers in a partition: what one says is the step's log, what it writes as its
// result goes into the next step.
func TestOPS10_ContainerStep(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	part := j.Partition("bj", journey.Beijing)
	operator := member(j, "li", v1alpha1.RoleOperator)
	next := script("use", "bj", `print used ${{ steps.make.outputs.result.tag }} ${{ steps.make.outputs.exitCode }}; exit 3 on purpose`, "make")
	next.Retry = &v1alpha1.StepRetry{Limit: 1}
	j.Expect(operator.workflow("build", script("make", "bj", `print making; env; write /dev/termination-log '{"tag":"v7","size":3}'`), next)).To(Succeed())
	run, err := operator.start("build", nil)
	j.Expect(err).NotTo(HaveOccurred())
	j.Eventually(phase(j, run)).Should(Equal(v1alpha1.RunFailed))

	made, used := stepOf(run, "make"), stepOf(run, "use")
	j.Expect(made.Phase).To(Equal(v1alpha1.StepSucceeded), made.Message)
	j.Expect(string(made.Outputs["result"])).To(MatchJSON(`{"tag":"v7","size":3}`))
	j.Expect(string(made.Outputs["exitCode"])).To(Equal("0"))
	j.Eventually(func() string { return operator.log(run, "make") }).WithTimeout(patience).Should(And(ContainSubstring("making"), ContainSubstring("COLOUR=blue")))
	j.Expect(used.Attempt).To(Equal(int32(2)), "each attempt is a container of its own")
	j.Expect(used.Message).To(ContainSubstring("exit code 3"))
	j.Eventually(func() string { return operator.log(run, "use") }).WithTimeout(patience).Should(ContainSubstring("used v7 0"))
	containersGone(j, journey.Beijing, part.MemberNamespace())
}

// TestOPS10_ContainerIsEndedWhenTheRunIs aborts a run while its container works.
func TestOPS10_ContainerIsEndedWhenTheRunIs(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	part := j.Partition("sh", journey.Shanghai)
	operator := member(j, "li", v1alpha1.RoleOperator)
	j.Expect(operator.workflow("long", script("work", "sh", "print begun; sleep 1h"))).To(Succeed())
	run, err := operator.start("long", nil)
	j.Expect(err).NotTo(HaveOccurred())
	j.Eventually(func() v1alpha1.StepPhase {
		j.Expect(j.Get(run)).To(Succeed())
		return stepOf(run, "work").Phase
	}).Should(Equal(v1alpha1.StepRunning))
	j.Eventually(func() string { return operator.log(run, "work") }).Should(ContainSubstring("begun"), "the log is there while the container runs")
	j.Expect(j.Get(run)).To(Succeed())
	pod := j.Pods(journey.Shanghai, part.MemberNamespace(), "")[0]
	j.Expect(pod.Labels).To(And(HaveKeyWithValue(v1alpha1.LabelTenant, j.Tenant), HaveKeyWithValue(v1alpha1.LabelPartition, "sh")))
	j.Expect(*pod.Spec.AutomountServiceAccountToken).To(BeFalse())
	before := run.DeepCopy()
	run.Spec.Aborted, run.Spec.Reason = true, "enough"
	j.Expect(operator.Patch(j.Context(), run, client.MergeFrom(before))).To(Succeed())
	j.Eventually(phase(j, run)).Should(Equal(v1alpha1.RunAborted))
	containersGone(j, journey.Shanghai, part.MemberNamespace())
}

// TestOPS10_ContainerKeepsToThePartition has steps that may not run where they want to, or have no room there.
func TestOPS10_ContainerKeepsToThePartition(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("mine", journey.Beijing)
	j.Partition("theirs", journey.Beijing)
	full := j.Partition("full", journey.Beijing, func(s *v1alpha1.PartitionSpec) {
		s.Quota = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}
	})
	limited := member(j, "sun", "")
	j.Create(&v1alpha1.Membership{
		ObjectMeta: journey.Named(j.Tenant, limited.Name),
		Spec:       v1alpha1.MembershipSpec{Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectUser, Name: limited.Name}, Role: v1alpha1.RoleOperator, Partitions: []string{"mine"}},
	})
	operator, leaving := member(j, "li", v1alpha1.RoleOperator), member(j, "zhao", v1alpha1.RoleOperator)
	for _, name := range []string{"mine", "theirs", "full", "none"} {
		j.Expect(operator.workflow("in-"+name, script("work", name, "print done"))).To(Succeed())
	}
	later := script("work", "mine", "print done", "first")
	j.Expect(operator.workflow("later", v1alpha1.WorkflowStep{Name: "first", Action: "wait", With: with("for", "20s")}, later)).To(Succeed())

	left, err := leaving.start("later", nil)
	j.Expect(err).NotTo(HaveOccurred())
	j.Expect(j.Hub().Delete(j.Context(), &v1alpha1.Membership{ObjectMeta: journey.Named(j.Tenant, leaving.Name)})).To(Succeed())
	for _, tc := range []struct {
		who            *someone
		workflow, want string
	}{
		{limited, "in-mine", ""},
		{limited, "in-theirs", "may not deploy to partition theirs"},
		{operator, "in-theirs", ""},
		{operator, "in-none", "has no partition none"},
	} {
		var run *v1alpha1.WorkflowRun
		j.Eventually(func() (err error) { // a membership has its effect within a moment
			run, err = tc.who.start(tc.workflow, nil)
			return err
		}).WithTimeout(patience).Should(Succeed())
		want := v1alpha1.RunSucceeded
		if tc.want != "" {
			want = v1alpha1.RunFailed
		}
		j.Eventually(phase(j, run)).Should(Equal(want), tc.workflow)
		j.Expect(stepOf(run, "work").Message).To(ContainSubstring(tc.want))
	}
	j.Eventually(phase(j, left)).Should(Equal(v1alpha1.RunFailed))
	j.Expect(stepOf(left, "work").Message).To(ContainSubstring(fmt.Sprintf("%s may not deploy", leaving.Name)), "who has left may not when the step's turn comes")

	waiting, err := operator.start("in-full", nil)
	j.Expect(err).NotTo(HaveOccurred())
	j.Eventually(func() string {
		j.Expect(j.Get(waiting)).To(Succeed())
		return stepOf(waiting, "work").Message
	}).WithTimeout(2 * time.Minute).Should(ContainSubstring("exceeded quota"))
	j.Update(full, func() { full.Spec.Quota = nil })
	j.Eventually(phase(j, waiting)).WithTimeout(5*time.Minute).Should(Equal(v1alpha1.RunSucceeded), "it goes on once there is room")
}
