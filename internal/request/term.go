package request

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

const (
	// patience is how long a partition may say that it cannot be set up before it is believed.
	patience = 3 * time.Minute
	// longestSetup is how long a cluster that does not answer is waited for.
	longestSetup = 24 * time.Hour
)

// activate is the action that waits until what was given can be used.
type activate struct{ *Requests }

// Describe tells the action's inputs and outputs.
func (*activate) Describe() action.Description {
	return action.Description{
		Name: "request.activate", Internal: true, Timeout: longestSetup,
		Summary: "Waits until the partition of a resource request is ready; then the applicant is told.",
		Inputs:  inputFields,
		Outputs: []action.Field{{Name: "active", Type: v1alpha1.TypeBoolean, Doc: "The partition can be used; false for one that was given back."}},
	}
}

// Run looks at the partition.
func (a *activate) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	req, err := a.asked(ctx, call)
	if err != nil {
		return action.Outcome{}, err
	}
	if req.Spec.Wanted.Type == v1alpha1.RequestReturn {
		return action.Done(map[string]any{"active": false}), nil
	}
	p, err := a.partition(ctx, req.Namespace, req.Spec.Wanted.Partition)
	if err != nil {
		return action.Outcome{}, err
	}
	if !isApplied(p, req.UID) || !p.DeletionTimestamp.IsZero() {
		return action.Outcome{}, action.Failed(fmt.Errorf("partition %s was deleted before it could be used", req.Spec.Wanted.Partition))
	}
	ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
	switch {
	case ready == nil || ready.ObservedGeneration != p.Generation:
		return action.Again(soon, fmt.Sprintf("partition %s is being set up in cluster %s", p.Name, p.Spec.Cluster)), nil
	case ready.Status == metav1.ConditionTrue:
		return action.Done(map[string]any{"active": true}), nil
	}
	problem := fmt.Sprintf("partition %s cannot be set up in cluster %s (%s): %s", p.Name, p.Spec.Cluster, ready.Reason, ready.Message)
	if hopeless(ready.Reason) && a.Now().Sub(call.Started) > patience {
		return action.Outcome{}, action.Failed(fmt.Errorf("%s", problem))
	}
	return action.Again(soon, problem), nil
}

// hopeless says whether a partition waits for somebody to change something: those who asked cannot.
func hopeless(reason string) bool {
	switch reason {
	case v1alpha1.ReasonClusterNotFound, v1alpha1.ReasonInvalid, v1alpha1.ReasonNamespaceTaken, v1alpha1.ReasonQuotaExceeded:
		return true
	}
	return false
}

// term is the action that waits for the end of a partition's term.
type term struct{ *Requests }

// Describe tells the action's inputs and outputs.
func (*term) Describe() action.Description {
	return action.Description{
		Name: "request.term", Internal: true, Timeout: action.NoTimeout,
		Summary: "Waits for the end of the term of a resource request and gives notice of it. A later request for the partition takes the term over.",
		Inputs:  inputFields,
		Outputs: []action.Field{
			{Name: "ended", Type: v1alpha1.TypeBoolean, Doc: "The term is over, and the partition is to be given back."},
			{Name: "until", Type: v1alpha1.TypeString, Doc: "When it ended, as RFC 3339."},
			{Name: "reason", Type: v1alpha1.TypeString, Doc: "Why this request waits no longer."},
		},
	}
}

// noticed is the end of which notice was given.
type noticed struct {
	Until string `json:"until"`
}

// Run reads the term anew each time: it may have been moved, and so may the clock.
func (a *term) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	req, p, err := a.about(ctx, call)
	if err != nil {
		return action.Outcome{}, err
	}
	over := func(ended bool, until *metav1.Time, reason string) (action.Outcome, error) {
		out := action.Done(map[string]any{"ended": ended, "until": timeText(until), "reason": reason})
		out.Message = reason
		return out, nil
	}
	if !isApplied(p, req.UID) {
		if req.Spec.Wanted.Type == v1alpha1.RequestReturn {
			return over(false, nil, "it was given back")
		}
		return over(true, nil, "the partition does not exist any more")
	}
	until, err := endOf(p)
	switch now := a.Now(); {
	case err != nil:
		return action.Outcome{}, err
	case !holds(p, req):
		return over(false, until, carriedBy(p))
	case until == nil:
		return over(false, nil, "it has no end any more")
	case !until.After(now):
		return over(true, until, "the term ended "+day(until))
	}
	return a.wait(ctx, call, req, p, until)
}

