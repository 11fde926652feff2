//go:build e2e

package application_test

import (
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

// What a pod writes to a path of its host is there for the pod after it, on the same node.
func TestTPL05HostPathOutlivesThePod(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	p := j.Partition("sh", journey.Shanghai, func(s *v1alpha1.PartitionSpec) { s.PodSecurity = v1alpha1.PodSecurityPrivileged })
	folder := "/var/lib/kubelet/e2e-" + j.Tenant // of the node; it goes with the instance
	a := j.Application("db", journey.In("sh"), journey.Echo("db", func(c *v1alpha1.Component, main *corev1.Container) {
		c.Template.Spec.Volumes = []corev1.Volume{{Name: "mysqldata", VolumeSource: corev1.VolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: folder, Type: new(corev1.HostPathDirectoryOrCreate)},
		}}}
		main.VolumeMounts = []corev1.VolumeMount{{Name: "mysqldata", MountPath: "/var/lib/mysql"}}
		main.SecurityContext = &corev1.SecurityContext{RunAsUser: new(int64(0))}
	}))
	j.Ready(a)
	pod := func() string {
		for _, pod := range j.Pods(journey.Shanghai, p.MemberNamespace(), "db") {
			return pod.Name
		}
		return "none"
	}
	first := pod()
	j.Kubectl(journey.Shanghai, "-n", p.MemberNamespace(), "exec", first, "--", "/bin/write", "/var/lib/mysql/rows", "kept")
	j.Kubectl(journey.Shanghai, "-n", p.MemberNamespace(), "delete", "pod", first)
	j.Eventually(func() string {
		return j.Try(journey.Shanghai, "-n", p.MemberNamespace(), "exec", pod(), "--", "/bin/cat", "/var/lib/mysql/rows")
	}).Should(Equal("kept\n"))
	j.Expect(pod()).NotTo(Equal(first))
}

// A hundred instances over both clusters, images pulled from the platform's registry. The target is one minute on a
// machine of its own, which make bench measures; here, beside other journeys, twice that is the limit.
func TestMET16HundredInstances(t *testing.T) {
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	j.Partition("sh", journey.Shanghai)
	start := time.Now()
	spread := journey.In("bj", "sh")
	spread.Policy = v1alpha1.PlacementWeighted
	a := j.Application("many", spread, journey.Echo("many", journey.Replicas(100), journey.Resources("1m", "8Mi")))
	j.Eventually(j.Condition(a, v1alpha1.ConditionReady)).WithTimeout(2 * time.Minute).Should(HavePrefix("True"))
	j.Logf("100 instances ready after %s", time.Since(start).Round(100*time.Millisecond))
	j.Expect(strings.TrimSpace(a.Status.Pods)).To(Equal("100/100"))
}
