package workflow_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"

	"yunfan.io/yunfan/api/v1alpha1"
)

// A flow with one automatic, one manual and one failing step runs, waits, retries and is archived.
func TestOPS10_AutomaticManualAndFailingStep(t *testing.T) {
	w := newWorld(t)
	w.serve(t)
	run := w.run(t, `
steps:
- {name: automatic, action: echo, with: {value: hello}}
- {name: manual, action: sign, needs: [automatic]}
- {name: failing, action: flaky, with: {failures: 2}, needs: [manual], retry: {limit: 1, interval: 100ms}}
outputs: {said: "${{ steps.automatic.outputs.value }} by ${{ steps.manual.outputs.by }}"}
`)
	waiting := untilPhase(t, run, v1alpha1.RunWaiting)
	if got := phases(waiting); got != "automatic=Succeeded manual=Waiting failing=Pending" {
		t.Errorf("while it waits: %s", got)
	}
	approve(t, waiting, "manual")
	failed := untilPhase(t, run, v1alpha1.RunFailed)
	if f := step(t, failed, "failing"); f.Attempt != 2 || !strings.Contains(f.Message, "attempt 2 is too early") {
		t.Errorf("the failing step: %+v", f)
	}
	steer(t, run, func(s *v1alpha1.WorkflowRunSpec) {
		s.Retry, s.ChangedBy = &v1alpha1.RunRetry{Number: 1}, &v1alpha1.Actor{Name: "yunfan:zhao"}
	})
	done := untilPhase(t, run, v1alpha1.RunSucceeded)
	if got := string(done.Status.Outputs["said"]); got != `"hello by wang"` {
		t.Errorf("outputs: %s", got)
	}
	if !meta.IsStatusConditionTrue(done.Status.Conditions, v1alpha1.ConditionSucceeded) {
		t.Errorf("conditions: %+v", done.Status.Conditions)
	}
	if w := w.twice(); len(w) > 0 {
		t.Errorf("had more than one effect: %v", w)
	}
	var last *v1alpha1.WorkflowRun
	NewWithT(t).Eventually(func() bool {
		kept := w.archived()
		if len(kept) == 0 {
			return false
		}
		last = kept[len(kept)-1]
		return last.Status.Phase == v1alpha1.RunSucceeded
	}, patience).Should(BeTrue())

	t.Run("AUD-03 each step has start, end, actor, result and log", func(t *testing.T) {
		for name, actor := range map[string]string{"automatic": "yunfan:li", "manual": "yunfan:wang", "failing": "yunfan:zhao"} {
			s := step(t, last, name)
			if s.StartTime == nil || s.FinishTime == nil || s.FinishTime.Before(s.StartTime) || s.Actor != actor || s.Phase != v1alpha1.StepSucceeded {
				t.Errorf("step %s: want it by %s, got %+v", name, actor, s)
			}
		}
		for _, line := range []string{"/automatic/1: echo hello", "/manual/1: succeeded", "/failing/2: failed: attempt 2 is too early", "/failing/3: succeeded"} {
			if !strings.Contains(w.logged(), run.Name+line) {
				t.Errorf("the log lacks %q:\n%s", line, w.logged())
			}
		}
	})
}

func TestChainCostsOneWritePerStep(t *testing.T) {
	w := newWorld(t)
	s := w.serve(t)
	var definition strings.Builder
	definition.WriteString("steps:\n- {name: s0, action: echo, with: {value: x}}\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&definition, "- {name: s%d, action: echo, with: {value: \"${{ steps.s%d.outputs.value }}x\"}, needs: [s%d]}\n", i, i-1, i-1)
	}
	run := w.run(t, definition.String())
	done := untilPhase(t, run, v1alpha1.RunSucceeded)
	if got := string(step(t, done, "s9").Outputs["value"]); got != `"xxxxxxxxxx"` {
		t.Errorf("the last step's output: %s", got)
	}
	if n := s.writes.Load(); n < 11 || n > 13 {
		t.Errorf("%d writes, want 11 to 13", n)
	}
	if diff := cmp.Diff([]string{"s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"}, w.done()); diff != "" {
		t.Error(diff)
	}
}
