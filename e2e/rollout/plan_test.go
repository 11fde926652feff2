//go:build e2e

package rollout_test

import (
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
	"yunfan.io/yunfan/e2e/load"
)

// small is a tenant with an application in one partition, without users.
func small(t *testing.T, change ...func(*v1alpha1.PartitionSpec)) *journey.Shop {
	t.Helper()
	j := journey.Begin(t)
	j.Partition("bj1", journey.Beijing, change...)
	s := &journey.Shop{Journey: j, App: j.Application("web", journey.In("bj1"), journey.Users("web", "v1"))}
	j.Ready(s.App)
	return s
}

// TestREL09_DoubleResources refuses to run two versions side by side where the quota holds one only, before anything is
// changed.
func TestREL09_DoubleResources(t *testing.T) {
	s := small(t, func(p *v1alpha1.PartitionSpec) {
		p.Quota = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1")}
	})
	before := s.Pods(journey.Beijing, s.Tenant+"-bj1", "web")
	for _, kind := range []v1alpha1.StrategyType{v1alpha1.StrategyBlueGreen, v1alpha1.StrategyShadow} {
		r := s.Change("v2-"+strings.ToLower(string(kind)), strategy(kind, false))
		r.Ends(v1alpha1.RolloutRefused)
		s.Expect(r.Now().Status.Message).To(And(ContainSubstring("bj1"), ContainSubstring("pods")))
		s.Expect(r.Now().Status.Run).To(BeEmpty())
	}
	after := s.Pods(journey.Beijing, s.Tenant+"-bj1", "web")
	s.Expect(after).To(HaveLen(1))
	s.Expect(after[0].UID).To(Equal(before[0].UID), "nothing was changed")
	s.Eventually(s.Condition(s.App, v1alpha1.ConditionReady)).Should(HavePrefix("True"), "what ran before runs")
	s.Expect(s.Condition(s.App, v1alpha1.ConditionProgressing)()).To(HavePrefix("False " + v1alpha1.ReasonRolloutRefused))
}

// TestREL01_NoticeBeforeRecreate has a notice written before anything begins.
func TestREL01_NoticeBeforeRecreate(t *testing.T) {
	s := small(t)
	r := s.Change("v2", v1alpha1.Strategy{Type: v1alpha1.StrategyRecreate, Notice: &v1alpha1.RolloutNotice{Scope: "the shop is closed for a minute"}})
	r.Ends(v1alpha1.RolloutSucceeded)
	s.Expect(strings.Join(r.Now().Status.Plan, "\n")).To(MatchRegexp("(?i)interrupt|notice|answer"), "it is announced that nothing answers meanwhile")
	run := r.Run()
	told, first := time.Time{}, time.Time{}
	for _, step := range run.Status.Steps {
		s.Expect(step.StartTime).NotTo(BeNil(), step.Name)
		if strings.Contains(step.Name, "notice") || strings.Contains(step.Name, "notify") {
			told = step.FinishTime.Time
		} else if first.IsZero() || step.StartTime.Time.Before(first) {
			first = step.StartTime.Time
		}
	}
	s.Expect(told).NotTo(BeZero(), "a step tells it")
	s.Expect(told).To(BeTemporally("<=", first))
	for _, pod := range s.Pods(journey.Beijing, s.Tenant+"-bj1", "web") {
		s.Expect(pod.CreationTimestamp.Time).To(BeTemporally(">=", told.Truncate(time.Second)))
	}
}

// TestREL07_NineSteps moves partition by partition, and shows each step with its time; what fails in the first leaves
// the second alone.
func TestREL07_NineSteps(t *testing.T) {
	s := journey.Begin(t).Shop(1)
	var r *journey.Rolling
	report := s.UnderLoad(func(*load.Load) {
		r = s.Change("v2", v1alpha1.Strategy{Type: v1alpha1.StrategyRecreate})
		r.Ends(v1alpha1.RolloutSucceeded)
	})
	s.NoneLost(report, r.Events()...)
	r.Tell()
	var last time.Time
	for i := range r.Run().Status.Steps {
		step := &r.Run().Status.Steps[i]
		if step.Phase == v1alpha1.StepSkipped {
			continue
		}
		s.Expect(step.Phase).To(Equal(v1alpha1.StepSucceeded), step.Name)
		s.Expect(step.StartTime.Time).To(BeTemporally(">=", last), "%s: in order", step.Name)
		last = step.StartTime.Time
		s.Expect(step.FinishTime.Time).To(BeTemporally(">=", last), "%s has its times", step.Name)
	}
	t.Run("REL-07 what fails in the first partition leaves the others alone", func(t *testing.T) {
		s := s.In(t)
		s.Ready(s.App)
		var r *journey.Rolling
		report := s.UnderLoad(func(*load.Load) {
			r = s.Change("v3", v1alpha1.Strategy{Type: v1alpha1.StrategyRecreate}, func(c *v1alpha1.Component) {
				c.Template.Spec.Containers[0].Args = []string{"exit", "3", "it cannot begin"}
			})
			r.Ends(v1alpha1.RolloutFailed)
		})
		s.NoneLost(report, r.Events()...)
		touched := 0
		for _, p := range r.Now().Status.Partitions {
			if p.Phase == v1alpha1.RolloutPartitionReturned {
				touched++
			} else {
				s.Expect(p.Phase).To(Equal(v1alpha1.RolloutPartitionWaiting), p.Partition)
			}
		}
		s.Expect(touched).To(Equal(1))
		s.Expect(report.Versions(report.Start.Add(report.Took-time.Second), time.Time{})).To(And(HaveLen(1), HaveKey("v2")))
	})
}

