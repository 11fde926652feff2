//go:build e2e

package application_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
	"yunfan.io/yunfan/examples/score"
)

// The main job: the students' scores out of a MariaDB in each of two clusters, from one Application.
func TestEX01ScoresFromTwoClusters(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("prod-bj", journey.Beijing)
	j.Partition("prod-sh", journey.Shanghai)
	a, conf := &v1alpha1.Application{}, &v1alpha1.Configuration{}
	manifest(j, "application.yaml", a)
	manifest(j, "configuration.yaml", conf)
	a.Namespace, conf.Namespace = j.Tenant, j.Tenant
	secret := func(name, key string) *v1alpha1.Configuration {
		return &v1alpha1.Configuration{ObjectMeta: journey.Named(j.Tenant, name), Spec: v1alpha1.ConfigurationSpec{
			Type: v1alpha1.ConfigurationSecret, Files: map[string]string{key: j.Tenant + "-password"},
		}}
	}
	ports := map[string]int32{journey.Beijing: journey.Port(), journey.Shanghai: journey.Port()}
	web := &a.Spec.Components[1]
	web.Service.Ports[0].NodePort = ports[journey.Beijing]
	a.Spec.Placement.Partitions[1].Overrides[0].NodePorts = map[string]int32{"http": ports[journey.Shanghai]}
	j.Create(conf, secret("score-database", "MYSQL_PASSWORD"), secret("score-database-root", "MYSQL_ROOT_PASSWORD"), a)

	j.Ready(a)
	for cluster, port := range ports {
		j.Eventually(func() (string, error) { return j.HTTP(cluster, port, "/") }).
			Should(And(ContainSubstring("<td>张伟</td>"), ContainSubstring("95.5")), "rows of the database of %s", cluster)
		j.Expect(j.HTTP(cluster, port, "/metrics")).To(ContainSubstring("# TYPE"))
	}
	j.Expect(j.Placement(a, "prod-bj").Explanation).To(ContainElement(ContainSubstring("score-record 2 of 3 by weight")))
	j.Expect(j.Placement(a, "prod-sh").Explanation).To(ContainElement(ContainSubstring("score-record 1 of 3 by weight")))
}

// manifest reads the one object in a file of the score example.
func manifest(j *journey.Journey, file string, into any) {
	j.Helper()
	text, err := score.Manifests.ReadFile(file)
	if err != nil {
		j.Fatal(err)
	}
	if err := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096).Decode(into); err != nil {
		j.Fatalf("reading %s: %v", file, err)
	}
}

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
