package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
	"yunfan.io/yunfan/internal/workflow/graph"
)

const (
	// archiveTime is how long the records may take to keep a run, and archiveQueue how long one waits for its turn.
	archiveTime, archiveQueue = 5 * time.Second, time.Second
)

var errBusy = errors.New("the records are busy")

// Reconcile folds what has happened since the last time into one write of the run's status, and has the calls made that
// follow from it.
func (e *Engine) Reconcile(ctx context.Context, r ctrl.Request) (ctrl.Result, error) {
	if err := e.pulse.check(time.Now()); err != nil {
		return ctrl.Result{RequeueAfter: stallPause}, nil //nolint:nilerr // looked at again after the pause
	}
	cached := &v1alpha1.WorkflowRun{}
	if err := e.client.Get(ctx, r.NamespacedName, cached); err != nil {
		if apierrors.IsNotFound(err) {
			e.sessions.drop(r.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if e.settled(cached) {
		e.sessions.drop(r.NamespacedName)
		return ctrl.Result{}, nil
	}
	s := e.sessions.open(cached, time.Now())
	if wait := s.away(time.Now()); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	run := s.fresher(cached)
	if !run.Status.Phase.Finished() && run.DeletionTimestamp.IsZero() {
		// Admission has set it already, unless the hub has no such policy.
		if err := reconcile.AddFinalizer(ctx, e.client, run, v1alpha1.FinalizerRun); err != nil {
			return e.conflicted(ctx, s, run, err)
		}
	}
	if run.Status.Phase.Finished() && !run.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, e.retire(ctx, s, run)
	}
	before := run.DeepCopy()
	t, err := e.prepareTurn(ctx, s, run)
	if err != nil {
		return ctrl.Result{}, err
	}
	var due []attempt
	var next time.Time
	if t.graph != nil {
		due, next = t.advance(ctx)
	}
	var failure error
	if !equality.Semantic.DeepEqual(before.Status, run.Status) {
		failure = e.archive(ctx, run)
		if err := e.write(ctx, s, run); err != nil {
			s.poison(err, t.results)
			return e.conflicted(ctx, s, before, err)
		}
		countSteps(&before.Status, &run.Status)
	}
	s.settle(t)
	e.tell(run, t.notes)
	e.dispatch(s, t.graph, run, due)
	if failure != nil {
		return ctrl.Result{}, fmt.Errorf("keeping run %s in the records: %w", r.NamespacedName, failure)
	}
	if run.Status.Phase.Finished() {
		return ctrl.Result{}, e.retire(ctx, s, run)
	}
	if next.IsZero() {
		return ctrl.Result{}, nil
	}
	return ctrl.Result{RequeueAfter: max(time.Until(next), time.Millisecond)}, nil
}

// settled says whether nothing is left to do for a run.
func (e *Engine) settled(run *v1alpha1.WorkflowRun) bool {
	s := &run.Status
	return s.Phase.Finished() && run.DeletionTimestamp.IsZero() && s.ObservedGeneration == run.Generation && e.archived(run)
}

// prepareTurn begins the run if it has not begun, and gives what its turn needs. Without a graph there is nothing to
// run, and the status says why.
func (e *Engine) prepareTurn(ctx context.Context, s *session, run *v1alpha1.WorkflowRun) (*turn, error) {
	var notes []note
	status, wish := &run.Status, run.Spec.Retry
	anew := wish != nil && wish.Number > status.Retries && !run.Spec.Aborted
	if status.Definition == nil && (status.Phase == "" || anew) {
		if err := e.start(ctx, run); err != nil {
			return nil, err
		}
		if anew {
			status.RetriedBy = retrier(run)
		}
		if status.Definition == nil {
			notes = append(notes, note{warning: true, event: true, reason: "Run" + string(status.Phase), text: status.Message})
		}
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionArchived)
	}
	status.ObservedGeneration = run.Generation
	var g *graph.Graph
	if status.Definition != nil {
		var problems field.ErrorList
		if g, problems = e.graphs.get(status.Definition, true); len(problems) > 0 {
			// It could be run when it began, by a server with other actions.
			g, notes = nil, breakOff(run, "this server cannot go on with it: "+places(problems))
		}
	}
	t := s.turn(run, time.Now(), g)
	t.actions, t.stops, t.holder, t.notes = e.actions, e.stops, e.identity, notes
	return t, nil
}

// breakOff fails a run at once, with every step that was under way.
func breakOff(run *v1alpha1.WorkflowRun, why string) []note {
	if run.Status.Phase.Finished() {
		return nil
	}
	t := &turn{run: run, now: time.Now()}
	for i := range run.Status.Steps {
		if st := &run.Status.Steps[i]; begun(st) {
			st.Phase, st.FinishTime, st.Message, st.State, st.Approval = v1alpha1.StepFailed, t.stamp(), short(why, longestMessage), nil, nil
		}
	}
	t.finish(v1alpha1.RunFailed, why)
	return t.notes
}

// write writes the status, if the run is still as it was read.
func (e *Engine) write(ctx context.Context, s *session, run *v1alpha1.WorkflowRun) error {
	before := time.Now()
	wanted := run.DeepCopy()
	switch err := e.client.Status().Update(ctx, wanted, client.FieldOwner(v1alpha1.FieldOwner)); {
	case apierrors.IsConflict(err):
		statusWrites.WithLabelValues("Conflict").Inc()
		return err
	case err != nil:
		statusWrites.WithLabelValues("Failed").Inc()
		return fmt.Errorf("writing the run's status: %w", err)
	}
	statusWrites.WithLabelValues("Written").Inc()
	*run = *wanted
	s.wrote(run.DeepCopy(), before)
	return nil
}

// conflicted reads a run past the cache that somebody else has written, and looks at it again at once. If that was
// another server that carries it now, this one lets go of it.
func (e *Engine) conflicted(ctx context.Context, s *session, before *v1alpha1.WorkflowRun, err error) (ctrl.Result, error) {
	if apierrors.IsNotFound(err) {
		e.sessions.drop(s.key)
		return ctrl.Result{}, nil
	}
	if !apierrors.IsConflict(err) {
		return ctrl.Result{}, err
	}
	live := &v1alpha1.WorkflowRun{}
	if err := e.reader.Get(ctx, s.key, live); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if before.Status.Holder == e.identity && live.Status.Holder != e.identity || live.UID != s.uid {
		s.lose()
		return ctrl.Result{RequeueAfter: stallPause}, nil
	}
	s.read(live)
	e.queue.add(s.key)
	return ctrl.Result{}, nil
}

// away says for how long the session is still left alone after it was lost, and begins it anew after that.
func (s *session) away(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.lost {
		return 0
	}
	if wait := s.resume.Sub(now); wait > 0 {
		return wait
	}
	s.lost, s.last, s.results, s.confirmed, s.began = false, nil, nil, time.Time{}, time.Time{}
	clear(s.timers)
	return 0
}

// dispatch has calls made, and cancels those that are no longer wanted.
func (e *Engine) dispatch(s *session, g *graph.Graph, run *v1alpha1.WorkflowRun, due []attempt) {
	s.mu.Lock()
	for _, f := range s.flights {
		if a, ok := wanted(stepOf(run, f.step)); !ok || a != f.attempt {
			f.cancel(errNoLonger)
		}
	}
	snapshot := s.last
	if snapshot == nil || snapshot.ResourceVersion != run.ResourceVersion {
		snapshot = run
	}
	var flights []*flight
	for _, a := range due {
		if s.flights[a.step] != nil || s.lost {
			continue
		}
		w := s.timers[a.step]
		f := newFlight(a, s)
		f.graph, f.run, f.repeated, f.began, f.ready = g, snapshot, s.unknown[a.step], w.began, w.ready
		w.ready = time.Time{}
		s.timers[a.step] = w
		s.flights[a.step] = f
		delete(s.woken, a.step)
		flights = append(flights, f)
	}
	s.mu.Unlock()
	for _, f := range flights {
		e.pool.submit(f)
	}
}

// archived says whether the records have the run, as far as there are records.
func (e *Engine) archived(run *v1alpha1.WorkflowRun) bool {
	return e.options.History == nil || meta.IsStatusConditionTrue(run.Status.Conditions, v1alpha1.ConditionArchived)
}

// archive keeps a run that has finished and notes that it did, so that it costs no write of its own. It gives the error
// that the condition tells.
func (e *Engine) archive(ctx context.Context, run *v1alpha1.WorkflowRun) error {
	if !run.Status.Phase.Finished() || e.archived(run) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, archiveTime)
	defer cancel()
	condition := metav1.Condition{
		Type: v1alpha1.ConditionArchived, Status: metav1.ConditionTrue, Reason: "Archived", ObservedGeneration: run.Generation,
	}
	kept := run.DeepCopy()
	meta.SetStatusCondition(&kept.Status.Conditions, condition)
	err := e.keep(ctx, kept)
	if err != nil {
		condition.Status, condition.Reason = metav1.ConditionFalse, v1alpha1.ReasonFailed
		condition.Message = short("the records do not take it, which is tried again: "+err.Error(), longestMessage)
	}
	meta.SetStatusCondition(&run.Status.Conditions, condition)
	return err
}

