package graph

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// actions are a catalogue for tests.
func actions() map[string]action.Description {
	input := func(name string, t v1alpha1.ValueType, required bool, enum ...string) action.Field {
		return action.Field{Name: name, Type: t, Required: required, Enum: enum}
	}
	all := []action.Description{
		{Name: "http", Inputs: []action.Field{
			input("url", v1alpha1.TypeString, true), input("method", v1alpha1.TypeString, false, "GET", "POST"), input("body", v1alpha1.TypeString, false),
			input("json", v1alpha1.TypeObject, false), input("tries", v1alpha1.TypeInteger, false), input("share", v1alpha1.TypeNumber, false),
			input("strict", v1alpha1.TypeBoolean, false), input("codes", v1alpha1.TypeList, false), input("any", "", false)},
			Outputs: []action.Field{input("status", v1alpha1.TypeInteger, false), input("body", v1alpha1.TypeString, false),
				input("json", v1alpha1.TypeObject, false), input("list", v1alpha1.TypeList, false), input("share", v1alpha1.TypeNumber, false), input("ok", v1alpha1.TypeBoolean, false)}},
		{Name: "wait", Inputs: []action.Field{input("duration", v1alpha1.TypeString, true)}},
		{Name: "request.allocate", Internal: true},
	}
	byName := map[string]action.Description{}
	for _, a := range all {
		byName[a.Name] = a
	}
	return byName
}

// spec reads a definition from YAML.
func spec(t testing.TB, text string) *v1alpha1.WorkflowSpec {
	t.Helper()
	s := &v1alpha1.WorkflowSpec{}
	if err := yaml.UnmarshalStrict([]byte(text), s); err != nil {
		t.Fatalf("reading the definition: %v\n%s", err, text)
	}
	return s
}

// sound checks a definition that must be without fault.
func sound(t testing.TB, text string) *Graph {
	t.Helper()
	g, errs := Check(spec(t, text), actions(), false)
	if len(errs) > 0 {
		t.Fatalf("a sound definition is refused: %v\n%s", errs.ToAggregate(), text)
	}
	return g
}

func lines(errs field.ErrorList) []string {
	var all []string
	for _, err := range errs {
		all = append(all, err.Error())
	}
	return all
}

const inputs = `
inputs:
- {name: text, default: hello}
- {name: perhaps}
- {name: whole, type: Integer, default: 3}
- {name: number, type: Number, default: 0.5}
- {name: flag, type: Boolean, default: true}
- {name: object, type: Object, default: {a: {b: [1, 2.5, big]}, num: 9007199254740993}}
- {name: list, type: List, default: [3, 1, 2]}
- {name: perhapsList, type: List}
`

