package workflow_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

const undoable = `
steps:
- {name: a, action: echo, with: {value: one}, compensate: {action: echo, with: {value: "undo ${{ outputs.value }}"}}}
- {name: b, action: echo, with: {value: two}, needs: [a], compensate: {action: echo, with: {value: "undo ${{ outputs.value }}"}}}
- {name: c, action: job, needs: [b]}
- {name: d, action: echo, needs: [c]}
`

func undone(w *world) (values []string) {
	for _, name := range []string{"a", "b"} {
		for _, c := range w.called(name) {
			if v := text(&c, "value"); strings.HasPrefix(v, "undo") {
				values = append(values, v)
			}
		}
	}
	return values
}

func TestOPS10_Pause(t *testing.T) {
	w := newWorld(t)
	w.serve(t)
	run := w.run(t, `steps: [{name: a, action: hold}, {name: b, action: echo, needs: [a]}]`)
	NewWithT(t).Eventually(w.done, patience).Should(HaveLen(1))
	steer(t, run, func(s *v1alpha1.WorkflowRunSpec) { s.Paused, s.Reason = true, "wait for Monday" })
	until(t, run, "it says that it pauses", func(r *v1alpha1.WorkflowRun) bool {
		return r.Status.Phase == v1alpha1.RunRunning && strings.Contains(r.Status.Message, "pauses when")
	})
	w.open("a")
	paused := untilPhase(t, run, v1alpha1.RunPaused)
	if got := phases(paused); got != "a=Succeeded b=Pending" || !strings.Contains(paused.Status.Message, "wait for Monday") {
		t.Errorf("paused: %s, %s", got, paused.Status.Message)
	}
	steer(t, run, func(s *v1alpha1.WorkflowRunSpec) { s.Paused = false })
	untilPhase(t, run, v1alpha1.RunSucceeded)
}

func TestOPS10_AbortUndoesTheLatestFirst(t *testing.T) {
	w := newWorld(t)
	w.serve(t)
	run := w.run(t, undoable)
	until(t, run, "the job runs", func(r *v1alpha1.WorkflowRun) bool {
		return strings.HasPrefix(phases(r), "a=Succeeded b=Succeeded c=Running")
	})
	NewWithT(t).Eventually(func() int { return len(w.called("c")) }, patience).Should(Equal(1))
	steer(t, run, func(s *v1alpha1.WorkflowRunSpec) { s.Aborted, s.Reason = true, "no longer wanted" })
	done := untilPhase(t, run, v1alpha1.RunAborted)
	if got := phases(done); got != "a=Compensated b=Compensated c=Aborted d=Pending" {
		t.Error(got)
	}
	if diff := cmp.Diff([]string{"a", "b", "c", "b", "a"}, w.done()); diff != "" {
		t.Errorf("order of effects: %s", diff)
	}
	if diff := cmp.Diff([]string{"undo one", "undo two"}, undone(w)); diff != "" {
		t.Error(diff)
	}
	if stops := w.called("stop c"); len(stops) != 1 || !strings.Contains(string(stops[0].State), stops[0].Key) {
		t.Errorf("the job was stopped with %+v", stops)
	}
	if !strings.Contains(done.Status.Message, "no longer wanted") {
		t.Errorf("message: %s", done.Status.Message)
	}

	t.Run("it can be retried", func(t *testing.T) {
		steer(t, run, func(s *v1alpha1.WorkflowRunSpec) { s.Aborted, s.Retry = false, &v1alpha1.RunRetry{Number: 1} })
		until(t, run, "the job runs again", func(r *v1alpha1.WorkflowRun) bool {
			return phases(r) == "a=Succeeded b=Succeeded c=Running d=Pending" && step(t, r, "c").Attempt == 2
		})
		steer(t, run, func(s *v1alpha1.WorkflowRunSpec) { s.Aborted = true })
		untilPhase(t, run, v1alpha1.RunAborted)
		if twice := w.twice(); len(twice) > 0 {
			t.Errorf("effects that happened more than once under one key: %v", twice)
		}
	})
}

