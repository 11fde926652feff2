package rollout

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

// build appends all steps.
func (c *compiler) build() error {
	whole := &wave{number: 0}
	c.notice()
	if c.simple() {
		c.own(whole, "begin", "开始 Begin", "begin", "moves", true, "from", c.spec.From)
	} else {
		c.own(whole, "begin", "开始 Begin", "begin")
	}
	c.steps[len(c.steps)-1].Compensate = &v1alpha1.StepCompensation{Action: "rollout.return", With: with(
		"rollout", c.name, "uid", c.uid, "from", c.spec.From, "waves", "${{ inputs.order }}", "rolling", !c.drained && !c.emptied())}
	if err := c.hooks("before", "发布前 Before", c.strategy.Before); err != nil {
		return err
	}
	for i := range c.waves {
		c.wave(&c.waves[i], i == len(c.waves)-1)
	}
	if err := c.hooks("after", "发布后 After", c.strategy.After); err != nil {
		return err
	}
	// All that is left to do after one step in place is done by that step itself.
	const simple = 2
	if len(c.steps) > simple {
		c.own(whole, "end", "结束 End", "finish")
	}
	return nil
}

// simple says whether all partitions change in place at once: most rollouts do, and they are to be quick.
func (c *compiler) simple() bool {
	return !c.parallel && !c.drained && len(c.waves) == 1 && len(c.strategy.Before) == 0
}

// mixed says whether some components run side by side and others, which cannot, change too.
func (c *compiler) mixed() bool {
	names, _ := c.facts.inPlaceOnly()
	return c.parallel && len(names) > 0
}

// emptied says whether partitions are closed and emptied for what changes in place beside what runs twice.
func (c *compiler) emptied() bool { return c.mixed() && len(c.facts.partitions) > 1 }

// wave appends the steps of one wave, and what is between it and the next.
func (c *compiler) wave(w *wave, last bool) {
	measured := ""
	switch {
	case c.parallel:
		c.sideBySide(w)
	case c.drained:
		c.exchange(w)
		measured = c.measure(w, "measure")
	default:
		c.own(w, "upgrade", "升级 Upgrade", "upgrade")
		measured = c.measure(w, "measure")
	}
	period := c.strategy.Order.StablePeriod
	stable := period != nil && period.Duration > 0 && (!last || len(c.strategy.Gates) > 0)
	if stable && c.parallel {
		measured = c.measure(w, "measure-stable")
	}
	if stable {
		c.wait(w, "stable", "稳定期 Stable period", period)
	}
	if stable || !c.parallel {
		c.gates(w, "gate", measured)
	}
	if !last && c.strategy.Order.Continue == v1alpha1.ContinueManual {
		c.ask(w, "continue", "继续 Continue", fmt.Sprintf("rollout of %s: %s has moved to %s; shall the next partitions follow?", c.spec.Application, describe(w.partitions), c.spec.To))
	}
}

// exchange appends the steps by which partitions are closed, emptied, changed and opened.
func (c *compiler) exchange(w *wave) {
	shut := c.own(w, "close", "关闭 Close", "close")
	c.own(w, "stop", "等待并停止 Wait and stop", "stop")
	c.own(w, "upgrade", "升级 Upgrade", "upgrade")
	c.own(w, "open", "开放 Open", "open", "closed", fmt.Sprintf("${{ steps['%s'].outputs.time }}", shut))
}

// sideBySide appends the steps of strategies in which both revisions run.
func (c *compiler) sideBySide(w *wave) {
	c.own(w, "candidate", "并行部署 Run beside", "candidate")
	switch c.strategy.Type {
	case v1alpha1.StrategyCanary:
		c.canary(w)
	case v1alpha1.StrategyABTest:
		test := c.strategy.ABTest
		if test == nil {
			test = &v1alpha1.ABTestStrategy{}
		}
		c.trial(w, "test", "测试 A/B test", test.Hold, "matches", c.value(test.Matches))
		c.switchOver(w)
	case v1alpha1.StrategyShadow:
		shadow := c.strategy.Shadow
		if shadow == nil {
			shadow = &v1alpha1.ShadowStrategy{}
		}
		percent := shadow.Percent
		if percent == 0 {
			percent = all
		}
		c.trial(w, "mirror", "影子 Mirror", shadow.Hold, "mirror", percent)
		c.switchOver(w)
	default:
		c.blueGreen(w)
	}
	c.promotion(w)
}

