//go:build e2e

// Package engine_test has the journeys whose subject is what the embedded clusters give to applications: names,
// addresses and volumes. Drills of the engine itself are tested in its own module.
package engine_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

// exec runs a command of the echo image in a pod.
func exec(j *journey.Journey, cluster, namespace, pod string, command ...string) string {
	j.Helper()
	return j.Try(cluster, append([]string{"-n", namespace, "exec", pod, "--"}, command...)...)
}

func TestDNS01NamesInPods(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	p := j.Partition("bj", journey.Beijing)
	a := j.Application("web", journey.In("bj"), journey.Echo("web", journey.Readiness("/healthz")))
	j.Ready(a)
	namespace := p.MemberNamespace()
	pod := j.Pods(journey.Beijing, namespace, "web")[0].Name
	j.Expect(exec(j, journey.Beijing, namespace, pod, "/bin/cat", "/etc/resolv.conf")).To(And(
		ContainSubstring("nameserver 10.96.0.10\n"), ContainSubstring("options ndots:5\n"),
		ContainSubstring("search "+namespace+".svc.cluster.local svc.cluster.local cluster.local")))
	address := func() string {
		return strings.TrimSpace(j.Kubectl(journey.Beijing, "-n", namespace, "get", "service", "web", "--ignore-not-found", "-o", "jsonpath={.spec.clusterIP}"))
	}
	named := func() string {
		return strings.TrimSpace(exec(j, journey.Beijing, namespace, pod, "/bin/nslookup", "web"))
	}
	first := address()
	j.Eventually(named).Should(Equal(first))
	j.Kubectl(journey.Beijing, "-n", namespace, "delete", "service", "web")
	j.Eventually(address).ShouldNot(Or(BeEmpty(), Equal(first)), "made anew, by the platform")
	j.Eventually(func() bool { return named() == address() }).Should(BeTrue(), "the record follows")
}

func TestNET01FlatNetwork(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	p := j.Partition("bj", journey.Beijing)
	a := j.Application("web", journey.In("bj"), journey.Echo("web", journey.Workload(v1alpha1.WorkloadDaemonSet), journey.Readiness("/healthz")))
	j.Ready(a)
	pods := j.Pods(journey.Beijing, p.MemberNamespace(), "web")
	j.Expect(pods).To(HaveLen(2))
	j.Expect(pods[0].Spec.NodeName).NotTo(Equal(pods[1].Spec.NodeName))
	for i, from := range pods {
		to := pods[1-i]
		body := exec(j, journey.Beijing, p.MemberNamespace(), from.Name, "/bin/get", "http://"+to.Status.PodIP+":8080/")
		j.Expect(body).To(And(ContainSubstring(to.Name), ContainSubstring(`"from": "`+from.Status.PodIP+":")), "by its own address, without translation")
	}
	j.Expect(exec(j, journey.Beijing, p.MemberNamespace(), pods[0].Name, "/bin/get", "http://web:8080/hostname")).To(ContainSubstring("200 OK"), "pod to service")
	j.Expect(exec(j, journey.Beijing, p.MemberNamespace(), pods[0].Name, "/bin/get", "http://127.0.0.1:8080/hostname")).To(ContainSubstring(pods[0].Name), "over loopback")
}

func TestNET11SessionAffinity(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing, journey.Public)
	sticky, even := journey.Port(), journey.Port()
	a := j.Application("web", journey.In("bj"),
		journey.Echo("sticky", journey.Replicas(3), journey.Readiness("/healthz"), journey.NodePort(sticky), func(c *v1alpha1.Component, _ *corev1.Container) {
			c.Service.SessionAffinity = corev1.ServiceAffinityClientIP
		}),
		journey.Echo("even", journey.Replicas(3), journey.Readiness("/healthz"), journey.NodePort(even)))
	j.Ready(a)
	hosts := func(port int32) int {
		seen := map[string]bool{}
		for range 30 {
			if name, err := j.HTTP(journey.Beijing, port, "/hostname"); err == nil {
				seen[name] = true
			}
		}
		return len(seen)
	}
	j.Eventually(func() int { return hosts(even) }).Should(Equal(3), "requests go round")
	j.Expect(hosts(sticky)).To(Equal(1), "one client, one pod")
}

