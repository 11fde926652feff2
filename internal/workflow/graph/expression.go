package graph

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/env"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"yunfan.io/yunfan/api/v1alpha1"
)

// expression is one text in CEL at one place.
type expression struct {
	path    *field.Path
	source  string
	want    v1alpha1.ValueType // what its value must be; any if empty
	text    bool               // its value becomes part of a text
	ast     *cel.Ast
	used    []string
	program cel.Program
	// plain is the variable that the expression is, if it is nothing else: its JSON is passed on as it is.
	plain string
}

// language is CEL without what could run away: its standard library but with regular expressions and functions over
// texts of our own, which are bounded.
var language = sync.OnceValues(func() (*cel.Env, error) {
	without := env.NewLibrarySubset().AddExcludedFunctions(&env.Function{Name: "matches"})
	options := []cel.EnvOption{
		cel.StdLib(cel.StdLibSubset(without)), cel.CrossTypeNumericComparisons(true), cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(MaxExpression), cel.ParserRecursionLimit(60), cel.ParserErrorRecoveryLimit(4), cel.ExpressionNodeLimit(2000),
	}
	return cel.NewCustomEnv(append(options, functions()...)...)
})

// parse reads an expression and puts variables in the place of paths. Nil means that it was refused.
func (s *scope) parse(path *field.Path, source string) *expression {
	if len(source) > MaxExpression {
		s.addf(path, "an expression has at most %d bytes, this one %d", MaxExpression, len(source))
		return nil
	}
	if len(s.expressions) >= MaxExpressions {
		if len(s.expressions) == MaxExpressions {
			s.addf(path, "a definition holds at most %d expressions", MaxExpressions)
			s.expressions = append(s.expressions, nil)
		}
		return nil
	}
	lang, err := language()
	if err != nil {
		s.add(field.InternalError(path, err))
		return nil
	}
	parsed, issues := lang.Parse(source)
	if issues.Err() != nil {
		s.addf(path, "%s", said(source, issues))
		return nil
	}
	e := &expression{path: path, source: source, ast: parsed}
	tree := parsed.NativeRep()
	w := &rewriter{scope: s, used: map[string]bool{}, next: ast.MaxID(tree) + 1}
	if err := w.rewrite(tree.Expr()); err != nil {
		if !errors.Is(err, errUnknownAction) {
			s.addf(path, "%q: %v", brief(source), err)
		}
		return nil
	}
	e.used = sorted(w.used)
	if root := tree.Expr(); root.Kind() == ast.IdentKind && w.used[root.AsIdent()] {
		e.plain = root.AsIdent()
	}
	s.expressions = append(s.expressions, e)
	return e
}

// compile checks the types of all expressions and makes programs of them.
func (c *checker) compile() {
	lang, err := language()
	if err != nil {
		return // told when the first was parsed
	}
	used := map[string]bool{}
	for _, e := range c.expressions {
		if e != nil {
			for _, name := range e.used {
				used[name] = true
			}
		}
	}
	var options []cel.EnvOption
	for _, name := range sorted(used) {
		options = append(options, cel.Variable(name, c.variables[name].typ))
	}
	if lang, err = lang.Extend(options...); err != nil {
		c.add(field.InternalError(field.NewPath("spec"), err))
		return
	}
	for _, e := range c.expressions {
		if e == nil {
			continue
		}
		checked, issues := lang.Check(e.ast)
		if issues.Err() != nil {
			c.addf(e.path, "%s", said(e.source, issues))
			continue
		}
		if err := c.assignable(e, checked.OutputType()); err != nil {
			c.addf(e.path, "%q %v", brief(e.source), err)
			continue
		}
		if e.program, err = lang.Program(checked, programOptions()...); err != nil {
			c.addf(e.path, "%q: %s", brief(e.source), brief(err.Error()))
		}
		e.ast = nil
	}
}

// said tells the first problem that CEL sees, with its column.
func said(source string, issues *cel.Issues) string {
	first := issues.Errors()[0]
	return fmt.Sprintf("%q: at column %d: %.300s", brief(source), first.Location.Column()+1, first.Message)
}