func TestOPS10_CheckRefusesWithThePlace(t *testing.T) {
	one := func(with string) string { return inputs + "steps:\n- {name: a, action: http, with: " + with + "}\n" }
	for reason, test := range map[string]struct {
		text string
		want []string
	}{
		"no steps":       {"steps: []", []string{"spec.steps: Invalid value: a workflow has 1 to 200 steps, this one 0"}},
		"unknown action": {"steps: [{name: a, action: htp}]", []string{`spec.steps[0].action: Invalid value: there is no action "htp": did you mean http?`}},
		"action far from any": {"steps: [{name: a, action: kubernetes}]",
			[]string{`spec.steps[0].action: Invalid value: there is no action "kubernetes": there are http, wait`}},
		"internal action": {"steps: [{name: a, action: request.allocate}]",
			[]string{"spec.steps[0].action: Invalid value: the action request.allocate is for runs that the platform itself makes"}},
		"unknown action that undoes": {"steps: [{name: a, action: wait, with: {duration: 1s}, compensate: {action: undo}}]",
			[]string{`spec.steps[0].compensate.action: Invalid value: there is no action "undo": there are http, wait`}},
		"two steps of one name": {"steps: [{name: a, action: wait, with: {duration: 1s}}, {name: a, action: wait, with: {duration: 1s}}]",
			[]string{`spec.steps[1].name: Duplicate value: "a"`}},
		"name with a capital": {"steps: [{name: A, action: wait, with: {duration: 1s}}]",
			[]string{`spec.steps[0].name: Invalid value: "A" is no name: small letters, digits and -, a letter first, at most 63`}},
		"missing input":       {one("{}"), []string{"spec.steps[0].with.url: Required value: the action http needs it"}},
		"null is not given":   {one("{url: null}"), []string{"spec.steps[0].with.url: Required value: the action http needs it"}},
		"unknown input":       {one("{url: u, methd: GET}"), []string{`spec.steps[0].with.methd: Invalid value: the action http has no input "methd": did you mean method?`}},
		"number for a text":   {one("{url: 3}"), []string{"spec.steps[0].with.url: Invalid value: it must be a String, but is the Integer 3"}},
		"text for an integer": {one("{url: u, tries: 'x'}"), []string{"spec.steps[0].with.tries: Invalid value: it must be an Integer, but is a String"}},
		"fraction for an integer": {one("{url: u, tries: 1.5}"),
			[]string{"spec.steps[0].with.tries: Invalid value: it must be an Integer, but is the Number 1.5: it must be whole, written without point or exponent, and fit 64 bits"}},
		"list for an object":   {one("{url: u, json: [1]}"), []string{"spec.steps[0].with.json: Invalid value: it must be an Object, but is a List"}},
		"object for a list":    {one("{url: u, codes: {a: 1}}"), []string{"spec.steps[0].with.codes: Invalid value: it must be a List, but is an Object"}},
		"text for a boolean":   {one("{url: u, strict: 'true'}"), []string{"spec.steps[0].with.strict: Invalid value: it must be a Boolean, but is a String"}},
		"not in the enum":      {one("{url: u, method: PUT}"), []string{`spec.steps[0].with.method: Invalid value: "PUT" is not one of GET, POST`}},
		"unknown need":         {"steps: [{name: build, action: wait, with: {duration: 1s}}, {name: b, action: wait, with: {duration: 1s}, needs: [biuld]}]", []string{`spec.steps[1].needs[0]: Invalid value: there is no step "biuld": did you mean build?`}},
		"needs itself":         {"steps: [{name: a, action: wait, with: {duration: 1s}, needs: [a]}]", []string{"spec.steps[0].needs[0]: Invalid value: the step needs itself"}},
		"needs the same twice": {"steps: [{name: a, action: wait, with: {duration: 1s}}, {name: b, action: wait, with: {duration: 1s}, needs: [a, a]}]", []string{`spec.steps[1].needs[1]: Duplicate value: "a"`}},
		"circle": {`steps:
- {name: start, action: wait, with: {duration: 1s}}
- {name: behind, action: wait, with: {duration: 1s}, needs: [c]}
- {name: a, action: wait, with: {duration: 1s}, needs: [start, c]}
- {name: b, action: wait, with: {duration: 1s}, needs: [a]}
- {name: c, action: wait, with: {duration: 1s}, needs: [b]}`,
			[]string{"spec.steps[4].needs[0]: Invalid value: the steps need each other in a circle: c → b → a → c: remove one of these needs"}},
		"step that is no need": {"steps: [{name: a, action: http, with: {url: u}}, {name: b, action: wait, with: {duration: '${{ steps.a.outputs.body }}'}}]",
			[]string{`spec.steps[1].with.duration: Invalid value: "steps.a.outputs.body": the step a is not among what b needs, directly or through others: add it to needs`}},
		"itself": {"steps: [{name: a, action: wait, with: {duration: '${{ steps.a.phase }}'}}]",
			[]string{`spec.steps[0].with.duration: Invalid value: "steps.a.phase": a step does not see itself`}},
		"unknown step": {"steps: [{name: a, action: wait, with: {duration: '${{ steps.x.phase }}'}}]",
			[]string{`spec.steps[0].with.duration: Invalid value: "steps.x.phase": there is no step "x": there are a`}},
		"unknown output": {"steps: [{name: a, action: http, with: {url: u}}, {name: b, action: wait, needs: [a], with: {duration: \"${{ steps['a'].outputs['boddy'] }}\"}}]",
			[]string{`spec.steps[1].with.duration: Invalid value: "steps['a'].outputs['boddy']": the action http of step a has no output "boddy": did you mean body?`}},
		"unknown input in text": {one("{url: 'see ${{ inputs.tekst }}'}"), []string{`spec.steps[0].with.url: Invalid value: "inputs.tekst": there is no input "tekst": did you mean text?`}},
		"part of run":           {one("{url: '${{ run.owner }}'}"), []string{`spec.steps[0].with.url: Invalid value: "run.owner": run has no owner: there are name, namespace, uid, user`}},
		"all inputs":            {one("{url: '${{ inputs.size() }}'}"), []string{`spec.steps[0].with.url: Invalid value: "inputs.size()": inputs is no value: write inputs.<name>`}},
		"computed name":         {one("{url: '${{ inputs[inputs.text] }}'}"), []string{`spec.steps[0].with.url: Invalid value: "inputs[inputs.text]": inputs is no value: write inputs.<name>`}},
		"shadow": {one("{url: '${{ string([1].exists(inputs, inputs > 0)) }}'}"),
			[]string{`spec.steps[0].with.url: Invalid value: "string([1].exists(inputs, inputs > 0))": inputs has its meaning: name the variable otherwise`}},
		"own outputs in with":  {one("{url: '${{ outputs.body }}'}"), []string{`spec.steps[0].with.url: Invalid value: "outputs.body": outputs is for compensations, which see those of their own step: write steps.<name>.outputs`}},
		"types that do not go": {one("{url: '${{ inputs.text + inputs.whole }}'}"), []string{`spec.steps[0].with.url: Invalid value: "inputs.text + inputs.whole": at column 13: found no matching overload for '_+_' applied to '(string, int)'`}},
		"integer for a text":   {one("{url: '${{ inputs.whole }}'}"), []string{`spec.steps[0].with.url: Invalid value: "inputs.whole" is an Integer, but a String is wanted`}},
		"text for integer":     {one("{url: u, tries: '${{ inputs.perhaps }}'}"), []string{`spec.steps[0].with.tries: Invalid value: "inputs.perhaps" is a String, but an Integer is wanted`}},
		"computed number":      {one("{url: u, tries: '${{ inputs.number * 2.0 }}'}"), []string{`spec.steps[0].with.tries: Invalid value: "inputs.number * 2.0" gives double in CEL, but an Integer is wanted`}},
		"text around a number": {one("{url: u, tries: '1${{ inputs.whole }}'}"), []string{"spec.steps[0].with.tries: Invalid value: it must be an Integer, but is a text with expressions in it: write one expression and nothing else"}},
		"syntax":               {one("{url: '${{ 1 + }}'}"), []string{`spec.steps[0].with.url: Invalid value: "1 +": at column 4: Syntax error: mismatched input '<EOF>' expecting`}},
		"not closed":           {one("{url: '${{ inputs.text }'}"), []string{"spec.steps[0].with.url: Invalid value: ${{ without }}: write $${{ where it is meant as text"}},
		"empty":                {one("{url: '${{ }}'}"), []string{"spec.steps[0].with.url: Invalid value: ${{ }} without an expression"}},
		"when is no question":  {"steps: [{name: a, action: wait, with: {duration: 1s}, when: '1'}]", []string{`spec.steps[0].when: Invalid value: "1" gives int in CEL, but a Boolean is wanted`}},
		"when in brackets":     {"steps: [{name: a, action: wait, with: {duration: 1s}, when: '${{ true }}'}]", []string{"spec.steps[0].when: Invalid value: it is an expression already: write it without ${{ and }}"}},
		"nested place": {one("{url: u, json: {a: [1, '${{ inputs.nope }}']}}"),
			[]string{`spec.steps[0].with.json.a[1]: Invalid value: "inputs.nope": there is no input "nope": there are flag, list, number, object, perhaps, perhapsList, text, whole`}},
		"outputs of the run": {"steps: [{name: a, action: http, with: {url: u}}]\noutputs: {x-y: 1, b: '${{ steps.a.outputs.nix }}'}",
			[]string{`spec.outputs.b: Invalid value: "steps.a.outputs.nix": the action http of step a has no output "nix": there are body, json, list, ok, share, status`,
				`spec.outputs.x-y: Invalid value: "x-y" is no name: letters, digits and _, a letter first, at most 63`}},
		"inputs": {"inputs: [{name: a-b}, {name: c, type: Text}, {name: d, type: Integer, enum: [x]}, {name: e, type: Integer, default: x}, {name: f, required: true, default: x}, {name: g, enum: [a], default: b}, {name: g}]\nsteps: [{name: a, action: wait, with: {duration: 1s}}]",
			[]string{`spec.inputs[0].name: Invalid value: "a-b" is no name: letters, digits and _, a letter first, at most 63`,
				`spec.inputs[1].type: Invalid value: "Text" is no type: String, Integer, Number, Boolean, Object or List`,
				"spec.inputs[2].enum: Invalid value: only a String has an enum, this input is a Integer",
				"spec.inputs[3].default: Invalid value: it must be an Integer, but is a String",
				"spec.inputs[4].default: Invalid value: a required input has no default: remove one of the two",
				`spec.inputs[5].default: Invalid value: "b" is not one of a`, `spec.inputs[6].name: Duplicate value: "g"`}},
		"times": {"timeout: 0s\nonFailure: Continue\nsteps: [{name: a, action: wait, timeout: -1s, onFailure: Compensate, with: {duration: 1s}, retry: {limit: 101, interval: -1s, maxInterval: -1s}}]",
			[]string{"spec.timeout: Invalid value: a timeout is longer than nothing", `spec.onFailure: Invalid value: "Continue" is neither Stop nor Compensate`,
				`spec.steps[0].onFailure: Invalid value: "Compensate" is neither Stop nor Continue`, "spec.steps[0].timeout: Invalid value: a timeout is longer than nothing",
				"spec.steps[0].retry.limit: Invalid value: a step is tried again 1 to 100 times, not 101", "spec.steps[0].retry.interval: Invalid value: an interval is not negative",
				"spec.steps[0].retry.maxInterval: Invalid value: an interval is not negative"}},
	} {
		t.Run(reason, func(t *testing.T) {
			g, errs := Check(spec(t, test.text), actions(), false)
			got := lines(errs)
			for i := range got {
				if i < len(test.want) && strings.HasPrefix(got[i], test.want[i]) {
					got[i] = test.want[i]
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" || g != nil {
				t.Error(diff)
			}
		})
	}
}

func TestInternalActionsOfThePlatform(t *testing.T) {
	if _, errs := Check(spec(t, "steps: [{name: a, action: request.allocate}]"), actions(), true); len(errs) > 0 {
		t.Error(errs)
	}
}

func TestOrder(t *testing.T) {
	g := sound(t, `steps:
- {name: z, action: wait, with: {duration: 1s}, needs: [b, c]}
- {name: c, action: wait, with: {duration: 1s}, needs: [a]}
- {name: b, action: wait, with: {duration: 1s}, needs: [a]}
- {name: a, action: wait, with: {duration: 1s}}
- {name: alone, action: wait, with: {duration: 1s}}`)
	if diff := cmp.Diff([]string{"a", "alone", "c", "b", "z"}, g.Order()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"c", "b", "z"}, g.After("a")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"b", "c"}, g.Needs("z")); diff != "" {
		t.Error(diff)
	}
	if g.Step("b").Action != "wait" || g.Step("none") != nil || g.Needs("none") != nil || g.After("alone") != nil {
		t.Error("steps are not found by their names")
	}
}

