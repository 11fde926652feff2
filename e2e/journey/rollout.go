//go:build e2e

package journey

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/load"
)

// Rolling is a rollout that is watched.
type Rolling struct {
	*v1alpha1.Rollout

	shop *Shop
	stop context.CancelFunc
	done chan struct{}

	mu     sync.Mutex
	events []load.Event
	run    v1alpha1.WorkflowRun
	seen   map[string]string
}

// Change gives the application another version by a strategy, and follows the rollout that is made for it.
func (s *Shop) Change(version string, strategy v1alpha1.Strategy, more ...func(*v1alpha1.Component)) *Rolling {
	s.Helper()
	if err := s.Get(s.App); err != nil {
		s.Fatal(err)
	}
	before := s.App.Status.Rollout
	s.Update(s.App, func() {
		s.App.Spec.Version, s.App.Spec.Strategy = version, strategy
		for i := range s.App.Spec.Components {
			c := &s.App.Spec.Components[i]
			SetVersion(c, version)
			for _, f := range more {
				f(c)
			}
		}
	})
	return s.Follow(before)
}

// SetVersion changes what a component answers with.
func SetVersion(c *v1alpha1.Component, version string) {
	for i := range c.Template.Spec.Containers[0].Env {
		if e := &c.Template.Spec.Containers[0].Env[i]; e.Name == versionVariable {
			e.Value = version
		}
	}
}

// Follow waits for a rollout of the application that is another than one known, and watches its run.
func (s *Shop) Follow(before string) *Rolling {
	s.Helper()
	r := &Rolling{Rollout: &v1alpha1.Rollout{}, shop: s, done: make(chan struct{}), seen: map[string]string{}}
	s.Eventually(func(g gomega.Gomega) {
		g.Expect(s.Get(s.App)).To(gomega.Succeed())
		g.Expect(s.App.Status.Rollout).NotTo(gomega.Or(gomega.BeEmpty(), gomega.Equal(before)))
		g.Expect(s.Hub().Get(s.ctx, s.Key(s.App.Status.Rollout), r.Rollout)).To(gomega.Succeed())
	}).WithTimeout(time.Minute).Should(gomega.Succeed(), "a change makes a rollout")
	ctx, stop := context.WithCancel(s.ctx)
	r.stop = stop
	go r.watch(ctx)
	s.Cleanup(r.Stop)
	return r
}

// watch looks at the rollout and its run several times a second, until it is told to stop.
func (r *Rolling) watch(ctx context.Context) {
	defer close(r.done)
	hub := r.shop.Hub()
	for ctx.Err() == nil {
		rollout, run := &v1alpha1.Rollout{}, &v1alpha1.WorkflowRun{}
		if hub.Get(ctx, r.shop.Key(r.Rollout.Name), rollout) == nil {
			if rollout.Status.Run == "" || hub.Get(ctx, r.shop.Key(rollout.Status.Run), run) != nil {
				run = nil
			}
			r.see(rollout, run)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (r *Rolling) see(rollout *v1alpha1.Rollout, run *v1alpha1.WorkflowRun) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rollout.DeepCopyInto(r.Rollout)
	r.say("rollout", time.Now(), string(rollout.Status.Phase), rollout.Status.Message)
	for _, p := range rollout.Status.Partitions {
		r.say("partition "+p.Partition, time.Now(), string(p.Phase), p.Message)
	}
	if run == nil {
		return
	}
	run.DeepCopyInto(&r.run)
	for i := range run.Status.Steps {
		s := &run.Status.Steps[i]
		at := time.Now()
		switch {
		case s.FinishTime != nil && (s.Phase == v1alpha1.StepSucceeded || s.Phase == v1alpha1.StepFailed):
			at = s.FinishTime.Time
		case s.StartTime != nil && s.Phase == v1alpha1.StepRunning:
			at = s.StartTime.Time
		}
		r.say("step "+s.Name, at, string(s.Phase), s.Message)
	}
}

// say notes what is new of a thing.
func (r *Rolling) say(thing string, at time.Time, phase, message string) {
	if now := phase + " " + message; r.seen[thing] != now && phase != "" && phase != string(v1alpha1.StepPending) {
		r.seen[thing] = now
		r.events = append(r.events, load.Event{At: at, Text: thing + ": " + now})
	}
}

// Stop ends the watching.
func (r *Rolling) Stop() {
	r.stop()
	<-r.done
}

// Events are what was seen, with times.
func (r *Rolling) Events() []load.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]load.Event(nil), r.events...)
}

