package cluster

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// NodeRow is a node in the list of the nodes of all clusters.
type NodeRow struct {
	Cluster string `json:"cluster"`
	Name    string `json:"name"`
	Ready   bool   `json:"ready"`
	// LastSeen is when the cluster last answered: what is shown is as old as that.
	LastSeen        metav1.Time `json:"lastSeen"`
	Address         string      `json:"address,omitempty"`
	Kernel          string      `json:"kernel,omitempty"`
	Runtime         string      `json:"runtime,omitempty"`
	Kubelet         string      `json:"kubelet,omitempty"`
	CPU             string      `json:"cpu"`
	CPURequested    string      `json:"cpuRequested"`
	CPULimits       string      `json:"cpuLimits"`
	Memory          string      `json:"memory"`
	MemoryRequested string      `json:"memoryRequested"`
	MemoryLimits    string      `json:"memoryLimits"`
	// Pods is "present/most".
	Pods     string   `json:"pods"`
	Warnings []string `json:"warnings,omitempty"`

	pods int
}

var nodeFields = []rest.Field[NodeRow]{
	{Name: "name", Text: func(r NodeRow) string { return r.Name }},
	{Name: "cluster", Text: func(r NodeRow) string { return r.Cluster }},
	{Name: "ready", Text: func(r NodeRow) string { return strconv.FormatBool(r.Ready) }},
	{Name: "address", Text: func(r NodeRow) string { return r.Address }},
	{Name: "kernel", Text: func(r NodeRow) string { return r.Kernel }},
	{Name: "runtime", Text: func(r NodeRow) string { return r.Runtime }},
	{Name: "kubelet", Text: func(r NodeRow) string { return r.Kubelet }},
	{Name: "pods", Text: func(r NodeRow) string { return r.Pods }, Compare: func(a, b NodeRow) int { return cmp.Compare(a.pods, b.pods) }},
}

func (a *API) mayList(r *http.Request) error {
	return a.Authorizer.Require(r.Context(), authorizationv1.ResourceAttributes{
		Verb: "list", Group: v1alpha1.GroupVersion.Group, Resource: "clusters", Subresource: "nodes",
	})
}

// nodes lists the nodes of all clusters, those of clusters that do not answer as last seen.
func (a *API) nodes(r *http.Request) (rest.Page[NodeRow], error) {
	if err := a.mayList(r); err != nil {
		return rest.Page[NodeRow]{}, err
	}
	list := &v1alpha1.ClusterList{}
	if err := a.Hub.List(r.Context(), list, client.UnsafeDisableDeepCopy); err != nil {
		return rest.Page[NodeRow]{}, fmt.Errorf("listing clusters: %w", err)
	}
	rows := []NodeRow{}
	for i := range list.Items {
		nodes, seen, err := a.inventory(r.Context(), list.Items[i].Name)
		if err != nil {
			return rest.Page[NodeRow]{}, err
		}
		for j := range nodes {
			rows = append(rows, nodeRow(list.Items[i].Name, seen, &nodes[j]))
		}
	}
	return rest.Paginate(rows, r.URL.Query(), nodeFields...)
}

// node gives one node with all that uses it.
func (a *API) node(r *http.Request) (*Node, error) {
	if err := a.mayList(r); err != nil {
		return nil, err
	}
	nodes, _, err := a.inventory(r.Context(), r.PathValue("cluster"))
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(nodes, func(n Node) bool { return n.Name == r.PathValue("node") })
	if i < 0 {
		return nil, rest.NotFound("nodes", r.PathValue("cluster")+"/"+r.PathValue("node"))
	}
	return &nodes[i], nil
}

// inventory gives the nodes of a cluster, none if it has never been connected.
func (a *API) inventory(ctx context.Context, cluster string) ([]Node, time.Time, error) {
	m, ok := a.Members.Member(cluster)
	if !ok {
		return nil, time.Time{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, cacheTimeout)
	defer cancel()
	nodes, err := Inventory(ctx, m)
	_, seen := m.Answering()
	return nodes, seen, err
}

func nodeRow(cluster string, seen time.Time, n *Node) NodeRow {
	quantity := func(name corev1.ResourceName) string { q := n.Allocatable[name]; return q.String() }
	share := func(of Shares, name corev1.ResourceName) string {
		s := of[name]
		return fmt.Sprintf("%s (%d%%)", s.Value.String(), s.Percent)
	}
	return NodeRow{
		Cluster: cluster, Name: n.Name, Ready: n.Ready, LastSeen: metav1.NewTime(seen), Address: internalAddress(n.Addresses),
		Kernel: n.KernelVersion, Runtime: n.ContainerRuntime, Kubelet: n.KubeletVersion,
		CPU: quantity(corev1.ResourceCPU), CPURequested: share(n.Requests, corev1.ResourceCPU), CPULimits: share(n.Limits, corev1.ResourceCPU),
		Memory: quantity(corev1.ResourceMemory), MemoryRequested: share(n.Requests, corev1.ResourceMemory), MemoryLimits: share(n.Limits, corev1.ResourceMemory),
		Pods: fmt.Sprintf("%d/%s", len(n.Pods), quantity(corev1.ResourcePods)), Warnings: n.Warnings, pods: len(n.Pods),
	}
}

func internalAddress(addresses []corev1.NodeAddress) string {
	var all []string
	for _, address := range addresses {
		if address.Type == corev1.NodeInternalIP {
			all = append(all, address.Address)
		}
	}
	return strings.Join(all, ",")
}
