package application

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientrest "k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

// guarded is a tenant whose partition prod-bj asks for approval.
func guarded(t *testing.T) *tenant {
	t.Helper()
	tn := newTenant(t)
	tn.guard("prod-bj", v1alpha1.ReleaseApprovalRequired)
	return tn
}

func (t *tenant) guard(partition string, approval v1alpha1.ReleaseApproval) {
	t.Helper()
	p := newPartition(t.namespace, partition, "")
	change(t, p, func() { p.Spec.ReleaseApproval = approval })
}

// by is the application as li has written it: admission of a real hub says so.
func by(name string, app *v1alpha1.Application) *v1alpha1.Application {
	metav1.SetMetaDataAnnotation(&app.ObjectMeta, v1alpha1.AnnotationChangedBy, "yunfan:"+name)
	return app
}

// image makes a new revision, as somebody.
func (t *tenant) image(app *v1alpha1.Application, who, image string) {
	t.Helper()
	change(t, app, func() { web(by(who, app)).Template.Spec.Containers[0].Image = image })
}

// release waits for the release to be in a phase and to say something, and gives its run.
func (t *tenant) release(app *v1alpha1.Application, revision string, phase v1alpha1.ReleasePhase, words ...string) *v1alpha1.WorkflowRun {
	t.Helper()
	run := &v1alpha1.WorkflowRun{}
	NewWithT(t).Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(app), app)).To(Succeed())
		g.Expect(app.Status.Release).NotTo(BeNil())
		g.Expect(app.Status.Release.Revision).To(Equal(revision))
		g.Expect(app.Status.Release.Phase).To(Equal(phase))
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKey{Namespace: t.namespace, Name: app.Status.Release.Run}, run)).To(Succeed())
		for _, word := range words {
			g.Expect(app.Status.Release.Message).To(ContainSubstring(word))
		}
	}, wait).Should(Succeed())
	return run
}

// ends plays the engine's part.
func (t *tenant) ends(run *v1alpha1.WorkflowRun, phase v1alpha1.RunPhase, step v1alpha1.StepStatus) {
	t.Helper()
	step.Name = stepApprove
	changeStatus(t, run, func() { run.Status.Phase, run.Status.Steps = phase, []v1alpha1.StepStatus{step} })
}

func (t *tenant) approve(run *v1alpha1.WorkflowRun, by string) {
	t.Helper()
	t.ends(run, v1alpha1.RunSucceeded, v1alpha1.StepStatus{Phase: v1alpha1.StepSucceeded, Outputs: map[string]json.RawMessage{"by": json.RawMessage(`["` + by + `"]`)}})
}

// runs of the tenant, by name.
func (t *tenant) runs() map[string]*v1alpha1.WorkflowRun {
	t.Helper()
	var list v1alpha1.WorkflowRunList
	if err := hub.Client.List(t.Context(), &list, client.InNamespace(t.namespace)); err != nil {
		t.Fatal(err)
	}
	all := map[string]*v1alpha1.WorkflowRun{}
	for i := range list.Items {
		all[list.Items[i].Name] = &list.Items[i]
	}
	return all
}

// nothing says that there is no delivery.
func (t *tenant) nothing(application, partition string) {
	t.Helper()
	NewWithT(t).Consistently(func() error {
		d := t.delivery(application, partition)
		return hub.Client.Get(t.Context(), client.ObjectKeyFromObject(d), d)
	}, "500ms").Should(MatchError(ContainSubstring("not found")))
}

func replicas(web int32) map[string]int32 {
	return map[string]int32{"db-service": 1, "score-record": web}
}

