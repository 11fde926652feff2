package cluster_test

import (
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/rest"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cluster"
	"yunfan.io/yunfan/internal/testkit"
)

func copyWith(config *rest.Config, ca, certificate, key []byte) *rest.Config {
	out := rest.CopyConfig(config)
	out.CAData, out.CertData, out.KeyData = ca, certificate, key
	return out
}

func TestCLU06_Inventory(t *testing.T) {
	set := run(t)
	m := testkit.StartMember(t)
	ns := testkit.Namespace(t, m.Client)
	first := node("a", corev1.ConditionTrue, "2", "4Gi")
	first.Status.NodeInfo = corev1.NodeSystemInfo{
		KernelVersion: "6.18.4-amd64", OperatingSystem: "linux", OSImage: "Debian 12", ContainerRuntimeVersion: "containerd://2.4.2",
	}
	first.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "198.18.0.2"}}
	second := node("b", corev1.ConditionTrue, "1", "1Gi")
	second.Status.NodeInfo = corev1.NodeSystemInfo{KernelVersion: "2.6.32-754.el6", OperatingSystem: "linux"}
	over := pod(ns, "two", "a", "300m")
	over.Spec.Containers[0].Resources.Limits["cpu"] = resource.MustParse("3")
	over.Spec.Containers[0].Resources.Limits["memory"] = resource.MustParse("1Gi")
	over.Spec.Containers[0].Resources.Requests["memory"] = resource.MustParse("1Gi")
	ended := pod(ns, "ended", "a", "1")
	testkit.Create(t, m.Client, second, first, over, pod(ns, "one", "a", "500m"), ended)
	ended.Status.Phase = corev1.PodFailed
	if err := m.Client.Status().Update(t.Context(), ended); err != nil {
		t.Fatal(err)
	}
	name := testkit.Name(t)
	join(t, name, m.Kubeconfig(t, ""))
	eventually(t, name, "20s", v1alpha1.ReasonReady, "")
	joined, _ := set.Member(name)
	nodes, err := cluster.Inventory(t.Context(), joined)
	if err != nil {
		t.Fatal(err)
	}
	g := NewWithT(t)
	g.Expect(nodes).To(HaveLen(2))
	a := nodes[0]
	g.Expect(a.Name).To(Equal("a"))
	g.Expect(a.Addresses[0].Address).To(Equal("198.18.0.2"))
	g.Expect(a.Warnings).To(BeEmpty())
	g.Expect(a.Pods).To(HaveLen(2), "a pod that has ended uses nothing")
	g.Expect(a.Pods[0].Name).To(Equal("one"))
	share := func(s cluster.Shares, name corev1.ResourceName, value string, percent int64) {
		t.Helper()
		got := s[name]
		g.Expect(got.Value.Cmp(resource.MustParse(value))).To(Equal(0), "%s is %s, want %s", name, got.Value.String(), value)
		g.Expect(got.Percent).To(Equal(percent))
	}
	share(a.Pods[0].Requests, "cpu", "500m", 25)
	share(a.Requests, "cpu", "800m", 40)
	share(a.Limits, "cpu", "3500m", 175)
	share(a.Limits, "memory", "1Gi", 25)
	g.Expect(nodes[1].Warnings).To(HaveLen(1))
	g.Expect(nodes[1].Warnings[0]).To(ContainSubstring("older than 3.10"))
}
