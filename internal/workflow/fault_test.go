package workflow_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
	"yunfan.io/yunfan/internal/workflow"
)

// branching is a graph of n steps: a spine with two branches at each third step, one of which is not taken.
func branching(n int) string {
	var d strings.Builder
	d.WriteString("steps:\n- {name: s0, action: echo, with: {value: a}}\n")
	for i := 1; i < n; i++ {
		switch i % 3 {
		case 1:
			fmt.Fprintf(&d, "- {name: s%d, action: echo, with: {value: \"${{ steps.s%d.outputs.value }}\"}, needs: [s%d]}\n", i, i-1, i-1)
		case 2:
			fmt.Fprintf(&d, "- {name: s%d, action: echo, when: \"inputs.both\", with: {value: b}, needs: [s%d]}\n", i, i-2)
		case 0:
			fmt.Fprintf(&d, "- {name: s%d, action: echo, with: {value: \"${{ steps.s%d.outputs.value }}a\"}, needs: [s%d, s%d]}\n", i, i-2, i-2, i-1)
		}
	}
	d.WriteString("inputs: [{name: both, type: Boolean, default: false}]\n")
	return d.String()
}

func TestOPS10_FiftyStepsSurviveRestarts(t *testing.T) {
	w := newWorld(t)
	s := w.serve(t)
	run := w.run(t, branching(50))
	for restarts := range 5 {
		NewWithT(t).Eventually(func() int { return len(w.done()) }, patience, time.Millisecond).Should(BeNumerically(">", restarts*6))
		s.stop()
		s = w.serve(t)
	}
	done := untilPhase(t, run, v1alpha1.RunSucceeded)
	if twice := w.twice(); len(twice) > 0 {
		t.Errorf("effects that happened more than once: %v", twice)
	}
	ran := 0
	for _, st := range done.Status.Steps {
		switch st.Phase {
		case v1alpha1.StepSucceeded:
			ran++
			if st.Attempt != 1 {
				t.Errorf("step %s: %d attempts", st.Name, st.Attempt)
			}
		case v1alpha1.StepSkipped:
		default:
			t.Errorf("step %s is %s", st.Name, st.Phase)
		}
	}
	if len(w.done()) != ran || ran != 34 {
		t.Errorf("%d effects for %d steps that ran, want 34 of each", len(w.done()), ran)
	}
	if got := string(step(t, done, "s48").Outputs["value"]); got != `"`+strings.Repeat("a", 17)+`"` {
		t.Errorf("the last join's output: %s", got)
	}
}

// The server ends between an effect and the write that records it: the next one calls again, with the same key.
func TestRestartBetweenEffectAndItsRecord(t *testing.T) {
	w := newWorld(t)
	first := w.serve(t)
	run := w.run(t, `steps: [{name: a, action: hold}, {name: b, action: echo, with: {value: "${{ steps.a.outputs.value }}"}, needs: [a]}]`)
	NewWithT(t).Eventually(w.done, patience).Should(HaveLen(1))
	first.stop()
	second := w.serve(t)
	NewWithT(t).Eventually(func() int { return len(w.called("a")) }, patience).Should(Equal(2))
	w.open("a")
	done := untilPhase(t, run, v1alpha1.RunSucceeded)
	calls := w.called("a")
	if calls[0].Repeated || !calls[1].Repeated || calls[0].Key != calls[1].Key || calls[0].Attempt != calls[1].Attempt {
		t.Errorf("the calls: %+v", calls)
	}
	if twice := w.twice(); len(twice) > 0 || !cmp.Equal(w.done(), []string{"a", "b"}) {
		t.Errorf("effects: %v, more than once %v", w.done(), twice)
	}
	if got := string(step(t, done, "b").Outputs["value"]); got != `"`+calls[0].Key+`"` {
		t.Errorf("output: %s", got)
	}
	if done.Status.Holder != second.engine.Identity() || first.engine.Identity() == second.engine.Identity() {
		t.Errorf("the holder is %s", done.Status.Holder)
	}
}

func elect(lease string) func(*manager.Options, *workflow.Options) {
	return func(m *manager.Options, _ *workflow.Options) {
		long, renew, retry := 4*time.Second, 3*time.Second, 200*time.Millisecond
		m.LeaderElection, m.LeaderElectionID, m.LeaderElectionNamespace = true, lease, testkit.PlatformNamespace
		m.LeaseDuration, m.RenewDeadline, m.RetryPeriod = &long, &renew, &retry
		m.LeaderElectionReleaseOnCancel = true
	}
}