func TestDEP07_ReleaseWaitsForApproval(t *testing.T) {
	g := NewWithT(t)
	tn := guarded(t)
	app := tn.create(by("li", score(tn.namespace)))
	first := tn.revision(app, "")
	tn.delivered("score", "prod-sh", first, replicas(3))
	tn.nothing("score", "prod-bj")
	run := tn.release(app, first, v1alpha1.ReleaseWaiting, "an Admin of tenant "+tn.namespace+" other than li", "platform administrator")
	tn.becomes(app, v1alpha1.ReasonWaitingForApproval, "prod-bj: revision "+first+" waits for approval", "yunfan approve "+run.Name)
	g.Expect(meta.IsStatusConditionTrue(app.Status.Conditions, v1alpha1.ConditionProgressing)).To(BeTrue())
	g.Expect(app.Status.Release.Partitions).To(Equal([]string{"prod-bj"}))
	g.Expect(app.Status.Placements).To(HaveLen(2))
	g.Expect(run.Spec.User).To(Equal(&v1alpha1.Actor{Name: "yunfan:li"}))
	g.Expect(run.Labels).To(HaveKeyWithValue(v1alpha1.LabelMadeBy, v1alpha1.MadeByPlatform))
	g.Expect(run.Spec.Definition.Steps[0].Action).To(Equal("approve"))
	g.Expect(string(run.Spec.Definition.Steps[0].With["roles"])).To(Equal(`["Admin"]`))
	g.Expect(string(run.Spec.Definition.Steps[0].With["subject"])).To(ContainSubstring("version v1, revision " + first + ", to prod-bj. It is the first there."))

	tn.approve(run, "wang")
	tn.delivered("score", "prod-bj", first, replicas(7))
	tn.becomes(app, v1alpha1.ReasonReady)
	tn.release(app, first, v1alpha1.ReleaseApproved)
	g.Expect(app.Status.Release.By).To(Equal([]string{"wang"}))

	tn.image(app, "zhao", "web:v2")
	second := tn.revision(app, first)
	tn.delivered("score", "prod-sh", second, replicas(3))
	run = tn.release(app, second, v1alpha1.ReleaseWaiting, "other than zhao")
	g.Expect(string(run.Spec.Definition.Steps[0].With["subject"])).To(ContainSubstring("component score-record with image web:v2 instead of with image registry.yunfan.internal/score-record:v1"))
	tn.delivered("score", "prod-bj", first, replicas(7))
	tn.becomes(app, v1alpha1.ReasonWaitingForApproval)

	t.Run("scale, stop and start meanwhile", func(t *testing.T) {
		change(tn, app, func() { g.Expect(by("sun", app).Scale("score-record", 20)).To(Succeed()) })
		tn.delivered("score", "prod-bj", first, replicas(14))
		tn.delivered("score", "prod-sh", second, replicas(6))
		change(tn, app, func() { app.Spec.Stopped = true })
		stopped := func() bool {
			d := tn.delivery("score", "prod-bj")
			g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(d), d)).To(Succeed())
			g.Expect(d.Spec.Tracks[0].Revision).To(Equal(first))
			return d.Spec.Stopped
		}
		g.Eventually(stopped, wait).Should(BeTrue())
		change(tn, app, func() { app.Spec.Stopped = false })
		g.Eventually(stopped, wait).Should(BeFalse())
		same := tn.release(app, second, v1alpha1.ReleaseWaiting, "other than zhao")
		g.Expect(same.UID).To(Equal(run.UID), "the one who made the change is still he who made the revision")
	})
	tn.approve(run, "wang")
	tn.delivered("score", "prod-bj", second, replicas(14))

	t.Run("back to what was approved", func(t *testing.T) {
		before := len(tn.runs())
		tn.image(app, "li", "registry.yunfan.internal/score-record:v1")
		g.Expect(tn.revision(app, second)).To(Equal(first))
		tn.delivered("score", "prod-bj", first, replicas(14))
		tn.delivered("score", "prod-sh", first, replicas(6))
		tn.becomes(app, v1alpha1.ReasonReady)
		g.Expect(tn.runs()).To(HaveLen(before), "it needs no other approval")
	})
}

