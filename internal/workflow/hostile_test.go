package workflow_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/workflow"
)

func TestHostileRunsFailWithThePlace(t *testing.T) {
	w := newWorld(t)
	w.serve(t)
	var large strings.Builder
	large.WriteString("steps:\n")
	for i := range 30 {
		fmt.Fprintf(&large, "- {name: s%d, action: large}\n", i)
	}
	for name, tc := range map[string]struct {
		reason, definition string
		change             func(*v1alpha1.WorkflowRun)
		want               string
	}{
		"Panic":    {"an action that panics has failed", `steps: [{name: a, action: panic}]`, nil, "step a failed: the action panicked"},
		"Huge":     {"outputs are bounded", `steps: [{name: a, action: huge}]`, nil, "step a failed"},
		"Status":   {"the status is bounded in all", large.String(), nil, "the run's status would have"},
		"Nonsense": {"what the hub refuses fails the step", `steps: [{name: a, action: nonsense}]`, nil, "step a failed: the hub does not take"},
		"Cycle":    {"a cycle is refused", `steps: [{name: a, action: echo, needs: [b]}, {name: b, action: echo, needs: [a]}]`, nil, "the definition cannot be run: spec.steps"},
		"Unknown":  {"an unknown action is refused", `steps: [{name: a, action: conquer}]`, nil, "spec.steps[0].action"},
		"Internal": {"actions of the platform are not for everybody", `steps: [{name: a, action: secret.dealing}]`, nil, "secret.dealing"},
		"Retries": {"there are no more than allowed, and a pause between them", `steps: [{name: a, action: flaky, with: {failures: 200}, retry: {limit: 10, interval: 1ms, maxInterval: 1ms}}]`,
			nil, "attempt 11 is too early"},
		"Inputs": {"inputs are bounded", `{inputs: [{name: x}], steps: [{name: a, action: echo}]}`, func(r *v1alpha1.WorkflowRun) {
			r.Spec.Inputs = map[string]json.RawMessage{"x": json.RawMessage(`"` + strings.Repeat("x", 1<<20) + `"`)}
		}, "the inputs do not fit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := w.run(t, tc.definition, func(r *v1alpha1.WorkflowRun) {
				if tc.change != nil {
					tc.change(r)
				}
			})
			failed := untilPhase(t, run, v1alpha1.RunFailed)
			if !strings.Contains(failed.Status.Message, tc.want) {
				t.Errorf("%s: got %q, want it to say %q", tc.reason, failed.Status.Message, tc.want)
			}
			if text, _ := json.Marshal(failed.Status); len(text) > 256<<10 {
				t.Errorf("the status has %d bytes", len(text))
			}
		})
	}
}

func TestInternalActionsOfThePlatform(t *testing.T) {
	w := newWorld(t)
	w.serve(t)
	run := w.run(t, `steps: [{name: a, action: secret.dealing}]`, func(r *v1alpha1.WorkflowRun) {
		r.Labels = map[string]string{v1alpha1.LabelMadeBy: v1alpha1.MadeByPlatform}
	})
	untilPhase(t, run, v1alpha1.RunSucceeded)
	for name, tc := range map[string]struct {
		reason string
		run    v1alpha1.WorkflowRun
		want   bool
	}{
		"Tenant's definition":   {"anybody can write one", v1alpha1.WorkflowRun{Spec: v1alpha1.WorkflowRunSpec{Definition: &v1alpha1.WorkflowSpec{}}}, false},
		"Tenant's workflow":     {"with whatever label", labelled(v1alpha1.WorkflowRunSpec{Workflow: "x"}, "edu"), false},
		"Platform's workflow":   {"only its administrators write there", labelled(v1alpha1.WorkflowRunSpec{Workflow: "x"}, "yunfan-system"), true},
		"Platform's definition": {"it has marked it", labelled(v1alpha1.WorkflowRunSpec{Definition: &v1alpha1.WorkflowSpec{}}, "edu"), true},
	} {
		if got := workflow.Internal(&tc.run, "yunfan-system"); got != tc.want {
			t.Errorf("%s: %s: got %v", name, tc.reason, got)
		}
	}
}

func labelled(spec v1alpha1.WorkflowRunSpec, namespace string) v1alpha1.WorkflowRun {
	run := v1alpha1.WorkflowRun{Spec: spec}
	run.Namespace, run.Labels = namespace, map[string]string{v1alpha1.LabelMadeBy: v1alpha1.MadeByPlatform}
	return run
}

// Calls that hang take a run's own share of the workers only.
func TestHangingStepsStarveNobody(t *testing.T) {
	w := newWorld(t)
	w.serve(t, func(_ *manager.Options, o *workflow.Options) { o.Workers = 64 })
	var hostile strings.Builder
	hostile.WriteString("steps:\n")
	for i := range 100 {
		fmt.Fprintf(&hostile, "- {name: s%d, action: hold}\n", i)
	}
	w.run(t, hostile.String())
	NewWithT(t).Eventually(w.done, patience).Should(HaveLen(2))
	untilPhase(t, w.run(t, `steps: [{name: a, action: echo}, {name: b, action: echo, needs: [a]}]`), v1alpha1.RunSucceeded)
	if got := len(w.done()); got != 4 {
		t.Errorf("%d effects, want 2 of each run: a run has a share of the workers", got)
	}
}

// An action that ignores its context is left behind, and its step has failed for good.
func TestActionThatNeverReturns(t *testing.T) {
	w := newWorld(t)
	forever := make(chan struct{})
	defer close(forever)
	w.serve(t, func(_ *manager.Options, o *workflow.Options) {
		o.Actions["never"] = act{action.Description{Name: "never"}, func(context.Context, *action.Call) (action.Outcome, error) {
			<-forever
			return action.Outcome{}, nil
		}}
	})
	run := w.run(t, `steps: [{name: a, action: never, timeout: 1s, retry: {limit: 3}}]`)
	failed := untilPhase(t, run, v1alpha1.RunFailed)
	if s := step(t, failed, "a"); s.Attempt != 1 {
		t.Errorf("it was tried again though the first attempt may still go on: %+v", s)
	}
}
