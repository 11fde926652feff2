package workflow

import (
	"crypto/sha256"
	"encoding/json"
	"sync"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/workflow/graph"
)

// mostText is how much definition, in bytes of JSON, has its graph kept: a graph takes some fifty times as much memory. Runs
// of one workflow share one; compiling its expressions takes milliseconds.
const mostText = 1 << 20

// graphs are checked definitions by what they say.
type graphs struct {
	actions map[string]action.Description
	mu      sync.Mutex
	kept    map[graphKey]*graph.Graph
	order   []graphKey // the oldest first
	text    int        // bytes of all that are kept
}

type graphKey struct {
	sum      [sha256.Size]byte
	length   int
	internal bool
}

func newGraphs(actions map[string]action.Description) *graphs {
	return &graphs{actions: actions, kept: map[graphKey]*graph.Graph{}}
}

// get checks a definition, or gives what the check of the same one gave.
func (g *graphs) get(spec *v1alpha1.WorkflowSpec, internal bool) (*graph.Graph, field.ErrorList) {
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, field.ErrorList{field.Invalid(field.NewPath("definition"), "", "it is not JSON: "+err.Error())}
	}
	key := graphKey{sha256.Sum256(text), len(text), internal}
	g.mu.Lock()
	known := g.kept[key]
	g.mu.Unlock()
	if known != nil {
		return known, nil
	}
	made, problems := graph.Check(spec, g.actions, internal)
	if len(problems) > 0 {
		return nil, problems
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.keep(key, made)
	g.keep(graphKey{key.sum, key.length, true}, made) // what may be run by everybody may be run by the platform
	return made, nil
}

func (g *graphs) keep(key graphKey, made *graph.Graph) {
	if g.kept[key] != nil {
		return
	}
	g.kept[key] = made
	g.order = append(g.order, key)
	g.text += key.length
	for g.text > mostText && len(g.order) > 1 {
		g.text -= g.order[0].length
		delete(g.kept, g.order[0])
		g.order = g.order[1:]
	}
}