func TestTwoServersRunEachStepOnce(t *testing.T) {
	w := newWorld(t)
	lease := testkit.Name(t)
	a := w.serve(t, elect(lease))
	b := w.serve(t, elect(lease))
	var runs []*v1alpha1.WorkflowRun
	for range 5 {
		runs = append(runs, w.run(t, branching(10)))
	}
	NewWithT(t).Eventually(func() int { return len(w.done()) }, patience, time.Millisecond).Should(BeNumerically(">", 5))
	// Whoever leads hands over.
	held := now(t, runs[0]).Status.Holder
	if held == a.engine.Identity() {
		a.stop()
	} else {
		b.stop()
	}
	for _, run := range runs {
		done := untilPhase(t, run, v1alpha1.RunSucceeded)
		for _, st := range done.Status.Steps {
			if st.Attempt > 1 {
				t.Errorf("step %s had %d attempts", st.Name, st.Attempt)
			}
		}
	}
	if twice := w.twice(); len(twice) > 0 || len(w.done()) != 5*7 {
		t.Errorf("%d effects, more than once: %v", len(w.done()), twice)
	}
}

// An old leader that was stopped and wakes up is told off by what the new one has written.
func TestServerThatIsNoLongerTheHolderStops(t *testing.T) {
	w := newWorld(t)
	old := w.serve(t)
	run := w.run(t, `steps: [{name: a, action: hold}, {name: b, action: echo, needs: [a]}]`)
	NewWithT(t).Eventually(w.done, patience).Should(HaveLen(1))
	call := w.called("a")[0]
	if err := call.Fence(t.Context()); err != nil {
		t.Errorf("the holder's fence: %v", err)
	}
	// There is no leader election here: two that both believe to lead are the worst case.
	w.serve(t)
	until(t, run, "it has another holder", func(r *v1alpha1.WorkflowRun) bool { return r.Status.Holder != old.engine.Identity() })
	NewWithT(t).Eventually(func() error { return call.Fence(t.Context()) }, patience, 100*time.Millisecond).Should(MatchError(ContainSubstring("another server")))
	w.open("a")
	done := untilPhase(t, run, v1alpha1.RunSucceeded)
	if done.Status.Holder == old.engine.Identity() {
		t.Errorf("the old server took the run back")
	}
	if twice := w.twice(); len(twice) > 0 {
		t.Errorf("effects that happened more than once: %v", twice)
	}
}

func TestConflictWithForeignWriter(t *testing.T) {
	w := newWorld(t)
	w.serve(t)
	run := w.run(t, `steps: [{name: a, action: hold}, {name: b, action: hold, needs: [a]}, {name: c, action: echo, needs: [b]}]`)
	NewWithT(t).Eventually(w.done, patience).Should(HaveLen(1))
	// Somebody writes the object and its status without the engine's knowledge.
	live := now(t, run)
	live.Status.Message = "somebody was here"
	if err := hub.Client.Status().Update(t.Context(), live); err != nil {
		t.Fatal(err)
	}
	w.open("a")
	NewWithT(t).Eventually(w.done, patience).Should(HaveLen(2))
	live = now(t, run)
	before := live.DeepCopy()
	live.Annotations = map[string]string{"example.com/note": "mine"}
	if err := hub.Client.Patch(t.Context(), live, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	w.open("b")
	done := untilPhase(t, run, v1alpha1.RunSucceeded)
	if done.Annotations["example.com/note"] != "mine" || len(w.twice()) > 0 {
		t.Errorf("annotations %v, more than once %v", done.Annotations, w.twice())
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, w.done()); diff != "" {
		t.Error(diff)
	}
}

func TestRecordsThatRefuseAreTriedAgain(t *testing.T) {
	w := newWorld(t)
	w.broken = true
	w.serve(t)
	run := w.run(t, `steps: [{name: a, action: echo}]`)
	until(t, run, "it says that it is not archived", func(r *v1alpha1.WorkflowRun) bool {
		return r.Status.Phase == v1alpha1.RunSucceeded && strings.Contains(fmt.Sprint(r.Status.Conditions), "being mended")
	})
	w.mu.Lock()
	w.broken = false
	w.mu.Unlock()
	until(t, run, "it is archived", func(r *v1alpha1.WorkflowRun) bool {
		return !strings.Contains(fmt.Sprint(r.Status.Conditions), "being mended")
	})
	if kept := w.archived(); len(kept) != 1 || !cmp.Equal(kept[0].Status.Steps, now(t, run).Status.Steps, cmpopts.EquateEmpty()) {
		t.Errorf("archived: %+v", kept)
	}
}
