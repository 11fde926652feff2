//go:build e2e

package isolation_test

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"testing"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

// later is kubectl for cleanups, after the test's context has ended.
func later(w world, cluster string, args ...string) {
	w.Helper()
	if out, err := w.World.Kubectl(context.WithoutCancel(w.Context()), cluster, args...).CombinedOutput(); err != nil {
		w.Errorf("%v: %v\n%s", args, err, out)
	}
}

// Not parallel: it changes the cluster of everybody.
func TestRES12_PortsOfPrograms(t *testing.T) {
	w := world{journey.Begin(t)}
	w.Partition("bj", journey.Beijing)
	cluster := &v1alpha1.Cluster{}
	cluster.Name = journey.Beijing
	w.Update(cluster, func() { cluster.Spec.PortReport = v1alpha1.PortReportPrograms })
	t.Cleanup(func() {
		later(w, journey.Hub, "patch", "cluster", journey.Beijing, "--type=merge", "-p", `{"spec":{"portReport":"Off"}}`)
	})
	port := journey.Port()
	name := "listener-" + w.Tenant
	w.KubectlInput(journey.Beijing, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "default", "name": %q}, "spec": {
		"hostNetwork": true, "nodeName": %q, "terminationGracePeriodSeconds": 0,
		"containers": [{"name": "main", "image": %q, "args": ["serve", "--http", ":%d"]}]}}`, name, w.node(1), journey.EchoImage, port), "apply", "-f", "-")
	t.Cleanup(func() { later(w, journey.Beijing, "-n", "default", "delete", "pod", name) })
	w.Eventually(func() string {
		return w.Try(journey.Beijing, "-n", "yunfan-ports", "get", "configmap", "ports-"+w.node(1), "-o", "jsonpath={.data.ports}")
	}).Should(gomega.ContainSubstring(fmt.Sprintf("%d echo\n", port)))
	a := w.Application("web", journey.In("bj"), journey.Echo("web", journey.NodePort(port)))
	w.Eventually(w.Condition(a, v1alpha1.ConditionReady)).WithTimeout(soon).Should(gomega.And(
		gomega.HavePrefix("False "+v1alpha1.ReasonNodePortTaken),
		gomega.ContainSubstring(fmt.Sprintf("node port %d of cluster beijing is taken by echo, which listens on node %s", port, w.node(1))),
	))
}

// A service is published on the address of one node: there its own port answers, on the other node it does not; and an
// address that the cluster does not set aside is refused.
func TestRES13_ChosenNodes(t *testing.T) {
	w := world{journey.Begin(t)}
	w.Partition("bj", journey.Beijing)
	nodes := w.Nodes(journey.Beijing)
	edge := &v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: journey.Beijing}}
	w.Cleanup(func() {
		later(w, journey.Hub, "patch", "cluster", journey.Beijing, "--type=merge", "-p", `{"spec":{"externalIPs":null}}`)
	})
	w.Update(edge, func() { edge.Spec.ExternalIPs = []string{nodes[0] + "/32"} })

	on := func(address string) journey.Change {
		return func(c *v1alpha1.Component, _ *corev1.Container) { c.Service.ExternalIPs = []string{address} }
	}
	w.Application("edge", journey.In("bj"), journey.Echo("edge", on(nodes[0])))
	port := strconv.Itoa(8080)
	w.Eventually(func() bool { return w.outside(net.JoinHostPort(nodes[0], port)) }).Should(gomega.BeTrue(), "the chosen node answers")
	w.Expect(w.outside(net.JoinHostPort(nodes[1], port))).To(gomega.BeFalse(), "the other does not")

	w.Application("thief", journey.In("bj"), journey.Echo("thief", on(nodes[1])))
	thief := &v1alpha1.Application{ObjectMeta: journey.Named(w.Tenant, "thief")}
	w.Eventually(func() string {
		w.Expect(w.Get(thief)).To(gomega.Succeed())
		p := w.Placement(thief, "bj")
		return p.Reason + " " + p.Message
	}).Should(gomega.ContainSubstring("external address " + nodes[1]))
}
