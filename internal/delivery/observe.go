package delivery

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// observe puts the state of a component into r.statuses, from the member's cache alone. Only when that does not say why
// pods are missing are the member's events asked.
func (r *run) observe(ctx context.Context, c *component) {
	s := v1alpha1.ComponentStatus{Name: c.name, Revision: r.last(c)}
	_, waits := r.waiting[c.part]
	refusal := r.refused(c)
	if !waits && refusal == nil {
		s.Revision = c.revision
	}
	if c.workload != nil {
		r.observeWorkload(ctx, c, &s)
	}
	switch {
	case refusal != nil:
		s.Reason, s.Message = refusal.reason, refusal.message
	case waits:
		s.Reason = v1alpha1.ReasonWaitingForDependency
		s.Message = "waits until ready here: " + strings.Join(r.waiting[c.part], ", ")
	}
	r.statuses[c.part] = s
}

// observeRest observes the components that are held up, and all when applying failed.
func (r *run) observeRest(ctx context.Context) {
	for i := range r.plan.components {
		if _, observed := r.statuses[r.plan.components[i].part]; !observed {
			r.observe(ctx, &r.plan.components[i])
		}
	}
}

// refused gives what stands against a component, its configurations included.
func (r *run) refused(c *component) *refusal {
	for _, t := range c.targets {
		if f := r.rec.refusalFor(t); f != nil {
			return f
		}
	}
	for i := range r.plan.shared {
		if f := r.rec.refusalFor(&r.plan.shared[i]); f != nil {
			return f
		}
	}
	return nil
}

func (r *run) observeWorkload(ctx context.Context, c *component, s *v1alpha1.ComponentStatus) {
	live, err := r.cached(ctx, c.workload.entry, r.plan.namespace)
	if err != nil || live == nil {
		s.Reason, s.Message = v1alpha1.ReasonReconciling, "objects are being applied"
		s.Desired = podsOf(c.workload.object)
		return
	}
	w := workloadState(live)
	s.Desired, s.Updated, s.Ready = w.desired, w.updated, w.ready
	if !r.rec.shown(c.workload, live) {
		s.Desired = podsOf(c.workload.object)
		s.Reason, s.Message = v1alpha1.ReasonReconciling, "the cluster has just been told"
		return
	}
	pods := r.pods(ctx, c)
	if left := r.left(ctx, c); r.plan.stopped && left > 0 {
		s.Reason, s.Message = v1alpha1.ReasonReconciling, fmt.Sprintf("stopped: pods that have not ended yet: %d", left)
		return
	}
	if c.kind == v1alpha1.WorkloadReplicationController {
		s.Updated = w.desired - int32(len(outdated(c, pods)))
		w.done = w.done && s.Updated == w.desired
	}
	if w.done && !anyBad(c.kind, pods) {
		return
	}
	s.Reason, s.Message = r.explain(ctx, c, live, w, pods)
}

// explain says why a component is not ready: what the workload says of pods it cannot create, then what the pods say,
// then what the member's events say, then how far it is.
func (r *run) explain(ctx context.Context, c *component, live client.Object, w state, pods []corev1.Pod) (reason, message string) {
	if w.failure != "" {
		return creationFailure(c.name, w.failure)
	}
	if reason, message = worstPod(pods); reason != "" && reason != v1alpha1.ReasonNotReady {
		return reason, message
	}
	if w.silent && w.created < w.desired && r.patient(c.workload) {
		if text := r.warning(ctx, c.workload.key, live.GetUID(), "FailedCreate"); text != "" {
			return creationFailure(c.name, text)
		}
	}
	if pod := stuck(pods); pod != nil {
		text := r.warning(ctx, objectKey{Namespace: pod.Namespace, Name: pod.Name}, pod.UID, "")
		if text != "" && reason == "" {
			return v1alpha1.ReasonNotReady, fmt.Sprintf("pod %s does not start: %s", pod.Name, text)
		} else if text != "" {
			message += ": " + text
		}
	}
	if reason != "" {
		return reason, message
	}
	return v1alpha1.ReasonReconciling, w.progress
}

// patient says whether a workload has had time to create its pods; it is looked at again when it has.
func (r *run) patient(workload *target) bool {
	left := patience - r.rec.age(workload)
	r.lookAgain(left)
	return left <= 0
}

// creationFailure explains why the member creates no pods.
func creationFailure(component, text string) (reason, message string) {
	if strings.Contains(text, "exceeded quota") {
		return v1alpha1.ReasonQuotaExceeded, quotaMessage("another pod of "+component, text)
	}
	if strings.Contains(text, "forbidden") || strings.Contains(text, "denied") || strings.Contains(text, "is invalid") {
		if i := strings.Index(text, "is forbidden: "); i >= 0 {
			text = text[i+len("is forbidden: "):] // the pod's name, made by chance, would change the message all the time
		}
		return v1alpha1.ReasonRefused, fmt.Sprintf("the cluster refuses pods of %s: %s: change the pod template, or have the partition's rules changed", component, text)
	}
	return v1alpha1.ReasonNotReady, fmt.Sprintf("pods of %s cannot be created: %s", component, text)
}

