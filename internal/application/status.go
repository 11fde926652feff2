package application

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

const (
	// statusPause is the time between two writes of an application's status while its pods come up one by one.
	statusPause = 200 * time.Millisecond
	// seenPause is how old the time at which a healthy partition was seen may become before it alone is worth a write.
	seenPause = 30 * time.Second
	// conflictPause is how soon a write is tried again that met another's.
	conflictPause = 50 * time.Millisecond

	removing = "being removed from this partition"
)

// summarize sets the application's status from its deliveries and from what came of delivering: p is nil if it was
// refused.
func (w *world) summarize(p *Plan, err error) {
	app := w.app
	app.Status.ObservedGeneration = app.Generation
	explanations := map[string][]string{}
	earlier := map[string]*v1alpha1.PlacementStatus{}
	for i := range app.Status.Placements {
		placed := app.Status.Placements[i]
		earlier[placed.Partition], explanations[placed.Partition] = &placed, placed.Explanation
	}
	wanted := map[string]bool{}
	if p != nil {
		for i := range p.Assignments {
			wanted[p.Assignments[i].Partition] = true
			explanations[p.Assignments[i].Partition] = p.Assignments[i].Explanation
		}
	}
	var placements []v1alpha1.PlacementStatus
	var ready, desired int32
	for _, partition := range sortedKeys(w.deliveries) {
		d := w.deliveries[partition]
		placed := placementStatus(d)
		placed.Explanation = explanations[partition]
		if p != nil && !wanted[partition] {
			placed.Explanation = nil
			if placed.Reason != v1alpha1.ReasonUnreachable {
				placed.Reason, placed.Message = v1alpha1.ReasonDeleting, removing
			}
		}
		placed.LastSeenTime = lastSeen(earlier[partition], &placed)
		ready, desired = ready+placed.Ready, desired+placed.Desired
		placements = append(placements, placed)
	}
	if p != nil {
		placements = w.awaiting(w.waiting(p, placements), p)
	}
	app.Status.Placements = placements
	app.Status.Pods = fmt.Sprintf("%d/%d", ready, desired)
	w.setConditions(p, err)
}

// lastSeen is when a partition was seen. While nothing else changes it is renewed now and then only, so that it causes
// few writes.
func lastSeen(earlier, now *v1alpha1.PlacementStatus) *metav1.Time {
	if earlier == nil || earlier.LastSeenTime == nil || now.LastSeenTime == nil {
		return now.LastSeenTime
	}
	age := now.LastSeenTime.Sub(earlier.LastSeenTime.Time)
	if earlier.Ready == now.Ready && earlier.Reason == now.Reason && age > 0 && age < seenPause {
		return earlier.LastSeenTime
	}
	return now.LastSeenTime
}

// placementStatus is one partition as its Delivery tells it.
func placementStatus(d *v1alpha1.Delivery) v1alpha1.PlacementStatus {
	s := v1alpha1.PlacementStatus{Partition: d.Spec.Partition, Cluster: d.Spec.Cluster, LastSeenTime: d.Status.LastSeenTime}
	for _, track := range d.Status.Tracks {
		if track.Role == v1alpha1.TrackStable {
			s.Revision = track.Revision
		}
		for i := range track.Components {
			s.Desired += track.Components[i].Desired
			s.Ready += track.Components[i].Ready
		}
	}
	healthy, reason, message := health(d)
	if !healthy {
		s.Reason, s.Message = reason, message
	}
	if len(d.Status.Tracks) == 0 && !d.Spec.Stopped {
		for _, n := range stableTrack(d).Replicas {
			s.Desired += n
		}
	}
	return s
}

