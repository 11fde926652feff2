package graph

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"

	"yunfan.io/yunfan/api/v1alpha1"
)

// View is what expressions see. Steps that are not in it are pending.
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

// patience is how long one expression may take by the clock. What it may do is bounded by its budget, which is used up
// long before, so that an expression gives the same on a machine that has much else to do.
const patience = 5 * time.Second

// evaluation is one call: expressions over the same view. It is the activation that CEL asks for variables.
type evaluation struct {
	ctx    context.Context //nolint:containedctx // one call's, which CEL does not hand through
	graph  *Graph
	view   View
	known  map[string]ref.Val
	budget budget
}

func (g *Graph) evaluation(ctx context.Context, v View) *evaluation {
	return &evaluation{ctx: ctx, graph: g, view: v, known: map[string]ref.Val{}}
}

// Parent is none.
func (e *evaluation) Parent() interpreter.Activation { return nil }

// ResolveName gives the value of a variable. Only what is asked for is read.
func (e *evaluation) ResolveName(name string) (any, bool) {
	if name == budgetName {
		return &e.budget, true
	}
	if value, ok := e.known[name]; ok {
		return value, true
	}
	variable, ok := e.graph.variables[name]
	if !ok {
		return nil, false
	}
	value, err := e.read(variable)
	if err != nil {
		value = types.WrapErr(fmt.Errorf("%s: %w", name[1:], err))
	}
	e.known[name] = value
	return value, true
}

// read makes a CEL value of a variable's JSON.
func (e *evaluation) read(v variable) (ref.Val, error) {
	if v.kind == ofOutputs {
		all := map[string]any{}
		for name, raw := range e.view.Steps[v.step].Outputs {
			value, err := decode(raw)
			if err != nil {
				return nil, err
			}
			if all[name], err = toCEL(value, ""); err != nil {
				return nil, err
			}
		}
		return types.NewStringInterfaceMap(types.DefaultTypeAdapter, all), nil
	}
	if text, ok := e.text(v); ok {
		return types.String(text), nil
	}
	value, err := decode(e.raw(v))
	if err != nil {
		return nil, err
	}
	if value == nil {
		if !v.absent {
			return nil, errors.New("it was not given")
		}
		return types.NullValue, nil
	}
	if err := fits(value, v.value, nil); err != nil {
		return nil, err
	}
	return toCEL(value, v.value)
}

// text is the value of what is no JSON.
func (e *evaluation) text(v variable) (string, bool) {
	switch v.kind {
	case ofPhase:
		return string(e.view.Steps[v.step].Phase), true
	case ofRun:
		run := e.view.Run
		return map[string]string{"name": run.Name, "namespace": run.Namespace, "uid": run.UID, "user": run.User}[v.field], true
	}
	return "", false
}

// raw is the JSON of an input or output; nil if there is none.
func (e *evaluation) raw(v variable) json.RawMessage {
	if v.kind == ofInputs {
		return e.view.Inputs[v.field]
	}
	return e.view.Steps[v.step].Outputs[v.field]
}

// value evaluates an expression.
func (e *evaluation) value(x *expression) (ref.Val, error) {
	ctx, cancel := context.WithTimeout(e.ctx, patience)
	defer cancel()
	e.budget.over = ctx.Err
	value, _, err := x.program.ContextEval(ctx, e)
	if e.ctx.Err() != nil {
		return nil, e.ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("%q: %.300s", brief(x.source), strings.ReplaceAll(err.Error(), "'@", "'"))
	}
	return value, nil
}

// json evaluates an expression to JSON. A variable by itself is passed on as it is written.
func (e *evaluation) json(x *expression) (json.RawMessage, error) {
	if v := e.graph.variables[x.plain]; x.plain != "" && (v.kind == ofInputs || v.kind == ofOutput) {
		return e.raw(v), nil
	}
	value, err := e.value(x)
	if err != nil {
		return nil, err
	}
	w := &writer{}
	if err := w.write(value, 0); err != nil {
		return nil, fmt.Errorf("%q: %w", brief(x.source), err)
	}
	return w.text, nil
}

