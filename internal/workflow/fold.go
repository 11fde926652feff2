package workflow

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

type (
	rawValue = json.RawMessage
	valueMap = map[string]json.RawMessage
)

const (
	// A waiting step is looked at no more often, and no less often.
	shortestPause, longestPause = 100 * time.Millisecond, 5 * time.Minute
	// Between two attempts, where a step does not say otherwise.
	firstBackoff, lastBackoff = time.Second, time.Minute
	longestBackoff            = 24 * time.Hour
	// longestMessage of a step, in bytes.
	longestMessage = 1 << 10
	// notUndone begins the message of a step that could not be undone.
	notUndone = "it could not be undone, do so by hand: "
	// undoAttempts is how often a compensation is tried.
	undoAttempts = 5
	// endingTime is how long an attempt may take to be ended.
	endingTime = 2 * time.Minute
)

// fold takes what a call answered into the status. What belongs to no attempt that is under way is too late.
func (t *turn) fold(r result) {
	st := t.step(r.step)
	if st == nil || r.canceled || !t.current(st, r.attempt) {
		return
	}
	before, weight := st.DeepCopy(), size(st)
	switch r.kind {
	case callStop:
		t.foldStop(st, r)
	case callUndo:
		t.foldUndo(st, r)
	default:
		t.foldRun(st, r)
	}
	grown := t.size + size(st) - weight
	if limit := maxStatus - t.reserve(); grown > limit && size(st) > weight {
		*st = *before
		err := fmt.Errorf("steps[%s]: with its outputs and state of %d bytes the run's status would have %d bytes, "+
			"more than %d of %d are kept free for the other steps: let it give less", r.step, size(r.outputs)+len(r.state), grown, limit, maxStatus)
		t.failAttempt(st, err.Error(), true)
		grown = t.size + size(st) - weight
	}
	t.size = grown
}

// current says whether the attempt is under way. What Run answers counts also when it is being ended.
func (t *turn) current(st *v1alpha1.StepStatus, a attempt) bool {
	now, ok := wanted(st)
	if ok && a.kind == callRun && now.kind == callStop {
		now.kind = callRun
	}
	return ok && now == a
}

func (t *turn) foldRun(st *v1alpha1.StepStatus, r result) {
	out := r.outcome
	switch {
	case r.err != nil && st.Stopping != "": // being ended: its action is told to stop nevertheless
		st.Message = short(r.err.Error(), longestMessage)
		w := t.timers[st.Name]
		w.due, w.left = t.now, errors.Is(r.err, errLeftBehind)
		t.timers[st.Name] = w
	case r.err != nil:
		t.failAttempt(st, r.err.Error(), action.IsFailed(r.err))
	case out.Done:
		st.Phase, st.FinishTime = v1alpha1.StepSucceeded, t.stamp()
		st.Outputs, st.State, st.Approval, st.NextTime = r.outputs, nil, nil, nil
		st.Message, st.Stopping = short(out.Message, longestMessage), ""
		st.Actor = cmp.Or(out.Actor, st.Actor)
		t.note(note{step: st.Name, attempt: st.Attempt, reason: "StepSucceeded", text: strings.TrimSuffix("succeeded: "+st.Message, ": ")})
	default:
		t.keep(st, r)
	}
}

// keep notes what an attempt that is not done waits for.
func (t *turn) keep(st *v1alpha1.StepStatus, r result) {
	if r.state != nil && !sameJSON(st.State, r.state) {
		st.State = r.state
	}
	if st.Stopping != "" {
		t.setDue(st.Name, t.now)
		return
	}
	out := r.outcome
	st.Message = short(out.Message, longestMessage)
	if out.Approval != nil && st.Approval == nil {
		t.note(note{step: st.Name, attempt: st.Attempt, event: true, reason: "ApprovalWanted", text: cmp.Or("waits for approval: "+out.Approval.Subject, "waits for approval")})
	}
	st.Approval = out.Approval.DeepCopy()
	st.Phase = v1alpha1.StepRunning
	if out.Waiting || out.Approval != nil {
		st.Phase = v1alpha1.StepWaiting
	}
	pause := min(max(out.Again, shortestPause), longestPause)
	due := t.now.Add(pause)
	if t.woken[st.Name] {
		due = t.now
	}
	t.setDue(st.Name, due)
}

