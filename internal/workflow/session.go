package workflow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/workflow/graph"
)

// session is what this server knows of a run that it carries, beyond the run itself. It is dropped when the run has
// finished.
type session struct {
	key types.NamespacedName
	uid types.UID

	mu sync.Mutex
	// last is the run as this server wrote or read it last past the cache. It is never changed.
	last *v1alpha1.WorkflowRun
	// confirmed is when the hub last said that this server carries the run.
	confirmed time.Time
	// seen is when the session began, and began when the run did or was last retried, by the monotonic clock.
	seen, began time.Time
	timers      map[string]timer
	// results are answers that are in no status yet, in the order in which they came.
	results []result
	flights map[string]*flight
	// woken steps are to be called at once. Unknown are those of which a call may have had its effect without an answer.
	woken, unknown map[string]bool
	// lost says that another server carries the run, or it is gone: nothing more is called. At resume this server may ask
	// again, should it still be the leader by then.
	lost   bool
	resume time.Time
}

// sessions by the name of their run.
type sessions struct {
	mu  sync.Mutex
	all map[types.NamespacedName]*session
}

func (l *sessions) get(key types.NamespacedName) *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all[key]
}

// open gives the run's session. One of an earlier run of the same name ends.
func (l *sessions) open(run *v1alpha1.WorkflowRun, now time.Time) *session {
	key := client.ObjectKeyFromObject(run)
	l.mu.Lock()
	s := l.all[key]
	if s != nil && s.uid == run.UID {
		l.mu.Unlock()
		return s
	}
	fresh := &session{
		key: key, uid: run.UID, seen: now,
		timers: map[string]timer{}, flights: map[string]*flight{}, woken: map[string]bool{}, unknown: map[string]bool{},
	}
	l.all[key] = fresh
	l.mu.Unlock()
	if s != nil {
		s.lose()
	}
	return fresh
}

// drop ends a session. Calls under way are canceled.
func (l *sessions) drop(key types.NamespacedName) {
	l.mu.Lock()
	s := l.all[key]
	delete(l.all, key)
	l.mu.Unlock()
	if s != nil {
		s.lose()
	}
}

// lose stops everything that is done for the run here.
func (s *session) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost, s.resume = true, time.Now().Add(stallPause)
	for _, f := range s.flights {
		f.cancel(errLost)
	}
}

var (
	errLost     = errors.New("another server carries the run, or it is gone")
	errNoLonger = errors.New("the attempt is ended")
)

// fresher gives the newer of what the cache has and what was written or read last.
func (s *session) fresher(cached *v1alpha1.WorkflowRun) *v1alpha1.WorkflowRun {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		return cached
	}
	if order, err := resourceversion.CompareResourceVersion(s.last.ResourceVersion, cached.ResourceVersion); err != nil || order < 0 {
		return cached
	}
	return s.last.DeepCopy()
}

// wrote takes what the hub answered to a write.
func (s *session) wrote(run *v1alpha1.WorkflowRun, before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.confirmed = run, before
}

// read takes what was read past the cache.
func (s *session) read(run *v1alpha1.WorkflowRun) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = run
}

func (s *session) wake(step string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.woken[step] = true
}

// turn gives what a turn needs of the session. Its maps are copies: nothing counts before the status is written.
func (s *session) turn(run *v1alpha1.WorkflowRun, now time.Time, g *graph.Graph) *turn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.began.IsZero() {
		since := run.Status.StartTime
		if run.Status.RetryTime != nil {
			since = run.Status.RetryTime
		}
		s.began = now
		if since != nil {
			s.began = now.Add(-max(now.Sub(since.Time), 0))
		}
	}
	t := &turn{
		graph: g, run: run, now: now, began: s.began, timers: maps.Clone(s.timers),
		results: slices.Clip(s.results), flying: map[string]bool{}, woken: maps.Clone(s.woken),
	}
	for step := range s.flights {
		t.flying[step] = true
	}
	for i := range run.Status.Steps { // begun elsewhere, or by a write that was never answered
		if st := &run.Status.Steps[i]; begun(st) && !backingOff(st) {
			if _, known := s.timers[st.Name]; !known {
				s.unknown[st.Name] = true
			}
		}
	}
	for step := range t.woken {
		if w, ok := t.timers[step]; ok && !backingOff(stepOf(run, step)) {
			w.due = now
			t.timers[step] = w
		}
	}
	return t
}

// settle takes over what a turn has made, when its status is written.
func (s *session) settle(t *turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timers, s.began = t.timers, t.began
	for _, r := range t.results {
		if r.canceled {
			s.unknown[r.step] = true
		} else {
			delete(s.unknown, r.step)
		}
	}
	s.results = append([]result(nil), s.results[len(t.results):]...)
}

// poison turns answers into failures that the hub does not take: it would never take them, and the run would stand still.
func (s *session) poison(err error, results []result) {
	if !apierrors.IsInvalid(err) && !apierrors.IsRequestEntityTooLargeError(err) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range results {
		r := &s.results[i]
		*r = result{attempt: r.attempt, at: r.at, canceled: r.canceled,
			err: action.Failed(fmt.Errorf("the hub does not take what the action gave: %s", short(err.Error(), longestMessage/2)))}
	}
}

func stepOf(run *v1alpha1.WorkflowRun, name string) *v1alpha1.StepStatus {
	for i := range run.Status.Steps {
		if run.Status.Steps[i].Name == name {
			return &run.Status.Steps[i]
		}
	}
	return &v1alpha1.StepStatus{}
}

const (
	// confirmTime is how long the hub's word counts that this server carries a run.
	confirmTime = 2 * time.Second
	// hubTime is how long the hub may take to say so.
	hubTime = 10 * time.Second
)

// fence asks the hub whether this server still carries the run and the attempt is still to be made, unless it said so a
// moment ago.
func (e *Engine) fence(ctx context.Context, s *session, a attempt) error {
	if err := e.pulse.check(time.Now()); err != nil {
		return err
	}
	s.mu.Lock()
	lost, confirmed := s.lost, s.confirmed
	s.mu.Unlock()
	if lost {
		return errLost
	}
	now := time.Now()
	// By both clocks: one stands still when the machine sleeps, the other may be set back.
	if elapsed := now.Sub(confirmed); elapsed < confirmTime && now.Round(0).Sub(confirmed.Round(0)).Abs() < confirmTime {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, hubTime)
	defer cancel()
	live := &v1alpha1.WorkflowRun{}
	if err := e.reader.Get(ctx, s.key, live); err != nil {
		return fmt.Errorf("asking the hub whether this server still carries the run: %w", err)
	}
	if live.UID != s.uid || live.Status.Holder != e.identity {
		s.lose()
		e.queue.add(s.key)
		return errLost
	}
	if w, ok := wanted(stepOf(live, a.step)); !ok || w != a {
		return errNoLonger
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.confirmed = now
	return nil
}
