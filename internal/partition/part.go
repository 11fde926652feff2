package partition

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

const (
	// lowerInterval is how often is looked whether the cluster has lowered the quota of a partition for its parts.
	lowerInterval = 500 * time.Millisecond
	// refusedInterval is how often a part that its parent has no room for looks again.
	refusedInterval = 10 * time.Second
)

// allocatePart takes a sub-partition's quota out of its parent's. It has it when the cluster has lowered the parent's
// own quota by it, and what runs in the parent fits into the rest: from then on the parent cannot grow into it.
func (r *reconciler) allocatePart(ctx context.Context, p *v1alpha1.Partition) error {
	parent, err := r.parent(ctx, p)
	if err != nil {
		return err
	}
	a, err := r.parentAccount(ctx, parent)
	if err != nil {
		return err
	}
	now, err := granted(ctx, r.member.Cache, p)
	if err != nil {
		return err
	}
	if len(a.quota) == 0 || a.of(p.Name) != nil && covers(now, v1alpha1.NormalizedQuota(p.Spec.Quota)) {
		return r.take(ctx, a, p) // nothing more than the cluster grants it already
	}
	own := &corev1.ResourceQuota{}
	if err := r.member.Client.Get(ctx, quotaOf(parent), own); err != nil {
		return reconcile.Wait(v1alpha1.ReasonPartitionNotReady, time.Second, "reading the quota of partition %s in cluster %s: %w", parent.Name, r.member.Name, err)
	}
	a.used = v1alpha1.NormalizedQuota(own.Status.Used)
	if now, err = granted(ctx, r.member.Client, p); err != nil {
		return err
	}
	if err = r.take(ctx, a, p); err == nil {
		err = r.carved(ctx, a, p, own, now)
	}
	if refused, ok := errors.AsType[*reconcile.Stalled](err); ok {
		// No event tells that the parent uses less.
		return reconcile.Wait(refused.Reason, refusedInterval, "%w", refused.Err)
	}
	return err
}

// carved waits until the parent's own quota leaves room for what the part was given, and gives it back if what runs in
// the parent meanwhile does not.
func (r *reconciler) carved(ctx context.Context, a *account, p *v1alpha1.Partition, own *corev1.ResourceQuota, granted corev1.ResourceList) error {
	rest := less(a.quota, *a.given)
	hard, used := v1alpha1.NormalizedQuota(own.Status.Hard), v1alpha1.NormalizedQuota(own.Status.Used)
	for _, name := range slices.Sorted(maps.Keys(rest)) {
		if now, ok := hard[name]; !ok || now.Cmp(rest[name]) > 0 {
			return reconcile.Wait(v1alpha1.ReasonReconciling, lowerInterval,
				"waiting until the quota of %s itself is lowered to %s %s in cluster %s", a.name, amount(rest, name), name, r.member.Name)
		}
		if has := used[name]; has.Cmp(rest[name]) > 0 {
			a.used = used
			wanted := a.of(p.Name)
			if err := r.write(ctx, a, p.Name, granted); err != nil {
				return err
			}
			return a.fits(p.Name, granted, wanted)
		}
	}
	return nil
}

// granted is the quota that the cluster enforces for the partition; nil if none.
func granted(ctx context.Context, from client.Reader, p *v1alpha1.Partition) (corev1.ResourceList, error) {
	quota := &corev1.ResourceQuota{}
	err := from.Get(ctx, quotaOf(p), quota)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the quota: %w", err)
	}
	if quota.Labels[v1alpha1.LabelTenant] != p.Namespace || quota.Labels[v1alpha1.LabelPartition] != p.Name {
		return nil, nil
	}
	return v1alpha1.NormalizedQuota(quota.Spec.Hard), nil
}

func quotaOf(p *v1alpha1.Partition) client.ObjectKey {
	return client.ObjectKey{Namespace: p.MemberNamespace(), Name: quotaName}
}

