package graph

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// limit is how long anything hostile may keep a server, with a machine in mind that does twenty other things.
const limit = 5 * time.Second

func within(t *testing.T, what string, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > limit {
		t.Errorf("%s took %v", what, took)
	} else {
		t.Logf("%s took %v", what, took)
	}
}

// waits makes a definition of n steps, each needing what needs says.
func waits(n int, needs func(i int) []string) *v1alpha1.WorkflowSpec {
	s := &v1alpha1.WorkflowSpec{}
	for i := range n {
		s.Steps = append(s.Steps, v1alpha1.WorkflowStep{Name: fmt.Sprintf("s%d", i), Action: "wait", Needs: needs(i),
			With: map[string]json.RawMessage{"duration": json.RawMessage(`"1s"`)}})
	}
	return s
}

func TestHostileDefinitions(t *testing.T) {
	none := func(int) []string { return nil }
	with := func(text string) *v1alpha1.WorkflowSpec {
		s := waits(1, none)
		s.Steps[0].With["duration"] = json.RawMessage(text)
		return s
	}
	for reason, test := range map[string]struct {
		spec *v1alpha1.WorkflowSpec
		want string
	}{
		"10,000 steps":          {waits(10_000, none), "spec.steps: Invalid value: a workflow has 1 to 200 steps, this one 10000"},
		"1 MiB":                 {with(`"` + strings.Repeat("x", 1<<20) + `"`), "spec: Invalid value: a definition has at most 98304 bytes of JSON, this one "},
		"circle of 200":         {waits(200, func(i int) []string { return []string{fmt.Sprintf("s%d", (i+1)%200)} }), "spec.steps[0].needs[0]: Invalid value: the steps need each other in a circle: s0 → s1 → s2 → s3 → s4 → s5 → … 192 more … → s198 → s199 → s0: remove one of these needs"},
		"deep":                  {with(strings.Repeat("[", 40_000) + strings.Repeat("]", 40_000)), "spec: Invalid value: it is not JSON: json: error calling MarshalJSON"},
		"rather deep":           {with(strings.Repeat("[", 5000) + strings.Repeat("]", 5000)), "spec.steps[0].with.duration: Invalid value: it is nested deeper than 64"},
		"not UTF-8":             {with("\"\xff\xfe\""), "spec.steps[0].with.duration: Invalid value: it is not UTF-8"},
		"NUL":                   {with(`"a\u0000b"`), "spec.steps[0].with.duration: Invalid value: it holds a character with the code 0"},
		"no JSON":               {with(`{"a":`), "spec: Invalid value: it is not JSON"},
		"two values":            {with(`1 2`), "spec: Invalid value: it is not JSON"},
		"long expression":       {with(`"${{ '` + strings.Repeat("x", MaxExpression) + `' }}"`), "spec.steps[0].with.duration: Invalid value: an expression has at most 4096 bytes, this one 4098"},
		"deep expression":       {with(`"${{ ` + strings.Repeat("(", 2000) + "1" + strings.Repeat(")", 2000) + ` }}"`), "spec.steps[0].with.duration: Invalid value: "},
		"not closed expression": {with(`"${{ ` + strings.Repeat("[", 4000) + ` }}"`), "spec.steps[0].with.duration: Invalid value: "},
		"denied a lot":          {with(`"${{ ` + strings.Repeat("!", 3000) + `true }}"`), "spec.steps[0].with.duration: Invalid value: "},
		"many operators":        {with(`"${{ ` + strings.Repeat("1+", 2000) + `1 }}"`), "spec.steps[0].with.duration: Invalid value: "},
		"unreadable":            {with(`"${{ ` + strings.Repeat("? ", 2000) + ` }}"`), "spec.steps[0].with.duration: Invalid value: "},
		"many expressions":      {with(`"` + strings.Repeat("${{1}}", 10_000) + `"`), "spec.steps[0].with.duration: Invalid value: a definition holds at most 1000 expressions"},
		"nested macros": {with(`"${{ string(` + strings.Repeat("[1].map(x, ", 100) + "1" + strings.Repeat(")", 100) + `) }}"`),
			"spec.steps[0].with.duration: Invalid value: "},
	} {
		t.Run(reason, func(t *testing.T) {
			within(t, "the check", func() {
				g, errs := Check(test.spec, actions(), false)
				if g != nil || len(errs) == 0 || !strings.HasPrefix(errs[0].Error(), test.want) {
					t.Errorf("got %.500s, want %s", fmt.Sprint(errs), test.want)
				}
				if text := fmt.Sprint(errs.ToAggregate()); len(text) > 64<<10 {
					t.Errorf("the words of the refusal are %d bytes", len(text))
				}
			})
		})
	}
}

