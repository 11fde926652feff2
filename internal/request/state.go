package request

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

// occurrence is a phase that a request came to.
type occurrence struct {
	phase v1alpha1.RequestPhase
	at    metav1.Time
	// actor is who brought it about; empty where it was the platform.
	actor string
}

// state is what is known of a request from its run.
type state struct {
	events []occurrence
	// message says what it waits for, or why it ended.
	message string
	granted *v1alpha1.GrantedResources
	by      []string
	comment string
	// asked and evidence are what was found before it was decided.
	asked    corev1.ResourceList
	evidence *Evidence
	// rejectable says that a step that asks people has failed: if one of them rejected it, so is the request.
	rejectable bool
}

// carried is a step of a run with what it does.
type carried struct {
	*v1alpha1.StepStatus

	action string
}

// stepsOf gives the steps of a run by their action, in the order of the definition.
func stepsOf(run *v1alpha1.WorkflowRun) map[string][]carried {
	steps := map[string][]carried{}
	if run == nil || run.Status.Definition == nil {
		return steps
	}
	does := map[string]string{}
	for _, s := range run.Status.Definition.Steps {
		does[s.Name] = s.Action
	}
	for i := range run.Status.Steps {
		s := &run.Status.Steps[i]
		steps[does[s.Name]] = append(steps[does[s.Name]], carried{s, does[s.Name]})
	}
	return steps
}

// stateOf reads from a run how far its request has come. It looks at what steps do and not at their names, so that
// administrators may change the workflow.
func stateOf(req *v1alpha1.ResourceRequest, run *v1alpha1.WorkflowRun) *state {
	s := &state{events: []occurrence{{v1alpha1.RequestApplied, req.CreationTimestamp, person(req.Spec.User)}}}
	steps := stepsOf(run)
	for _, c := range steps["request.check"] {
		s.read(c.Outputs["quota"], &s.asked)
		s.read(c.Outputs["evidence"], &s.evidence)
	}
	s.decision(steps)
	for _, c := range steps["request.allocate"] {
		if c.StartTime != nil {
			s.add(v1alpha1.RequestApproved, cmp.Or(lastDecision(steps), c.StartTime), strings.Join(s.by, ", "))
		}
		if !ended(c) {
			continue
		}
		s.granted = grantedBy(c)
		if truth(c.Outputs["returned"]) {
			s.add(v1alpha1.RequestReturned, c.FinishTime, "")
			continue
		}
		s.add(v1alpha1.RequestAllocated, c.FinishTime, "")
	}
	s.later(steps)
	if run != nil {
		s.words(run)
	}
	return s
}

// decision takes who decided, and what they wrote.
func (s *state) decision(steps map[string][]carried) {
	for _, c := range steps["approve"] {
		if c.Phase == v1alpha1.StepFailed {
			s.rejectable = true
		}
		var by []string
		var comment string
		s.read(c.Outputs["by"], &by)
		s.read(c.Outputs["comment"], &comment)
		for _, name := range by {
			if !slices.Contains(s.by, name) {
				s.by = append(s.by, name)
			}
		}
		s.comment = strings.TrimPrefix(s.comment+"\n"+comment, "\n")
	}
}

// later takes what became of the partition after it was given.
func (s *state) later(steps map[string][]carried) {
	for _, c := range steps["request.activate"] {
		if ended(c) && truth(c.Outputs["active"]) {
			s.add(v1alpha1.RequestActive, c.FinishTime, "")
		}
	}
	for _, c := range steps["request.term"] {
		if ended(c) && truth(c.Outputs["ended"]) {
			s.add(v1alpha1.RequestExpired, c.FinishTime, "")
		}
	}
	for _, c := range steps["request.reclaim"] {
		switch {
		case !ended(c):
		case truth(c.Outputs["returned"]):
			s.add(v1alpha1.RequestReturned, c.FinishTime, "")
		default:
			s.add(v1alpha1.RequestActive, c.FinishTime, "")
		}
	}
}

// words are the message of the request: that of the step at which its run is, or of the run itself.
func (s *state) words(run *v1alpha1.WorkflowRun) {
	for i := range run.Status.Steps {
		step := &run.Status.Steps[i]
		switch step.Phase {
		case v1alpha1.StepRunning, v1alpha1.StepWaiting, v1alpha1.StepCompensating:
			s.message = step.Message
		case v1alpha1.StepFailed:
			if s.message == "" {
				s.message = step.Message
			}
		case v1alpha1.StepPending, v1alpha1.StepSucceeded, v1alpha1.StepSkipped, v1alpha1.StepAborted, v1alpha1.StepCompensated:
		}
	}
	if run.Spec.Paused && !run.Status.Phase.Finished() {
		s.message = strings.TrimSuffix(fmt.Sprintf("the run is paused by %s: %s", person(run.Spec.ChangedBy), run.Spec.Reason), ": ")
	}
	if run.Status.Phase == v1alpha1.RunAborted || s.message == "" && run.Status.Phase.Finished() && run.Status.Phase != v1alpha1.RunSucceeded {
		s.message = run.Status.Message
	}
}

func (s *state) add(phase v1alpha1.RequestPhase, at *metav1.MicroTime, actor string) {
	when := metav1.Now()
	if at != nil {
		when = metav1.NewTime(at.Time)
	}
	s.events = append(s.events, occurrence{phase, when, actor})
}

// read takes an output of a step; one that is not as it should be is left out, for an administrator may have changed the
// workflow.
func (*state) read(raw json.RawMessage, into any) {
	if len(raw) > 0 {
		_ = json.Unmarshal(raw, into)
	}
}

func ended(c carried) bool { return c.Phase == v1alpha1.StepSucceeded }

func truth(raw json.RawMessage) bool { return string(raw) == "true" }

// lastDecision is when the last of those who had to approve did.
func lastDecision(steps map[string][]carried) (last *metav1.MicroTime) {
	for _, c := range steps["approve"] {
		if ended(c) && c.FinishTime != nil && (last == nil || last.Before(c.FinishTime)) {
			last = c.FinishTime
		}
	}
	return last
}

func grantedBy(c carried) *v1alpha1.GrantedResources {
	g := &v1alpha1.GrantedResources{}
	until := ""
	for name, into := range map[string]any{"cluster": &g.Cluster, "partition": &g.Partition, "quota": &g.Quota, "until": &until} {
		if raw := c.Outputs[name]; len(raw) > 0 {
			_ = json.Unmarshal(raw, into) // an output of our own
		}
	}
	if t, err := time.Parse(time.RFC3339, until); err == nil {
		g.Until = &metav1.Time{Time: t.UTC()}
	}
	return g
}
