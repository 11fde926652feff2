package application

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/placement"
	"yunfan.io/yunfan/internal/reconcile"
)

const (
	requestsPrefix = "requests."
	limitsPrefix   = "limits."
)

// checkQuota refuses a plan that the quota of one of its partitions cannot hold beside what others use there. What only
// shrinks is never refused.
func (w *world) checkQuota(choices []placement.Choice, p *Plan) error {
	var problems []string
	for i, choice := range choices {
		partition := choice.Partition
		hard := hardOf(partition)
		if len(hard) == 0 {
			continue
		}
		wanted := demandOf(p.Revision, &p.Deliveries[i].Spec, partition)
		own := corev1.ResourceList{}
		if d := w.deliveries[partition.Name]; d != nil {
			if r := w.revisions[stableTrack(d).Revision]; r != nil {
				own = demandOf(r, &d.Spec, partition)
			}
		}
		problems = append(problems, exceeded(partition.Name, hard, v1alpha1.NormalizedQuota(partition.Status.Used), own, wanted)...)
	}
	if problems != nil {
		return reconcile.Stall(v1alpha1.ReasonQuotaExceeded, "%s: ask for less, or have the quota raised", strings.Join(problems, "; "))
	}
	return nil
}

// exceeded compares, per resource of the quota, what is wanted with what others leave.
func exceeded(partition string, hard, used, own, wanted corev1.ResourceList) (problems []string) {
	for _, name := range slices.Sorted(maps.Keys(hard)) {
		want, asked := wanted[name]
		if !asked {
			continue
		}
		has, limit, others := own[name], hard[name], used[name].DeepCopy()
		others.Sub(has)
		if others.Sign() < 0 {
			others = resource.Quantity{} // What the application has is not counted by the cluster yet.
		}
		total := others.DeepCopy()
		total.Add(want)
		if want.Cmp(has) > 0 && total.Cmp(limit) > 0 {
			problems = append(problems, fmt.Sprintf("the quota of partition %s does not hold it: %s: %s wanted, others use %s of %s",
				partition, name, want.String(), others.String(), limit.String()))
		}
	}
	return problems
}

// demandOf is what an application takes of a partition's quota: its pods by their number, and its other objects.
func demandOf(r *v1alpha1.ApplicationRevision, d *v1alpha1.DeliverySpec, p *v1alpha1.Partition) corev1.ResourceList {
	demand := corev1.ResourceList{}
	pods := podsOf(r.Spec.Components, r.OverridesFor(p.Name), p.Spec.Limits)
	for i := range r.Spec.Components {
		c := &r.Spec.Components[i]
		n := int64(d.Tracks[0].Replicas[c.Name])
		if c.Workload == v1alpha1.WorkloadDaemonSet {
			n = int64(p.Status.Nodes)
		}
		if d.Stopped {
			n = 0
		}
		for name, quantity := range pods[c.Name] {
			increase(demand, name, quantity, n)
		}
		addObjects(demand, c, n)
	}
	for _, pin := range r.Spec.Configurations {
		if pin.Type == v1alpha1.ConfigurationSecret {
			increase(demand, corev1.ResourceSecrets, one, 1)
		} else {
			increase(demand, corev1.ResourceConfigMaps, one, 1)
		}
	}
	return demand
}

// addObjects adds a component's services and claims.
func addObjects(demand corev1.ResourceList, c *v1alpha1.Component, pods int64) {
	if c.Workload == v1alpha1.WorkloadStatefulSet {
		increase(demand, corev1.ResourceServices, one, 1) // The one that governs its pods' names.
	}
	if c.Service != nil {
		ports := int64(len(c.Service.Ports))
		increase(demand, corev1.ResourceServices, one, 1)
		switch c.Service.Type {
		case corev1.ServiceTypeNodePort:
			increase(demand, corev1.ResourceServicesNodePorts, one, ports)
		case corev1.ServiceTypeLoadBalancer:
			increase(demand, corev1.ResourceServicesNodePorts, one, ports)
			increase(demand, corev1.ResourceServicesLoadBalancers, one, 1)
		}
	}
	for i := range c.VolumeClaimTemplates {
		increase(demand, corev1.ResourcePersistentVolumeClaims, one, pods)
		increase(demand, corev1.ResourceRequestsStorage, c.VolumeClaimTemplates[i].Spec.Resources.Requests[corev1.ResourceStorage], pods)
	}
}

