package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"yunfan.io/yunfan/internal/member"
)

// Node is a node as it was last seen, with all that uses it. Its figures are those of kubectl describe node.
type Node struct {
	Name             string                 `json:"name"`
	Ready            bool                   `json:"ready"`
	Schedulable      bool                   `json:"schedulable"`
	Labels           map[string]string      `json:"labels,omitempty"`
	Taints           []corev1.Taint         `json:"taints,omitempty"`
	Addresses        []corev1.NodeAddress   `json:"addresses,omitempty"`
	OperatingSystem  string                 `json:"operatingSystem,omitempty"`
	OSImage          string                 `json:"osImage,omitempty"`
	Architecture     string                 `json:"architecture,omitempty"`
	KernelVersion    string                 `json:"kernelVersion,omitempty"`
	ContainerRuntime string                 `json:"containerRuntime,omitempty"`
	KubeletVersion   string                 `json:"kubeletVersion,omitempty"`
	Capacity         corev1.ResourceList    `json:"capacity,omitempty"`
	Allocatable      corev1.ResourceList    `json:"allocatable,omitempty"`
	Conditions       []corev1.NodeCondition `json:"conditions,omitempty"`
	// Warnings say what of the node is not as it should be, such as a kernel that is too old.
	Warnings []string `json:"warnings,omitempty"`
	// Pods that have not ended, by namespace and name.
	Pods []NodePod `json:"pods"`
	// Requests and Limits are the sums over the pods. Limits over 100 percent are overcommitment.
	Requests Shares `json:"requests"`
	Limits   Shares `json:"limits"`
}

// NodePod is what one pod asks of its node.
type NodePod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Requests  Shares `json:"requests"`
	Limits    Shares `json:"limits"`
}

// Shares are amounts by resource.
type Shares map[corev1.ResourceName]Share

// Share is an amount and how much it is of what the node can give, in percent, rounded down.
type Share struct {
	Value   resource.Quantity `json:"value"`
	Percent int64             `json:"percent"`
}

// Inventory gives the member's nodes in the order of their names, from its cache.
func Inventory(ctx context.Context, m *member.Member) ([]Node, error) {
	nodes, pods, err := m.NodesAndPods(ctx)
	if err != nil {
		return nil, err
	}
	byNode := map[string][]*corev1.Pod{}
	for i := range pods {
		if p := &pods[i]; p.Spec.NodeName != "" && !member.Ended(p) {
			byNode[p.Spec.NodeName] = append(byNode[p.Spec.NodeName], p)
		}
	}
	inventory := make([]Node, len(nodes))
	for i := range nodes {
		inventory[i] = describe(&nodes[i], byNode[nodes[i].Name])
	}
	slices.SortFunc(inventory, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	return inventory, nil
}

func describe(node *corev1.Node, pods []*corev1.Pod) Node {
	info, allocatable := node.Status.NodeInfo, node.Status.Allocatable
	out := Node{
		Name: node.Name, Ready: ready(node), Schedulable: !node.Spec.Unschedulable, Labels: node.Labels, Taints: node.Spec.Taints,
		Addresses: node.Status.Addresses, OperatingSystem: info.OperatingSystem, OSImage: info.OSImage, Architecture: info.Architecture,
		KernelVersion: info.KernelVersion, ContainerRuntime: info.ContainerRuntimeVersion, KubeletVersion: info.KubeletVersion,
		Capacity: node.Status.Capacity, Allocatable: allocatable, Conditions: node.Status.Conditions, Pods: []NodePod{},
	}
	if why := oldKernel(info); why != "" {
		out.Warnings = append(out.Warnings, why)
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	for _, p := range pods {
		podRequests, podLimits := member.Requests(p), member.Limits(p)
		member.Add(requests, podRequests)
		member.Add(limits, podLimits)
		out.Pods = append(out.Pods, NodePod{
			Namespace: p.Namespace, Name: p.Name, Requests: shares(podRequests, allocatable), Limits: shares(podLimits, allocatable),
		})
	}
	out.Requests, out.Limits = shares(requests, allocatable), shares(limits, allocatable)
	return out
}

func shares(values, of corev1.ResourceList) Shares {
	out := Shares{}
	for name, value := range values {
		share := Share{Value: value}
		if whole := of[name]; !whole.IsZero() {
			const percent = 100
			share.Percent = int64(value.AsApproximateFloat64() / whole.AsApproximateFloat64() * percent)
		}
		out[name] = share
	}
	return out
}

// oldKernel says that a Linux kernel is older than containers need; empty if it is not, or cannot be told.
func oldKernel(info corev1.NodeSystemInfo) string {
	const wantMajor, wantMinor = 3, 10
	parts := strings.SplitN(info.KernelVersion, ".", 3)
	if info.OperatingSystem != "linux" || len(parts) < 2 {
		return ""
	}
	major, err := strconv.Atoi(parts[0])
	if err != nil {
		return ""
	}
	minor, err := strconv.Atoi(strings.TrimRightFunc(parts[1], func(r rune) bool { return r < '0' || r > '9' }))
	if err != nil || major > wantMajor || major == wantMajor && minor >= wantMinor {
		return ""
	}
	return fmt.Sprintf("kernel %s is older than %d.%d: upgrade it before the node is used", info.KernelVersion, wantMajor, wantMinor)
}
