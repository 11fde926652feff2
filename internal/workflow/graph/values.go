package graph

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/cel-go/common/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// values are what an action is given, or what a run gives.
type values map[string]template

// values compiles all expressions of the definition and checks what actions are given.
func (c *checker) values(root *field.Path) {
	for i := range c.spec.Steps {
		step, at := &c.spec.Steps[i], root.Child("steps").Index(i)
		s := &scope{checker: c, step: step.Name}
		if strings.HasPrefix(strings.TrimSpace(step.When), "${{") {
			c.addf(at.Child("when"), "it is an expression already: write it without ${{ and }}")
		} else if step.When != "" {
			if x := s.parse(at.Child("when"), step.When); x != nil {
				x.want = v1alpha1.TypeBoolean
				c.when[step.Name] = x
			}
		}
		c.with[step.Name] = s.given(at.Child("with"), step.Action, step.With)
		if undo := step.Compensate; undo != nil {
			s := &scope{checker: c, step: step.Name, own: true}
			c.undo[step.Name] = s.given(at.Child("compensate", "with"), undo.Action, undo.With)
		}
	}
	all := &scope{checker: c}
	c.outputs = values{}
	for _, name := range sorted(c.spec.Outputs) {
		at := root.Child("outputs", brief(name))
		if !inputName.MatchString(name) {
			c.addf(at, "%q is no name: letters, digits and _, a letter first, at most 63", brief(name))
		}
		c.outputs[name], _ = all.template(at, c.spec.Outputs[name], "")
	}
}

// given compiles what an action is given, and checks what is known of it against the action's description.
func (s *scope) given(path *field.Path, name string, with map[string]json.RawMessage) values {
	description, ok := s.describe(name)
	fields := map[string]action.Field{}
	var names []string
	for _, f := range description.Inputs {
		fields[f.Name] = f
		names = append(names, f.Name)
		if ok && f.Required && null(with[f.Name]) {
			s.add(field.Required(path.Child(f.Name), "the action "+name+" needs it"))
		}
	}
	all := values{}
	for _, key := range sorted(with) {
		at := path.Child(brief(key))
		f, there := fields[key]
		if ok && !there {
			s.addf(at, "the action %s has no input %q%s", name, brief(key), meant(key, names))
			continue
		}
		if null(with[key]) {
			continue
		}
		t, fine := s.template(at, with[key], f.Type)
		if fine && t.raw != nil {
			if err := conform(t.raw, f.Type, f.Enum); err != nil {
				s.addf(at, "%v", err)
			}
		}
		all[key] = t
	}
	return all
}

// Inputs checks what a run is given and fills in the defaults. An input that is null is as good as not given.
func (g *Graph) Inputs(given map[string]json.RawMessage) (map[string]json.RawMessage, field.ErrorList) {
	root := field.NewPath("spec", "inputs")
	var p problems
	if n := size(given); n > MaxInputs {
		p.addf(root, "the inputs of a run have at most %d bytes of JSON together, these %d", MaxInputs, n)
		return nil, p.list()
	}
	all := map[string]json.RawMessage{}
	var names []string
	for _, input := range g.spec.Inputs {
		names = append(names, input.Name)
		at := root.Child(input.Name)
		raw := given[input.Name]
		switch {
		case !null(raw):
			if err := conform(raw, typeOf(input), input.Enum); err != nil {
				p.addf(at, "%v", err)
			}
			all[input.Name] = raw
		case input.Required:
			p.add(field.Required(at, "the workflow needs it"))
		case !null(input.Default):
			all[input.Name] = input.Default
		}
	}
	for _, name := range sorted(given) {
		if _, ok := g.variables["@inputs."+name]; !ok {
			p.addf(root.Child(brief(name)), "the workflow has no such input%s", meant(name, names))
		}
	}
	if n := size(all); n > MaxInputs {
		p.addf(root, "the inputs of a run with the defaults have at most %d bytes of JSON together, these %d", MaxInputs, n)
	}
	if list := p.list(); len(list) > 0 {
		return nil, list
	}
	return all, nil
}

// When says whether the step is to be run; true if it has no such expression.
func (g *Graph) When(ctx context.Context, step string, v View) (bool, error) {
	x := g.when[step]
	if x == nil {
		return true, g.exists(step)
	}
	value, err := g.evaluation(ctx, v).value(x)
	if err != nil {
		return false, failed(x.path, err)
	}
	yes, ok := value.(types.Bool)
	if !ok {
		return false, failed(x.path, fmt.Errorf("%q must give true or false, but gives a %s", brief(x.source), value.Type().TypeName()))
	}
	return bool(yes), nil
}

