//go:build e2e

package application_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

func TestDEP01OneDeploymentToFourPartitionsOfTwoClusters(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	where := map[string]string{"bj-a": journey.Beijing, "bj-b": journey.Beijing, "sh-a": journey.Shanghai, "sh-b": journey.Shanghai}
	for name, cluster := range where {
		j.Partition(name, cluster)
	}
	a := j.Application("web", journey.In("bj-a", "bj-b", "sh-a", "sh-b"), journey.Echo("web", journey.Readiness("/healthz")))
	j.Ready(a)
	j.Expect(a.Status.Pods).To(Equal("4/4"))
	for name, cluster := range where {
		j.Expect(j.Placement(a, name)).To(And(HaveField("Cluster", cluster), HaveField("Desired", int32(1)), HaveField("Ready", int32(1)), HaveField("Reason", "")))
		j.Expect(j.Pods(cluster, j.Tenant+"-"+name, "web")).To(HaveLen(1))
	}
	page := j.Yunfan("status", "web", "--tenant", j.Tenant)
	for name := range where {
		j.Expect(page).To(ContainSubstring(name))
	}
}

func TestDEP03ReplicasByWeight(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	j.Partition("sh", journey.Shanghai)
	weighted := v1alpha1.Placement{Policy: v1alpha1.PlacementWeighted, Partitions: []v1alpha1.PartitionChoice{
		{Name: "bj", Weight: new(int32(7))}, {Name: "sh", Weight: new(int32(3))},
	}}
	a := j.Application("web", weighted, journey.Echo("web", journey.Replicas(10)))
	j.Ready(a)
	j.Expect(j.Pods(journey.Beijing, j.Tenant+"-bj", "web")).To(HaveLen(7))
	j.Expect(j.Pods(journey.Shanghai, j.Tenant+"-sh", "web")).To(HaveLen(3))
	j.Expect(strings.Join(j.Placement(a, "bj").Explanation, "\n")).To(ContainSubstring("7 of 10"))

	j.Update(a, func() { a.Spec.Placement.Partitions[0].Weight = new(int32(0)) })
	j.Ready(a)
	j.Eventually(func() []corev1.Pod { return j.Pods(journey.Beijing, j.Tenant+"-bj", "web") }).Should(BeEmpty())
	j.Expect(j.Pods(journey.Shanghai, j.Tenant+"-sh", "web")).To(HaveLen(10))
}

func TestSCA01Scale(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	a := j.Application("web", journey.In("bj"), journey.Echo("web", journey.Readiness("/healthz")))
	j.Ready(a)
	revision, start := a.Status.Revision, time.Now()
	j.Yunfan("scale", "web", "--tenant", j.Tenant, "web=3")
	j.Eventually(func() int { return endpoints(j, journey.Beijing, j.Tenant+"-bj", "web") }).Should(Equal(3))
	t.Logf("three endpoints after %s", time.Since(start).Round(time.Millisecond))
	j.Ready(a)
	j.Expect(a.Status.Revision).To(Equal(revision), "scaling makes no new revision")
}

// endpoints counts the ready addresses of a service.
func endpoints(j *journey.Journey, cluster, namespace, service string) int {
	j.Helper()
	var slices discoveryv1.EndpointSliceList
	err := j.Clusters[cluster].List(j.Context(), &slices, client.InNamespace(namespace), client.MatchingLabels{discoveryv1.LabelServiceName: service})
	if err != nil {
		j.Fatal(err)
	}
	ready := 0
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && *e.Conditions.Ready {
				ready++
			}
		}
	}
	return ready
}

func TestTPL02VersionsAndRollback(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing, journey.Public)
	port := journey.Port()
	a := j.Application("web", journey.In("bj"), journey.Echo("web", journey.Env("ECHO_VERSION", "v1"), journey.Readiness("/healthz"), journey.NodePort(port)))
	j.Ready(a)
	first := a.Status.Revision
	version := func() (string, error) { return j.HTTP(journey.Beijing, port, "/") }
	j.Eventually(version).Should(ContainSubstring(`"version": "v1"`))

	j.Update(a, func() {
		a.Spec.Version = "v2"
		a.Spec.Components[0].Template.Spec.Containers[0].Env[0].Value = "v2"
	})
	j.Ready(a)
	j.Expect(a.Status.Revision).NotTo(Equal(first))
	j.Eventually(version).Should(ContainSubstring(`"version": "v2"`))
	j.Expect(j.Yunfan("revisions", "web", "--tenant", j.Tenant)).To(And(ContainSubstring("v1"), ContainSubstring("v2")))

	j.Yunfan("rollback", "web", "--tenant", j.Tenant)
	j.Ready(a)
	j.Expect(a.Status.Revision).To(Equal(first), "the same content is the same revision")
	j.Eventually(version).Should(ContainSubstring(`"version": "v1"`))
}

