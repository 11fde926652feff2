package delivery

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"yunfan.io/yunfan/api/v1alpha1"
)

// patience is how long pods may take to be created and to start before the member's events are asked what is wrong.
const patience = 5 * time.Second

// severity orders reasons: of several pods the one that needs somebody most is shown.
var severity = map[string]int{
	v1alpha1.ReasonImagePull: 6, v1alpha1.ReasonConfigError: 5, v1alpha1.ReasonOOMKilled: 4, v1alpha1.ReasonCrashLoop: 3,
	v1alpha1.ReasonUnschedulable: 2, v1alpha1.ReasonNotReady: 1,
}

// worstPod gives the reason why pods are not ready; empty if all are, or are only starting.
func worstPod(pods []corev1.Pod) (reason, message string) {
	for i := range pods {
		if r, m := podReason(&pods[i]); severity[r] > severity[reason] {
			reason, message = r, m
		}
	}
	return reason, message
}

// anyBad says whether a workload that counts as done has pods that are not: those of a cron job are not its own.
func anyBad(kind v1alpha1.WorkloadKind, pods []corev1.Pod) bool {
	reason, _ := worstPod(pods)
	return kind == v1alpha1.WorkloadCronJob && severity[reason] > severity[v1alpha1.ReasonNotReady]
}

func podReason(pod *corev1.Pod) (reason, message string) {
	if podReady(pod) {
		return "", ""
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return v1alpha1.ReasonUnschedulable, unschedulableMessage(pod, c.Message)
		}
	}
	for i := range pod.Status.InitContainerStatuses {
		if reason, message = containerReason(pod, &pod.Status.InitContainerStatuses[i], true); reason != "" {
			return reason, message
		}
	}
	for i := range pod.Status.ContainerStatuses {
		r, m := containerReason(pod, &pod.Status.ContainerStatuses[i], false)
		if severity[r] > severity[reason] {
			reason, message = r, m
		}
	}
	if reason == "" && pod.Status.Phase == corev1.PodFailed {
		return v1alpha1.ReasonNotReady, fmt.Sprintf("pod %s has failed: %s %s", pod.Name, pod.Status.Reason, pod.Status.Message)
	}
	return reason, message
}

func podReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// containerReason explains one container; empty if nothing is wrong with it.
func containerReason(pod *corev1.Pod, c *corev1.ContainerStatus, first bool) (reason, message string) {
	where := fmt.Sprintf("container %s of pod %s", c.Name, pod.Name)
	if waiting := c.State.Waiting; waiting != nil {
		switch waiting.Reason {
		case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable":
			return v1alpha1.ReasonImagePull, fmt.Sprintf("image %s of %s cannot be pulled: %s: check its name and that the registry has it", c.Image, where, orElse(waiting.Message, waiting.Reason))
		case "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
			return v1alpha1.ReasonConfigError, fmt.Sprintf("%s cannot be created: %s", where, orElse(waiting.Message, waiting.Reason))
		}
	}
	ended := c.State.Terminated
	if ended == nil {
		ended = c.LastTerminationState.Terminated
	}
	switch {
	case c.Ready, first && ended != nil && ended.ExitCode == 0:
		return "", ""
	case ended != nil && ended.Reason == "OOMKilled":
		return v1alpha1.ReasonOOMKilled, fmt.Sprintf("%s used more memory than its limit%s and was killed (exit code %d, %d restarts): raise the limit or let it use less",
			where, memoryLimit(pod, c.Name), ended.ExitCode, c.RestartCount)
	case ended != nil && (ended.ExitCode != 0 || c.State.Waiting != nil):
		return v1alpha1.ReasonCrashLoop, fmt.Sprintf("%s ended with exit code %d (%d restarts)%s", where, ended.ExitCode, c.RestartCount, lastLine(ended.Message))
	case !first && c.State.Running != nil:
		return v1alpha1.ReasonNotReady, fmt.Sprintf("%s runs but is not ready: %s", where, probe(pod, c))
	}
	return "", ""
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

func memoryLimit(pod *corev1.Pod, container string) string {
	for i := range pod.Spec.Containers {
		if limit := pod.Spec.Containers[i].Resources.Limits.Memory(); pod.Spec.Containers[i].Name == container && !limit.IsZero() {
			return " of " + limit.String()
		}
	}
	return ""
}

// lastLine of what a container wrote before it ended: the termination message has the end of its log.
func lastLine(log string) string {
	const limit = 300
	lines := strings.Split(strings.TrimSpace(log), "\n")
	line := strings.TrimSpace(lines[len(lines)-1])
	if line == "" {
		return ""
	}
	if len(line) > limit {
		line = line[:limit] + "…"
	}
	return fmt.Sprintf("; the last line of its log: %q", line)
}

// probe names the probe that a running container has not passed.
func probe(pod *corev1.Pod, c *corev1.ContainerStatus) string {
	for i := range pod.Spec.Containers {
		spec := &pod.Spec.Containers[i]
		if spec.Name != c.Name {
			continue
		}
		if spec.StartupProbe != nil && !ptr.Deref(c.Started, false) {
			return "its startup probe, " + describeProbe(spec.StartupProbe) + ", has not succeeded"
		}
		if spec.ReadinessProbe != nil {
			return "its readiness probe, " + describeProbe(spec.ReadinessProbe) + ", does not succeed"
		}
	}
	return "it has just started"
}

func describeProbe(p *corev1.Probe) string {
	port := func(v intstr.IntOrString) string { return "port " + v.String() }
	switch {
	case p.HTTPGet != nil:
		return fmt.Sprintf("HTTP GET %s on %s", orElse(p.HTTPGet.Path, "/"), port(p.HTTPGet.Port))
	case p.TCPSocket != nil:
		return "a connection to " + port(p.TCPSocket.Port)
	case p.GRPC != nil:
		return fmt.Sprintf("gRPC on port %d", p.GRPC.Port)
	case p.Exec != nil:
		return fmt.Sprintf("command %q", strings.Join(p.Exec.Command, " "))
	}
	return "which is empty"
}

// stuck finds a pod that is not ready and has had time enough, of which only the member's events may know more.
func stuck(pods []corev1.Pod) *corev1.Pod {
	for i := range pods {
		if !podReady(&pods[i]) && time.Since(pods[i].CreationTimestamp.Time) > patience {
			return &pods[i]
		}
	}
	return nil
}
