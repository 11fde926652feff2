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
	if work(text, expr) == 0 {
		return types.NewErr("the regular expression %q is none, or its repetitions are too large", brief(string(expr)))
	}
	compiled, err := regexp.Compile(string(expr))
	if err != nil {
		return types.NewErr("no regular expression: %s", brief(err.Error()))
	}
	return types.Bool(compiled.MatchString(string(text)))
}

// work is what it costs to match, in the units of maxSpent; 0 for what is no regular expression, or too large a one.
func work(text, pattern types.String) int {
	if len(text) > maxMatched || len(pattern) > MaxExpression {
		return 0
	}
	tree, err := syntax.Parse(string(pattern), syntax.Perl)
	if err != nil {
		return 0
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil || len(program.Inst) > maxPattern {
		return 0
	}
	return 100 + len(pattern) + len(text)*len(program.Inst)/8
}

// tooLong is made anew each time: CEL writes into errors where they came from.
func tooLong() ref.Val { return types.NewErr("a text would become longer than %d bytes", maxText) }

func replace(args ...ref.Val) ref.Val {
	text, old, with := string(args[0].(types.String)), string(args[1].(types.String)), string(args[2].(types.String))
	if len(text)+strings.Count(text, old)*(len(with)-len(old)) > maxText {
		return tooLong()
	}
	return types.String(strings.ReplaceAll(text, old, with))
}

func split(text, separator ref.Val) ref.Val {
	if len(text.(types.String)) > maxText {
		return tooLong()
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
			return tooLong()
		}
	}
	return types.String(text.String())
}

func substring(args ...ref.Val) ref.Val {
	text, from, to := string(args[0].(types.String)), int(args[1].(types.Int)), int(args[2].(types.Int))
	if len(text) > maxText {
		return tooLong()
	}
	if from < 0 || from > to || to > utf8.RuneCountInString(text) {
		return types.NewErr("substring: there are no characters %d to %d", from, to)
	}
	return types.String([]rune(text)[from:to])
}