// Now is the rollout as last seen.
func (r *Rolling) Now() *v1alpha1.Rollout {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.Rollout.DeepCopy()
}

// Run is its run as last seen.
func (r *Rolling) Run() *v1alpha1.WorkflowRun {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.run.DeepCopy()
}

// Phase of the rollout with its message, for matchers.
func (r *Rolling) Phase() string {
	now := r.Now()
	return string(now.Status.Phase) + " " + now.Status.Message
}

// Ends waits until it has ended, in this phase.
func (r *Rolling) Ends(phase v1alpha1.RolloutPhase) {
	r.shop.Helper()
	r.shop.Eventually(func() bool { return r.Now().Status.Phase.Ended() }).Should(gomega.BeTrue(), "the rollout ends: %s", r.tell())
	r.shop.Expect(r.Now().Status.Phase).To(gomega.Equal(phase), "%s", r.tell())
}

// Waiting gives the step for which somebody must approve; nil if there is none.
func (r *Rolling) Waiting() *v1alpha1.StepStatus {
	run := r.Run()
	for i := range run.Status.Steps {
		if s := &run.Status.Steps[i]; s.Phase == v1alpha1.StepWaiting && s.Approval != nil {
			return s
		}
	}
	return nil
}

// Waits waits until somebody must approve it.
func (r *Rolling) Waits() *v1alpha1.StepStatus {
	r.shop.Helper()
	var step *v1alpha1.StepStatus
	r.shop.Eventually(func() bool {
		step = r.Waiting()
		return step != nil || r.Now().Status.Phase.Ended()
	}).Should(gomega.BeTrue(), "somebody must approve it: %s", r.tell())
	if step == nil {
		r.shop.Fatalf("the rollout has ended before anybody approved:\n%s", r.tell())
	}
	return step
}

// Approved waits until somebody must approve it, and does, as a person.
func (r *Rolling) Approved(person *Person) {
	r.shop.Helper()
	step := r.Waits()
	run := r.Run()
	c, err := person.Client(r.shop.Hub().Scheme())
	r.shop.Expect(err).NotTo(gomega.HaveOccurred())
	r.shop.Eventually(func() error {
		return client.IgnoreAlreadyExists(c.Create(r.shop.ctx, &v1alpha1.Approval{
			ObjectMeta: metav1.ObjectMeta{Namespace: r.shop.Tenant, Name: run.Name + "." + step.Name},
			Spec: v1alpha1.ApprovalSpec{
				Run: run.Name, RunUID: string(run.UID), Step: step.Name, Digest: step.Approval.Digest, Decision: v1alpha1.DecisionApproved,
			},
		}))
	}).WithTimeout(readyTimeout).Should(gomega.Succeed())
	r.shop.Eventually(func() bool {
		now := r.Waiting()
		return now == nil || now.Name != step.Name
	}).WithTimeout(readyTimeout).Should(gomega.BeTrue(), "the approval counts: %s", r.tell())
}

// Abort asks for it to go back.
func (r *Rolling) Abort() {
	r.shop.Helper()
	run := r.Run()
	r.shop.Update(run, func() { run.Spec.Aborted, run.Spec.Reason = true, "as the test wants it" })
}

// tell gives everything that was seen, in words.
func (r *Rolling) tell() string {
	var text strings.Builder
	for _, e := range r.Events() {
		fmt.Fprintf(&text, "%s %s\n", e.At.UTC().Format("15:04:05.000"), e.Text)
	}
	return r.Name + "\n" + text.String()
}

// Tell logs the steps of the run.
func (r *Rolling) Tell() {
	r.shop.Helper()
	r.shop.Log(r.tell())
}
