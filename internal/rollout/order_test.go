package rollout

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/testkit"
)

// lose lets a cluster answer no more, as far as the hub knows, or answer again.
func (w *world) lose(cluster string, lost bool) {
	w.Helper()
	c := &v1alpha1.Cluster{}
	err := hub.Client.Get(w.Context(), client.ObjectKey{Name: cluster}, c)
	if client.IgnoreNotFound(err) != nil {
		w.Fatal(err)
	}
	if err != nil {
		c = &v1alpha1.Cluster{
			ObjectMeta: metav1.ObjectMeta{Name: cluster},
			Spec:       v1alpha1.ClusterSpec{Connection: v1alpha1.ClusterConnection{KubeconfigSecretRef: &v1alpha1.SecretReference{Name: "x"}}},
		}
		testkit.Create(w.T, hub.Client, c)
		w.Cleanup(func() { _ = hub.Client.Delete(context.Background(), c) })
	}
	status := metav1.ConditionTrue
	if lost {
		status = metav1.ConditionFalse
	}
	c.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: status, Reason: "Test", LastTransitionTime: metav1.Now()}}
	NewWithT(w.T).Expect(hub.Client.Status().Update(w.Context(), c)).To(Succeed())
}

func TestUnreachableClusterDoesNotHoldUpTheOthers(t *testing.T) {
	for name, tc := range map[string]struct {
		reason   string
		strategy v1alpha1.Strategy
		broken   bool
		phase    v1alpha1.RolloutPhase
		away     string
		later    string
		end      v1alpha1.RolloutPartitionPhase
	}{
		"in place": {"it gets the revision that has won", v1alpha1.Strategy{}, false, v1alpha1.RolloutSucceeded, "v2 closed until healthy", "v2", v1alpha1.RolloutPartitionMoved},
		"partition-wise": {
			"it is not waited for when it is its turn", partitionWise, false, v1alpha1.RolloutSucceeded, "v2 closed until healthy", "v2", v1alpha1.RolloutPartitionMoved,
		},
		"side by side": {
			"one track is enough for what comes later", v1alpha1.Strategy{Type: v1alpha1.StrategyBlueGreen}, false, v1alpha1.RolloutSucceeded, "v2 closed until healthy", "v2", v1alpha1.RolloutPartitionMoved,
		},
		"failed": {"the old one has won", v1alpha1.Strategy{}, true, v1alpha1.RolloutFailed, "v1 closed until healthy", "v1", v1alpha1.RolloutPartitionReturned},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			away := testkit.Name(t)
			w.clusters()
			w.serve()
			w.lose(away, true)
			w.set(func() { w.broken["shop-v2"] = tc.broken })
			w.set(func() { w.held["sh"] = true })
			w.app("shop", []string{"bj@beijing", "sh@" + away})
			o := w.comes(w.release("shop", "v2", []string{"bj", "sh"}, tc.strategy), tc.phase)
			if got := short(&specOf(t, w.tenant, "shop", "sh").Spec); got != tc.away {
				t.Errorf("%s: the partition that is away is to be %q, not %q", tc.reason, tc.away, got)
			}
			if p := o.Status.Partitions[1]; p.Phase != v1alpha1.RolloutPartitionUnreachable {
				t.Errorf("%s: it is told as %s", tc.reason, p.Phase)
			}
			w.lose(away, false)
			w.set(func() { w.held["sh"] = false })
			NewWithT(t).Eventually(func(g Gomega) {
				g.Expect(short(&specOf(t, w.tenant, "shop", "sh").Spec)).To(Equal(tc.later))
				g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o)).To(Succeed())
				g.Expect(o.Status.Partitions[1].Phase).To(Equal(tc.end))
			}, patience, "50ms").Should(Succeed(), tc.reason)
		})
	}
}

func TestNoClusterAnswers(t *testing.T) {
	w := newWorld(t)
	away := testkit.Name(t)
	w.clusters()
	w.serve()
	w.lose(away, true)
	w.app("shop", []string{"sh@" + away})
	o := w.release("shop", "v2", []string{"sh"}, v1alpha1.Strategy{})
	w.reaches(o, "upgrade")
	NewWithT(t).Consistently(func() []string { return w.history("sh") }, "500ms", "50ms").Should(Equal([]string{"v1"}))
	w.lose(away, false)
	w.comes(o, v1alpha1.RolloutSucceeded)
}