func (c *compiler) blueGreen(w *wave) {
	settings := c.strategy.BlueGreen
	if settings == nil {
		settings = &v1alpha1.BlueGreenStrategy{}
	}
	if settings.Switch == v1alpha1.ContinueManual {
		c.ask(w, "approve-switch", "确认切换 Confirm switch", fmt.Sprintf("rollout of %s: %s is ready beside %s; testers reach it with the header %s: Candidate. Shall all requests move to it?",
			c.spec.Application, c.spec.To, c.spec.From, v1alpha1.HeaderTrack))
	}
	measured := c.measure(w, "measure-switch")
	c.own(w, "switch", "切换 Switch", "traffic", "weight", all)
	c.wait(w, "keep", "保留旧版本 Keep the old one", settings.Keep)
	c.gates(w, "gate-switch", measured)
}

func (c *compiler) canary(w *wave) {
	var steps []v1alpha1.CanaryStep
	if c.strategy.Canary != nil {
		steps = c.strategy.Canary.Steps
	}
	if len(steps) == 0 {
		hold := &metav1.Duration{Duration: shareHold}
		steps = []v1alpha1.CanaryStep{{Weight: firstShare, Hold: hold}, {Weight: secondShare, Hold: hold}}
	}
	if steps[len(steps)-1].Weight != all {
		steps = append(slices.Clip(steps), v1alpha1.CanaryStep{Weight: all})
	}
	for i := range steps {
		s := &steps[i]
		id := fmt.Sprintf("%d", i+1)
		measured := ""
		if s.Weight > 0 {
			measured = c.measure(w, "measure-"+id)
		}
		c.own(w, fmt.Sprintf("share-%s-%d", id, s.Weight), fmt.Sprintf("灰度 Share %d%%", s.Weight), "traffic", "weight", s.Weight)
		c.wait(w, "hold-"+id, fmt.Sprintf("观察 Hold at %d%%", s.Weight), s.Hold)
		if s.Weight > 0 {
			c.gates(w, "gate-"+id, measured)
		}
		if s.Continue == v1alpha1.ContinueManual {
			c.ask(w, "continue-"+id, "继续 Continue", fmt.Sprintf("rollout of %s: %s gets %d%% of the requests; shall it go on?", c.spec.Application, c.spec.To, s.Weight))
		}
	}
}

// trial appends the steps in which the new revision gets chosen requests, or copies, until time or a person ends it.
func (c *compiler) trial(w *wave, name, title string, hold *metav1.Duration, more ...any) {
	measured := c.measure(w, "measure-"+name)
	c.own(w, name, title, "traffic", append(more, "weight", 0)...)
	if hold != nil && hold.Duration > 0 {
		c.wait(w, "hold-"+name, title, hold)
	} else {
		c.ask(w, "decide-"+name, "决定 Decide", fmt.Sprintf("rollout of %s: has %s proved itself? Approve to let it have all requests, reject to go back", c.spec.Application, c.spec.To))
	}
	c.gates(w, "gate-"+name, measured)
}

func (c *compiler) switchOver(w *wave) {
	measured := c.measure(w, "measure-switch")
	c.own(w, "switch", "切换 Switch", "traffic", "weight", all)
	c.gates(w, "gate-switch", measured)
}

// promotion appends the steps after which the new revision is the only one. Where components are changed in place for it,
// one partition after the other is closed and emptied, if another carries the requests.
func (c *compiler) promotion(w *wave) {
	if !c.emptied() {
		c.own(w, "promote", "转正 Promote", "promote")
		return
	}
	for _, partition := range w.partitions {
		one := &wave{name: partition, partitions: []string{partition}, number: len(c.groups)}
		c.groups = append(c.groups, one.partitions)
		shut := c.own(one, "close", "关闭 Close", "close")
		c.own(one, "drain", "等待 Wait", "drain")
		c.own(one, "promote", "转正 Promote", "promote")
		c.own(one, "open", "开放 Open", "open", "closed", fmt.Sprintf("${{ steps['%s'].outputs.time }}", shut))
	}
}

// notice appends the message to those who must know before anything changes.
func (c *compiler) notice() {
	n := c.strategy.Notice
	if n == nil && c.strategy.Type != v1alpha1.StrategyRecreate {
		return
	}
	if n == nil {
		n = &v1alpha1.RolloutNotice{}
	}
	const longestText = 2000
	lines := []string{}
	if n.Scope != "" {
		lines = append(lines, "影响范围 Scope: "+n.Scope)
	}
	if n.Ahead != nil && n.Ahead.Duration > 0 {
		lines = append(lines, "开始 It begins in "+n.Ahead.Duration.String())
	}
	more := []any{
		"title", c.value(cutText(fmt.Sprintf("发布 Release of %s: %s → %s", c.spec.Application, c.spec.From, c.spec.To), longestName)),
		"text", c.value(cutText(strings.Join(append(lines, c.plan...), "\n"), longestText)),
		"roles", []v1alpha1.Role{v1alpha1.RoleAdmin, v1alpha1.RoleOperator, v1alpha1.RoleViewer},
	}
	if len(n.Receivers) > 0 {
		more = append(more, "receivers", c.value(n.Receivers))
	}
	c.add(v1alpha1.WorkflowStep{Name: "notice", DisplayName: "通知 Notice", Action: "notify", With: with(more...), Retry: retries()})
	c.wait(&wave{}, "ahead", "提前通知 Time until it begins", n.Ahead)
}

