package graph_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/workflow/builtin"
	"yunfan.io/yunfan/internal/workflow/graph"
)

type rawMessage = json.RawMessage

const root = "../../.."

func page(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// builtins are the built-in actions with their descriptions.
func builtins() map[string]action.Description {
	all := map[string]action.Description{}
	for _, a := range builtin.Actions(builtin.Options{}) {
		all[a.Describe().Name] = a.Describe()
	}
	return all
}

// block gives the first block of that language in a page.
func block(t *testing.T, text, language string) string {
	t.Helper()
	_, after, found := strings.Cut(text, "```"+language+"\n")
	inside, _, closed := strings.Cut(after, "```")
	if !found || !closed {
		t.Fatalf("the page has no block of %s", language)
	}
	return inside
}

func checkWorkflow(t *testing.T, text string) *graph.Graph {
	t.Helper()
	w := &v1alpha1.Workflow{}
	if err := yaml.UnmarshalStrict([]byte(text), w); err != nil {
		t.Fatal(err)
	}
	g, problems := graph.Check(&w.Spec, builtins(), false)
	if len(problems) > 0 {
		t.Fatal(problems.ToAggregate())
	}
	return g
}

func TestExamplesCanBeRun(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(root, "examples/workflow/*.yaml"))
	if err != nil || len(paths) < 2 {
		t.Fatalf("examples: %v, %v", paths, err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			checkWorkflow(t, string(text))
		})
	}
}

func TestOPS10_TheTourHasAnAutomaticAManualAndAFailingStep(t *testing.T) {
	g := checkWorkflow(t, page(t, "examples/workflow/tour.yaml"))
	for step, want := range map[string]string{"prepare": "wait", "agree": "approve", "fail": "container"} {
		if got := g.Step(step); got == nil || got.Action != want {
			t.Errorf("step %s is %+v", step, got)
		}
	}
	if fail := g.Step("fail"); fail.Retry == nil || !strings.Contains(string(fail.With["command"]), "exit 3") {
		t.Error("the failing step does not fail, or is not tried again")
	}
}

func TestPageOfWorkflows(t *testing.T) {
	text := page(t, "docs/workflow.md")
	g := checkWorkflow(t, block(t, text, "yaml"))
	v := graph.View{Run: graph.Run{User: "li"}, Steps: map[string]graph.Step{
		"agree": {Phase: v1alpha1.StepSucceeded, Outputs: map[string]rawMessage{"values": rawMessage(`{"target":43}`)}},
		"check": {Phase: v1alpha1.StepFailed}, "dry-run": {Outputs: map[string]rawMessage{"result": rawMessage(`{"steps":[{"name":"a"},{"name":"b"}]}`)}}}}
	given, problems := g.Inputs(map[string]rawMessage{"partition": rawMessage(`"prod-bj"`)})
	if len(problems) > 0 {
		t.Fatal(problems.ToAggregate())
	}
	v.Inputs = given
	out, err := g.Outputs(t.Context(), v)
	if err != nil || string(out["version"]) != "43" || string(out["checked"]) != "false" {
		t.Errorf("outputs %s, %v", out, err)
	}
	with, err := g.With(t.Context(), "migrate", v)
	if err != nil || string(with["command"]) != `["migrate","--to=43"]` || string(with["env"]) != `{"STEPS":"a,b"}` {
		t.Errorf("inputs of migrate %s, %v", with, err)
	}
	with, err = g.With(t.Context(), "tell", v)
	if err != nil || string(with["text"]) != `"The check has failed, look at it."` {
		t.Errorf("inputs of tell %s, %v", with, err)
	}
	for _, f := range graph.Functions {
		if row := fmt.Sprintf("| `%s` | `%s` | %s |\n", f.Name, f.Example, f.Doc); !strings.Contains(text, row) {
			t.Errorf("the page has no row\n%s", row)
		}
	}
}

// section is what the page of actions must say of one.
func section(d action.Description) string {
	var s strings.Builder
	fmt.Fprintf(&s, "### %s\n\n%s %s\n\n| input | type | default | meaning |\n|---|---|---|---|\n", d.Name, d.Summary, timeoutOf(d))
	for _, f := range d.Inputs {
		byDefault := f.Default
		if f.Required {
			byDefault = "**required**"
		}
		fmt.Fprintf(&s, "| `%s` | %s | %s | %s |\n", f.Name, typeOf(f), byDefault, f.Doc)
	}
	if len(d.Outputs) > 0 {
		s.WriteString("\n| output | type | meaning |\n|---|---|---|\n")
	}
	for _, f := range d.Outputs {
		fmt.Fprintf(&s, "| `%s` | %s | %s |\n", f.Name, typeOf(f), f.Doc)
	}
	return s.String()
}

func timeoutOf(d action.Description) string {
	limit := d.Timeout
	switch limit {
	case action.NoTimeout:
		return "It may take as long as it does, unless the step has a timeout."
	case 0:
		limit = action.DefaultTimeout
	}
	return fmt.Sprintf("An attempt may take %d min, unless the step says otherwise.", limit/time.Minute)
}

func typeOf(f action.Field) string {
	name := string(f.Type)
	if name == "" {
		name = "any"
	}
	if len(f.Enum) > 0 {
		name += ": " + strings.Join(f.Enum, ", ")
	}
	return name
}

func TestPageOfActionsSaysWhatTheyDescribe(t *testing.T) {
	text := page(t, "docs/actions.md")
	sections := regexp.MustCompile(`(?m)^### (\S+)$`).FindAllStringSubmatch(text, -1)
	known := builtins()
	for _, s := range sections {
		if _, ok := known[s[1]]; !ok {
			t.Errorf("the page has an action %s that is not built in", s[1])
		}
	}
	for _, a := range builtin.Actions(builtin.Options{}) {
		if want := section(a.Describe()); !strings.Contains(text, want) {
			t.Errorf("the page does not have, as it is:\n%s", want)
		}
	}
}

func TestPageOfActionsHasTheExampleThatCompiles(t *testing.T) {
	code := block(t, page(t, "docs/actions.md"), "go")
	if !strings.Contains(page(t, "internal/action/example_test.go"), strings.TrimSpace(code)) {
		t.Error("the code in docs/actions.md is not that of internal/action/example_test.go")
	}
}
