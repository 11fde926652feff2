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
		"stop":              {Stop, false},
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
	if err := Rollback(app, w.revisions[first.Revision.Name]); err != nil {
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
	if err := Restart(app, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	second := w.carryOut(t)
	if version(second) != "bbb" {
		t.Errorf("restarting kept version %s", version(second))
	}
	c.Status.Version = "ccc"
	if err := Rollback(app, first.Revision); err != nil {
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
	c.DeletionTimestamp = ptr.To(metav1.Now())
	if _, err := w.plan(); err != nil {
		t.Errorf("the revision that runs keeps it: %v", err)
	}
	app.Spec.Version = "v2"
	_, err := w.plan()
	expect(t, err, v1alpha1.ReasonConfigurationNotFound, "no configuration tomcat-conf")
}

func TestActions(t *testing.T) {
	app := score("edu")
	cases := map[string]struct {
		err   error
		words string
	}{
		"unknown":  {Scale(app, "web", 1), "it has no component web, but db-service, score-record"},
		"which":    {Scale(app, "", 1), "name one of its components: db-service, score-record"},
		"negative": {Scale(app, "score-record", -1), "0 or more"},
		"restart":  {Restart(app, time.Now(), "nothing"), "no component nothing"},
		"rollback": {Rollback(app, &v1alpha1.ApplicationRevision{ObjectMeta: metav1.ObjectMeta{Namespace: "edu", Name: "x-1"}, Spec: v1alpha1.ApplicationRevisionSpec{Application: "x"}}), "belongs to application x"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			expectWords(t, tc.err, tc.words)
		})
	}
	if diff := cmp.Diff(score("edu"), app); diff != "" {
		t.Errorf("what is refused changes nothing\n%s", diff)
	}
	daemon := score("edu")
	web(daemon).Workload, web(daemon).Replicas = v1alpha1.WorkloadDaemonSet, nil
	expectWords(t, Scale(daemon, "score-record", 1), "a component of kind DaemonSet has no number of replicas")
	if err := Scale(daemon, "", 2); err != nil || *daemon.Spec.Components[0].Replicas != 2 {
		t.Errorf("the only component that can be scaled needs no name: %v", err)
	}
	Stop(app)
	if !app.Spec.Stopped {
		t.Error("not stopped")
	}
	Start(app)
	if app.Spec.Stopped {
		t.Error("not started")
	}
}

func TestRollbackKeepsPlacementAndReplicas(t *testing.T) {
	app := score("edu")
	app.Spec.Placement.Partitions[0].Overrides = []v1alpha1.Override{{Component: "score-record", Env: []corev1.EnvVar{{Name: "A", Value: "old"}}}}
	w := newWorld(app)
	first := w.carryOut(t)
	app.Spec.Placement.Partitions = append(app.Spec.Placement.Partitions, v1alpha1.PartitionChoice{Selector: &metav1.LabelSelector{}, Overrides: []v1alpha1.Override{{Component: "cache"}, {Component: "db-service"}}})
	app.Spec.Placement.Partitions[0].Overrides = nil
	app.Spec.Components = append(app.Spec.Components, v1alpha1.Component{Name: "cache"})
	web(app).Replicas, web(app).Placement = ptr.To[int32](4), v1alpha1.PlacementPriority
	if err := Rollback(app, first.Revision); err != nil {
		t.Fatal(err)
	}
	if len(app.Spec.Components) != 2 || *web(app).Replicas != 4 || web(app).Placement != v1alpha1.PlacementPriority {
		t.Errorf("components %+v", app.Spec.Components)
	}
	got := app.Spec.Placement.Partitions
	if len(got) != 3 || len(got[0].Overrides) != 1 || got[0].Overrides[0].Env[0].Value != "old" || *got[0].Weight != 7 {
		t.Errorf("overrides of a named partition come back: %+v", got[0])
	}
	if len(got[2].Overrides) != 1 || got[2].Overrides[0].Component != "db-service" {
		t.Errorf("overrides of a selector that still have a component stay: %+v", got[2])
	}
}
