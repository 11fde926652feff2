package member_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"yunfan.io/yunfan/internal/member"
)

func TestRequests(t *testing.T) {
	cpu := func(amount string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(amount)}}
	}
	always := corev1.ContainerRestartPolicyAlways
	cases := map[string]struct {
		reason string
		spec   corev1.PodSpec
		want   string
	}{
		"Sum":      {"containers run together", corev1.PodSpec{Containers: []corev1.Container{{Resources: cpu("1")}, {Resources: cpu("500m")}}}, "1500m"},
		"None":     {"nothing is asked for", corev1.PodSpec{Containers: []corev1.Container{{}}}, "0"},
		"BigInit":  {"an init container needs more than all others", corev1.PodSpec{InitContainers: []corev1.Container{{Resources: cpu("3")}}, Containers: []corev1.Container{{Resources: cpu("1")}}}, "3"},
		"Sidecar":  {"a sidecar stays", corev1.PodSpec{InitContainers: []corev1.Container{{Resources: cpu("1"), RestartPolicy: &always}}, Containers: []corev1.Container{{Resources: cpu("1")}}}, "2"},
		"Starting": {"an init container runs beside the sidecars before it", corev1.PodSpec{InitContainers: []corev1.Container{{Resources: cpu("1"), RestartPolicy: &always}, {Resources: cpu("2")}}, Containers: []corev1.Container{{Resources: cpu("1")}}}, "3"},
		"Overhead": {"the runtime needs something too", corev1.PodSpec{Overhead: corev1.ResourceList{"cpu": resource.MustParse("100m")}, Containers: []corev1.Container{{Resources: cpu("1")}}}, "1100m"},
		"Pod":      {"what is set for the pod counts", corev1.PodSpec{Resources: &corev1.ResourceRequirements{Requests: cpu("4").Requests}, Containers: []corev1.Container{{Resources: cpu("1")}}}, "4"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := member.Requests(&corev1.Pod{Spec: tc.spec})["cpu"]
			if got.Cmp(resource.MustParse(tc.want)) != 0 {
				t.Errorf("%s: got %s, want %s", tc.reason, got.String(), tc.want)
			}
		})
	}
}

func TestSubtract(t *testing.T) {
	from := corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("1Gi"), "pods": resource.MustParse("3")}
	member.Subtract(from, corev1.ResourceList{"cpu": resource.MustParse("500m"), "memory": resource.MustParse("2Gi"), "gpu": resource.MustParse("1")})
	for name, want := range map[corev1.ResourceName]string{"cpu": "1500m", "memory": "0", "pods": "3"} {
		got := from[name]
		if got.Cmp(resource.MustParse(want)) != 0 || len(from) != 3 {
			t.Errorf("%s is %s, want %s", name, got.String(), want)
		}
	}
}
