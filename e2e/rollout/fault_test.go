//go:build e2e

package rollout_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
	"yunfan.io/yunfan/e2e/load"
)

// moving waits until a rollout has begun to change something.
func moving(s *journey.Shop, r *journey.Rolling) {
	s.Helper()
	s.Eventually(func() bool {
		for _, step := range r.Run().Status.Steps {
			if step.Phase == v1alpha1.StepSucceeded {
				return true
			}
		}
		return r.Now().Status.Phase.Ended()
	}).Should(BeTrue(), "the rollout begins: %s", r.Phase())
}

// TestREL_ServerKilled kills the server in the middle of a rollout: nothing is lost, and it goes on.
func TestREL_ServerKilled(t *testing.T) {
	some := strategies
	if !full() {
		some = []v1alpha1.StrategyType{strategies[seed(t).IntN(len(strategies))]}
	}
	all := journey.Begin(t).Shop(replicas)
	for i, kind := range some {
		t.Run(string(kind), func(t *testing.T) {
			s := all.In(t)
			s.Ready(s.App)
			var r *journey.Rolling
			version := fmt.Sprintf("v%d", i+2)
			var ended time.Time
			report := s.UnderLoad(func(l *load.Load) {
				r = s.Change(version, strategy(kind, false))
				moving(s, r)
				for range 2 {
					s.Drill("kill", "services/server/server")
					l.Note("the server is killed")
					s.Wait(4 * time.Second)
				}
				r.Ends(v1alpha1.RolloutSucceeded)
				ended = time.Now()
				s.Wait(2 * time.Second)
			})
			s.NoneLost(report, r.Events()...)
			s.Expect(report.Versions(ended, time.Time{})).To(And(HaveLen(1), HaveKey(version)))
		})
	}
}

// TestREL_SlowGateway stops one replica of a gateway for ten seconds while all requests are moved: it is waited for.
func TestREL_SlowGateway(t *testing.T) {
	const delay = 10 * time.Second
	s := journey.Begin(t).Shop(replicas)
	// The edge is patient, so that it goes on sending requests to the replica, which answers them late.
	s.Update(s.Route, func() { s.Route.Spec.Health = &v1alpha1.RouteHealth{Failures: 10, Interval: span(10 * time.Second)} })
	s.RouteReady(s.Route)
	process := gatewayProcess(s, journey.Beijing)
	person := admin(s)
	var r *journey.Rolling
	var went time.Duration
	report := s.UnderLoad(func(l *load.Load) {
		r = s.Change("v2", v1alpha1.Strategy{Type: v1alpha1.StrategyBlueGreen, BlueGreen: &v1alpha1.BlueGreenStrategy{Switch: v1alpha1.ContinueManual}})
		r.Waits()
		s.Expect(process.Signal(syscall.SIGSTOP)).To(Succeed())
		stopped := time.Now()
		l.Note("one gateway is stopped")
		resume := time.AfterFunc(delay, func() { _ = process.Signal(syscall.SIGCONT); l.Note("the gateway goes on") })
		defer func() {
			resume.Stop()
			_ = process.Signal(syscall.SIGCONT)
		}()
		r.Approved(person)
		r.Ends(v1alpha1.RolloutSucceeded)
		went = time.Since(stopped)
	})
	s.Logf("the rollout went on %s after the gateway had been stopped", went.Round(100*time.Millisecond))
	s.NoneLost(report, r.Events()...)
	s.Expect(went).To(BeNumerically(">=", delay), "it is waited for the slowest")
}

// gatewayProcess finds the program of one replica of a member's gateway among the processes of this machine.
func gatewayProcess(s *journey.Shop, cluster string) *os.Process {
	s.Helper()
	var pods corev1.PodList
	s.Expect(s.Clusters[cluster].List(s.Context(), &pods, client.InNamespace("yunfan-gateway"))).To(Succeed())
	s.Expect(pods.Items).NotTo(BeEmpty())
	uid := string(pods.Items[0].UID)
	found, err := filepath.Glob("/proc/[0-9]*/cgroup")
	s.Expect(err).NotTo(HaveOccurred())
	for _, file := range found {
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), uid) && !strings.Contains(string(text), strings.ReplaceAll(uid, "-", "_")) {
			continue
		}
		command, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		if err != nil || !strings.Contains(string(command), "traefik") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		s.Expect(err).NotTo(HaveOccurred())
		process, err := os.FindProcess(pid)
		s.Expect(err).NotTo(HaveOccurred())
		return process
	}
	s.Fatalf("no process of gateway pod %s is found", pods.Items[0].Name)
	return nil
}

