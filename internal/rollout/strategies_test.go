package rollout

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

// moment is a pause that a test can wait for.
func moment(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }

// What becomes of two partitions by each strategy, from one write of a Delivery's spec to the next.
func TestEachStrategyMovesTraffic(t *testing.T) {
	w := newWorld(t)
	w.clusters()
	w.serve()
	matches := []v1alpha1.RouteMatch{{}}
	for name, tc := range map[string]struct {
		reason   string
		strategy v1alpha1.Strategy
		bj, sh   []string
	}{
		"REL-01 Recreate": {
			"each is closed, emptied, stopped and changed before it is opened", v1alpha1.Strategy{Type: v1alpha1.StrategyRecreate},
			[]string{"v1", "v1 closed", "v1! closed", "v2 closed", "v2"}, []string{"v1", "v1 closed", "v1! closed", "v2 closed", "v2"},
		},
		"REL-03 Shadow": {
			"the new one gets copies only until it gets everything", v1alpha1.Strategy{Type: v1alpha1.StrategyShadow, Shadow: &v1alpha1.ShadowStrategy{Percent: 50, Hold: moment(time.Millisecond)}},
			[]string{"v1", "v1+v2/v2 0%", "v1+v2/v2 0% mirror 50%", "v1+v2/v2 100%", "v2/v2"},
			[]string{"v1", "v1+v2/v2 0%", "v1+v2/v2 0% mirror 50%", "v1+v2/v2 100%", "v2/v2"},
		},
		"REL-04 BlueGreen": {
			"all requests move at once", v1alpha1.Strategy{Type: v1alpha1.StrategyBlueGreen},
			[]string{"v1", "v1+v2/v2 0%", "v1+v2/v2 100%", "v2/v2"}, []string{"v1", "v1+v2/v2 0%", "v1+v2/v2 100%", "v2/v2"},
		},
		"REL-05 Canary": {
			"requests move in steps", v1alpha1.Strategy{Type: v1alpha1.StrategyCanary, Canary: &v1alpha1.CanaryStrategy{Steps: []v1alpha1.CanaryStep{{Weight: 0}, {Weight: 10}, {Weight: 100}}}},
			[]string{"v1", "v1+v2/v2 0%", "v1+v2/v2 10%", "v1+v2/v2 100%", "v2/v2"}, []string{"v1", "v1+v2/v2 0%", "v1+v2/v2 10%", "v1+v2/v2 100%", "v2/v2"},
		},
		"REL-06 ABTest": {
			"chosen requests move first", v1alpha1.Strategy{Type: v1alpha1.StrategyABTest, ABTest: &v1alpha1.ABTestStrategy{Matches: matches, Hold: moment(time.Millisecond)}},
			[]string{"v1", "v1+v2/v2 0%", "v1+v2/v2 0% 1 matches", "v1+v2/v2 100%", "v2/v2"},
			[]string{"v1", "v1+v2/v2 0%", "v1+v2/v2 0% 1 matches", "v1+v2/v2 100%", "v2/v2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w.T = t
			app := string(tc.strategy.Type)
			app = map[string]string{"Recreate": "rec", "Shadow": "sha", "BlueGreen": "blue", "Canary": "can", "ABTest": "ab"}[app]
			bj, sh := app+"bj", app+"sh"
			w.app(app, []string{bj + "@beijing", sh + "@shanghai"})
			w.comes(w.release(app, "v2", []string{bj, sh}, tc.strategy), v1alpha1.RolloutSucceeded)
			if diff := cmp.Diff(tc.bj, w.history(bj)); diff != "" {
				t.Errorf("%s: %s: %s", tc.reason, bj, diff)
			}
			if diff := cmp.Diff(tc.sh, w.history(sh)); diff != "" {
				t.Errorf("%s: %s: %s", tc.reason, sh, diff)
			}
		})
	}
}

