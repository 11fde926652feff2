package rollout

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	// mostSteps is how many a run may have.
	mostSteps = 200
	// firstShare, secondShare and shareHold are the canary's steps if the strategy has none.
	firstShare, secondShare, shareHold = 10, 50, time.Minute
	all                                = 100
)

// program is what a strategy comes to with the facts as they are.
type program struct {
	definition v1alpha1.WorkflowSpec
	inputs     map[string]json.RawMessage
	plan       []string
	// quick says that it need not be known what will be done before it is: nobody notices anything.
	quick bool
	// beside are the numbers of pods of second tracks, by partition; empty if none runs.
	beside map[string]map[string]int32
}

// wave is what moves together.
type wave struct {
	// name ends the names of its steps; empty if it is the only one.
	name       string
	partitions []string
	// number of the wave in the run's inputs.
	number int
}

// compiler makes a program. It is pure: the same strategy and facts always give the same.
type compiler struct {
	name, uid string
	spec      *v1alpha1.RolloutSpec
	facts     *facts
	strategy  *v1alpha1.Strategy
	waves     []wave
	// drained says that partitions are closed and emptied before what is in them changes in place, parallel that both
	// revisions run side by side.
	drained, parallel bool

	steps  []v1alpha1.WorkflowStep
	values []any
	groups [][]string
	plan   []string
}

// compile turns a rollout into the steps of its run. An error says why it cannot be done.
func compile(o *v1alpha1.Rollout, f *facts) (*program, error) {
	c := &compiler{name: o.Name, uid: string(o.UID), spec: &o.Spec, facts: f, strategy: o.Spec.Strategy.DeepCopy()}
	c.strategy.Type = cmp.Or(c.strategy.Type, v1alpha1.StrategyRollingUpdate)
	if len(f.partitions) == 0 {
		return nil, fmt.Errorf("the application is in none of the partitions any more: %s", strings.Join(o.Spec.Partitions, ", "))
	}
	if f.to.Spec.Chart != nil {
		return nil, fmt.Errorf("revision %s is a chart, which cannot be moved by a rollout yet: write the application as components", f.to.Name)
	}
	c.decide()
	c.explain()
	if err := c.build(); err != nil {
		return nil, err
	}
	if len(c.steps) > mostSteps {
		return nil, fmt.Errorf("it needs %d steps, and a run has at most %d: let several partitions move together, in strategy.order.waves", len(c.steps), mostSteps)
	}
	p := &program{plan: c.plan, quick: c.simple() && c.strategy.Notice == nil, definition: v1alpha1.WorkflowSpec{
		DisplayName: cutText("发布 Rollout "+o.Spec.Application, longestName), Steps: c.steps, OnFailure: v1alpha1.OnFailureCompensate,
		Inputs: []v1alpha1.WorkflowInput{
			{Name: "waves", Type: v1alpha1.TypeList, Required: true, Description: "Partitions of steps"},
			{Name: "order", Type: v1alpha1.TypeList, Required: true, Description: "Partitions in the order in which they move"},
			{Name: "values", Type: v1alpha1.TypeList, Required: true, Description: "What the strategy says"},
		},
	}}
	if c.values == nil {
		c.values = []any{}
	}
	p.inputs = with("waves", c.groups, "order", c.sequence(), "values", c.values)
	if c.parallel {
		p.beside = map[string]map[string]int32{}
		for i := range f.partitions {
			p.beside[f.partitions[i].name] = f.partitions[i].replicas
		}
	}
	return p, nil
}

// decide says how partitions are changed, and in which order.
func (c *compiler) decide() {
	by := c.strategy.Order.By
	reachable := 0
	for i := range c.facts.partitions {
		if c.facts.partitions[i].reachable {
			reachable++
		}
	}
	switch c.strategy.Type {
	case v1alpha1.StrategyRecreate:
		c.drained, by = true, cmp.Or(by, v1alpha1.OrderPartition)
	case v1alpha1.StrategyRollingUpdate:
		hooks := c.facts.routed && len(hooked(c.facts)) > 0
		c.drained = reachable > 1 && (by == v1alpha1.OrderPartition || hooks)
		if c.drained && len(c.strategy.Order.Waves) == 0 && by != v1alpha1.OrderCluster {
			by = v1alpha1.OrderPartition
		}
	default:
		c.parallel = slices.ContainsFunc(c.facts.to.Spec.Components, func(one v1alpha1.Component) bool {
			ok, _ := runsTwice(&one)
			return ok
		})
		if !c.parallel {
			c.drained, by = true, cmp.Or(by, v1alpha1.OrderPartition)
		}
	}
	c.order(by)
}