// health says whether a partition has all that it should, and if not why. What it was told for an older spec does not
// count as healthy, but that it cannot be reached does count.
func health(d *v1alpha1.Delivery) (healthy bool, reason, message string) {
	if d.DeletionTimestamp != nil {
		reason, message = v1alpha1.ReasonDeleting, removing
	}
	for _, kind := range []string{v1alpha1.ConditionApplied, v1alpha1.ConditionHealthy} {
		c := meta.FindStatusCondition(d.Status.Conditions, kind)
		if c == nil || c.Status == metav1.ConditionTrue {
			continue
		}
		if d.Status.ObservedGeneration == d.Generation && reason == "" || c.Reason == v1alpha1.ReasonUnreachable {
			return false, c.Reason, c.Message
		}
	}
	switch {
	case reason != "":
		return false, reason, message
	case d.Status.ObservedGeneration != d.Generation || len(d.Status.Conditions) == 0:
		return false, v1alpha1.ReasonReconciling, "not applied yet"
	}
	return true, "", ""
}

// setConditions sums up the placements and the rollout, or says why the application was refused.
func (w *world) setConditions(p *Plan, err error) {
	app := w.app
	if err != nil {
		_, reason, _ := reconcile.Outcome(err)
		progressing := metav1.ConditionFalse
		if reason == v1alpha1.ReasonReconciling || reason == v1alpha1.ReasonDeleting {
			progressing = metav1.ConditionTrue
		}
		reconcile.SetCondition(app, v1alpha1.ConditionReady, metav1.ConditionFalse, reason, err.Error())
		reconcile.SetCondition(app, v1alpha1.ConditionProgressing, progressing, reason, err.Error())
		return
	}
	reason, message := unready(app.Status.Placements)
	moving, why, told, ok := w.rolling(p)
	if ok && moving == metav1.ConditionTrue && weight(reason) == 0 {
		reason, message = why, told // all that it has may be healthy, but it is not what is asked for
	}
	if ok {
		reconcile.SetCondition(app, v1alpha1.ConditionProgressing, moving, why, told)
	}
	switch {
	case ok && reason != "":
		reconcile.SetCondition(app, v1alpha1.ConditionReady, metav1.ConditionFalse, reason, message)
		return
	case reason != "":
		reconcile.SetCondition(app, v1alpha1.ConditionReady, metav1.ConditionFalse, reason, message)
		progressing := metav1.ConditionTrue
		if reason == v1alpha1.ReasonApprovalRejected {
			progressing = metav1.ConditionFalse // until somebody changes it
		}
		reconcile.SetCondition(app, v1alpha1.ConditionProgressing, progressing, reason, message)
		return
	case app.Spec.Stopped:
		reason, message = v1alpha1.ReasonStopped, "stopped by spec.stopped: it has no pods until it is started"
	default:
		reason = v1alpha1.ReasonReady
	}
	reconcile.SetCondition(app, v1alpha1.ConditionReady, metav1.ConditionTrue, reason, message)
	if !ok {
		reconcile.SetCondition(app, v1alpha1.ConditionProgressing, metav1.ConditionFalse, reason, "")
	}
}

// unready gives the reason that matters most and what each partition lacks; empty if nothing is missing. That something
// is under way matters less than that it fails.
func unready(placements []v1alpha1.PlacementStatus) (reason, message string) {
	var parts []string
	for i := range placements {
		s := &placements[i]
		if s.Reason == "" {
			continue
		}
		if reason == "" || weight(s.Reason) > weight(reason) {
			reason = s.Reason
		}
		parts = append(parts, s.Partition+": "+s.Message)
	}
	return reason, strings.Join(parts, "; ")
}

// weight orders reasons: what fails matters more than what waits for people, and that more than what is under way.
func weight(reason string) int {
	switch reason {
	case "", v1alpha1.ReasonReconciling, v1alpha1.ReasonRolloutRunning:
		return 0
	case v1alpha1.ReasonWaitingForApproval, v1alpha1.ReasonApprovalRejected:
		return 1
	}
	return 2
}

