//go:build e2e

package isolation_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/onsi/gomega"

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
