package workflow

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

// begin begins every step that may, unless one has failed or the run is paused.
func (t *turn) begin(ctx context.Context) {
	if failed := t.failed(); len(failed) > 0 && t.run.Status.Definition.OnFailure == v1alpha1.OnFailureCompensate {
		t.end(v1alpha1.RunFailed, t.failure(failed))
		return
	}
	if t.run.Spec.Paused {
		return
	}
	// In topological order, so that what follows skipped steps is decided in the same turn.
	t.each(func(st *v1alpha1.StepStatus) {
		switch {
		case backingOff(st):
			if !t.timers[st.Name].due.After(t.now) {
				t.start(st)
			}
		case st.Phase != v1alpha1.StepPending || len(t.failed()) > 0:
		case t.reached(st):
			t.decide(ctx, st)
		}
	})
}

// reached says whether all that the step needs has ended well.
func (t *turn) reached(st *v1alpha1.StepStatus) bool {
	for _, name := range t.graph.Needs(st.Name) {
		if need := t.step(name); need == nil || !t.endedWell(need) {
			return false
		}
	}
	return true
}

func (t *turn) endedWell(st *v1alpha1.StepStatus) bool {
	switch st.Phase {
	case v1alpha1.StepSucceeded, v1alpha1.StepSkipped:
		return true
	case v1alpha1.StepFailed:
		return t.graph.Step(st.Name).OnFailure == v1alpha1.OnFailureContinue
	}
	return false
}

// decide begins the step or skips it.
func (t *turn) decide(ctx context.Context, st *v1alpha1.StepStatus) {
	if t.graph.Step(st.Name).When != "" {
		run, err := t.graph.When(ctx, st.Name, view(t.run))
		switch {
		case err != nil:
			at := t.stamp()
			st.StartTime, st.FinishTime, st.Attempt, st.Actor = at, at, st.Attempt+1, t.actorName(st)
			t.failAttempt(st, err.Error(), true)
		case run:
			t.start(st)
		default:
			t.skip(st, "its condition is false")
		}
		return
	}
	needs := t.graph.Needs(st.Name)
	skipped := func(name string) bool { return t.step(name).Phase == v1alpha1.StepSkipped }
	if len(needs) > 0 && !slices.ContainsFunc(needs, func(name string) bool { return !skipped(name) }) {
		t.skip(st, "all that it needs was skipped")
		return
	}
	t.start(st)
}

func (t *turn) skip(st *v1alpha1.StepStatus, why string) {
	st.Phase, st.FinishTime, st.Message = v1alpha1.StepSkipped, t.stamp(), why
	t.note(note{step: st.Name, attempt: st.Attempt, reason: "StepSkipped", text: "skipped: " + why})
}

// start begins an attempt.
func (t *turn) start(st *v1alpha1.StepStatus) {
	failures, number, who := st.Failures, st.Attempt+1, t.actorName(st)
	*st = v1alpha1.StepStatus{
		Name: st.Name, Phase: v1alpha1.StepRunning, Attempt: number, Failures: failures, StartTime: t.stamp(), Actor: who,
	}
	var ready time.Time
	if w, ok := t.timers[st.Name]; ok { // it waited for this attempt
		ready = w.due
	}
	needs := t.graph.Needs(st.Name)
	for _, r := range t.results { // what made it ready has answered before this turn
		if r.at.After(ready) && slices.Contains(needs, r.step) {
			ready = r.at
		}
	}
	if ready.IsZero() {
		ready = t.now
	}
	t.timers[st.Name] = timer{began: t.now, due: t.now, ready: ready}
	t.note(note{step: st.Name, attempt: number, reason: "StepBegun", text: fmt.Sprintf("attempt %d begins%s", number, by(&v1alpha1.Actor{Name: who}))})
}

func (t *turn) actorName(st *v1alpha1.StepStatus) string {
	if st.Actor != "" {
		return st.Actor
	}
	if t.run.Spec.User != nil {
		return t.run.Spec.User.Name
	}
	return ""
}

// failed are the steps that failed for good and let nothing go on, in topological order.
func (t *turn) failed() (names []string) {
	t.each(func(st *v1alpha1.StepStatus) {
		if st.Phase == v1alpha1.StepFailed && !t.endedWell(st) {
			names = append(names, st.Name)
		}
	})
	return names
}

// failure says in words which steps failed, and why the first did.
func (t *turn) failure(failed []string) string {
	first := t.step(failed[0])
	text := fmt.Sprintf("step %s failed: %s", first.Name, first.Message)
	if more := failed[1:]; len(more) > 0 {
		const most = 5
		text += fmt.Sprintf("; %d more failed: %s", len(more), strings.Join(more[:min(len(more), most)], ", "))
	}
	return text
}

