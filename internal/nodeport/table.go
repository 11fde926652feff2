package nodeport

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Row is one port in the list of ports in use.
type Row struct {
	// Cluster on whose nodes the port is, or from which the external service is reached.
	Cluster string `json:"cluster"`
	// Namespace of the service in the cluster; empty while it is only reserved.
	Namespace string `json:"namespace,omitempty"`
	// Service that has the port.
	Service string `json:"service"`
	// Address is the service's own IP address, or that of the host outside Kubernetes.
	Address string `json:"address,omitempty"`
	// Port is the node port, or the port of the host outside Kubernetes.
	Port int32 `json:"port"`
	// Protocol of the port.
	Protocol corev1.Protocol `json:"protocol,omitempty"`
	// External says that the port is on a host outside Kubernetes.
	External bool `json:"external,omitempty"`
	// Tenant, Application, Component and Partition are empty for services that Yunfan did not make.
	Tenant      string `json:"tenant,omitempty"`
	Application string `json:"application,omitempty"`
	Component   string `json:"component,omitempty"`
	Partition   string `json:"partition,omitempty"`
}

// List gives every port in use or reserved on every cluster, services that Yunfan did not make included, and the ports
// of External components. It reads caches only, so a cluster that does not answer is shown as last seen.
func (p *Ports) List(ctx context.Context) ([]Row, error) {
	clusters := &v1alpha1.ClusterList{}
	if err := p.Hub.List(ctx, clusters); err != nil {
		return nil, fmt.Errorf("listing clusters: %w", err)
	}
	var rows []Row
	seen := map[string]bool{}
	for i := range clusters.Items {
		name := clusters.Items[i].Name
		services, err := p.services(ctx, name)
		if err != nil {
			return nil, err
		}
		for j := range services {
			rows = append(rows, serviceRows(name, &services[j])...)
		}
		external, err := p.external(ctx, name)
		if err != nil {
			return nil, err
		}
		rows = append(rows, external...)
	}
	for _, row := range rows {
		if !row.External {
			seen[v1alpha1.NodePortName(row.Cluster, row.Port)] = true
		}
	}
	reserved := &v1alpha1.NodePortList{}
	if err := p.Hub.List(ctx, reserved); err != nil {
		return nil, fmt.Errorf("listing reservations: %w", err)
	}
	for i := range reserved.Items {
		if spec := reserved.Items[i].Spec; !seen[v1alpha1.NodePortName(spec.Cluster, spec.Port)] {
			rows = append(rows, Row{
				Cluster: spec.Cluster, Service: spec.Owner.Component, Port: spec.Port, Tenant: spec.Owner.Tenant,
				Application: spec.Owner.Application, Component: spec.Owner.Component, Partition: spec.Owner.Partition,
			})
		}
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Address, b.Address))
	})
	return rows, nil
}

func serviceRows(cluster string, s *corev1.Service) []Row {
	var rows []Row
	for _, port := range s.Spec.Ports {
		if port.NodePort == 0 {
			continue
		}
		row := row(cluster, s)
		row.Service, row.Address, row.Port, row.Protocol = s.Name, s.Spec.ClusterIP, port.NodePort, port.Protocol
		rows = append(rows, row)
	}
	return rows
}

func row(cluster string, o client.Object) Row {
	labels := o.GetLabels()
	return Row{
		Cluster: cluster, Namespace: o.GetNamespace(), Tenant: labels[v1alpha1.LabelTenant], Application: labels[v1alpha1.LabelApplication],
		Component: labels[v1alpha1.LabelComponent], Partition: labels[v1alpha1.LabelPartition],
	}
}

func (p *Ports) external(ctx context.Context, cluster string) ([]Row, error) {
	m, ok := p.Members.Member(cluster)
	if !ok {
		return nil, nil
	}
	list := &discoveryv1.EndpointSliceList{}
	ours := client.MatchingLabels{discoveryv1.LabelManagedBy: v1alpha1.FieldOwner}
	if err := m.Cache.List(ctx, list, ours, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing external services of cluster %s: %w", cluster, err)
	}
	var rows []Row
	for i := range list.Items {
		slice := &list.Items[i]
		for _, endpoint := range slice.Endpoints {
			for _, port := range slice.Ports {
				row := row(cluster, slice)
				row.Service, row.Address, row.External = slice.Labels[discoveryv1.LabelServiceName], endpoint.Addresses[0], true
				row.Port, row.Protocol = ptr.Deref(port.Port, 0), ptr.Deref(port.Protocol, corev1.ProtocolTCP)
				rows = append(rows, row)
			}
		}
	}
	return rows, nil
}
