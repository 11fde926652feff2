package delivery

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/reconcile"
)

// urgency orders the reasons of components for the Delivery's own: first what somebody has to do something about.
var urgency = []string{
	v1alpha1.ReasonRefused, v1alpha1.ReasonQuotaExceeded, v1alpha1.ReasonImagePull, v1alpha1.ReasonConfigError, v1alpha1.ReasonOOMKilled,
	v1alpha1.ReasonCrashLoop, v1alpha1.ReasonUnschedulable, v1alpha1.ReasonNotReady, v1alpha1.ReasonReconciling, v1alpha1.ReasonWaitingForDependency,
}

func setCondition(d *v1alpha1.Delivery, kind string, status metav1.ConditionStatus, reason, message string) {
	reconcile.SetCondition(d, kind, status, reason, message)
}

// conclude makes the Delivery's status from those of its components.
func (r *run) conclude(failure error) {
	d := r.delivery
	var components []observed
	d.Status.Tracks = nil
	for _, track := range r.plan.tracks {
		mine := r.observedIn(track.Role)
		status := v1alpha1.TrackStatus{Role: track.Role, Revision: track.Revision}
		for _, o := range mine {
			status.Components = append(status.Components, o.ComponentStatus)
		}
		d.Status.Tracks = append(d.Status.Tracks, status)
		components = append(components, mine...)
	}
	d.Status.ObservedGeneration = d.Generation

	switch behind := worst(components, func(o observed) bool { return o.Revision != o.of.revision || r.refused(o.of) != nil }); {
	case failure != nil:
		_, reason, _ := reconcile.Outcome(failure)
		setCondition(d, v1alpha1.ConditionApplied, metav1.ConditionFalse, reason, failure.Error())
	case behind != nil:
		setCondition(d, v1alpha1.ConditionApplied, metav1.ConditionFalse, behind.Reason, behind.told())
	default:
		setCondition(d, v1alpha1.ConditionApplied, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
	}
	switch ill := worst(components, func(o observed) bool { return o.Reason != "" }); {
	case failure != nil:
		setCondition(d, v1alpha1.ConditionHealthy, metav1.ConditionFalse, v1alpha1.ReasonReconciling, "not everything is applied: "+failure.Error())
	case ill != nil:
		setCondition(d, v1alpha1.ConditionHealthy, metav1.ConditionFalse, ill.Reason, messages(components, ill))
	case d.Spec.Stopped:
		setCondition(d, v1alpha1.ConditionHealthy, metav1.ConditionTrue, v1alpha1.ReasonStopped, "")
	default:
		setCondition(d, v1alpha1.ConditionHealthy, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
	}
}

// observed is the status of a component of the plan.
type observed struct {
	v1alpha1.ComponentStatus

	of *component
}

// told names the component with what is wrong with it.
func (o *observed) told() string {
	if o.of.role == v1alpha1.TrackCandidate {
		return "candidate of " + o.Name + ": " + o.Message
	}
	return o.Name + ": " + o.Message
}

// observedIn are the components of one track, by name. What the stable track lends is told there.
func (r *run) observedIn(role v1alpha1.TrackRole) []observed {
	var out []observed
	for i := range r.plan.components {
		if c := &r.plan.components[i]; c.role == role && !c.lent {
			out = append(out, observed{r.statuses[c.part], c})
		}
	}
	slices.SortFunc(out, func(a, b observed) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// worst finds the most urgent component of those chosen; nil if there is none.
func worst(components []observed, chosen func(observed) bool) *observed {
	var out *observed
	for i := range components {
		c := &components[i]
		if chosen(*c) && (out == nil || slices.Index(urgency, c.Reason) < slices.Index(urgency, out.Reason)) {
			out = c
		}
	}
	return out
}

// messages lists the components that are not ready, the most urgent first.
func messages(components []observed, first *observed) string {
	const limit = 5
	out := []string{first.told()}
	for i := range components {
		if c := &components[i]; c != first && c.Reason != "" && len(out) < limit {
			out = append(out, c.told())
		}
	}
	return strings.Join(out, "; ")
}

// markUnplanned tells why a Delivery cannot be applied at all. What runs goes on as it was last seen.
func markUnplanned(d *v1alpha1.Delivery, err error) (ctrl.Result, error) {
	result, reason, failure := reconcile.Outcome(err)
	d.Status.ObservedGeneration = d.Generation
	setCondition(d, v1alpha1.ConditionApplied, metav1.ConditionFalse, reason, err.Error())
	setCondition(d, v1alpha1.ConditionHealthy, metav1.ConditionFalse, reason, err.Error())
	return result, failure
}

// markLost tells that the member cannot be asked: what is shown is what was last seen, at that time.
func markLost(d *v1alpha1.Delivery, reason, message string, seen time.Time) {
	setCondition(d, v1alpha1.ConditionHealthy, metav1.ConditionUnknown, reason, message)
	applied := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ConditionApplied)
	if applied == nil || applied.Status != metav1.ConditionTrue || applied.ObservedGeneration != d.Generation {
		setCondition(d, v1alpha1.ConditionApplied, metav1.ConditionFalse, reason, message)
	}
	if !seen.IsZero() {
		at := metav1.NewTime(seen.Truncate(time.Second))
		d.Status.LastSeenTime = &at
	}
}

func lostMessage(d *v1alpha1.Delivery, s member.State) string {
	what := "what is shown was last seen then; it goes on when the cluster is back"
	if !d.DeletionTimestamp.IsZero() {
		what = "its objects are removed when the cluster is back"
	}
	return fmt.Sprintf("cluster %s does not answer (%s): %s", d.Spec.Cluster, s.Message, what)
}

// write stores the status if it has changed, with the time at which it was seen.
func (r *reconciler) write(ctx context.Context, rec *record, before, d *v1alpha1.Delivery) error {
	if rec.status != nil {
		before.Status = *rec.status // written in between
	}
	if equality.Semantic.DeepEqual(before.Status, d.Status) {
		return nil
	}
	if answering, _ := r.member.Answering(); answering {
		now := metav1.Now().Rfc3339Copy()
		d.Status.LastSeenTime = &now
	}
	if err := patchStatus(ctx, r.hub, before, d); err != nil {
		return err
	}
	rec.wrote(d)
	return nil
}

func patchStatus(ctx context.Context, hub client.Client, before, d *v1alpha1.Delivery) error {
	base := before.DeepCopy()
	base.ResourceVersion = d.ResourceVersion // it may have been written in between
	return reconcile.PatchStatus(ctx, hub, base, d)
}

// wrote remembers the status that the hub has now, until its cache shows it.
func (rec *record) wrote(d *v1alpha1.Delivery) {
	rec.status, rec.version, rec.lastWritten = d.Status.DeepCopy(), d.ResourceVersion, time.Now()
}
