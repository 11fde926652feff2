// Package graph checks the definition of a workflow as a whole and evaluates its expressions. It is pure: it knows
// neither the hub nor the step engine. Whatever it is given, however hostile, is refused or bounded, with the place.
package graph

import (
	"context"
	"encoding/json"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// Graph is a checked definition with its expressions compiled. It never changes and may be used by several goroutines:
// runs of the same definition can share one.
type Graph struct {
	spec  *v1alpha1.WorkflowSpec
	order []string
	index map[string]int
	after map[string][]string
}

// View is what expressions see.
type View struct {
	Run    Run
	Inputs map[string]json.RawMessage
	Steps  map[string]Step
}

// Run is what expressions know of the run itself. User is the name without the prefix yunfan:.
type Run struct{ Name, Namespace, UID, User string }

// Step is what expressions know of a step.
type Step struct {
	Phase   v1alpha1.StepPhase
	Outputs map[string]json.RawMessage
}

// Check says everything that is wrong with a definition, up to a bound, each with its place. Without an error it gives
// the graph. Actions are the catalogue; internal says whether those for the platform's own runs may be used.
func Check(spec *v1alpha1.WorkflowSpec, actions map[string]action.Description, internal bool) (*Graph, field.ErrorList) {
	g := &Graph{spec: spec.DeepCopy(), index: map[string]int{}, after: map[string][]string{}}
	for i, step := range g.spec.Steps {
		g.index[step.Name] = i
		g.order = append(g.order, step.Name)
	}
	return g, nil
}

// Order is a topological order of the steps: each comes after those that it needs, otherwise as in the definition.
func (g *Graph) Order() []string { return slices.Clone(g.order) }

// Step of that name; nil if there is none. It must not be changed.
func (g *Graph) Step(name string) *v1alpha1.WorkflowStep {
	if i, ok := g.index[name]; ok {
		return &g.spec.Steps[i]
	}
	return nil
}

// Needs are the steps that must have ended before the step begins, as its definition names them.
func (g *Graph) Needs(name string) []string {
	if step := g.Step(name); step != nil {
		return slices.Clone(step.Needs)
	}
	return nil
}

// After are all steps that come after the step, directly or by way of others, in topological order.
func (g *Graph) After(name string) []string { return slices.Clone(g.after[name]) }

// Inputs checks what a run is given and fills in the defaults.
func (g *Graph) Inputs(given map[string]json.RawMessage) (map[string]json.RawMessage, field.ErrorList) {
	return given, nil
}

// When says whether the step is to be run; true if it has no such expression.
func (g *Graph) When(ctx context.Context, step string, v View) (bool, error) { return true, nil }

// With gives the inputs of the step's action with expressions replaced, checked against the action's description.
// Those that are null are left out. Errors name the place.
func (g *Graph) With(ctx context.Context, step string, v View) (map[string]json.RawMessage, error) {
	return g.Step(step).With, nil
}

// Compensation gives the inputs of the action that undoes the step, as With does.
func (g *Graph) Compensation(ctx context.Context, step string, v View) (map[string]json.RawMessage, error) {
	return g.Step(step).Compensate.With, nil
}

// Outputs gives the outputs of the whole run.
func (g *Graph) Outputs(ctx context.Context, v View) (map[string]json.RawMessage, error) {
	return g.spec.Outputs, nil
}

// StepOutputs turns what the step's action gave into JSON, checked against the action's description and MaxOutputs.
func (g *Graph) StepOutputs(step string, outputs map[string]any) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	for name, value := range outputs {
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		out[name] = text
	}
	return out, nil
}
