package v1alpha1

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// NormalizedQuota writes the short names of a quota's resources in full: cpu is requests.cpu. Where a list has both, the
// lower counts, because Kubernetes enforces both. It is nil for nil.
func NormalizedQuota(quota corev1.ResourceList) corev1.ResourceList {
	if quota == nil {
		return nil
	}
	full := corev1.ResourceList{}
	for name, quantity := range quota {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			name = "requests." + name
		}
		if has, ok := full[name]; !ok || quantity.Cmp(has) < 0 {
			full[name] = quantity
		}
	}
	return full
}

// IsGPU says whether a resource is a GPU of any make, by itself or in a quota: nvidia.com/gpu, requests.amd.com/gpu.
func IsGPU(name corev1.ResourceName) bool { return strings.HasSuffix(string(name), "/gpu") }

// AddQuota adds quantities to others, with the short names of resources written in full.
func AddQuota(to, what corev1.ResourceList) {
	for name, q := range NormalizedQuota(what) {
		sum := to[name].DeepCopy()
		sum.Add(q)
		to[name] = sum
	}
}
