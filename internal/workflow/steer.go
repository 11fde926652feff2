package workflow

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// steer follows what the spec says, and the run's timeout.
func (t *turn) steer() {
	s, spec := &t.run.Status, &t.run.Spec
	t.retry()
	deleted := !t.run.DeletionTimestamp.IsZero()
	// A failed run whose steps nobody has undone can still be aborted.
	undoable := s.Phase == v1alpha1.RunFailed && s.Ending == "" && s.Definition != nil
	switch {
	case s.Phase.Finished() && (!undoable || !spec.Aborted):
		return
	case spec.Aborted && s.Ending != v1alpha1.RunAborted:
		t.end(v1alpha1.RunAborted, strings.TrimSuffix("aborted"+by(spec.ChangedBy)+": "+spec.Reason, ": "))
	case deleted && s.Ending != v1alpha1.RunAborted:
		t.end(v1alpha1.RunAborted, "deleted before it had finished")
	case s.Ending == "":
		if limit := t.runTimeout(); limit > 0 && t.now.Sub(t.began) >= limit {
			t.end(v1alpha1.RunFailed, fmt.Sprintf("it took longer than its timeout of %s", limit))
		}
	}
}

func by(actor *v1alpha1.Actor) string {
	if actor == nil {
		return ""
	}
	return " by " + v1alpha1.PlainName(actor.Name)
}

func (t *turn) runTimeout() time.Duration {
	if d := t.run.Status.Definition.Timeout; d != nil {
		return d.Duration
	}
	return 0
}

// end begins the end of the run: attempts under way are ended, and nothing else begins.
func (t *turn) end(how v1alpha1.RunPhase, message string) {
	s := &t.run.Status
	s.Ending, s.Phase, s.Message = how, v1alpha1.RunCompensating, short(message, longestMessage)
	s.FinishTime = nil
	t.note(note{warning: true, event: true, reason: "RunEnding", text: s.Message})
	t.each(func(st *v1alpha1.StepStatus) {
		switch {
		case backingOff(st):
			st.Phase, st.NextTime = v1alpha1.StepAborted, nil
		case ongoing(st):
			t.stop(st, s.Message)
		}
	})
}

// stop ends an attempt: at once if nothing of it is under way and its action need not be told.
func (t *turn) stop(st *v1alpha1.StepStatus, why string) {
	st.Stopping = short(why, longestMessage)
	w := t.timers[st.Name]
	w.ending, w.due = t.now, t.now
	t.timers[st.Name] = w
	if !t.stops[t.graph.Step(st.Name).Action] && !t.flying[st.Name] {
		t.ended(st, st.Stopping, false)
	}
}

// timeout of one attempt; none if not above zero.
func (t *turn) timeout(st *v1alpha1.StepStatus) time.Duration {
	step := t.graph.Step(st.Name)
	if step.Timeout != nil && step.Timeout.Duration > 0 {
		return step.Timeout.Duration
	}
	if d := t.actions[step.Action].Timeout; d != 0 {
		return d
	}
	return action.DefaultTimeout
}

// expire ends attempts that take too long, and gives up on those that cannot be ended.
func (t *turn) expire() {
	t.each(func(st *v1alpha1.StepStatus) {
		w := t.timers[st.Name]
		switch limit := t.timeout(st); {
		case st.Phase == v1alpha1.StepCompensating:
			limit = t.actions[t.graph.Step(st.Name).Compensate.Action].Timeout
			if limit == 0 {
				limit = action.DefaultTimeout
			}
			// Each call ends within a minute, so nothing need be canceled.
			if limit > 0 && t.now.Sub(w.began) >= limit && !t.flying[st.Name] {
				t.failUndo(st, fmt.Sprintf("it took longer than %s", limit), false)
			}
		case !ongoing(st):
		case st.Stopping != "":
			if t.now.Sub(w.ending) >= endingTime && !t.flying[st.Name] {
				t.ended(st, st.Stopping+"; it did not end either", true)
			}
		case limit > 0 && t.now.Sub(w.began) >= limit:
			t.stop(st, fmt.Sprintf("it took longer than its timeout of %s", limit))
		}
	})
}