// parent reads the partition that p is a part of, and says why p cannot be.
func (h *hubSide) parent(ctx context.Context, p *v1alpha1.Partition) (*v1alpha1.Partition, error) {
	parent := &v1alpha1.Partition{}
	err := h.reader.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: p.Spec.Parent}, parent)
	invalid := func(format string, args ...any) (*v1alpha1.Partition, error) {
		return nil, reconcile.Stall(v1alpha1.ReasonInvalid, format, args...)
	}
	switch {
	case apierrors.IsNotFound(err):
		return nil, reconcile.Stall(v1alpha1.ReasonPartitionNotFound,
			"partition %s, which this one is to be a part of, does not exist in tenant %s", p.Spec.Parent, p.Namespace)
	case err != nil:
		return nil, fmt.Errorf("reading partition %s: %w", p.Spec.Parent, err)
	case !parent.DeletionTimestamp.IsZero():
		return nil, reconcile.Stall(v1alpha1.ReasonPartitionNotFound, "partition %s, which this one is to be a part of, is being deleted", parent.Name)
	case parent.Spec.Parent != "":
		return invalid("partition %s is itself a part of %s: name that one in spec.parent", parent.Name, parent.Spec.Parent)
	case parent.Spec.Cluster != p.Spec.Cluster:
		return invalid("partition %s is in cluster %s: a part of it is in the same cluster", parent.Name, parent.Spec.Cluster)
	case !strings.HasPrefix(p.MemberNamespace(), p.Namespace+"-"):
		return invalid("spec.namespace of a sub-partition begins with %s-: make one with another, or without", p.Namespace)
	case p.Status.Namespace == "":
		if _, err := inherit(p, parent); err != nil {
			return nil, err
		}
	}
	return parent, nil
}

// parentAccount is what a partition may give to its parts: what its spec says, as far as the tenant has given it.
func (h *hubSide) parentAccount(ctx context.Context, parent *v1alpha1.Partition) (*account, error) {
	tenant, err := h.tenantAccount(ctx, parent)
	if err != nil {
		return nil, err
	}
	granted := tenant.of(parent.Name)
	if granted == nil {
		return nil, reconcile.Wait(v1alpha1.ReasonPartitionNotReady, time.Second, "partition %s, which this one is to be a part of, has no quota of its tenant yet", parent.Name)
	}
	quota := v1alpha1.NormalizedQuota(parent.Spec.Quota)
	for name, wanted := range quota {
		if has, ok := granted[name]; ok && has.Cmp(wanted) < 0 {
			quota[name] = has
		}
	}
	return &account{holder: parent, name: "partition " + parent.Name, quota: quota, given: &parent.Status.Allocated}, nil
}

// coversParts refuses a quota that is less than what was given to the partition's parts.
func coversParts(p *v1alpha1.Partition) error {
	a := &account{name: "partition " + p.Name, quota: v1alpha1.NormalizedQuota(p.Spec.Quota), given: &p.Status.Allocated}
	for _, name := range slices.Sorted(maps.Keys(a.quota)) {
		for _, g := range *a.given {
			if _, set := v1alpha1.NormalizedQuota(g.Quota)[name]; !set {
				return reconcile.Stall(v1alpha1.ReasonQuotaExceeded,
					"its part %s has no quota of %s: set spec.quota[%q] there first", g.Partition, name, name)
			}
		}
		given, holders := a.givenToOthers("", name)
		if hard := a.quota[name]; given.Cmp(hard) > 0 {
			return reconcile.Stall(v1alpha1.ReasonQuotaExceeded, "%s: %s is too little, its parts were given %s (%s): lower their quotas first",
				name, hard.String(), given.String(), holders)
		}
	}
	return nil
}

// reclaim takes out of the partition's ledger what does not exist any more, such as a part whose finalizer somebody
// removed.
func (r *reconciler) reclaim(ctx context.Context, p *v1alpha1.Partition) error {
	for _, g := range p.Status.Allocated {
		part := &v1alpha1.Partition{}
		err := r.reader.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: g.Partition}, part)
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("reading partition %s: %w", g.Partition, err)
		}
		if err == nil && part.Spec.Parent == p.Name {
			continue
		}
		left := p.DeepCopy() // as it was read: if a part has been given something since, this is a conflict
		a := &account{holder: left, name: "partition " + p.Name, given: &left.Status.Allocated}
		if err := r.write(ctx, a, g.Partition, nil); err != nil {
			return err
		}
		p.Status.Allocated, p.ResourceVersion = left.Status.Allocated, left.ResourceVersion
	}
	return nil
}