// assignable says why values of the expression are never what its place wants.
func (c *checker) assignable(e *expression, gives *cel.Type) error {
	if e.text || e.want == "" {
		return nil
	}
	if e.plain != "" {
		value := c.variables[e.plain].value
		if value == "" || value == e.want || value == v1alpha1.TypeInteger && e.want == v1alpha1.TypeNumber {
			return nil
		}
		return fmt.Errorf("is %s, but %s is wanted", article(value), article(e.want))
	}
	if gives.Kind() == types.DynKind || gives.Kind() == types.AnyKind || gives.Kind() == types.NullTypeKind {
		return nil
	}
	var fine []types.Kind
	switch e.want {
	case v1alpha1.TypeString:
		fine = []types.Kind{types.StringKind, types.BytesKind, types.TimestampKind, types.DurationKind}
	case v1alpha1.TypeInteger:
		fine = []types.Kind{types.IntKind, types.UintKind}
	case v1alpha1.TypeNumber:
		fine = []types.Kind{types.IntKind, types.UintKind, types.DoubleKind}
	case v1alpha1.TypeBoolean:
		fine = []types.Kind{types.BoolKind}
	case v1alpha1.TypeObject:
		fine = []types.Kind{types.MapKind}
	case v1alpha1.TypeList:
		fine = []types.Kind{types.ListKind}
	}
	// A wrapper has the kind of what it wraps.
	if slices.Contains(fine, gives.Kind()) {
		return nil
	}
	return fmt.Errorf("gives %s in CEL, but %s is wanted", gives, article(e.want))
}

// rewriter puts the names of variables in the place of paths such as inputs.image or steps['my-step'].outputs.url.
type rewriter struct {
	*scope
	used map[string]bool
	next int64
}

func (w *rewriter) rewrite(e ast.Expr) error {
	if path := pathOf(e); path != nil && slices.Contains(roots, path[0]) {
		name, n, err := w.find(path)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%s is no value: %s", path[0], usage(path[0]))
		}
		if n == len(path) {
			w.replace(e, name)
			return nil
		}
	}
	if e.Kind() == ast.ComprehensionKind {
		fold := e.AsComprehension()
		for _, name := range []string{fold.IterVar(), fold.IterVar2()} {
			if slices.Contains(roots, name) {
				return fmt.Errorf("%s has its meaning: name the variable otherwise", name)
			}
		}
	}
	for _, child := range children(e) {
		if err := w.rewrite(child); err != nil {
			return err
		}
	}
	return nil
}

// replace makes a variable of the path, and of has(path) the question whether the variable is there.
func (w *rewriter) replace(e ast.Expr, name string) {
	w.used[name] = true
	factory := ast.NewExprFactory()
	if e.Kind() != ast.SelectKind || !e.AsSelect().IsTestOnly() {
		e.SetKindCase(factory.NewIdent(e.ID(), name))
		return
	}
	if !w.variables[name].absent {
		e.SetKindCase(factory.NewLiteral(e.ID(), types.True))
		return
	}
	variable, nothing := factory.NewIdent(w.next, name), factory.NewLiteral(w.next+1, types.NullValue)
	w.next += 2
	e.SetKindCase(factory.NewCall(e.ID(), operators.NotEquals, variable, nothing))
}

// pathOf gives the parts of a.b['c']; nil for anything else.
func pathOf(e ast.Expr) []string {
	switch e.Kind() {
	case ast.IdentKind:
		return []string{e.AsIdent()}
	case ast.SelectKind:
		if path := pathOf(e.AsSelect().Operand()); path != nil {
			return append(path, e.AsSelect().FieldName())
		}
	case ast.CallKind:
		call := e.AsCall()
		if call.FunctionName() != operators.Index || call.IsMemberFunction() || call.Args()[1].Kind() != ast.LiteralKind {
			return nil
		}
		key, ok := call.Args()[1].AsLiteral().(types.String)
		if path := pathOf(call.Args()[0]); path != nil && ok {
			return append(path, string(key))
		}
	}
	return nil
}

// children are the expressions that an expression is made of.
func children(e ast.Expr) []ast.Expr {
	switch e.Kind() {
	case ast.SelectKind:
		return []ast.Expr{e.AsSelect().Operand()}
	case ast.CallKind:
		call := e.AsCall()
		if call.IsMemberFunction() {
			return append([]ast.Expr{call.Target()}, call.Args()...)
		}
		return call.Args()
	case ast.ListKind:
		return e.AsList().Elements()
	case ast.MapKind:
		var all []ast.Expr
		for _, entry := range e.AsMap().Entries() {
			all = append(all, entry.AsMapEntry().Key(), entry.AsMapEntry().Value())
		}
		return all
	case ast.StructKind:
		var all []ast.Expr
		for _, entry := range e.AsStruct().Fields() {
			all = append(all, entry.AsStructField().Value())
		}
		return all
	case ast.ComprehensionKind:
		fold := e.AsComprehension()
		return []ast.Expr{fold.IterRange(), fold.AccuInit(), fold.LoopCondition(), fold.LoopStep(), fold.Result()}
	}
	return nil
}