func TestProblemsAreToldUpToABound(t *testing.T) {
	s := waits(200, func(i int) []string { return []string{"x", fmt.Sprintf("s%d", i)} })
	_, errs := Check(s, actions(), false)
	if len(errs) != MaxErrors+1 || !strings.Contains(errs[MaxErrors].Error(), "400") {
		t.Errorf("%d problems are told, the last %v", len(errs), errs[len(errs)-1])
	}
}

// TestOPS10_HostileExpressions has each expression evaluated over inputs as large as they may be. It ends soon, in an
// error or with a value.
func TestOPS10_HostileExpressions(t *testing.T) {
	numbers := make([]int, 12_000)
	for i := range numbers {
		numbers[i] = i
	}
	power := func(times int, each string) string {
		text := "inputs.list"
		for range times {
			text = "[" + text + "].map(x, " + each + ")[0]"
		}
		return text
	}
	for reason, test := range map[string]struct{ expr, want string }{
		"nested comprehensions":        {"inputs.list.all(a, inputs.list.all(b, inputs.list.all(c, a + b + c >= 0)))", "too many"},
		"comprehensions side by side":  {"inputs.list.exists(a, inputs.list.exists(b, b < 0) || inputs.list.exists(b, b < 0))", "too many"},
		"lists that double":            {"size(" + power(12, "x + x + x + x + x + x + x + x") + ") > 0", "too many"},
		"lists in lists":               {power(12, "["+strings.Repeat("x, ", 8)+"]") + " == []", "grown too large"},
		"lists in lists compared":      {"[[1]].map(a, [a,a,a,a,a,a,a,a,a]).map(b, [b,b,b,b,b,b,b,b,b]).map(c, [c,c,c,c,c,c,c,c,c]).map(d, [d,d,d,d,d,d,d,d]).map(e, [e,e,e,e,e,e,e,e,e]).exists(f, f == f)", ""},
		"lists of the whole":           {"inputs.list.map(a, inputs.list).map(b, inputs.list) == inputs.list.map(c, inputs.list)", ""},
		"maps in maps":                 {power(12, "{'a': x, 'b': x, 'c': x, 'd': x, 'e': x}") + " == {}", "grown too large"},
		"compared again and again":     {"[" + strings.Repeat("inputs.list == inputs.list,", 120) + "true] == []", "too many"},
		"looked for again and again":   {"inputs.list.exists(a, -1 in inputs.list)", "too many"},
		"texts that double":            {"size([inputs.text]" + strings.Repeat(".map(x, x+x+x+x+x+x+x+x)", 6) + ") > 0", "grown too large"},
		"regular expression":           {"inputs.text.matches('(a|aa|aaa|.*)*' + inputs.text)", "texts of at most 8192 bytes"},
		"text too long to look at":     {"inputs.text.substring(0, 9000).matches('(a|aa|aaa|.*)*') || 'a' in ['b']", "texts of at most 8192 bytes"},
		"large regular expression":     {"'aaa'.matches('(a{1,30}){1,30}')", "too large"},
		"many regular expressions":     {"inputs.list.exists(n, inputs.text.substring(0, 8000).matches('(x*)*(x*)*y' + string(n)))", "too many"},
		"no regular expression":        {"'a'.matches('(')", "is none"},
		"replace":                      {"inputs.text.replace('x', inputs.text) == ''", "would become longer"},
		"replace nothing":              {"inputs.text.replace('', inputs.text) == ''", "would become longer"},
		"join":                         {"inputs.list.map(x, inputs.text).join(inputs.text) == ''", ""},
		"division":                     {"1 / 0 == 1", "division by zero"},
		"overflow":                     {"9223372036854775807 + 1 > 0", "overflow"},
		"character that is not there":  {"'abc'.substring(2, 9) == ''", "no characters 2 to 9"},
		"character before the first":   {"'abc'.substring(-1, 2) == ''", "no characters -1 to 2"},
		"comprehension over an object": {"inputs.object.all(k, inputs.list.all(a, inputs.list.all(b, true)))", "too many"},
	} {
		t.Run(reason, func(t *testing.T) {
			s := waits(1, func(int) []string { return nil })
			s.Inputs = []v1alpha1.WorkflowInput{{Name: "list", Type: v1alpha1.TypeList}, {Name: "text"}, {Name: "object", Type: v1alpha1.TypeObject}}
			s.Steps[0].When = test.expr
			g, errs := Check(s, actions(), false)
			if len(errs) > 0 {
				t.Fatal(errs.ToAggregate())
			}
			v := View{Inputs: map[string]json.RawMessage{"list": raw(t, numbers), "text": raw(t, strings.Repeat("x", 60_000)), "object": raw(t, map[string]int{"a": 1})}}
			within(t, "the evaluation", func() {
				_, err := g.When(t.Context(), "s0", v)
				if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("got %v, want %s", err, test.want)
				}
				if err != nil && (!action.IsFailed(err) || len(err.Error()) > 1000) {
					t.Errorf("got %.2000s", err.Error())
				}
			})
		})
	}
}

