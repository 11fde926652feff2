package request

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

const (
	finalizer = "yunfan.io/resource-request"
	// migrateTimeout is how long the records may take to get the ledger's table.
	migrateTimeout = time.Minute
	// workflowInterval is how often a workflow that cannot be run is looked at again.
	workflowInterval = 30 * time.Second
	// atOnce is how many requests are followed at once.
	atOnce = 4
)

// SetupWithManager makes the ledger's table, and registers the controller and the webhook.
func (r *Requests) SetupWithManager(mgr manager.Manager) error {
	ctx, cancel := context.WithTimeout(context.Background(), migrateTimeout)
	defer cancel()
	if err := r.ledger.Migrate(ctx); err != nil {
		return err
	}
	if err := mgr.Add(&keeper{r}); err != nil {
		return fmt.Errorf("adding the keeper of the workflow of requests: %w", err)
	}
	mgr.GetWebhookServer().Register(WebhookPath, r.webhook(mgr))
	return ctrl.NewControllerManagedBy(mgr).
		Named("resourcerequest").
		For(&v1alpha1.ResourceRequest{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Owns(&v1alpha1.WorkflowRun{}).
		Watches(&v1alpha1.Partition{}, handler.EnqueueRequestsFromMapFunc(r.ofPartition), builder.WithPredicates(onlyDeleted)).
		WithOptions(controller.Options{MaxConcurrentReconciles: atOnce}).
		Complete(r)
}

var onlyDeleted = predicate.Funcs{
	CreateFunc: func(event.CreateEvent) bool { return false },
	UpdateFunc: func(event.UpdateEvent) bool { return false },
}

func (r *Requests) ofPartition(ctx context.Context, p client.Object) []ctrl.Request {
	var all v1alpha1.ResourceRequestList
	if err := r.client.List(ctx, &all, client.InNamespace(p.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
		return nil // only when the cache ends
	}
	var requests []ctrl.Request
	for i := range all.Items {
		if req := &all.Items[i]; req.Spec.Wanted.Partition == p.GetName() {
			requests = append(requests, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(req)})
		}
	}
	return requests
}

// Reconcile brings one ResourceRequest's status to what its run has done.
func (r *Requests) Reconcile(ctx context.Context, key ctrl.Request) (ctrl.Result, error) {
	req := &v1alpha1.ResourceRequest{}
	if err := r.client.Get(ctx, key.NamespacedName, req); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !req.DeletionTimestamp.IsZero() {
		return reconcile.Finalize(ctx, r.client, req, v1alpha1.ConditionReady, finalizer, r.endRun, r.takeBackAll, r.noteDeletion)
	}
	if req.Status.Phase.Finished() {
		return ctrl.Result{}, nil
	}
	return reconcile.Run(ctx, r.client, req, v1alpha1.ConditionReady, string(v1alpha1.RequestActive), r.hold, r.carry, r.follow, r.outcome, r.goOn, usable)
}

func (r *Requests) hold(ctx context.Context, req *v1alpha1.ResourceRequest) error {
	return reconcile.AddFinalizer(ctx, r.client, req, finalizer)
}

// usable is the last step: only what is active can be used.
func usable(_ context.Context, req *v1alpha1.ResourceRequest) error {
	if req.Status.Phase == v1alpha1.RequestActive {
		return nil
	}
	return reconcile.Wait(string(req.Status.Phase), 0, "%s", cmp.Or(req.Status.Message, "the request is "+string(req.Status.Phase)))
}

// run reads the run of a request; nil if it has none, or it is gone.
func (r *Requests) run(ctx context.Context, req *v1alpha1.ResourceRequest) (*v1alpha1.WorkflowRun, error) {
	if req.Status.Run == "" {
		return nil, nil
	}
	run := &v1alpha1.WorkflowRun{}
	key := client.ObjectKey{Namespace: req.Namespace, Name: req.Status.Run}
	err := r.client.Get(ctx, key, run)
	if apierrors.IsNotFound(err) { // the cache may not have seen it yet
		err = r.reader.Get(ctx, key, run)
	}
	if apierrors.IsNotFound(err) || err == nil && !metav1.IsControlledBy(run, req) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading run %s: %w", key.Name, err)
	}
	return run, nil
}

// follow takes what the run has done into the status, the ledger and messages.
func (r *Requests) follow(ctx context.Context, req *v1alpha1.ResourceRequest) error {
	run, err := r.run(ctx, req)
	if err != nil {
		return err
	}
	s := stateOf(req, run)
	if run != nil {
		if err := r.steer(ctx, req, run, s); err != nil {
			return err
		}
	}
	req.Status.Message = s.message
	if s.granted != nil {
		req.Status.Granted = s.granted
	}
	if len(s.by) > 0 {
		req.Status.By, req.Status.Comment = s.by, s.comment
	}
	for _, e := range s.events {
		if err := r.enter(ctx, req, s, e); err != nil {
			return err
		}
	}
	return nil
}

// enter brings a request to a phase, once: the ledger and messages first, for the status is what says that it was done.
func (r *Requests) enter(ctx context.Context, req *v1alpha1.ResourceRequest, s *state, e occurrence) error {
	const most = 20
	at := metav1.Time{Time: e.at.UTC().Truncate(time.Second)}
	known := slices.ContainsFunc(req.Status.History, func(h v1alpha1.RequestPhaseTime) bool { return h.Phase == e.phase && h.Time.Equal(&at) })
	n := len(req.Status.History)
	// Times come from several clocks and are compared only where the oldest phases are not known any more.
	if known || n >= most && at.Before(&req.Status.History[n-1].Time) {
		return nil
	}
	req.Status.Phase = e.phase
	key := string(e.phase) + ":" + timeText(&at)
	row := r.row(req, string(e.phase), key, e.actor)
	row.Time = e.at.Time
	if s.asked != nil {
		row.Asked = s.asked
	}
	switch e.phase {
	case v1alpha1.RequestApplied:
		row.Comment = req.Spec.Form.Purpose
	case v1alpha1.RequestApproved, v1alpha1.RequestRejected:
		row.Evidence, row.Comment = s.evidence, req.Status.Comment
	case v1alpha1.RequestFailed, v1alpha1.RequestWithdrawn, v1alpha1.RequestReturned, v1alpha1.RequestExpired, v1alpha1.RequestActive, v1alpha1.RequestAllocated:
		row.Comment = s.message
	}
	switch e.phase { // nothing was given yet, or nothing any more
	case v1alpha1.RequestApplied, v1alpha1.RequestApproved, v1alpha1.RequestRejected, v1alpha1.RequestFailed, v1alpha1.RequestWithdrawn:
		row.Granted, row.GrantedUntil = nil, nil
	case v1alpha1.RequestAllocated, v1alpha1.RequestActive, v1alpha1.RequestExpired, v1alpha1.RequestReturned:
	}
	if err := r.ledger.Add(ctx, row); err != nil {
		return err
	}
	if err := r.tell(ctx, req, ofPhase[e.phase], strings.ToLower(key), s.message); err != nil {
		return err
	}
	req.Status.History = append(req.Status.History, v1alpha1.RequestPhaseTime{Phase: e.phase, Time: at})
	if extra := len(req.Status.History) - most; extra > 0 {
		req.Status.History = slices.Delete(req.Status.History, 1, 1+extra)
	}
	return nil
}

// steer aborts the run of a request that was withdrawn in time, and lets nobody but the platform's administrators hold up
// the end of a term.
func (r *Requests) steer(ctx context.Context, req *v1alpha1.ResourceRequest, run *v1alpha1.WorkflowRun, s *state) error {
	after := run.DeepCopy()
	begun := slices.ContainsFunc(stepsOf(run)["request.allocate"], func(c carried) bool { return c.StartTime != nil })
	switch {
	case run.Status.Phase.Finished():
		return nil
	case req.Spec.Withdrawn && !begun && !wasActive(req):
		after.Spec.Aborted, after.Spec.Reason = true, "the applicant has withdrawn the request"
	case run.Spec.Paused && (s.granted != nil || wasActive(req)) && tenants(run.Spec.ChangedBy):
		after.Spec.Paused, after.Spec.Reason = false, "a term goes on: only a platform administrator may hold it up"
	}
	if after.Spec.Aborted == run.Spec.Aborted && after.Spec.Paused == run.Spec.Paused {
		return nil
	}
	if err := r.client.Patch(ctx, after, client.MergeFromWithOptions(run, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("steering run %s: %w", run.Name, err)
	}
	return nil
}

// tenants says whether an actor is a user of the platform who does not administer it.
func tenants(a *v1alpha1.Actor) bool {
	return a != nil && strings.HasPrefix(a.Name, v1alpha1.UserPrefix) && !slices.Contains(a.Groups, v1alpha1.GroupPlatformAdmin)
}

// outcome ends a request whose run has come to nothing. First whatever was given for it is taken back.
func (r *Requests) outcome(ctx context.Context, req *v1alpha1.ResourceRequest) error {
	run, err := r.run(ctx, req)
	if err != nil || wasActive(req) || req.Status.Phase.Finished() {
		return err
	}
	if run != nil && !run.Status.Phase.Finished() {
		return nil
	}
	if run != nil && run.Status.Phase == v1alpha1.RunSucceeded && req.Status.Phase != v1alpha1.RequestApplied {
		return r.settled(ctx, req, run)
	}
	if done, message, err := r.takeBack(ctx, req); err != nil {
		return err
	} else if !done {
		return reconcile.Wait(string(req.Status.Phase), soon, "%s", message)
	}
	s, end := stateOf(req, run), occurrence{phase: v1alpha1.RequestFailed, at: metav1.NewTime(r.Now())}
	switch {
	case run == nil:
		s.message = "the run of the request was deleted before it had finished"
	case run.Status.FinishTime != nil:
		end.at = metav1.NewTime(run.Status.FinishTime.Time)
	}
	var rejection *v1alpha1.Approval
	if run != nil && s.rejectable {
		if rejection, err = r.rejection(ctx, run); err != nil {
			return err
		}
	}
	switch {
	case req.Spec.Withdrawn:
		end.phase, end.actor, s.message = v1alpha1.RequestWithdrawn, person(req.Spec.User), "withdrawn by the applicant"
	case rejection != nil:
		end.phase, end.actor = v1alpha1.RequestRejected, person(rejection.Spec.User)
		req.Status.By, req.Status.Comment = []string{end.actor}, rejection.Spec.Comment
	case run != nil && run.Status.Phase == v1alpha1.RunAborted:
		end.phase, end.actor = v1alpha1.RequestWithdrawn, person(run.Spec.ChangedBy)
	case run != nil && run.Status.Phase == v1alpha1.RunSucceeded:
		s.message = "the workflow " + WorkflowName + " has ended without giving anything: a platform administrator must look at its steps"
	}
	req.Status.Message, req.Status.Granted = s.message, nil
	return r.enter(ctx, req, s, end)
}

// settled takes what was given for active when its run has ended well without saying so: administrators may have taken that
// step out of the workflow.
func (r *Requests) settled(ctx context.Context, req *v1alpha1.ResourceRequest, run *v1alpha1.WorkflowRun) error {
	if req.Status.Phase != v1alpha1.RequestAllocated || run.Status.FinishTime == nil {
		return nil
	}
	return r.enter(ctx, req, &state{}, occurrence{phase: v1alpha1.RequestActive, at: metav1.NewTime(run.Status.FinishTime.Time)})
}

// rejection is the approval that rejected the request; nil if none did.
func (r *Requests) rejection(ctx context.Context, run *v1alpha1.WorkflowRun) (*v1alpha1.Approval, error) {
	var all v1alpha1.ApprovalList
	if err := r.reader.List(ctx, &all, client.InNamespace(run.Namespace), client.MatchingFields{"spec.runUID": string(run.UID)}); err != nil {
		return nil, fmt.Errorf("listing approvals: %w", err)
	}
	for i := range all.Items {
		a := &all.Items[i]
		counted := slices.ContainsFunc(a.Status.Conditions, func(c metav1.Condition) bool {
			return c.Type == v1alpha1.ConditionAccepted && c.Status == metav1.ConditionTrue
		})
		if a.Spec.Decision == v1alpha1.DecisionRejected && counted {
			return a, nil
		}
	}
	return nil, nil
}

// goOn looks after what was given when no run does: it is in the records when its partition is gone, and a term goes on
// when its run was ended by somebody.
func (r *Requests) goOn(ctx context.Context, req *v1alpha1.ResourceRequest) error {
	if !wasActive(req) || req.Status.Phase.Finished() {
		return nil
	}
	run, err := r.run(ctx, req)
	if err != nil || run != nil && !run.Status.Phase.Finished() {
		return err
	}
	p, err := r.partition(ctx, req.Namespace, req.Spec.Wanted.Partition)
	switch {
	case err != nil:
		return err
	case !isApplied(p, req.UID):
		if err := r.giveBack(ctx, req.Namespace, req.Spec.Wanted.Partition, req.UID); err != nil {
			return err
		}
		req.Status.Message = "the partition does not exist any more"
		return r.enter(ctx, req, &state{message: req.Status.Message}, occurrence{phase: v1alpha1.RequestReturned, at: metav1.NewTime(r.Now())})
	case !holds(p, req):
		req.Status.Message = carriedBy(p)
		return nil
	}
	until, err := endOf(p)
	if err != nil {
		return err
	}
	if until == nil {
		req.Status.Message = "it has no end"
		return nil
	}
	if req.Status.Granted != nil {
		req.Status.Granted.Until = until
	}
	return r.continueTerm(ctx, req)
}