func TestNewerRolloutReplacesTheOneThatRuns(t *testing.T) {
	w := newWorld(t)
	w.clusters()
	w.serve()
	w.app("shop", two)
	first := w.release("shop", "v2", []string{"bj", "sh"}, v1alpha1.Strategy{Type: v1alpha1.StrategyBlueGreen, BlueGreen: &v1alpha1.BlueGreenStrategy{Keep: moment(time.Hour)}})
	w.reaches(first, "keep")
	second := w.release("shop", "v3", []string{"bj", "sh"}, v1alpha1.Strategy{WhileRunning: v1alpha1.WhileRunningReplace})
	w.comes(second, v1alpha1.RolloutSucceeded)
	w.comes(first, v1alpha1.RolloutAborted)
	if diff := cmp.Diff([]string{"v1", "v1+v2/v2 0%", "v1+v2/v2 100%", "v1+v2/v2 0%", "v1", "v3"}, w.history("bj")); diff != "" {
		t.Errorf("the partition: %s", diff)
	}
}

func TestOnlyTheNewestOfThoseThatWaitBegins(t *testing.T) {
	w := newWorld(t)
	w.clusters()
	w.serve()
	w.app("shop", two)
	first := w.release("shop", "v2", []string{"bj", "sh"}, v1alpha1.Strategy{Type: v1alpha1.StrategyBlueGreen, BlueGreen: &v1alpha1.BlueGreenStrategy{Keep: moment(2 * time.Second)}})
	w.reaches(first, "keep")
	wait := v1alpha1.Strategy{WhileRunning: v1alpha1.WhileRunningWait}
	second := w.comes(w.release("shop", "v3", []string{"bj", "sh"}, wait), v1alpha1.RolloutPending)
	third := w.release("shop", "v1", []string{"bj", "sh"}, wait)
	w.comes(second, v1alpha1.RolloutAborted)
	w.comes(first, v1alpha1.RolloutSucceeded)
	w.comes(third, v1alpha1.RolloutSucceeded)
	if diff := cmp.Diff([]string{"v1", "v1+v2/v2 0%", "v1+v2/v2 100%", "v2/v2", "v1/v2"}, w.history("bj")); diff != "" {
		t.Errorf("the partition: %s", diff)
	}
}

func TestREL09_TooLittleQuotaRefusesBeforeAnyChange(t *testing.T) {
	w := newWorld(t)
	w.clusters()
	var asked map[string]map[string]int32
	w.serve(func(o *Options) {
		o.CheckQuota = func(_ context.Context, _ *v1alpha1.ApplicationRevision, replicas map[string]map[string]int32) error {
			asked = replicas
			return errors.New("partition bj: pods: 4 wanted, 3 left")
		}
	})
	w.app("shop", two)
	o := w.comes(w.release("shop", "v2", []string{"bj", "sh"}, v1alpha1.Strategy{Type: v1alpha1.StrategyBlueGreen}), v1alpha1.RolloutRefused)
	if diff := cmp.Diff([]string{"bj=v1", "sh=v1"}, sortedLines(w.history(""))); diff != "" {
		t.Errorf("something was changed: %s", diff)
	}
	if diff := cmp.Diff(map[string]map[string]int32{"bj": {"web": 2}, "sh": {"web": 2}}, asked); diff != "" {
		t.Errorf("it asked for another number of pods: %s", diff)
	}
	if w.run(o).Name != "" || o.Status.Message == "" {
		t.Errorf("there is a run, or no reason: %q", o.Status.Message)
	}
}

func sortedLines(lines []string) []string {
	set := map[string]bool{}
	for _, line := range lines {
		set[line] = true
	}
	return sorted(set)
}

