//go:build e2e

package application_test

import (
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

func TestTPL03EveryKindOfWorkload(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	label := func(c *v1alpha1.Component, _ *corev1.Container) {
		c.Template.Labels = map[string]string{"app": "web-service"}
	}
	var components []v1alpha1.Component
	for _, kind := range []v1alpha1.WorkloadKind{
		v1alpha1.WorkloadDeployment, v1alpha1.WorkloadStatefulSet, v1alpha1.WorkloadDaemonSet, v1alpha1.WorkloadReplicationController,
	} {
		components = append(components, journey.Echo(strings.ToLower(string(kind)), journey.Workload(kind), label))
	}
	a := j.Application("web", journey.In("bj"), components...)
	j.Ready(a)
	for _, c := range components {
		out := j.Kubectl(journey.Beijing, "-n", j.Tenant+"-bj", "get", strings.ToLower(string(c.Workload)), c.Name, "-o", "name")
		j.Expect(out).To(HaveSuffix("/" + c.Name + "\n"))
		want := 1
		if c.Workload == v1alpha1.WorkloadDaemonSet {
			want = 2 // Beijing's nodes
		}
		pods := j.Pods(journey.Beijing, j.Tenant+"-bj", c.Name)
		j.Expect(pods).To(HaveLen(want), c.Name)
		j.Expect(pods[0].Labels).To(HaveKeyWithValue("app", "web-service"))
		j.Expect(endpoints(j, journey.Beijing, j.Tenant+"-bj", c.Name)).To(Equal(want), "the service finds the pods of %s and no others", c.Name)
	}
}

func TestTPL04PortsAndResources(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing, journey.Public)
	port := journey.Port()
	a := j.Application("web", journey.In("bj"), journey.Echo("web", journey.NodePort(port), journey.Resources("100m", "64Mi"), journey.Readiness("/healthz")))
	j.Ready(a)
	j.Eventually(func() (string, error) { return j.HTTP(journey.Beijing, port, "/healthz") }).Should(Equal("ok\n"))
	limits := j.Pods(journey.Beijing, j.Tenant+"-bj", "web")[0].Spec.Containers[0].Resources.Limits
	j.Expect(limits.Cpu().String() + " " + limits.Memory().String()).To(Equal("100m 64Mi"))

	j.Partition("other", journey.Beijing)
	j.Refused("late", journey.In("other"), journey.Echo("late", journey.NodePort(port)), "web", j.Tenant)
	j.Expect(j.Kubectl(journey.Beijing, "-n", j.Tenant+"-other", "get", "deployments,services", "-o", "name")).To(BeEmpty(), "nothing is applied")
}

func TestTPL06EnvironmentCommandAndPreStop(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	a := j.Application("web", journey.In("bj"), journey.Echo("web", journey.Args("serve"),
		journey.Env("TZ", "Asia/Shanghai"), journey.Env("MYSQL_SERVICE_HOST", "db-service"),
		func(c *v1alpha1.Component, main *corev1.Container) {
			c.Template.Spec.TerminationGracePeriodSeconds = new(int64(30))
			c.Template.Spec.Volumes = []corev1.Volume{{Name: "trace", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			main.VolumeMounts = []corev1.VolumeMount{{Name: "trace", MountPath: "/trace"}}
			// The step ends before the program is told to stop, so that its trace can be read meanwhile.
			main.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{
				Command: []string{"/bin/sh", "-c", "write /trace/stopping leaving && sleep 8"},
			}}}
		}))
	j.Ready(a)
	namespace := j.Tenant + "-bj"
	pod := j.Pods(journey.Beijing, namespace, "web")[0].Name
	j.Expect(j.Kubectl(journey.Beijing, "-n", namespace, "exec", pod, "--", "/bin/env")).
		To(And(ContainSubstring("TZ=Asia/Shanghai\n"), ContainSubstring("MYSQL_SERVICE_HOST=db-service\n")))
	j.Kubectl(journey.Beijing, "-n", namespace, "delete", "pod", pod, "--wait=false")
	j.Eventually(func() string {
		return j.Try(journey.Beijing, "-n", namespace, "exec", pod, "--", "/bin/cat", "/trace/stopping")
	}).
		WithTimeout(15 * time.Second).Should(Equal("leaving\n"))
}

