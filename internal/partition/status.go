package partition

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
)

// observe tells what of the quota is used and what the node pool has left, from the member's cache.
func (r *reconciler) observe(ctx context.Context, p *v1alpha1.Partition) error {
	quota := &corev1.ResourceQuota{}
	err := r.member.Cache.Get(ctx, client.ObjectKey{Namespace: p.MemberNamespace(), Name: quotaName}, quota)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("reading the quota: %w", err)
	}
	p.Status.Hard, p.Status.Used = quota.Status.Hard, quota.Status.Used
	nodes, pods, err := r.member.NodesAndPods(ctx)
	if err != nil {
		return err
	}
	requested := map[string]corev1.ResourceList{}
	p.Status.Pods = 0
	for i := range pods {
		pod := &pods[i]
		if member.Ended(pod) {
			continue
		}
		if pod.Namespace == p.MemberNamespace() {
			p.Status.Pods++
		}
		if requested[pod.Spec.NodeName] == nil {
			requested[pod.Spec.NodeName] = corev1.ResourceList{}
		}
		member.Add(requested[pod.Spec.NodeName], member.Requests(pod))
		member.Add(requested[pod.Spec.NodeName], onePod)
	}
	p.Status.Nodes, p.Status.Free = 0, corev1.ResourceList{}
	for i := range nodes {
		node := &nodes[i]
		if holder := taintedFor(node); !selects(p, node) || holder != "" && holder != p.Namespace {
			continue
		}
		p.Status.Nodes++
		if !usable(node) {
			continue
		}
		free := node.Status.Allocatable.DeepCopy()
		member.Subtract(free, requested[node.Name])
		member.Add(p.Status.Free, free)
	}
	return nil
}

var onePod = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1")}

// usable says whether the scheduler puts pods on the node.
func usable(node *corev1.Node) bool {
	if node.Spec.Unschedulable {
		return false
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
