package rollout

import (
	"fmt"
	"slices"
	"strings"

	"yunfan.io/yunfan/api/v1alpha1"
)

// explain says in words what will be done and what users will notice, before anything is.
func (c *compiler) explain() {
	c.sayf("%s from %s to %s, %s", c.strategy.Type, c.spec.From, c.spec.To, c.inOrder())
	inPlace, reasons := c.facts.inPlaceOnly()
	switch {
	case c.parallel && len(inPlace) == 0:
		c.sayf("both revisions run side by side; users notice nothing")
	case c.parallel:
		c.sayf("side by side: %s", strings.Join(c.sides(inPlace), ", "))
		c.sayf("changed in place when the new revision is promoted: %s", strings.Join(reasons, "; "))
	case c.strategy.Type != v1alpha1.StrategyRollingUpdate && c.strategy.Type != v1alpha1.StrategyRecreate:
		c.sayf("nothing of it can run twice side by side, so it is changed in place: %s", strings.Join(reasons, "; "))
	}
	c.interruptions()
	for i := range c.facts.partitions {
		if p := &c.facts.partitions[i]; !p.reachable {
			c.sayf("partition %s: cluster %s does not answer; it is taken out of the traffic and comes to the revision that wins when it answers", p.name, p.cluster)
		}
	}
	var environments []string
	for i := range c.facts.partitions {
		environments = append(environments, c.facts.partitions[i].environment)
	}
	c.plan = append(c.plan, Advice(c.strategy, environments)...)
}

func (c *compiler) sayf(format string, args ...any) {
	c.plan = append(c.plan, fmt.Sprintf(format, args...))
}

// sides are the components that run side by side.
func (c *compiler) sides(inPlace []string) (names []string) {
	for i := range c.facts.to.Spec.Components {
		if one := &c.facts.to.Spec.Components[i]; !slices.Contains(inPlace, one.Name) {
			if ok, _ := runsTwice(one); ok {
				names = append(names, one.Name)
			}
		}
	}
	slices.Sort(names)
	return names
}

func (c *compiler) inOrder() string {
	if len(c.waves) == 1 {
		if n := len(c.waves[0].partitions); n > 1 {
			return fmt.Sprintf("%d partitions together: %s", n, strings.Join(c.waves[0].partitions, ", "))
		}
		return "partition " + c.waves[0].partitions[0]
	}
	var parts []string
	for i := range c.waves {
		parts = append(parts, strings.Join(c.waves[i].partitions, " + "))
	}
	return fmt.Sprintf("in %d waves: %s", len(parts), strings.Join(parts, ", then "))
}

// interruptions says where requests find nobody, and where some may be lost.
func (c *compiler) interruptions() {
	hooks := hooked(c.facts)
	switch {
	case c.mixed() && !c.emptied():
		c.sayf("no other partition carries the requests meanwhile: what needs these components may be interrupted while they change")
	case c.drained && len(c.facts.partitions) == 1:
		c.sayf("partition %s is closed while it changes, and no other carries its requests: users are interrupted, and for how long is measured", c.facts.partitions[0].name)
	case c.drained:
		for i := range c.waves {
			if !c.carried(c.waves[i].partitions) {
				c.sayf("while %s are closed no other partition carries their requests: users are interrupted, and for how long is measured", strings.Join(c.waves[i].partitions, ", "))
				return
			}
		}
		c.sayf("each partition is closed, emptied and changed while others carry its requests; users notice nothing")
	case c.mixed():
		c.sayf("for that each partition is closed and emptied while others carry its requests; users notice nothing")
	case !c.parallel && len(hooks) > 0 && c.facts.routed:
		c.sayf("%s have a preStop hook of their own, and no other partition carries the requests: a request may be lost while their pods are exchanged, unless the hook waits some seconds", strings.Join(hooks, ", "))
	case !c.parallel:
		c.sayf("pods are exchanged one after the other by the workloads themselves; users notice nothing while each component has several pods or may have one more")
	}
	if c.parallel {
		c.sayf("the new revision needs as many pods again until the old one has ended")
	}
}

// Advice says of a strategy for partitions of such environments what is better done otherwise. Empty if nothing.
func Advice(strategy *v1alpha1.Strategy, environments []string) (lines []string) {
	production := slices.Contains(environments, environmentProduction)
	switch strategy.Type {
	case v1alpha1.StrategyRecreate:
		if production {
			lines = append(lines, "advice: Recreate interrupts each partition, and one is for production: RollingUpdate or BlueGreen after a full test keep it answering")
		}
	case v1alpha1.StrategyBlueGreen, v1alpha1.StrategyShadow:
		if len(environments) > 0 && !production {
			lines = append(lines, fmt.Sprintf("advice: %s needs double resources: for development and test Recreate or RollingUpdate do", strategy.Type))
		}
	case v1alpha1.StrategyRollingUpdate:
		if production && len(strategy.Gates) == 0 {
			lines = append(lines, "advice: for production RollingUpdate is for what was fully tested; otherwise Canary, ABTest or Shadow show it to a part of the users first")
		}
	case v1alpha1.StrategyCanary, v1alpha1.StrategyABTest:
	}
	return lines
}

const environmentProduction = "Production"
