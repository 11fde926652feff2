package workflow

import (
	"fmt"
	"strings"
	"testing"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// TestGraphsAreBounded keeps the newest of many large definitions, and no more than fits.
func TestGraphsAreBounded(t *testing.T) {
	g := newGraphs(map[string]action.Description{"work": {Name: "work"}})
	spec := func(i int) *v1alpha1.WorkflowSpec {
		return &v1alpha1.WorkflowSpec{
			Description: fmt.Sprint(i, strings.Repeat("x", 60<<10)),
			Steps:       []v1alpha1.WorkflowStep{{Name: "a", Action: "work"}},
		}
	}
	for i := range 40 {
		if _, problems := g.get(spec(i), true); len(problems) > 0 {
			t.Fatal(problems)
		}
	}
	if g.text > mostText || len(g.kept) != len(g.order) || len(g.kept) < 10 {
		t.Errorf("%d graphs of %d bytes are kept, in an order of %d", len(g.kept), g.text, len(g.order))
	}
	newest, _ := g.get(spec(39), true)
	if again, _ := g.get(spec(39), true); again != newest {
		t.Error("the newest is checked anew")
	}
}