// TestREL08_Waves moves one cluster, keeps it so for a while, and then the others; what is aborted in between goes back.
func TestREL08_Waves(t *testing.T) {
	const stable = 6 * time.Second
	s := journey.Begin(t).Shop(1)
	waves := v1alpha1.Strategy{Type: v1alpha1.StrategyRollingUpdate, Order: v1alpha1.RolloutOrder{
		Waves: []v1alpha1.RolloutWave{{Clusters: []string{journey.Shanghai}}, {Clusters: []string{journey.Beijing}}}, StablePeriod: span(stable),
	}}
	var r *journey.Rolling
	report := s.UnderLoad(func(*load.Load) {
		r = s.Change("v2", waves)
		r.Ends(v1alpha1.RolloutSucceeded)
	})
	s.NoneLost(report, r.Events()...)
	first := map[string]time.Time{}
	for _, a := range report.Answers {
		if p := s.PartitionOf(a.Who.Partition); a.Who.Version == "v2" && (first[p].IsZero() || a.At.Before(first[p])) {
			first[p] = a.At
		}
	}
	for _, p := range []string{"bj1", "bj2"} {
		s.Expect(first[p].Sub(first["sh"])).To(BeNumerically(">=", stable), "Shanghai first, and %s alone: %v", stable, first)
	}
	s.Ready(s.App)
	report = s.UnderLoad(func(l *load.Load) {
		r = s.Change("v3", waves)
		s.Eventually(func() map[string]int {
			return l.Report().Versions(time.Now().Add(-time.Second), time.Time{})
		}).Should(HaveKey("v3"))
		r.Abort()
		r.Ends(v1alpha1.RolloutAborted)
	})
	s.NoneLost(report, r.Events()...)
	s.Expect(report.Versions(report.Start.Add(report.Took-time.Second), time.Time{})).To(And(HaveLen(1), HaveKey("v2")))
}

// TestREL08_TwoRollouts never has two rollouts of one application at once.
func TestREL08_TwoRollouts(t *testing.T) {
	s := small(t)
	person := admin(s)
	for _, tc := range []struct {
		reason v1alpha1.WhileRunning
		first  v1alpha1.RolloutPhase
	}{{v1alpha1.WhileRunningReplace, v1alpha1.RolloutAborted}, {v1alpha1.WhileRunningWait, v1alpha1.RolloutSucceeded}} {
		t.Run(string(tc.reason), func(t *testing.T) {
			s := s.In(t)
			s.Ready(s.App)
			plan := strategy(v1alpha1.StrategyCanary, true)
			plan.WhileRunning = tc.reason
			name := strings.ToLower(string(tc.reason))
			one := s.Change(name+"-1", plan)
			one.Waits()
			plan = v1alpha1.Strategy{Type: v1alpha1.StrategyRollingUpdate, WhileRunning: tc.reason}
			two := s.Change(name+"-2", plan)
			three := s.Change(name+"-3", plan)
			if tc.reason == v1alpha1.WhileRunningWait {
				s.Eventually(three.Phase).Should(HavePrefix(string(v1alpha1.RolloutPending)))
				s.Eventually(two.Phase).Should(HavePrefix(string(v1alpha1.RolloutAborted)), "of several that wait only the newest counts")
				s.Expect(one.Now().Status.Phase).To(Equal(v1alpha1.RolloutRunning))
				one.Approved(person)
			}
			one.Ends(tc.first)
			three.Ends(v1alpha1.RolloutSucceeded)
			s.Expect(three.Now().Status.StartTime.Time).To(BeTemporally(">=", one.Now().Status.EndTime.Time))
			s.Eventually(func() string {
				return s.Try(journey.Beijing, "-n", s.Tenant+"-bj1", "get", "pods", "-o", "jsonpath={.items[*].spec.containers[0].env[0].value}")
			}).Should(Equal(name + "-3"))
		})
	}
}
