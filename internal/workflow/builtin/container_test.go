package builtin

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/testkit"
)

// site is a partition in a member with an API server and nothing else: the tests are its controllers and nodes.
type site struct {
	*journal
	cluster   *testkit.Member
	proxy     *testkit.Proxy
	partition *v1alpha1.Partition
	namespace string
	action    *container
	call      *action.Call
}

type members map[string]*member.Member

func (m members) Member(name string) (*member.Member, bool) { one, ok := m[name]; return one, ok }

func newSite(t *testing.T, inputs map[string]any) *site {
	t.Helper()
	s := &site{journal: &journal{}, cluster: testkit.StartMember(t)}
	s.proxy = testkit.NewProxy(t, s.cluster.Address())
	config, err := clientcmd.RESTConfigFromKubeConfig(s.cluster.Kubeconfig(t, s.proxy.Address()))
	if err != nil {
		t.Fatal(err)
	}
	m, err := member.New("beijing", config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); m.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	NewWithT(t).Eventually(func() bool { ok, _ := m.Answering(); return ok }, "60s").Should(BeTrue())

	s.namespace = testkit.Namespace(t, s.cluster.Client)
	testkit.Create(t, s.cluster.Client,
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "delivery"}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"batch"}, Resources: []string{"jobs"}, Verbs: []string{"get", "create", "delete"}},
			{APIGroups: []string{""}, Resources: []string{"pods", "pods/log", "events"}, Verbs: []string{"get", "list"}},
		}},
		&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "delivery"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "delivery"},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: s.namespace, Name: v1alpha1.DeliveryServiceAccount}},
		})
	s.partition = &v1alpha1.Partition{
		ObjectMeta: metav1.ObjectMeta{Namespace: testkit.Namespace(t, hub.Client), Name: "prod"},
		Spec: v1alpha1.PartitionSpec{
			Cluster: "beijing", Namespace: s.namespace, PodSecurity: v1alpha1.PodSecurityRestricted,
			Nodes: v1alpha1.NodePool{Selector: map[string]string{"pool": "edu"}, Exclusive: true},
		},
	}
	testkit.Create(t, hub.Client, s.partition)
	s.action = &container{hub: hub.Client, members: members{"beijing": m}, may: everybody("viewer"), logs: newProgress()}
	all := map[string]any{"partition": "prod", "image": "registry.yunfan.internal/edu/build:1", "command": []string{"/build"}, "env": map[string]string{"B": "2", "A": "1"}}
	maps.Copy(all, inputs)
	s.call = callOf(s.journal, all)
	s.call.Run.Namespace = s.partition.Namespace
	return s
}

// next calls the action again, as the engine does.
func (s *site) next(t *testing.T) (action.Outcome, error) {
	t.Helper()
	out, err := s.action.Run(t.Context(), s.call)
	again(t, s.call, out)
	return out, err
}

// job reads the attempt's; nil if there is none.
func (s *site) job(t *testing.T) *batchv1.Job {
	t.Helper()
	job := &batchv1.Job{}
	err := s.cluster.Client.Get(t.Context(), client.ObjectKey{Namespace: s.namespace, Name: s.call.Key}, job)
	if apierrors.IsNotFound(err) || job.DeletionTimestamp != nil {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return job
}

// pod makes the job's pod as the job's controller would.
func (s *site) pod(t *testing.T) *corev1.Pod {
	t.Helper()
	job := s.job(t)
	testkit.Create(t, s.cluster.Client, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "default"}})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: job.Name + "-1", Labels: job.Spec.Template.Labels}, Spec: job.Spec.Template.Spec}
	testkit.Create(t, s.cluster.Client, pod)
	return pod
}

// end ends the pod and the job as the node and the job's controller would.
func (s *site) end(t *testing.T, pod *corev1.Pod, code int32, said string) {
	t.Helper()
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "step", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Error", Message: said},
	}}}
	if err := s.cluster.Client.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	job, now := s.job(t), metav1.Now()
	kinds := []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete}
	job.Status.StartTime, job.Status.CompletionTime, job.Status.Succeeded = &now, &now, 1
	if code != 0 {
		kinds = []batchv1.JobConditionType{batchv1.JobFailureTarget, batchv1.JobFailed}
		job.Status.CompletionTime, job.Status.Succeeded, job.Status.Failed = nil, 0, 1
	}
	for _, kind := range kinds {
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now, LastProbeTime: now})
	}
	if err := s.cluster.Client.Status().Update(t.Context(), job); err != nil {
		t.Fatal(err)
	}
}

