package v1alpha1

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// What operators do to an application is a change of the object: these methods make it, the caller writes it. To stop
// and start it is the field spec.stopped.

// Scale sets a component's number of replicas; an empty name means the only component that has one.
func (a *Application) Scale(component string, replicas int32) error {
	if replicas < 0 {
		return fmt.Errorf("scaling to %d: the number of replicas is 0 or more", replicas)
	}
	var scalable []string
	for i := range a.Spec.Components {
		c := &a.Spec.Components[i]
		switch c.Workload {
		case WorkloadDaemonSet, WorkloadExternal:
			if c.Name == component {
				return fmt.Errorf("scaling %s: a component of kind %s has no number of replicas", component, c.Workload)
			}
		default:
			scalable = append(scalable, c.Name)
		}
	}
	if component == "" && len(scalable) == 1 {
		component = scalable[0]
	}
	for i := range a.Spec.Components {
		if c := &a.Spec.Components[i]; c.Name == component {
			c.Replicas = &replicas
			return nil
		}
	}
	if component == "" {
		return fmt.Errorf("scaling %s: name one of its components: %s", a.Name, strings.Join(scalable, ", "))
	}
	return fmt.Errorf("scaling %s: it has no component %s, but %s", a.Name, component, strings.Join(scalable, ", "))
}

// Restart has the pods of the named components replaced, of all if none is named, as their strategy replaces them. They
// take up the newest versions of their configurations.
func (a *Application) Restart(at time.Time, components ...string) error {
	for _, name := range components {
		if !slices.ContainsFunc(a.Spec.Components, func(c Component) bool { return c.Name == name && c.Template != nil }) {
			return fmt.Errorf("restarting %s: it has no component %s with pods", a.Name, name)
		}
	}
	for i := range a.Spec.Components {
		c := &a.Spec.Components[i]
		if c.Template == nil || (len(components) > 0 && !slices.Contains(components, c.Name)) {
			continue
		}
		if c.Template.Annotations == nil {
			c.Template.Annotations = map[string]string{}
		}
		c.Template.Annotations[AnnotationRestartedAt] = at.UTC().Format(time.RFC3339)
	}
	return nil
}

// RollBack takes version, components and overrides from an earlier revision. Placement and the numbers of replicas stay
// as they are. The revision's versions of configurations come back too.
func (a *Application) RollBack(to *ApplicationRevision) error {
	if to.Namespace != a.Namespace || to.Spec.Application != a.Name {
		return fmt.Errorf("rolling back %s: revision %s belongs to application %s", a.Name, to.Name, to.Spec.Application)
	}
	now := map[string]*Component{}
	for i := range a.Spec.Components {
		now[a.Spec.Components[i].Name] = &a.Spec.Components[i]
	}
	revision := to.DeepCopy()
	for i := range revision.Spec.Components {
		c := &revision.Spec.Components[i]
		if same := now[c.Name]; same != nil && same.Workload == c.Workload {
			c.Replicas, c.Placement = same.Replicas, same.Placement
		}
	}
	a.Spec.Version = revision.Spec.Version
	a.Spec.Components = revision.Spec.Components
	a.Spec.Chart = revision.Spec.Chart
	for i := range a.Spec.Placement.Partitions {
		choice := &a.Spec.Placement.Partitions[i]
		if choice.Name != "" {
			choice.Overrides = revision.OverridesFor(choice.Name)
			continue
		}
		// A selector's overrides may be for components that the revision does not have.
		choice.Overrides = slices.DeleteFunc(slices.Clone(choice.Overrides), func(o Override) bool {
			return !slices.ContainsFunc(revision.Spec.Components, func(c Component) bool { return c.Name == o.Component })
		})
	}
	if a.Annotations == nil {
		a.Annotations = map[string]string{}
	}
	a.Annotations[AnnotationRollbackTo] = revision.Name
	return nil
}

// OverridesFor are the overrides of one partition.
func (r *ApplicationRevision) OverridesFor(partition string) []Override {
	for i := range r.Spec.Overrides {
		if r.Spec.Overrides[i].Partition == partition {
			return r.Spec.Overrides[i].Overrides
		}
	}
	return nil
}
