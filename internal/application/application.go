// Package application turns Applications into revisions and Deliveries: it validates, makes the immutable revision,
// places replicas, hands partitions over from one revision to the next, and sums up how they are.
package application

import (
	"context"
	"fmt"
	"strings"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// Finalizer keeps an application until its deliveries are gone from every partition.
const Finalizer = "yunfan.io/application"

// deletionCheck is how often an application under deletion is looked at, besides when a delivery changes.
const deletionCheck = 30 * time.Second

// Reconciler delivers applications.
type Reconciler struct {
	client client.Client
	// live reads past the cache.
	live      client.Reader
	nodePorts NodePorts
	pace      pace
	// rollouts says that they, and not this controller, move what runs to another revision.
	rollouts bool
}

// New gives a Reconciler that reserves node ports with nodePorts. Rollouts says that they move what runs to another
// revision; without them this controller does it itself, everywhere at once.
func New(mgr manager.Manager, nodePorts NodePorts, rollouts bool) *Reconciler {
	return &Reconciler{client: mgr.GetClient(), live: mgr.GetAPIReader(), nodePorts: nodePorts, rollouts: rollouts}
}

// Reconcile brings one application's revision and deliveries to what its spec asks for, and tells how they are.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	app := &v1alpha1.Application{}
	if err := r.client.Get(ctx, req.NamespacedName, app); err != nil {
		r.pace.forget(req.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if app.DeletionTimestamp != nil {
		return r.delete(ctx, app)
	}
	if err := reconcile.AddFinalizer(ctx, r.client, app, Finalizer); err != nil {
		return outcome(err)
	}
	w, err := load(ctx, r.client, app)
	if err != nil {
		return ctrl.Result{}, err
	}
	before := app.DeepCopy()
	p, err := r.deliver(ctx, w)
	if behind(err) {
		return outcome(err)
	}
	w.summarize(p, err)
	wait, werr := r.writeStatus(ctx, before, app)
	if werr != nil {
		return ctrl.Result{}, werr
	}
	result, err := outcome(err)
	if wait > 0 && (result.RequeueAfter == 0 || wait < result.RequeueAfter) {
		result.RequeueAfter = wait
	}
	return result, err
}

// deliver makes the revision and hands it over. If the application is refused nothing is changed: what was delivered
// before keeps running.
func (r *Reconciler) deliver(ctx context.Context, w *world) (*Plan, error) {
	p, err := w.plan()
	if err != nil {
		return nil, err
	}
	if err := r.reserve(ctx, w, p); err != nil {
		return nil, err
	}
	if err := r.ensureRevision(ctx, w, p); err != nil {
		return nil, err
	}
	if err := r.gate(ctx, w, p); err != nil {
		return nil, err
	}
	return p, r.handOver(ctx, w, p)
}

// delete removes the deliveries, waits until their partitions are clean and lets the application go. The garbage
// collector takes its revisions.
func (r *Reconciler) delete(ctx context.Context, app *v1alpha1.Application) (ctrl.Result, error) {
	w, err := load(ctx, r.client, app)
	if err != nil {
		return ctrl.Result{}, err
	}
	before := app.DeepCopy()
	if err := r.abandon(ctx, app, "the application is deleted"); err != nil {
		return ctrl.Result{}, err
	}
	app.Status.Release = nil
	if err := r.withdraw(ctx, inOrder(w.deliveries)); err != nil {
		return ctrl.Result{}, err
	}
	if len(w.deliveries) == 0 {
		return r.release(ctx, app)
	}
	w.summarize(nil, reconcile.Wait(v1alpha1.ReasonDeleting, deletionCheck, "removing it from %s", w.leaving()))
	wait, err := r.writeStatus(ctx, before, app)
	if wait == 0 {
		wait = deletionCheck
	}
	return ctrl.Result{RequeueAfter: wait}, err
}

// release lets an application go that is delivered nowhere. The cache may not know the last delivery yet, so the hub
// itself is asked.
func (r *Reconciler) release(ctx context.Context, app *v1alpha1.Application) (ctrl.Result, error) {
	var left v1alpha1.DeliveryList
	err := r.live.List(ctx, &left, client.InNamespace(app.Namespace), client.MatchingLabels{v1alpha1.LabelApplication: app.Name})
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("looking for what is left of the application: %w", err)
	}
	if len(left.Items) > 0 {
		return ctrl.Result{RequeueAfter: statusPause}, nil
	}
	err = r.client.DeleteAllOf(ctx, &v1alpha1.ApplicationRevision{}, client.InNamespace(app.Namespace),
		client.MatchingLabels{v1alpha1.LabelApplication: app.Name})
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("deleting revisions: %w", err)
	}
	return outcome(reconcile.RemoveFinalizer(ctx, r.client, app, Finalizer))
}

// leaving names the partitions that still have the application, with what holds them up.
func (w *world) leaving() string {
	var names []string
	for _, partition := range sortedKeys(w.deliveries) {
		if _, reason, _ := health(w.deliveries[partition]); reason == v1alpha1.ReasonUnreachable {
			partition += " (cluster " + w.deliveries[partition].Spec.Cluster + " does not answer)"
		}
		names = append(names, partition)
	}
	return strings.Join(names, ", ")
}