func TestLongListsAreNothingHostile(t *testing.T) {
	g := sound(t, `inputs: [{name: list, type: List}]
steps: [{name: a, action: wait, with: {duration: 1s}, when: "inputs.list.filter(x, x % 2 == 0).map(x, string(x)).filter(x, x.matches('^[0-9]+$') && x != '7').size() == 1500"}]`)
	numbers := make([]int, 3000)
	for i := range numbers {
		numbers[i] = i
	}
	if yes, err := g.When(t.Context(), "a", View{Inputs: map[string]json.RawMessage{"list": raw(t, numbers)}}); err != nil || !yes {
		t.Errorf("got %v, %v", yes, err)
	}
}

func TestHugeResults(t *testing.T) {
	for reason, test := range map[string]struct{ expr, want string }{
		"list":         {"${{ inputs.list.map(x, inputs.text) }}", "too many"},
		"objects":      {"${{ inputs.list.map(x, {'a': 'some text of middle length', 'b': 'some text of middle length'}) }}", "larger than 65536 bytes"},
		"text":         {"${{ inputs.text + inputs.text }}", "larger than 65536 bytes"},
		"parts":        {"${{ inputs.text }}${{ inputs.text }}", "larger than 65536 bytes"},
		"deep":         {"${{ " + strings.Repeat("[", 40) + strings.Repeat("]", 40) + " }}", ""},
		"no JSON":      {"${{ type(1) }}", "which JSON does not have"},
		"no number":    {"${{ 0.0 / 0.0 }}", "no number that JSON has"},
		"key of a map": {"${{ {1: 2, true: 3} }}", ""},
	} {
		t.Run(reason, func(t *testing.T) {
			s := waits(1, func(int) []string { return nil })
			s.Inputs = []v1alpha1.WorkflowInput{{Name: "list", Type: v1alpha1.TypeList}, {Name: "text"}}
			s.Outputs = map[string]json.RawMessage{"o": raw(t, test.expr)}
			g, errs := Check(s, actions(), false)
			if len(errs) > 0 {
				t.Fatal(errs.ToAggregate())
			}
			v := View{Inputs: map[string]json.RawMessage{"list": raw(t, make([]int, 1000)), "text": raw(t, strings.Repeat("x", 40_000))}}
			within(t, "the evaluation", func() {
				got, err := g.Outputs(t.Context(), v)
				if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("got %.200s, %v, want %s", got["o"], err, test.want)
				}
			})
		})
	}
}

func TestHostileInputs(t *testing.T) {
	g := sound(t, "inputs: [{name: a}, {name: b, type: List}]\nsteps: [{name: a, action: wait, with: {duration: 1s}}]")
	many := map[string]json.RawMessage{}
	for i := range 5000 {
		many[fmt.Sprintf("x%d", i)] = json.RawMessage("1")
	}
	for reason, test := range map[string]struct {
		given map[string]json.RawMessage
		want  string
	}{
		"1 MiB":      {map[string]json.RawMessage{"a": raw(t, strings.Repeat("x", 1<<20))}, "spec.inputs: Invalid value: the inputs of a run have at most 65536 bytes of JSON together, these 1048"},
		"deep":       {map[string]json.RawMessage{"b": json.RawMessage(strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000))}, "spec.inputs.b: Invalid value: it is nested deeper than 64"},
		"not closed": {map[string]json.RawMessage{"b": json.RawMessage("[1,")}, "spec.inputs.b: Invalid value: it is not JSON"},
		"not UTF-8":  {map[string]json.RawMessage{"a": json.RawMessage("\"\xc3\x28\"")}, "spec.inputs.a: Invalid value: it is not UTF-8"},
		"5,000":      {many, "spec.inputs"},
	} {
		t.Run(reason, func(t *testing.T) {
			within(t, "the check", func() {
				got, errs := g.Inputs(test.given)
				if got != nil || len(errs) == 0 || len(errs) > MaxErrors+1 || !strings.HasPrefix(errs[0].Error(), test.want) {
					t.Errorf("got %.300s, want %s", fmt.Sprint(errs), test.want)
				}
			})
		})
	}
}

