package rollout

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/workflow"
	"yunfan.io/yunfan/internal/workflow/builtin"
	"yunfan.io/yunfan/internal/workflow/graph"
)

var update = flag.Bool("update", false, "write the golden file")

func workload(name string, kind v1alpha1.WorkloadKind, change ...func(*corev1.PodSpec)) v1alpha1.Component {
	c := v1alpha1.Component{
		Name: name, Workload: kind, Service: &v1alpha1.Service{Ports: []v1alpha1.ServicePort{{Name: "http", Port: 80}}},
		Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: name}}}},
	}
	for _, f := range change {
		f(&c.Template.Spec)
	}
	return c
}

func hook(spec *corev1.PodSpec) {
	spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"bye"}}}}
}

// situations are what strategies are compiled with.
func situations() map[string]facts {
	web, database := workload("web", v1alpha1.WorkloadDeployment), workload("db", v1alpha1.WorkloadStatefulSet)
	given := func(routed bool, partitions []place, components ...v1alpha1.Component) facts {
		before := &v1alpha1.ApplicationRevision{Spec: v1alpha1.ApplicationRevisionSpec{Components: components}}
		after := before.DeepCopy()
		for i := range after.Spec.Components {
			after.Spec.Components[i].Template.Spec.Containers[0].Image = "newer"
		}
		return facts{from: before, to: after, partitions: partitions, routed: routed}
	}
	one := []place{{name: "bj", cluster: "beijing", environment: "Production", reachable: true}}
	three := []place{
		{name: "bj1", cluster: "beijing", environment: "Test", reachable: true}, {name: "bj2", cluster: "beijing", environment: "Production", reachable: true},
		{name: "sh", cluster: "shanghai", environment: "Production", reachable: true},
	}
	lost := slices.Clone(three)
	lost[2].reachable = false
	same := given(true, three, web, database)
	same.to.Spec.Components[1].Template.Spec.Containers[0].Image = ""
	return map[string]facts{
		"one partition":                    given(true, one, web),
		"three partitions":                 given(true, three, web),
		"one of three unreachable":         given(true, lost, web),
		"three with a database":            given(true, three, web, database),
		"three with a database that stays": same,
		"one with a database":              given(true, one, web, database),
		"three with nothing but databases": given(true, three, database),
		"three with hooks of their own":    given(true, three, workload("web", v1alpha1.WorkloadDeployment, hook)),
		"one with a hook of its own":       given(true, one, workload("web", v1alpha1.WorkloadDeployment, hook)),
	}
}

func strategies() map[string]v1alpha1.Strategy {
	minute := &metav1.Duration{Duration: time.Minute}
	gates := []v1alpha1.Gate{
		{Name: "requests", Requests: &v1alpha1.RequestsGate{SuccessPercent: new(int32(99))}},
		{Name: "errors", Prometheus: &v1alpha1.PrometheusGate{URL: "http://prometheus:9090/", Query: `sum(rate(errors[1m])) ${{ x }}`, Max: "0.1"}},
		{Name: "smoke", HTTP: &v1alpha1.HTTPGate{URL: "http://smoke/test"}},
		{Name: "boss", Approval: &v1alpha1.ApprovalGate{}},
	}
	return map[string]v1alpha1.Strategy{
		"default":            {},
		"rolling partitions": {Type: v1alpha1.StrategyRollingUpdate, Order: v1alpha1.RolloutOrder{By: v1alpha1.OrderPartition}},
		"rolling clusters":   {Type: v1alpha1.StrategyRollingUpdate, Order: v1alpha1.RolloutOrder{By: v1alpha1.OrderCluster, StablePeriod: minute, Continue: v1alpha1.ContinueManual}},
		"recreate":           {Type: v1alpha1.StrategyRecreate},
		"recreate together":  {Type: v1alpha1.StrategyRecreate, Order: v1alpha1.RolloutOrder{By: v1alpha1.OrderTogether}},
		"blue green":         {Type: v1alpha1.StrategyBlueGreen, BlueGreen: &v1alpha1.BlueGreenStrategy{Switch: v1alpha1.ContinueManual, Keep: minute}},
		"canary":             {Type: v1alpha1.StrategyCanary},
		"canary waves": {
			Type: v1alpha1.StrategyCanary, Gates: gates, Order: v1alpha1.RolloutOrder{Waves: []v1alpha1.RolloutWave{{Partitions: []string{"bj1"}}, {Clusters: []string{"shanghai"}}}},
			Canary: &v1alpha1.CanaryStrategy{Steps: []v1alpha1.CanaryStep{{Weight: 0}, {Weight: 10, Hold: minute, Continue: v1alpha1.ContinueManual}}},
		},
		"ab test": {Type: v1alpha1.StrategyABTest, ABTest: &v1alpha1.ABTestStrategy{Matches: []v1alpha1.RouteMatch{{}}}},
		"shadow": {
			Type: v1alpha1.StrategyShadow, Shadow: &v1alpha1.ShadowStrategy{Percent: 20, Hold: minute},
			Before: []v1alpha1.RolloutHook{{Name: "migrate", Image: "migrate:${{ x }}", Env: []corev1.EnvVar{{Name: "A", Value: "b"}}}},
			After:  []v1alpha1.RolloutHook{{Name: "clean", Partition: "sh", Image: "clean"}},
			Notice: &v1alpha1.RolloutNotice{Receivers: []string{"ops"}, Scope: "logins", Ahead: minute},
		},
	}
}