// failAttempt ends an attempt. It is tried again if the step says so and final is not.
func (t *turn) failAttempt(st *v1alpha1.StepStatus, message string, final bool) {
	st.State, st.Approval, st.NextTime, st.Stopping = nil, nil, nil, ""
	st.FinishTime, st.Message = t.stamp(), short(message, longestMessage)
	st.Failures++
	retry := t.graph.Step(st.Name).Retry
	if t.run.Status.Ending == "" && !final && retry != nil && st.Failures <= retry.Limit {
		pause := backoff(retry, st.Failures)
		st.Phase = v1alpha1.StepWaiting
		next := metav1.NewMicroTime(t.now.Add(pause).Round(0).Truncate(time.Microsecond))
		st.NextTime = &next
		t.setDue(st.Name, t.now.Add(pause))
		t.note(note{step: st.Name, attempt: st.Attempt, warning: true, reason: "AttemptFailed",
			text: fmt.Sprintf("attempt %d failed and is tried again in %s: %s", st.Attempt, pause, st.Message)})
		return
	}
	st.Phase = v1alpha1.StepFailed
	t.note(note{step: st.Name, attempt: st.Attempt, warning: true, event: true, reason: "StepFailed", text: "failed: " + st.Message})
}

// backoff before the next attempt, after as many failures.
func backoff(retry *v1alpha1.StepRetry, failures int32) time.Duration {
	pause, most := firstBackoff, lastBackoff
	if retry != nil && retry.Interval != nil {
		pause = retry.Interval.Duration
	}
	if retry != nil && retry.MaxInterval != nil {
		most = retry.MaxInterval.Duration
	} else {
		most = max(most, pause) // who asks for longer pauses gets them
	}
	most = min(max(most, shortestPause), longestBackoff)
	for i := int32(1); i < failures && pause < most; i++ {
		pause *= 2
	}
	return min(max(pause, shortestPause), most)
}

func (t *turn) foldStop(st *v1alpha1.StepStatus, r result) {
	if r.state != nil && r.err == nil {
		st.State = r.state
	}
	switch {
	case r.err != nil && !action.IsFailed(r.err):
		st.Message = short("ending it: "+r.err.Error(), longestMessage)
		t.setDue(st.Name, t.now.Add(firstBackoff))
	case r.err != nil:
		t.ended(st, fmt.Sprintf("%s; it could not be ended: %v", st.Stopping, r.err), true)
	case r.outcome.Done:
		t.ended(st, st.Stopping, false)
	default:
		t.setDue(st.Name, t.now.Add(min(max(r.outcome.Again, shortestPause), longestPause)))
	}
}

// ended finishes an attempt that was stopped: aborted with its run, or failed because it took too long.
func (t *turn) ended(st *v1alpha1.StepStatus, message string, final bool) {
	if t.run.Status.Ending == "" {
		t.failAttempt(st, message, final || t.timers[st.Name].left)
		return
	}
	st.Phase, st.FinishTime, st.Message = v1alpha1.StepAborted, t.stamp(), short(message, longestMessage)
	st.State, st.Approval, st.NextTime, st.Stopping = nil, nil, nil, ""
	t.note(note{step: st.Name, attempt: st.Attempt, warning: true, reason: "StepAborted", text: "aborted: " + st.Message})
}

func (t *turn) foldUndo(st *v1alpha1.StepStatus, r result) {
	if r.state != nil && r.err == nil {
		st.State = r.state
	}
	switch {
	case r.err != nil:
		t.failUndo(st, r.err.Error(), action.IsFailed(r.err))
	case r.outcome.Done:
		st.Phase, st.State, st.Failures, st.NextTime = v1alpha1.StepCompensated, nil, 0, nil
		st.Message = "undone at " + t.now.UTC().Format(time.RFC3339)
		t.note(note{step: st.Name, attempt: st.Attempt, reason: "StepCompensated", text: "undone"})
	default:
		st.Message = short(r.outcome.Message, longestMessage)
		t.setDue(st.Name, t.now.Add(min(max(r.outcome.Again, shortestPause), longestPause)))
	}
}

// failUndo ends an attempt to undo a step: it is tried again, a few times.
func (t *turn) failUndo(st *v1alpha1.StepStatus, message string, final bool) {
	st.State = nil
	st.Failures++
	if final || st.Failures >= undoAttempts {
		st.Phase, st.NextTime = v1alpha1.StepFailed, nil
		st.Message = short(notUndone+message, longestMessage)
		t.note(note{step: st.Name, attempt: st.Attempt, warning: true, event: true, reason: "CompensationFailed", text: st.Message})
		return
	}
	pause := backoff(nil, st.Failures)
	st.Message = short(fmt.Sprintf("undoing it failed and is tried again: %s", message), longestMessage)
	t.timers[st.Name] = timer{began: t.now.Add(pause), due: t.now.Add(pause)}
	t.note(note{step: st.Name, attempt: st.Attempt, warning: true, reason: "UndoFailed", text: st.Message})
}

func (t *turn) setDue(step string, at time.Time) {
	w := t.timers[step]
	w.due = at
	t.timers[step] = w
}

func sameJSON(a, b rawValue) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	first, err := json.Marshal(x)
	second, err2 := json.Marshal(y)
	return err == nil && err2 == nil && bytes.Equal(first, second)
}

// short cuts a text to at most so many bytes, never within a character.
func short(text string, limit int) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= limit {
		return text
	}
	const mark = "…"
	return strings.ToValidUTF8(text[:limit-len(mark)], "") + mark
}
