package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"yunfan.io/yunfan/api/v1alpha1"
	frame "yunfan.io/yunfan/internal/reconcile"
)

const (
	// workers is the number of rollouts looked at side by side.
	workers = 16
	// look is how often a rollout that waits for another is looked at, besides when that changes.
	look = 5 * time.Second
	// tellPause is the least time between two writes of a status in which no phase of the rollout is new.
	tellPause = 500 * time.Millisecond
	// behindPause lets the cache catch up.
	behindPause = 20 * time.Millisecond
)

// byApplication is the index of rollouts by their application.
const byApplication = "spec.application"

// SetupWithManager registers the controller.
func (r *Rollouts) SetupWithManager(mgr manager.Manager) error {
	if err := mgr.GetFieldIndexer().IndexField(context.Background(), &v1alpha1.Rollout{}, byApplication, func(o client.Object) []string {
		return []string{o.(*v1alpha1.Rollout).Spec.Application}
	}); err != nil {
		return fmt.Errorf("registering the rollout controller: %w", err)
	}
	const firstPause, longestPause = 20 * time.Millisecond, 30 * time.Second
	err := ctrl.NewControllerManagedBy(mgr).Named("rollout").
		For(&v1alpha1.Rollout{}).
		Owns(&v1alpha1.WorkflowRun{}).
		Watches(&v1alpha1.Rollout{}, handler.EnqueueRequestsFromMapFunc(r.rivals)).
		Watches(&v1alpha1.Delivery{}, handler.EnqueueRequestsFromMapFunc(r.moving)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstPause, longestPause),
		}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("registering the rollout controller: %w", err)
	}
	return nil
}

// of gives the rollouts of an application for which a test is true, in the order of their names.
func (r *Rollouts) of(ctx context.Context, namespace, application string, test func(*v1alpha1.Rollout) bool) ([]*v1alpha1.Rollout, error) {
	var list v1alpha1.RolloutList
	if err := r.client.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{byApplication: application}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing rollouts: %w", err)
	}
	var out []*v1alpha1.Rollout
	for i := range list.Items {
		if o := &list.Items[i]; test(o) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b *v1alpha1.Rollout) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func open(o *v1alpha1.Rollout) bool { return !o.Status.Phase.Ended() }

// unfinished says whether something is left to do for a rollout.
func unfinished(o *v1alpha1.Rollout) bool {
	return open(o) || slices.ContainsFunc(o.Status.Partitions, func(p v1alpha1.RolloutPartition) bool {
		return p.Phase == v1alpha1.RolloutPartitionUnreachable
	})
}

// rivals are the other rollouts of the same application that have not ended.
func (r *Rollouts) rivals(ctx context.Context, o client.Object) (requests []ctrl.Request) {
	one, _ := o.(*v1alpha1.Rollout)
	others, err := r.of(ctx, one.Namespace, one.Spec.Application, func(other *v1alpha1.Rollout) bool { return open(other) && other.UID != one.UID })
	if err != nil {
		return nil // only a cache that ends fails
	}
	for _, other := range others {
		requests = append(requests, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(other)})
	}
	return requests
}

// moving are the rollouts that a Delivery is moved by. Their steps look at once.
func (r *Rollouts) moving(ctx context.Context, o client.Object) (requests []ctrl.Request) {
	d, _ := o.(*v1alpha1.Delivery)
	rollouts, err := r.of(ctx, d.Namespace, d.Spec.Application, unfinished)
	if err != nil {
		return nil // only a cache that ends fails
	}
	for _, one := range rollouts {
		requests = append(requests, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(one)})
		if lacks, _ := unhealthy(d); lacks == "" && one.Status.Phase == v1alpha1.RolloutRunning {
			r.wake(ctx, one)
		}
	}
	return requests
}

// wake has the running steps of a rollout called at once.
func (r *Rollouts) wake(ctx context.Context, o *v1alpha1.Rollout) {
	if r.Wake == nil {
		return
	}
	run := &v1alpha1.WorkflowRun{}
	key := types.NamespacedName{Namespace: o.Namespace, Name: o.Status.Run}
	if r.client.Get(ctx, key, run) != nil {
		return
	}
	for i := range run.Status.Steps {
		if st := &run.Status.Steps[i]; st.Phase == v1alpha1.StepRunning || st.Phase == v1alpha1.StepCompensating {
			r.Wake(key, st.Name)
		}
	}
}