// tell writes a program down: the plan, then each step with what it is given.
func tell(p *program) string {
	var out strings.Builder
	for _, line := range p.plan {
		fmt.Fprintf(&out, "  %s\n", line)
	}
	for i := range p.definition.Steps {
		step := &p.definition.Steps[i]
		fmt.Fprintf(&out, "  - %s: %s", step.Name, step.Action)
		for _, name := range sorted(step.With) {
			if name != "rollout" && name != "uid" && !strings.HasPrefix(step.Action, "notify") {
				fmt.Fprintf(&out, " %s=%s", name, step.With[name])
			}
		}
		if step.Compensate != nil {
			fmt.Fprintf(&out, " undone by %s rolling=%s", step.Compensate.Action, step.Compensate.With["rolling"])
		}
		out.WriteString("\n")
	}
	fmt.Fprintf(&out, "  waves=%s order=%s\n", p.inputs["waves"], p.inputs["order"])
	return out.String()
}

func sorted[V any](m map[string]V) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func TestProgramsOfAllStrategies(t *testing.T) {
	catalogue, err := action.NewCatalogue(append(builtin.Actions(builtin.Options{}), (&Rollouts{}).Actions()...)...)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, strategy := range sorted(strategies()) {
		for _, situation := range sorted(situations()) {
			o := &v1alpha1.Rollout{ObjectMeta: metav1.ObjectMeta{Name: "shop-v2-1", UID: "uid"}, Spec: v1alpha1.RolloutSpec{
				Application: "shop", From: "shop-v1", To: "shop-v2", Strategy: strategies()[strategy],
			}}
			f := situations()[situation]
			p, err := compile(o, &f)
			if err != nil {
				t.Fatalf("%s, %s: %v", strategy, situation, err)
			}
			fmt.Fprintf(&out, "%s, %s:\n%s", strategy, situation, tell(p))
			g, problems := graph.Check(&p.definition, workflow.Descriptions(catalogue), true)
			if len(problems) > 0 {
				t.Fatalf("%s, %s: the run would be refused: %v", strategy, situation, problems)
			}
			if _, problems := g.Inputs(p.inputs); len(problems) > 0 {
				t.Errorf("%s, %s: its inputs would be refused: %v", strategy, situation, problems)
			}
		}
	}
	golden := filepath.Join("testdata", "programs.txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(out.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(out.String(), "\n")); diff != "" {
		t.Errorf("programs differ from %s; look at them and run the test with -update: %s", golden, diff)
	}
}

func TestProgramsThatAreRefused(t *testing.T) {
	many := facts{to: &v1alpha1.ApplicationRevision{Spec: v1alpha1.ApplicationRevisionSpec{Components: []v1alpha1.Component{workload("web", v1alpha1.WorkloadDeployment)}}}}
	for i := range 100 {
		many.partitions = append(many.partitions, place{name: fmt.Sprintf("p%d", i), reachable: true})
	}
	chart := facts{to: &v1alpha1.ApplicationRevision{Spec: v1alpha1.ApplicationRevisionSpec{Chart: &v1alpha1.Chart{}}}, partitions: many.partitions[:1]}
	secret := v1alpha1.RolloutHook{Name: "a", Env: []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{Key: "x"}}}}}
	for name, tc := range map[string]struct {
		reason   string
		facts    facts
		strategy v1alpha1.Strategy
		words    string
	}{
		"Nowhere": {"there is nothing to move", facts{to: many.to}, v1alpha1.Strategy{}, "none of the partitions"},
		"Chart":   {"charts are not delivered", chart, v1alpha1.Strategy{}, "chart"},
		"Long":    {"a run has so many steps", many, v1alpha1.Strategy{Type: v1alpha1.StrategyRecreate}, "403 steps"},
		"Secret":  {"Jobs of hooks take plain values", facts{to: many.to, partitions: many.partitions[:1]}, v1alpha1.Strategy{Before: []v1alpha1.RolloutHook{secret}}, "write its value"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := compile(&v1alpha1.Rollout{Spec: v1alpha1.RolloutSpec{Strategy: tc.strategy}}, &tc.facts)
			if err == nil || !strings.Contains(err.Error(), tc.words) {
				t.Errorf("%s: got %v", tc.reason, err)
			}
		})
	}
}

func TestREL09_Advice(t *testing.T) {
	for name, tc := range map[string]struct {
		reason   string
		strategy v1alpha1.StrategyType
		in       []string
		words    string
	}{
		"Production": {"a production partition should keep answering", v1alpha1.StrategyRecreate, []string{"Test", "Production"}, "RollingUpdate or BlueGreen"},
		"Test":       {"in tests recreating is right", v1alpha1.StrategyRecreate, []string{"Test"}, ""},
		"Double":     {"two environments for a test are too many", v1alpha1.StrategyBlueGreen, []string{"Development"}, "double resources"},
		"Untested":   {"what was not fully tested is shown to few", v1alpha1.StrategyRollingUpdate, []string{"Production"}, "Canary"},
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(Advice(&v1alpha1.Strategy{Type: tc.strategy}, tc.in), "\n")
			if tc.words == "" && got != "" || !strings.Contains(got, tc.words) {
				t.Errorf("%s: got %q", tc.reason, got)
			}
		})
	}
}