// made gives the partition as its cluster should have it: with what a part has of its parent, and without what was given
// to parts.
func (r *reconciler) made(ctx context.Context, p *v1alpha1.Partition) (*v1alpha1.Partition, error) {
	if p.Spec.Parent == "" && len(p.Status.Allocated) == 0 {
		return p, nil
	}
	if p.Spec.Parent == "" {
		out := p.DeepCopy()
		out.Spec.Quota = less(out.Spec.Quota, p.Status.Allocated)
		return out, nil
	}
	parent := &v1alpha1.Partition{}
	if err := r.client.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: p.Spec.Parent}, parent); err != nil {
		return nil, fmt.Errorf("reading partition %s: %w", p.Spec.Parent, err)
	}
	out, _ := inherit(p, parent) // what is refused is told at the end: see inherits
	p.Status.Pool = &out.Spec.Nodes
	return out, nil
}

// inherits tells what a part asks for that its parent does not have any more. It is not enforced so in the cluster.
func (r *reconciler) inherits(ctx context.Context, p *v1alpha1.Partition) error {
	if p.Spec.Parent == "" {
		return nil
	}
	parent := &v1alpha1.Partition{}
	if err := r.client.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: p.Spec.Parent}, parent); err != nil {
		return fmt.Errorf("reading partition %s: %w", p.Spec.Parent, err)
	}
	_, err := inherit(p, parent)
	return err
}

// less gives a quota without what was given of it, never below zero.
func less(quota corev1.ResourceList, given []v1alpha1.Allocation) corev1.ResourceList {
	rest := corev1.ResourceList{}
	for name, q := range quota {
		left := q.DeepCopy()
		for _, g := range given {
			left.Sub(v1alpha1.NormalizedQuota(g.Quota)[full(name)])
		}
		if left.Sign() < 0 {
			left = resource.Quantity{}
		}
		rest[name] = left
	}
	return rest
}

// full is a resource's name in a normalized quota.
func full(name corev1.ResourceName) corev1.ResourceName {
	for normal := range v1alpha1.NormalizedQuota(corev1.ResourceList{name: {}}) {
		return normal
	}
	return name
}

func amount(of corev1.ResourceList, name corev1.ResourceName) string {
	q := of[name]
	return q.String()
}

// covers says whether a quota grants everything that another does.
func covers(granted, wanted corev1.ResourceList) bool {
	return granted != nil && same(atLeast(granted, wanted), granted)
}

// partsGone waits until a partition that is being deleted has no parts any more.
func (h *hubSide) partsGone(ctx context.Context, p *v1alpha1.Partition) error {
	var all v1alpha1.PartitionList
	if err := h.reader.List(ctx, &all, client.InNamespace(p.Namespace)); err != nil {
		return fmt.Errorf("listing partitions: %w", err)
	}
	var names []string
	for i := range all.Items {
		if all.Items[i].Spec.Parent == p.Name {
			names = append(names, all.Items[i].Name)
		}
	}
	if names == nil {
		return nil
	}
	return reconcile.Wait(v1alpha1.ReasonInUse, 0, "these partitions are parts of it: %s; delete them first", strings.Join(names, ", "))
}

// family finds a partition's parent and, if what they take from it may have changed, its parts.
func (h *hubSide) family(ctx context.Context, p *v1alpha1.Partition) []ctrl.Request {
	requests := []ctrl.Request{{NamespacedName: client.ObjectKeyFromObject(p)}}
	if p.Spec.Parent != "" {
		return append(requests, ctrl.Request{NamespacedName: client.ObjectKey{Namespace: p.Namespace, Name: p.Spec.Parent}})
	}
	return append(requests, h.partitions(ctx, func(part *v1alpha1.Partition) bool {
		return part.Namespace == p.Namespace && part.Spec.Parent == p.Name
	})...)
}