func TestFailureCompensates(t *testing.T) {
	w := newWorld(t)
	w.serve(t)
	run := w.run(t, `
onFailure: Compensate
steps:
- {name: a, action: echo, compensate: {action: echo, with: {value: undo}}}
- {name: b, action: flaky, with: {failures: 9}, needs: [a]}
`)
	done := untilPhase(t, run, v1alpha1.RunFailed)
	if got := phases(done); got != "a=Compensated b=Failed" || !strings.Contains(done.Status.Message, "step b failed") {
		t.Errorf("%s: %s", got, done.Status.Message)
	}
}

func TestCompensationThatFailsIsTold(t *testing.T) {
	w := newWorld(t)
	w.serve(t)
	run := w.run(t, `
steps:
- {name: a, action: echo, compensate: {action: refuse}}
- {name: b, action: echo, needs: [a], compensate: {action: huge}}
- {name: c, action: job, needs: [b]}
`)
	until(t, run, "the job runs", func(r *v1alpha1.WorkflowRun) bool { return strings.HasSuffix(phases(r), "c=Running") })
	steer(t, run, func(s *v1alpha1.WorkflowRunSpec) { s.Aborted = true })
	done := untilPhase(t, run, v1alpha1.RunAborted)
	if got := phases(done); got != "a=Failed b=Compensated c=Aborted" || !strings.Contains(done.Status.Message, "could not be undone: a") {
		t.Errorf("%s: %s", got, done.Status.Message)
	}
}

func TestDeletedRunIsAbortedAndArchivedFirst(t *testing.T) {
	w := newWorld(t)
	w.serve(t)
	run := w.run(t, undoable, func(r *v1alpha1.WorkflowRun) { r.Finalizers = nil })
	until(t, run, "the job runs", func(r *v1alpha1.WorkflowRun) bool {
		return strings.HasPrefix(phases(r), "a=Succeeded b=Succeeded c=Running")
	})
	if err := hub.Client.Delete(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	NewWithT(t).Eventually(func() bool {
		return apierrors.IsNotFound(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(run), &v1alpha1.WorkflowRun{}))
	}, patience).Should(BeTrue())
	kept := w.archived()
	if len(kept) == 0 || kept[len(kept)-1].Status.Phase != v1alpha1.RunAborted || len(undone(w)) != 2 {
		t.Errorf("archived %d, undone %v", len(kept), undone(w))
	}
}

func TestFinishedRunIsLetGo(t *testing.T) {
	w := newWorld(t)
	w.serve(t)
	run := w.run(t, `steps: [{name: a, action: echo}]`)
	untilPhase(t, run, v1alpha1.RunSucceeded)
	if err := hub.Client.Delete(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	NewWithT(t).Eventually(func() bool {
		return apierrors.IsNotFound(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(run), &v1alpha1.WorkflowRun{}))
	}, patience).Should(BeTrue())
	if n := len(w.archived()); n != 1 {
		t.Errorf("archived %d times", n)
	}
}

func TestOPS10_RetryFromAStep(t *testing.T) {
	w := newWorld(t)
	w.serve(t)
	run := w.run(t, `
steps:
- {name: a, action: echo}
- {name: b, action: echo, needs: [a]}
- {name: other, action: echo}
- {name: c, action: flaky, with: {failures: 1}, needs: [b]}
- {name: d, action: echo, needs: [c]}
`)
	untilPhase(t, run, v1alpha1.RunFailed)
	steer(t, run, func(s *v1alpha1.WorkflowRunSpec) { s.Retry = &v1alpha1.RunRetry{Number: 1, From: "nothing"} })
	refused := until(t, run, "the retry is refused", func(r *v1alpha1.WorkflowRun) bool { return r.Status.Retries == 1 })
	if refused.Status.Phase != v1alpha1.RunFailed || !strings.Contains(refused.Status.Message, `no step "nothing"`) {
		t.Errorf("%s: %s", refused.Status.Phase, refused.Status.Message)
	}
	steer(t, run, func(s *v1alpha1.WorkflowRunSpec) { s.Retry = &v1alpha1.RunRetry{Number: 2, From: "b"} })
	done := untilPhase(t, run, v1alpha1.RunSucceeded)
	attempts := map[string]int32{}
	for _, s := range done.Status.Steps {
		attempts[s.Name] = s.Attempt
	}
	if diff := cmp.Diff(map[string]int32{"a": 1, "b": 2, "other": 1, "c": 2, "d": 1}, attempts); diff != "" {
		t.Error(diff)
	}
}