func TestDEP07_Rejected(t *testing.T) {
	g := NewWithT(t)
	tn := newTenant(t)
	app := tn.create(by("li", score(tn.namespace)))
	first := tn.revision(app, "")
	tn.delivered("score", "prod-bj", first, replicas(7))
	tn.delivered("score", "prod-sh", first, replicas(3))
	tn.becomes(app, v1alpha1.ReasonReady)
	tn.guard("prod-bj", v1alpha1.ReleaseApprovalRequired)
	change(tn, app, func() { g.Expect(app.Scale("score-record", 20)).To(Succeed()) })
	tn.delivered("score", "prod-bj", first, replicas(14))
	g.Expect(tn.runs()).To(BeEmpty(), "what runs there already needs no approval")

	tn.image(app, "li", "web:v2")
	second := tn.revision(app, first)
	rejected := tn.release(app, second, v1alpha1.ReleaseWaiting)
	tn.ends(rejected, v1alpha1.RunFailed, v1alpha1.StepStatus{Phase: v1alpha1.StepFailed, Message: "rejected by wang: not before Monday"})
	tn.delivered("score", "prod-sh", second, replicas(6))
	tn.becomes(app, v1alpha1.ReasonApprovalRejected, "rejected by wang: not before Monday", "Change the application to ask again")
	g.Expect(meta.IsStatusConditionTrue(app.Status.Conditions, v1alpha1.ConditionProgressing)).To(BeFalse())
	tn.delivered("score", "prod-bj", first, replicas(14))

	t.Run("the run goes into the records", func(t *testing.T) {
		change(tn, rejected, func() { rejected.Finalizers = nil })
		g.Expect(hub.Client.Delete(t.Context(), rejected)).To(Succeed())
		change(tn, app, func() { g.Expect(app.Scale("score-record", 10)).To(Succeed()) })
		tn.delivered("score", "prod-bj", first, replicas(7))
		tn.becomes(app, v1alpha1.ReasonApprovalRejected, "not before Monday")
		g.Expect(tn.runs()).To(BeEmpty(), "a number of replicas asks for nothing")
	})
	tn.image(app, "li", "web:v3")
	third := tn.revision(app, second)
	superseded := tn.release(app, third, v1alpha1.ReleaseWaiting)
	tn.image(app, "li", "web:v2")
	again := tn.release(app, second, v1alpha1.ReleaseWaiting)
	g.Expect(again.Name).NotTo(Equal(rejected.Name), "it was changed back: that asks anew")
	g.Expect(tn.runs()[superseded.Name].Spec.Aborted).To(BeTrue())
	g.Expect(tn.runs()[superseded.Name].Spec.Reason).To(ContainSubstring("has taken its place"))

	tn.image(app, "li", "registry.yunfan.internal/score-record:v1")
	tn.delivered("score", "prod-sh", first, replicas(3))
	tn.becomes(app, v1alpha1.ReasonReady)
	g.Expect(app.Status.Release).To(BeNil())
	g.Eventually(func() bool { return tn.runs()[again.Name].Spec.Aborted }, wait).Should(BeTrue(), "what runs there is what is wanted")
}

func TestDEP07_ApprovalOfSomethingElseDoesNotCount(t *testing.T) {
	g := NewWithT(t)
	tn := guarded(t)
	app := score(tn.namespace)
	app.Generation = 0
	app.Spec.Placement.Partitions = app.Spec.Placement.Partitions[:1]
	complete := app.DeepCopy()
	g.Expect(hub.Client.Create(t.Context(), complete, client.DryRunAll)).To(Succeed(), "with defaults")
	plan, err := NewPlan(t.Context(), hub.Client, complete)
	g.Expect(err).NotTo(HaveOccurred())
	// Somebody has taken the name of the run, with steps that nobody need approve.
	foreign := &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: tn.namespace, Name: runName(plan.Revision, 1, 1)},
		Spec:       v1alpha1.WorkflowRunSpec{Definition: &v1alpha1.WorkflowSpec{Steps: []v1alpha1.WorkflowStep{{Name: stepApprove, Action: "wait"}}}},
	}
	testkit.Create(t, hub.Client, foreign)
	tn.approve(foreign, "mallory")
	app = tn.create(by("li", app))
	var run *v1alpha1.WorkflowRun
	g.Eventually(func() string {
		run = tn.release(app, plan.Revision.Name, v1alpha1.ReleaseWaiting)
		return run.Name
	}, wait).Should(Equal(runName(plan.Revision, 1, 2)))
	tn.nothing("score", "prod-bj")

	t.Run("another content", func(t *testing.T) {
		digest, err := digestOf(plan.Revision)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(isReleaseOf(run, app, digest)).To(BeTrue())
		other := plan.Revision.DeepCopy()
		other.Spec.Components[1].Template.Spec.Containers[0].Image = "evil"
		digest, err = digestOf(other)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(isReleaseOf(run, app, digest)).To(BeFalse())
	})
	t.Run("another application of the same name", func(t *testing.T) {
		w := newWorld(app)
		w.partitions[0].Spec.ReleaseApproval = v1alpha1.ReleaseApprovalRequired
		w.app.Status.Release = nil
		revision := plan.Revision.DeepCopy()
		revision.Annotations = map[string]string{v1alpha1.AnnotationApproved: "another-uid " + run.Name}
		g.Expect(w.approved(revision)).To(BeFalse())
		revision.Annotations = map[string]string{v1alpha1.AnnotationApproved: string(app.UID) + " " + run.Name}
		g.Expect(w.approved(revision)).To(BeTrue())
	})
	t.Run("the application is deleted", func(t *testing.T) {
		g.Expect(hub.Client.Delete(t.Context(), app)).To(Succeed())
		g.Eventually(func() bool { return tn.runs()[run.Name].Spec.Aborted }, wait).Should(BeTrue())
		g.Expect(tn.runs()[foreign.Name].Spec.Aborted).To(BeFalse())
	})
}