func TestOPS10_ContainerToItsEnd(t *testing.T) {
	s := newSite(t, nil)
	out, err := s.next(t)
	if err != nil || out.Done || s.fences != 1 {
		t.Fatalf("got %+v and %v after %d questions of the fence", out, err, s.fences)
	}
	job := s.job(t)
	pod := job.Spec.Template.Spec
	if diff := cmp.Diff([]corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}}, pod.Containers[0].Env); diff != "" {
		t.Error(diff)
	}
	if *job.Spec.BackoffLimit != 0 || pod.RestartPolicy != corev1.RestartPolicyNever || *pod.AutomountServiceAccountToken || !*pod.SecurityContext.RunAsNonRoot ||
		pod.NodeSelector["pool"] != "edu" || pod.Tolerations[0].Value != s.partition.Namespace || job.Labels[v1alpha1.LabelPartition] != "prod" {
		t.Errorf("got %+v", job)
	}

	s.call.State, s.call.Repeated = nil, true // the server ended before it could write that there is a job
	if out, err = s.next(t); err != nil || out.Done || s.job(t).UID != job.UID {
		t.Fatalf("got %+v and %v, want the same job", out, err)
	}
	running := s.pod(t)
	s.end(t, running, 0, "first\n{\"tag\": \"v7\"}\n")
	if out, err = s.next(t); err != nil || out.Done || s.job(t) == nil {
		t.Fatalf("got %+v and %v, want the job to stay until it is stored how it ended", out, err)
	}
	for range 2 { // the second after a restart, when the job is gone already
		if out, err = s.next(t); err != nil || !out.Done {
			t.Fatalf("got %+v and %v", out, err)
		}
		if diff := cmp.Diff(`{"exitCode":0,"result":{"tag":"v7"}}`, outputsOf(t, out)); diff != "" {
			t.Error(diff)
		}
		NewWithT(t).Eventually(func() *batchv1.Job { return s.job(t) }, "10s").Should(BeNil())
	}
}

func TestOPS10_ContainerThatFails(t *testing.T) {
	s := newSite(t, nil)
	if _, err := s.next(t); err != nil {
		t.Fatal(err)
	}
	s.end(t, s.pod(t), 3, "compiling\nno such file")
	if out, err := s.next(t); err != nil || out.Done {
		t.Fatalf("got %+v and %v", out, err)
	}
	_, err := s.next(t)
	if err == nil || action.IsFailed(err) || err.Error() != "the container ended with exit code 3: no such file" {
		t.Errorf("got %v (for good: %v)", err, action.IsFailed(err))
	}
	NewWithT(t).Eventually(func() *batchv1.Job { return s.job(t) }, "10s").Should(BeNil())
}

func TestOPS10_ContainerOfAnUnreachableCluster(t *testing.T) {
	s := newSite(t, nil)
	s.proxy.Refuse(t)
	NewWithT(t).Eventually(func() string {
		out, err := s.next(t)
		if err != nil || out.Done {
			t.Errorf("got %+v and %v, want it to wait", out, err)
		}
		return out.Message
	}, "90s").Should(ContainSubstring("cluster beijing does not answer"))
	if s.job(t) != nil {
		t.Fatal("there is a job")
	}
	s.proxy.Pass(t)
	NewWithT(t).Eventually(func() *batchv1.Job {
		if _, err := s.next(t); err != nil {
			t.Error(err)
		}
		return s.job(t)
	}, "90s").ShouldNot(BeNil())

	if out, err := s.action.Stop(t.Context(), s.call); err != nil || s.job(t) != nil {
		t.Errorf("got %+v and %v, want the job to be gone", out, err)
	}
	for range 2 {
		if out, err := s.action.Stop(t.Context(), s.call); err != nil || !out.Done {
			t.Errorf("got %+v and %v, want it to be done", out, err)
		}
	}
	if _, err := s.next(t); !action.IsFailed(err) || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("got %v: a job that was deleted is made again", err)
	}
}

func TestOPS10_ContainerRefuses(t *testing.T) {
	s := newSite(t, nil)
	s.taken = errors.New("another server carries the run")
	if _, err := s.next(t); err == nil || action.IsFailed(err) || s.job(t) != nil {
		t.Errorf("got %v: a server that has lost the run made a job", err)
	}
	s.taken = nil
	s.call.User = actor("viewer")
	if _, err := s.next(t); !action.IsFailed(err) || !strings.Contains(err.Error(), "viewer may not deploy to partition prod") {
		t.Errorf("got %v", err)
	}
	s.call.User = actor("li")
	testkit.Create(t, s.cluster.Client, &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: s.call.Key},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "a", Image: "a"}},
		}}},
	})
	if _, err := s.next(t); !action.IsFailed(err) || !strings.Contains(err.Error(), "which is not this run's") {
		t.Errorf("got %v", err)
	}
	if out, err := s.action.Stop(t.Context(), s.call); err != nil || !out.Done || s.job(t) == nil {
		t.Errorf("got %+v and %v: somebody else's job was removed", out, err)
	}
	s.call.Inputs["partition"] = json.RawMessage(`"none"`)
	if _, err := s.next(t); !action.IsFailed(err) || !strings.Contains(err.Error(), "has no partition none") {
		t.Errorf("got %v", err)
	}
}

func TestResultsOfContainers(t *testing.T) {
	complete := &batchv1.JobCondition{Type: batchv1.JobComplete}
	for said, want := range map[string]string{
		"":                                "",
		"\n\n":                            "",
		"text":                            `"text"`,
		"a\n7\n":                          "7",
		"{\"a\":1}\n{broken":              `"{broken"`,
		"a\xff":                           `"a�"`,
		strings.Repeat("x", maxResult-2):  `"` + strings.Repeat("x", maxResult-2) + `"`,
		strings.Repeat("\"", maxResult/2): "more than",
	} {
		pod := corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
			State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: said}},
		}}}}
		got, err := endingOf(complete, []corev1.Pod{pod})
		if err != nil {
			t.Fatal(err)
		}
		if want == "more than" {
			if !strings.Contains(got.Failure, want) {
				t.Errorf("got %+v", got)
			}
		} else if string(got.Result) != want || got.Failure != "" {
			t.Errorf("%q: got %s and %q, want %s", cut(said, 50), got.Result, got.Failure, want)
		}
	}
}
