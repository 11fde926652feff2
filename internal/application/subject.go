package application

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"

	"yunfan.io/yunfan/api/v1alpha1"
)

// subject says to those who approve what reaches which partitions, and what changes there.
func (w *world) subject(p *Plan) string {
	spec := &p.Revision.Spec
	text := fmt.Sprintf("Release of application %s, version %s, revision %s, to %s", w.app.Name, cmp.Or(spec.Version, "(none)"), p.Revision.Name, strings.Join(p.Approval, ", "))
	var before *v1alpha1.ApplicationRevision
	for _, name := range p.Approval {
		if d := w.deliveries[name]; d != nil && before == nil {
			before = w.revisions[stableTrack(d).Revision]
		}
	}
	if before == nil {
		return text + ". It is the first there."
	}
	changes := append(componentChanges(before.Spec.Components, spec.Components), otherChanges(&before.Spec, spec)...)
	return text + ". What changes: " + strings.Join(changes, "; ") + "."
}

// componentChanges tells in words what is another in components: images by name, the rest of a component as one.
func componentChanges(before, after []v1alpha1.Component) (changes []string) {
	find := func(all []v1alpha1.Component, name string) *v1alpha1.Component {
		if i := slices.IndexFunc(all, func(c v1alpha1.Component) bool { return c.Name == name }); i >= 0 {
			return &all[i]
		}
		return nil
	}
	for i := range after {
		now := &after[i]
		old := find(before, now.Name)
		switch {
		case old == nil:
			changes = append(changes, "component "+now.Name+" is new"+images(now))
		case !equality.Semantic.DeepEqual(old, now):
			changes = append(changes, componentChange(old, now))
		}
	}
	for i := range before {
		if find(after, before[i].Name) == nil {
			changes = append(changes, "component "+before[i].Name+" goes")
		}
	}
	return changes
}

func componentChange(old, now *v1alpha1.Component) string {
	was, is := images(old), images(now)
	if was == is {
		return "component " + now.Name + " is configured otherwise"
	}
	text := fmt.Sprintf("component %s%s instead of%s", now.Name, is, was)
	left := old.DeepCopy()
	if left.Template != nil && now.Template != nil {
		left.Template.Spec.Containers, left.Template.Spec.InitContainers = now.Template.Spec.Containers, now.Template.Spec.InitContainers
	}
	if !equality.Semantic.DeepEqual(left, now) {
		text += " and other settings"
	}
	return text
}

// images are those of a component, as they continue a sentence.
func images(c *v1alpha1.Component) string {
	if c.Template == nil {
		return ""
	}
	var names []string
	for _, container := range slices.Concat(c.Template.Spec.InitContainers, c.Template.Spec.Containers) {
		names = append(names, container.Image)
	}
	return " with image " + strings.Join(names, " and ")
}

// otherChanges are those outside components.
func otherChanges(before, after *v1alpha1.ApplicationRevisionSpec) (changes []string) {
	if before.Version != after.Version {
		changes = append(changes, fmt.Sprintf("version %s instead of %s", cmp.Or(after.Version, "(none)"), cmp.Or(before.Version, "(none)")))
	}
	if !equality.Semantic.DeepEqual(before.Chart, after.Chart) {
		changes = append(changes, "the chart")
	}
	for _, pin := range after.Configurations {
		if !slices.Contains(before.Configurations, pin) {
			changes = append(changes, fmt.Sprintf("configuration %s in version %s", pin.Name, pin.Version))
		}
	}
	if !equality.Semantic.DeepEqual(before.Overrides, after.Overrides) {
		changes = append(changes, "overrides of partitions")
	}
	if len(changes) == 0 {
		return nil
	}
	return changes
}