func TestDEP07_WhoAsksMustBeKnown(t *testing.T) {
	tn := guarded(t)
	app := tn.create(score(tn.namespace))
	tn.becomes(app, v1alpha1.ReasonWaitingForApproval, "nobody knows who made the change", "write your own name into the annotation yunfan.io/changed-by")
	NewWithT(t).Expect(tn.runs()).To(BeEmpty())
	change(tn, app, func() { by("li", app) })
	run := tn.release(app, app.Status.Revision, v1alpha1.ReleaseWaiting, "other than li")
	NewWithT(t).Expect(run.Spec.User.Name).To(Equal("yunfan:li"))
}

func TestDEP07_PartitionChangesItsMind(t *testing.T) {
	g := NewWithT(t)
	tn := guarded(t)
	sub := newPartition(tn.namespace, "part", tn.beijing)
	sub.Spec.Parent = "prod-bj"
	status := sub.Status
	testkit.Create(t, hub.Client, sub)
	changeStatus(tn, sub, func() { sub.Status = status })
	app := by("li", score(tn.namespace))
	app.Spec.Placement = v1alpha1.Placement{Policy: v1alpha1.PlacementDuplicated, Partitions: []v1alpha1.PartitionChoice{{Name: "part"}}}
	tn.create(app)
	run := tn.release(app, tn.revision(app, ""), v1alpha1.ReleaseWaiting)
	g.Expect(app.Status.Release.Partitions).To(Equal([]string{"part"}), "a part has it from the whole")
	tn.nothing("score", "part")
	tn.guard("prod-bj", "")
	tn.delivered("score", "part", app.Status.Revision, replicas(10))
	tn.becomes(app, v1alpha1.ReasonReady)
	g.Expect(app.Status.Release).To(BeNil())
	g.Eventually(func() bool { return tn.runs()[run.Name].Spec.Aborted }, wait).Should(BeTrue())
	tn.guard("prod-bj", v1alpha1.ReleaseApprovalRequired)
	change(tn, app, func() { g.Expect(app.Scale("score-record", 12)).To(Succeed()) })
	tn.delivered("score", "part", app.Status.Revision, replicas(12))
	tn.image(app, "li", "web:v2")
	tn.release(app, tn.revision(app, app.Status.Revision), v1alpha1.ReleaseWaiting)
	tn.delivered("score", "part", run.Labels[v1alpha1.LabelRevision], replicas(12))
}

// TestDEP07_SurvivesRestarts ends the server after what it announced and before it made the run, and has it come back
// when the run was approved meanwhile.
func TestDEP07_SurvivesRestarts(t *testing.T) {
	g := NewWithT(t)
	tn := bareTenant(t)
	tn.guard("prod-bj", v1alpha1.ReleaseApprovalRequired)
	app := tn.create(by("li", score(tn.namespace)))
	start := func(t *testing.T) {
		testkit.StartManager(t, hub, cleanPartitions, func(mgr manager.Manager) error { return New(mgr, anyPorts{}, true).SetupWithManager(mgr) })
	}
	var run *v1alpha1.WorkflowRun
	t.Run("asks", func(t *testing.T) {
		start(t)
		run = tn.release(app, tn.revision(app, ""), v1alpha1.ReleaseWaiting)
	})
	change(tn, run, func() { run.Finalizers = nil })
	g.Expect(hub.Client.Delete(t.Context(), run)).To(Succeed())
	t.Run("was announced only", func(t *testing.T) {
		start(t)
		again := tn.release(app, app.Status.Revision, v1alpha1.ReleaseWaiting)
		g.Expect(again.Name).To(Equal(run.Name))
		run = again
	})
	tn.approve(run, "wang")
	t.Run("was approved meanwhile", func(t *testing.T) {
		start(t)
		tn.delivered("score", "prod-bj", app.Status.Revision, replicas(7))
		tn.release(app, app.Status.Revision, v1alpha1.ReleaseApproved)
		g.Expect(tn.runs()).To(HaveLen(1))
	})
}

// anyPorts gives everybody every node port.
type anyPorts struct{}

func (anyPorts) Reserve(context.Context, []v1alpha1.NodePortSpec) error { return nil }

// warned keeps what the hub warns of.
type warned struct{ text []string }

func (w *warned) HandleWarningHeader(_ int, _, text string) { w.text = append(w.text, text) }

