package builtin

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Why an approval counts or does not: reasons of its condition Accepted.
const (
	reasonCounted         = "Counted"
	reasonOwnRun          = "OwnRun"
	reasonNotAllowed      = "NotAllowed"
	reasonNotWaiting      = "NotWaiting"
	reasonDigestMismatch  = "DigestMismatch"
	reasonAlreadyDecided  = "AlreadyDecided"
	reasonValueNotAllowed = "ValueNotAllowed"
)

// verdict is what becomes of one approval.
type verdict struct {
	reason, message string
}

func (v verdict) counts() bool { return v.reason == reasonCounted }

func refuse(reason, format string, args ...any) verdict {
	return verdict{reason, fmt.Sprintf(format, args...)}
}

// judge says whether an approval counts for a step that waits for what is wanted. It knows nothing of other approvals.
// The action, admission and the controller all ask it.
func judge(tenant string, owners []v1alpha1.Actor, wanted *v1alpha1.ApprovalWanted, a *v1alpha1.Approval) verdict {
	user := a.Spec.User
	switch {
	case user == nil || user.Name == "":
		return refuse(reasonNotAllowed, "it does not say who decided: admission writes that")
	case a.Spec.Digest != wanted.Digest:
		return refuse(reasonDigestMismatch, "it is for digest %s, and what is to be decided now has digest %s: look at the step again", a.Spec.Digest, wanted.Digest)
	case slices.ContainsFunc(owners, func(o v1alpha1.Actor) bool { return o.Name == user.Name }):
		return refuse(reasonOwnRun, "%s started or retried the run: somebody else must decide", v1alpha1.PlainName(user.Name))
	case !wanted.MayDecide(tenant, user):
		return refuse(reasonNotAllowed, "%s is none of those who may decide: %s", v1alpha1.PlainName(user.Name), deciders(wanted))
	}
	if err := checkValues(wanted, a); err != nil {
		return refuse(reasonValueNotAllowed, "%v", err)
	}
	return verdict{reasonCounted, "it counts"}
}

// deciders names those who may decide.
func deciders(wanted *v1alpha1.ApprovalWanted) string {
	var out []string
	for _, role := range wanted.Roles {
		out = append(out, "role "+string(role))
	}
	for _, user := range wanted.Users {
		out = append(out, "user "+user)
	}
	return strings.Join(out, ", ")
}

// checkValues refuses values that the step does not let an approval change, and those of another type.
func checkValues(wanted *v1alpha1.ApprovalWanted, a *v1alpha1.Approval) error {
	size := 0
	for _, name := range slices.Sorted(maps.Keys(a.Spec.Values)) {
		value := a.Spec.Values[name]
		if size += len(name) + len(value); size > maxGiven {
			return fmt.Errorf("the values have more than %d bytes", maxGiven)
		}
		if !slices.Contains(wanted.Editable, name) {
			if len(wanted.Editable) == 0 {
				return fmt.Errorf("value %s cannot be changed: the step lets none be", cut(name, 100))
			}
			return fmt.Errorf("value %s cannot be changed: the step lets %s be", cut(name, 100), strings.Join(wanted.Editable, ", "))
		}
		asked := kindOf(wanted.Values[name])
		if given := kindOf(value); given != asked {
			return fmt.Errorf("value %s is %s, and %s is asked for", name, given, asked)
		}
	}
	return nil
}

// kindOf names the type of a JSON value.
func kindOf(raw []byte) string {
	text := strings.TrimSpace(string(raw))
	if text == "" {
		return "nothing"
	}
	switch text[0] {
	case '"':
		return "a text"
	case '{':
		return "an object"
	case '[':
		return "a list"
	case 't', 'f':
		return "true or false"
	case 'n':
		return "null"
	}
	return "a number"
}

// ownersOf are those who may not decide on the run: who started it and who last retried it.
func ownersOf(run *v1alpha1.WorkflowRun) []v1alpha1.Actor {
	var out []v1alpha1.Actor
	for _, actor := range []*v1alpha1.Actor{run.Spec.User, run.Status.RetriedBy} {
		if actor != nil {
			out = append(out, *actor)
		}
	}
	// A retry that was asked for, and that no server has seen yet.
	if run.Spec.Retry != nil && run.Spec.Retry.Number > run.Status.Retries && run.Spec.ChangedBy != nil {
		out = append(out, *run.Spec.ChangedBy)
	}
	return out
}

// judgeRun says whether an approval counts for what the run's step waits for now.
func judgeRun(run *v1alpha1.WorkflowRun, a *v1alpha1.Approval) verdict {
	if string(run.UID) != a.Spec.RunUID {
		return refuse(reasonNotWaiting, "run %s is another one than that which it is for: look at the run again", a.Spec.Run)
	}
	at := slices.IndexFunc(run.Status.Steps, func(s v1alpha1.StepStatus) bool { return s.Name == a.Spec.Step })
	if at < 0 {
		return refuse(reasonNotWaiting, "run %s has no step %s", a.Spec.Run, a.Spec.Step)
	}
	step := &run.Status.Steps[at]
	switch {
	case step.Phase == v1alpha1.StepSucceeded || step.Phase == v1alpha1.StepFailed:
		return refuse(reasonAlreadyDecided, "step %s waits no longer, it has ended: %s", step.Name, cmp.Or(step.Message, string(step.Phase)))
	case step.Approval == nil || step.Phase != v1alpha1.StepWaiting && step.Phase != v1alpha1.StepRunning, run.Status.Phase.Finished():
		return refuse(reasonNotWaiting, "step %s waits for no approval, it is %s", step.Name, cmp.Or(step.Phase, v1alpha1.StepPending))
	}
	return judge(run.Namespace, ownersOf(run), step.Approval, a)
}
