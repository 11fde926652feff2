package graph

import (
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

const (
	// maxText is how long a text may become that a function makes, in bytes.
	maxText = 64 << 10
	// maxMatched and maxPattern bound a regular expression, whose work is the text times the size of its program.
	maxMatched = 8 << 10
	maxPattern = 500
)

// Functions lists the functions over texts that expressions have beside those of CEL itself.
var Functions = []struct{ Name, Example, Doc string }{
	{"matches", `inputs.name.matches('^[a-z]+$')`, "whether a part of the text matches the regular expression (RE2)"},
	{"lowerAscii", `inputs.name.lowerAscii()`, "the text in small letters"},
	{"upperAscii", `inputs.name.upperAscii()`, "the text in capitals"},
	{"trim", `inputs.name.trim()`, "the text without white space at both ends"},
	{"replace", `inputs.name.replace('.', '-')`, "the text with each occurrence of one text replaced by another"},
	{"split", `inputs.list.split(',')`, "the list of the parts between a separator"},
	{"join", `['a', 'b'].join(',')`, "the text made of a list of texts with a separator between them"},
	{"substring", `run.uid.substring(0, 8)`, "the characters from one position to before another, counted from 0"},
}

func functions() []cel.EnvOption {
	text, list := cel.StringType, cel.ListType(cel.StringType)
	unary := func(f func(string) string) cel.OverloadOpt {
		return cel.UnaryBinding(func(v ref.Val) ref.Val { return types.String(f(string(v.(types.String)))) })
	}
	one := []*cel.Type{text}
	return []cel.EnvOption{
		cel.Function("matches", cel.Overload("matches", []*cel.Type{text, text}, cel.BoolType),
			cel.MemberOverload("matches_string", []*cel.Type{text, text}, cel.BoolType), cel.SingletonBinaryBinding(matches)),
		cel.Function("lowerAscii", cel.MemberOverload("yunfan_lower", one, text, unary(strings.ToLower))),
		cel.Function("upperAscii", cel.MemberOverload("yunfan_upper", one, text, unary(strings.ToUpper))),
		cel.Function("trim", cel.MemberOverload("yunfan_trim", one, text, unary(strings.TrimSpace))),
		cel.Function("replace", cel.MemberOverload("yunfan_replace", []*cel.Type{text, text, text}, text, cel.FunctionBinding(replace))),
		cel.Function("split", cel.MemberOverload("yunfan_split", []*cel.Type{text, text}, list, cel.BinaryBinding(split))),
		cel.Function("join", cel.MemberOverload("yunfan_join", []*cel.Type{list, text}, text, cel.BinaryBinding(join))),
		cel.Function("substring", cel.MemberOverload("yunfan_substring", []*cel.Type{text, cel.IntType, cel.IntType}, text, cel.FunctionBinding(substring))),
	}
}

func matches(value, pattern ref.Val) ref.Val {
	text, ok := value.(types.String)
	expr, is := pattern.(types.String)
	if !ok || !is {
		return types.MaybeNoSuchOverloadErr(value)
	}
	if len(text) > maxMatched || len(expr) > MaxExpression {
		return types.NewErr("matches looks at texts of at most %d bytes, with patterns of at most %d", maxMatched, MaxExpression)
	}
	tree, err := syntax.Parse(string(expr), syntax.Perl)
	if err != nil {
		return types.NewErr("no regular expression: %s", brief(err.Error()))
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil || len(program.Inst) > maxPattern {
		return types.NewErr("the regular expression %q is too large: make its repetitions smaller", brief(string(expr)))
	}
	compiled, err := regexp.Compile(string(expr))
	if err != nil {
		return types.NewErr("no regular expression: %s", brief(err.Error()))
	}
	return types.Bool(compiled.MatchString(string(text)))
}

var tooLong = types.NewErr("a text would become longer than %d bytes", maxText)

func replace(args ...ref.Val) ref.Val {
	text, old, with := string(args[0].(types.String)), string(args[1].(types.String)), string(args[2].(types.String))
	if len(text)+strings.Count(text, old)*(len(with)-len(old)) > maxText {
		return tooLong
	}
	return types.String(strings.ReplaceAll(text, old, with))
}

func split(text, separator ref.Val) ref.Val {
	if len(text.(types.String)) > maxText {
		return tooLong
	}
	return types.NewStringList(types.DefaultTypeAdapter, strings.Split(string(text.(types.String)), string(separator.(types.String))))
}

func join(list, separator ref.Val) ref.Val {
	var text strings.Builder
	for it := list.(traits.Lister).Iterator(); it.HasNext() == types.True; {
		part, ok := it.Next().(types.String)
		if !ok {
			return types.NewErr("join makes a text of texts: write map(x, string(x)) before it")
		}
		if text.Len() > 0 {
			text.WriteString(string(separator.(types.String)))
		}
		text.WriteString(string(part))
		if text.Len() > maxText {
			return tooLong
		}
	}
	return types.String(text.String())
}

func substring(args ...ref.Val) ref.Val {
	text, from, to := string(args[0].(types.String)), int(args[1].(types.Int)), int(args[2].(types.Int))
	if len(text) > maxText {
		return tooLong
	}
	if from < 0 || from > to || to > utf8.RuneCountInString(text) {
		return types.NewErr("substring: there are no characters %d to %d", from, to)
	}
	return types.String([]rune(text)[from:to])
}

// programOptions bound each evaluation. CEL counts the cost of what it does only after each operation, and takes a value
// for as large as it looks at the top: a list that holds another a thousand times, which holds another a thousand
// times, is made quickly and compared never. So what is built is weighed as a whole.
func programOptions() []cel.ProgramOption {
	weighed := func(args []ref.Val, _ ref.Val) *uint64 {
		cost := uint64(1)
		for _, arg := range args {
			cost += uint64(weigh(arg, maxWeight))
		}
		return &cost
	}
	return []cel.ProgramOption{
		cel.CostTracking(nil), cel.CostLimit(maxCost), cel.InterruptCheckFrequency(10), cel.CustomDecoratorV2(guard),
		cel.CostTrackerOptions(
			interpreter.OverloadCostTracker("equals", weighed), interpreter.OverloadCostTracker("not_equals", weighed),
			interpreter.OverloadCostTracker("in_list", weighed), interpreter.OverloadCostTracker("yunfan_join", weighed),
			interpreter.OverloadCostTracker("matches", costOfMatch), interpreter.OverloadCostTracker("matches_string", costOfMatch),
			interpreter.OverloadCostTracker("yunfan_split", weighed), interpreter.OverloadCostTracker("yunfan_replace", weighed),
			interpreter.OverloadCostTracker("yunfan_lower", weighed), interpreter.OverloadCostTracker("yunfan_upper", weighed),
			interpreter.OverloadCostTracker("yunfan_trim", weighed), interpreter.OverloadCostTracker("yunfan_substring", weighed)),
	}
}

func costOfMatch(args []ref.Val, _ ref.Val) *uint64 {
	cost := uint64(100)
	for _, arg := range args {
		if text, ok := arg.(types.String); ok {
			cost += uint64(len(text)) * 20
		}
	}
	return &cost
}

const (
	// maxCost of one evaluation, and of all that one call needs together, in the units of CEL: some 100 to 500 ns each.
	maxCost, maxCostOfAll = 100_000, 1_000_000
	// maxWeight of one value: how many values it is made of, and eighths of the bytes of its texts.
	maxWeight = 100_000
)

// weigh counts what a value is made of, up to a bound.
func weigh(value ref.Val, most int) int {
	weight := 1
	switch v := value.(type) {
	case types.String:
		weight += len(v) / 8
	case types.Bytes:
		weight += len(v) / 8
	case traits.Lister:
		for it := v.Iterator(); weight <= most && it.HasNext() == types.True; {
			weight += weigh(it.Next(), most-weight)
		}
	case traits.Mapper:
		for it := v.Iterator(); weight <= most && it.HasNext() == types.True; {
			key := it.Next()
			weight += weigh(key, most-weight) + weigh(v.Get(key), most-weight)
		}
	}
	return weight
}

// guard has each list and map that is made, and each sum, weighed.
func guard(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	switch inst := i.(type) {
	case interpreter.InterpretableConstructor:
		return &guardedMaking{inst}, nil
	case interpreter.InterpretableCall:
		if inst.Function() == "_+_" {
			return &guardedCall{inst}, nil
		}
	}
	return i, nil
}

type guardedMaking struct {
	interpreter.InterpretableConstructor
}

// Exec makes the value and weighs it.
func (g *guardedMaking) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	return bounded(frame, g.InterpretableConstructor.Exec(frame))
}

type guardedCall struct{ interpreter.InterpretableCall }

// Exec adds and weighs the sum.
func (g *guardedCall) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	return bounded(frame, g.InterpretableCall.Exec(frame))
}

// bounded ends the evaluation if the value, or all of its values together, have grown too large. A list to which a
// comprehension adds one element after the other is left out: each element was weighed when it was made.
func bounded(frame *interpreter.ExecutionFrame, value ref.Val) ref.Val {
	switch value.(type) {
	case traits.MutableLister, types.Int, types.Double, types.Uint:
		return value
	}
	weight := weigh(value, maxWeight)
	spent, ok := frame.ResolveName(budgetName)
	if b, is := spent.(*budget); ok && is {
		b.weight += weight
		if weight <= maxWeight && b.weight <= 10*maxWeight {
			return value
		}
	}
	panic(interpreter.EvalCancelledError{Cause: interpreter.CostLimitExceeded, Message: "a value has grown too large"})
}