func TestREL08_WavesWithStablePeriodAndAbortBetween(t *testing.T) {
	w := newWorld(t)
	w.clusters()
	w.serve()
	w.app("shop", []string{"a@one", "b@two", "c@three"})
	strategy := v1alpha1.Strategy{Order: v1alpha1.RolloutOrder{Waves: []v1alpha1.RolloutWave{{Clusters: []string{"one"}}}, StablePeriod: moment(time.Second)}}
	o := w.comes(w.release("shop", "v2", []string{"a", "b", "c"}, strategy), v1alpha1.RolloutSucceeded)
	at := map[string]time.Time{}
	for _, st := range w.run(o).Status.Steps {
		at[st.Name] = st.StartTime.Time
	}
	if gap := at["upgrade-wave-2"].Sub(at["upgrade-wave-1"]); gap < time.Second {
		t.Errorf("the other clusters followed after %s", gap)
	}
	w.app("mail", []string{"d@one", "e@two", "f@three"})
	strategy.Order.StablePeriod = moment(time.Hour)
	o = w.release("mail", "v2", []string{"d", "e", "f"}, strategy)
	w.reaches(o, "stable-wave-1")
	w.abort(o)
	w.comes(o, v1alpha1.RolloutAborted)
	if diff := cmp.Diff([]string{"v1", "v2", "v1"}, w.history("d")); diff != "" {
		t.Errorf("the first cluster: %s", diff)
	}
	if diff := cmp.Diff([]string{"v1"}, w.history("e")); diff != "" {
		t.Errorf("the second cluster: %s", diff)
	}
}

func TestREL01_NoticeIsSentBeforeItBegins(t *testing.T) {
	w := newWorld(t)
	w.clusters()
	w.serve()
	w.app("shop", two)
	o := w.release("shop", "v2", []string{"bj", "sh"}, v1alpha1.Strategy{Type: v1alpha1.StrategyRecreate, Notice: &v1alpha1.RolloutNotice{Receivers: []string{"ops"}, Scope: "logins", Ahead: moment(time.Hour)}})
	w.reaches(o, "ahead")
	w.set(func() {
		if len(w.messages) != 1 || w.messages[0].Data["text"] == "" || len(w.messages[0].To) < 4 {
			t.Errorf("nobody was told: %+v", w.messages)
		}
	})
	if diff := cmp.Diff([]string{"bj=v1", "sh=v1"}, sortedLines(w.history(""))); diff != "" {
		t.Errorf("it began before the time: %s", diff)
	}
	w.abort(o)
	w.comes(o, v1alpha1.RolloutAborted)
}

func TestAUD03_EachStepHasStartEndActorAndResult(t *testing.T) {
	w := newWorld(t)
	w.clusters()
	w.serve()
	w.app("shop", two)
	o := w.comes(w.release("shop", "v2", []string{"bj", "sh"}, partitionWise), v1alpha1.RolloutSucceeded)
	for _, st := range w.run(o).Status.Steps {
		if st.StartTime == nil || st.FinishTime == nil || st.Actor != "yunfan:li" || st.Phase != v1alpha1.StepSucceeded {
			t.Errorf("step %s: %+v", st.Name, st)
		}
	}
}

// Whoever aborts a rollout while its first step has moved half of the partitions gets all of them back.
func TestBeginningIsTakenBack(t *testing.T) {
	w := newWorld(t)
	w.app("shop", two)
	o := w.release("shop", "v2", []string{"bj", "sh"}, v1alpha1.Strategy{})
	r := &Rollouts{Options: Options{Traffic: w}, client: hub.Client, reader: hub.Client}
	for _, a := range r.Actions() {
		if b, ok := a.(*beginning); ok {
			call := &action.Call{
				Run: types.NamespacedName{Namespace: w.tenant, Name: "run"}, Started: time.Now(), Log: t.Logf, Fence: func(context.Context) error { return nil },
				Inputs: with("rollout", o.Name, "uid", string(o.UID), "partitions", []string{"bj"}, "moves", true),
			}
			out, err := b.Run(t.Context(), call)
			if moved := short(&specOf(t, w.tenant, "shop", "bj").Spec); err != nil || !out.Done || moved != "v2" {
				t.Fatalf("beginning: %+v, %v, at %s", out, err, moved)
			}
			if out, err = b.Stop(t.Context(), call); err != nil || !out.Done {
				t.Fatalf("taking it back: %+v, %v", out, err)
			}
		}
	}
	if back := short(&specOf(t, w.tenant, "shop", "bj").Spec); back != "v1" {
		t.Errorf("the partition is at %s", back)
	}
}