// retry resets what a retry asks to be run again. It waits until the run has finished.
func (t *turn) retry() {
	s, wish := &t.run.Status, t.run.Spec.Retry
	if wish == nil || wish.Number <= s.Retries || !s.Phase.Finished() || t.run.Spec.Aborted || !t.run.DeletionTimestamp.IsZero() {
		return
	}
	s.Retries = wish.Number
	from := t.step(wish.From)
	refusal := ""
	switch {
	case s.Phase == v1alpha1.RunSucceeded:
		refusal = "the run has succeeded: start another"
	case wish.From != "" && from == nil:
		refusal = fmt.Sprintf("spec.retry.from: there is no step %q", short(wish.From, 63))
	case from != nil && from.Phase == v1alpha1.StepPending:
		refusal = fmt.Sprintf("spec.retry.from: step %s has not been reached: leave from empty to go on", wish.From)
	}
	if refusal != "" {
		if s.Phase != v1alpha1.RunSucceeded {
			s.Message = short(fmt.Sprintf("retry %d was refused: %s", wish.Number, refusal), longestMessage)
		}
		t.note(note{warning: true, event: true, reason: "RetryRefused", text: fmt.Sprintf("retry %d was refused: %s", wish.Number, refusal)})
		return
	}
	s.RetriedBy, s.RetryTime = retrier(t.run), t.stamp()
	for name := range t.again(wish.From) {
		st := t.step(name)
		*st = v1alpha1.StepStatus{Name: name, Phase: v1alpha1.StepPending, Attempt: st.Attempt}
		if s.RetriedBy != nil {
			st.Actor = s.RetriedBy.Name
		}
		delete(t.timers, name)
	}
	s.Phase, s.Message, s.Ending, s.FinishTime, s.Outputs = v1alpha1.RunRunning, "", "", nil, nil
	meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionArchived)
	t.began, t.size = t.now, size(s)
	t.note(note{event: true, reason: "RunRetried", text: fmt.Sprintf("retry %d%s", wish.Number, by(s.RetriedBy))})
}

// again are the steps to run again: the one named, those without which the run cannot succeed, and all that come after
// any of them.
func (t *turn) again(from string) map[string]bool {
	reset := map[string]bool{}
	add := func(name string) {
		reset[name] = true
		for _, after := range t.graph.After(name) {
			reset[after] = true
		}
	}
	if from != "" {
		add(from)
	}
	t.each(func(st *v1alpha1.StepStatus) {
		switch st.Phase {
		case v1alpha1.StepFailed:
			if t.run.Status.Ending != "" || t.graph.Step(st.Name).OnFailure != v1alpha1.OnFailureContinue {
				add(st.Name)
			}
		case v1alpha1.StepAborted, v1alpha1.StepCompensated:
			add(st.Name)
		}
	})
	return reset
}

// retrier is who retries, with those of his groups that count in the run's namespace: others may be many.
func retrier(run *v1alpha1.WorkflowRun) *v1alpha1.Actor {
	if run.Spec.ChangedBy == nil {
		return run.Spec.User.DeepCopy()
	}
	who := run.Spec.ChangedBy.DeepCopy()
	who.Groups = slices.DeleteFunc(who.Groups, func(group string) bool {
		grant, ok := v1alpha1.ParseGroup(group)
		return group != v1alpha1.GroupPlatformAdmin && (!ok || grant.Tenant != run.Namespace)
	})
	return who
}

// actor is on whose behalf the step is done.
func actor(run *v1alpha1.WorkflowRun, st *v1alpha1.StepStatus) v1alpha1.Actor {
	if by := run.Status.RetriedBy; by != nil && by.Name == st.Actor {
		return *by.DeepCopy()
	}
	if run.Spec.User != nil {
		return *run.Spec.User.DeepCopy()
	}
	return v1alpha1.Actor{}
}

func userName(run *v1alpha1.WorkflowRun) string {
	if run.Spec.User == nil {
		return ""
	}
	return v1alpha1.PlainName(run.Spec.User.Name)
}
