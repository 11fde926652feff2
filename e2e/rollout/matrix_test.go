//go:build e2e

package rollout_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
	"yunfan.io/yunfan/e2e/load"
)

const (
	// switchWindow is how long both versions may answer while all requests move at once: as long as the slowest gateway takes
	// to serve the new table, on a machine that is busy. docs/choosing-a-strategy.md tells it.
	switchWindow = 10 * time.Second
	// replicas of the application in each partition.
	replicas = 2
)

// The ways in which a rollout goes.
const (
	forward = "forward"
	aborted = "aborted"
	back    = "back" // there, and then to the revision before
)

var (
	strategies = []v1alpha1.StrategyType{
		v1alpha1.StrategyRollingUpdate, v1alpha1.StrategyRecreate, v1alpha1.StrategyBlueGreen,
		v1alpha1.StrategyCanary, v1alpha1.StrategyABTest, v1alpha1.StrategyShadow,
	}
	ways = []string{forward, aborted, back}
)

// seed of what is sampled; printed, so that the same can be run again.
func seed(t *testing.T) *rand.Rand {
	t.Helper()
	n := uint64(time.Now().Unix())
	if given := os.Getenv("YUNFAN_SEED"); given != "" {
		var err error
		if n, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatalf("YUNFAN_SEED: %v", err)
		}
	}
	t.Logf("a sample: YUNFAN_SEED=%d picks the same, YUNFAN_FULL=1 runs all", n)
	return rand.New(rand.NewPCG(n, n))
}

func full() bool { return os.Getenv("YUNFAN_FULL") != "" }

func span(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }

// strategy of a type that goes on by itself, or waits for somebody in the middle.
func strategy(kind v1alpha1.StrategyType, wait bool) v1alpha1.Strategy {
	s, next := v1alpha1.Strategy{Type: kind}, v1alpha1.ContinueAutomatic
	if wait {
		next = v1alpha1.ContinueManual
	}
	hold := span(5 * time.Second)
	if wait {
		hold = nil
	}
	switch kind {
	case v1alpha1.StrategyRollingUpdate:
		s.Order = v1alpha1.RolloutOrder{By: v1alpha1.OrderPartition, Continue: next}
	case v1alpha1.StrategyRecreate:
		s.Order = v1alpha1.RolloutOrder{Continue: next}
	case v1alpha1.StrategyBlueGreen:
		s.BlueGreen = &v1alpha1.BlueGreenStrategy{Switch: v1alpha1.ContinueAutomatic}
		if wait {
			s.BlueGreen.Keep = span(time.Hour)
		}
	case v1alpha1.StrategyCanary:
		s.Canary = &v1alpha1.CanaryStrategy{Steps: []v1alpha1.CanaryStep{
			{Weight: 20, Hold: span(2 * time.Second)}, {Weight: 60, Hold: span(2 * time.Second), Continue: next},
		}}
	case v1alpha1.StrategyABTest:
		s.ABTest = &v1alpha1.ABTestStrategy{Hold: hold, Matches: []v1alpha1.RouteMatch{{Headers: []v1alpha1.ValueMatch{{Name: "X-Group", Type: v1alpha1.MatchExact, Value: "b"}}}}}
	case v1alpha1.StrategyShadow:
		s.Shadow = &v1alpha1.ShadowStrategy{Percent: 100, Hold: hold}
	}
	return s
}

type cell struct {
	strategy v1alpha1.StrategyType
	way      string
}