// hooked are the components that change and whose pods have a preStop hook of their own, before or after.
func hooked(f *facts) (names []string) {
	for _, revision := range []*v1alpha1.ApplicationRevision{f.from, f.to} {
		if revision == nil {
			continue
		}
		for i := range revision.Spec.Components {
			if c := &revision.Spec.Components[i]; ownPreStop(c) && f.changes(c.Name) && !slices.Contains(names, c.Name) {
				names = append(names, c.Name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// order makes the waves. Number 0 of the run's groups has all partitions, those of the waves follow.
func (c *compiler) order(by v1alpha1.OrderBy) {
	var every []string
	for i := range c.facts.partitions {
		every = append(every, c.facts.partitions[i].name)
	}
	var lists [][]string
	var names []string
	switch {
	case len(c.strategy.Order.Waves) > 0:
		lists = c.written(every)
	case by == v1alpha1.OrderPartition:
		for _, name := range every {
			lists, names = append(lists, []string{name}), append(names, name)
		}
	case by == v1alpha1.OrderCluster:
		lists, names = c.clusters()
	default:
		lists = [][]string{every}
	}
	c.groups = [][]string{every}
	for i, list := range lists {
		w := wave{partitions: list, number: len(c.groups)}
		switch {
		case names != nil:
			w.name = names[i]
		case len(lists) > 1:
			w.name = fmt.Sprintf("wave-%d", i+1)
		}
		c.groups = append(c.groups, list)
		c.waves = append(c.waves, w)
	}
}

// sequence is the order in which partitions move, for the way back.
func (c *compiler) sequence() (lists [][]string) {
	for i := range c.waves {
		if !c.emptied() {
			lists = append(lists, c.waves[i].partitions)
			continue
		}
		for _, partition := range c.waves[i].partitions {
			lists = append(lists, []string{partition})
		}
	}
	return lists
}

func (c *compiler) clusters() (lists [][]string, names []string) {
	for i := range c.facts.partitions {
		names = append(names, c.facts.partitions[i].cluster)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for _, name := range names {
		var list []string
		for i := range c.facts.partitions {
			if p := &c.facts.partitions[i]; p.cluster == name {
				list = append(list, p.name)
			}
		}
		lists = append(lists, list)
	}
	return lists, names
}

// written are the waves of the strategy; what none of them names comes last.
func (c *compiler) written(every []string) (lists [][]string) {
	taken := map[string]bool{}
	add := func(belongs func(*place) bool) {
		var list []string
		for i := range c.facts.partitions {
			if p := &c.facts.partitions[i]; !taken[p.name] && belongs(p) {
				taken[p.name] = true
				list = append(list, p.name)
			}
		}
		if len(list) > 0 {
			lists = append(lists, list)
		}
	}
	for i := range c.strategy.Order.Waves {
		w := &c.strategy.Order.Waves[i]
		add(func(p *place) bool {
			return slices.Contains(w.Partitions, p.name) || slices.Contains(w.Clusters, p.cluster)
		})
	}
	add(func(p *place) bool { return slices.Contains(every, p.name) })
	return lists
}

// carried says whether another partition than those of a wave can answer requests meanwhile.
func (c *compiler) carried(partitions []string) bool {
	return slices.ContainsFunc(c.facts.partitions, func(p place) bool { return p.reachable && !slices.Contains(partitions, p.name) })
}

// with writes the inputs of a step from pairs of names and values.
func with(pairs ...any) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	for pair := range slices.Chunk(pairs, 2) {
		text, err := json.Marshal(pair[len(pair)-1])
		if err != nil {
			panic(err) // what is written here can be marshalled
		}
		out[pair[0].(string)] = text
	}
	return out
}

// value puts what somebody has written into the run's inputs, and gives the expression for it: nothing in it is taken for
// an expression of its own.
func (c *compiler) value(v any) string {
	c.values = append(c.values, v)
	return fmt.Sprintf("${{ inputs.values[%d] }}", len(c.values)-1)
}

// add appends a step after all that there are.
func (c *compiler) add(step v1alpha1.WorkflowStep) string {
	if n := len(c.steps); n > 0 {
		step.Needs = []string{c.steps[n-1].Name}
	}
	step.DisplayName = cutText(step.DisplayName, longestName)
	c.steps = append(c.steps, step)
	return step.Name
}

// longestName is how long the name of a step for people may be.
const longestName = 100

// partitionsOf is the expression for the partitions of a step, by the number of their group.
const partitionsOf = "${{ inputs.waves[%d] }}"

// own appends a step that is one of this package's actions, for a group of partitions.
func (c *compiler) own(w *wave, name, title, does string, more ...any) string {
	pairs := append([]any{"rollout", c.name, "uid", c.uid, "partitions", fmt.Sprintf(partitionsOf, w.number)}, more...)
	if w.name != "" {
		name, title = name+"-"+w.name, title+" "+w.name
	}
	return c.add(v1alpha1.WorkflowStep{Name: name, DisplayName: title, Action: "rollout." + does, With: with(pairs...)})
}

func (c *compiler) wait(w *wave, name, title string, d *metav1.Duration) {
	if d == nil || d.Duration <= 0 {
		return
	}
	if w.name != "" {
		name, title = name+"-"+w.name, title+" "+w.name
	}
	c.add(v1alpha1.WorkflowStep{Name: name, DisplayName: title, Action: "wait", With: with("for", d.Duration.String())})
}

// ask appends a step that waits for a person.
func (c *compiler) ask(w *wave, name, title, subject string, roles ...string) {
	if w.name != "" {
		name, title = name+"-"+w.name, title+" "+w.name
	}
	if len(roles) == 0 {
		roles = []string{string(v1alpha1.ApproverAdmin), string(v1alpha1.ApproverOperator)}
	}
	c.add(v1alpha1.WorkflowStep{Name: name, DisplayName: title, Action: "approve", With: with("roles", roles, "subject", subject)})
}

// cutText shortens a text to at most so many characters.
func cutText(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}
