package application

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

func TestDEP03_PlanSpreadsAndExplains(t *testing.T) {
	p, err := newWorld(score("edu")).plan()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]map[string]int32{}
	for _, d := range p.Deliveries {
		got[d.Name] = d.Spec.Tracks[0].Replicas
		if d.Labels[v1alpha1.LabelCluster] != d.Spec.Cluster || d.Labels[v1alpha1.LabelPartition] != d.Spec.Partition || d.Labels[v1alpha1.LabelApplication] != "score" {
			t.Errorf("labels %v", d.Labels)
		}
	}
	want := map[string]map[string]int32{
		"score.prod-bj": {"score-record": 7, "db-service": 1},
		"score.prod-sh": {"score-record": 3, "db-service": 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"db-service 1 in each partition", "score-record 7 of 10 by weight 7/10"}, p.Assignments[0].Explanation); diff != "" {
		t.Error(diff)
	}
}

func TestWhatMakesANewRevision(t *testing.T) {
	cases := map[string]struct {
		change func(*v1alpha1.Application)
		want   bool
	}{
		"nothing":           {func(*v1alpha1.Application) {}, false},
		"SCA-01 replicas":   {func(a *v1alpha1.Application) { web(a).Replicas = ptr.To[int32](3) }, false},
		"stop":              {func(a *v1alpha1.Application) { a.Spec.Stopped = true }, false},
		"weights":           {func(a *v1alpha1.Application) { a.Spec.Placement.Partitions[0].Weight = ptr.To[int32](1) }, false},
		"fewer partitions":  {func(a *v1alpha1.Application) { a.Spec.Placement.Partitions = a.Spec.Placement.Partitions[:1] }, false},
		"component policy":  {func(a *v1alpha1.Application) { web(a).Placement = v1alpha1.PlacementDuplicated }, false},
		"description":       {func(a *v1alpha1.Application) { a.Spec.Description = "other" }, false},
		"TPL-02 version":    {func(a *v1alpha1.Application) { a.Spec.Version = "v2" }, true},
		"image":             {func(a *v1alpha1.Application) { web(a).Template.Spec.Containers[0].Image = "v2" }, true},
		"override":          {override(v1alpha1.Override{Component: "score-record", Images: map[string]string{"web": "x"}}), true},
		"order of starting": {func(a *v1alpha1.Application) { web(a).DependsOn = nil }, true},
	}
	base, err := newWorld(score("edu")).plan()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			app := score("edu")
			tc.change(app)
			p, err := newWorld(app).plan()
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Revision.Name != base.Revision.Name; got != tc.want {
				t.Errorf("new revision: %v, want %v", got, tc.want)
			}
		})
	}
}

func TestRevisionIsTheSameHoweverItIsWritten(t *testing.T) {
	hash := func(cpu string) string {
		t.Helper()
		text := `[{"name":"a","template":{"spec":{"containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":` + cpu + `}}}]}}}]`
		var components []v1alpha1.Component
		if err := json.Unmarshal([]byte(text), &components); err != nil {
			t.Fatal(err)
		}
		h, err := hashOf(v1alpha1.ApplicationRevisionSpec{Components: components})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	if a, b, c := hash(`"0.1"`), hash(`"100m"`), hash(`0.1`); a != b || b != c {
		t.Errorf("one tenth of a core is three revisions: %s %s %s", a, b, c)
	}
}

// TestHashIsStable keeps revisions named as they are over new versions of the libraries: another name would be another
// revision of every application at the upgrade.
func TestHashIsStable(t *testing.T) {
	q := resource.MustParse("100m")
	h, err := hashOf(v1alpha1.ApplicationRevisionSpec{Application: "score", Number: 7, Version: "v1", Components: []v1alpha1.Component{{
		Name: "web", Workload: v1alpha1.WorkloadDeployment,
		Template: &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "i",
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: q}}}}},
		},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if want := "a6fed4c698"; h != want {
		t.Errorf("hash %s, want %s", h, want)
	}
}

func TestTPL02_SameContentIsTheSameRevision(t *testing.T) {
	app := score("edu")
	w := newWorld(app)
	first := w.carryOut(t)
	app.Spec.Version, web(app).Template.Spec.Containers[0].Image = "v2", "v2"
	second := w.carryOut(t)
	if first.Revision.Spec.Number != 1 || second.Revision.Spec.Number != 2 {
		t.Errorf("numbers %d and %d", first.Revision.Spec.Number, second.Revision.Spec.Number)
	}
	if err := app.RollBack(w.revisions[first.Revision.Name]); err != nil {
		t.Fatal(err)
	}
	third := w.carryOut(t)
	if third.Revision.Name != first.Revision.Name || third.Revision.Spec.Number != 1 {
		t.Errorf("rolling back made revision %s number %d", third.Revision.Name, third.Revision.Spec.Number)
	}
}