func TestNET11HostNetworkOncePerHost(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("sh", journey.Shanghai, func(s *v1alpha1.PartitionSpec) { s.PodSecurity = v1alpha1.PodSecurityPrivileged })
	port := journey.Port()
	a := j.Application("host", journey.In("sh"), journey.Echo("host", journey.Replicas(2), journey.Env("ECHO_HTTP", fmt.Sprintf(":%d", port)),
		func(c *v1alpha1.Component, main *corev1.Container) {
			c.Service = nil
			c.Template.Spec.HostNetwork = true
			main.Ports = []corev1.ContainerPort{{ContainerPort: port, HostPort: port}}
		}))
	j.Eventually(func() string {
		p := j.Placement(a, "sh")
		return fmt.Sprintf("%d/%d %s %s", p.Ready, p.Desired, p.Reason, p.Message)
	}).Should(And(HavePrefix("1/2 "+v1alpha1.ReasonUnschedulable), ContainSubstring("port")), "Shanghai has one node")
	j.Expect(j.Pods(journey.Shanghai, j.Tenant+"-sh", "host")).To(ContainElement(HaveField("Status.PodIP", j.Nodes(journey.Shanghai)[0])))
}

func TestSTO01KindsOfVolumes(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	p := j.Partition("bj", journey.Beijing, func(s *v1alpha1.PartitionSpec) { s.PodSecurity = v1alpha1.PodSecurityPrivileged })
	config := &v1alpha1.Configuration{ObjectMeta: journey.Named(j.Tenant, "conf"), Spec: v1alpha1.ConfigurationSpec{Files: map[string]string{"file": "from a ConfigMap"}}}
	secret := &v1alpha1.Configuration{ObjectMeta: journey.Named(j.Tenant, "hidden")}
	j.Create(config, secret.WriteSecret(corev1.SecretTypeOpaque, map[string][]byte{"file": []byte("from a Secret")}), secret)
	volumes := map[string]corev1.VolumeSource{
		"empty": {EmptyDir: &corev1.EmptyDirVolumeSource{}},
		"host":  {HostPath: &corev1.HostPathVolumeSource{Path: "/etc/hostname", Type: new(corev1.HostPathFile)}},
		"down": {DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{
			Path: "file", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"},
		}}}},
	}
	a := j.Application("store", journey.In("bj"), journey.Echo("store", journey.Claim("claim", "/claim"), func(c *v1alpha1.Component, main *corev1.Container) {
		c.Configurations = []v1alpha1.ConfigurationUse{{Name: "conf", MountPath: "/conf"}, {Name: "hidden", MountPath: "/hidden"}}
		for name, source := range volumes {
			c.Template.Spec.Volumes = append(c.Template.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
			main.VolumeMounts = append(main.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/" + name})
		}
	}))
	j.Ready(a)
	namespace := p.MemberNamespace()
	for _, path := range []string{"/empty/file", "/claim/file"} {
		j.Expect(exec(j, journey.Beijing, namespace, "store-0", "/bin/write", path, "written")).To(BeEmpty())
	}
	for path, want := range map[string]string{
		"/empty/file": "written\n", "/claim/file": "written\n", "/conf/file": "from a ConfigMap", "/hidden/file": "from a Secret", "/down/file": namespace,
	} {
		j.Expect(exec(j, journey.Beijing, namespace, "store-0", "/bin/cat", path)).To(Equal(want), path)
	}
	j.Expect(exec(j, journey.Beijing, namespace, "store-0", "/bin/cat", "/host")).NotTo(BeEmpty())
}

func TestSTO03DynamicVolumes(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	p := j.Partition("bj", journey.Beijing)
	a := j.Application("store", journey.In("bj"), journey.Echo("auto", journey.Claim("data", "/data")),
		journey.Echo("static", journey.Claim("data", "/data"), func(c *v1alpha1.Component, _ *corev1.Container) {
			c.VolumeClaimTemplates[0].Spec.StorageClassName = new("")
		}))
	phase := func(claim string) func() string {
		return func() string {
			return j.Kubectl(journey.Beijing, "-n", p.MemberNamespace(), "get", "pvc", claim, "--ignore-not-found", "-o", "jsonpath={.status.phase} {.spec.storageClassName}")
		}
	}
	j.Eventually(phase("data-auto-0")).Should(Equal("Bound standard"))
	j.Eventually(phase("data-static-0")).Should(Equal("Pending "))
	j.Eventually(func() string { return j.Placement(a, "bj").Message }).Should(ContainSubstring("static"))

	volume := map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolume", "metadata": map[string]any{"name": j.Tenant},
		"spec": map[string]any{
			"capacity": map[string]any{"storage": "16Mi"}, "accessModes": []string{"ReadWriteOnce"}, "persistentVolumeReclaimPolicy": "Retain",
			"claimRef": map[string]any{"namespace": p.MemberNamespace(), "name": "data-static-0"},
			"hostPath": map[string]any{"path": "/var/lib/" + j.Tenant, "type": "DirectoryOrCreate"},
		},
	}
	text, err := json.Marshal(volume)
	j.Expect(err).NotTo(HaveOccurred())
	j.KubectlInput(journey.Beijing, string(text), "apply", "-f", "-")
	t.Cleanup(func() { j.Try(journey.Beijing, "delete", "pv", j.Tenant, "--wait=false") })
	j.Eventually(phase("data-static-0")).Should(Equal("Bound "))
	j.Ready(a)
}