// keep gives a run to the records when it is its turn.
func (e *Engine) keep(ctx context.Context, run *v1alpha1.WorkflowRun) error {
	turn := time.NewTimer(archiveQueue)
	defer turn.Stop()
	select {
	case e.archives <- struct{}{}:
		defer func() { <-e.archives }()
		return e.options.History.Archive(ctx, run)
	case <-turn.C:
		return errBusy
	case <-ctx.Done():
		return ctx.Err()
	}
}

// retire keeps a finished run in the records, if that failed before, and lets it go if it is deleted.
func (e *Engine) retire(ctx context.Context, s *session, run *v1alpha1.WorkflowRun) error {
	if !e.archived(run) {
		if err := e.archive(ctx, run); err != nil {
			return fmt.Errorf("keeping run %s in the records: %w", s.key, err)
		}
		if err := e.write(ctx, s, run); err != nil {
			_, err = e.conflicted(ctx, s, run, err)
			return err
		}
	}
	if !run.DeletionTimestamp.IsZero() && slices.Contains(run.Finalizers, v1alpha1.FinalizerRun) {
		if err := reconcile.RemoveFinalizer(ctx, e.client, run, v1alpha1.FinalizerRun); err != nil {
			_, err = e.conflicted(ctx, s, run, err)
			return err
		}
	}
	s.mu.Lock()
	busy := len(s.flights) > 0
	s.mu.Unlock()
	if !busy {
		e.sessions.drop(s.key)
	}
	return nil
}
