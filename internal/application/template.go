package application

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"yunfan.io/yunfan/api/v1alpha1"
)

// validateTemplate finds what every member would refuse anyway. It is not the whole of Kubernetes' validation: the
// member says the rest.
func validateTemplate(c *v1alpha1.Component) (problems []string) {
	pod := &c.Template.Spec
	if len(pod.Containers) == 0 {
		problems = append(problems, "the template has no containers")
	}
	if want := restartPolicies(c.Workload); !slices.Contains(want, pod.RestartPolicy) {
		problems = append(problems, fmt.Sprintf("a %s cannot have restartPolicy %s: use %s", c.Workload, pod.RestartPolicy, want[len(want)-1]))
	}
	volumes := map[string]bool{}
	for i := range pod.Volumes {
		if volumes[pod.Volumes[i].Name] {
			problems = append(problems, fmt.Sprintf("two volumes are named %s", pod.Volumes[i].Name))
		}
		volumes[pod.Volumes[i].Name] = true
	}
	for i := range c.VolumeClaimTemplates {
		volumes[c.VolumeClaimTemplates[i].Name] = true
	}
	seen := map[string]bool{}
	for _, containers := range [][]corev1.Container{pod.InitContainers, pod.Containers} {
		for i := range containers {
			name := containers[i].Name
			if seen[name] {
				problems = append(problems, fmt.Sprintf("two containers are named %s", name))
			}
			seen[name] = true
			for _, problem := range validateContainer(&containers[i], volumes) {
				problems = append(problems, fmt.Sprintf("container %s: %s", name, problem))
			}
		}
	}
	return problems
}

// restartPolicies are those that a workload's pods may have; the last is the usual one.
func restartPolicies(kind v1alpha1.WorkloadKind) []corev1.RestartPolicy {
	if kind == v1alpha1.WorkloadJob || kind == v1alpha1.WorkloadCronJob {
		return []corev1.RestartPolicy{"", corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure}
	}
	return []corev1.RestartPolicy{"", corev1.RestartPolicyAlways}
}

func validateContainer(c *corev1.Container, volumes map[string]bool) (problems []string) {
	if errs := validation.IsDNS1123Label(c.Name); errs != nil {
		problems = append(problems, "its name is no DNS label: use lower case letters, digits and '-'")
	}
	if c.Image == "" {
		problems = append(problems, "it has no image")
	}
	for _, mount := range c.VolumeMounts {
		if !volumes[mount.Name] {
			problems = append(problems, fmt.Sprintf("it mounts volume %s, which is not in the template", mount.Name))
		}
	}
	for name, probe := range map[string]*corev1.Probe{"liveness": c.LivenessProbe, "readiness": c.ReadinessProbe, "startup": c.StartupProbe} {
		if probe != nil && handlers(&probe.ProbeHandler) != 1 {
			problems = append(problems, fmt.Sprintf("its %s probe needs exactly one of httpGet, tcpSocket, exec and grpc", name))
		}
	}
	slices.Sort(problems)
	return append(problems, validateResources(&c.Resources)...)
}

func handlers(h *corev1.ProbeHandler) (n int) {
	for _, set := range []bool{h.HTTPGet != nil, h.TCPSocket != nil, h.Exec != nil, h.GRPC != nil} {
		if set {
			n++
		}
	}
	return n
}

// validateResources finds quantities that are finer than Kubernetes counts, and requests above limits.
func validateResources(r *corev1.ResourceRequirements) (problems []string) {
	for _, list := range []struct {
		name  string
		items corev1.ResourceList
	}{{"requests", r.Requests}, {"limits", r.Limits}} {
		for _, name := range sortedNames(list.items) {
			if problem := validateQuantity(name, list.items[name]); problem != "" {
				problems = append(problems, fmt.Sprintf("resources.%s.%s: %s", list.name, name, problem))
			}
		}
	}
	for _, name := range sortedNames(r.Requests) {
		request := r.Requests[name]
		if limit, ok := r.Limits[name]; ok && request.Cmp(limit) > 0 {
			problems = append(problems, fmt.Sprintf("resources.requests.%s %s is more than the limit %s", name, request.String(), limit.String()))
		}
	}
	return problems
}

func validateQuantity(name corev1.ResourceName, quantity resource.Quantity) string {
	if quantity.Sign() < 0 {
		return quantity.String() + " is negative"
	}
	if name == corev1.ResourceCPU {
		if whole := resource.NewMilliQuantity(quantity.MilliValue(), resource.DecimalSI); whole.Cmp(quantity) != 0 {
			return quantity.String() + " is finer than 1m, the thousandth of a core in which CPU is counted: write 100m or 0.1"
		}
		return ""
	}
	if whole := resource.NewQuantity(quantity.Value(), resource.BinarySI); whole.Cmp(quantity) != 0 {
		return quantity.String() + " is no whole number: m means thousandths, write 256M or 256Mi"
	}
	return ""
}

func sortedNames(list corev1.ResourceList) []corev1.ResourceName {
	names := make([]corev1.ResourceName, 0, len(list))
	for name := range list {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func hasContainer(pod *corev1.PodSpec, name string) bool {
	named := func(c corev1.Container) bool { return c.Name == name }
	return slices.ContainsFunc(pod.Containers, named) || slices.ContainsFunc(pod.InitContainers, named)
}

func hasPort(pod *corev1.PodSpec, name string) bool {
	return slices.ContainsFunc(slices.Concat(pod.Containers, pod.InitContainers), func(c corev1.Container) bool {
		return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == name })
	})
}
