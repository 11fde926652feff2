// Package delivery brings applications to partitions: for each member a controller of its own renders the revision that
// a Delivery names, applies it as the identity of the partition, keeps it as it is meant to be, and tells how it is.
package delivery

import (
	"context"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
)

const (
	// workers reconcile as many Deliveries of one member at the same time.
	workers = 16
	// firstRetry and lastRetry bound the pauses after errors that are tried again.
	firstRetry, lastRetry = 50 * time.Millisecond, 30 * time.Second
)

// Controller starts a delivery controller for each member.
type Controller struct{}

// StartForMember starts the member's controller; it ends with ctx.
func (Controller) StartForMember(ctx context.Context, hub manager.Manager, m *member.Member) error {
	r := newReconciler(hub.GetClient(), hub.GetAPIReader(), m)
	return member.StartController(ctx, hub, m, "delivery", controller.Options{
		Reconciler:              r,
		MaxConcurrentReconciles: workers,
		RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[ctrl.Request](firstRetry, lastRetry),
	}, r.sources(hub.GetCache()))
}

// reconciler works for one member.
type reconciler struct {
	hub    client.Client
	live   client.Reader // of the hub, for ConfigMaps and Secrets, which no cache holds
	member *member.Member

	mu      sync.Mutex
	records map[types.NamespacedName]*record
}

func newReconciler(hub client.Client, live client.Reader, m *member.Member) *reconciler {
	return &reconciler{hub: hub, live: live, member: m, records: map[types.NamespacedName]*record{}}
}

// record is what is known of a Delivery; it is made anew after a restart, when everything is applied once.
func (r *reconciler) record(d *v1alpha1.Delivery) *record {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := client.ObjectKeyFromObject(d)
	rec := r.records[key]
	if rec == nil || rec.uid != d.UID {
		rec = newRecord(d.UID)
		r.records[key] = rec
	}
	return rec
}

func (r *reconciler) forget(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.records, key)
}

// Reconcile brings one Delivery's objects to the member, or takes them away, and tells how they are.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	d := &v1alpha1.Delivery{}
	if err := r.hub.Get(ctx, req.NamespacedName, d); err != nil {
		r.forget(req.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if d.Spec.Cluster != r.member.Name {
		return ctrl.Result{}, nil
	}
	rec := r.record(d)
	rec.newest(d)
	before := d.DeepCopy()
	if answering, seen := r.member.Answering(); !answering {
		markLost(d, v1alpha1.ReasonUnreachable, lostMessage(d, r.member.State()), seen)
		return ctrl.Result{}, r.write(ctx, rec, before, d)
	}
	if !d.DeletionTimestamp.IsZero() {
		return r.remove(ctx, before, d)
	}
	result, err := r.deliver(ctx, rec, d)
	if answering, seen := r.member.Answering(); err != nil && !answering {
		before.Status.DeepCopyInto(&d.Status)
		markLost(d, v1alpha1.ReasonUnreachable, lostMessage(d, r.member.State()), seen)
		return ctrl.Result{}, r.write(ctx, rec, before, d)
	}
	if apierrors.IsConflict(err) {
		result, err = soonest(result, ctrl.Result{RequeueAfter: firstRetry}), nil
	}
	if wait := rec.tooSoon(before, d); wait > 0 {
		result = soonest(result, ctrl.Result{RequeueAfter: wait})
	} else if werr := r.write(ctx, rec, before, d); werr != nil {
		return ctrl.Result{}, werr
	}
	if err != nil {
		return ctrl.Result{}, err // the pauses after errors are the queue's matter
	}
	return result, nil
}

// soonest gives the result that looks again first.
func soonest(a, b ctrl.Result) ctrl.Result {
	if a.RequeueAfter == 0 || b.RequeueAfter != 0 && b.RequeueAfter < a.RequeueAfter {
		return b
	}
	return a
}
