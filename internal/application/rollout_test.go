package application

import (
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/nodeport"
	"yunfan.io/yunfan/internal/testkit"
)

// byHand is the score application with a name that no rollout controller of these tests touches.
func byHand(t *tenant) *v1alpha1.Application {
	app := score(t.namespace)
	app.Name = "by-hand"
	web(app).Service.Ports[0].NodePort = 0
	return app
}

// rollout waits until the application's status names one, and it is there.
func (t *tenant) rollout(app *v1alpha1.Application, name string) *v1alpha1.Rollout {
	t.Helper()
	o := &v1alpha1.Rollout{}
	NewWithT(t).Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(app), app)).To(Succeed())
		g.Expect(app.Status.Rollout).To(Equal(name), "%v", app.Status.Conditions)
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKey{Namespace: t.namespace, Name: name}, o)).To(Succeed())
	}, wait).Should(Succeed())
	return o
}

func (t *tenant) finish(o *v1alpha1.Rollout, phase v1alpha1.RolloutPhase, message string) {
	t.Helper()
	changeStatus(t, o, func() { o.Status.Phase, o.Status.Message = phase, message })
}

// progresses waits for a reason of the condition Progressing.
func (t *tenant) progresses(app *v1alpha1.Application, status metav1.ConditionStatus, reason string, words ...string) {
	t.Helper()
	NewWithT(t).Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(app), app)).To(Succeed())
		c := meta.FindStatusCondition(app.Status.Conditions, v1alpha1.ConditionProgressing)
		g.Expect(c).NotTo(BeNil())
		g.Expect(string(c.Status)+" "+c.Reason).To(Equal(string(status)+" "+reason), c.Message)
		g.Expect(c.ObservedGeneration).To(Equal(app.Generation))
		for _, word := range words {
			g.Expect(c.Message).To(ContainSubstring(word))
		}
	}, wait).Should(Succeed())
}

func (t *tenant) rollouts() []string {
	t.Helper()
	var list v1alpha1.RolloutList
	NewWithT(t).Expect(hub.Client.List(t.Context(), &list, client.InNamespace(t.namespace))).To(Succeed())
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names
}

// settled makes an application that is delivered and healthy in both partitions.
func (t *tenant) settled() (app *v1alpha1.Application, revision string) {
	t.Helper()
	app = t.create(byHand(t))
	revision = t.revision(app, "")
	t.delivered("by-hand", "prod-bj", revision, map[string]int32{"db-service": 1, "score-record": 7})
	t.delivered("by-hand", "prod-sh", revision, map[string]int32{"db-service": 1, "score-record": 3})
	t.becomes(app, v1alpha1.ReasonReady)
	return app, revision
}

func TestREL02_AChangeIsHandedOverToARollout(t *testing.T) {
	g := NewWithT(t)
	tn := newTenant(t)
	app, first := tn.settled()
	g.Expect(tn.rollouts()).To(BeEmpty(), "the first delivery needs none")
	change(tn, app, func() {
		app.Spec.Strategy.RollingUpdate = &v1alpha1.RollingUpdateStrategy{MaxSurge: new(intstr.FromInt32(1))}
		app.Annotations = map[string]string{v1alpha1.AnnotationChangedBy: "yunfan:li"}
		web(app).Template.Spec.Containers[0].Image = "web:v2"
	})
	tn.progresses(app, metav1.ConditionTrue, v1alpha1.ReasonRolloutRunning, app.Status.Rollout)
	second := app.Status.Revision
	g.Expect(second).NotTo(Equal(first))
	o := tn.rollout(app, second+"-1")
	g.Expect(o.Spec).To(Equal(v1alpha1.RolloutSpec{
		Application: "by-hand", From: first, To: second, Partitions: []string{"prod-bj", "prod-sh"}, User: "yunfan:li", Strategy: app.Spec.Strategy,
	}))
	g.Expect(metav1.IsControlledBy(o, app)).To(BeTrue())
	g.Expect(meta.IsStatusConditionFalse(app.Status.Conditions, v1alpha1.ConditionReady)).To(BeTrue(), "it is not where it is to be")

	// What is no matter of the rollout goes on: scaling, new partitions, those that it leaves.
	tn.partition("test-sh", tn.shanghai)
	change(tn, app, func() {
		web(app).Replicas = ptr.To[int32](20)
		app.Spec.Placement.Partitions = append(app.Spec.Placement.Partitions, v1alpha1.PartitionChoice{Name: "test-sh", Weight: ptr.To[int32](0)})
	})
	bj := tn.delivered("by-hand", "prod-bj", first, map[string]int32{"db-service": 1, "score-record": 14})
	g.Expect(bj.Spec.RollingUpdate).To(Equal(app.Spec.Strategy.RollingUpdate))
	tn.delivered("by-hand", "prod-sh", first, map[string]int32{"db-service": 1, "score-record": 6})
	tn.delivered("by-hand", "test-sh", first, map[string]int32{"db-service": 1, "score-record": 0})
	g.Expect(tn.rollouts()).To(HaveLen(1))

	// Tracks, traffic and what is stopped are the rollout's.
	changeStatus(tn, o, func() { o.Status.Phase = v1alpha1.RolloutRunning })
	candidate := v1alpha1.Track{Role: v1alpha1.TrackCandidate, Revision: second, Suffix: "cafe", Replicas: map[string]int32{"score-record": 1}}
	change(tn, bj, func() {
		bj.Spec.Tracks = append(bj.Spec.Tracks, candidate)
		bj.Spec.Traffic, bj.Spec.Stopped = &v1alpha1.Traffic{Weight: 10}, true
	})
	change(tn, app, func() { web(app).Replicas = ptr.To[int32](10) })
	g.Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(bj), bj)).To(Succeed())
		g.Expect(bj.Spec.Tracks[0].Replicas["score-record"]).To(Equal(int32(7)))
	}, wait).Should(Succeed())
	g.Expect(bj.Spec.Tracks[1]).To(Equal(candidate))
	g.Expect(bj.Spec.Traffic).To(Equal(&v1alpha1.Traffic{Weight: 10}))
	g.Expect(bj.Spec.Stopped).To(BeTrue())

	// It wins: the names stay, and the partition that came later follows.
	change(tn, bj, func() {
		bj.Spec.Tracks = []v1alpha1.Track{{Role: v1alpha1.TrackStable, Revision: second, Suffix: "cafe", Replicas: bj.Spec.Tracks[0].Replicas}}
		bj.Spec.Traffic, bj.Spec.Stopped = nil, false
	})
	sh := tn.delivery("by-hand", "prod-sh")
	change(tn, sh, func() { sh.Spec.Tracks[0].Revision = second })
	tn.finish(o, v1alpha1.RolloutSucceeded, "")
	o = tn.rollout(app, second+"-2")
	g.Expect(o.Spec.Partitions).To(Equal([]string{"test-sh"}))
	late := tn.delivery("by-hand", "test-sh")
	change(tn, late, func() { late.Spec.Tracks[0].Revision = second })
	tn.finish(o, v1alpha1.RolloutSucceeded, "")
	for _, d := range []*v1alpha1.Delivery{bj, sh, late} {
		tn.tells(d, v1alpha1.ReasonReady, v1alpha1.ReasonReady)
	}
	tn.becomes(app, v1alpha1.ReasonReady)
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(bj), bj)).To(Succeed())
	g.Expect(bj.Spec.Tracks[0].Suffix).To(Equal("cafe"))
	g.Expect(tn.rollouts()).To(HaveLen(2))
}

