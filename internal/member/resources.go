package member

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Ended says that a pod uses nothing of its node any more.
func Ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// Requests is what the scheduler and quotas count for a pod.
func Requests(p *corev1.Pod) corev1.ResourceList {
	return podResources(p, func(r corev1.ResourceRequirements) corev1.ResourceList { return r.Requests })
}

// Limits is what quotas count for a pod. A container without a limit adds nothing.
func Limits(p *corev1.Pod) corev1.ResourceList {
	return podResources(p, func(r corev1.ResourceRequirements) corev1.ResourceList { return r.Limits })
}

// podResources follows Kubernetes: containers run together, init containers one after another before them, except
// sidecars (restartPolicy Always), which stay. What is set for the whole pod counts instead of the sum. The overhead of
// the pod's runtime is added to what is bounded at all.
func podResources(p *corev1.Pod, of func(corev1.ResourceRequirements) corev1.ResourceList) corev1.ResourceList {
	total, sidecars, starting := corev1.ResourceList{}, corev1.ResourceList{}, corev1.ResourceList{}
	for i := range p.Spec.Containers {
		Add(total, of(p.Spec.Containers[i].Resources))
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			Add(total, of(c.Resources))
			Add(sidecars, of(c.Resources))
			raise(starting, sidecars)
			continue
		}
		now := sidecars.DeepCopy()
		if now == nil {
			now = corev1.ResourceList{}
		}
		Add(now, of(c.Resources))
		raise(starting, now)
	}
	raise(total, starting)
	if p.Spec.Resources != nil {
		for name, quantity := range of(*p.Spec.Resources) {
			total[name] = quantity.DeepCopy()
		}
	}
	for name, quantity := range p.Spec.Overhead {
		if _, counted := total[name]; counted {
			Add(total, corev1.ResourceList{name: quantity})
		}
	}
	return total
}

// Add adds one list of quantities to another.
func Add(to, what corev1.ResourceList) {
	for name, quantity := range what {
		sum := to[name].DeepCopy()
		sum.Add(quantity)
		to[name] = sum
	}
}

// Subtract takes from each quantity of a list what another has of it, down to zero.
func Subtract(from, what corev1.ResourceList) {
	for name := range from {
		rest := from[name].DeepCopy()
		if quantity, ok := what[name]; ok {
			rest.Sub(quantity)
		}
		if rest.Sign() < 0 {
			rest = *resource.NewQuantity(0, rest.Format)
		}
		from[name] = rest
	}
}

func raise(to, least corev1.ResourceList) {
	for name, quantity := range least {
		if now, ok := to[name]; !ok || now.Cmp(quantity) < 0 {
			to[name] = quantity.DeepCopy()
		}
	}
}
