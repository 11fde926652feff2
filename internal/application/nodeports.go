package application

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// NodePorts reserves node ports on clusters.
type NodePorts interface {
	// Reserve takes all ports for their owner, or none and gives an error of kind reconcile.Stalled that names who has
	// them. Ports that the owner has already stay.
	Reserve(ctx context.Context, wants []v1alpha1.NodePortSpec) error
}

// nodePortsOf are the node ports that a revision's services ask for in a partition.
func nodePortsOf(tenant string, r *v1alpha1.ApplicationRevision, partition, cluster string) []v1alpha1.NodePortSpec {
	overrides := map[string]map[string]int32{}
	for _, o := range r.OverridesFor(partition) {
		overrides[o.Component] = o.NodePorts
	}
	var specs []v1alpha1.NodePortSpec
	for i := range r.Spec.Components {
		c := &r.Spec.Components[i]
		if c.Service == nil || c.Service.Type == "" || c.Service.Type == corev1.ServiceTypeClusterIP {
			continue
		}
		for _, port := range c.Service.Ports {
			number := port.NodePort
			if other, ok := overrides[c.Name][port.Name]; ok {
				number = other
			}
			if number != 0 {
				specs = append(specs, v1alpha1.NodePortSpec{Cluster: cluster, Port: number, Owner: v1alpha1.NodePortOwner{
					Tenant: tenant, Application: r.Spec.Application, Partition: partition, Component: c.Name, PortName: port.Name,
				}})
			}
		}
	}
	return specs
}

// checkNodePorts refuses ports that the application asks for twice or that somebody else has. Reserving decides; this
// only says it earlier.
func (w *world) checkNodePorts(wanted []v1alpha1.NodePortSpec) error {
	var problems []string
	seen := map[string]v1alpha1.NodePortOwner{}
	for _, spec := range wanted {
		name := v1alpha1.NodePortName(spec.Cluster, spec.Port)
		if first, twice := seen[name]; twice {
			problems = append(problems, fmt.Sprintf("node port %d of cluster %s is wanted twice: by %s in partition %s and by %s in partition %s",
				spec.Port, spec.Cluster, first.Component, first.Partition, spec.Owner.Component, spec.Owner.Partition))
		}
		seen[name] = spec.Owner
		if taken := w.nodePorts[name]; taken != nil && !w.owns(&taken.Spec) {
			o := taken.Spec.Owner
			owner := "another tenant" // of whom nothing is told
			if o.Tenant == w.app.Namespace {
				owner = fmt.Sprintf("component %s of application %s of tenant %s in partition %s", o.Component, o.Application, o.Tenant, o.Partition)
			}
			problems = append(problems, fmt.Sprintf("node port %d of cluster %s belongs to %s", spec.Port, spec.Cluster, owner))
		}
	}
	if problems != nil {
		return reconcile.Stall(v1alpha1.ReasonNodePortTaken,
			"%s: choose another in service.ports[].nodePort or, for one partition, in overrides[].nodePorts", strings.Join(problems, "; "))
	}
	return nil
}

func (w *world) owns(spec *v1alpha1.NodePortSpec) bool {
	return spec.Owner.Tenant == w.app.Namespace && spec.Owner.Application == w.app.Name
}

// reserve reserves the plan's node ports, unless the cache says that the application has them all. They are released
// elsewhere, once no service has them any more.
func (r *Reconciler) reserve(ctx context.Context, w *world, p *Plan) error {
	missing := slices.ContainsFunc(p.NodePorts, func(spec v1alpha1.NodePortSpec) bool {
		have := w.nodePorts[v1alpha1.NodePortName(spec.Cluster, spec.Port)]
		return have == nil || have.DeletionTimestamp != nil || have.Spec != spec
	})
	if !missing {
		return nil
	}
	if err := r.nodePorts.Reserve(ctx, p.NodePorts); err != nil {
		return fmt.Errorf("reserving node ports: %w", err)
	}
	return nil
}
