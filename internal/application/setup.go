package application

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"yunfan.io/yunfan/api/v1alpha1"
)

// workers is the number of applications reconciled at the same time.
const workers = 16

// SetupWithManager registers the controller. An application is looked at again when its spec, one of its deliveries, or
// something that decides on its plan changes; a partition's figures, which change by the second, do not count.
func (r *Reconciler) SetupWithManager(mgr manager.Manager) error {
	err := ctrl.NewControllerManagedBy(mgr).Named("application").
		For(&v1alpha1.Application{}). // its status counts, too: one that was made while the cache was behind must not stay
		Owns(&v1alpha1.Delivery{}).
		Owns(&v1alpha1.WorkflowRun{}).
		Owns(&v1alpha1.Rollout{}, builder.WithPredicates(rolloutChanged)).
		Watches(&v1alpha1.Delivery{}, r.thatWait(v1alpha1.ReasonInvalid), builder.WithPredicates(onlyDeleted)).
		Watches(&v1alpha1.NodePort{}, r.thatWait(v1alpha1.ReasonNodePortTaken), builder.WithPredicates(onlyDeleted)).
		Watches(&v1alpha1.Partition{}, r.ofPartition()).
		Watches(&v1alpha1.Cluster{}, handler.EnqueueRequestsFromMapFunc(r.bySelector), builder.WithPredicates(predicate.LabelChangedPredicate{})).
		Watches(&v1alpha1.Configuration{}, handler.EnqueueRequestsFromMapFunc(r.ofConfiguration)).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("registering the application controller: %w", err)
	}
	return nil
}

// rolloutChanged leaves out how far a rollout is: only its phase, and what it says when it has ended, are shown here.
var rolloutChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	before, _ := e.ObjectOld.(*v1alpha1.Rollout)
	after, _ := e.ObjectNew.(*v1alpha1.Rollout)
	return before.Status.Phase != after.Status.Phase || after.Status.Phase != v1alpha1.RolloutRunning
}}

var onlyDeleted = predicate.Funcs{
	CreateFunc: func(event.CreateEvent) bool { return false },
	UpdateFunc: func(event.UpdateEvent) bool { return false },
}

// matching gives the applications of a namespace, or of all if it is empty, for which a test is true.
func (r *Reconciler) matching(ctx context.Context, namespace string, test func(*v1alpha1.Application) bool) []ctrl.Request {
	var list v1alpha1.ApplicationList
	if err := r.client.List(ctx, &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil // Only a cache that is shutting down fails.
	}
	var requests []ctrl.Request
	for i := range list.Items {
		if test(&list.Items[i]) {
			requests = append(requests, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return requests
}

// thatWait enqueues the applications that were refused for a reason which an object's disappearance may have mended.
func (r *Reconciler) thatWait(reason string) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []ctrl.Request {
		return r.matching(ctx, o.GetNamespace(), func(app *v1alpha1.Application) bool { return refusedFor(app, reason) })
	})
}

// ofPartition enqueues the applications that may choose a partition. A change of its use alone concerns only those that
// wait for quota.
func (r *Reconciler) ofPartition() handler.EventHandler {
	enqueue := func(ctx context.Context, o client.Object, q workqueue.TypedRateLimitingInterface[ctrl.Request], test func(*v1alpha1.Application) bool) {
		for _, request := range r.matching(ctx, o.GetNamespace(), func(app *v1alpha1.Application) bool {
			return mayChoose(app, o.GetName()) && test(app)
		}) {
			q.Add(request)
		}
	}
	all := func(*v1alpha1.Application) bool { return true }
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q workqueue.TypedRateLimitingInterface[ctrl.Request]) {
			enqueue(ctx, e.Object, q, all)
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q workqueue.TypedRateLimitingInterface[ctrl.Request]) {
			enqueue(ctx, e.Object, q, all)
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q workqueue.TypedRateLimitingInterface[ctrl.Request]) {
			test := all
			r.ofParts(ctx, e.ObjectOld, e.ObjectNew, q)
			before, _ := e.ObjectOld.(*v1alpha1.Partition)
			after, _ := e.ObjectNew.(*v1alpha1.Partition)
			if !decides(before, after) {
				test = func(app *v1alpha1.Application) bool { return refusedFor(app, v1alpha1.ReasonQuotaExceeded) }
			}
			enqueue(ctx, e.ObjectNew, q, test)
		},
	}
}

// ofParts enqueues the applications that may choose a part of a partition, if what the parts have from it changed.
func (r *Reconciler) ofParts(ctx context.Context, before, after client.Object, q workqueue.TypedRateLimitingInterface[ctrl.Request]) {
	was, _ := before.(*v1alpha1.Partition)
	is, _ := after.(*v1alpha1.Partition)
	if was.Spec.ReleaseApproval == is.Spec.ReleaseApproval {
		return
	}
	var list v1alpha1.PartitionList
	if err := r.client.List(ctx, &list, client.InNamespace(is.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return // Only a cache that is shutting down fails.
	}
	for i := range list.Items {
		if list.Items[i].Spec.Parent != is.Name {
			continue
		}
		for _, request := range r.matching(ctx, is.Namespace, func(app *v1alpha1.Application) bool { return mayChoose(app, list.Items[i].Name) }) {
			q.Add(request)
		}
	}
}

// decides says whether a partition changed in a way that may change a plan.
func decides(before, after *v1alpha1.Partition) bool {
	return before.Generation != after.Generation ||
		!equality.Semantic.DeepEqual(before.Labels, after.Labels) ||
		!equality.Semantic.DeepEqual(before.Status.Hard, after.Status.Hard) ||
		isReady(before.Status.Conditions) != isReady(after.Status.Conditions)
}

// bySelector gives the applications of all tenants that choose partitions by labels.
func (r *Reconciler) bySelector(ctx context.Context, _ client.Object) []ctrl.Request {
	return r.matching(ctx, "", func(app *v1alpha1.Application) bool { return mayChoose(app, "") })
}

func (r *Reconciler) ofConfiguration(ctx context.Context, o client.Object) []ctrl.Request {
	return r.matching(ctx, o.GetNamespace(), func(app *v1alpha1.Application) bool {
		return configurationsOf(app.Spec.Components)[o.GetName()]
	})
}

// mayChoose says whether an application names a partition, or chooses by labels.
func mayChoose(app *v1alpha1.Application, partition string) bool {
	for i := range app.Spec.Placement.Partitions {
		choice := &app.Spec.Placement.Partitions[i]
		if choice.Selector != nil || (partition != "" && choice.Name == partition) {
			return true
		}
	}
	return false
}

func refusedFor(app *v1alpha1.Application, reason string) bool {
	c := meta.FindStatusCondition(app.Status.Conditions, v1alpha1.ConditionReady)
	return c != nil && c.Reason == reason
}