var partitionWise = v1alpha1.Strategy{Type: v1alpha1.StrategyRollingUpdate, Order: v1alpha1.RolloutOrder{By: v1alpha1.OrderPartition}}

func TestREL07_NineStepsPartitionByPartition(t *testing.T) {
	w := newWorld(t)
	w.clusters()
	w.serve()
	w.app("shop", two)
	o := w.comes(w.release("shop", "v2", []string{"bj", "sh"}, partitionWise), v1alpha1.RolloutSucceeded)
	run := w.run(o)
	var names []string
	for i := range run.Status.Steps {
		st := &run.Status.Steps[i]
		names = append(names, st.Name)
		if st.StartTime == nil || st.FinishTime == nil || i > 0 && st.StartTime.Before(run.Status.Steps[i-1].FinishTime) {
			t.Errorf("step %s began before the one before it had ended", st.Name)
		}
	}
	want := []string{"begin", "close-bj", "stop-bj", "upgrade-bj", "open-bj", "close-sh", "stop-sh", "upgrade-sh", "open-sh", "end"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("steps: %s", diff)
	}
	lines := w.history("")
	open, closed := slices.Index(lines, "bj=v2"), slices.Index(lines, "sh=v1 closed")
	if open < 0 || closed < open {
		t.Errorf("the second partition was closed before the first was open: %v", lines)
	}
}

func TestREL07_FailureLeavesTheNextUntouchedAndGoesBack(t *testing.T) {
	w := newWorld(t)
	w.clusters()
	w.serve()
	w.app("shop", two)
	w.set(func() { w.broken["shop-v2"] = true })
	o := w.comes(w.release("shop", "v2", []string{"bj", "sh"}, partitionWise), v1alpha1.RolloutFailed)
	if diff := cmp.Diff([]string{"v1", "v1 closed", "v1! closed", "v2 closed", "v2! closed", "v1 closed", "v1"}, w.history("bj")); diff != "" {
		t.Errorf("the first partition: %s", diff)
	}
	if diff := cmp.Diff([]string{"v1"}, w.history("sh")); diff != "" {
		t.Errorf("the next partition: %s", diff)
	}
	if first, next := o.Status.Partitions[0].Phase, o.Status.Partitions[1].Phase; first != v1alpha1.RolloutPartitionReturned || next != v1alpha1.RolloutPartitionWaiting {
		t.Errorf("the partitions are told as %s and %s", first, next)
	}
}

func TestAbortOfHalfMovedPartitionsGoesBack(t *testing.T) {
	w := newWorld(t)
	w.clusters()
	w.serve()
	w.app("shop", two)
	w.set(func() { w.flying["sh"] = 3 }) // the second partition has requests in flight for ever
	o := w.release("shop", "v2", []string{"bj", "sh"}, partitionWise)
	w.reaches(o, "stop-sh")
	w.abort(o)
	w.comes(o, v1alpha1.RolloutAborted)
	if diff := cmp.Diff([]string{"v1", "v1 closed", "v1"}, w.history("sh")); diff != "" {
		t.Errorf("the partition that was emptied: %s", diff)
	}
	if diff := cmp.Diff([]string{"v1", "v1 closed", "v1! closed", "v2 closed", "v2", "v2 closed", "v2! closed", "v1 closed", "v1"}, w.history("bj")); diff != "" {
		t.Errorf("the partition that had moved: %s", diff)
	}
	lines := w.history("")
	reopened, shut := slices.Index(lines, "sh=v1 closed")+1, len(lines)-1-slices.Index(backwardsOf(lines), "bj=v2 closed")
	if at := slices.Index(lines[reopened:], "sh=v1"); at < 0 || reopened+at > shut {
		t.Errorf("both were closed at once: %v", lines)
	}
}

func backwardsOf(lines []string) []string {
	out := slices.Clone(lines)
	slices.Reverse(out)
	return out
}

