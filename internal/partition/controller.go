// Package partition makes partitions in member clusters: namespace, quota, limits, isolation, pod security, node pool
// and the identity as which applications are delivered there. One controller runs for each member, with a queue of its
// own; another looks after the partitions of clusters that are not there.
package partition

import (
	"context"
	"fmt"
	"net/netip"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/reconcile"
)

const finalizer = "yunfan.io/partition"

// Members are the joined clusters.
type Members interface {
	member.Lookup
	Register(...member.Controller)
}

// Controller reconciles the Partitions whose cluster is not there, and starts a controller for each cluster that is.
type Controller struct {
	hubSide
	members Members
	roles   []client.Object
}

// hubSide is what is done on the hub, whether the cluster is there or not.
type hubSide struct {
	client client.Client
	reader client.Reader // past the cache, for decisions
	hub    netip.Addr    // of its API server; invalid if that has a name only, or is reached from this machine alone
}

// New makes the controller. The roles are those of people: each member gets them once, and namespaces bind them.
func New(members Members, roles ...client.Object) *Controller {
	return &Controller{members: members, roles: append(roles, deliveryRole())}
}

// SetupWithManager registers the controller with the hub's manager, and with the members for each of them.
func (c *Controller) SetupWithManager(mgr manager.Manager) error {
	c.client, c.reader = mgr.GetClient(), mgr.GetAPIReader()
	if address, ok := member.Address(mgr.GetConfig().Host); ok {
		c.hub = address.Addr()
	}
	c.members.Register(c)
	return ctrl.NewControllerManagedBy(mgr).
		Named("partition").
		For(&v1alpha1.Partition{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.Cluster{}, handler.EnqueueRequestsFromMapFunc(c.ofCluster), builder.WithPredicates(clusterChanged)).
		Watches(&v1alpha1.Delivery{}, handler.EnqueueRequestsFromMapFunc(ofDelivery), builder.WithPredicates(onlyDeleted)).
		Complete(c)
}

// Reconcile handles a Partition as long as no controller runs for its cluster.
func (c *Controller) Reconcile(ctx context.Context, r ctrl.Request) (ctrl.Result, error) {
	p := &v1alpha1.Partition{}
	if err := c.client.Get(ctx, r.NamespacedName, p); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if _, joined := c.members.Member(p.Spec.Cluster); joined {
		return ctrl.Result{}, nil
	}
	if !p.DeletionTimestamp.IsZero() {
		return reconcile.Finalize(ctx, c.client, p, v1alpha1.ConditionReady, finalizer, c.partsGone, c.withdraw, c.lettingGo, c.release)
	}
	if c.connecting(ctx, p) {
		return ctrl.Result{}, nil
	}
	return reconcile.Run(ctx, c.client, p, v1alpha1.ConditionReady, v1alpha1.ReasonReady, traffic, c.missing)
}

// missing says why the partition's cluster cannot be worked with. What was last seen of the partition stays.
func (c *Controller) missing(ctx context.Context, p *v1alpha1.Partition) error {
	name := p.Spec.Cluster
	cluster := &v1alpha1.Cluster{}
	err := c.client.Get(ctx, client.ObjectKey{Name: name}, cluster)
	switch {
	case apierrors.IsNotFound(err):
		return reconcile.Stall(v1alpha1.ReasonClusterNotFound, "cluster %s does not exist: join it under this name, or delete the partition", name)
	case err != nil:
		return fmt.Errorf("reading cluster %s: %w", name, err)
	case !cluster.DeletionTimestamp.IsZero():
		return reconcile.Stall(v1alpha1.ReasonClusterNotFound, "cluster %s is being removed", name)
	}
	ready := meta.FindStatusCondition(cluster.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || ready.Status == metav1.ConditionTrue {
		return reconcile.Stall(v1alpha1.ReasonClusterNotReady, "cluster %s is being connected", name)
	}
	if ready.Reason == v1alpha1.ReasonUnreachable {
		return reconcile.Stall(v1alpha1.ReasonUnreachable, "cluster %s does not answer, shown is what was last seen: %s", name, ready.Message)
	}
	return reconcile.Stall(v1alpha1.ReasonClusterNotReady, "cluster %s is not ready (%s): %s", name, ready.Reason, ready.Message)
}

// connecting says whether the partition was ready and its cluster is only being connected, as after a restart of the
// server: then nothing is lost, and the member's own controller will tell.
func (c *Controller) connecting(ctx context.Context, p *v1alpha1.Partition) bool {
	was := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
	if was == nil || was.Status != metav1.ConditionTrue || was.ObservedGeneration != p.Generation {
		return false
	}
	cluster := &v1alpha1.Cluster{}
	if err := c.client.Get(ctx, client.ObjectKey{Name: p.Spec.Cluster}, cluster); err != nil || !cluster.DeletionTimestamp.IsZero() {
		return false
	}
	ready := meta.FindStatusCondition(cluster.Status.Conditions, v1alpha1.ConditionReady)
	return ready == nil || ready.Status == metav1.ConditionTrue || ready.Reason == v1alpha1.ReasonReconciling
}

// lettingGo lets a partition go whose cluster is gone, or where nothing was ever made of it.
func (c *Controller) lettingGo(ctx context.Context, p *v1alpha1.Partition) error {
	if p.Status.Namespace == "" {
		return nil
	}
	err := c.client.Get(ctx, client.ObjectKey{Name: p.Spec.Cluster}, &v1alpha1.Cluster{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading cluster %s: %w", p.Spec.Cluster, err)
	}
	err = c.missing(ctx, p)
	return reconcile.Wait(v1alpha1.ReasonDeleting, 0, "namespace %s cannot be deleted: %w; it is once the cluster is back, "+
		"or let go when the cluster is removed from the platform", p.Status.Namespace, err)
}

// traffic is not known at first. What edges see of it is told by who drives them.
func traffic(_ context.Context, p *v1alpha1.Partition) error {
	if meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionTrafficReady) != nil {
		return nil
	}
	reconcile.SetCondition(p, v1alpha1.ConditionTrafficReady, metav1.ConditionUnknown, v1alpha1.ReasonNoEdge,
		"no edge is connected, so nothing is known of the traffic")
	return nil
}

func (c *Controller) ofCluster(ctx context.Context, cluster client.Object) []ctrl.Request {
	return c.partitions(ctx, func(p *v1alpha1.Partition) bool { return p.Spec.Cluster == cluster.GetName() })
}

func (h *hubSide) partitions(ctx context.Context, wanted func(*v1alpha1.Partition) bool) []ctrl.Request {
	var all v1alpha1.PartitionList
	if err := h.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return nil // only when the cache ends
	}
	var requests []ctrl.Request
	for i := range all.Items {
		if p := &all.Items[i]; wanted(p) {
			requests = append(requests, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(p)})
		}
	}
	return requests
}

func ofDelivery(_ context.Context, d client.Object) []ctrl.Request {
	key := client.ObjectKey{Namespace: d.GetNamespace(), Name: d.(*v1alpha1.Delivery).Spec.Partition}
	return []ctrl.Request{{NamespacedName: key}}
}

var onlyDeleted = predicate.Funcs{
	CreateFunc: func(event.CreateEvent) bool { return false },
	UpdateFunc: func(event.UpdateEvent) bool { return false },
}

// clusterChanged leaves out the changes of numbers in a cluster's status.
var clusterChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	was, is := e.ObjectOld.(*v1alpha1.Cluster), e.ObjectNew.(*v1alpha1.Cluster)
	return was.Generation != is.Generation || readyText(was.Status.Conditions) != readyText(is.Status.Conditions)
}}

func readyText(conditions []metav1.Condition) string {
	if ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady); ready != nil {
		return ready.Reason + ready.Message
	}
	return ""
}
