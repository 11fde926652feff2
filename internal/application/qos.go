package application

import (
	corev1 "k8s.io/api/core/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

// qosClasses are the quality of service that the pods of each component get in a partition, as Kubernetes derives it
// from their requests and limits after the partition's defaults. The less a pod is bound to what it asked for, the
// earlier it is evicted when a node runs short.
func qosClasses(r *v1alpha1.ApplicationRevision, p *v1alpha1.Partition) map[string]corev1.PodQOSClass {
	classes := map[string]corev1.PodQOSClass{}
	overrides := r.OverridesFor(p.Name)
	for i := range r.Spec.Components {
		c := &r.Spec.Components[i]
		if c.Template == nil || c.Workload == v1alpha1.WorkloadExternal {
			continue
		}
		classes[c.Name] = qosClass(&c.Template.Spec, resourcesOf(overrides, c.Name), p.Spec.Limits)
	}
	return classes
}

func qosClass(pod *corev1.PodSpec, override *corev1.ResourceRequirements, limits []corev1.LimitRangeItem) corev1.PodQOSClass {
	guaranteed, bestEffort := true, true
	count := func(resources corev1.ResourceRequirements) {
		demand := containerDemand(resources, limits)
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := demand[requestsPrefix+name], demand[limitsPrefix+name]
			bestEffort = bestEffort && request.IsZero() && limit.IsZero()
			guaranteed = guaranteed && !limit.IsZero() && request.Cmp(limit) == 0
		}
	}
	for i := range pod.InitContainers {
		count(pod.InitContainers[i].Resources)
	}
	for i := range pod.Containers {
		if override != nil {
			count(*override)
		} else {
			count(pod.Containers[i].Resources)
		}
	}
	switch {
	case bestEffort:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// resourcesOf is what a partition sets for a component in place of its own; nil if nothing.
func resourcesOf(overrides []v1alpha1.Override, component string) *corev1.ResourceRequirements {
	for i := range overrides {
		if overrides[i].Component == component && overrides[i].Resources != nil {
			return overrides[i].Resources
		}
	}
	return nil
}