func TestDEP05StopStartAndDelete(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	port := journey.Port()
	a := j.Application("web", journey.In("bj"), journey.Echo("web", journey.Replicas(2), journey.NodePort(port)))
	j.Ready(a)
	namespace := j.Tenant + "-bj"
	pods := func() []corev1.Pod { return j.Pods(journey.Beijing, namespace, "web") }
	j.Eventually(func() string { return j.Yunfan("logs", "web", "--tenant", j.Tenant) }).Should(ContainSubstring("serving"))

	j.Yunfan("stop", "web", "--tenant", j.Tenant)
	j.Eventually(pods).Should(BeEmpty())
	var service corev1.Service
	key := client.ObjectKey{Namespace: namespace, Name: "web"}
	j.Expect(j.Clusters[journey.Beijing].Get(j.Context(), key, &service)).To(Succeed(), "the service stays")
	j.Expect(service.Spec.Ports[0].NodePort).To(Equal(port))
	j.Yunfan("start", "web", "--tenant", j.Tenant)
	j.Eventually(pods).Should(HaveLen(2))
	j.Ready(a)

	j.Expect(j.Hub().Delete(j.Context(), a)).To(Succeed())
	j.Eventually(pods).Should(BeEmpty())
	j.Eventually(func() error { return j.Clusters[journey.Beijing].Get(j.Context(), key, &service) }).Should(MatchError(ContainSubstring("not found")))
}

func TestDEP06DesiredStateIsKept(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	a := j.Application("web", journey.In("bj"), journey.Echo("web", journey.Replicas(2), journey.Readiness("/healthz")))
	j.Ready(a)
	namespace := j.Tenant + "-bj"
	lost := j.Pods(journey.Beijing, namespace, "web")[0]
	j.Kubectl(journey.Beijing, "-n", namespace, "delete", "pod", lost.Name, "--wait=false")
	j.Eventually(func() string {
		names := ""
		for _, pod := range j.Pods(journey.Beijing, namespace, "web") {
			names += pod.Name + " "
		}
		return names
	}).ShouldNot(ContainSubstring(lost.Name))
	j.Ready(a)
	j.Expect(j.Pods(journey.Beijing, namespace, "web")).To(HaveLen(2))

	for reason, drift := range map[string][]string{
		"a number changed by hand": {"scale", "deployment", "web", "--replicas=5"},
		"an image changed by hand": {"set", "image", "deployment/web", "main=registry.yunfan.internal/examples/other:v9"},
		"an object deleted":        {"delete", "service", "web"},
	} {
		start := time.Now()
		j.Kubectl(journey.Beijing, append([]string{"-n", namespace}, drift...)...)
		j.Eventually(func() string {
			return j.Kubectl(journey.Beijing, "-n", namespace, "get", "deployment,service", "web", "--ignore-not-found",
				"-o", "jsonpath={range .items[*]}{.kind} {.spec.replicas} {.spec.template.spec.containers[*].image};{end}")
		}).WithTimeout(15*time.Second).Should(Equal(fmt.Sprintf("Deployment 2 %s;Service  ;", journey.EchoImage)), reason)
		t.Logf("%s: corrected after %s", reason, time.Since(start).Round(100*time.Millisecond))
	}
}

func TestTPL04Preview(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	file := t.TempDir() + "/application.yaml"
	j.WriteYAML(file, &v1alpha1.Application{
		TypeMeta:   journey.Kind("Application"),
		ObjectMeta: journey.Named(j.Tenant, "web"),
		Spec:       v1alpha1.ApplicationSpec{Placement: journey.In("bj"), Components: []v1alpha1.Component{journey.Echo("web")}},
	})
	j.Expect(j.Yunfan("preview", "-f", file, "--tenant", j.Tenant)).To(And(ContainSubstring("Deployment"), ContainSubstring("Service"), ContainSubstring("bj")))
	var there v1alpha1.ApplicationList
	j.Expect(j.Hub().List(j.Context(), &there, client.InNamespace(j.Tenant))).To(Succeed())
	j.Expect(there.Items).To(BeEmpty(), "a preview does nothing")
	j.Expect(j.Kubectl(journey.Beijing, "-n", j.Tenant+"-bj", "get", "deployments", "-o", "name")).To(BeEmpty())
}
