package cluster

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/reconcile"
)

// cacheTimeout bounds the wait for a cache that is still being filled.
const cacheTimeout = 3 * time.Second

// StartForMember has the sums made again when nodes or pods of the member change.
func (c *Controller) StartForMember(ctx context.Context, _ manager.Manager, m *member.Member) error {
	request := ctrl.Request{NamespacedName: types.NamespacedName{Name: m.Name}}
	again := func() { c.queue.AddAfter(request, summaryDelay) }
	handler := toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { again() },
		UpdateFunc: func(any, any) { again() },
		DeleteFunc: func(any) { again() },
	}
	for _, object := range []client.Object{&corev1.Node{}, &corev1.Pod{}} {
		informer, err := m.Cache.GetInformer(ctx, object)
		if err != nil {
			return fmt.Errorf("watching %T: %w", object, err)
		}
		if _, err := informer.AddEventHandler(handler); err != nil {
			return fmt.Errorf("watching %T: %w", object, err)
		}
	}
	return nil
}

// summarise sums up the cluster's nodes and pods.
func (c *Controller) summarise(ctx context.Context, cluster *v1alpha1.Cluster) error {
	m, ok := c.members.Member(cluster.Name)
	if !ok {
		return reconcile.Wait(v1alpha1.ReasonReconciling, summaryDelay, "admitting the cluster")
	}
	ctx, cancel := context.WithTimeout(ctx, cacheTimeout)
	defer cancel()
	nodes, pods, err := m.NodesAndPods(ctx)
	if err != nil {
		return reconcile.Wait(v1alpha1.ReasonReconciling, summaryDelay, "reading the cluster's nodes and pods for the first time: %w", err)
	}
	status := &cluster.Status
	status.Nodes = v1alpha1.NodeCount{}
	status.Capacity, status.Allocatable, status.Requested = corev1.ResourceList{}, corev1.ResourceList{}, corev1.ResourceList{}
	for i := range nodes {
		node := &nodes[i]
		status.Nodes.Total++
		member.Add(status.Capacity, node.Status.Capacity)
		if !ready(node) {
			continue
		}
		status.Nodes.Ready++
		if !node.Spec.Unschedulable {
			member.Add(status.Allocatable, node.Status.Allocatable)
		}
	}
	running := int64(0)
	for i := range pods {
		if !member.Ended(&pods[i]) {
			running++
			member.Add(status.Requested, member.Requests(&pods[i]))
		}
	}
	status.Requested[corev1.ResourcePods] = *resource.NewQuantity(running, resource.DecimalSI)
	return nil
}

func ready(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
