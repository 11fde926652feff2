package partition

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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
		member.OnHub(hub, &v1alpha1.Partition{}, partitionChanged, func(ctx context.Context, o client.Object) []ctrl.Request {
			return r.family(ctx, o.(*v1alpha1.Partition))
		}),
		member.OnHub(hub, &v1alpha1.Cluster{}, networkChanged, func(ctx context.Context, _ client.Object) []ctrl.Request { return all(ctx) }),
		member.OnHub(hub, &v1alpha1.Tenant{}, tenantChanged, r.ofTenant),
		member.OnHub(hub, &v1alpha1.Delivery{}, member.NeverChanged, ofDelivery),
		source.Channel(r.member.Subscribe(), handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, _ client.Object) []ctrl.Request {
			return all(ctx)
		})),
		source.Kind[client.Object](r.member.Cache, &corev1.Node{}, later(all), nodeChanged),
		source.Kind[client.Object](r.member.Cache, &corev1.Pod{}, later(all), podChanged),
		source.Kind[client.Object](r.member.Cache, &corev1.ResourceQuota{}, later(nobody)),
	}
	for _, kind := range []client.Object{
		&corev1.Namespace{}, &corev1.LimitRange{}, &networkingv1.NetworkPolicy{},
		&corev1.Service{}, &corev1.ServiceAccount{}, &rbacv1.Role{}, &rbacv1.RoleBinding{},
	} {
		sources = append(sources, source.Kind(r.member.Cache, kind, handler.EnqueueRequestsFromMapFunc(ofObject)))
	}
	return sources
}

func (r *reconciler) mine(p *v1alpha1.Partition) bool { return p.Spec.Cluster == r.member.Name }

// ofTenant finds the partitions that may get a quota now that was refused before, and one more, because the member must
// know every tenant's name.
func (r *reconciler) ofTenant(ctx context.Context, tenant client.Object) []ctrl.Request {
	first := true
	return r.partitions(ctx, func(p *v1alpha1.Partition) bool {
		wanted := r.mine(p) && (first || p.Namespace == tenant.GetName())
		first = first && !wanted
		return wanted
	})
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

// partitionChanged looks besides the spec at labels, which its namespace gets, and at what decides whether a part gets
// its quota.
func partitionChanged(was, is client.Object) bool {
	before, after := &was.(*v1alpha1.Partition).Status, &is.(*v1alpha1.Partition).Status
	return member.GenerationChanged(was, is) || !was.GetDeletionTimestamp().Equal(is.GetDeletionTimestamp()) ||
		!equality.Semantic.DeepEqual(was.GetLabels(), is.GetLabels()) ||
		!equality.Semantic.DeepEqual(before.Allocated, after.Allocated) ||
		len(after.Allocated) > 0 && !equality.Semantic.DeepEqual(before.Hard, after.Hard)
}

// networkChanged leaves out what policies do not name.
func networkChanged(was, is client.Object) bool {
	before, after := was.(*v1alpha1.Cluster), is.(*v1alpha1.Cluster)
	return before.Spec.Gateway != after.Spec.Gateway || !equality.Semantic.DeepEqual(before.Status.Network, after.Status.Network) ||
		!equality.Semantic.DeepEqual(before.Spec.ExternalIPs, after.Spec.ExternalIPs)
}

func tenantChanged(was, is client.Object) bool {
	return member.GenerationChanged(was, is) ||
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