// cells are each strategy in one way, or in all.
func cells(t *testing.T) []cell {
	t.Helper()
	random := seed(t)
	var out []cell
	for _, s := range strategies {
		if !full() {
			out = append(out, cell{s, ways[random.IntN(len(ways))]})
			continue
		}
		for _, w := range ways {
			out = append(out, cell{s, w})
		}
	}
	random.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// TestMET08_NoRequestIsLost moves an application by each strategy, forward, aborted in the middle and back, while users
// come: none of their requests fails. MET-08.
func TestMET08_NoRequestIsLost(t *testing.T) {
	all := journey.Begin(t).Shop(replicas)
	version := 1
	for _, c := range cells(t) {
		t.Run(fmt.Sprintf("%s %s %s", rows[c.strategy], c.strategy, c.way), func(t *testing.T) {
			s := all.In(t)
			s.Ready(s.App)
			from := fmt.Sprintf("v%d", version)
			version++
			to := fmt.Sprintf("v%d", version)
			switch c.way {
			case forward:
				goForward(s, c.strategy, from, to)
			case aborted:
				goBackInTheMiddle(s, c.strategy, from, to)
				version--
				s.Update(s.App, func() { // to what it is: no rollout
					s.App.Spec.Version = from
					journey.SetVersion(&s.App.Spec.Components[0], from)
				})
			case back:
				goForward(s, c.strategy, from, to)
				s.Ready(s.App)
				goForward(s, c.strategy, to, from)
				version--
			}
		})
	}
}

// rows that the strategies are in.
var rows = map[v1alpha1.StrategyType]string{
	v1alpha1.StrategyRecreate: "REL-01", v1alpha1.StrategyRollingUpdate: "REL-02 REL-07", v1alpha1.StrategyShadow: "REL-03",
	v1alpha1.StrategyBlueGreen: "REL-04", v1alpha1.StrategyCanary: "REL-05", v1alpha1.StrategyABTest: "REL-06",
}

func goForward(s *journey.Shop, kind v1alpha1.StrategyType, from, to string) {
	s.Helper()
	var r *journey.Rolling
	began := time.Now()
	report := s.UnderLoad(func(*load.Load) {
		r = s.Change(to, strategy(kind, false))
		r.Ends(v1alpha1.RolloutSucceeded)
		s.Logf("%s from %s to %s took %s", kind, from, to, time.Since(began).Round(time.Second/10))
	})
	s.NoneLost(report, r.Events()...)
	ended := report.Start.Add(report.Took - time.Second)
	if got := report.Versions(ended, time.Time{}); len(got) != 1 || got[to] == 0 {
		s.Errorf("at the end, users get %v, want %s only", got, to)
		r.Tell()
	}
	switch kind {
	case v1alpha1.StrategyRecreate:
		neverBoth(s, report, from, to)
	case v1alpha1.StrategyBlueGreen, v1alpha1.StrategyShadow, v1alpha1.StrategyABTest:
		together(s, report, from, to)
	default:
	}
}

// neverBoth proves that in each partition the old version had ended before the new one began.
func neverBoth(s *journey.Shop, report *load.Report, from, to string) {
	s.Helper()
	for _, partition := range []string{"bj1", "bj2", "sh"} {
		of := func(version string) func(load.Answer) bool {
			return func(a load.Answer) bool {
				return a.Who.Version == version && s.PartitionOf(a.Who.Partition) == partition
			}
		}
		last, some := report.Last(of(from))
		first, more := report.First(report.Start, of(to))
		if !some || !more || last.At.Add(last.Took).After(first.At) {
			s.Errorf("partition %s: %s answered %d at %s and %s at %s: it began before the old one had ended", partition,
				from, last.Status, last.At, to, first.At)
		}
	}
}

// together proves that all users went to the new version within the window that is documented.
func together(s *journey.Shop, report *load.Report, from, to string) {
	s.Helper()
	first, _ := report.First(report.Start, func(a load.Answer) bool { return a.Who.Version == to })
	last, _ := report.Last(func(a load.Answer) bool { return a.Who.Version == from })
	mixed := last.At.Sub(first.At)
	s.Logf("REL-04 both versions answered for %s", mixed.Round(10*time.Millisecond))
	if mixed > switchWindow {
		s.Errorf("both versions answered for %s, longer than %s", mixed, switchWindow)
	}
}

func goBackInTheMiddle(s *journey.Shop, kind v1alpha1.StrategyType, from, to string) {
	s.Helper()
	var r *journey.Rolling
	var asked time.Time
	report := s.UnderLoad(func(l *load.Load) {
		r = s.Change(to, strategy(kind, true))
		if kind == v1alpha1.StrategyBlueGreen {
			s.Eventually(func() map[string]int {
				return l.Report().Versions(time.Now().Add(-time.Second), time.Time{})
			}).Should(And(HaveKey(to), Not(HaveKey(from))), "all users get the new version: %s", r.Phase())
		} else {
			r.Waits()
			middle(s, l, kind, from, to)
		}
		asked = time.Now()
		l.Note("abort")
		r.Abort()
		r.Ends(v1alpha1.RolloutAborted)
		s.Logf("%s to %s went back in %s", kind, to, time.Since(asked).Round(time.Second/10))
	})
	s.NoneLost(report, r.Events()...)
	if got := report.Versions(report.Start.Add(report.Took-time.Second), time.Time{}); len(got) != 1 || got[from] == 0 {
		s.Errorf("at the end, users get %v, want %s only", got, from)
		r.Tell()
	}
	if last, some := report.Last(func(a load.Answer) bool { return a.Who.Version == to }); some && kind == v1alpha1.StrategyBlueGreen {
		s.Logf("REL-04 the last answer of the new version came %s after going back was asked for", last.At.Sub(asked).Round(10*time.Millisecond))
		s.Expect(last.At.Sub(asked)).To(BeNumerically("<", switchWindow))
	}
	s.Expect(s.Condition(s.App, v1alpha1.ConditionReady)()).To(HavePrefix("True"), "what ran before runs")
}

// middle looks at what users get while a rollout waits.
func middle(s *journey.Shop, l *load.Load, kind v1alpha1.StrategyType, from, to string) {
	s.Helper()
	since := time.Now()
	s.Wait(3 * time.Second)
	report := l.Report()
	versions := report.Versions(since, time.Time{})
	s.Logf("in the middle of %s users get %v", kind, versions)
	switch kind {
	case v1alpha1.StrategyRollingUpdate, v1alpha1.StrategyRecreate:
		moved := map[string]bool{}
		for _, a := range report.Answers {
			if a.At.After(since) && a.Who.Version == to {
				moved[a.Who.Partition] = true
			}
		}
		s.Expect(moved).To(HaveLen(1), "one partition has moved")
		s.Expect(versions[from]).To(BeNumerically(">", 0))
	case v1alpha1.StrategyCanary:
		all := versions[from] + versions[to]
		s.Expect(100*versions[to]/max(all, 1)).To(BeNumerically("~", 60, 10), "of %d", all)
	default:
		s.Expect(versions).NotTo(HaveKey(to))
	}
}
