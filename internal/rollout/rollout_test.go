package rollout

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"yunfan.io/yunfan/api/v1alpha1"
)

var two = []string{"bj@beijing", "sh@shanghai"}

func TestREL02_RollingUpdateMovesAllPartitions(t *testing.T) {
	w := newWorld(t)
	w.clusters()
	w.serve()
	w.app("shop", two)
	o := w.comes(w.release("shop", "v2", []string{"bj", "sh"}, v1alpha1.Strategy{Type: v1alpha1.StrategyRollingUpdate}), v1alpha1.RolloutSucceeded)
	for _, partition := range []string{"bj", "sh"} {
		if diff := cmp.Diff([]string{"v1", "v2"}, w.history(partition)); diff != "" {
			t.Errorf("partition %s: %s", partition, diff)
		}
	}
	want := []v1alpha1.RolloutPartition{
		{Partition: "bj", Cluster: "beijing", Phase: v1alpha1.RolloutPartitionMoved}, {Partition: "sh", Cluster: "shanghai", Phase: v1alpha1.RolloutPartitionMoved},
	}
	if diff := cmp.Diff(want, o.Status.Partitions); diff != "" {
		t.Errorf("partitions: %s", diff)
	}
	if o.Status.StartTime == nil || o.Status.EndTime == nil || len(o.Status.Plan) == 0 || o.Status.Weight != 100 {
		t.Errorf("the status is not complete: %+v", o.Status)
	}
	run := w.run(o)
	if run.Spec.User == nil || run.Spec.User.Name != "yunfan:li" || len(run.Status.Steps) != 2 {
		t.Errorf("the run is for %v, with steps\n%s", run.Spec.User, w.steps(o))
	}
	if took := run.Status.FinishTime.Sub(run.Status.StartTime.Time); took > 0 {
		t.Logf("the run took %s, with %d versions", took, run.Generation)
	}
}
