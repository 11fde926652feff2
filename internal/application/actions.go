package application

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"yunfan.io/yunfan/api/v1alpha1"
)

// What operators do to an application is a change of the object: these functions make it, the caller writes it.

// Stop takes away all pods; services, volumes and node ports stay.
func Stop(app *v1alpha1.Application) { app.Spec.Stopped = true }

// Start brings the pods back.
func Start(app *v1alpha1.Application) { app.Spec.Stopped = false }

// Scale sets a component's number of replicas; an empty name means the only component that has one.
func Scale(app *v1alpha1.Application, component string, replicas int32) error {
	if replicas < 0 {
		return fmt.Errorf("scaling to %d: the number of replicas is 0 or more", replicas)
	}
	var scalable []string
	for i := range app.Spec.Components {
		c := &app.Spec.Components[i]
		switch {
		case c.Workload == v1alpha1.WorkloadDaemonSet || c.Workload == v1alpha1.WorkloadExternal:
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
	for i := range app.Spec.Components {
		if c := &app.Spec.Components[i]; c.Name == component {
			c.Replicas = &replicas
			return nil
		}
	}
	if component == "" {
		return fmt.Errorf("scaling %s: name one of its components: %s", app.Name, strings.Join(scalable, ", "))
	}
	return fmt.Errorf("scaling %s: it has no component %s, but %s", app.Name, component, strings.Join(scalable, ", "))
}

// Restart has the pods of the named components replaced, of all if none is named, as their strategy replaces them. They
// take up the newest versions of their configurations.
func Restart(app *v1alpha1.Application, at time.Time, components ...string) error {
	for _, name := range components {
		if !slices.ContainsFunc(app.Spec.Components, func(c v1alpha1.Component) bool { return c.Name == name && c.Template != nil }) {
			return fmt.Errorf("restarting %s: it has no component %s with pods", app.Name, name)
		}
	}
	for i := range app.Spec.Components {
		c := &app.Spec.Components[i]
		if c.Template == nil || (len(components) > 0 && !slices.Contains(components, c.Name)) {
			continue
		}
		if c.Template.Annotations == nil {
			c.Template.Annotations = map[string]string{}
		}
		c.Template.Annotations[v1alpha1.AnnotationRestartedAt] = at.UTC().Format(time.RFC3339)
	}
	return nil
}

// Rollback takes version, components and overrides from an earlier revision. Placement and the numbers of replicas stay
// as they are. The revision's versions of configurations come back too.
func Rollback(app *v1alpha1.Application, to *v1alpha1.ApplicationRevision) error {
	if to.Namespace != app.Namespace || to.Spec.Application != app.Name {
		return fmt.Errorf("rolling back %s: revision %s belongs to application %s", app.Name, to.Name, to.Spec.Application)
	}
	now := map[string]*v1alpha1.Component{}
	for i := range app.Spec.Components {
		now[app.Spec.Components[i].Name] = &app.Spec.Components[i]
	}
	revision := to.DeepCopy()
	for i := range revision.Spec.Components {
		c := &revision.Spec.Components[i]
		if same := now[c.Name]; same != nil && same.Workload == c.Workload {
			c.Replicas, c.Placement = same.Replicas, same.Placement
		}
	}
	app.Spec.Version = revision.Spec.Version
	app.Spec.Components = revision.Spec.Components
	app.Spec.Chart = revision.Spec.Chart
	for i := range app.Spec.Placement.Partitions {
		choice := &app.Spec.Placement.Partitions[i]
		if choice.Name != "" {
			choice.Overrides = overridesIn(revision, choice.Name)
			continue
		}
		// A selector's overrides may be for components that the revision does not have.
		choice.Overrides = slices.DeleteFunc(slices.Clone(choice.Overrides), func(o v1alpha1.Override) bool {
			return !slices.ContainsFunc(revision.Spec.Components, func(c v1alpha1.Component) bool { return c.Name == o.Component })
		})
	}
	if app.Annotations == nil {
		app.Annotations = map[string]string{}
	}
	app.Annotations[v1alpha1.AnnotationRollbackTo] = revision.Name
	return nil
}
