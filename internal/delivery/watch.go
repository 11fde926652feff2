package delivery

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
)

// delivered are the kinds that the member is watched for: those that are applied, and pods.
func delivered() []client.Object {
	return []client.Object{
		&appsv1.Deployment{}, &appsv1.StatefulSet{}, &appsv1.DaemonSet{}, &corev1.ReplicationController{}, &batchv1.Job{},
		&batchv1.CronJob{}, &corev1.Service{}, &corev1.ConfigMap{}, &corev1.Secret{}, &discoveryv1.EndpointSlice{}, &corev1.Pod{},
	}
}

func (r *reconciler) sources(hub cache.Cache) []source.Source {
	sources := []source.Source{
		member.OnHub(hub, &v1alpha1.Delivery{}, member.GenerationChanged, r.self),
		member.OnHub(hub, &v1alpha1.Partition{}, partitionChanged, r.ofPartition),
		member.OnHub(hub, &v1alpha1.ApplicationRevision{}, member.NeverChanged, r.ofRevision),
		source.Channel(r.member.Subscribe(), handler.EnqueueRequestsFromMapFunc(r.all)),
	}
	for _, kind := range delivered() {
		sources = append(sources, source.Kind(r.member.Cache, kind, handler.EnqueueRequestsFromMapFunc(r.ofObject)))
	}
	return sources
}

// partitionChanged says whether a change of a partition can matter to what is delivered there: its status changes with
// every pod.
func partitionChanged(before, after client.Object) bool {
	was, is := before.(*v1alpha1.Partition), after.(*v1alpha1.Partition)
	return was.Generation != is.Generation || partitionReady(was) != partitionReady(is)
}

func partitionReady(p *v1alpha1.Partition) bool {
	return p.DeletionTimestamp.IsZero() && meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionReady)
}

func (r *reconciler) self(_ context.Context, d client.Object) []ctrl.Request {
	if d.(*v1alpha1.Delivery).Spec.Cluster != r.member.Name {
		return nil
	}
	return []ctrl.Request{{NamespacedName: client.ObjectKeyFromObject(d)}}
}

func (r *reconciler) ofPartition(ctx context.Context, p client.Object) []ctrl.Request {
	if p.(*v1alpha1.Partition).Spec.Cluster != r.member.Name {
		return nil
	}
	return r.list(ctx, client.InNamespace(p.GetNamespace()), client.MatchingLabels{v1alpha1.LabelPartition: p.GetName()})
}

func (r *reconciler) ofRevision(ctx context.Context, revision client.Object) []ctrl.Request {
	application := revision.(*v1alpha1.ApplicationRevision).Spec.Application
	return r.list(ctx, client.InNamespace(revision.GetNamespace()), client.MatchingLabels{v1alpha1.LabelApplication: application})
}

func (r *reconciler) all(ctx context.Context, _ client.Object) []ctrl.Request {
	return r.list(ctx, client.MatchingLabels{v1alpha1.LabelCluster: r.member.Name})
}

func (r *reconciler) list(ctx context.Context, options ...client.ListOption) []ctrl.Request {
	list := &v1alpha1.DeliveryList{}
	if err := r.hub.List(ctx, list, append(options, client.UnsafeDisableDeepCopy)...); err != nil {
		return nil // only when the cache ends
	}
	var out []ctrl.Request
	for i := range list.Items {
		out = append(out, r.self(ctx, &list.Items[i])...)
	}
	return out
}

// ofObject finds the Delivery of a member's object by its labels.
func (r *reconciler) ofObject(ctx context.Context, o client.Object) []ctrl.Request {
	labels := o.GetLabels()
	tenant, partition, application := labels[v1alpha1.LabelTenant], labels[v1alpha1.LabelPartition], labels[v1alpha1.LabelApplication]
	if tenant == "" || partition == "" {
		return nil
	}
	if _, slice := o.(*discoveryv1.EndpointSlice); slice && labels[discoveryv1.LabelManagedBy] != v1alpha1.FieldOwner {
		return nil // made by the member from a service, whose labels it has
	}
	if application == "" {
		return r.sharing(tenant, keyOf(o, gvkOf(o)))
	}
	return []ctrl.Request{{NamespacedName: types.NamespacedName{Namespace: tenant, Name: v1alpha1.DeliveryName(application, partition)}}}
}

// sharing finds the Deliveries that have applied an object which several may have.
func (r *reconciler) sharing(tenant string, key objectKey) []ctrl.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []ctrl.Request
	for name, rec := range r.records {
		if name.Namespace == tenant && rec.has(key) {
			out = append(out, ctrl.Request{NamespacedName: name})
		}
	}
	return out
}
