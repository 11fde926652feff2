package cluster_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

func TestCLU05_AddressesKeptFromPods(t *testing.T) {
	run(t)
	m := testkit.StartMember(t)
	for i, name := range []string{"a", "b"} {
		n := node(name, corev1.ConditionTrue, "2", "4Gi")
		n.Spec.PodCIDR = []string{"10.244.0.0/24", "10.244.1.0/24"}[i]
		n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
		n.Status.Addresses = []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: []string{"198.18.0.2", "198.18.0.3"}[i]}, {Type: corev1.NodeHostName, Address: name},
		}
		testkit.Create(t, m.Client, n)
	}
	name := testkit.Name(t)
	join(t, name, m.Kubeconfig(t, ""))
	c := eventually(t, name, "20s", v1alpha1.ReasonReady, "")
	g := NewWithT(t)
	var endpoints corev1.Endpoints //nolint:staticcheck // what kubectl shows of the Service, to compare with
	g.Expect(m.Client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "kubernetes"}, &endpoints)).To(Succeed())
	g.Expect(c.Status.Network.APIServers).To(HaveLen(1), "the platform's own address is on the loopback, which no pod reaches")
	g.Expect(c.Status.Network.APIServers[0]).To(HavePrefix(endpoints.Subsets[0].Addresses[0].IP + ":"))
	g.Expect(c.Status.Network.Nodes).To(Equal([]string{"198.18.0.2/31"}))
	g.Expect(c.Status.Network.Pods).To(Equal([]string{"10.244.0.0/23"}))

	c.Spec.PodCIDRs = []string{"10.0.0.0/9"}
	g.Expect(hub.Client.Update(t.Context(), c)).To(Succeed())
	g.Eventually(func() string {
		c = eventually(t, name, "20s", v1alpha1.ReasonReady, "")
		return cmp.Diff([]string{"10.0.0.0/9"}, c.Status.Network.Pods)
	}, "20s").Should(BeEmpty(), "what the administrator says is so")
	c.Spec.PodCIDRs = []string{"10.0.0.0"}
	g.Expect(hub.Client.Update(t.Context(), c)).To(MatchError(ContainSubstring("write a range like")))
}
