package rollout

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

func TestPartitionsThatARunHasTouched(t *testing.T) {
	f := situations()["three partitions"]
	p, err := compile(&v1alpha1.Rollout{Spec: v1alpha1.RolloutSpec{Strategy: v1alpha1.Strategy{Type: v1alpha1.StrategyRecreate}}}, &f)
	if err != nil {
		t.Fatal(err)
	}
	run := &v1alpha1.WorkflowRun{Spec: v1alpha1.WorkflowRunSpec{Definition: &p.definition, Inputs: p.inputs}}
	for i := range p.definition.Steps {
		st := v1alpha1.StepStatus{Name: p.definition.Steps[i].Name}
		if i <= 2 { // notice, begin, close
			now := metav1.NowMicro()
			st.StartTime = &now
		}
		run.Status.Steps = append(run.Status.Steps, st)
	}
	if diff := cmp.Diff(map[string]bool{"bj1": true}, touched(run)); diff != "" {
		t.Errorf("only the first partition was closed: %s", diff)
	}
}
