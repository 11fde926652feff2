package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/workflow/graph"
)

// sim plays a run through turns without a server: what happens is told in words, and where the run is after it.
type sim struct {
	t      *testing.T
	run    *v1alpha1.WorkflowRun
	graph  *graph.Graph
	now    time.Time
	began  time.Time
	timers map[string]timer
	flying map[string]attempt
	due    []attempt
	next   time.Time
}

var descriptions = map[string]action.Description{
	"do":   {Name: "do", Inputs: []action.Field{{Name: "x", Type: v1alpha1.TypeString}}, Outputs: []action.Field{{Name: "x", Type: v1alpha1.TypeString}}},
	"job":  {Name: "job", Timeout: time.Minute},
	"wait": {Name: "wait", Timeout: action.NoTimeout},
}

func play(t *testing.T, definition string) *sim {
	t.Helper()
	spec := &v1alpha1.WorkflowSpec{}
	if err := yaml.UnmarshalStrict([]byte(definition), spec); err != nil {
		t.Fatal(err)
	}
	g, problems := graph.Check(spec, descriptions, false)
	if len(problems) > 0 {
		t.Fatal(problems.ToAggregate())
	}
	inputs, problems := g.Inputs(nil)
	if len(problems) > 0 {
		t.Fatal(problems.ToAggregate())
	}
	s := &sim{t: t, graph: g, now: time.Now(), timers: map[string]timer{}, flying: map[string]attempt{}}
	s.began = s.now
	s.run = &v1alpha1.WorkflowRun{Spec: v1alpha1.WorkflowRunSpec{User: &v1alpha1.Actor{Name: "yunfan:li"}}}
	s.run.Name, s.run.Namespace, s.run.UID = "run", "edu", "42"
	s.run.Status = v1alpha1.WorkflowRunStatus{Definition: spec, Inputs: inputs, Phase: v1alpha1.RunPending}
	for i := range spec.Steps {
		s.run.Status.Steps = append(s.run.Status.Steps, v1alpha1.StepStatus{Name: spec.Steps[i].Name, Phase: v1alpha1.StepPending})
	}
	s.turn()
	return s
}

// turn makes a turn; what is due is called at once.
func (s *sim) turn(results ...result) {
	t := &turn{
		graph: s.graph, actions: descriptions, stops: map[string]bool{"job": true}, run: s.run, holder: "me", now: s.now,
		began: s.began, timers: s.timers, results: results, flying: map[string]bool{}, woken: map[string]bool{},
	}
	for step := range s.flying {
		t.flying[step] = true
	}
	s.due, s.next = t.advance(context.Background())
	s.began = t.began
	for step, a := range s.flying { // the engine cancels what is no longer wanted
		if now, ok := wanted(stepOf(s.run, step)); !ok || now != a {
			delete(s.flying, step)
			s.due = nil
			s.turn(result{attempt: a, canceled: true})
			return
		}
	}
	for _, a := range s.due {
		s.flying[a.step] = a
	}
}

// answer lets the call of a step that is under way answer.
func (s *sim) answer(step string, r result) {
	s.t.Helper()
	a, ok := s.flying[step]
	if !ok {
		s.t.Fatalf("no call of %s is under way: %s", step, s.where())
	}
	delete(s.flying, step)
	r.attempt, r.at = a, s.now
	s.turn(r)
}

// happen makes one thing happen.
func (s *sim) happen(what string) {
	s.t.Helper()
	verb, object, _ := strings.Cut(what, " ")
	switch verb {
	case "ok":
		s.answer(object, result{outcome: action.Done(nil), outputs: valueMap{"x": rawValue(`"` + object + `"`)}})
	case "fail":
		s.answer(object, result{err: errors.New("no")})
	case "fatal":
		s.answer(object, result{err: action.Failed(errors.New("never"))})
	case "again":
		s.answer(object, result{outcome: action.Again(time.Minute, "soon")})
	case "ask":
		s.answer(object, result{outcome: action.Outcome{Again: time.Hour, Approval: &v1alpha1.ApprovalWanted{Digest: "d"}}})
	case "tick":
		d, err := time.ParseDuration(object)
		if err != nil {
			s.t.Fatal(err)
		}
		s.now = s.now.Add(d)
		s.turn()
	case "jump": // the wall clock is changed: what stands in the status is further away or nearer, what is timed is not
		d, err := time.ParseDuration(object)
		if err != nil {
			s.t.Fatal(err)
		}
		for i := range s.run.Status.Steps {
			st := &s.run.Status.Steps[i]
			for _, at := range []**metav1.MicroTime{&st.StartTime, &st.FinishTime, &st.NextTime} {
				if *at != nil {
					moved := metav1.NewMicroTime((*at).Add(-d))
					*at = &moved
				}
			}
		}
		s.turn()
	case "restart":
		clear(s.timers)
		clear(s.flying)
		s.turn()
	case "pause", "resume":
		s.run.Spec.Paused = verb == "pause"
		s.turn()
	case "abort":
		s.run.Spec.Aborted = true
		s.turn()
	case "delete":
		s.run.DeletionTimestamp = &metav1.Time{Time: s.now}
		s.turn()
	case "retry":
		s.run.Spec.Aborted, s.run.Spec.ChangedBy = false, &v1alpha1.Actor{Name: "yunfan:zhao", Groups: []string{"yunfan:tenant:edu:admin", "yunfan:tenant:other:admin"}}
		s.run.Spec.Retry = &v1alpha1.RunRetry{Number: s.run.Status.Retries + 1, From: object}
		s.turn()
	default:
		s.t.Fatalf("nobody knows what %q is", what)
	}
}

