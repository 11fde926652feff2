// Package graph checks the definition of a workflow as a whole and evaluates its expressions. It is pure: it knows
// neither the hub nor the step engine. Whatever it is given, however hostile, is refused or bounded, with the place.
package graph

import (
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// What a definition and a run may have at most.
const (
	// MaxSteps of a definition.
	MaxSteps = 200
	// MaxDefinition is the size of a definition, in bytes of JSON.
	MaxDefinition = 96 << 10
	// MaxInputs is the size of a run's inputs together, and of those of one step, in bytes of JSON.
	MaxInputs = 64 << 10
	// MaxExpression is the length of one expression in bytes, and MaxExpressions how many a definition may hold.
	MaxExpression  = 4 << 10
	MaxExpressions = 1000
	// MaxDepth is how deep lists and objects may be nested.
	MaxDepth = 64
	// MaxErrors is how many problems are told at once.
	MaxErrors = 50
)

// Graph is a checked definition with its expressions compiled. It never changes and may be used by several goroutines:
// runs of the same definition can share one.
type Graph struct {
	spec    *v1alpha1.WorkflowSpec
	actions map[string]action.Description
	order   []string
	index   map[string]int
	before  map[string]map[string]bool // all that a step needs, directly or not
	after   map[string][]string

	variables map[string]variable
	when      map[string]*expression
	with      map[string]values
	undo      map[string]values
	outputs   values
}

// Check says everything that is wrong with a definition, up to a bound, each with its place. Without an error it gives
// the graph. Actions are the catalogue; internal says whether those for the platform's own runs may be used.
func Check(spec *v1alpha1.WorkflowSpec, actions map[string]action.Description, internal bool) (*Graph, field.ErrorList) {
	c := &checker{internal: internal}
	root := field.NewPath("spec")
	if n := len(spec.Steps); n == 0 || n > MaxSteps {
		c.addf(root.Child("steps"), "a workflow has 1 to %d steps, this one %d", MaxSteps, n)
		return nil, c.list()
	}
	text, err := json.Marshal(spec)
	if err != nil {
		c.addf(root, "it is not JSON: %s", brief(err.Error()))
		return nil, c.list()
	}
	if len(text) > MaxDefinition {
		c.addf(root, "a definition has at most %d bytes of JSON, this one %d: make two workflows of it, or give the large part as an input", MaxDefinition, len(text))
		return nil, c.list()
	}
	c.Graph = &Graph{spec: spec.DeepCopy(), actions: actions, index: map[string]int{}, before: map[string]map[string]bool{},
		after: map[string][]string{}, when: map[string]*expression{}, with: map[string]values{}, undo: map[string]values{}}
	c.inputs(root.Child("inputs"))
	c.steps(root.Child("steps"))
	c.edges(root.Child("steps"))
	c.variables = c.declare()
	c.values(root)
	c.compile()
	if list := c.list(); len(list) > 0 {
		return nil, list
	}
	return c.Graph, nil
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

// place of a step in the definition.
func (g *Graph) place(step string) *field.Path {
	return field.NewPath("spec", "steps").Index(g.index[step])
}

// checker collects what is wrong with a definition while the graph is made.
type checker struct {
	*Graph
	problems

	internal    bool
	expressions []*expression
}

// problems are told up to a bound.
type problems struct {
	errors field.ErrorList
	more   int
}

func (p *problems) add(err *field.Error) {
	if len(p.errors) >= MaxErrors {
		p.more++
		return
	}
	p.errors = append(p.errors, err)
}

func (p *problems) addf(path *field.Path, format string, args ...any) {
	p.add(field.Invalid(path, field.OmitValueType{}, fmt.Sprintf(format, args...)))
}

// list gives the problems, and says how many more there are.
func (p *problems) list() field.ErrorList {
	if p.more == 0 {
		return p.errors
	}
	return append(slices.Clone(p.errors), field.TooMany(field.NewPath("spec"), len(p.errors)+p.more, MaxErrors))
}

// err is all problems as one error that no further attempt mends; nil if there are none.
func (p *problems) err() error {
	if err := p.list().ToAggregate(); err != nil {
		return action.Failed(err)
	}
	return nil
}