func TestDEP07_WriterIsTold(t *testing.T) {
	g := NewWithT(t)
	tn := bareTenant(t)
	tn.guard("prod-bj", v1alpha1.ReleaseApprovalRequired)
	askWebhook(t, tn.namespace)
	heard := &warned{}
	config := clientrest.CopyConfig(hub.Config)
	config.WarningHandler = heard
	c, err := client.New(config, client.Options{Scheme: hub.Scheme})
	g.Expect(err).NotTo(HaveOccurred())
	app := score(tn.namespace)
	app.Generation = 0
	g.Eventually(func() []string { // the handler's cache may be a moment behind
		g.Expect(c.Create(t.Context(), app.DeepCopy(), client.DryRunAll)).To(Succeed())
		return heard.text
	}, wait).Should(ContainElement(And(ContainSubstring("waits for the approval of somebody else"), HaveSuffix("before it reaches prod-bj"))))
	preview, err := newAPI(t).preview(request(t, administrator, manifest, "", "tenant", tn.namespace))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(preview.Approval).To(Equal([]string{"prod-bj"}))
}

func TestSubjectSaysWhatChanges(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		change func(*v1alpha1.Application)
		want   string
	}{
		"Image": {"by name", func(a *v1alpha1.Application) { web(a).Template.Spec.Containers[0].Image = "web:v2" }, "component score-record with image web:v2 instead of with image registry.yunfan.internal/score-record:v1."},
		"Both": {"and more", func(a *v1alpha1.Application) {
			web(a).Template.Spec.Containers[0].Image = "web:v2"
			web(a).DependsOn = nil
		}, "and other settings."},
		"Setting": {"in short", func(a *v1alpha1.Application) {
			web(a).Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", Value: "b"}}
		}, "component score-record is configured otherwise."},
		"Version": {"the user's word", func(a *v1alpha1.Application) { a.Spec.Version = "v2" }, "version v2 instead of v1."},
		"New": {"one more", func(a *v1alpha1.Application) {
			a.Spec.Components = append(a.Spec.Components, v1alpha1.Component{Name: "cache", Template: template(corev1.Container{Name: "c", Image: "redis"})})
		}, "component cache is new with image redis."},
		"Gone": {"one less", func(a *v1alpha1.Application) { web(a).DependsOn = nil; a.Spec.Components = a.Spec.Components[1:] }, "component db-service goes."},
		"Overrides": {"of a partition", func(a *v1alpha1.Application) {
			a.Spec.Placement.Partitions[0].Overrides = []v1alpha1.Override{{Component: "score-record", Images: map[string]string{"web": "x"}}}
		}, "What changes: overrides of partitions."},
		"Expression": {"what users write is no expression", func(a *v1alpha1.Application) { web(a).Template.Spec.Containers[0].Image = "${{ inputs.x }}" }, "with image $${{ inputs.x }} instead"},
		"Long": {"bounded", func(a *v1alpha1.Application) {
			for i := range 30 {
				a.Spec.Components = append(a.Spec.Components, v1alpha1.Component{Name: fmt.Sprintf("c%02d", i), Template: template(corev1.Container{Name: "c", Image: strings.Repeat("长", 50)})})
			}
		}, "…"},
	} {
		t.Run(name, func(t *testing.T) {
			app := score("edu")
			app.UID = "u"
			w := newWorld(app)
			w.partitions[0].Spec.ReleaseApproval = v1alpha1.ReleaseApprovalRequired
			w.carryOut(t)
			tc.change(app)
			app.Status.Release = &v1alpha1.ReleaseStatus{User: "yunfan:li"}
			p, err := w.plan()
			if err != nil {
				t.Fatal(err)
			}
			run, err := w.releaseRun(p, "r", "d")
			if err != nil {
				t.Fatal(err)
			}
			var subject string
			if err := json.Unmarshal(run.Spec.Definition.Steps[0].With["subject"], &subject); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(subject, tc.want) || len(subject) > maxSubject {
				t.Errorf("%s: %s", tc.reason, subject)
			}
		})
	}
}

func TestWithoutPartitionsThatAskNothingIsSaid(t *testing.T) {
	w := newWorld(score("edu"))
	w.carryOut(t)
	web(w.app).Template.Spec.Containers[0].Image = "web:v2"
	p, err := w.plan()
	if err != nil || len(p.Approval) != 0 || len(p.Deliveries) != 2 {
		t.Fatalf("%v: %v", err, p)
	}
	// Nothing is read or written: there is nobody to ask.
	if err := (&Reconciler{}).gate(t.Context(), w, p); err != nil || w.app.Status.Release != nil {
		t.Errorf("%v: %v", err, w.app.Status.Release)
	}
}