// where says where the run and its steps are, and which calls are under way other than Run's.
func (s *sim) where() string {
	letters := map[v1alpha1.StepPhase]string{
		v1alpha1.StepPending: "-", v1alpha1.StepRunning: "run", v1alpha1.StepWaiting: "wait", v1alpha1.StepSucceeded: "ok", v1alpha1.StepFailed: "failed",
		v1alpha1.StepSkipped: "skipped", v1alpha1.StepAborted: "aborted", v1alpha1.StepCompensating: "undoing", v1alpha1.StepCompensated: "undone",
	}
	words := []string{string(s.run.Status.Phase)}
	for i := range s.run.Status.Steps {
		st := &s.run.Status.Steps[i]
		word := st.Name + "=" + letters[st.Phase]
		if st.Attempt > 1 {
			word += fmt.Sprint(st.Attempt)
		}
		if a, ok := s.flying[st.Name]; ok && a.kind != callRun {
			word += "!" + string(a.kind)
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

const diamond = `
steps:
- {name: a, action: do}
- {name: b, action: do, needs: [a]}
- {name: c, action: do, needs: [a], when: "steps.a.outputs.x == 'other'"}
- {name: d, action: do, needs: [c]}
- {name: e, action: do, needs: [b, d]}
`

var turns = map[string]struct {
	reason, definition string
	// What happens, and where the run is then, by turns; the first is where it is at the beginning.
	script []string
}{
	"Branches": {"what is skipped skips what needs nothing else", diamond, []string{
		"Running a=run b=- c=- d=- e=-",
		"ok a", "Running a=ok b=run c=skipped d=skipped e=-",
		"ok b", "Running a=ok b=ok c=skipped d=skipped e=run",
		"ok e", "Succeeded a=ok b=ok c=skipped d=skipped e=ok",
	}},
	"Parallel": {"branches do not wait for each other", `steps: [{name: a, action: do}, {name: b, action: do}, {name: c, action: do, needs: [a]}]`, []string{
		"Running a=run b=run c=-",
		"ok a", "Running a=ok b=run c=run",
		"ok c", "Running a=ok b=run c=ok",
		"ok b", "Succeeded a=ok b=ok c=ok",
	}},
	"WhenOfSkipped": {"a condition decides also where all needs were skipped", `steps: [{name: a, action: do, when: "false"}, {name: b, action: do, needs: [a], when: "steps.a.phase == 'Skipped'"}]`, []string{
		"Running a=skipped b=run",
		"ok b", "Succeeded a=skipped b=ok",
	}},
	"FailureStops": {"running steps finish, nothing new begins", `steps: [{name: a, action: do}, {name: b, action: do}, {name: c, action: do, needs: [b]}]`, []string{
		"Running a=run b=run c=-",
		"fail a", "Running a=failed b=run c=-",
		"ok b", "Failed a=failed b=ok c=-",
	}},
	"Continue": {"a failure that may be goes on", `steps: [{name: a, action: do, onFailure: Continue}, {name: b, action: do, needs: [a], when: "steps.a.phase == 'Failed'"}]`, []string{
		"Running a=run b=-",
		"fatal a", "Running a=failed b=run",
		"ok b", "Succeeded a=failed b=ok",
	}},
	"Retries": {"pauses double up to the longest; then it has failed", `steps: [{name: a, action: do, retry: {limit: 3, interval: 1s, maxInterval: 2s}}]`, []string{
		"Running a=run",
		"fail a", "Waiting a=wait", "tick 900ms", "Waiting a=wait", "tick 100ms", "Running a=run2",
		"fail a", "Waiting a=wait2", "tick 1900ms", "Waiting a=wait2", "tick 100ms", "Running a=run3",
		"fail a", "Waiting a=wait3", "tick 2s", "Running a=run4",
		"fail a", "Failed a=failed4",
	}},
	"Fatal": {"what trying again does not mend is not tried again", `steps: [{name: a, action: do, retry: {limit: 3}}]`, []string{
		"Running a=run", "fatal a", "Failed a=failed",
	}},
	"Pause": {"what runs finishes, also a retry waits", `steps: [{name: a, action: do, retry: {limit: 1}}, {name: b, action: do, needs: [a]}]`, []string{
		"Running a=run b=-",
		"pause", "Running a=run b=-",
		"fail a", "Paused a=wait b=-",
		"tick 1h", "Paused a=wait b=-",
		"resume", "Running a=run2 b=-",
		"pause", "Running a=run2 b=-",
		"ok a", "Paused a=ok2 b=-",
		"resume", "Running a=ok2 b=run",
	}},
	"Waiting": {"a run whose steps only wait waits", `steps: [{name: a, action: wait}]`, []string{
		"Running a=run", "ask a", "Waiting a=wait", "tick 100h", "Waiting a=wait", "ok a", "Succeeded a=ok",
	}},
	"Abort": {"what runs is ended first, then what was done is undone, the latest first", `
steps:
- {name: a, action: do, compensate: {action: do}}
- {name: b, action: do, compensate: {action: do}}
- {name: c, action: do}
- {name: d, action: job, needs: [a, b]}`, []string{
		"Running a=run b=run c=run d=-",
		"tick 1s", "Running a=run b=run c=run d=-",
		"ok b", "Running a=run b=ok c=run d=-",
		"tick 1s", "Running a=run b=ok c=run d=-",
		"ok a", "Running a=ok b=ok c=run d=run",
		"again c", "Running a=ok b=ok c=run d=run", // no call of it is under way: there is nothing to end
		"abort", "Compensating a=ok b=ok c=aborted d=run!stop",
		"again d", "Compensating a=ok b=ok c=aborted d=run",
		"tick 1m", "Compensating a=ok b=ok c=aborted d=run!stop",
		"ok d", "Compensating a=undoing!undo b=ok c=aborted d=aborted",
		"again a", "Compensating a=undoing b=ok c=aborted d=aborted",
		"tick 1m", "Compensating a=undoing!undo b=ok c=aborted d=aborted",
		"ok a", "Compensating a=undone b=undoing!undo c=aborted d=aborted",
		"ok b", "Aborted a=undone b=undone c=aborted d=aborted",
		"retry", "Running a=run2 b=run2 c=run2 d=-",
	}},
	"UndoFails": {"undoing is tried again, and given up at last; the others are undone all the same", `
steps:
- {name: a, action: do, compensate: {action: do}}
- {name: b, action: do, needs: [a], compensate: {action: do}}
- {name: c, action: do, needs: [b]}`, []string{
		"Running a=run b=- c=-", "ok a", "Running a=ok b=run c=-", "ok b", "Running a=ok b=ok c=run",
		"abort", "Compensating a=ok b=ok c=run!stop", "ok c", "Compensating a=ok b=undoing!undo c=aborted",
		"fail b", "Compensating a=ok b=undoing c=aborted", "tick 1s", "Compensating a=ok b=undoing!undo c=aborted",
		"fatal b", "Compensating a=undoing!undo b=failed c=aborted",
		"ok a", "Aborted a=undone b=failed c=aborted",
	}},
	"AbortFailed": {"a failed run can still be undone", `steps: [{name: a, action: do, compensate: {action: do}}, {name: b, action: do, needs: [a]}]`, []string{
		"Running a=run b=-", "ok a", "Running a=ok b=run", "fail b", "Failed a=ok b=failed",
		"abort", "Compensating a=undoing!undo b=failed", "ok a", "Aborted a=undone b=failed",
	}},
	"AbortSucceeded": {"what has succeeded stays", `steps: [{name: a, action: do, compensate: {action: do}}]`, []string{
		"Running a=run", "ok a", "Succeeded a=ok", "abort", "Succeeded a=ok", "retry", "Succeeded a=ok",
	}},
	"Compensate": {"a failure undoes if the workflow says so", `{onFailure: Compensate, steps: [{name: a, action: do, compensate: {action: do}}, {name: b, action: do, needs: [a]}, {name: c, action: job}]}`, []string{
		"Running a=run b=- c=run", "ok a", "Running a=ok b=run c=run",
		"fail b", "Compensating a=ok b=failed c=run!stop", "ok c", "Compensating a=undoing!undo b=failed c=aborted", "ok a", "Failed a=undone b=failed c=aborted",
	}},
	"Delete": {"a run that is deleted is aborted", `steps: [{name: a, action: do, compensate: {action: do}}, {name: b, action: do, needs: [a]}]`, []string{
		"Running a=run b=-", "ok a", "Running a=ok b=run", "delete", "Compensating a=ok b=run!stop", "ok b", "Compensating a=undoing!undo b=aborted", "ok a", "Aborted a=undone b=aborted",
		"retry", "Aborted a=undone b=aborted",
	}},
	"RetryFrom": {"a step and what comes after it, and what failed", diamond, []string{
		"Running a=run b=- c=- d=- e=-", "ok a", "Running a=ok b=run c=skipped d=skipped e=-", "fail b", "Failed a=ok b=failed c=skipped d=skipped e=-",
		"retry nowhere", "Failed a=ok b=failed c=skipped d=skipped e=-",
		"retry e", "Failed a=ok b=failed c=skipped d=skipped e=-",
		"retry", "Running a=ok b=run2 c=skipped d=skipped e=-", "fail b", "Failed a=ok b=failed2 c=skipped d=skipped e=-",
		"retry a", "Running a=run2 b=-2 c=- d=- e=-",
	}},
	"RetryWaits": {"for the run to finish", `steps: [{name: a, action: do}, {name: b, action: do}]`, []string{
		"Running a=run b=run", "fail a", "Running a=failed b=run", "retry", "Running a=failed b=run", "ok b", "Failed a=failed b=ok", "tick 0s", "Running a=run2 b=ok",
	}},
	"StepTimeout": {"an attempt that takes too long is ended, told to stop, and has failed", `steps: [{name: a, action: job, retry: {limit: 1}}]`, []string{
		"Running a=run", "tick 59s", "Running a=run", "tick 1s", "Running a=run!stop", "ok a", "Waiting a=wait", "tick 1s", "Running a=run2",
		"again a", "Running a=run2", "tick 1m", "Running a=run2!stop", "ok a", "Failed a=failed2",
	}},
	"StopNeverEnds": {"it is given up after a while, and not tried again", `steps: [{name: a, action: job, retry: {limit: 1}}]`, []string{
		"Running a=run", "tick 1m", "Running a=run!stop", "again a", "Running a=run", "tick 1m", "Running a=run!stop", "again a", "Running a=run",
		"tick 1m", "Failed a=failed",
	}},
	"RunTimeout": {"of the whole run, from its last retry", `{timeout: 1h, steps: [{name: a, action: wait}]}`, []string{
		"Running a=run", "tick 59m", "Running a=run", "again a", "Running a=run", "tick 1m", "Failed a=aborted",
		"retry", "Running a=run2", "tick 59m", "Running a=run2", "again a", "Running a=run2", "tick 1m", "Failed a=aborted2",
	}},
	"ClockForward": {"what is timed here does not care for the wall clock", `steps: [{name: a, action: job, retry: {limit: 1}}]`, []string{
		"Running a=run", "jump 1000h", "Running a=run", "fail a", "Waiting a=wait", "jump 1000h", "Waiting a=wait", "tick 1s", "Running a=run2",
	}},
	"ClockBack": {"nor when it goes back", `steps: [{name: a, action: job, retry: {limit: 1}}, {name: b, action: do, needs: [a]}]`, []string{
		"Running a=run b=-", "jump -1000h", "Running a=run b=-", "fail a", "Waiting a=wait b=-", "jump -1000h", "Waiting a=wait b=-", "tick 1s", "Running a=run2 b=-", "ok a", "Running a=ok2 b=run",
	}},
	"Restart": {"another server goes on where it was", `steps: [{name: a, action: job, retry: {limit: 1, interval: 1m}}, {name: b, action: wait}]`, []string{
		"Running a=run b=run", "tick 30s", "Running a=run b=run", "restart", "Running a=run b=run", "tick 30s", "Running a=run!stop b=run",
		"restart", "Running a=run!stop b=run", "ok a", "Running a=wait b=run", "tick 30s", "Running a=wait b=run", "restart", "Running a=wait b=run", "tick 31s", "Running a=run2 b=run",
	}},
}

func TestOPS10_Turns(t *testing.T) {
	for name, tc := range turns {
		t.Run(name, func(t *testing.T) {
			s := play(t, tc.definition)
			if got := s.where(); got != tc.script[0] {
				t.Fatalf("%s: it begins with\n%s, want\n%s", tc.reason, got, tc.script[0])
			}
			for i := 1; i+1 < len(tc.script); i += 2 {
				s.happen(tc.script[i])
				if got := s.where(); got != tc.script[i+1] {
					t.Fatalf("%s: after %q (%d)\n%s (%s), want\n%s", tc.reason, tc.script[i], i, got, s.run.Status.Message, tc.script[i+1])
				}
			}
		})
	}
}

func TestRetryIsDoneForWhoRetried(t *testing.T) {
	s := play(t, `steps: [{name: a, action: do}, {name: b, action: do, needs: [a]}, {name: c, action: do, needs: [b]}]`)
	for _, what := range []string{"ok a", "fail b", "retry"} {
		s.happen(what)
	}
	a, b := stepOf(s.run, "a"), stepOf(s.run, "b")
	if a.Actor != "yunfan:li" || b.Actor != "yunfan:zhao" {
		t.Errorf("actors %s and %s", a.Actor, b.Actor)
	}
	who := actor(s.run, b)
	if who.Name != "yunfan:zhao" || !slices.Equal(who.Groups, []string{"yunfan:tenant:edu:admin"}) {
		t.Errorf("it is done for %+v", who)
	}
	s.run.Spec.ChangedBy = &v1alpha1.Actor{Name: "yunfan:qian"} // who pauses does not change that
	if who := actor(s.run, b); who.Name != "yunfan:zhao" || actor(s.run, a).Name != "yunfan:li" {
		t.Errorf("it is done for %+v", who)
	}
}

func TestKeys(t *testing.T) {
	run := &v1alpha1.WorkflowRun{}
	run.UID = "42"
	seen := map[string]attempt{}
	for _, a := range []attempt{
		{"a", callRun, 1, 0}, {"a", callRun, 2, 0}, {"a", callUndo, 1, 1}, {"a", callUndo, 1, 2}, {"b", callRun, 1, 0},
		{"a-very-long-name-of-a-step-that-goes-on-and-on-up-to-63-letters", callRun, 1, 0},
	} {
		key := callKey(run, a)
		if other, ok := seen[key]; ok {
			t.Errorf("%+v and %+v have one key", a, other)
		}
		seen[key] = a
		if len(key) > 63 || strings.ContainsAny(key, "_./") || key != callKey(run, a) {
			t.Errorf("key %s", key)
		}
	}
	if callKey(run, attempt{"a", callRun, 1, 0}) != callKey(run, attempt{"a", callStop, 1, 0}) {
		t.Error("what is stopped cannot be recognised")
	}
}

func TestPulse(t *testing.T) {
	p, at := &pulse{}, time.Now()
	for _, tc := range []struct {
		after time.Duration
		fine  bool
	}{{0, true}, {3 * time.Second, true}, {5 * time.Second, false}, {3 * time.Second, false}, {3 * time.Second, false}, {3 * time.Second, false}, {3 * time.Second, true}} {
		at = at.Add(tc.after)
		if err := p.check(at); (err == nil) != tc.fine {
			t.Errorf("after %s more: %v", tc.after, err)
		}
	}
}

func TestStatusStaysSmall(t *testing.T) {
	var d strings.Builder
	d.WriteString("steps:\n")
	for i := range 200 {
		fmt.Fprintf(&d, "- {name: s%d, action: do, onFailure: Continue}\n", i)
	}
	s := play(t, d.String())
	for i := range 200 {
		name := fmt.Sprintf("s%d", i)
		if i%2 == 0 {
			s.answer(name, result{outcome: action.Done(nil), outputs: valueMap{"x": rawValue(`"` + strings.Repeat("x", 4<<10) + `"`)}})
		} else {
			s.answer(name, result{err: errors.New(strings.Repeat("long ", 1000))})
		}
		if n := size(&s.run.Status); n > maxStatus {
			t.Fatalf("after %d steps the status has %d bytes", i+1, n)
		}
	}
	if s.run.Status.Phase != v1alpha1.RunSucceeded {
		t.Errorf("the run is %s: %s", s.run.Status.Phase, s.run.Status.Message)
	}
}
