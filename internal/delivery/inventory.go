package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// sharedRetry is the pause before an old version of a configuration is looked at again that another application uses.
const sharedRetry = time.Minute

func gvkOfEntry(e v1alpha1.InventoryEntry) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: e.Group, Version: e.Version, Kind: e.Kind}
}

// same says whether two entries name one object.
func same(a, b v1alpha1.InventoryEntry) bool {
	return a.Group == b.Group && a.Kind == b.Kind && a.Name == b.Name
}

func holds(inventory []v1alpha1.InventoryEntry, e v1alpha1.InventoryEntry) bool {
	return slices.ContainsFunc(inventory, func(other v1alpha1.InventoryEntry) bool { return same(e, other) })
}

// takeUp writes every object of the plan into the stored inventory before the first of them is created: a server that
// dies in between leaves nothing behind that nobody knows of.
func (r *run) takeUp(ctx context.Context) error {
	d := r.delivery
	if err := reconcile.AddFinalizer(ctx, r.hub, d, v1alpha1.FinalizerDelivery); err != nil {
		return err
	}
	inventory := slices.Clone(d.Status.Inventory)
	for _, e := range r.plan.inventory() {
		if !holds(inventory, e) {
			inventory = append(inventory, e)
		}
	}
	if len(inventory) == len(d.Status.Inventory) {
		return nil
	}
	before := d.DeepCopy()
	d.Status.Inventory = inventory
	if d.Status.ObservedGeneration != d.Generation {
		setCondition(d, v1alpha1.ConditionApplied, metav1.ConditionFalse, v1alpha1.ReasonReconciling, "objects are being applied")
		if d.Status.ObservedGeneration == 0 {
			setCondition(d, v1alpha1.ConditionHealthy, metav1.ConditionFalse, v1alpha1.ReasonReconciling, "objects are being applied")
		}
	}
	// The lock makes sure that no entry is lost that somebody else, such as another server, has written.
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.hub.Status().Patch(ctx, d, patch); err != nil {
		return fmt.Errorf("writing the inventory: %w", err)
	}
	r.rec.wrote(d)
	return nil
}

// prune deletes what the inventory lists and the plan does not, once nothing waits for a dependency: until then the old
// objects may still be in use.
func (r *run) prune(ctx context.Context) error {
	if len(r.waiting) > 0 {
		return nil
	}
	plan := r.plan.inventory()
	var keep []v1alpha1.InventoryEntry
	var errs []error
	pruned := false
	for _, e := range r.delivery.Status.Inventory {
		if i := slices.IndexFunc(plan, func(p v1alpha1.InventoryEntry) bool { return same(p, e) }); i >= 0 {
			keep = append(keep, plan[i])
			continue
		}
		if !r.mayPrune(e) {
			keep = append(keep, e)
			continue
		}
		deleted, err := r.delete(ctx, r.delivery, r.plan.namespace, e)
		if err != nil {
			errs = append(errs, err)
		}
		if !deleted {
			keep = append(keep, e)
			r.lookAgain(sharedRetry)
		}
		pruned = pruned || deleted
	}
	r.delivery.Status.Inventory = keep
	if pruned && r.refusedAny() {
		r.rec.retryRefused() // a name or port may have become free
		r.lookAgain(firstRetry)
	}
	return errors.Join(errs...)
}

// mayPrune says whether what replaces an object is there: its component is applied or gone, and for what several share,
// all components are.
func (r *run) mayPrune(e v1alpha1.InventoryEntry) bool {
	if e.Component == "" {
		return !r.refusedAny()
	}
	for i := range r.plan.components {
		if c := &r.plan.components[i]; c.name == e.Component && r.statuses[c.part].Revision != c.revision {
			return false
		}
	}
	return true
}

func (r *run) refusedAny() bool {
	for i := range r.plan.shared {
		if r.rec.refusalFor(&r.plan.shared[i]) != nil {
			return true
		}
	}
	for i := range r.plan.components {
		if r.refused(&r.plan.components[i]) != nil {
			return true
		}
	}
	return false
}

func (rec *record) retryRefused() {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	for _, f := range rec.refused {
		f.until = time.Time{}
	}
}

