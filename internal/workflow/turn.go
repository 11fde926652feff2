package workflow

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/workflow/graph"
)

// callKind is which function of an action is called.
type callKind string

const (
	// callRun does a step, callStop ends an attempt that is under way, callUndo does a step's compensation.
	callRun  callKind = "run"
	callStop callKind = "stop"
	callUndo callKind = "undo"
)

// attempt is what a call belongs to. Try counts the attempts to undo; it is 0 otherwise.
type attempt struct {
	step   string
	kind   callKind
	number int32
	try    int32
}

// result is what a call has answered.
type result struct {
	attempt
	outcome action.Outcome
	outputs valueMap
	state   rawValue
	// canceled calls were ended by the engine: nobody knows whether they had their effect.
	canceled bool
	err      error
	at       time.Time
}

// timer is what is known of a step's attempt beyond the run's status. Its times have a monotonic reading, so that no
// change of the wall clock ends or delays what is under way.
type timer struct {
	// began is when the attempt began, due when it is called next, ready when its step could have begun.
	began, due, ready time.Time
	// ending is since when the attempt is being ended.
	ending time.Time
	// left says that a call of the attempt never returned: another attempt might meet what it still does.
	left bool
}

// note is something that people are told when the turn is written.
type note struct {
	step    string
	attempt int32
	warning bool
	// event says that it is worth an event; all notes are lines of the log.
	event  bool
	reason string
	text   string
}

// turn is one step of the engine's own: from a run's status and what has happened since to the next status and what to
// call then. It is pure: it changes nothing but run.Status, timers and its own notes.
type turn struct {
	graph *graph.Graph
	// actions are the descriptions of those that there are, and stops says which must be told to stop.
	actions map[string]action.Description
	stops   map[string]bool
	run     *v1alpha1.WorkflowRun
	holder  string
	now     time.Time
	// began is when the run began, or was last retried, by the monotonic clock.
	began   time.Time
	timers  map[string]timer
	results []result
	// flying are the steps with a call under way, woken those to be called at once.
	flying map[string]bool
	woken  map[string]bool

	notes []note
	size  int
	index map[string]int
}

// advance makes the next status, and says which attempts are to be called when it is written and when to look again at
// the latest; zero if nothing is waited for but results and changes.
func (t *turn) advance(ctx context.Context) (due []attempt, next time.Time) {
	s := &t.run.Status
	t.reindex()
	t.size = size(s)
	s.ObservedGeneration = t.run.Generation
	finished := s.Phase.Finished()
	t.inherit()
	for _, r := range t.results {
		t.fold(r)
	}
	t.steer()
	if !s.Phase.Finished() {
		t.expire()
		if s.Ending == "" {
			t.begin(ctx)
		}
		if s.Ending != "" {
			t.undo()
		}
		t.settle(ctx)
	}
	if !finished || !s.Phase.Finished() {
		s.Holder = t.holder
	}
	t.fit()
	return t.calls()
}

func (t *turn) reindex() {
	t.index = make(map[string]int, len(t.run.Status.Steps))
	for i := range t.run.Status.Steps {
		t.index[t.run.Status.Steps[i].Name] = i
	}
}

// step gives the step's status; nil if there is none of that name.
func (t *turn) step(name string) *v1alpha1.StepStatus {
	if i, ok := t.index[name]; ok {
		return &t.run.Status.Steps[i]
	}
	return nil
}

// each gives the status of every step in topological order.
func (t *turn) each(do func(st *v1alpha1.StepStatus)) {
	for _, name := range t.graph.Order() {
		if st := t.step(name); st != nil {
			do(st)
		}
	}
}