func view(steps map[string]Step) View {
	return View{Run: Run{Name: "r1", Namespace: "edu", UID: "u-1", User: "li"}, Steps: steps}
}

func TestWithKeepsTypesAndNumbers(t *testing.T) {
	const big = "9007199254740993" // 2^53+1: no double
	for reason, test := range map[string]struct{ expr, want string }{
		"text":                        {`${{ inputs.text }}`, `"hello"`},
		"text in a text":              {`say ${{ inputs.text }}, ${{ run.user }}!`, `"say hello, li!"`},
		"whole":                       {`${{ inputs.whole }}`, `3`},
		"whole in a text":             {`x${{ inputs.whole + 1 }}`, `"x4"`},
		"number":                      {`${{ inputs.number * 3.0 }}`, `1.5`},
		"question":                    {`${{ inputs.flag ? 'a' : 'b' }}`, `"a"`},
		"object":                      {`${{ inputs.object }}`, `{"a":{"b":[1,2.5,"big"]},"num":` + big + `}`},
		"object in a text":            {`=${{ inputs.object.a }}`, `"={\"b\":[1,2.5,\"big\"]}"`},
		"part of an object":           {`${{ inputs.object.a.b[1] }}`, `2.5`},
		"more than a double holds":    {`${{ inputs.object.num }}`, big},
		"counted":                     {`${{ inputs.object.num + 1 }}`, `9007199254740994`},
		"more in a text":              {`n=${{ inputs.object.num }}`, `"n=` + big + `"`},
		"list":                        {`${{ inputs.list.map(x, x * 2) }}`, `[6,2,4]`},
		"map":                         {`${{ {'b': 1, 'a': {'c': {}}} }}`, `{"a":{"c":{}},"b":1}`},
		"absent":                      {`${{ inputs.perhaps }}`, ``},
		"absent in a text":            {`<${{ inputs.perhaps }}>`, `"<>"`},
		"is it there":                 {`${{ has(inputs.perhaps) }}`, `false`},
		"default is there":            {`${{ has(inputs.text) }}`, `true`},
		"absent list":                 {`${{ has(inputs.perhapsList) ? inputs.perhapsList : [] }}`, `[]`},
		"output":                      {`${{ steps.one.outputs.json.id }}`, `18446744073709551615`},
		"output as it is written":     {`${{ steps.one.outputs.share }}`, `1.10`},
		"output by brackets":          {`${{ steps['my-step'].outputs['ok'] }}`, `true`},
		"all outputs":                 {`${{ steps.one.outputs }}`, `{"json":{"id":18446744073709551615},"share":1.1,"status":200}`},
		"output is there":             {`${{ has(steps.one.outputs.status) && !has(steps.one.outputs.body) }}`, `true`},
		"outputs of a skipped step":   {`${{ steps.skipped.outputs.status == null ? steps.skipped.phase : 'no' }}`, `"Skipped"`},
		"literal beginning":           {`$${{ x }} ${{ '$' }}${{ inputs.whole }}`, `"${{ x }} $3"`},
		"braces and quotes":           {`${{ '}}' + "\"}}" + r'\' + {'a': {'b': '''}}'''}}.a.b }}`, `"}}\"}}\\}}"`},
		"functions":                   {`${{ ' A.b '.trim().lowerAscii().replace('.', '-') + run.uid.substring(0, 1).upperAscii() }}`, `"a-bU"`},
		"split and join":              {`${{ 'a,b'.split(',').map(x, x + x).join('+') }}`, `"aa+bb"`},
		"regular expression":          {`${{ run.name.matches('^r[0-9]$') }}`, `true`},
		"time":                        {`${{ timestamp('2026-11-21T08:00:00Z') + duration('90m') }}`, `"2026-11-21T09:30:00Z"`},
		"length of time":              {`${{ duration('90m') }}`, `"5400s"`},
		"cross-type":                  {`${{ inputs.object.a.b[1] > 2 }}`, `true`},
		"input is data, no program":   {`${{ '${{ run.user }}' }}`, `"${{ run.user }}"`},
		"chinese":                     {`你好 ${{ '云帆' }}`, `"你好 云帆"`},
		"integer for a wanted number": {`${{ inputs.whole }}`, `3`},
	} {
		t.Run(reason, func(t *testing.T) {
			s := spec(t, inputs+`
steps:
- {name: one, action: http, with: {url: u}}
- {name: my-step, action: http, with: {url: u}}
- {name: skipped, action: http, with: {url: u}}
- {name: last, action: http, needs: [one, my-step, skipped], with: {url: u}}`)
			s.Steps[3].With["any"] = raw(t, test.expr)
			s.Outputs = map[string]json.RawMessage{"nested": raw(t, map[string]any{"x": []any{test.expr}})}
			g, errs := Check(s, actions(), false)
			if len(errs) > 0 {
				t.Fatal(errs.ToAggregate())
			}
			v := view(map[string]Step{
				"one": {Phase: v1alpha1.StepSucceeded, Outputs: map[string]json.RawMessage{
					"json": json.RawMessage(`{"id":18446744073709551615}`), "share": json.RawMessage("1.10"), "status": json.RawMessage("200")}},
				"my-step": {Phase: v1alpha1.StepSucceeded, Outputs: map[string]json.RawMessage{"ok": json.RawMessage("true")}},
				"skipped": {Phase: v1alpha1.StepSkipped}})
			v.Inputs, errs = g.Inputs(nil)
			if len(errs) > 0 {
				t.Fatal(errs.ToAggregate())
			}
			got, err := g.With(t.Context(), "last", v)
			if err != nil || string(got["any"]) != test.want {
				t.Errorf("got %s (%v), want %s", got["any"], err, test.want)
			}
			want := test.want
			if want == "" {
				want = "null"
			}
			all, err := g.Outputs(t.Context(), v)
			if err != nil || string(all["nested"]) != `{"x":[`+want+`]}` {
				t.Errorf("nested: got %s (%v), want %s", all["nested"], err, want)
			}
		})
	}
}

