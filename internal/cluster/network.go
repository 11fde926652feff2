package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/reconcile"
)

const (
	// maxRanges bounds the ranges in a cluster's status, for each kind of address.
	maxRanges = 32
	// maxServers bounds the API servers in a cluster's status.
	maxServers = 32
)

// servers are a cluster's API servers as they were read last.
type servers struct {
	addresses []string
	read      time.Time
}

// addresses finds out which of the cluster's addresses are kept from tenants' pods.
func (c *Controller) addresses(ctx context.Context, cluster *v1alpha1.Cluster) error {
	m, ok := c.members.Member(cluster.Name)
	if !ok {
		return reconcile.Wait(v1alpha1.ReasonReconciling, summaryDelay, "admitting the cluster")
	}
	known := c.servers(cluster.Name)
	if time.Since(known.read) >= seenInterval {
		addresses, err := apiServers(ctx, m)
		if err != nil {
			return fmt.Errorf("finding the API servers: %w", err)
		}
		known = servers{addresses: addresses, read: time.Now()}
		c.know(cluster.Name, known)
	}
	nodes, _, err := m.NodesAndPods(ctx)
	if err != nil {
		return err
	}
	cluster.Status.Network = networkOf(nodes, cluster.Spec.PodCIDRs)
	cluster.Status.Network.APIServers = known.addresses
	return nil
}

func (c *Controller) servers(cluster string) servers {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.apiServers[cluster]
}

func (c *Controller) know(cluster string, s servers) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.apiServers[cluster] = s
}

// apiServers gives the addresses behind the Service default/kubernetes, and the one that the platform uses if it is no
// name.
func apiServers(ctx context.Context, m *member.Member) ([]string, error) {
	var slice discoveryv1.EndpointSliceList
	err := m.Client.List(ctx, &slice, client.InNamespace(metav1.NamespaceDefault), client.MatchingLabels{discoveryv1.LabelServiceName: "kubernetes"})
	if err != nil {
		return nil, fmt.Errorf("listing the endpoints of default/kubernetes: %w", err)
	}
	var out []string
	for i := range slice.Items {
		for _, endpoint := range slice.Items[i].Endpoints {
			for _, port := range slice.Items[i].Ports {
				if address, err := netip.ParseAddr(endpoint.Addresses[0]); err == nil && port.Port != nil {
					out = append(out, netip.AddrPortFrom(address, uint16(*port.Port)).String())
				}
			}
		}
	}
	if own, ok := member.Address(m.Config.Host); ok {
		out = append(out, own.String())
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(len(out), maxServers)], nil
}

func networkOf(nodes []corev1.Node, podCIDRs []string) v1alpha1.ClusterNetwork {
	var hosts, pods []netip.Prefix
	for _, cidr := range podCIDRs {
		if p, err := netip.ParsePrefix(cidr); err == nil { // the CRD refuses others
			pods = append(pods, p)
		}
	}
	for i := range nodes {
		for _, address := range nodes[i].Status.Addresses {
			if a, err := netip.ParseAddr(address.Address); err == nil { // host names are none
				hosts = append(hosts, netip.PrefixFrom(a, a.BitLen()))
			}
		}
		for _, cidr := range nodes[i].Spec.PodCIDRs {
			if p, err := netip.ParsePrefix(cidr); err == nil && len(podCIDRs) == 0 {
				pods = append(pods, p)
			}
		}
	}
	return v1alpha1.ClusterNetwork{Nodes: texts(hosts), Pods: texts(pods)}
}

func texts(prefixes []netip.Prefix) []string {
	var out []string
	for _, p := range member.Aggregate(prefixes, maxRanges) {
		out = append(out, p.String())
	}
	return out
}
