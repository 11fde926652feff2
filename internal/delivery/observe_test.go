package delivery

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

func waitingFor(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func ended(reason string, code int32, message string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason, ExitCode: code, Message: message}}
}

func TestPodReason(t *testing.T) {
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	cases := map[string]struct {
		reason string
		status corev1.ContainerStatus
		pod    func(*corev1.Pod)
		want   string
		text   []string
	}{
		"ImagePull": {
			reason: "the image's name and the registry's answer tell what to mend",
			status: corev1.ContainerStatus{Image: "none:v1", State: waitingFor("ImagePullBackOff", "not found")},
			want:   v1alpha1.ReasonImagePull, text: []string{"none:v1", "not found", "check its name"},
		},
		"ConfigError": {
			reason: "a missing ConfigMap is named",
			status: corev1.ContainerStatus{State: waitingFor("CreateContainerConfigError", `configmap "conf" not found`)},
			want:   v1alpha1.ReasonConfigError, text: []string{`configmap "conf" not found`},
		},
		"CrashLoop": {
			reason: "exit code and last log line are what people look for",
			status: corev1.ContainerStatus{RestartCount: 5, State: waitingFor("CrashLoopBackOff", "back-off"),
				LastTerminationState: ended("Error", 3, "starting\nno database\n\n")},
			want: v1alpha1.ReasonCrashLoop, text: []string{"exit code 3", "5 restarts", `"no database"`},
		},
		"RunsAgainAfterCrash": {
			reason: "between two crashes a container runs, and the reason must not flicker",
			status: corev1.ContainerStatus{RestartCount: 1, State: running, LastTerminationState: ended("Error", 1, "")},
			want:   v1alpha1.ReasonCrashLoop, text: []string{"exit code 1"},
		},
		"OOMKilled": {
			reason: "RES-10: the limit, the exit code and the number of restarts",
			status: corev1.ContainerStatus{RestartCount: 2, State: waitingFor("CrashLoopBackOff", ""), LastTerminationState: ended("OOMKilled", 137, "")},
			want:   v1alpha1.ReasonOOMKilled, text: []string{"limit of 64Mi", "137", "2 restarts", "raise the limit"},
		},
		"ReadinessProbe": {
			reason: "the probe is named as it was written",
			status: corev1.ContainerStatus{State: running, Started: new(true)},
			want:   v1alpha1.ReasonNotReady, text: []string{"readiness probe, HTTP GET /demo on port 8080"},
		},
		"StartupProbe": {
			reason: "until the startup probe has succeeded the readiness probe is not asked",
			status: corev1.ContainerStatus{State: running, Started: new(false)},
			want:   v1alpha1.ReasonNotReady, text: []string{`startup probe, command "cat /ready"`},
		},
		"Unschedulable": {
			reason: "the scheduler's words and what to do",
			pod: func(p *corev1.Pod) {
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse,
					Reason: corev1.PodReasonUnschedulable, Message: "0/2 nodes are available: 2 Insufficient cpu."}}
			},
			want: v1alpha1.ReasonUnschedulable, text: []string{"not enough free CPU", "2 Insufficient cpu", "add a node, stop other pods or lower the request"},
		},
		"InitContainer": {
			reason: "a failing init container is why the others do not start",
			status: corev1.ContainerStatus{State: waitingFor("PodInitializing", "")},
			pod: func(p *corev1.Pod) {
				p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "prepare", State: waitingFor("CrashLoopBackOff", ""),
					LastTerminationState: ended("Error", 2, "")}}
			},
			want: v1alpha1.ReasonCrashLoop, text: []string{"container prepare", "exit code 2"},
		},
		"Starting": {
			reason: "a pod that is only starting has nothing wrong with it",
			status: corev1.ContainerStatus{State: waitingFor("ContainerCreating", "")},
		},
		"Ready": {
			reason: "a ready pod is well, whatever was before",
			status: corev1.ContainerStatus{Ready: true, State: running, LastTerminationState: ended("OOMKilled", 137, "")},
			pod: func(p *corev1.Pod) {
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			},
		},
	}
	for name, tc := range cases {
		t.Run("TPL-07 "+name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-1"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
				Name:           "web",
				Resources:      corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: quantity("64Mi")}},
				ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/demo", Port: intstr.FromInt32(8080)}}},
				StartupProbe:   &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"cat", "/ready"}}}},
			}}}}
			tc.status.Name = "web"
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{tc.status}
			if tc.pod != nil {
				tc.pod(pod)
			}
			reason, message := podReason(pod)
			if reason != tc.want {
				t.Errorf("%s: reason %q (%s), want %q", tc.reason, reason, message, tc.want)
			}
			for _, text := range tc.text {
				if !strings.Contains(message, text) {
					t.Errorf("%s: message %q does not have %q", tc.reason, message, text)
				}
			}
		})
	}
}