// undo undoes what was done, the latest first, one after the other, once no attempt is under way.
func (t *turn) undo() {
	s := &t.run.Status
	if s.Ending == v1alpha1.RunFailed && s.Definition.OnFailure != v1alpha1.OnFailureCompensate {
		return
	}
	var last *v1alpha1.StepStatus
	busy := false
	t.each(func(st *v1alpha1.StepStatus) {
		busy = busy || ongoing(st) || st.Phase == v1alpha1.StepCompensating
		if st.Phase != v1alpha1.StepSucceeded || t.graph.Step(st.Name).Compensate == nil {
			return
		}
		if last == nil || st.FinishTime == nil || last.FinishTime != nil && !st.FinishTime.Before(last.FinishTime) {
			last = st
		}
	})
	if busy || last == nil {
		return
	}
	last.Phase, last.Failures, last.State, last.Message = v1alpha1.StepCompensating, 0, nil, ""
	t.timers[last.Name] = timer{began: t.now, due: t.now}
	t.note(note{step: last.Name, attempt: last.Attempt, reason: "StepCompensating", text: "is being undone"})
}

// settle says where the run is, and finishes it when nothing is left to do.
func (t *turn) settle(ctx context.Context) {
	s := &t.run.Status
	working, waiting, open := 0, "", 0
	t.each(func(st *v1alpha1.StepStatus) {
		switch {
		case st.Phase == v1alpha1.StepRunning || st.Phase == v1alpha1.StepCompensating:
			working++
		case st.Phase == v1alpha1.StepWaiting && waiting == "":
			waiting = strings.TrimSuffix(fmt.Sprintf("step %s waits: %s", st.Name, st.Message), ": ")
		case st.Phase == v1alpha1.StepPending:
			open++
		}
	})
	failed := t.failed()
	switch busy := working > 0 || waiting != ""; {
	case s.Ending != "" && busy:
		s.Phase = v1alpha1.RunCompensating
	case s.Ending != "":
		t.finish(s.Ending, t.left(s.Message))
	case !busy && len(failed) > 0:
		t.finish(v1alpha1.RunFailed, t.failure(failed))
	case !busy && open == 0:
		t.succeed(ctx)
	case t.run.Spec.Paused && working == 0:
		s.Phase, s.Message = v1alpha1.RunPaused, strings.TrimSuffix("paused"+by(t.run.Spec.ChangedBy)+": "+t.run.Spec.Reason, ": ")
	case working > 0:
		s.Phase, s.Message = v1alpha1.RunRunning, ""
		if t.run.Spec.Paused {
			s.Message = "pauses when the running steps have finished"
		}
		if len(failed) > 0 {
			s.Message = "fails when the running steps have finished: " + t.failure(failed)
		}
	default:
		s.Phase, s.Message = v1alpha1.RunWaiting, waiting
	}
	s.Message = short(s.Message, longestMessage)
	if !s.Phase.Finished() {
		t.condition(metav1.ConditionUnknown)
	}
}

// left adds what could not be undone to the message of a run that ends.
func (t *turn) left(message string) string {
	var stuck []string
	t.each(func(st *v1alpha1.StepStatus) {
		if st.Phase == v1alpha1.StepFailed && strings.HasPrefix(st.Message, notUndone) {
			stuck = append(stuck, st.Name)
		}
	})
	if len(stuck) > 0 {
		message += "; could not be undone: " + strings.Join(stuck, ", ")
	}
	return message
}

func (t *turn) succeed(ctx context.Context) {
	outputs, err := t.graph.Outputs(ctx, view(t.run))
	if err == nil && t.size+size(outputs) > maxStatus {
		err = fmt.Errorf("outputs: of %d bytes, with which the run's status would have more than %d: give less", size(outputs), maxStatus)
	}
	if err != nil {
		t.finish(v1alpha1.RunFailed, err.Error())
		return
	}
	t.run.Status.Outputs = outputs
	t.finish(v1alpha1.RunSucceeded, "")
}

func (t *turn) finish(phase v1alpha1.RunPhase, message string) {
	s := &t.run.Status
	s.Phase, s.Message, s.FinishTime = phase, short(message, longestMessage), t.stamp()
	status := metav1.ConditionFalse
	if phase == v1alpha1.RunSucceeded {
		status = metav1.ConditionTrue
	}
	t.condition(status)
	t.note(note{warning: phase != v1alpha1.RunSucceeded, event: true, reason: "Run" + string(phase), text: strings.TrimSuffix(strings.ToLower(string(phase))+": "+s.Message, ": ")})
}

func (t *turn) condition(status metav1.ConditionStatus) {
	s := &t.run.Status
	meta.SetStatusCondition(&s.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionSucceeded, Status: status, Reason: string(s.Phase), Message: s.Message, ObservedGeneration: t.run.Generation,
	})
}