// TestREL_NodeKilled ends a node as a power failure would, in the middle of a rollout, with retries of the edge on: no GET
// that had no answer yet is lost. What is lost of the rest is counted.
func TestREL_NodeKilled(t *testing.T) {
	const node = "beijing-2"
	s := journey.Begin(t).Shop(replicas)
	s.Update(s.Route, func() {
		s.Route.Spec.Retries = 3
		s.Route.Spec.Health = &v1alpha1.RouteHealth{Interval: span(500 * time.Millisecond), Failures: 1}
		s.Route.Spec.Rules[0].Retries = 3
	})
	s.RouteReady(s.Route)
	var r *journey.Rolling
	report := s.UnderLoad(func(l *load.Load) {
		r = s.Change("v2", strategy(v1alpha1.StrategyRollingUpdate, false))
		moving(s, r)
		s.Drill("stop", journey.Beijing+"/"+node)
		heal := s.Heal("start", journey.Beijing+"/"+node)
		l.Note("node %s has no power", node)
		s.Wait(20 * time.Second)
		heal()
		l.Note("node %s starts", node)
		r.Ends(v1alpha1.RolloutSucceeded)
	})
	kinds, gets := map[string]int{}, 0
	for _, f := range report.Failures {
		kinds[f.Kind+": "+strings.SplitN(f.Error, ":", 2)[0]]++
		// A GET whose answer had begun to come, or was being made by a pod of that node, cannot be told from one that was lost:
		// the slow ones.
		if strings.HasPrefix(f.Kind, "kept") || strings.HasPrefix(f.Kind, "new") {
			gets++
		}
	}
	s.Logf("REL node killed: of %d requests %d were lost: %v", report.Asked, report.Failed, kinds)
	if gets > 0 {
		s.NoneLost(report, r.Events()...)
	}
	s.Expect(report.Failed).To(BeNumerically("<", report.Asked/50), "what is lost is what was under way at that node")
}

// TestREL_ClusterUnreachable has the control plane of a cluster stop answering in the middle: the others go on, and it is
// brought to the version that won when it answers again.
func TestREL_ClusterUnreachable(t *testing.T) {
	s := journey.Begin(t).Shop(replicas)
	person := admin(s)
	var r *journey.Rolling
	report := s.UnderLoad(func(l *load.Load) {
		plan := strategy(v1alpha1.StrategyRollingUpdate, true)
		plan.Order = v1alpha1.RolloutOrder{Continue: v1alpha1.ContinueManual, Waves: []v1alpha1.RolloutWave{{Partitions: []string{"bj1"}}}}
		r = s.Change("v2", plan)
		r.Waits()
		s.Drill("freeze", journey.Shanghai+"/kube-apiserver")
		heal := s.Heal("heal", journey.Shanghai+"/kube-apiserver")
		l.Note("the control plane of Shanghai does not answer")
		cluster := &v1alpha1.Cluster{}
		cluster.Name = journey.Shanghai
		s.Eventually(s.Condition(cluster, v1alpha1.ConditionReady)).WithTimeout(time.Minute).Should(HavePrefix("False " + v1alpha1.ReasonUnreachable))
		r.Approved(person)
		s.Eventually(func() []string {
			var phases []string
			for _, p := range r.Now().Status.Partitions {
				phases = append(phases, p.Partition+" "+string(p.Phase))
			}
			return phases
		}).Should(ConsistOf("bj1 Moved", "bj2 Moved", "sh Unreachable"))
		r.Ends(v1alpha1.RolloutSucceeded)
		since := time.Now()
		s.Wait(3 * time.Second)
		s.Expect(l.Report().Versions(since, time.Time{})).To(And(HaveLen(1), HaveKey("v2")), "it is out of the traffic")
		heal()
		l.Note("the control plane of Shanghai answers")
		s.Eventually(func() map[string]int {
			return l.Report().Partitions(time.Now().Add(-2*time.Second), time.Time{})
		}).Should(HaveKey(s.Tenant+"-sh"), "it comes back")
		s.Ready(s.App)
	})
	s.NoneLost(report, r.Events()...)
	s.Expect(report.Versions(report.Start.Add(report.Took-time.Second), time.Time{})).To(And(HaveLen(1), HaveKey("v2")))
}
