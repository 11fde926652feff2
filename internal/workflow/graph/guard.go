package graph

import (
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

const (
	// maxSpent is what all expressions of one call may spend: a unit is a value that is looked at, or eight bytes of a
	// text. It is less than 100 ms' worth.
	maxSpent = 500_000
	// maxWeight of one value: how many values it is made of, and eighths of the bytes of its texts.
	maxWeight = 100_000
	// glance is after how much the clock is looked at.
	glance = 1 << 12
)

const budgetName = "@budget"

// budget is what the expressions of one call have spent.
type budget struct {
	spent, looked int
	over          func() error // why the evaluation that is under way has no more time; nil as long as it has
}

// programOptions bound each evaluation. CEL itself counts the cost of an operation after it only, and takes a value for
// as large as it looks at the top: a list that holds another a thousand times, which holds another a thousand times, is
// made quickly and compared never. So what is made is weighed as a whole, and what is compared before that.
func programOptions() []cel.ProgramOption {
	return []cel.ProgramOption{cel.InterruptCheckFrequency(1), cel.CustomDecoratorV2(guard)}
}

// guard has each list and map that is made, each call, and what is compared charged for.
func guard(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	switch inst := i.(type) {
	case interpreter.InterpretableConstructor:
		return &guardedMaking{inst}, nil
	case interpreter.InterpretableCall:
		switch inst.Function() {
		case operators.Equals, operators.NotEquals, operators.In, "matches":
			return &guardedComparison{inst}, nil
		}
		return &guardedCall{inst}, nil
	}
	return i, nil
}

type guardedMaking struct {
	interpreter.InterpretableConstructor
}

// Exec makes the value and weighs it.
func (g *guardedMaking) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	return made(frame, g.InterpretableConstructor.Exec(frame))
}

// Eval does the same for callers of the older kind.
func (g *guardedMaking) Eval(vars interpreter.Activation) ref.Val {
	return g.Exec(interpreter.AsFrame(vars))
}

type guardedCall struct{ interpreter.InterpretableCall }

// Exec calls and weighs the result.
func (g *guardedCall) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	return made(frame, g.InterpretableCall.Exec(frame))
}

// Eval does the same for callers of the older kind.
func (g *guardedCall) Eval(vars interpreter.Activation) ref.Val {
	return g.Exec(interpreter.AsFrame(vars))
}

// guardedComparison is a call of ==, !=, in or matches, which look at all of their arguments.
type guardedComparison struct{ interpreter.InterpretableCall }

// Exec weighs the arguments, and compares then.
func (g *guardedComparison) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	args := g.Args()
	left := args[0].Exec(frame)
	if types.IsUnknownOrError(left) {
		return left
	}
	right := args[1].Exec(frame)
	if types.IsUnknownOrError(right) {
		return right
	}
	text, isText := left.(types.String)
	pattern, isPattern := right.(types.String)
	if g.Function() == "matches" && isText && isPattern {
		charge(frame, work(text, pattern))
	} else {
		charge(frame, weigh(left, maxWeight)+weigh(right, maxWeight))
	}
	switch g.Function() {
	case operators.Equals:
		return types.Equal(left, right)
	case operators.NotEquals:
		return types.Bool(types.Equal(left, right) != types.True)
	case operators.In:
		if all, ok := right.(traits.Container); ok {
			return all.Contains(left)
		}
		return types.MaybeNoSuchOverloadErr(right)
	}
	return matches(left, right)
}

// Eval does the same for callers of the older kind.
func (g *guardedComparison) Eval(vars interpreter.Activation) ref.Val {
	return g.Exec(interpreter.AsFrame(vars))
}

// made ends the evaluation if a value has grown too large. A list to which a comprehension adds one element after the
// other is left out: each element was weighed when it was made.
func made(frame *interpreter.ExecutionFrame, value ref.Val) ref.Val {
	if _, growing := value.(traits.MutableLister); growing {
		charge(frame, 1)
		return value
	}
	weight := weigh(value, maxWeight)
	if weight > maxWeight {
		panic(interpreter.EvalCancelledError{Cause: interpreter.CostLimitExceeded, Message: "a value has grown too large"})
	}
	charge(frame, weight)
	return value
}

// charge ends the evaluation if too much was spent, or its time is over.
func charge(frame *interpreter.ExecutionFrame, units int) {
	found, _ := frame.ResolveName(budgetName)
	b, ok := found.(*budget)
	if !ok {
		panic(interpreter.EvalCancelledError{Cause: interpreter.CostLimitExceeded, Message: "no budget"})
	}
	if b.spent += units; b.spent > maxSpent {
		panic(interpreter.EvalCancelledError{Cause: interpreter.CostLimitExceeded, Message: "it takes too many operations"})
	}
	if b.spent-b.looked >= glance {
		b.looked = b.spent
		if b.over() != nil {
			panic(interpreter.EvalCancelledError{Cause: interpreter.ContextCancelled, Message: "it takes too long"})
		}
	}
}

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
