package graph

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

var (
	inputName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_]{0,62}$`)
	stepName  = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)
)

// inputs checks what a run is to be given.
func (c *checker) inputs(path *field.Path) {
	seen := map[string]bool{}
	for i, input := range c.spec.Inputs {
		at := path.Index(i)
		if !inputName.MatchString(input.Name) {
			c.addf(at.Child("name"), "%q is no name: letters, digits and _, a letter first, at most 63", brief(input.Name))
		}
		if seen[input.Name] {
			c.add(field.Duplicate(at.Child("name"), brief(input.Name)))
		}
		seen[input.Name] = true
		if !known(input.Type) {
			c.addf(at.Child("type"), "%q is no type: String, Integer, Number, Boolean, Object or List", brief(string(input.Type)))
			continue
		}
		if len(input.Enum) > 0 && typeOf(input) != v1alpha1.TypeString {
			c.addf(at.Child("enum"), "only a String has an enum, this input is a %s", input.Type)
		}
		if input.Default == nil {
			continue
		}
		if input.Required {
			c.addf(at.Child("default"), "a required input has no default: remove one of the two")
		}
		if err := conform(input.Default, typeOf(input), input.Enum); err != nil {
			c.addf(at.Child("default"), "%v", err)
		}
	}
}

// typeOf is the type of an input, which a definition that no API server has seen may leave out.
func typeOf(input v1alpha1.WorkflowInput) v1alpha1.ValueType {
	if input.Type == "" {
		return v1alpha1.TypeString
	}
	return input.Type
}

// steps checks each step by itself, but not what it is given.
func (c *checker) steps(path *field.Path) {
	if d := c.spec.Timeout; d != nil && d.Duration <= 0 {
		c.addf(field.NewPath("spec", "timeout"), "a timeout is longer than nothing")
	}
	if p := c.spec.OnFailure; p != "" && p != v1alpha1.OnFailureStop && p != v1alpha1.OnFailureCompensate {
		c.addf(field.NewPath("spec", "onFailure"), "%q is neither Stop nor Compensate", brief(string(p)))
	}
	for i := range c.spec.Steps {
		step, at := &c.spec.Steps[i], path.Index(i)
		if !stepName.MatchString(step.Name) {
			c.addf(at.Child("name"), "%q is no name: small letters, digits and -, a letter first, at most 63", brief(step.Name))
		}
		if _, twice := c.index[step.Name]; twice {
			c.add(field.Duplicate(at.Child("name"), brief(step.Name)))
		} else {
			c.index[step.Name] = i
		}
		c.action(at.Child("action"), step.Action)
		if step.Compensate != nil {
			c.action(at.Child("compensate", "action"), step.Compensate.Action)
		}
		if p := step.OnFailure; p != "" && p != v1alpha1.OnFailureStop && p != v1alpha1.OnFailureContinue {
			c.addf(at.Child("onFailure"), "%q is neither Stop nor Continue", brief(string(p)))
		}
		if d := step.Timeout; d != nil && d.Duration <= 0 {
			c.addf(at.Child("timeout"), "a timeout is longer than nothing")
		}
		c.retry(at.Child("retry"), step.Retry)
	}
}

func (c *checker) retry(at *field.Path, retry *v1alpha1.StepRetry) {
	if retry == nil {
		return
	}
	if retry.Limit < 1 || retry.Limit > 100 {
		c.addf(at.Child("limit"), "a step is tried again 1 to 100 times, not %d", retry.Limit)
	}
	negative := func(d *metav1.Duration) bool { return d != nil && d.Duration < 0 }
	if negative(retry.Interval) {
		c.addf(at.Child("interval"), "an interval is not negative")
	}
	if negative(retry.MaxInterval) {
		c.addf(at.Child("maxInterval"), "an interval is not negative")
	}
}

// action checks that an action is there for such a workflow.
func (c *checker) action(at *field.Path, name string) {
	found, ok := c.actions[name]
	switch {
	case !ok:
		var names []string
		for other, d := range c.actions {
			if c.internal || !d.Internal {
				names = append(names, other)
			}
		}
		c.addf(at, "there is no action %q%s", brief(name), meant(name, names))
	case found.Internal && !c.internal:
		c.addf(at, "the action %s is for runs that the platform itself makes", name)
	}
}

// describe gives the description of an action that may be used.
func (c *checker) describe(name string) (action.Description, bool) {
	d, ok := c.actions[name]
	return d, ok && (c.internal || !d.Internal)
}

// edges checks what steps need, and puts them in order.
func (c *checker) edges(path *field.Path) {
	names := make([]string, 0, len(c.spec.Steps))
	for _, step := range c.spec.Steps {
		names = append(names, step.Name)
	}
	for i, step := range c.spec.Steps {
		seen := map[string]bool{}
		for j, need := range step.Needs {
			at := path.Index(i).Child("needs").Index(j)
			_, there := c.index[need]
			switch {
			case need == step.Name:
				c.addf(at, "the step needs itself")
			case !there:
				c.addf(at, "there is no step %q%s", brief(need), meant(need, names))
			case seen[need]:
				c.add(field.Duplicate(at, brief(need)))
			}
			seen[need] = true
		}
	}
	c.sort(path)
	for _, name := range c.order {
		before := map[string]bool{}
		for _, need := range c.Step(name).Needs {
			before[need] = true
			for far := range c.before[need] {
				before[far] = true
			}
		}
		c.before[name] = before
	}
	for _, name := range c.order {
		for _, later := range c.order {
			if c.before[later][name] {
				c.after[name] = append(c.after[name], later)
			}
		}
	}
}

// sort orders the steps: in each round those whose needs are all placed, as the definition has them. What is left over
// then is on a cycle or behind one; it is placed, too, so that the rest can be checked.
func (c *checker) sort(path *field.Path) {
	placed := map[string]bool{}
	ready := func(step *v1alpha1.WorkflowStep) bool {
		return !slices.ContainsFunc(step.Needs, func(need string) bool {
			_, there := c.index[need]
			return there && need != step.Name && !placed[need]
		})
	}
	for again := true; again; {
		again = false
		for i := range c.spec.Steps {
			if step := &c.spec.Steps[i]; !placed[step.Name] && ready(step) {
				placed[step.Name], again = true, true
				c.order = append(c.order, step.Name)
			}
		}
	}
	cycle := c.cycle(placed)
	if cycle == nil {
		return
	}
	last := c.index[cycle[0]]
	need := slices.Index(c.spec.Steps[last].Needs, cycle[1])
	c.addf(path.Index(last).Child("needs").Index(need), "the steps need each other in a circle: %s: remove one of these needs", route(cycle))
	for _, step := range c.spec.Steps {
		if !placed[step.Name] {
			placed[step.Name] = true
			c.order = append(c.order, step.Name)
		}
	}
}

// cycle follows the needs from the first step that could not be placed until it comes to one that it has seen.
func (c *checker) cycle(placed map[string]bool) []string {
	first := slices.IndexFunc(c.spec.Steps, func(s v1alpha1.WorkflowStep) bool { return !placed[s.Name] })
	if first < 0 {
		return nil
	}
	var path []string
	for name := c.spec.Steps[first].Name; ; {
		if at := slices.Index(path, name); at >= 0 {
			return append(path[at:], name)
		}
		path = append(path, name)
		step := c.Step(name)
		for _, need := range step.Needs {
			if _, there := c.index[need]; there && need != name && !placed[need] {
				name = need
				break
			}
		}
	}
}

// route tells a cycle, shortened in the middle if it is long.
func route(cycle []string) string {
	if len(cycle) > 12 {
		short := append(slices.Clone(cycle[:6]), fmt.Sprintf("… %d more …", len(cycle)-9))
		cycle = append(short, cycle[len(cycle)-3:]...)
	}
	return strings.Join(cycle, " → ")
}
