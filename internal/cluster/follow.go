package cluster

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"yunfan.io/yunfan/api/v1alpha1"
)

// follower connects a server that does not lead to the clusters that the leader has joined, so that every server can
// answer requests that need a member. It writes nothing, and leaves off when its server becomes the leader.
type follower struct {
	*Controller
	elected <-chan struct{}
}

func (f *follower) setupWithManager(mgr manager.Manager, ofPlatform predicate.Predicate) error {
	everywhere, skip := false, true
	return ctrl.NewControllerManagedBy(mgr).
		Named("cluster-follower").
		For(&v1alpha1.Cluster{}).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(f.withSecret), builder.WithPredicates(ofPlatform)).
		WatchesRawSource(source.Channel(f.members.Subscribe(), &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, NeedLeaderElection: &everywhere, SkipNameValidation: &skip}).
		Complete(f)
}

// Reconcile connects to one cluster, or lets go of it.
func (f *follower) Reconcile(ctx context.Context, r ctrl.Request) (ctrl.Result, error) {
	select {
	case <-f.elected:
		return ctrl.Result{}, nil
	default:
	}
	cluster := &v1alpha1.Cluster{}
	if err := f.client.Get(ctx, r.NamespacedName, cluster); err != nil {
		if apierrors.IsNotFound(err) {
			f.disconnect(r.Name)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if f.connect(ctx, cluster) != nil {
		return ctrl.Result{}, nil //nolint:nilerr // the leader says so in the object, whose next change is waited for
	}
	m, connected := f.members.Connection(r.Name)
	if !connected || !m.State().Answering || m.State().UID != cluster.Status.UID || f.refused(cluster) {
		return ctrl.Result{}, nil
	}
	f.members.Admit(r.Name)
	return ctrl.Result{}, nil
}

// refused says whether the leader has found that the cluster must not be used.
func (f *follower) refused(cluster *v1alpha1.Cluster) bool {
	ready := meta.FindStatusCondition(cluster.Status.Conditions, v1alpha1.ConditionReady)
	return ready == nil || ready.Reason == v1alpha1.ReasonAlreadyJoined || ready.Reason == v1alpha1.ReasonIdentityChanged
}
