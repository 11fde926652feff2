package command

import (
	"bytes"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

func TestShowsPlanPartitionsAndSteps(t *testing.T) {
	g := NewWithT(t)
	began := metav1.NewMicroTime(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	ended := metav1.NewMicroTime(began.Add(1500 * time.Millisecond))
	d := &detail{Steps: []v1alpha1.StepStatus{{Name: "close-prod-bj", Phase: v1alpha1.StepSucceeded, StartTime: &began, FinishTime: &ended, Actor: "yunfan:li"}}}
	d.Rollout.Name, d.Rollout.Namespace = "score-2-1", "edu"
	d.Rollout.Spec = v1alpha1.RolloutSpec{Application: "score", From: "score-1", To: "score-2", User: "yunfan:li"}
	d.Rollout.Status = v1alpha1.RolloutStatus{
		Phase: v1alpha1.RolloutRunning, Run: "rollout-score-2-1", Weight: 10, Plan: []string{"both revisions run side by side"},
		Partitions: []v1alpha1.RolloutPartition{{Partition: "prod-bj", Cluster: "beijing", Phase: v1alpha1.RolloutPartitionMoving}},
	}
	var out bytes.Buffer
	g.Expect(d.print(&out)).To(Succeed())
	for _, want := range []string{
		"Rollout score-2-1 of application score in tenant edu, for li", "From score-1 to score-2, which has 10%", "both revisions run side by side", "prod-bj", "Moving",
		"close-prod-bj", "1.5s", "Run rollout-score-2-1",
	} {
		g.Expect(out.String()).To(ContainSubstring(want))
	}
}