// inherit makes timers for attempts that another server began: as far as their time went by the wall clock.
func (t *turn) inherit() {
	t.each(func(st *v1alpha1.StepStatus) {
		if _, known := t.timers[st.Name]; known || !begun(st) {
			return
		}
		w := timer{began: t.now, due: t.now}
		if backingOff(st) {
			if st.NextTime != nil {
				w.due = t.now.Add(min(max(st.NextTime.Sub(t.now), 0), longestBackoff))
			}
		} else if st.StartTime != nil && st.Phase != v1alpha1.StepCompensating {
			w.began = t.now.Add(-max(t.now.Sub(st.StartTime.Time), 0))
		}
		if st.Stopping != "" {
			w.ending = t.now
		}
		t.timers[st.Name] = w
	})
}

// ongoing says whether an attempt is under way: it may have had its effect.
func ongoing(st *v1alpha1.StepStatus) bool {
	return (st.Phase == v1alpha1.StepRunning || st.Phase == v1alpha1.StepWaiting) && st.FinishTime == nil
}

// backingOff says whether the step waits for its next attempt.
func backingOff(st *v1alpha1.StepStatus) bool {
	return st.Phase == v1alpha1.StepWaiting && st.FinishTime != nil
}

func begun(st *v1alpha1.StepStatus) bool {
	return ongoing(st) || backingOff(st) || st.Phase == v1alpha1.StepCompensating
}

// wanted is the attempt that is to be called for the step now.
func wanted(st *v1alpha1.StepStatus) (attempt, bool) {
	switch {
	case st.Phase == v1alpha1.StepCompensating:
		return attempt{step: st.Name, kind: callUndo, number: st.Attempt, try: st.Failures + 1}, true
	case ongoing(st) && st.Stopping != "":
		return attempt{step: st.Name, kind: callStop, number: st.Attempt}, true
	case ongoing(st):
		return attempt{step: st.Name, kind: callRun, number: st.Attempt}, true
	}
	return attempt{}, false
}

// calls are the attempts that are due, and when the next thing is, if nothing happens before.
func (t *turn) calls() (due []attempt, next time.Time) {
	if t.run.Status.Phase.Finished() {
		return nil, time.Time{}
	}
	soonest := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if limit := t.runTimeout(); limit > 0 && t.run.Status.Ending == "" {
		soonest(t.began.Add(limit))
	}
	t.each(func(st *v1alpha1.StepStatus) {
		w := t.timers[st.Name]
		if backingOff(st) && !t.run.Spec.Paused {
			soonest(w.due)
		}
		a, ok := wanted(st)
		if !ok {
			return
		}
		if a.kind == callRun {
			if limit := t.timeout(st); limit > 0 {
				soonest(w.began.Add(limit))
			}
		}
		if t.flying[st.Name] {
			return
		}
		if w.due.After(t.now) {
			soonest(w.due)
			return
		}
		due = append(due, a)
	})
	return due, next
}

// stamp is the time for the status. It never goes back within a run, whatever the wall clock does, so that the order of
// completion can be told from it.
func (t *turn) stamp() *metav1.MicroTime {
	at := metav1.NewMicroTime(t.now.Round(0).Truncate(time.Microsecond))
	later := func(other *metav1.MicroTime) {
		if other != nil && at.Before(other) {
			at = *other
		}
	}
	later(t.run.Status.StartTime)
	for i := range t.run.Status.Steps {
		later(t.run.Status.Steps[i].StartTime)
		later(t.run.Status.Steps[i].FinishTime)
	}
	return &at
}

func (t *turn) note(n note) { t.notes = append(t.notes, n) }

// view is what expressions see of the run.
func view(run *v1alpha1.WorkflowRun) graph.View {
	v := graph.View{
		Run:    graph.Run{Name: run.Name, Namespace: run.Namespace, UID: string(run.UID), User: userName(run)},
		Inputs: run.Status.Inputs,
		Steps:  make(map[string]graph.Step, len(run.Status.Steps)),
	}
	for i := range run.Status.Steps {
		st := &run.Status.Steps[i]
		v.Steps[st.Name] = graph.Step{Phase: st.Phase, Outputs: st.Outputs}
	}
	return v
}