// FuzzExpression has any text checked and evaluated: it ends in time, in a value or an error.
func FuzzExpression(f *testing.F) {
	for _, seed := range []string{"inputs.text", "${{ inputs.list.map(x, x) }}", "a ${{ {'}}': 1} }} b $${{", "${{ steps['s1'].phase + r'}}' }}", "${{ has(inputs.perhaps) }}",
		"${{ '\\u0000' }}", "${{ \x00 }}", "${{ ((((((1)))))) }}", "${{ inputs.text.matches('(') }}", "${{", "${{ }}", "}}${{ '''}}''' }}", "${{ [1,2].exists(steps, steps > 1) }}",
		"${{ google.protobuf.Struct{fields: {}} }}", "${{ dyn(1).a.b }}", "${{ timestamp(9223372036854775807) }}", "${{ b'\\xff' }}", "${{ outputs.x }}"} {
		f.Add(seed)
	}
	known := actions()
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 8<<10 {
			return
		}
		s := spec(t, inputs+"steps: [{name: s1, action: http, with: {url: u}}, {name: s2, action: http, needs: [s1], with: {url: u}}]")
		s.Steps[1].With["any"] = raw(t, text)
		s.Steps[1].When = text
		start := time.Now()
		g, _ := Check(s, known, false)
		s.Steps[1].When = ""
		if g == nil {
			g, _ = Check(s, known, false)
		}
		if g != nil {
			given, _ := g.Inputs(nil)
			v := View{Inputs: given, Steps: map[string]Step{"s1": {Phase: v1alpha1.StepSucceeded}}}
			got, err := g.With(t.Context(), "s2", v)
			if err == nil && !json.Valid(got["any"]) && got["any"] != nil {
				t.Errorf("%q gives %q, which is no JSON", text, got["any"])
			}
			_, _ = g.When(t.Context(), "s2", v)
		}
		if took := time.Since(start); took > limit {
			t.Errorf("%q took %v", text, took)
		}
	})
}

// large is a definition of 200 steps with three expressions each.
func large(tb testing.TB) *v1alpha1.WorkflowSpec {
	tb.Helper()
	s := spec(tb, inputs+"steps: [{name: s0, action: http, with: {url: u}}]")
	for i := 1; i < MaxSteps; i++ {
		before := fmt.Sprintf("s%d", i-1)
		s.Steps = append(s.Steps, v1alpha1.WorkflowStep{Name: fmt.Sprintf("s%d", i), Action: "http", Needs: []string{before},
			When: "steps." + before + ".phase == 'Succeeded'",
			With: map[string]json.RawMessage{
				"url":  raw(tb, "http://host/${{ inputs.text }}/"+before),
				"json": raw(tb, map[string]string{"status": "${{ steps." + before + ".outputs.status }}"})}})
	}
	return s
}

func BenchmarkCheck200(b *testing.B) {
	s, known := large(b), actions()
	b.ReportAllocs()
	for b.Loop() {
		if _, errs := Check(s, known, false); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}

func BenchmarkWith200(b *testing.B) {
	g, errs := Check(large(b), actions(), false)
	if len(errs) > 0 {
		b.Fatal(errs)
	}
	given, _ := g.Inputs(nil)
	v := View{Inputs: given, Steps: map[string]Step{}}
	for _, name := range g.Order() {
		v.Steps[name] = Step{Phase: v1alpha1.StepSucceeded, Outputs: map[string]json.RawMessage{"status": json.RawMessage("200")}}
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, name := range g.Order() {
			if _, err := g.With(b.Context(), name, v); err != nil {
				b.Fatal(err)
			}
		}
	}
}