func carriedBy(p *v1alpha1.Partition) string {
	if p.Annotations[annotationHolder] == "" {
		return "it has no end"
	}
	return "request " + nameOf(p.Annotations[annotationHolder]) + " carries the term from now on"
}

// wait gives notice when it is time, and waits on.
func (a *term) wait(ctx context.Context, call *action.Call, req *v1alpha1.ResourceRequest, p *v1alpha1.Partition, until *metav1.Time) (action.Outcome, error) {
	told := noticed{}
	if _, err := call.Remembered(&told); err != nil {
		return action.Outcome{}, err
	}
	begin := call.Started
	if until.Sub(begin) < 0 {
		begin = p.CreationTimestamp.Time
	}
	const part = 4
	notice := min(a.Notice, until.Sub(begin)/part)
	left := until.Sub(a.Now())
	next := left - notice
	message := "active until " + day(until)
	if told.Until == timeText(until) {
		next = left
	} else if next <= 0 {
		if err := a.tellExpiring(ctx, req, until); err != nil {
			return action.Outcome{}, err
		}
		told.Until, next = timeText(until), left
		call.Log("notice was given that the term ends %s", day(until))
	}
	if told.Until == timeText(until) {
		message += "; notice was given"
	}
	return action.Outcome{Again: max(min(next, look), time.Millisecond), Message: message, Waiting: true, State: told}, nil
}

// reclaim is the action that gives a partition back whose term is over.
type reclaim struct{ *Requests }

// Describe tells the action's inputs and outputs.
func (*reclaim) Describe() action.Description {
	return action.Description{
		Name: "request.reclaim", Internal: true, Timeout: action.NoTimeout,
		Summary: "Gives the partition of a resource request back at the end of its term. Nothing that runs is destroyed: the quota is frozen at what is used, both sides are told daily, and it is given back when it is empty.",
		Inputs:  inputFields,
		Outputs: []action.Field{
			{Name: "returned", Type: v1alpha1.TypeBoolean, Doc: "The partition is gone and the tenant's quota lowered by what was added for it."},
			{Name: "reason", Type: v1alpha1.TypeString, Doc: "Why it was not given back."},
		},
	}
}

// reminded is the day on which both sides were last told that a partition is in use after its term.
type reminded struct {
	Day string `json:"day"`
}

// Run gives back what is empty, and waits for what is not.
func (a *reclaim) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	req, p, err := a.about(ctx, call)
	if err != nil {
		return action.Outcome{}, err
	}
	if !isApplied(p, req.UID) {
		if err := a.giveBack(ctx, req.Namespace, req.Spec.Wanted.Partition, req.UID); err != nil {
			return action.Outcome{}, err
		}
		return action.Done(map[string]any{"returned": true, "reason": ""}), nil
	}
	until, err := endOf(p)
	if err != nil {
		return action.Outcome{}, err
	}
	if p.DeletionTimestamp.IsZero() {
		reason := ""
		switch {
		case !holds(p, req):
			reason = carriedBy(p)
		case until == nil || until.After(a.Now()):
			reason = "the term was moved: " + untilWords(until)
		}
		if reason != "" {
			return action.Done(map[string]any{"returned": false, "reason": reason}), nil
		}
	}
	if err := call.Fence(ctx); err != nil {
		return action.Outcome{}, err
	}
	out, err := a.empty(ctx, p)
	if err != nil || !out.Waiting {
		return out, err
	}
	return a.hold(ctx, call, req, out)
}

// hold keeps a partition that is in use from growing, and reminds both sides every day.
func (a *reclaim) hold(ctx context.Context, call *action.Call, req *v1alpha1.ResourceRequest, out action.Outcome) (action.Outcome, error) {
	if err := a.freeze(ctx, req); err != nil {
		return action.Outcome{}, err
	}
	last := reminded{}
	if _, err := call.Remembered(&last); err != nil {
		return action.Outcome{}, err
	}
	if today := a.Now().UTC().Format(time.DateOnly); last.Day != today {
		if err := a.tellInUse(ctx, req, today, out.Message); err != nil {
			return action.Outcome{}, err
		}
		call.Log("both sides were told: %s", out.Message)
		last.Day = today
	}
	out.State = last
	return out, nil
}