// toCEL makes a CEL value of decoded JSON, with whole numbers whole. A Number is a double however it is written.
func toCEL(value any, as v1alpha1.ValueType) (ref.Val, error) {
	switch v := value.(type) {
	case nil:
		return types.NullValue, nil
	case bool:
		return types.Bool(v), nil
	case string:
		return types.String(v), nil
	case json.Number:
		return number(v.String(), as)
	case []any:
		list := make([]ref.Val, len(v))
		for i := range v {
			var err error
			if list[i], err = toCEL(v[i], ""); err != nil {
				return nil, err
			}
		}
		return types.NewRefValList(types.DefaultTypeAdapter, list), nil
	case map[string]any:
		object := make(map[string]any, len(v))
		for key := range v {
			var err error
			if object[key], err = toCEL(v[key], ""); err != nil {
				return nil, err
			}
		}
		return types.NewStringInterfaceMap(types.DefaultTypeAdapter, object), nil
	}
	return nil, fmt.Errorf("no JSON: %T", value)
}

func number(text string, as v1alpha1.ValueType) (ref.Val, error) {
	if as != v1alpha1.TypeNumber && !strings.ContainsAny(text, ".eE") {
		if whole, err := strconv.ParseInt(text, 10, 64); err == nil {
			return types.Int(whole), nil
		}
		if whole, err := strconv.ParseUint(text, 10, 64); err == nil {
			return types.Uint(whole), nil
		}
		return nil, fmt.Errorf("the number %s does not fit 64 bits", brief(text))
	}
	double, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, fmt.Errorf("the number %s does not fit 64 bits", brief(text))
	}
	return types.Double(double), nil
}

// writer makes JSON of CEL values, up to a size and a depth.
type writer struct{ text []byte }

var errTooLarge = fmt.Errorf("the result is larger than %d bytes of JSON", MaxInputs)

func (w *writer) write(value ref.Val, depth int) error {
	if depth > MaxDepth {
		return fmt.Errorf("the result is nested deeper than %d", MaxDepth)
	}
	switch v := value.(type) {
	case types.Null:
		w.text = append(w.text, "null"...)
	case types.Bool:
		w.text = strconv.AppendBool(w.text, bool(v))
	case types.Int:
		w.text = strconv.AppendInt(w.text, int64(v), 10)
	case types.Uint:
		w.text = strconv.AppendUint(w.text, uint64(v), 10)
	case types.Double:
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return errors.New("the result is no number that JSON has")
		}
		text, err := json.Marshal(float64(v))
		if err != nil {
			return err
		}
		w.text = append(w.text, text...)
	case types.String:
		return w.string(string(v))
	case types.Bytes:
		return w.string(base64.StdEncoding.EncodeToString(v))
	case types.Timestamp, types.Duration:
		text, ok := value.ConvertToType(types.StringType).(types.String)
		if !ok {
			return errors.New("the result is no time")
		}
		return w.string(string(text))
	case traits.Lister:
		return w.list(v, depth)
	case traits.Mapper:
		return w.object(v, depth)
	default:
		return fmt.Errorf("the result is a %s, which JSON does not have", value.Type().TypeName())
	}
	return w.full()
}

func (w *writer) full() error {
	if len(w.text) > MaxInputs {
		return errTooLarge
	}
	return nil
}

func (w *writer) string(text string) error {
	if len(text) > MaxInputs {
		return errTooLarge
	}
	quoted, err := encode(text)
	if err != nil {
		return err
	}
	w.text = append(w.text, quoted...)
	return w.full()
}

func (w *writer) list(list traits.Lister, depth int) error {
	w.text = append(w.text, '[')
	for first, it := true, list.Iterator(); it.HasNext() == types.True; first = false {
		if !first {
			w.text = append(w.text, ',')
		}
		if err := w.write(it.Next(), depth+1); err != nil {
			return err
		}
	}
	w.text = append(w.text, ']')
	return w.full()
}

func (w *writer) object(object traits.Mapper, depth int) error {
	keys := map[string]ref.Val{}
	for it := object.Iterator(); it.HasNext() == types.True; {
		key := it.Next()
		name, ok := key.ConvertToType(types.StringType).(types.String)
		if !ok {
			return fmt.Errorf("the key of an object is a %s", key.Type().TypeName())
		}
		if keys[string(name)] = key; len(keys) > MaxInputs {
			return errTooLarge
		}
	}
	names := make([]string, 0, len(keys))
	for name := range keys {
		names = append(names, name)
	}
	slices.Sort(names)
	w.text = append(w.text, '{')
	for i, name := range names {
		if i > 0 {
			w.text = append(w.text, ',')
		}
		if err := w.string(name); err != nil {
			return err
		}
		w.text = append(w.text, ':')
		if err := w.write(object.Get(keys[name]), depth+1); err != nil {
			return err
		}
	}
	w.text = append(w.text, '}')
	return w.full()
}
