package partition

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/reconcile"
)

// reserveNodes keeps the nodes of all exclusive pools of the cluster for their tenants, and gives back the nodes of
// pools that are no longer exclusive. A node that two tenants want goes to the older partition.
func (r *reconciler) reserveNodes(ctx context.Context, p *v1alpha1.Partition) error {
	r.taints.Lock()
	defer r.taints.Unlock()
	exclusive, err := r.exclusivePartitions(ctx)
	if err != nil {
		return err
	}
	var nodes corev1.NodeList
	if err := r.member.Cache.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing nodes: %w", err)
	}
	// A cache lists in no order: the condition always names the same node.
	slices.SortFunc(nodes.Items, func(a, b corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	var conflict error
	for i := range nodes.Items {
		node := &nodes.Items[i]
		holder := holderOf(exclusive, node)
		if err := taint(ctx, r.member, node, holder); err != nil {
			return err
		}
		if wantsAlone(p) && selects(p, node) && holder != nil && holder.Namespace != p.Namespace {
			conflict = reconcile.Stall(v1alpha1.ReasonInvalid, "node %s is already kept for tenant %s by its partition %s: "+
				"change spec.nodes so that the pools have no node in common", node.Name, holder.Namespace, holder.Name)
		}
	}
	return conflict
}

// exclusivePartitions are those of the cluster with a pool of their own, oldest first.
func (r *reconciler) exclusivePartitions(ctx context.Context) ([]*v1alpha1.Partition, error) {
	var all v1alpha1.PartitionList
	if err := r.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing partitions: %w", err)
	}
	var exclusive []*v1alpha1.Partition
	for i := range all.Items {
		if p := &all.Items[i]; p.Spec.Cluster == r.member.Name && wantsAlone(p) {
			exclusive = append(exclusive, p)
		}
	}
	slices.SortFunc(exclusive, func(a, b *v1alpha1.Partition) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return exclusive, nil
}

// wantsAlone says whether the partition keeps nodes for its tenant. A sub-partition does not: its nodes are its parent's.
func wantsAlone(p *v1alpha1.Partition) bool {
	return p.Spec.Parent == "" && p.Spec.Nodes.Exclusive && p.DeletionTimestamp.IsZero()
}

func selects(p *v1alpha1.Partition, node *corev1.Node) bool {
	return labels.SelectorFromSet(p.NodePool().Selector).Matches(labels.Set(node.Labels))
}

func holderOf(exclusive []*v1alpha1.Partition, node *corev1.Node) *v1alpha1.Partition {
	for _, p := range exclusive {
		if selects(p, node) {
			return p
		}
	}
	return nil
}

// taint sets or removes our taint of one node.
func taint(ctx context.Context, m *member.Member, cached *corev1.Node, holder *v1alpha1.Partition) error {
	tenant := ""
	if holder != nil {
		tenant = holder.Namespace
	}
	if taintedFor(cached) == tenant {
		return nil
	}
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		node := &corev1.Node{}
		if err := m.Client.Get(ctx, client.ObjectKeyFromObject(cached), node); err != nil {
			return client.IgnoreNotFound(err)
		}
		if taintedFor(node) == tenant {
			return nil
		}
		node.Spec.Taints = slices.DeleteFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == v1alpha1.TaintTenant })
		if tenant != "" {
			node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: v1alpha1.TaintTenant, Value: tenant, Effect: corev1.TaintEffectNoSchedule})
		}
		if err := m.Client.Update(ctx, node, client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
			return fmt.Errorf("changing the taint of node %s: %w", node.Name, err)
		}
		return nil
	})
}

func taintedFor(node *corev1.Node) string {
	for _, t := range node.Spec.Taints {
		if t.Key == v1alpha1.TaintTenant {
			return t.Value
		}
	}
	return ""
}
