//go:build e2e

package isolation_test

import (
	"context"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

const (
	// silence is how long a connection is tried that should not come about: it takes milliseconds otherwise.
	silence = 4 * time.Second
	// soon is how long a change of policy may take to be in force on a busy machine.
	soon = 30 * time.Second
)

// world is a tenant with pods on known nodes of Beijing.
type world struct{ *journey.Journey }

// pod runs one echo server in a partition on a node, with labels of its own, and gives it back when it runs.
func (w world) pod(partition, name string, node int, labels map[string]string, changes ...journey.Change) *corev1.Pod {
	w.Helper()
	changes = append(changes, func(c *v1alpha1.Component, _ *corev1.Container) {
		c.Template.Labels = labels
		c.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: w.node(node)}
	})
	a := w.Application(name, journey.In(partition), journey.Echo(name, append(changes, journey.Readiness("/healthz"))...))
	w.Ready(a)
	pods := w.Pods(journey.Beijing, w.Tenant+"-"+partition, name)
	w.Expect(pods).To(gomega.HaveLen(1))
	return &pods[0]
}

// node is the name of a node of Beijing.
func (w world) node(i int) string {
	w.Helper()
	var nodes corev1.NodeList
	if err := w.Clusters[journey.Beijing].List(w.Context(), &nodes); err != nil {
		w.Fatal(err)
	}
	return nodes.Items[i].Name
}

// reaches says whether a pod gets a TCP connection to an address with port.
func (w world) reaches(from *corev1.Pod, address string) bool {
	ctx, cancel := context.WithTimeout(w.Context(), silence)
	defer cancel()
	out, err := w.World.Kubectl(ctx, journey.Beijing, "-n", from.Namespace, "exec", from.Name, "--", "/bin/dial", "tcp", address).CombinedOutput()
	return err == nil && strings.Contains(string(out), "connected to")
}

// outside says whether the machine, which is no pod, gets a TCP connection to an address with port.
func (w world) outside(address string) bool {
	ctx, cancel := context.WithTimeout(w.Context(), silence)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// open and closed wait until a connection comes about, or does not. Others are asked at the same time for comparison, so
// that a machine that is merely slow does not look closed.
func (w world) open(from *corev1.Pod, address, reason string) {
	w.Helper()
	w.Eventually(func() bool { return w.reaches(from, address) }).WithTimeout(soon).Should(gomega.BeTrue(), reason)
}

func (w world) closed(from *corev1.Pod, address, reason string) {
	w.Helper()
	w.Eventually(func() bool { return w.reaches(from, address) }).WithTimeout(soon).Should(gomega.BeFalse(), reason)
}

// at is the address of a pod's port.
func at(p *corev1.Pod, port int) string { return net.JoinHostPort(p.Status.PodIP, strconv.Itoa(port)) }

// isolate changes the isolation of a partition.
func (w world) isolate(p *v1alpha1.Partition, change func(*v1alpha1.PartitionSpec)) {
	w.Helper()
	w.Update(p, func() { change(&p.Spec) })
	w.Eventually(w.Condition(p, v1alpha1.ConditionReady)).Should(gomega.HavePrefix("True"))
}

func selector(key, value string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
}
