package delivery

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

// What the scheduler of Kubernetes 1.36 says, taken from real clusters, and what it means.
func TestRES10_Unschedulable(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{NodeSelector: map[string]string{"pool": "edu"}, Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			"cpu": quantity("1100m"), "memory": quantity("2Gi"), "nvidia.com/gpu": quantity("1"),
		}}}}},
	}
	three := []string{"add a node", "stop other pods", "lower the request"}
	cases := map[string]struct {
		said             string
		causes, remedies []string
	}{
		"CPU": {
			"0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.",
			[]string{"not enough free CPU: the pod requests 1100m"}, three,
		},
		"memory and CPU": {
			"0/2 nodes are available: 1 Insufficient memory, 2 Insufficient cpu.",
			[]string{"not enough free memory: the pod requests 2Gi", "not enough free CPU: the pod requests 1100m"}, three,
		},
		"GPU":           {"0/2 nodes are available: 2 Insufficient nvidia.com/gpu.", []string{"not enough free nvidia.com/gpu: the pod requests 1"}, three},
		"too many pods": {"0/1 nodes are available: 1 Too many pods.", []string{"the node has as many pods as it may have"}, three},
		"taint": {
			"0/1 nodes are available: 1 node(s) had untolerated taint {yunfan.io/tenant: fin}.",
			[]string{"nodes are kept for other pods by a taint yunfan.io/tenant"}, []string{"use a partition with nodes of its own"},
		},
		"unnamed taint": {
			"0/3 nodes are available: 3 node(s) had untolerated taint(s).",
			[]string{"nodes are kept for other pods by a taint"}, []string{"use a partition with nodes of its own"},
		},
		"selector": {
			"0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
			[]string{"nodes do not have the labels that the pod or its partition selects: pool=edu"}, []string{"label a node or change the selector"},
		},
		"closed": {"0/1 nodes are available: 1 node(s) were unschedulable.", []string{"nodes are closed to new pods"}, []string{"open a node again (kubectl uncordon)"}},
		"volume": {
			"0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
			[]string{"a volume is not there, or is on another node"}, []string{"look at the claims of the pod"},
		},
		"unknown": {"0/1 nodes are available: 1 moon is full.", nil, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			causes, remedies := unschedulable(pod, tc.said)
			if diff := cmp.Diff(tc.causes, causes) + cmp.Diff(tc.remedies, remedies); diff != "" {
				t.Error(diff)
			}
			if message := unschedulableMessage(pod, tc.said); !strings.Contains(message, strings.TrimSuffix(tc.said, ".")) {
				t.Errorf("the scheduler's words are lost: %s", message)
			}
		})
	}
}

func TestRES10_PodRow(t *testing.T) {
	g := NewWithT(t)
	killed := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "leak-1", Namespace: "edu-prod", Labels: map[string]string{v1alpha1.LabelPartition: "prod", v1alpha1.LabelComponent: "leak"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "leak", Resources: corev1.ResourceRequirements{
			Limits: corev1.ResourceList{"cpu": quantity("100m"), "memory": quantity("50Mi")},
		}}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, QOSClass: corev1.PodQOSGuaranteed,
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: "leak", RestartCount: 5, LastTerminationState: killed,
				State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
			}},
		},
	}
	row := podRow(pod)
	g.Expect(row.Reason).To(Equal(v1alpha1.ReasonOOMKilled))
	g.Expect(row.Message).To(ContainSubstring("limit of 50Mi and was killed (exit code 137, 5 restarts)"))
	g.Expect(row.QOSClass).To(Equal("Guaranteed"), "RES-09")
	g.Expect(row.Restarts).To(BeEquivalentTo(5))
	c := row.Containers[0]
	g.Expect([]any{c.State.State, c.State.Reason, c.Last.State, c.Last.Reason, *c.Last.ExitCode}).To(Equal([]any{"Waiting", "CrashLoopBackOff", "Terminated", "OOMKilled", int32(137)}))

	pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	pod.Status.ContainerStatuses[0].Ready = true
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	row = podRow(pod)
	g.Expect(row.Reason).To(BeEmpty())
	g.Expect(*row.Containers[0].Last.ExitCode).To(BeEquivalentTo(137), "how it ended the last time is shown when it runs again")
}