func TestSTO10StatefulSets(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	p := j.Partition("bj", journey.Beijing)
	namespace := p.MemberNamespace()
	a := j.Application("store", journey.In("bj"), journey.Echo("store", journey.Replicas(3), journey.Claim("data", "/data"), journey.Readiness("/healthz")))
	j.Ready(a)
	started := map[string]int64{}
	for _, pod := range j.Pods(journey.Beijing, namespace, "store") {
		started[pod.Name] = pod.CreationTimestamp.Unix()
	}
	j.Expect(started).To(And(HaveLen(3), HaveKey("store-0"), HaveKey("store-1"), HaveKey("store-2")))
	j.Expect(started["store-0"]).To(BeNumerically("<=", started["store-1"]))
	j.Expect(started["store-1"]).To(BeNumerically("<=", started["store-2"]))

	j.Expect(exec(j, journey.Beijing, namespace, "store-1", "/bin/write", "/data/who", "I was store-1")).To(BeEmpty())
	uid := func() string {
		return j.Kubectl(journey.Beijing, "-n", namespace, "get", "pod", "store-1", "--ignore-not-found", "-o", "jsonpath={.metadata.uid}")
	}
	before := uid()
	j.Kubectl(journey.Beijing, "-n", namespace, "delete", "pod", "store-1")
	j.Eventually(uid).ShouldNot(Or(BeEmpty(), Equal(before)))
	j.Ready(a)
	j.Eventually(func() string { return exec(j, journey.Beijing, namespace, "store-1", "/bin/cat", "/data/who") }).Should(Equal("I was store-1\n"))
	j.Eventually(func() string {
		return exec(j, journey.Beijing, namespace, "store-0", "/bin/get", "http://store-1.store-pods:8080/hostname")
	}).Should(ContainSubstring("store-1"), "a stable name of its own")

	j.Update(a, func() { a.Spec.Components[0].Replicas = new(int32(1)) })
	j.Eventually(func() int { return len(j.Pods(journey.Beijing, namespace, "store")) }).Should(Equal(1))
	j.Expect(j.Pods(journey.Beijing, namespace, "store")[0].Name).To(Equal("store-0"), "the last goes first")
}
