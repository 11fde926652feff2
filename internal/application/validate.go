package application

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// validate finds what the schema cannot: contradictions inside a spec. All of them are named at once.
func validate(spec *v1alpha1.ApplicationSpec) error {
	if spec.Chart != nil {
		return reconcile.Stall(v1alpha1.ReasonChartNotSupported, "charts cannot be delivered yet: list the components instead")
	}
	var problems []string
	for i := range spec.Components {
		c := &spec.Components[i]
		for _, problem := range validateComponent(c) {
			problems = append(problems, fmt.Sprintf("component %s: %s", c.Name, problem))
		}
	}
	problems = append(problems, validateDependencies(spec.Components)...)
	if u := spec.Strategy.RollingUpdate; u != nil && nothing(u.MaxSurge) && nothing(u.MaxUnavailable) {
		problems = append(problems, "strategy.rollingUpdate: maxSurge and maxUnavailable are both 0, so no pod could ever be exchanged")
	}
	for i := range spec.Placement.Partitions {
		for _, problem := range validateOverrides(spec, &spec.Placement.Partitions[i]) {
			problems = append(problems, fmt.Sprintf("placement.partitions[%d].overrides: %s", i, problem))
		}
	}
	if problems != nil {
		return reconcile.Stall(v1alpha1.ReasonInvalid, "%s", strings.Join(problems, "; "))
	}
	return nil
}

func nothing(n *intstr.IntOrString) bool {
	return n != nil && (n.String() == "0" || n.String() == "0%")
}

func validateComponent(c *v1alpha1.Component) (problems []string) {
	if c.Workload == v1alpha1.WorkloadCronJob && !strings.HasPrefix(c.Schedule, "@") && len(strings.Fields(c.Schedule)) != 5 {
		problems = append(problems, fmt.Sprintf(`schedule %q has not five fields, like "0 3 * * *"`, c.Schedule))
	}
	if c.Workload == v1alpha1.WorkloadExternal || c.Template == nil {
		return problems
	}
	problems = append(problems, validateTemplate(c)...)
	if c.Service != nil {
		problems = append(problems, validateService(c)...)
	}
	mounted := map[string]string{}
	for _, use := range c.Configurations {
		for _, name := range use.Containers {
			if !hasContainer(&c.Template.Spec, name) {
				problems = append(problems, fmt.Sprintf("configuration %s is for container %s, which is not in the template", use.Name, name))
			}
		}
		if other, taken := mounted[use.MountPath]; taken && use.MountPath != "" {
			problems = append(problems, fmt.Sprintf("configurations %s and %s have the same mountPath %s", other, use.Name, use.MountPath))
		}
		mounted[use.MountPath] = use.Name
		volume := v1alpha1.VolumeName(use.Name)
		if use.MountPath != "" && slices.ContainsFunc(c.Template.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == volume }) {
			problems = append(problems, fmt.Sprintf("volume %s of the template has the name of the one that holds configuration %s: rename it", volume, use.Name))
		}
	}
	return problems
}

func validateService(c *v1alpha1.Component) (problems []string) {
	for _, port := range c.Service.Ports {
		if port.NodePort != 0 && (c.Service.Type == "" || c.Service.Type == corev1.ServiceTypeClusterIP) {
			problems = append(problems, fmt.Sprintf("service port %s has a nodePort: that needs service.type NodePort", port.Name))
		}
		if port.TargetPort != nil && port.TargetPort.Type == intstr.String && !hasPort(&c.Template.Spec, port.TargetPort.StrVal) {
			problems = append(problems, fmt.Sprintf("service port %s leads to the container port %s, which no container has", port.Name, port.TargetPort.StrVal))
		}
	}
	return problems
}

// validateDependencies finds names that are no components, and cycles.
func validateDependencies(components []v1alpha1.Component) (problems []string) {
	dependsOn := map[string][]string{}
	for i := range components {
		dependsOn[components[i].Name] = components[i].DependsOn
	}
	for i := range components {
		for _, name := range components[i].DependsOn {
			if _, ok := dependsOn[name]; !ok {
				problems = append(problems, fmt.Sprintf("component %s depends on %s, which is no component of the application", components[i].Name, name))
			}
		}
	}
	if cycle := findCycle(components, dependsOn); cycle != nil {
		problems = append(problems, "dependsOn goes in a circle: "+strings.Join(cycle, " → "))
	}
	return problems
}

// findCycle gives the first cycle, with its first name again at the end; nil if there is none.
func findCycle(components []v1alpha1.Component, dependsOn map[string][]string) []string {
	done := map[string]bool{}
	var path []string
	var visit func(name string) []string
	visit = func(name string) []string {
		if at := slices.Index(path, name); at >= 0 {
			return append(slices.Clone(path[at:]), name)
		}
		if done[name] {
			return nil
		}
		path = append(path, name)
		for _, next := range dependsOn[name] {
			if cycle := visit(next); cycle != nil {
				return cycle
			}
		}
		path = path[:len(path)-1]
		done[name] = true
		return nil
	}
	for i := range components {
		if cycle := visit(components[i].Name); cycle != nil {
			return cycle
		}
	}
	return nil
}

// validateOverrides finds names of components, containers and ports that do not exist.
func validateOverrides(spec *v1alpha1.ApplicationSpec, choice *v1alpha1.PartitionChoice) (problems []string) {
	for i := range choice.Overrides {
		o := &choice.Overrides[i]
		at := slices.IndexFunc(spec.Components, func(c v1alpha1.Component) bool { return c.Name == o.Component })
		if at < 0 {
			problems = append(problems, fmt.Sprintf("%s is no component of the application", o.Component))
			continue
		}
		c := &spec.Components[at]
		for _, name := range sortedKeys(o.Images) {
			if c.Template == nil || !hasContainer(&c.Template.Spec, name) {
				problems = append(problems, fmt.Sprintf("component %s has no container %s whose image could be overridden", o.Component, name))
			}
		}
		for _, name := range sortedKeys(o.NodePorts) {
			if c.Service == nil || !slices.ContainsFunc(c.Service.Ports, func(p v1alpha1.ServicePort) bool { return p.Name == name }) {
				problems = append(problems, fmt.Sprintf("component %s has no service port %s whose node port could be overridden", o.Component, name))
			} else if c.Service.Type == "" || c.Service.Type == corev1.ServiceTypeClusterIP {
				problems = append(problems, fmt.Sprintf("node port of component %s: that needs service.type NodePort", o.Component))
			}
		}
		if o.Resources != nil {
			for _, problem := range validateResources(o.Resources) {
				problems = append(problems, fmt.Sprintf("component %s: %s", o.Component, problem))
			}
		}
	}
	return problems
}