// waiting says of the partitions that wait for an approval that they do, also of those that have nothing yet.
func (w *world) waiting(p *Plan, placements []v1alpha1.PlacementStatus) []v1alpha1.PlacementStatus {
	release := w.app.Status.Release
	if release == nil || len(p.Approval) == 0 {
		return placements
	}
	reason, message := v1alpha1.ReasonWaitingForApproval, fmt.Sprintf("revision %s waits for approval: %s", release.Revision, release.Message)
	if release.Phase == v1alpha1.ReleaseRejected {
		reason, message = v1alpha1.ReasonApprovalRejected, fmt.Sprintf("revision %s was rejected: %s. Change the application to ask again", release.Revision, release.Message)
	}
	for i := range p.Assignments {
		a := &p.Assignments[i]
		if !slices.Contains(p.Approval, a.Partition) {
			continue
		}
		at := slices.IndexFunc(placements, func(s v1alpha1.PlacementStatus) bool { return s.Partition == a.Partition })
		if at < 0 {
			at = len(placements)
			placements = append(placements, v1alpha1.PlacementStatus{Partition: a.Partition, Cluster: a.Cluster, Explanation: a.Explanation})
		}
		if placements[at].Reason == "" { // what it has there is as it should be meanwhile
			placements[at].Reason, placements[at].Message = reason, message
		}
	}
	slices.SortFunc(placements, func(a, b v1alpha1.PlacementStatus) int { return strings.Compare(a.Partition, b.Partition) })
	return placements
}

// awaiting says of the partitions that get nothing before the rollout has ended that they wait for it.
func (w *world) awaiting(placements []v1alpha1.PlacementStatus, p *Plan) []v1alpha1.PlacementStatus {
	for i := range p.Assignments {
		if a := &p.Assignments[i]; slices.Contains(w.later, a.Partition) {
			placements = append(placements, v1alpha1.PlacementStatus{
				Partition: a.Partition, Cluster: a.Cluster, Explanation: a.Explanation, Reason: v1alpha1.ReasonRolloutRunning,
				Message: fmt.Sprintf("begins with revision %s, when that has come to the others", p.Revision.Name),
			})
		}
	}
	slices.SortFunc(placements, func(a, b v1alpha1.PlacementStatus) int { return strings.Compare(a.Partition, b.Partition) })
	return placements
}

// writeStatus patches the status if it changed. While pods come up one by one it waits: then it gives the time after
// which to look again. The first change after a pause is written at once, and so is the one that makes it ready.
func (r *Reconciler) writeStatus(ctx context.Context, before, app *v1alpha1.Application) (time.Duration, error) {
	if equality.Semantic.DeepEqual(before.Status, app.Status) {
		return 0, nil
	}
	key := client.ObjectKeyFromObject(app)
	moved := before.Status.ObservedGeneration != app.Status.ObservedGeneration ||
		isReady(before.Status.Conditions) != isReady(app.Status.Conditions)
	if wait := r.pace.wait(key); wait > 0 && !moved {
		return wait, nil
	}
	if err := reconcile.PatchStatus(ctx, r.client, before, app); err != nil {
		return 0, err
	}
	r.pace.wrote(key)
	return 0, nil
}

// outcome is what an error means for the queue.
func outcome(err error) (ctrl.Result, error) {
	if behind(err) {
		return ctrl.Result{RequeueAfter: conflictPause}, nil
	}
	result, _, failure := reconcile.Outcome(err)
	return result, failure
}

// behind says whether an error only means that the cache is behind the hub.
func behind(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }

// pace remembers when each application's status was last written. It holds one entry per application that exists.
type pace struct {
	mu   sync.Mutex
	last map[types.NamespacedName]time.Time
}

func (p *pace) wait(key types.NamespacedName) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return statusPause - time.Since(p.last[key])
}

func (p *pace) wrote(key types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		p.last = map[types.NamespacedName]time.Time{}
	}
	p.last[key] = time.Now()
}

func (p *pace) forget(key types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.last, key)
}