func raw(t testing.TB, value any) json.RawMessage {
	t.Helper()
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		t.Fatal(err)
	}
	return json.RawMessage(strings.TrimSpace(text.String()))
}

func TestWhen(t *testing.T) {
	g := sound(t, inputs+`
steps:
- {name: a, action: http, with: {url: u}}
- {name: b, action: wait, needs: [a], with: {duration: 1s}, when: "steps.a.phase == 'Failed' || steps.a.outputs.status >= 400"}
- {name: c, action: wait, needs: [b], with: {duration: 1s}, when: "inputs.object.flag"}`)
	given, _ := g.Inputs(nil)
	for reason, test := range map[string]struct {
		step  string
		state Step
		want  bool
	}{
		"no expression":   {"a", Step{}, true},
		"by the phase":    {"b", Step{Phase: v1alpha1.StepFailed}, true},
		"by an output":    {"b", Step{Phase: v1alpha1.StepSucceeded, Outputs: map[string]json.RawMessage{"status": json.RawMessage("503")}}, true},
		"by an output no": {"b", Step{Phase: v1alpha1.StepSucceeded, Outputs: map[string]json.RawMessage{"status": json.RawMessage("200")}}, false},
	} {
		t.Run(reason, func(t *testing.T) {
			v := view(map[string]Step{"a": test.state})
			v.Inputs = given
			if got, err := g.When(t.Context(), test.step, v); err != nil || got != test.want {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
	v := view(nil)
	v.Inputs = given
	_, err := g.When(t.Context(), "c", v)
	if err == nil || !action.IsFailed(err) || !strings.HasPrefix(err.Error(), `spec.steps[2].when: "inputs.object.flag": no such key: flag`) {
		t.Errorf("a question without an answer: %v", err)
	}
	v.Inputs = map[string]json.RawMessage{"object": json.RawMessage(`{"flag":"yes"}`)}
	if _, err = g.When(t.Context(), "c", v); err == nil || !strings.Contains(err.Error(), "must give true or false, but gives a string") {
		t.Errorf("a text for an answer: %v", err)
	}
}

func TestWithIsCheckedWhenTheValuesAreKnown(t *testing.T) {
	g := sound(t, inputs+`
steps:
- name: a
  action: http
  with: {url: "${{ inputs.perhaps }}", tries: "${{ inputs.object.num }}", method: "${{ inputs.text }}"}`)
	v := view(nil)
	v.Inputs = map[string]json.RawMessage{"object": json.RawMessage(`{"num":"many"}`), "text": json.RawMessage(`"PUT"`)}
	_, err := g.With(t.Context(), "a", v)
	if err == nil || !action.IsFailed(err) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{
		"spec.steps[0].with.url: Required value: the action needs it, but the expression gave null",
		"spec.steps[0].with.tries: Invalid value: it must be an Integer, but is a String",
		`spec.steps[0].with.method: Invalid value: "PUT" is not one of GET, POST`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.With(over, "a", v); err == nil || action.IsFailed(err) {
		t.Errorf("a server that ends fails no step for good: %v", err)
	}
	if _, err := g.With(t.Context(), "none", v); err == nil {
		t.Error("a step that is not there has inputs")
	}
}

func TestCompensationSeesItsOwnOutputs(t *testing.T) {
	g := sound(t, `steps:
- name: a
  action: http
  with: {url: u}
  compensate: {action: http, with: {url: "${{ outputs.body }}", json: "${{ outputs }}", strict: "${{ has(outputs.ok) }}"}}
- {name: b, action: wait, with: {duration: 1s}}`)
	v := view(map[string]Step{"a": {Outputs: map[string]json.RawMessage{"body": json.RawMessage(`"http://x"`)}}})
	got, err := g.Compensation(t.Context(), "a", v)
	want := map[string]json.RawMessage{"url": raw(t, "http://x"), "json": raw(t, map[string]string{"body": "http://x"}), "strict": raw(t, false)}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if _, err := g.Compensation(t.Context(), "b", v); err == nil {
		t.Error("a step without compensation has one")
	}
}

func TestInputs(t *testing.T) {
	g := sound(t, `
inputs: [{name: must, required: true}, {name: num, type: Integer, default: 9007199254740993}, {name: e, enum: [a, b]}, {name: o, type: Object}]
steps: [{name: a, action: wait, with: {duration: 1s}}]`)
	for reason, test := range map[string]struct {
		given string
		want  string
		errs  []string
	}{
		"defaults":       {`{"must":"x"}`, `{"must":"x","num":9007199254740993}`, nil},
		"null":           {`{"must":"x","num":null,"e":null}`, `{"must":"x","num":9007199254740993}`, nil},
		"all":            {`{"must":"x","num":-1,"e":"b","o":{"a":[1e3]}}`, `{"e":"b","must":"x","num":-1,"o":{"a":[1e3]}}`, nil},
		"required":       {`{}`, `null`, []string{"spec.inputs.must: Required value: the workflow needs it"}},
		"unknown":        {`{"must":"x","mist":1}`, `null`, []string{"spec.inputs.mist: Invalid value: the workflow has no such input: did you mean must?"}},
		"type":           {`{"must":1}`, `null`, []string{"spec.inputs.must: Invalid value: it must be a String, but is the Integer 1"}},
		"enum":           {`{"must":"x","e":"c"}`, `null`, []string{`spec.inputs.e: Invalid value: "c" is not one of a, b`}},
		"beyond 64 bits": {`{"must":"x","num":18446744073709551616}`, `null`, []string{"spec.inputs.num: Invalid value: it must be an Integer, but is the Integer 18446744073709551616: it must be whole, written without point or exponent, and fit 64 bits"}},
		"NUL":            {`{"must":"a\u0000"}`, `null`, []string{"spec.inputs.must: Invalid value: it holds a character with the code 0"}},
	} {
		t.Run(reason, func(t *testing.T) {
			given := map[string]json.RawMessage{}
			if err := json.Unmarshal([]byte(test.given), &given); err != nil {
				t.Fatal(err)
			}
			got, errs := g.Inputs(given)
			text := raw(t, got)
			if diff := cmp.Diff(test.errs, lines(errs)); diff != "" || string(text) != test.want {
				t.Error(string(text), diff)
			}
		})
	}
}

func TestStepOutputs(t *testing.T) {
	g := sound(t, "steps: [{name: a, action: http, with: {url: u}}]")
	for reason, test := range map[string]struct {
		outputs map[string]any
		want    string
		err     string
	}{
		"typed":           {map[string]any{"status": int64(9007199254740993), "body": "x", "list": []string{"a"}, "json": nil}, `{"body":"x","list":["a"],"status":9007199254740993}`, ""},
		"as written":      {map[string]any{"json": json.RawMessage(`{"n":1.10}`)}, `{"json":{"n":1.10}}`, ""},
		"NUL is replaced": {map[string]any{"body": "a\x00b\\u0000"}, `{"body":"a\ufffdb\\u0000"}`, ""},
		"unknown":         {map[string]any{"x": 1}, "null", "spec.steps[0].outputs.x: Invalid value: the action http says nothing of such an output"},
		"type":            {map[string]any{"status": "ok"}, "null", "spec.steps[0].outputs.status: Invalid value: it must be an Integer, but is a String"},
		"size": {map[string]any{"body": strings.Repeat("x", action.MaxOutputs)}, "null",
			"spec.steps[0].outputs: Invalid value: the outputs of a step have at most 16384 bytes of JSON together, these 16396"},
		"no JSON": {map[string]any{"json": func() {}}, "null", "spec.steps[0].outputs.json: Invalid value: it is not JSON: json: unsupported type: func()"},
	} {
		t.Run(reason, func(t *testing.T) {
			got, err := g.StepOutputs("a", test.outputs)
			text := raw(t, got)
			if string(text) != test.want || (err == nil) != (test.err == "") || err != nil && err.Error() != test.err {
				t.Errorf("got %s, %v", text, err)
			}
		})
	}
}

func TestGraphIsUsedByManyAtOnce(t *testing.T) {
	g := sound(t, inputs+"steps: [{name: a, action: http, with: {url: \"${{ inputs.text.replace('', inputs.text) }}\", codes: '${{ inputs.list.map(x, x + 1) }}'}}]")
	given, _ := g.Inputs(nil)
	long := map[string]json.RawMessage{"text": raw(t, strings.Repeat("x", 1000)), "list": given["list"]}
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			v := view(nil)
			v.Inputs = given
			if i%2 == 1 {
				v.Inputs = long
			}
			for range 20 {
				got, err := g.With(t.Context(), "a", v)
				if failed := err != nil; failed != (i%2 == 1) || !failed && string(got["codes"]) != "[4,2,3]" {
					t.Errorf("got %s, %v", got, err)
				}
			}
		})
	}
	group.Wait()
}

func TestGraphDoesNotKeepItsCallersDefinition(t *testing.T) {
	s := spec(t, "steps: [{name: a, action: wait, timeout: 1s, with: {duration: 1s}}]")
	g, errs := Check(s, actions(), false)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	s.Steps[0].Timeout = &metav1.Duration{Duration: time.Hour}
	if g.Step("a").Timeout.Duration != time.Second {
		t.Error("a change of the caller's object changes the graph")
	}
}