func TestREL02_WhatHasFailedIsNotTriedAgainByItself(t *testing.T) {
	g := NewWithT(t)
	tn := newTenant(t)
	app, first := tn.settled()
	change(tn, app, func() { web(app).Template.Spec.Containers[0].Image = "web:broken" })
	second := tn.revision(app, first)
	tn.finish(tn.rollout(app, second+"-1"), v1alpha1.RolloutFailed, "web has failed")
	tn.progresses(app, metav1.ConditionFalse, v1alpha1.ReasonRolloutFailed, second+"-1", "web has failed", "runs", v1alpha1.AnnotationRolloutAgain)
	tn.becomes(app, v1alpha1.ReasonReady)
	g.Expect(app.Status.Revision).To(Equal(first), "what was before runs")

	// Scaling it is no reason to try again, and where it is new it begins with what runs.
	tn.partition("test-bj", tn.beijing)
	change(tn, app, func() {
		web(app).Replicas = ptr.To[int32](20)
		app.Spec.Placement.Partitions = append(app.Spec.Placement.Partitions, v1alpha1.PartitionChoice{Name: "test-bj", Weight: ptr.To[int32](0)})
	})
	tn.delivered("by-hand", "prod-bj", first, map[string]int32{"db-service": 1, "score-record": 14})
	tn.delivered("by-hand", "prod-sh", first, map[string]int32{"db-service": 1, "score-record": 6})
	tn.delivered("by-hand", "test-bj", first, map[string]int32{"db-service": 1, "score-record": 0})
	tn.becomes(app, v1alpha1.ReasonReady)
	g.Expect(tn.rollouts()).To(Equal([]string{second + "-1"}))

	// Nor does it come while the application is stopped, to run when it is started.
	change(tn, app, func() { app.Spec.Stopped = true })
	g.Eventually(func(g Gomega) {
		d := tn.delivery("by-hand", "prod-bj")
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(d), d)).To(Succeed())
		g.Expect(d.Spec.Stopped).To(BeTrue())
		g.Expect(d.Spec.Tracks[0].Revision).To(Equal(first))
	}, wait).Should(Succeed())
	change(tn, app, func() { app.Spec.Stopped = false })

	// Asked for again, and with another strategy.
	change(tn, app, func() { app.Annotations = map[string]string{v1alpha1.AnnotationRolloutAgain: "2026-11-21T10:00:00Z"} })
	again := tn.rollout(app, second+"-2")
	g.Expect(again.Spec.Partitions).To(Equal([]string{"prod-bj", "prod-sh", "test-bj"}))
	tn.finish(again, v1alpha1.RolloutAborted, "aborted by li")
	tn.progresses(app, metav1.ConditionFalse, v1alpha1.ReasonRolloutAborted, "aborted by li")
	change(tn, app, func() { app.Spec.Strategy.Type = v1alpha1.StrategyBlueGreen })
	refused := tn.rollout(app, second+"-3")
	tn.finish(refused, v1alpha1.RolloutRefused, "no room")
	tn.progresses(app, metav1.ConditionFalse, v1alpha1.ReasonRolloutRefused, "no room")
	// What was refused is tried again when less is asked for.
	change(tn, app, func() { web(app).Replicas = ptr.To[int32](10) })
	fourth := tn.rollout(app, second+"-4")

	// Taken back while it runs, it is replaced by one that goes nowhere else.
	changeStatus(tn, fourth, func() { fourth.Status.Phase = v1alpha1.RolloutRunning })
	change(tn, app, func() { web(app).Template.Spec.Containers[0].Image = "registry.yunfan.internal/score-record:v1" })
	back := tn.rollout(app, first+"-1")
	g.Expect([]string{back.Spec.From, back.Spec.To}).To(Equal([]string{first, first}))
	tn.finish(fourth, v1alpha1.RolloutAborted, "replaced")
	tn.finish(back, v1alpha1.RolloutSucceeded, "")
	tn.delivered("by-hand", "prod-bj", first, map[string]int32{"db-service": 1, "score-record": 7})
	tn.delivered("by-hand", "prod-sh", first, map[string]int32{"db-service": 1, "score-record": 3})
	tn.delivered("by-hand", "test-bj", first, map[string]int32{"db-service": 1, "score-record": 0})
	tn.becomes(app, v1alpha1.ReasonReady)
}