func withConfiguration(app *v1alpha1.Application, w *world) *v1alpha1.Configuration {
	c := &v1alpha1.Configuration{
		ObjectMeta: metav1.ObjectMeta{Name: "tomcat-conf"},
		Spec:       v1alpha1.ConfigurationSpec{Type: v1alpha1.ConfigurationConfigMap, Publication: v1alpha1.PublicationAll},
		Status:     v1alpha1.ConfigurationStatus{Version: "aaa"},
	}
	web(app).Configurations = []v1alpha1.ConfigurationUse{{Name: c.Name, MountPath: "/config-center"}}
	w.configurations[c.Name] = c
	return c
}

func TestCFG02_ARunningApplicationKeepsItsVersions(t *testing.T) {
	app := score("edu")
	w := newWorld(app)
	c := withConfiguration(app, w)
	version := func(p *Plan) string { return p.Revision.Spec.Configurations[0].Version }
	first := w.carryOut(t)

	c.Status.Version = "bbb"
	web(app).Replicas = ptr.To[int32](4)
	if p := w.carryOut(t); version(p) != "aaa" || p.Revision.Name != first.Revision.Name {
		t.Errorf("scaling took up version %s", version(p))
	}
	app.Spec.Placement.Partitions[1].Overrides = []v1alpha1.Override{{Component: "db-service", Env: []corev1.EnvVar{{Name: "A", Value: "1"}}}}
	if p := w.carryOut(t); version(p) != "aaa" {
		t.Errorf("an override took up version %s", version(p))
	}
	if err := app.Restart(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	second := w.carryOut(t)
	if version(second) != "bbb" {
		t.Errorf("restarting kept version %s", version(second))
	}
	c.Status.Version = "ccc"
	if err := app.RollBack(first.Revision); err != nil {
		t.Fatal(err)
	}
	if p := w.carryOut(t); version(p) != "aaa" || p.Revision.Name != first.Revision.Name {
		t.Errorf("rolling back took version %s, revision %s", version(p), p.Revision.Name)
	}
	web(app).Template.Spec.Containers[0].Image = "v3"
	if p := w.carryOut(t); version(p) != "ccc" {
		t.Errorf("a change after the rollback took version %s", version(p))
	}
}

func TestCFG04_OnlyPublishedConfigurationsCanBeChosen(t *testing.T) {
	app := score("edu")
	w := newWorld(app)
	c := withConfiguration(app, w)
	c.Spec.Publication = v1alpha1.PublicationNone
	_, err := w.plan()
	expect(t, err, v1alpha1.ReasonConfigurationNotFound, "not published to partition prod-bj", "not published to partition prod-sh")

	c.Spec.Publication, c.Spec.Partitions = v1alpha1.PublicationSelected, []string{"prod-bj"}
	_, err = w.plan()
	expect(t, err, v1alpha1.ReasonConfigurationNotFound, "not published to partition prod-sh: publish it there")

	c.Spec.Partitions = []string{"prod-bj", "prod-sh"}
	w.carryOut(t)
	c.Spec.Publication = v1alpha1.PublicationNone
	if _, err := w.plan(); err != nil {
		t.Errorf("what runs is not taken away: %v", err)
	}
}

func TestConfigurationThatIsNotStoredYet(t *testing.T) {
	app := score("edu")
	w := newWorld(app)
	c := withConfiguration(app, w)
	c.Status.Version = ""
	_, err := w.plan()
	var waiting *reconcile.Waiting
	if !errors.As(err, &waiting) || stalled(err) {
		t.Errorf("that takes a moment only and is no reason to refuse: %v", err)
	}
	c.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonInvalid}}
	_, err = w.plan()
	expect(t, err, v1alpha1.ReasonConfigurationNotFound, "its status says why")
}

func TestConfigurationUnderDeletion(t *testing.T) {
	app := score("edu")
	w := newWorld(app)
	c := withConfiguration(app, w)
	w.carryOut(t)
	c.DeletionTimestamp = new(metav1.Now())
	if _, err := w.plan(); err != nil {
		t.Errorf("the revision that runs keeps it: %v", err)
	}
	app.Spec.Version = "v2"
	_, err := w.plan()
	expect(t, err, v1alpha1.ReasonConfigurationNotFound, "no configuration tomcat-conf")
}