// retries of what asks others, three times at most.
func retries() *v1alpha1.StepRetry {
	return &v1alpha1.StepRetry{Limit: 2, Interval: &metav1.Duration{Duration: time.Second}}
}

// hooks appends Jobs.
func (c *compiler) hooks(when, title string, hooks []v1alpha1.RolloutHook) error {
	for i := range hooks {
		h := &hooks[i]
		partition := h.Partition
		if partition == "" {
			partition = c.waves[0].partitions[0]
		}
		env, err := plainEnv(h)
		if err != nil {
			return err
		}
		more := []any{"partition", partition, "image", c.value(h.Image)}
		if len(h.Command) > 0 {
			more = append(more, "command", c.value(h.Command))
		}
		if len(h.Args) > 0 {
			more = append(more, "args", c.value(h.Args))
		}
		if len(env) > 0 {
			more = append(more, "env", c.value(env))
		}
		timeout := h.Timeout
		if timeout == nil || timeout.Duration <= 0 {
			const hookTime = 10 * time.Minute
			timeout = &metav1.Duration{Duration: hookTime}
		}
		c.add(v1alpha1.WorkflowStep{
			Name: when + "-" + h.Name, DisplayName: title + " " + h.Name, Action: "container", With: with(more...), Timeout: timeout,
		})
	}
	return nil
}

func plainEnv(h *v1alpha1.RolloutHook) (map[string]string, error) {
	env := map[string]string{}
	for _, one := range h.Env {
		if one.ValueFrom != nil && *one.ValueFrom != (corev1.EnvVarSource{}) {
			return nil, fmt.Errorf("hook %s: the variable %s is taken from elsewhere, which the Jobs of hooks cannot: write its value", h.Name, one.Name)
		}
		env[one.Name] = one.Value
	}
	return env, nil
}

// measure appends a step that counts requests, if a gate will compare them, and gives its name.
func (c *compiler) measure(w *wave, name string) string {
	for i := range c.strategy.Gates {
		if c.strategy.Gates[i].Requests != nil {
			return c.own(w, name, "计数 Count requests", "count")
		}
	}
	return ""
}

// gates appends the questions whose answers decide whether it goes on.
func (c *compiler) gates(w *wave, name, measured string) {
	for i := range c.strategy.Gates {
		g := &c.strategy.Gates[i]
		id, title := name+"-"+g.Name, "检查 Gate "+g.Name
		switch {
		case g.Requests != nil:
			c.own(w, id, title, "gate", "gate", i, "before", fmt.Sprintf("${{ steps['%s'].outputs.before }}", measured))
		case g.Approval != nil:
			c.ask(w, id, title, fmt.Sprintf("rollout of %s to %s: gate %s after %s", c.spec.Application, c.spec.To, g.Name, describe(w.partitions)), approvers(g.Approval)...)
		case g.HTTP != nil:
			status := g.HTTP.Status
			if status == 0 {
				status = 200
			}
			c.asks(w, id, title, c.value(g.HTTP.URL), status)
		case g.Prometheus != nil:
			const ok = 200
			query := strings.TrimSuffix(g.Prometheus.URL, "/") + "/api/v1/query?" + url.Values{"query": {g.Prometheus.Query}}.Encode()
			asked := c.asks(w, id+"-q", title, c.value(query), ok)
			c.own(w, id, title, "number", "gate", i, "body", fmt.Sprintf("${{ steps['%s'].outputs.body }}", asked))
		}
	}
}

func approvers(g *v1alpha1.ApprovalGate) []string {
	if len(g.Roles) == 0 {
		return []string{string(v1alpha1.ApproverAdmin)}
	}
	return g.Roles
}

// asks appends a request over HTTP.
func (c *compiler) asks(w *wave, name, title, address string, status int32) string {
	if w.name != "" {
		name, title = name+"-"+w.name, title+" "+w.name
	}
	return c.add(v1alpha1.WorkflowStep{Name: name, DisplayName: title, Action: "http", With: with("url", address, "expect", []int32{status}), Retry: retries()})
}