func TestTimeouts(t *testing.T) {
	w := newWorld(t)
	w.serve(t)
	t.Run("of a step whose action is told to stop", func(t *testing.T) {
		run := w.run(t, `steps: [{name: slow, action: job, timeout: 300ms, retry: {limit: 1, interval: 100ms}}]`)
		done := untilPhase(t, run, v1alpha1.RunFailed)
		if s := step(t, done, "slow"); s.Attempt != 2 || !strings.Contains(s.Message, "longer than its timeout of 300ms") || len(w.called("stop slow")) != 2 {
			t.Errorf("%+v, stopped %d times", s, len(w.called("stop slow")))
		}
	})
	t.Run("of a step that is in the middle of a call", func(t *testing.T) {
		run := w.run(t, `steps: [{name: held, action: hold, timeout: 300ms}]`)
		if s := step(t, untilPhase(t, run, v1alpha1.RunFailed), "held"); !strings.Contains(s.Message, "longer than its timeout of 300ms") {
			t.Errorf("%+v", s)
		}
	})
	t.Run("of a run", func(t *testing.T) {
		run := w.run(t, `{timeout: 500ms, steps: [{name: a, action: poll}, {name: b, action: sign}]}`)
		done := untilPhase(t, run, v1alpha1.RunFailed)
		if got := phases(done); got != "a=Aborted b=Aborted" || !strings.Contains(done.Status.Message, "longer than its timeout of 500ms") {
			t.Errorf("%s: %s", got, done.Status.Message)
		}
	})
}

func TestPollingCostsNoWrites(t *testing.T) {
	w := newWorld(t)
	s := w.serve(t)
	run := w.run(t, `steps: [{name: a, action: poll}]`)
	NewWithT(t).Eventually(func() int { return len(w.called("a")) }, patience).Should(BeNumerically(">", 10))
	if n := s.writes.Load(); n > 3 {
		t.Errorf("%d writes for a step that only waits", n)
	}
	steer(t, run, func(s *v1alpha1.WorkflowRunSpec) { s.Aborted = true })
	untilPhase(t, run, v1alpha1.RunAborted)
}

func TestWhatIsRunIsFixedWhenItBegins(t *testing.T) {
	w := newWorld(t)
	w.serve(t)
	flow := &v1alpha1.Workflow{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "flow"},
		Spec: v1alpha1.WorkflowSpec{Steps: []v1alpha1.WorkflowStep{
			{Name: "a", Action: "hold"}, {Name: "b", Action: "echo", Needs: []string{"a"}},
		}},
	}
	testkit.Create(t, hub.Client, flow)
	byName := func(name string) func(*v1alpha1.WorkflowRun) {
		return func(r *v1alpha1.WorkflowRun) { r.Spec.Definition, r.Spec.Workflow = nil, name }
	}
	run := w.run(t, `{}`, byName("flow"))
	NewWithT(t).Eventually(w.done, patience).Should(HaveLen(1))
	flow.Spec.Steps = []v1alpha1.WorkflowStep{{Name: "other", Action: "panic"}}
	if err := hub.Client.Update(t.Context(), flow); err != nil {
		t.Fatal(err)
	}
	w.open("a")
	if got := phases(untilPhase(t, run, v1alpha1.RunSucceeded)); got != "a=Succeeded b=Succeeded" {
		t.Error(got)
	}
	missing := untilPhase(t, w.run(t, `{}`, byName("nowhere")), v1alpha1.RunFailed)
	if !strings.Contains(missing.Status.Message, "no workflow nowhere") {
		t.Errorf("message: %s", missing.Status.Message)
	}
}