func TestREL04_AbortWhileBlueIsKeptMovesTrafficOnly(t *testing.T) {
	w := newWorld(t)
	w.clusters()
	w.serve()
	w.app("shop", two)
	o := w.release("shop", "v2", []string{"bj", "sh"}, v1alpha1.Strategy{Type: v1alpha1.StrategyBlueGreen, BlueGreen: &v1alpha1.BlueGreenStrategy{Keep: moment(time.Hour)}})
	w.reaches(o, "keep")
	NewWithT(t).Eventually(func() int32 { w.comes(o, v1alpha1.RolloutRunning); return o.Status.Weight }, patience, "50ms").Should(BeEquivalentTo(100))
	began := time.Now()
	w.abort(o)
	NewWithT(t).Eventually(func() []string { return w.history("bj") }, patience, "20ms").Should(ContainElement("v1+v2/v2 0%"))
	t.Logf("all requests are back after %s", time.Since(began))
	w.comes(o, v1alpha1.RolloutAborted)
	for _, partition := range []string{"bj", "sh"} {
		if diff := cmp.Diff([]string{"v1", "v1+v2/v2 0%", "v1+v2/v2 100%", "v1+v2/v2 0%", "v1"}, w.history(partition)); diff != "" {
			t.Errorf("partition %s: %s", partition, diff)
		}
	}
}

func TestOldPodsEndWhenNothingIsUnderWayToThem(t *testing.T) {
	w := newWorld(t)
	w.clusters()
	w.serve()
	w.app("shop", []string{"bj@beijing"})
	w.set(func() { w.flying["bj/Stable"] = 1 })
	o := w.release("shop", "v2", []string{"bj"}, v1alpha1.Strategy{Type: v1alpha1.StrategyBlueGreen})
	w.reaches(o, "promote")
	NewWithT(t).Consistently(func() []string { return w.history("bj") }, "1s", "50ms").ShouldNot(ContainElement("v2/v2"))
	w.set(func() { w.flying["bj/Stable"] = 0 })
	w.comes(o, v1alpha1.RolloutSucceeded)
}

func TestDrainIsBounded(t *testing.T) {
	w := newWorld(t)
	w.clusters()
	w.serve()
	w.app("shop", []string{"bj@beijing"})
	w.set(func() { w.flying["bj/Stable"] = 1 })
	w.comes(w.release("shop", "v2", []string{"bj"}, v1alpha1.Strategy{
		Type: v1alpha1.StrategyBlueGreen, Drain: v1alpha1.Drain{Timeout: moment(time.Second)},
	}), v1alpha1.RolloutSucceeded)
}

func TestGates(t *testing.T) {
	w := newWorld(t)
	w.clusters()
	w.serve()
	canary := &v1alpha1.CanaryStrategy{Steps: []v1alpha1.CanaryStep{{Weight: 10}}}
	for name, tc := range map[string]struct {
		reason string
		gate   v1alpha1.RequestsGate
		phase  v1alpha1.RolloutPhase
	}{
		"pass": {"without requests nothing is wrong", v1alpha1.RequestsGate{}, v1alpha1.RolloutSucceeded},
		"few":  {"too few requests decide nothing", v1alpha1.RequestsGate{Minimum: 10, Timeout: moment(time.Second)}, v1alpha1.RolloutFailed},
		"slow": {"the share of requests that must be well is over a hundred", v1alpha1.RequestsGate{SuccessPercent: new(int32(100)), Minimum: 1, Timeout: moment(time.Millisecond)}, v1alpha1.RolloutFailed},
	} {
		t.Run(name, func(t *testing.T) {
			w.T = t
			w.app(name, []string{name + "@beijing"})
			w.comes(w.release(name, "v2", []string{name}, v1alpha1.Strategy{
				Type: v1alpha1.StrategyCanary, Canary: canary, Gates: []v1alpha1.Gate{{Name: "requests", Requests: &tc.gate}},
			}), tc.phase)
		})
	}
}
