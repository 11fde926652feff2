package workflow

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"yunfan.io/yunfan/api/v1alpha1"
)

var (
	runsByPhase = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "yunfan_workflow_runs", Help: "Runs on the hub, by phase.",
	}, []string{"phase"})
	stepsEnded = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "yunfan_workflow_steps_total", Help: "Steps that have ended, by action and phase.",
	}, []string{"action", "result"})
	waited = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "yunfan_workflow_step_wait_seconds", Help: "Time from when a step could begin to its first call.",
		Buckets: []float64{0.01, 0.05, 0.1, 0.2, 0.5, 1, 5, 30, 120},
	})
	statusWrites = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "yunfan_workflow_status_writes_total", Help: "Writes of runs' statuses, by result: Written, Conflict or Failed.",
	}, []string{"result"})
)

func init() { //nolint:gochecknoinits // the one way to controller-runtime's registry
	metrics.Registry.MustRegister(runsByPhase, stepsEnded, waited, statusWrites)
}

// counter counts runs by phase now and then.
type counter struct{ client client.Client }

// countInterval is how old the number of runs by phase may be.
const countInterval = 15 * time.Second

// Start counts until ctx ends.
func (c *counter) Start(ctx context.Context) error {
	ticker := time.NewTicker(countInterval)
	defer ticker.Stop()
	for {
		c.count(ctx)
		select {
		case <-ctx.Done():
			runsByPhase.Reset()
			return nil
		case <-ticker.C:
		}
	}
}

func (c *counter) count(ctx context.Context) {
	var all v1alpha1.WorkflowRunList
	if err := c.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return // only when the cache ends
	}
	counts := map[v1alpha1.RunPhase]float64{
		v1alpha1.RunPending: 0, v1alpha1.RunRunning: 0, v1alpha1.RunWaiting: 0, v1alpha1.RunPaused: 0,
		v1alpha1.RunCompensating: 0, v1alpha1.RunSucceeded: 0, v1alpha1.RunFailed: 0, v1alpha1.RunAborted: 0,
	}
	for i := range all.Items {
		phase := all.Items[i].Status.Phase
		if phase == "" {
			phase = v1alpha1.RunPending
		}
		counts[phase]++
	}
	for phase, n := range counts {
		runsByPhase.WithLabelValues(string(phase)).Set(n)
	}
}

// countSteps counts the steps that have ended between two statuses.
func countSteps(before, after *v1alpha1.WorkflowRunStatus) {
	if after.Definition == nil {
		return
	}
	for i := range after.Steps {
		st := &after.Steps[i]
		was := v1alpha1.StepPending
		if i < len(before.Steps) {
			was = before.Steps[i].Phase
		}
		switch st.Phase {
		case v1alpha1.StepSucceeded, v1alpha1.StepFailed, v1alpha1.StepSkipped, v1alpha1.StepAborted, v1alpha1.StepCompensated:
			if was != st.Phase && i < len(after.Definition.Steps) {
				stepsEnded.WithLabelValues(after.Definition.Steps[i].Action, string(st.Phase)).Inc()
			}
		}
	}
}
