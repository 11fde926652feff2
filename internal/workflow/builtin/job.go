package builtin

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/internal/action"
)

// maxResult keeps the state below action.MaxState, in bytes of JSON.
const maxResult = 3 << 10

// watch tells how the job is, and how it ended once it has.
func (c *container) watch(ctx context.Context, j *job, live *batchv1.Job, state *jobState) (action.Outcome, error) {
	ended := slices.IndexFunc(live.Status.Conditions, func(c batchv1.JobCondition) bool {
		return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
	})
	c.follow(ctx, j, ended >= 0)
	pods, err := j.pods(ctx)
	if err != nil {
		return action.Outcome{}, err
	}
	if ended < 0 {
		out := action.Again(jobPoll, j.how(ctx, live, pods))
		out.State = state
		return out, nil
	}
	if state.Ended, err = endingOf(&live.Status.Conditions[ended], pods); err != nil {
		return action.Outcome{}, err
	}
	j.call.Log("ended with exit code %d", state.Ended.ExitCode)
	// What is not stored yet must not be removed: it could not be read again.
	return action.Outcome{Again: time.Millisecond, State: state, Message: "the container has ended"}, nil
}

// pods of the job, the newest first.
func (j *job) pods(ctx context.Context) ([]corev1.Pod, error) {
	list := &corev1.PodList{}
	if err := j.as.List(ctx, list, client.InNamespace(j.key.Namespace), client.MatchingLabels{batchv1.JobNameLabel: j.key.Name}); err != nil {
		return nil, fmt.Errorf("listing the pods of the job: %w", err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int {
		return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
	})
	return list.Items, nil
}

// how says in words what a job waits for that has not ended.
func (j *job) how(ctx context.Context, live *batchv1.Job, pods []corev1.Pod) string {
	where := fmt.Sprintf("partition %s of cluster %s", j.partition.Name, j.member.Name)
	if len(pods) == 0 {
		if time.Since(live.CreationTimestamp.Time) > patience {
			if event := j.warning(ctx, live); event != "" {
				return fmt.Sprintf("no pod can be made in %s: %s", where, cut(event, 500))
			}
		}
		return "waits for a pod in " + where
	}
	pod := &pods[0]
	for _, s := range pod.Status.ContainerStatuses {
		if s.State.Running != nil {
			return "runs in " + where
		}
		if w := s.State.Waiting; w != nil && w.Reason != "" && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
			return fmt.Sprintf("the container cannot be started in %s: %s %s", where, w.Reason, cut(w.Message, 300))
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return fmt.Sprintf("no node of %s takes the pod: %s", where, cut(c.Message, 300))
		}
	}
	return "is started in " + where
}

// warning is the last thing that the cluster has to say against the job.
func (j *job) warning(ctx context.Context, live *batchv1.Job) string {
	list := &corev1.EventList{}
	err := j.as.List(ctx, list, client.InNamespace(j.key.Namespace), client.Limit(50), client.MatchingFields{
		"involvedObject.uid": string(live.UID), "type": corev1.EventTypeWarning,
	})
	if err != nil || len(list.Items) == 0 {
		return ""
	}
	last := slices.MaxFunc(list.Items, func(a, b corev1.Event) int { return a.LastTimestamp.Compare(b.LastTimestamp.Time) })
	return last.Message
}

// endingOf reads from the pod how the container ended.
func endingOf(how *batchv1.JobCondition, pods []corev1.Pod) (*ending, error) {
	if len(pods) == 0 {
		return &ending{ExitCode: -1, Failure: "the container's pod is gone, and how it ended is not known: " + cut(how.Message, 300)}, nil
	}
	pod := &pods[0]
	if len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].State.Terminated == nil {
		return &ending{ExitCode: -1, Failure: fmt.Sprintf("the container did not run to its end: %s %s", pod.Status.Reason, cut(pod.Status.Message, 300))}, nil
	}
	ended := pod.Status.ContainerStatuses[0].State.Terminated
	line := lastLine(ended.Message)
	if ended.ExitCode != 0 || how.Type == batchv1.JobFailed {
		failure := fmt.Sprintf("the container ended with exit code %d", ended.ExitCode)
		if ended.Reason != "" && ended.Reason != "Error" {
			failure += " (" + ended.Reason + ")"
		}
		if line != "" {
			failure += ": " + cut(line, 300)
		}
		return &ending{ExitCode: ended.ExitCode, Failure: failure}, nil
	}
	out := &ending{}
	if line == "" {
		return out, nil
	}
	out.Result = json.RawMessage(line)
	if !json.Valid(out.Result) {
		text, err := json.Marshal(line)
		if err != nil {
			return nil, fmt.Errorf("reading the result: %w", err)
		}
		out.Result = text
	}
	if len(out.Result) > maxResult {
		out.Result = nil
		out.Failure = fmt.Sprintf("the result that the container wrote has more than %d bytes: write larger ones to where the next step finds them", maxResult)
	}
	return out, nil
}

// lastLine of what a container wrote to its termination log, which holds 4 KiB.
func lastLine(text string) string {
	text = strings.TrimSpace(strings.ToValidUTF8(text, "�"))
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}
