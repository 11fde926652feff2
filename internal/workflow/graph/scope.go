package graph

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"

	"yunfan.io/yunfan/api/v1alpha1"
)

// variable is one value that expressions may see. Each has a name of its own in CEL, which nobody can write: so what
// exists is known before anything is evaluated, and only what is used is ever read.
type variable struct {
	kind   kindOfVariable
	step   string // of outputs and phases
	field  string // of inputs, outputs and the run
	typ    *cel.Type
	value  v1alpha1.ValueType
	absent bool // it may be null: not given, or of a step that was skipped
}

type kindOfVariable int

const (
	ofInputs kindOfVariable = iota
	ofRun
	ofPhase
	ofOutput
	ofOutputs
)

var runFields = []string{"name", "namespace", "uid", "user"}

// declare lists all variables that the definition gives.
func (g *Graph) declare() map[string]variable {
	all := map[string]variable{}
	for _, input := range g.spec.Inputs {
		absent := !input.Required && null(input.Default)
		all["@inputs."+input.Name] = variable{kind: ofInputs, field: input.Name, value: typeOf(input), typ: celType(typeOf(input), absent), absent: absent}
	}
	for _, name := range runFields {
		all["@run."+name] = variable{kind: ofRun, field: name, value: v1alpha1.TypeString, typ: cel.StringType}
	}
	for _, step := range g.spec.Steps {
		all["@steps."+step.Name+".phase"] = variable{kind: ofPhase, step: step.Name, value: v1alpha1.TypeString, typ: cel.StringType}
		all["@steps."+step.Name+".outputs"] = variable{kind: ofOutputs, step: step.Name, value: v1alpha1.TypeObject, typ: cel.MapType(cel.StringType, cel.DynType)}
		for _, output := range g.actions[step.Action].Outputs {
			all["@steps."+step.Name+".outputs."+output.Name] = variable{
				kind: ofOutput, step: step.Name, field: output.Name, value: output.Type, typ: celType(output.Type, true), absent: true}
		}
	}
	return all
}

// celType is how CEL sees a type. What may be null is a wrapper, which can be compared with null and used as the value.
func celType(t v1alpha1.ValueType, absent bool) *cel.Type {
	var typ *cel.Type
	switch t {
	case v1alpha1.TypeString:
		typ = cel.StringType
	case v1alpha1.TypeInteger:
		typ = cel.IntType
	case v1alpha1.TypeNumber:
		typ = cel.DoubleType
	case v1alpha1.TypeBoolean:
		typ = cel.BoolType
	case v1alpha1.TypeObject:
		typ = cel.MapType(cel.StringType, cel.DynType)
	case v1alpha1.TypeList:
		typ = cel.ListType(cel.DynType)
	default:
		return cel.DynType
	}
	if !absent {
		return typ
	}
	if typ.Kind() == types.MapKind || typ.Kind() == types.ListKind {
		return cel.DynType
	}
	return cel.NullableType(typ)
}

// scope is what one expression may see.
type scope struct {
	*checker
	step string // whose expression it is; "" for the outputs of the run, which see all steps
	own  bool   // it sees the step's own outputs: a compensation
}

// errUnknownAction says that nothing is known of a step's outputs because its action is not known, which was told.
var errUnknownAction = errors.New("unknown action")

var roots = []string{"inputs", "run", "steps", "outputs"}

// find resolves a path such as steps, build, outputs, image. It gives the variable's name and how many parts of the path
// it is; none if the path is too short to name one.
func (s *scope) find(path []string) (string, int, error) {
	switch path[0] {
	case "inputs":
		return s.findInput(path)
	case "run":
		if len(path) < 2 {
			return "", 0, nil
		}
		if !slices.Contains(runFields, path[1]) {
			return "", 0, fmt.Errorf("run has no %s%s", brief(path[1]), meant(path[1], slices.Clone(runFields)))
		}
		return "@run." + path[1], 2, nil
	case "outputs":
		if !s.own {
			return "", 0, errors.New("outputs is for compensations, which see those of their own step: write steps.<name>.outputs")
		}
		return s.findOutput(s.step, path)
	}
	return s.findStep(path)
}

func (s *scope) findInput(path []string) (string, int, error) {
	if len(path) < 2 {
		return "", 0, nil
	}
	if _, ok := s.variables["@inputs."+path[1]]; ok {
		return "@inputs." + path[1], 2, nil
	}
	var names []string
	for _, input := range s.spec.Inputs {
		names = append(names, input.Name)
	}
	return "", 0, fmt.Errorf("there is no input %q%s", brief(path[1]), meant(path[1], names))
}

func (s *scope) findStep(path []string) (string, int, error) {
	if len(path) < 2 {
		return "", 0, nil
	}
	name := path[1]
	if _, ok := s.index[name]; !ok {
		return "", 0, fmt.Errorf("there is no step %q%s", brief(name), meant(name, slices.Clone(s.order)))
	}
	if s.step != "" && !s.before[s.step][name] {
		if name == s.step {
			return "", 0, errors.New("a step does not see itself")
		}
		return "", 0, fmt.Errorf("the step %s is not among what %s needs, directly or through others: add it to needs", name, s.step)
	}
	if len(path) < 3 {
		return "", 0, nil
	}
	switch path[2] {
	case "phase":
		return "@steps." + name + ".phase", 3, nil
	case "outputs":
		found, n, err := s.findOutput(name, path[2:])
		return found, n + 2, err
	}
	return "", 0, fmt.Errorf("a step has outputs and phase, but no %s", brief(path[2]))
}

// findOutput resolves outputs, or outputs and a name.
func (s *scope) findOutput(step string, path []string) (string, int, error) {
	whole := "@steps." + step + ".outputs"
	if len(path) < 2 {
		return whole, 1, nil
	}
	if _, ok := s.variables[whole+"."+path[1]]; ok {
		return whole + "." + path[1], 2, nil
	}
	action := s.Step(step).Action
	description, ok := s.actions[action]
	if !ok {
		return "", 0, errUnknownAction
	}
	var names []string
	for _, output := range description.Outputs {
		names = append(names, output.Name)
	}
	return "", 0, fmt.Errorf("the action %s of step %s has no output %q%s", action, step, brief(path[1]), meant(path[1], names))
}

// usage says how a root is written, for whoever wrote it alone.
func usage(root string) string {
	switch root {
	case "steps":
		return "write steps.<name>.outputs.<name> or steps.<name>.phase, with steps['my-step'] where the name is not a plain word"
	case "run":
		return "write run." + strings.Join(runFields, ", run.")
	}
	return "write " + root + ".<name>"
}
