package cluster

import (
	"fmt"
	"net/http"
	"net/netip"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// kubeletPort is where kubelets answer unless their node says otherwise.
const kubeletPort = 10250

// ManagementPort is a port of a cluster that must be open to somebody who manages it, and to nobody else.
type ManagementPort struct {
	Component string `json:"component"`
	Node      string `json:"node,omitempty"`
	// Address is that with port.
	Address string `json:"address"`
	// From says who connects: what a firewall in between must let through.
	From string `json:"from"`
}

// managementPorts lists what a firewall in front of a cluster must let through. The platform itself needs the API server
// only: logs and commands go through it.
func (a *API) managementPorts(r *http.Request) ([]ManagementPort, error) {
	ctx, name := r.Context(), r.PathValue("cluster")
	if err := a.Authorizer.Require(ctx, authorizationv1.ResourceAttributes{
		Verb: "list", Group: v1alpha1.GroupVersion.Group, Resource: "clusters", Subresource: "nodes",
	}); err != nil {
		return nil, err
	}
	cluster := &v1alpha1.Cluster{}
	if err := a.Hub.Get(ctx, client.ObjectKey{Name: name}, cluster); err != nil {
		return nil, fmt.Errorf("looking for cluster %s: %w", name, err)
	}
	ports := []ManagementPort{}
	for _, address := range cluster.Status.Network.APIServers {
		ports = append(ports, ManagementPort{Component: "kube-apiserver", Address: address, From: "the platform, and the cluster's nodes"})
	}
	m, ok := a.Members.Member(name)
	if !ok {
		return ports, nil
	}
	nodes, _, err := m.NodesAndPods(ctx)
	if err != nil {
		return nil, err
	}
	for i := range nodes {
		for _, address := range nodes[i].Status.Addresses {
			ip, err := netip.ParseAddr(address.Address)
			if address.Type != corev1.NodeInternalIP || err != nil {
				continue
			}
			port := uint16(kubeletPort)
			if said := nodes[i].Status.DaemonEndpoints.KubeletEndpoint.Port; said > 0 {
				port = uint16(said)
			}
			ports = append(ports, ManagementPort{
				Component: "kubelet", Node: nodes[i].Name, Address: netip.AddrPortFrom(ip, port).String(), From: "the cluster's API servers",
			})
		}
	}
	return ports, nil
}