// Reconcile begins a rollout when it may, and tells how far it is.
func (r *Rollouts) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	o := &v1alpha1.Rollout{}
	if err := r.client.Get(ctx, req.NamespacedName, o); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !o.DeletionTimestamp.IsZero() || !unfinished(o) {
		return ctrl.Result{}, nil
	}
	before := o.DeepCopy()
	var after time.Duration
	var err error
	switch o.Status.Phase {
	case "", v1alpha1.RolloutPending:
		after, err = r.begin(ctx, o)
	case v1alpha1.RolloutRunning:
		after, err = r.follow(ctx, before, o)
	default:
		err = r.recover(ctx, o)
	}
	if err == nil {
		err = r.tell(ctx, before, o)
	}
	if apierrors.IsConflict(err) { // the cache is behind
		return ctrl.Result{RequeueAfter: behindPause}, nil
	}
	return ctrl.Result{RequeueAfter: after}, err
}

// tell writes the status if it has changed.
func (r *Rollouts) tell(ctx context.Context, before, o *v1alpha1.Rollout) error {
	if equality.Semantic.DeepEqual(before.Status, o.Status) {
		return nil
	}
	status := metav1.ConditionUnknown
	switch {
	case o.Status.Phase == v1alpha1.RolloutSucceeded:
		status = metav1.ConditionTrue
	case o.Status.Phase.Ended():
		status = metav1.ConditionFalse
	}
	if o.Status.Phase.Ended() && o.Status.EndTime == nil {
		now := metav1.Now()
		o.Status.EndTime = &now
	}
	o.SetObservedGeneration(o.Generation)
	frame.SetCondition(o, v1alpha1.ConditionSucceeded, status, string(o.Status.Phase), o.Status.Message)
	return client.IgnoreNotFound(r.client.Status().Patch(ctx, o, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})))
}

// begin begins a rollout unless another of the application has not ended.
func (r *Rollouts) begin(ctx context.Context, o *v1alpha1.Rollout) (time.Duration, error) {
	others, err := r.of(ctx, o.Namespace, o.Spec.Application, func(other *v1alpha1.Rollout) bool { return open(other) && other.UID != o.UID })
	if err != nil {
		return 0, err
	}
	if len(others) > 0 {
		return look, r.queue(ctx, o, others)
	}
	origin := o.DeepCopy()
	f, err := r.facts(ctx, origin)
	if err != nil {
		return 0, err
	}
	p, refusal := compile(origin, f)
	if refusal == nil && p.beside != nil && r.CheckQuota != nil {
		refusal = r.CheckQuota(ctx, f.to, p.beside)
	}
	if refusal != nil {
		refuse(o, refusal)
		return 0, nil
	}
	before := o.DeepCopy()
	o.Status.Phase, o.Status.Message, o.Status.Run, o.Status.Plan = v1alpha1.RolloutRunning, "", runName(o), p.plan
	o.Status.Partitions = nil
	for i := range f.partitions {
		o.Status.Partitions = append(o.Status.Partitions, v1alpha1.RolloutPartition{
			Partition: f.partitions[i].name, Cluster: f.partitions[i].cluster, Phase: v1alpha1.RolloutPartitionWaiting,
		})
	}
	if p.quick {
		if err := r.start(ctx, o, p); err != nil {
			return 0, err
		}
	}
	// What will be done is written before anything is. A status made from a cache that is behind is refused by the hub.
	if err := r.tell(ctx, before, o); err != nil {
		return 0, err
	}
	if !p.quick {
		if err := r.start(ctx, o, p); err != nil {
			return 0, err
		}
	}
	return 0, r.trim(ctx, o)
}

// trim forgets the oldest rollouts of an application. Their runs are in the platform's records.
func (r *Rollouts) trim(ctx context.Context, o *v1alpha1.Rollout) error {
	const most = 20
	old, err := r.of(ctx, o.Namespace, o.Spec.Application, func(other *v1alpha1.Rollout) bool { return !unfinished(other) })
	if err != nil || len(old) <= most {
		return err
	}
	slices.SortStableFunc(old, func(a, b *v1alpha1.Rollout) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	for _, one := range old[:len(old)-most] {
		if err := r.client.Delete(ctx, one.DeepCopy()); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting rollout %s, which is long past: %w", one.Name, err)
		}
	}
	return nil
}

func refuse(o *v1alpha1.Rollout, why error) {
	o.Status.Phase, o.Status.Message = v1alpha1.RolloutRefused, "nothing was changed: "+why.Error()
}