// pods are those of the component's workload that are not on their way out.
func (r *run) pods(ctx context.Context, c *component) []corev1.Pod {
	return slices.DeleteFunc(r.allPods(ctx, c), func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

// left counts the pods of a workload whose containers may still run; those of a cron job end by themselves.
func (r *run) left(ctx context.Context, c *component) int {
	if c.kind == v1alpha1.WorkloadCronJob {
		return 0
	}
	return len(slices.DeleteFunc(r.allPods(ctx, c), func(p corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed }))
}

// allPods are those of the component's workload that have not succeeded.
func (r *run) allPods(ctx context.Context, c *component) []corev1.Pod {
	list := &corev1.PodList{}
	err := r.member.Cache.List(ctx, list, client.InNamespace(r.plan.namespace), client.UnsafeDisableDeepCopy,
		client.MatchingLabels{v1alpha1.LabelApplication: r.delivery.Spec.Application, v1alpha1.LabelWorkload: c.workload.key.Name})
	if err != nil {
		return nil // only when the cache ends
	}
	out := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	// Always in one order, so that of several the same one is shown.
	slices.SortFunc(out, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// state is what a workload object says of itself.
type state struct {
	desired, created, updated, ready int32
	done                             bool   // nothing is left to do
	progress                         string // how far it is
	failure                          string // why it cannot create pods, if it says so
	silent                           bool   // it never says so: only events do
}

func workloadState(live client.Object) state {
	w := counts(live)
	result := kstatus(live)
	w.done = result.Status == status.CurrentStatus && w.ready >= w.desired
	w.progress = result.Message
	if w.progress == "" || w.ready < w.desired {
		w.progress = fmt.Sprintf("%d of %d pods ready", w.ready, w.desired)
	}
	switch o := live.(type) {
	case *batchv1.Job:
		jobState(o, &w)
	case *batchv1.CronJob:
		w.done = true
	case *corev1.ReplicationController: // unknown to kstatus
		w.done = o.Status.ObservedGeneration >= o.Generation && w.created == w.desired && w.ready == w.desired
	}
	return w
}

func kstatus(live client.Object) *status.Result {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(live)
	if err != nil {
		return &status.Result{Status: status.UnknownStatus, Message: err.Error()}
	}
	u := &unstructured.Unstructured{Object: content}
	u.SetGroupVersionKind(gvkOf(live))
	result, err := status.Compute(u)
	if err != nil {
		return &status.Result{Status: status.UnknownStatus, Message: err.Error()}
	}
	return result
}

func counts(live client.Object) state {
	switch o := live.(type) {
	case *appsv1.Deployment:
		w := state{desired: ptr.Deref(o.Spec.Replicas, 1), created: o.Status.Replicas, updated: o.Status.UpdatedReplicas, ready: o.Status.ReadyReplicas}
		for _, c := range o.Status.Conditions {
			if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
				w.failure = c.Message
			}
		}
		return w
	case *appsv1.StatefulSet:
		return state{desired: ptr.Deref(o.Spec.Replicas, 1), created: o.Status.Replicas, updated: o.Status.UpdatedReplicas, ready: o.Status.ReadyReplicas, silent: true}
	case *appsv1.DaemonSet:
		return state{desired: o.Status.DesiredNumberScheduled, created: o.Status.CurrentNumberScheduled,
			updated: o.Status.UpdatedNumberScheduled, ready: o.Status.NumberReady, silent: true}
	case *corev1.ReplicationController:
		w := state{desired: ptr.Deref(o.Spec.Replicas, 1), created: o.Status.Replicas, updated: o.Status.FullyLabeledReplicas, ready: o.Status.ReadyReplicas}
		for _, c := range o.Status.Conditions {
			if c.Type == corev1.ReplicationControllerReplicaFailure && c.Status == corev1.ConditionTrue {
				w.failure = c.Message
			}
		}
		return w
	case *batchv1.Job:
		active := o.Status.Active + o.Status.Succeeded
		return state{desired: ptr.Deref(o.Spec.Completions, 1), created: active, updated: active, ready: o.Status.Succeeded, silent: true}
	}
	return state{}
}

// jobState counts a Job as ready when it has succeeded: what depends on it, such as on a migration, waits for that.
func jobState(o *batchv1.Job, w *state) {
	w.done = false
	w.progress = fmt.Sprintf("%d of %d pods have succeeded", o.Status.Succeeded, w.desired)
	if ptr.Deref(o.Spec.Suspend, false) {
		w.desired, w.done = 0, true
		return
	}
	for _, c := range o.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch c.Type {
		case batchv1.JobComplete:
			w.done = true
		case batchv1.JobFailed:
			w.progress = "the job has failed: " + c.Message
		}
	}
}

// podsOf is the number of pods that a manifest asks for.
func podsOf(o *unstructured.Unstructured) int32 {
	for _, field := range []string{"replicas", "completions"} {
		if n, found, err := unstructured.NestedInt64(o.Object, "spec", field); found && err == nil {
			return int32(n)
		}
	}
	return 0
}
