package v1alpha1_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

// score is an application of a database and a web service.
func score() *v1alpha1.Application {
	return &v1alpha1.Application{
		ObjectMeta: metav1.ObjectMeta{Namespace: "edu", Name: "score"},
		Spec: v1alpha1.ApplicationSpec{
			Components: []v1alpha1.Component{
				{Name: "db-service", Workload: v1alpha1.WorkloadStatefulSet, Template: &corev1.PodTemplateSpec{}},
				{Name: "score-record", Workload: v1alpha1.WorkloadDeployment, Template: &corev1.PodTemplateSpec{}},
				{Name: "agent", Workload: v1alpha1.WorkloadDaemonSet, Template: &corev1.PodTemplateSpec{}},
				{Name: "ldap", Workload: v1alpha1.WorkloadExternal},
			},
		},
	}
}

func TestSCA01_Scale(t *testing.T) {
	app := score()
	if err := app.Scale("score-record", 3); err != nil || *app.Spec.Components[1].Replicas != 3 {
		t.Errorf("scaling: %v", err)
	}
	app.Spec.Components = app.Spec.Components[1:]
	if err := app.Scale("", 0); err != nil || *app.Spec.Components[0].Replicas != 0 {
		t.Errorf("the only component that can be scaled needs no name: %v", err)
	}
}

func TestRestart(t *testing.T) {
	app := score()
	if err := app.Restart(time.Unix(0, 0), "db-service"); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"1970-01-01T00:00:00Z", "", ""} {
		if got := app.Spec.Components[i].Template.Annotations[v1alpha1.AnnotationRestartedAt]; got != want {
			t.Errorf("%s: %q, want %q", app.Spec.Components[i].Name, got, want)
		}
	}
	if err := app.Restart(time.Unix(1, 0)); err != nil || app.Spec.Components[2].Template.Annotations == nil {
		t.Errorf("without a name all are restarted: %v", err)
	}
}

func TestActionsThatAreRefusedChangeNothing(t *testing.T) {
	app := score()
	foreign := &v1alpha1.ApplicationRevision{ObjectMeta: metav1.ObjectMeta{Namespace: "edu", Name: "x-1"}, Spec: v1alpha1.ApplicationRevisionSpec{Application: "x"}}
	cases := map[string]struct {
		err   error
		words string
	}{
		"unknown component": {app.Scale("web", 1), "it has no component web, but db-service, score-record"},
		"which component":   {app.Scale("", 1), "name one of its components: db-service, score-record"},
		"negative":          {app.Scale("score-record", -1), "0 or more"},
		"DaemonSet":         {app.Scale("agent", 1), "a component of kind DaemonSet has no number of replicas"},
		"restart unknown":   {app.Restart(time.Now(), "nothing"), "no component nothing with pods"},
		"restart External":  {app.Restart(time.Now(), "ldap"), "no component ldap with pods"},
		"foreign revision":  {app.RollBack(foreign), "belongs to application x"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.err == nil || !strings.Contains(tc.err.Error(), tc.words) {
				t.Errorf("want an error that says %q, got %v", tc.words, tc.err)
			}
		})
	}
	if diff := cmp.Diff(score(), app); diff != "" {
		t.Error(diff)
	}
}

func TestTPL02_RollBackKeepsPlacementAndReplicas(t *testing.T) {
	app := score()
	old := []v1alpha1.Override{{Component: "score-record", Env: []corev1.EnvVar{{Name: "A", Value: "old"}}}}
	to := &v1alpha1.ApplicationRevision{
		ObjectMeta: metav1.ObjectMeta{Namespace: "edu", Name: "score-1"},
		Spec: v1alpha1.ApplicationRevisionSpec{
			Application: "score", Version: "v1", Components: score().Spec.Components[:2],
			Overrides: []v1alpha1.PartitionOverrides{{Partition: "prod-bj", Overrides: old}},
		},
	}
	kept := to.DeepCopy()
	four, seven := int32(4), int32(7)
	app.Spec.Components[1].Replicas, app.Spec.Components[1].Placement = &four, v1alpha1.PlacementPriority
	app.Spec.Placement.Partitions = []v1alpha1.PartitionChoice{
		{Name: "prod-bj", Weight: &seven},
		{Name: "prod-sh", Overrides: []v1alpha1.Override{{Component: "score-record"}}},
		{Selector: &metav1.LabelSelector{}, Overrides: []v1alpha1.Override{{Component: "agent"}, {Component: "db-service"}}},
	}
	if err := app.RollBack(to); err != nil {
		t.Fatal(err)
	}
	want := to.DeepCopy().Spec.Components
	want[1].Replicas, want[1].Placement = &four, v1alpha1.PlacementPriority
	if diff := cmp.Diff(want, app.Spec.Components); diff != "" {
		t.Error(diff)
	}
	choices := []v1alpha1.PartitionChoice{
		{Name: "prod-bj", Weight: &seven, Overrides: old}, {Name: "prod-sh"},
		// A selector's overrides stay, as far as the revision has their component.
		{Selector: &metav1.LabelSelector{}, Overrides: []v1alpha1.Override{{Component: "db-service"}}},
	}
	if diff := cmp.Diff(choices, app.Spec.Placement.Partitions); diff != "" {
		t.Error(diff)
	}
	if app.Spec.Version != "v1" || app.Annotations[v1alpha1.AnnotationRollbackTo] != "score-1" {
		t.Errorf("version %s, annotations %v", app.Spec.Version, app.Annotations)
	}
	if diff := cmp.Diff(kept, to); diff != "" {
		t.Errorf("the revision itself was changed\n%s", diff)
	}
}