// queue decides between rollouts of one application: only the newest counts, and it waits for the one that runs or sends
// it back.
func (r *Rollouts) queue(ctx context.Context, o *v1alpha1.Rollout, others []*v1alpha1.Rollout) error {
	o.Status.Phase = v1alpha1.RolloutPending
	app := &v1alpha1.Application{}
	if err := r.reader.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: o.Spec.Application}, app); err != nil {
		return client.IgnoreNotFound(err)
	}
	if newest := app.Status.Rollout; newest != o.Name && slices.ContainsFunc(others, func(other *v1alpha1.Rollout) bool { return other.Name == newest }) {
		o.Status.Phase, o.Status.Message = v1alpha1.RolloutAborted, "replaced by "+newest+" before it began"
		return nil
	}
	for _, other := range others {
		if other.Status.Phase != v1alpha1.RolloutRunning {
			continue
		}
		if o.Spec.Strategy.WhileRunning == v1alpha1.WhileRunningWait {
			o.Status.Message = "waits until " + other.Name + " has ended"
			continue
		}
		o.Status.Message = "waits until " + other.Name + " is back at " + other.Spec.From
		if err := r.abort(ctx, other, "replaced by "+o.Name); err != nil {
			return err
		}
	}
	return nil
}

// abort aborts the run of a rollout.
func (r *Rollouts) abort(ctx context.Context, o *v1alpha1.Rollout, why string) error {
	run, err := r.run(ctx, o)
	if err != nil || run == nil || run.Spec.Aborted || run.Status.Phase.Finished() {
		return err
	}
	after := run.DeepCopy()
	after.Spec.Aborted, after.Spec.Reason = true, why
	if err := r.client.Patch(ctx, after, client.MergeFromWithOptions(run, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("aborting run %s: %w", run.Name, err)
	}
	return nil
}

// follow tells how far a rollout is that runs, and ends it with its run.
func (r *Rollouts) follow(ctx context.Context, before, o *v1alpha1.Rollout) (time.Duration, error) {
	run, err := r.run(ctx, o)
	if err != nil {
		return 0, err
	}
	if run == nil && o.Status.StartTime == nil {
		origin := o.DeepCopy()
		f, err := r.facts(ctx, origin) // the server ended before it had made the run
		if err != nil {
			return 0, err
		}
		p, refusal := compile(origin, f)
		if refusal == nil {
			return 0, r.start(ctx, o, p)
		}
		refuse(o, refusal)
		return 0, nil
	}
	if err := r.survey(ctx, o, run); err != nil {
		return 0, err
	}
	switch {
	case run == nil:
		o.Status.Phase, o.Status.Message = v1alpha1.RolloutAborted, "its run was deleted"
	case run.Status.Phase == v1alpha1.RunSucceeded:
		o.Status.Phase, o.Status.Message = v1alpha1.RolloutSucceeded, outcomeOf(run)
	case run.Status.Phase == v1alpha1.RunAborted:
		o.Status.Phase, o.Status.Message = v1alpha1.RolloutAborted, run.Status.Message
	case run.Status.Phase == v1alpha1.RunFailed:
		o.Status.Phase, o.Status.Message = v1alpha1.RolloutFailed, run.Status.Message
	default:
		o.Status.StartTime = started(run)
		o.Status.Message = run.Status.Message
		return r.slowly(before, o), nil
	}
	o.Status.StartTime = started(run)
	return 0, nil
}

// slowly keeps changes of the status back that can wait: while partitions move they are many.
func (r *Rollouts) slowly(before, o *v1alpha1.Rollout) time.Duration {
	key := client.ObjectKeyFromObject(o)
	if equality.Semantic.DeepEqual(before.Status, o.Status) {
		return 0
	}
	if wait := tellPause - time.Since(r.told.at(key)); wait > 0 {
		before.Status.DeepCopyInto(&o.Status)
		return wait
	}
	r.told.note(key)
	return 0
}

func started(run *v1alpha1.WorkflowRun) *metav1.Time {
	if run == nil {
		now := metav1.Now()
		return &now
	}
	if run.Status.StartTime == nil {
		return &run.CreationTimestamp
	}
	at := metav1.NewTime(run.Status.StartTime.Time.Truncate(time.Second))
	return &at
}

// outcomeOf says what is worth knowing of a run that succeeded: how long partitions had no requests.
func outcomeOf(run *v1alpha1.WorkflowRun) string {
	var parts []string
	for i := range run.Status.Steps {
		st := &run.Status.Steps[i]
		if text := string(st.Outputs["interrupted"]); text != "" {
			parts = append(parts, strings.TrimPrefix(st.Name, "open-")+" "+strings.Trim(text, `"`))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	const most = 10
	return "without requests, one after the other: " + strings.Join(parts[:min(len(parts), most)], ", ")
}