// TestObserve: what pods and events of a member say comes up in the Delivery's status, and goes when they are well.
func TestObserve(t *testing.T) {
	w := newWorld(t).serve(t)
	t.Run("pods", func(t *testing.T) {
		p := w.partition(t)
		d := deliver(t, p, revision(t, p, "shop", "aaaaaaaaaa", web("front"), web("back")), 1)
		front := object(t, w, p, "front", &appsv1.Deployment{}, nil)
		pod := makePod(t, w, front, corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
			{Name: "web", Image: "none:v1", State: waitingFor("ErrImagePull", "not found")},
		}})
		got := eventually(t, d, "image", is(v1alpha1.ConditionHealthy, metav1.ConditionFalse, v1alpha1.ReasonImagePull))
		NewWithT(t).Expect(describe(got)).To(ContainSubstring("front: image none:v1 of container web of pod front-x cannot be pulled: not found"))
		for _, c := range got.Status.Tracks[0].Components {
			if c.Name == "back" && c.Reason != v1alpha1.ReasonReconciling {
				t.Errorf("the other component has reason %s", c.Reason)
			}
		}
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
		if err := w.member.Client.Status().Update(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		makeReady(t, w, object(t, w, p, "front", &appsv1.Deployment{}, nil))
		makeReady(t, w, object(t, w, p, "back", &appsv1.Deployment{}, nil))
		eventually(t, d, "healthy", is(v1alpha1.ConditionHealthy, metav1.ConditionTrue, v1alpha1.ReasonReady))
	})
	t.Run("events of what says nothing itself", func(t *testing.T) {
		p := w.partition(t)
		d := deliver(t, p, revision(t, p, "shop", "aaaaaaaaaa", web("db", func(c *v1alpha1.Component) { c.Workload = v1alpha1.WorkloadStatefulSet })), 1)
		db := object(t, w, p, "db", &appsv1.StatefulSet{}, nil)
		testkit.Create(t, w.member.Client, &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Name: "db.1", Namespace: p.MemberNamespace()},
			InvolvedObject: corev1.ObjectReference{Kind: "StatefulSet", Namespace: p.MemberNamespace(), Name: "db", UID: db.UID},
			Type:           corev1.EventTypeWarning, Reason: "FailedCreate", LastTimestamp: metav1.Now(),
			Message: `create Pod db-0 in StatefulSet db failed error: pods "db-0" is forbidden: exceeded quota: yunfan, requested: pods=1, used: pods=0, limited: pods=0`,
		})
		got := eventually(t, d, "quota", is(v1alpha1.ConditionHealthy, metav1.ConditionFalse, v1alpha1.ReasonQuotaExceeded))
		NewWithT(t).Expect(describe(got)).To(ContainSubstring("the partition's quota does not hold another pod of db: exceeded quota: yunfan, requested: pods=1"))
	})
}

// makePod makes a pod of a workload by hand: no controllers run here.
func makePod(t *testing.T, w *world, of *appsv1.Deployment, status corev1.PodStatus) *corev1.Pod {
	t.Helper()
	testkit.Create(t, w.member.Client, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: of.Namespace}})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: of.Name + "-x", Namespace: of.Namespace, Labels: of.Spec.Template.Labels}, Spec: of.Spec.Template.Spec}
	testkit.Create(t, w.member.Client, pod)
	pod.Status = status
	if err := w.member.Client.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	return pod
}