// delete removes one object of the member as the identity of the partition. Deleted is true if it is gone, or is not
// ours; false without an error if another application uses it.
func (r *reconciler) delete(ctx context.Context, d *v1alpha1.Delivery, namespace string, e v1alpha1.InventoryEntry) (deleted bool, err error) {
	as, err := r.member.As(namespace)
	if err != nil {
		return false, err
	}
	live, err := r.cached(ctx, e, namespace)
	if err != nil {
		return false, err
	}
	if live == nil {
		// The cache may be behind, or the object may have lost its labels.
		found := &metav1.PartialObjectMetadata{}
		found.SetGroupVersionKind(gvkOfEntry(e))
		err := as.Get(ctx, client.ObjectKey{Namespace: namespace, Name: e.Name}, found)
		if apierrors.IsNotFound(err) {
			return true, nil
		} else if err != nil {
			return false, fmt.Errorf("looking for %s %s: %w", e.Kind, e.Name, err)
		}
		live = found
	}
	labels := map[string]string{v1alpha1.LabelTenant: d.Namespace, v1alpha1.LabelPartition: d.Spec.Partition}
	if e.Component != "" {
		labels[v1alpha1.LabelApplication] = d.Spec.Application
	} else if used, err := r.usedByOthers(ctx, d, e); err != nil || used {
		return false, err
	}
	object := &metav1.PartialObjectMetadata{}
	object.SetGroupVersionKind(gvkOfEntry(e))
	object.SetNamespace(namespace)
	object.SetName(e.Name)
	object.SetLabels(labels)
	if mine, _ := ours(live, labels); !mine && !wasOurs(ctx, as, e, object) {
		return true, nil
	}
	uid := live.GetUID()
	err = as.Delete(ctx, object, client.Preconditions{UID: &uid}, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("deleting %s %s: %w", e.Kind, e.Name, err)
	}
	return true, nil
}

// usedByOthers says whether another application of the partition wants a shared object, or may still have pods that do.
func (r *reconciler) usedByOthers(ctx context.Context, d *v1alpha1.Delivery, e v1alpha1.InventoryEntry) (bool, error) {
	others := &v1alpha1.DeliveryList{}
	if err := r.hub.List(ctx, others, client.InNamespace(d.Namespace), client.MatchingLabels{v1alpha1.LabelPartition: d.Spec.Partition}); err != nil {
		return false, fmt.Errorf("looking for others that use %s %s: %w", e.Kind, e.Name, err)
	}
	for i := range others.Items {
		other := &others.Items[i]
		if other.Name == d.Name || !other.DeletionTimestamp.IsZero() {
			continue
		}
		if holds(other.Status.Inventory, e) && conditionStatus(other, v1alpha1.ConditionApplied) != metav1.ConditionTrue {
			return true, nil
		}
		for _, track := range other.Spec.Tracks {
			revision := &v1alpha1.ApplicationRevision{}
			err := r.hub.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: track.Revision}, revision)
			if client.IgnoreNotFound(err) != nil {
				return false, fmt.Errorf("reading revision %s: %w", track.Revision, err)
			}
			for _, pin := range revision.Spec.Configurations {
				if e.Kind == string(pin.Type) && e.Name == v1alpha1.VersionObjectName(pin.Name, pin.Version) {
					return true, nil
				}
			}
		}
	}
	return false, nil
}

// remove takes away everything that the inventory lists, then lets the Delivery go.
func (r *reconciler) remove(ctx context.Context, before, d *v1alpha1.Delivery) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(d, v1alpha1.FinalizerDelivery) {
		return ctrl.Result{}, nil
	}
	abandoned, err := abandoned(ctx, r.hub, d)
	if err != nil {
		return ctrl.Result{}, err
	}
	if abandoned {
		return ctrl.Result{}, letGo(ctx, r.hub, d)
	}
	partition := &v1alpha1.Partition{}
	if err := r.hub.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: d.Spec.Partition}, partition); apierrors.IsNotFound(err) {
		return ctrl.Result{}, letGo(ctx, r.hub, d) // its namespace went with it
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("reading partition %s: %w", d.Spec.Partition, err)
	}
	var errs []error
	for _, e := range d.Status.Inventory {
		// Delivered in this order, removed in it: pods go when their owner has gone.
		if _, err := r.delete(ctx, d, partition.MemberNamespace(), e); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		return ctrl.Result{}, letGo(ctx, r.hub, d)
	}
	failure := errors.Join(errs...)
	setCondition(d, v1alpha1.ConditionApplied, metav1.ConditionFalse, v1alpha1.ReasonDeleting, failure.Error())
	return ctrl.Result{}, errors.Join(failure, patchStatus(ctx, r.hub, before, d))
}

// abandoned says whether a Delivery's cluster is gone, or going and told to keep its workloads.
func abandoned(ctx context.Context, hub client.Reader, d *v1alpha1.Delivery) (bool, error) {
	cluster := &v1alpha1.Cluster{}
	if err := hub.Get(ctx, client.ObjectKey{Name: d.Spec.Cluster}, cluster); apierrors.IsNotFound(err) {
		return true, nil
	} else if err != nil {
		return false, fmt.Errorf("reading cluster %s: %w", d.Spec.Cluster, err)
	}
	return !cluster.DeletionTimestamp.IsZero() && cluster.Spec.OnRemoval != v1alpha1.RemovalDelete, nil
}

func letGo(ctx context.Context, hub client.Client, d *v1alpha1.Delivery) error {
	return reconcile.RemoveFinalizer(ctx, hub, d, v1alpha1.FinalizerDelivery)
}
