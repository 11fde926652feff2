package application

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestRES09_QOSClass(t *testing.T) {
	both := list("cpu", "100m", "memory", "64Mi")
	defaults := []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, Default: both}}
	requires := func(requests, limits corev1.ResourceList) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: requests, Limits: limits}
	}
	cases := map[string]struct {
		reason   string
		pod      []corev1.ResourceRequirements
		override *corev1.ResourceRequirements
		limits   []corev1.LimitRangeItem
		want     corev1.PodQOSClass
	}{
		"guaranteed":     {reason: "requests are the limits", pod: []corev1.ResourceRequirements{requires(both, both)}, want: corev1.PodQOSGuaranteed},
		"limits only":    {reason: "Kubernetes makes them the requests", pod: []corev1.ResourceRequirements{requires(nil, both)}, want: corev1.PodQOSGuaranteed},
		"burstable":      {reason: "limits above the requests", pod: []corev1.ResourceRequirements{requires(both, list("cpu", "1", "memory", "64Mi"))}, want: corev1.PodQOSBurstable},
		"requests only":  {reason: "no limits", pod: []corev1.ResourceRequirements{requires(both, nil)}, want: corev1.PodQOSBurstable},
		"CPU only":       {reason: "memory is not bounded", pod: []corev1.ResourceRequirements{requires(nil, list("cpu", "1"))}, want: corev1.PodQOSBurstable},
		"best effort":    {reason: "nothing is asked for", pod: []corev1.ResourceRequirements{requires(nil, nil)}, want: corev1.PodQOSBestEffort},
		"one of two":     {reason: "all containers count", pod: []corev1.ResourceRequirements{requires(both, both), requires(nil, nil)}, want: corev1.PodQOSBurstable},
		"other resource": {reason: "only CPU and memory count", pod: []corev1.ResourceRequirements{requires(nil, list("nvidia.com/gpu", "1"))}, want: corev1.PodQOSBestEffort},
		"defaults":       {reason: "the partition's limits fill in", pod: []corev1.ResourceRequirements{requires(nil, nil)}, limits: defaults, want: corev1.PodQOSGuaranteed},
		"override":       {reason: "the partition's own resources", pod: []corev1.ResourceRequirements{requires(both, both)}, override: &corev1.ResourceRequirements{}, want: corev1.PodQOSBestEffort},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.PodSpec{}
			for _, r := range tc.pod {
				pod.Containers = append(pod.Containers, container("c", r))
			}
			if got := qosClass(pod, tc.override, tc.limits); got != tc.want {
				t.Errorf("%s: want %s, got %s", tc.reason, tc.want, got)
			}
		})
	}
}