func TestTPL07Probes(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing, journey.Public)
	const image = "registry.yunfan.internal/examples/score-record:v1"
	port, namespace := journey.Port(), j.Tenant+"-bj"
	probed := func(c *v1alpha1.Component, main *corev1.Container) {
		main.LivenessProbe = &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/_ping", Port: intstr.FromInt32(8080)}},
			PeriodSeconds: 1, FailureThreshold: 2,
		}
	}
	live := journey.Echo("live", journey.Image(image), journey.Env("SCORE_DRILLS", "1"), journey.NodePort(port), probed)
	// Without its database the page answers 503: alive, but not ready.
	alone := journey.Echo("alone", journey.Image(image), probed, journey.Readiness("/demo"))
	a := j.Application("web", journey.In("bj"), live, alone)
	restarts := func(component string) func() int32 {
		return func() int32 {
			for _, pod := range j.Pods(journey.Beijing, namespace, component) {
				for _, s := range pod.Status.ContainerStatuses {
					return s.RestartCount
				}
			}
			return -1
		}
	}
	j.Eventually(func() error { _, err := j.HTTP(journey.Beijing, port, "/_ping"); return err }).Should(Succeed())
	_, err := j.HTTP(journey.Beijing, port, "/break?probe=liveness")
	j.Expect(err).NotTo(HaveOccurred())
	j.Eventually(restarts("live")).Should(BeNumerically(">=", 1))
	j.Eventually(func() error { _, err := j.HTTP(journey.Beijing, port, "/_ping"); return err }).Should(Succeed(), "repaired by the restart")

	j.Eventually(func() string { return j.Placement(a, "bj").Message }).Should(ContainSubstring("alone"))
	j.Expect(endpoints(j, journey.Beijing, namespace, "alone")).To(BeZero(), "no traffic")
	j.Expect(restarts("alone")()).To(BeZero(), "no restart")
}

func TestTPL10DependsOn(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	slow := func(_ *v1alpha1.Component, main *corev1.Container) { main.ReadinessProbe.InitialDelaySeconds = 6 }
	a := j.Application("shop", journey.In("bj"),
		journey.Echo("web", journey.DependsOn("db")),
		journey.Echo("db", journey.Readiness("/healthz"), slow))
	j.Eventually(func() string { return j.Placement(a, "bj").Message }).Should(And(ContainSubstring("web"), ContainSubstring("db")))
	j.Ready(a)
	var ready time.Time
	for _, c := range j.Pods(journey.Beijing, j.Tenant+"-bj", "db")[0].Status.Conditions {
		if c.Type == corev1.PodReady {
			ready = c.LastTransitionTime.Time
		}
	}
	web := j.Pods(journey.Beijing, j.Tenant+"-bj", "web")[0].CreationTimestamp.Time
	j.Expect(web).To(BeTemporally(">=", ready), "web starts only after db is ready")
}

func TestTPL11JobAndCronJob(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	batch := func(kind v1alpha1.WorkloadKind, schedule string) journey.Change {
		return func(c *v1alpha1.Component, _ *corev1.Container) {
			c.Workload, c.Schedule, c.Service = kind, schedule, nil
			c.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
		}
	}
	a := j.Application("nightly", journey.In("bj"),
		journey.Echo("once", batch(v1alpha1.WorkloadJob, ""), journey.Args("print", "done")),
		journey.Echo("often", batch(v1alpha1.WorkloadCronJob, "* * * * *"), journey.Args("print", "tick")))
	j.Ready(a)
	in := client.InNamespace(j.Tenant + "-bj")
	succeeded := func(component string) func() (int32, error) {
		return func() (int32, error) {
			var jobs batchv1.JobList
			err := j.Clusters[journey.Beijing].List(j.Context(), &jobs, in)
			var count int32
			for _, job := range jobs.Items {
				if strings.HasPrefix(job.Name, component) {
					count += job.Status.Succeeded
				}
			}
			return count, err
		}
	}
	j.Eventually(succeeded("once")).Should(BeNumerically("==", 1))
	j.Eventually(succeeded("often")).Should(BeNumerically(">=", 1), "the schedule has a run every minute")
	j.Ready(a)
}