// TestREL02_NoStrategy: an application written without a strategy has none of the defaults that its rollout has, and is not
// tried again for that.
func TestREL02_NoStrategy(t *testing.T) {
	w := newWorld(score("edu"))
	w.rollout = &v1alpha1.Rollout{
		Spec:   v1alpha1.RolloutSpec{To: "score-2", Strategy: v1alpha1.Strategy{Type: v1alpha1.StrategyRollingUpdate, WhileRunning: v1alpha1.WhileRunningReplace}},
		Status: v1alpha1.RolloutStatus{Phase: v1alpha1.RolloutFailed},
	}
	if w.failed("score-2") == nil {
		t.Error("what has failed would be tried again and again")
	}
	w.app.Spec.Strategy.WhileRunning = v1alpha1.WhileRunningWait
	if w.failed("score-2") != nil {
		t.Error("another strategy is a reason to try again")
	}
}

func TestREL02_WhatIsStoppedMovesWithoutARollout(t *testing.T) {
	tn := newTenant(t)
	app, first := tn.settled()
	change(tn, app, func() { app.Spec.Stopped, web(app).Template.Spec.Containers[0].Image = true, "web:v2" })
	second := tn.revision(app, first)
	tn.delivered("by-hand", "prod-bj", second, map[string]int32{"db-service": 1, "score-record": 7})
	NewWithT(t).Expect(tn.rollouts()).To(BeEmpty())
}

// TestREL02_ServerDiesBeforeTheRollout: the name is announced, and the server has ended before it made the rollout. The
// next one makes this one, and no other.
func TestREL02_ServerDiesBeforeTheRollout(t *testing.T) {
	tn := bareTenant(t)
	serve := func(t *testing.T) {
		testkit.StartManager(t, hub, func(mgr manager.Manager) error {
			ports := &nodeport.Ports{Hub: mgr.GetClient(), Live: mgr.GetAPIReader(), Members: noMembers{}}
			return New(mgr, ports, true).SetupWithManager(mgr)
		}, cleanPartitions)
	}
	var app *v1alpha1.Application
	var first, second string
	t.Run("first server", func(t *testing.T) {
		serve(t)
		app, first = (&tenant{t, tn.namespace, tn.beijing, tn.shanghai}).settled()
	})
	change(tn, app, func() { web(app).Template.Spec.Containers[0].Image = "web:v2" })
	p, err := NewPlan(t.Context(), hub.Client, app)
	if err != nil {
		t.Fatal(err)
	}
	second = p.Revision.Name
	changeStatus(tn, app, func() { app.Status.Rollout = second + "-1" })
	t.Run("second server", func(t *testing.T) {
		serve(t)
		here := &tenant{t, tn.namespace, tn.beijing, tn.shanghai}
		o := here.rollout(app, second+"-1")
		NewWithT(t).Expect(o.Spec.From).To(Equal(first))
		here.progresses(app, metav1.ConditionTrue, v1alpha1.ReasonRolloutRunning)
		// Another change while the deliveries still say the old: one rollout more, from the same revision.
		changeStatus(here, o, func() { o.Status.Phase = v1alpha1.RolloutRunning })
		change(here, app, func() { web(app).Template.Spec.Containers[0].Image = "web:v3" })
		third := here.revision(app, second)
		NewWithT(t).Expect(here.rollout(app, third+"-1").Spec.From).To(Equal(first))
		NewWithT(t).Expect(here.rollouts()).To(ConsistOf(second+"-1", third+"-1"))
	})
}
