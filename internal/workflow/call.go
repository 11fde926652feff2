package workflow

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

const (
	// callTime is how long one call may take, and grace how much longer it may take to notice.
	callTime, grace = time.Minute, 5 * time.Second
	// hubPause is how long a call waits for a hub that does not answer.
	hubPause = time.Second
	// maxApproval is how much an action may ask to be approved, in bytes of JSON.
	maxApproval = 16 << 10
)

// call makes one call and hands its answer to the controller. What comes after the end of the leader's term is lost:
// whoever leads next calls again.
func (e *Engine) call(ctx context.Context, f *flight) {
	r, postponed := e.answer(f)
	r.attempt, r.at = f.attempt, time.Now()
	s := f.session
	s.mu.Lock()
	if s.flights[f.step] == f {
		delete(s.flights, f.step)
	}
	switch w := s.timers[f.step]; {
	case ctx.Err() != nil || s.lost:
		s.unknown[f.step] = true
	case postponed != nil:
		w.due = r.at.Add(hubPause)
		s.timers[f.step] = w
	default:
		s.results = append(s.results, r)
	}
	s.mu.Unlock()
	if postponed != nil && !errors.Is(postponed, errLost) && !errors.Is(postponed, errNoLonger) {
		ctrl.Log.WithName("workflow").V(1).Info("A call is postponed", "run", s.key, "step", f.step, "reason", postponed.Error())
	}
	e.queue.add(s.key)
}

// answer makes the call. Postponed says that it was not made and why.
func (e *Engine) answer(f *flight) (r result, postponed error) {
	canceled := func() bool { return f.ctx.Err() != nil }
	if canceled() {
		return result{canceled: true}, nil
	}
	if err := e.fence(f.ctx, f.session, f.attempt); err != nil {
		if canceled() {
			return result{canceled: true}, nil
		}
		return result{}, err
	}
	if !f.ready.IsZero() {
		waited.Observe(time.Since(f.ready).Seconds())
	}
	a, call, err := e.prepare(f)
	if err != nil {
		return result{err: action.Failed(err)}, nil
	}
	out, err := e.guard(f, a, call)
	if canceled() && (err != nil || !out.Done) && !errors.Is(err, errLeftBehind) {
		return result{canceled: true}, nil
	}
	return e.weigh(f, out, err), nil
}

// prepare makes what the action is called with.
func (e *Engine) prepare(f *flight) (action.Action, *action.Call, error) {
	s, st := f.session, stepOf(f.run, f.step)
	step := f.graph.Step(f.step)
	name, inputs := step.Action, f.graph.With
	if f.kind == callUndo {
		name, inputs = step.Compensate.Action, f.graph.Compensation
	}
	a := e.options.Actions[name]
	if a == nil {
		return nil, nil, fmt.Errorf("steps[%s]: there is no action %s on this server", f.step, name)
	}
	with, err := inputs(f.ctx, f.step, view(f.run))
	if err != nil {
		return nil, nil, err
	}
	return a, &action.Call{
		Run: s.key, UID: s.uid, Step: f.step, Attempt: f.number, Key: callKey(f.run, f.attempt),
		Repeated: f.repeated, User: actor(f.run, st), Inputs: with, State: st.State, Started: f.began,
		Log: func(format string, args ...any) {
			e.log(f.run, f.step, f.number, fmt.Sprintf(format, args...))
		},
		Fence: func(ctx context.Context) error { return e.fence(ctx, s, f.attempt) },
	}, nil
}

// callKey names an attempt: a DNS label that begins like the step, for people.
func callKey(run *v1alpha1.WorkflowRun, a attempt) string {
	const words, digits = 20, 32
	text := fmt.Sprintf("%s/%s/%d", run.UID, a.step, a.number)
	if a.kind == callUndo {
		text += fmt.Sprintf("/undo/%d", a.try)
	}
	sum := sha256.Sum256([]byte(text))
	name := a.step[:min(len(a.step), words)]
	return strings.TrimRight(name, "-") + "-" + hex.EncodeToString(sum[:])[:digits]
}

var (
	errTooLong    = fmt.Errorf("the call took longer than %s", callTime)
	errLeftBehind = errors.New("the call did not return when it was told to, and was left behind")
)

// guard calls the action. One that panics has failed; one that does not return is left behind and has failed for good,
// because nobody knows what it still does.
func (e *Engine) guard(f *flight, a action.Action, call *action.Call) (action.Outcome, error) {
	ctx, cancel := context.WithTimeoutCause(f.ctx, callTime, errTooLong)
	defer cancel()
	type answer struct {
		out action.Outcome
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		var got answer
		defer func() {
			if p := recover(); p != nil {
				ctrl.Log.WithName("workflow").Error(fmt.Errorf("panic: %v", p), "An action panicked", "run", f.session.key, "step", f.step, "stack", string(debug.Stack()))
				got = answer{err: fmt.Errorf("the action panicked, which is an error in the platform: %v", p)}
			}
			answers <- got
		}()
		got.out, got.err = perform(ctx, f.kind, a, call)
	}()
	select {
	case got := <-answers:
		return got.out, tooLong(ctx, got.err)
	case <-ctx.Done():
	}
	patience := time.NewTimer(grace)
	defer patience.Stop()
	select {
	case got := <-answers:
		return got.out, tooLong(ctx, got.err)
	case <-patience.C:
		return action.Outcome{}, action.Failed(errLeftBehind)
	}
}

// tooLong says of a call that was cut off why it was.
func tooLong(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errTooLong) {
		return fmt.Errorf("%w: %w", errTooLong, err)
	}
	return err
}

func perform(ctx context.Context, kind callKind, a action.Action, call *action.Call) (action.Outcome, error) {
	if kind != callStop {
		return a.Run(ctx, call)
	}
	if stopper, ok := a.(action.Stopper); ok {
		return stopper.Stop(ctx, call)
	}
	return action.Done(nil), nil
}

// weigh turns an outcome into what is kept of it, and refuses what is too large.
func (e *Engine) weigh(f *flight, out action.Outcome, err error) result {
	if err != nil {
		return result{err: err}
	}
	r := result{outcome: out}
	if out.Done && f.kind == callRun {
		if r.outputs, err = stepOutputs(f, out.Outputs); err != nil {
			return result{err: action.Failed(err)}
		}
	}
	if !out.Done && out.State != nil {
		if r.state, err = json.Marshal(out.State); err != nil {
			return result{err: action.Failed(fmt.Errorf("steps[%s]: keeping its state: %w", f.step, err))}
		}
		if len(r.state) > action.MaxState {
			return result{err: action.Failed(fmt.Errorf("steps[%s]: its state has %d bytes, more than %d", f.step, len(r.state), action.MaxState))}
		}
	}
	if out.Approval != nil && size(out.Approval) > maxApproval {
		return result{err: action.Failed(fmt.Errorf("steps[%s]: what is to be approved has %d bytes, more than %d", f.step, size(out.Approval), maxApproval))}
	}
	return r
}

func stepOutputs(f *flight, outputs map[string]any) (valueMap, error) {
	values, err := f.graph.StepOutputs(f.step, outputs)
	if err == nil && size(values) > action.MaxOutputs {
		err = fmt.Errorf("steps[%s].outputs: of %d bytes, more than %d", f.step, size(values), action.MaxOutputs)
	}
	if len(values) == 0 {
		values = nil
	}
	return values, err
}
