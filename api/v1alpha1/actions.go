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
func (o *Application) Scale(component string, replicas int32) error {
	if replicas < 0 {
		return fmt.Errorf("scaling to %d: the number of replicas is 0 or more", replicas)
	}
	var scalable []string
	for i := range o.Spec.Components {
		c := &o.Spec.Components[i]
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
	for i := range o.Spec.Components {
		if c := &o.Spec.Components[i]; c.Name == component {
			c.Replicas = &replicas
			return nil
		}
	}
	if component == "" {
		return fmt.Errorf("scaling %s: name one of its components: %s", o.Name, strings.Join(scalable, ", "))
	}
	return fmt.Errorf("scaling %s: it has no component %s, but %s", o.Name, component, strings.Join(scalable, ", "))
}

// Restart has the pods of the named components replaced, of all if none is named, as their strategy replaces them. They
// take up the newest versions of their configurations.
func (o *Application) Restart(at time.Time, components ...string) error {
	for _, name := range components {
		if !slices.ContainsFunc(o.Spec.Components, func(c Component) bool { return c.Name == name && c.Template != nil }) {
			return fmt.Errorf("restarting %s: it has no component %s with pods", o.Name, name)
		}
	}
	for i := range o.Spec.Components {
		c := &o.Spec.Components[i]
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
func (o *Application) RollBack(to *ApplicationRevision) error {
	if to.Namespace != o.Namespace || to.Spec.Application != o.Name {
		return fmt.Errorf("rolling back %s: revision %s belongs to application %s", o.Name, to.Name, to.Spec.Application)
	}
	now := map[string]*Component{}
	for i := range o.Spec.Components {
		now[o.Spec.Components[i].Name] = &o.Spec.Components[i]
	}
	revision := to.DeepCopy()
	for i := range revision.Spec.Components {
		c := &revision.Spec.Components[i]
		if same := now[c.Name]; same != nil && same.Workload == c.Workload {
			c.Replicas, c.Placement = same.Replicas, same.Placement
		}
	}
	o.Spec.Version = revision.Spec.Version
	o.Spec.Components = revision.Spec.Components
	o.Spec.Chart = revision.Spec.Chart
	for i := range o.Spec.Placement.Partitions {
		choice := &o.Spec.Placement.Partitions[i]
		if choice.Name != "" {
			choice.Overrides = revision.OverridesFor(choice.Name)
			continue
		}
		// A selector's overrides may be for components that the revision does not have.
		choice.Overrides = slices.DeleteFunc(slices.Clone(choice.Overrides), func(override Override) bool {
			return !slices.ContainsFunc(revision.Spec.Components, func(c Component) bool { return c.Name == override.Component })
		})
	}
	if o.Annotations == nil {
		o.Annotations = map[string]string{}
	}
	o.Annotations[AnnotationRollbackTo] = revision.Name
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
