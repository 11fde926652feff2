package partition

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
)

const (
	// ownDelay and otherDelay gather changes of pods and of what is used of quotas before the sums are made again: those
	// of the partition itself are looked at by people, those of others only change what is free.
	ownDelay   = time.Second
	otherDelay = 5 * time.Second
)

type queue = workqueue.TypedRateLimitingInterface[ctrl.Request]

func (r *reconciler) sources(hub cache.Cache) []source.Source {
	all := func(ctx context.Context) []ctrl.Request { return r.partitions(ctx, r.mine) }
	sources := []source.Source{
		r.onHub(hub, &v1alpha1.Partition{}, generationChanged, func(_ context.Context, o client.Object) []ctrl.Request {
			return []ctrl.Request{{NamespacedName: client.ObjectKeyFromObject(o)}}
		}),
		r.onHub(hub, &v1alpha1.Tenant{}, tenantChanged, r.ofTenant),
		r.onHub(hub, &v1alpha1.Delivery{}, never, ofDelivery),
		source.Channel(r.member.Subscribe(), handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, _ client.Object) []ctrl.Request {
			return all(ctx)
		})),
		source.Kind[client.Object](r.member.Cache, &corev1.Node{}, later(all), nodeChanged),
		source.Kind[client.Object](r.member.Cache, &corev1.Pod{}, later(all), podChanged),
		source.Kind[client.Object](r.member.Cache, &corev1.ResourceQuota{}, later(nobody)),
	}
	for _, kind := range []client.Object{
		&corev1.Namespace{}, &corev1.LimitRange{}, &networkingv1.NetworkPolicy{},
		&corev1.ServiceAccount{}, &rbacv1.Role{}, &rbacv1.RoleBinding{},
	} {
		sources = append(sources, source.Kind(r.member.Cache, kind, handler.EnqueueRequestsFromMapFunc(ofObject)))
	}
	return sources
}

func (r *reconciler) mine(p *v1alpha1.Partition) bool { return p.Spec.Cluster == r.member.Name }

// ofTenant finds the partitions that may get a quota now that was refused before.
func (r *reconciler) ofTenant(ctx context.Context, tenant client.Object) []ctrl.Request {
	return r.partitions(ctx, func(p *v1alpha1.Partition) bool { return r.mine(p) && p.Namespace == tenant.GetName() })
}

// ofObject finds the partition of one of the member's objects by its labels.
func ofObject(_ context.Context, o client.Object) []ctrl.Request {
	key := client.ObjectKey{Namespace: o.GetLabels()[v1alpha1.LabelTenant], Name: o.GetLabels()[v1alpha1.LabelPartition]}
	if key.Namespace == "" || key.Name == "" {
		return nil
	}
	return []ctrl.Request{{NamespacedName: key}}
}

func nobody(context.Context) []ctrl.Request { return nil }

// later enqueues the partition of an object after ownDelay and others after otherDelay.
func later(others func(context.Context) []ctrl.Request) handler.EventHandler {
	add := func(ctx context.Context, o client.Object, q queue) {
		for _, request := range ofObject(ctx, o) {
			q.AddAfter(request, ownDelay)
		}
		for _, request := range others(ctx) {
			q.AddAfter(request, otherDelay)
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { add(ctx, e.Object, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) { add(ctx, e.ObjectNew, q) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { add(ctx, e.Object, q) },
	}
}

// onHub watches a kind of the hub for as long as the member is there: the hub's cache outlives it.
func (r *reconciler) onHub(hub cache.Cache, kind client.Object, changed func(was, is client.Object) bool,
	requests func(context.Context, client.Object) []ctrl.Request,
) source.Source {
	return source.Func(func(ctx context.Context, q queue) error {
		informer, err := hub.GetInformer(ctx, kind)
		if err != nil {
			return fmt.Errorf("watching %T: %w", kind, err)
		}
		add := func(o any) {
			if last, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			if object, ok := o.(client.Object); ok {
				for _, request := range requests(ctx, object) {
					q.Add(request)
				}
			}
		}
		registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: add,
			UpdateFunc: func(was, is any) {
				if changed(was.(client.Object), is.(client.Object)) {
					add(is)
				}
			},
			DeleteFunc: add,
		})
		if err != nil {
			return fmt.Errorf("watching %T: %w", kind, err)
		}
		context.AfterFunc(ctx, func() { _ = informer.RemoveEventHandler(registration) })
		return nil
	})
}

func never(_, _ client.Object) bool { return false }

func generationChanged(was, is client.Object) bool { return was.GetGeneration() != is.GetGeneration() }

func tenantChanged(was, is client.Object) bool {
	return generationChanged(was, is) ||
		!equality.Semantic.DeepEqual(was.(*v1alpha1.Tenant).Status.Allocated, is.(*v1alpha1.Tenant).Status.Allocated)
}

// nodeChanged leaves out heartbeats.
var nodeChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	was, is := e.ObjectOld.(*corev1.Node), e.ObjectNew.(*corev1.Node)
	return usable(was) != usable(is) || !equality.Semantic.DeepEqual(was.Labels, is.Labels) ||
		!equality.Semantic.DeepEqual(was.Spec.Taints, is.Spec.Taints) ||
		!equality.Semantic.DeepEqual(was.Status.Allocatable, is.Status.Allocatable)
}}

// podChanged leaves out what does not change the sums.
var podChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	was, is := e.ObjectOld.(*corev1.Pod), e.ObjectNew.(*corev1.Pod)
	return was.Spec.NodeName != is.Spec.NodeName || member.Ended(was) != member.Ended(is) ||
		!equality.Semantic.DeepEqual(was.Spec.Containers, is.Spec.Containers)
}}
