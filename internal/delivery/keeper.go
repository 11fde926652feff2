package delivery

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
)

// Members tells of the clusters that are joined.
type Members interface {
	member.Lookup
	// Subscribe gives an event each time a member starts or stops answering.
	Subscribe() <-chan event.GenericEvent
}

// Keeper looks after the Deliveries whose cluster has no controller: because it is gone, or was never reached.
type Keeper struct {
	Hub     client.Client
	Members Members
}

// SetupWithManager registers the controller.
func (k *Keeper) SetupWithManager(mgr ctrl.Manager) error {
	ofCluster := handler.EnqueueRequestsFromMapFunc(k.ofCluster)
	return ctrl.NewControllerManagedBy(mgr).Named("delivery-keeper").
		For(&v1alpha1.Delivery{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.Cluster{}, ofCluster, builder.WithPredicates(clusterChanged)).
		WatchesRawSource(source.Channel(k.Members.Subscribe(), ofCluster)).
		Complete(k)
}

// clusterChanged leaves out the changes of numbers in a cluster's status.
var clusterChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	was, is := e.ObjectOld.(*v1alpha1.Cluster), e.ObjectNew.(*v1alpha1.Cluster)
	return was.Generation != is.Generation || readiness(was) != readiness(is)
}}

// readiness is a cluster's condition Ready without its times.
func readiness(c *v1alpha1.Cluster) metav1.Condition {
	ready := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil {
		return metav1.Condition{}
	}
	return metav1.Condition{Status: ready.Status, Reason: ready.Reason, Message: ready.Message}
}

func (k *Keeper) ofCluster(ctx context.Context, cluster client.Object) []ctrl.Request {
	list := &v1alpha1.DeliveryList{}
	if err := k.Hub.List(ctx, list, client.MatchingLabels{v1alpha1.LabelCluster: cluster.GetName()}, client.UnsafeDisableDeepCopy); err != nil {
		return nil // only when the cache ends
	}
	out := make([]ctrl.Request, 0, len(list.Items))
	for i := range list.Items {
		out = append(out, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return out
}

// Reconcile lets a Delivery go whose cluster is gone, and says of the others that their cluster is missing.
func (k *Keeper) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	d := &v1alpha1.Delivery{}
	if err := k.Hub.Get(ctx, req.NamespacedName, d); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if _, ok := k.Members.Member(d.Spec.Cluster); ok {
		return ctrl.Result{}, nil // the member's own controller does it
	}
	abandoned, err := abandoned(ctx, k.Hub, d)
	if err != nil {
		return ctrl.Result{}, err
	}
	if abandoned && !d.DeletionTimestamp.IsZero() {
		if !controllerutil.ContainsFinalizer(d, v1alpha1.FinalizerDelivery) {
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, letGo(ctx, k.Hub, d)
	}
	before := d.DeepCopy()
	reason, message, seen, err := k.whatIsWrong(ctx, d)
	if err != nil {
		return ctrl.Result{}, err
	}
	if reason == "" {
		return ctrl.Result{}, nil
	}
	markLost(d, reason, message, seen)
	return ctrl.Result{}, patchStatus(ctx, k.Hub, before, d)
}

// whatIsWrong says what keeps a cluster from being reached; the reason is empty if it is only being connected, as after
// a restart of the server: then its own controller will tell.
func (k *Keeper) whatIsWrong(ctx context.Context, d *v1alpha1.Delivery) (reason, message string, seen time.Time, err error) {
	cluster := &v1alpha1.Cluster{}
	err = k.Hub.Get(ctx, client.ObjectKey{Name: d.Spec.Cluster}, cluster)
	switch {
	case apierrors.IsNotFound(err):
		return v1alpha1.ReasonClusterNotFound, fmt.Sprintf("cluster %s is not joined: what runs there goes on unseen; join it again, or take the partition out of the placement", d.Spec.Cluster), seen, nil
	case err != nil:
		return "", "", seen, fmt.Errorf("reading cluster %s: %w", d.Spec.Cluster, err)
	case !cluster.DeletionTimestamp.IsZero():
		return v1alpha1.ReasonClusterNotFound, fmt.Sprintf("cluster %s is being removed", d.Spec.Cluster), seen, nil
	}
	ready := readiness(cluster)
	if ready.Status != metav1.ConditionFalse || ready.Reason == v1alpha1.ReasonReconciling {
		return "", "", seen, nil
	}
	if cluster.Status.LastSeenTime != nil {
		seen = cluster.Status.LastSeenTime.Time
	}
	return v1alpha1.ReasonUnreachable, fmt.Sprintf("cluster %s cannot be reached: %s", d.Spec.Cluster, ready.Message), seen, nil
}
