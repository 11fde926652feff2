package builtin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// fieldRunUID is by which the hub selects approvals.
const fieldRunUID = "spec.runUID"

// tally is the count of the approvals of one step.
type tally struct {
	call     *action.Call
	wanted   *v1alpha1.ApprovalWanted
	counted  []*v1alpha1.Approval // that approve, of different people
	rejected *v1alpha1.Approval
}

func (t *tally) decided() bool {
	return t.rejected != nil || len(t.counted) >= int(t.wanted.Count)
}

// count looks at all approvals of the step, and writes at each whether it counts. What is written stays: after a restart
// the same ones are counted again, once.
func (a *approve) count(ctx context.Context, t *tally) error {
	here := func(one v1alpha1.Approval) bool {
		return one.Spec.RunUID == string(t.call.UID) && one.Spec.Run == t.call.Run.Name && one.Spec.Step == t.call.Step
	}
	list := &v1alpha1.ApprovalList{}
	if err := a.hub.List(ctx, list, client.InNamespace(t.call.Run.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing approvals: %w", err)
	}
	if !slices.ContainsFunc(list.Items, here) {
		return nil
	}
	// Before anything is decided the hub itself is asked: the cache may be late.
	list = &v1alpha1.ApprovalList{}
	if err := a.live.List(ctx, list, client.InNamespace(t.call.Run.Namespace), client.MatchingFields{fieldRunUID: string(t.call.UID)}); err != nil {
		return fmt.Errorf("listing approvals: %w", err)
	}
	run := &v1alpha1.WorkflowRun{}
	if err := a.hub.Get(ctx, t.call.Run, run); err != nil {
		return fmt.Errorf("reading the run: %w", err)
	}
	owners := append(ownersOf(run), t.call.User)
	var open []*v1alpha1.Approval
	for i := range list.Items {
		one := &list.Items[i]
		switch accepted := meta.FindStatusCondition(one.Status.Conditions, v1alpha1.ConditionAccepted); {
		case !here(*one):
		case accepted == nil:
			open = append(open, one)
		case accepted.Status == metav1.ConditionTrue && one.Spec.Digest == t.wanted.Digest:
			t.add(one)
		}
	}
	slices.SortFunc(t.counted, earlier)
	slices.SortFunc(open, earlier)
	var failures []error
	for _, one := range open {
		v := judge(t.call.Run.Namespace, owners, t.wanted, one)
		if v.counts() {
			v = t.room(one)
		}
		if err := accept(ctx, a.hub, one, v); err != nil {
			failures = append(failures, err)
		} else if v.counts() {
			t.add(one)
			t.call.Log("%s: %s %s", v1alpha1.PlainName(one.Spec.User.Name), one.Spec.Decision, cut(one.Spec.Comment, 300))
		}
	}
	return errors.Join(failures...)
}

func earlier(a, b *v1alpha1.Approval) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

func (t *tally) add(one *v1alpha1.Approval) {
	if one.Spec.Decision == v1alpha1.DecisionRejected {
		t.rejected = one
		return
	}
	t.counted = append(t.counted, one)
}

// room says whether an approval that counts by itself counts beside those before it. Who has approved may still reject.
func (t *tally) room(one *v1alpha1.Approval) verdict {
	same := func(other *v1alpha1.Approval) bool { return other.Spec.User.Name == one.Spec.User.Name }
	switch {
	case t.decided():
		return refuse(reasonAlreadyDecided, "step %s was decided before", t.call.Step)
	case one.Spec.Decision == v1alpha1.DecisionApproved && slices.ContainsFunc(t.counted, same):
		return refuse(reasonAlreadyDecided, "%s has approved already: it takes different people", v1alpha1.PlainName(one.Spec.User.Name))
	}
	return verdict{reasonCounted, "it counts"}
}

// accept writes whether an approval counts, unless somebody has changed it in between.
func accept(ctx context.Context, hub client.Client, one *v1alpha1.Approval, v verdict) error {
	status := metav1.ConditionFalse
	if v.counts() {
		status = metav1.ConditionTrue
	}
	meta.SetStatusCondition(&one.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionAccepted, Status: status, Reason: v.reason, Message: v.message, ObservedGeneration: one.Generation,
	})
	if err := hub.Status().Update(ctx, one); err != nil {
		return fmt.Errorf("writing whether approval %s counts: %w", one.Name, err)
	}
	return nil
}

// message says who is waited for.
func (t *tally) message() string {
	var have string
	if t.wanted.Count > 1 {
		have = fmt.Sprintf("%d of %d have approved; ", len(t.counted), t.wanted.Count)
	}
	return cut(have+"waits for approval by "+deciders(t.wanted), 1000)
}

// outcome of a step that was decided.
func (t *tally) outcome(in *approveInputs) (action.Outcome, error) {
	deciding := t.counted
	if t.rejected != nil {
		deciding = []*v1alpha1.Approval{t.rejected}
	}
	outputs := map[string]any{"decision": deciding[0].Spec.Decision}
	approved := maps.Clone(t.wanted.Values)
	if approved == nil {
		approved = map[string]json.RawMessage{}
	}
	var by, comments []string
	for _, one := range deciding {
		by = append(by, v1alpha1.PlainName(one.Spec.User.Name))
		if one.Spec.Comment != "" {
			comments = append(comments, one.Spec.Comment)
		}
		maps.Copy(approved, one.Spec.Values)
	}
	comment := cut(strings.Join(comments, "\n"), maxComment)
	if t.rejected != nil && in.OnRejection != onRejectionContinue {
		return action.Outcome{}, action.Failed(fmt.Errorf("rejected by %s: %s", by[0], comment))
	}
	outputs["by"], outputs["comment"], outputs["values"] = by, comment, approved
	out := action.Done(outputs)
	out.Actor = cut(strings.Join(by, ", "), 320)
	return out, nil
}
