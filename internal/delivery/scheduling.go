package delivery

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"yunfan.io/yunfan/internal/member"
)

// What the scheduler says of the nodes that do not take a pod, and what that means.
var (
	insufficient   = regexp.MustCompile(`Insufficient ([\w./-]+)`)
	untoleratedKey = regexp.MustCompile(`untolerated taints?(?:\(s\))?(?: \{([^:}]*))?`)
)

// The remedies where what a pod requests is not free on any node.
var remedies = []string{"add a node", "stop other pods", "lower the request"}

// unschedulable explains why no node takes a pod: the causes, in order, and what can be done about them.
func unschedulable(pod *corev1.Pod, said string) (causes, remedy []string) {
	requests := member.Requests(pod)
	short := false
	for _, match := range insufficient.FindAllStringSubmatch(said, -1) {
		name := strings.TrimSuffix(match[1], ".")
		asked := requests[corev1.ResourceName(name)]
		cause := fmt.Sprintf("not enough free %s: the pod requests %s", resourceWord(name), asked.String())
		if !slices.Contains(causes, cause) {
			causes = append(causes, cause)
		}
		short = true
	}
	if strings.Contains(said, "Too many pods") {
		causes = append(causes, "the node has as many pods as it may have")
		short = true
	}
	if short {
		remedy = append(remedy, remedies...)
	}
	if match := untoleratedKey.FindStringSubmatch(said); match != nil {
		causes = append(causes, strings.TrimSpace("nodes are kept for other pods by a taint "+strings.TrimSpace(match[1])))
		remedy = append(remedy, "use a partition with nodes of its own")
	}
	if strings.Contains(said, "node affinity/selector") || strings.Contains(said, "node selector") {
		causes = append(causes, "nodes do not have the labels that the pod or its partition selects"+selectorOf(pod))
		remedy = append(remedy, "label a node or change the selector")
	}
	if strings.Contains(said, "unschedulable") {
		causes = append(causes, "nodes are closed to new pods")
		remedy = append(remedy, "open a node again (kubectl uncordon)")
	}
	if strings.Contains(said, "PersistentVolumeClaim") || strings.Contains(said, "volume node affinity") {
		causes = append(causes, "a volume is not there, or is on another node")
		remedy = append(remedy, "look at the claims of the pod")
	}
	return causes, remedy
}

// resourceWord is how people call a resource.
func resourceWord(name string) string {
	if name == string(corev1.ResourceCPU) {
		return "CPU"
	}
	return name
}

// selectorOf is what the pod selects nodes by.
func selectorOf(pod *corev1.Pod) string {
	if len(pod.Spec.NodeSelector) == 0 {
		return ""
	}
	var pairs []string
	for key, value := range pod.Spec.NodeSelector {
		pairs = append(pairs, key+"="+value)
	}
	slices.Sort(pairs)
	return ": " + strings.Join(pairs, ",")
}

// unschedulableMessage is the explanation as one sentence, with the scheduler's own words.
func unschedulableMessage(pod *corev1.Pod, said string) string {
	said = strings.TrimSuffix(said, ".")
	causes, remedy := unschedulable(pod, said)
	if causes == nil {
		return fmt.Sprintf("no node takes pod %s: %s: add a node, stop other pods or lower the request", pod.Name, said)
	}
	return fmt.Sprintf("no node takes pod %s: %s (%s): %s", pod.Name, strings.Join(causes, "; "), said, either(remedy))
}

func either(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