var one = resource.MustParse("1")

// podsOf is what one pod of each component takes of a quota, by the quota's names, with the defaults that the cluster
// fills in from the partition's limits.
func podsOf(components []v1alpha1.Component, overrides []v1alpha1.Override, limits []corev1.LimitRangeItem) map[string]corev1.ResourceList {
	pods := map[string]corev1.ResourceList{}
	for i := range components {
		c := &components[i]
		if c.Template == nil || c.Workload == v1alpha1.WorkloadExternal {
			continue
		}
		pods[c.Name] = podDemand(&c.Template.Spec, resourcesOf(overrides, c.Name), limits)
	}
	return pods
}

// podDemand is the sum over a pod's containers, or what its largest init container needs beside the sidecars started
// before it, if that is more.
func podDemand(pod *corev1.PodSpec, override *corev1.ResourceRequirements, limits []corev1.LimitRangeItem) corev1.ResourceList {
	running, peak := corev1.ResourceList{}, corev1.ResourceList{}
	for i := range pod.InitContainers {
		c := &pod.InitContainers[i]
		demand := containerDemand(c.Resources, limits)
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sum(running, demand)
			continue
		}
		sum(demand, running)
		atLeast(peak, demand)
	}
	for i := range pod.Containers {
		resources := pod.Containers[i].Resources
		if override != nil {
			resources = *override
		}
		sum(running, containerDemand(resources, limits))
	}
	atLeast(running, peak)
	running[corev1.ResourcePods] = one
	return running
}

// containerDemand is what one container counts for, after the same defaults as in the cluster.
func containerDemand(r corev1.ResourceRequirements, limits []corev1.LimitRangeItem) corev1.ResourceList {
	requests, limit := maps.Clone(r.Requests), maps.Clone(r.Limits)
	if requests == nil {
		requests = corev1.ResourceList{}
	}
	if limit == nil {
		limit = corev1.ResourceList{}
	}
	fill(requests, limit)
	for i := range limits {
		item := &limits[i]
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		fill(limit, item.Default)
		fill(limit, item.Max)
		fill(requests, item.DefaultRequest)
		fill(requests, item.Default)
		fill(requests, item.Max)
		fill(requests, item.Min)
	}
	demand := corev1.ResourceList{}
	for name, quantity := range requests {
		demand[requestsPrefix+name] = quantity
	}
	for name, quantity := range limit {
		demand[limitsPrefix+name] = quantity
	}
	return demand
}

// roomOf is what pods may still take in a partition: what is free on its nodes, or left of its quota if that is less.
// Nil if nothing is known.
func roomOf(p *v1alpha1.Partition) corev1.ResourceList {
	hard := hardOf(p)
	if p.Status.Free == nil && len(hard) == 0 {
		return nil
	}
	room := corev1.ResourceList{}
	for name, quantity := range p.Status.Free {
		if name != corev1.ResourcePods {
			name = requestsPrefix + name
		}
		room[name] = quantity
	}
	used := v1alpha1.NormalizedQuota(p.Status.Used)
	for name, limit := range hard {
		left := limit.DeepCopy()
		left.Sub(used[name])
		if free, ok := room[name]; !ok || left.Cmp(free) < 0 {
			room[name] = left
		}
	}
	return room
}

// hardOf is the quota as the cluster enforces it, or as it will once it is set up.
func hardOf(p *v1alpha1.Partition) corev1.ResourceList {
	if p.Status.Hard != nil {
		return v1alpha1.NormalizedQuota(p.Status.Hard)
	}
	return v1alpha1.NormalizedQuota(p.Spec.Quota)
}

func increase(to corev1.ResourceList, name corev1.ResourceName, quantity resource.Quantity, times int64) {
	quantity = quantity.DeepCopy()
	quantity.Mul(times)
	total := to[name].DeepCopy()
	total.Add(quantity)
	to[name] = total
}

func sum(to, list corev1.ResourceList) {
	for name, quantity := range list {
		increase(to, name, quantity, 1)
	}
}

func atLeast(to, list corev1.ResourceList) {
	for name, quantity := range list {
		if has, ok := to[name]; !ok || has.Cmp(quantity) < 0 {
			to[name] = quantity
		}
	}
}

func fill(to, from corev1.ResourceList) {
	for name, quantity := range from {
		if _, ok := to[name]; !ok {
			to[name] = quantity
		}
	}
}