// With gives the inputs of the step's action with expressions replaced, checked against the action's description.
// Those that are null are left out. An error names the place; trying again does not mend it (action.IsFailed), unless
// the context has ended.
func (g *Graph) With(ctx context.Context, step string, v View) (map[string]json.RawMessage, error) {
	if err := g.exists(step); err != nil {
		return nil, err
	}
	return g.evaluate(ctx, v, g.place(step).Child("with"), g.with[step], g.actions[g.Step(step).Action].Inputs)
}

// Compensation gives the inputs of the action that undoes the step, as With does.
func (g *Graph) Compensation(ctx context.Context, step string, v View) (map[string]json.RawMessage, error) {
	if err := g.exists(step); err != nil {
		return nil, err
	}
	undo := g.Step(step).Compensate
	if undo == nil {
		return nil, action.Failed(fmt.Errorf("the step %s has nothing that undoes it", brief(step)))
	}
	return g.evaluate(ctx, v, g.place(step).Child("compensate", "with"), g.undo[step], g.actions[undo.Action].Inputs)
}

// Outputs gives the outputs of the whole run, at most MaxInputs bytes of JSON together.
func (g *Graph) Outputs(ctx context.Context, v View) (map[string]json.RawMessage, error) {
	return g.evaluate(ctx, v, field.NewPath("spec", "outputs"), g.outputs, nil)
}

func (g *Graph) exists(step string) error {
	if g.Step(step) == nil {
		return action.Failed(fmt.Errorf("the workflow has no step %q", brief(step)))
	}
	return nil
}

// failed is an error at a place. The end of the context is no failure of the step.
func failed(path *field.Path, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", path, err)
	}
	return action.Failed(fmt.Errorf("%s: %w", path, err))
}

// evaluate fills in templates and checks them against typed fields, where there are any.
func (g *Graph) evaluate(ctx context.Context, v View, path *field.Path, templates values, fields []action.Field) (map[string]json.RawMessage, error) {
	e := g.evaluation(ctx, v)
	all := map[string]json.RawMessage{}
	var p problems
	for _, name := range sorted(templates) {
		raw, wrongThere := e.fill(path.Child(name), templates[name])
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w", path.Child(name), ctx.Err())
		}
		if wrongThere != nil {
			p.add(wrongThere)
		} else if !null(raw) {
			all[name] = raw
		}
	}
	for _, f := range fields {
		raw, ok := all[f.Name]
		if _, tried := templates[f.Name]; !ok && f.Required && (!tried || len(p.errors) == 0) {
			p.add(field.Required(path.Child(f.Name), "the action needs it, but the expression gave null"))
		}
		if ok {
			if err := conform(raw, f.Type, f.Enum); err != nil {
				p.addf(path.Child(f.Name), "%v", err)
			}
		}
	}
	if n := size(all); n > MaxInputs {
		p.addf(path, "the values have at most %d bytes of JSON together, these %d", MaxInputs, n)
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	return all, nil
}

// StepOutputs turns what the step's action gave into JSON, checked against the action's description and MaxOutputs.
// A character with the code 0, which no database could keep, becomes the replacement character.
func (g *Graph) StepOutputs(step string, outputs map[string]any) (map[string]json.RawMessage, error) {
	if err := g.exists(step); err != nil {
		return nil, err
	}
	description := g.actions[g.Step(step).Action]
	at := g.place(step).Child("outputs")
	fields := map[string]action.Field{}
	for _, f := range description.Outputs {
		fields[f.Name] = f
	}
	all := map[string]json.RawMessage{}
	var p problems
	for _, name := range sorted(outputs) {
		f, ok := fields[name]
		if !ok {
			p.addf(at.Child(brief(name)), "the action %s says nothing of such an output", description.Name)
			continue
		}
		raw, err := encode(outputs[name])
		if err != nil {
			p.addf(at.Child(name), "it is not JSON: %s", brief(err.Error()))
			continue
		}
		raw = withoutZero(raw)
		if null(raw) {
			continue
		}
		if len(raw) <= action.MaxOutputs {
			if err := conform(raw, f.Type, f.Enum); err != nil {
				p.addf(at.Child(name), "%v", err)
				continue
			}
		}
		all[name] = raw
	}
	if n := size(all); n > action.MaxOutputs {
		p.addf(at, "the outputs of a step have at most %d bytes of JSON together, these %d", action.MaxOutputs, n)
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	return all, nil
}

var escape = regexp.MustCompile(`\\(u0000|.)`)

// withoutZero replaces the character with the code 0 in JSON.
func withoutZero(raw []byte) []byte {
	if !bytes.Contains(raw, []byte(`\u0000`)) {
		return raw
	}
	return escape.ReplaceAllFunc(raw, func(found []byte) []byte {
		if string(found) == `\u0000` {
			return []byte(`\ufffd`)
		}
		return found
	})
}
