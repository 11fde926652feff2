//go:build e2e

package isolation_test

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

// apiServer is the address of a member's API server.
func apiServer(w world, cluster string) string {
	w.Helper()
	var c v1alpha1.Cluster
	if err := w.Hub().Get(w.Context(), client.ObjectKey{Name: cluster}, &c); err != nil {
		w.Fatal(err)
	}
	w.Expect(c.Status.Network.APIServers).NotTo(gomega.BeEmpty())
	return netip.MustParseAddrPort(c.Status.Network.APIServers[0]).Addr().String()
}

func TestCLU05_ManagementPortsAreClosedToPods(t *testing.T) {
	t.Parallel()
	w := world{journey.Begin(t)}
	p := w.Partition("bj", journey.Beijing)
	pods := map[string]string{} // addresses by what they are
	for _, cluster := range []string{journey.Beijing, journey.Shanghai} {
		server := apiServer(w, cluster)
		for name, port := range map[string]int{"API server": 6443, "etcd": 2379, "etcd's peers": 2380, "controller manager": 10257, "scheduler": 10259} {
			pods[cluster+": "+name] = net.JoinHostPort(server, strconv.Itoa(port))
		}
		for i, node := range w.Nodes(cluster) {
			for name, port := range map[string]int{"kubelet": 10250, "kube-proxy": 10256} {
				pods[cluster+": "+name+" of node "+strconv.Itoa(i)] = net.JoinHostPort(node, strconv.Itoa(port))
			}
		}
	}
	pods["the API server by its service"] = "kubernetes.default.svc:443"
	hub := strings.TrimPrefix(w.Hub().Config.Host, "https://")
	pods["hub: API server"] = hub

	caller, peer := w.pod("bj", "caller", 0, nil), w.pod("bj", "peer", 1, nil)
	w.open(caller, at(peer, 8080), "the pod is on the network")
	for name, address := range pods {
		w.Expect(w.reaches(caller, address)).To(gomega.BeFalse(), name+" "+address)
	}
	for _, address := range []string{hub, pods["beijing: API server"], pods["shanghai: API server"], pods["beijing: kubelet of node 0"], pods["beijing: kubelet of node 1"]} {
		w.Expect(w.outside(address)).To(gomega.BeTrue(), "the platform reaches "+address)
	}
	w.isolate(p, func(s *v1alpha1.PartitionSpec) { s.Isolation.APIServer = true })
	w.open(caller, pods["the API server by its service"], "a partition of controllers")
	w.Expect(w.reaches(caller, pods["shanghai: API server"])).To(gomega.BeFalse(), "another cluster's API server")
	w.Expect(w.reaches(caller, pods["beijing: kubelet of node 0"])).To(gomega.BeFalse(), "the kubelet of its own node")
	w.Expect(w.reaches(caller, pods["beijing: kubelet of node 1"])).To(gomega.BeFalse(), "the kubelet of another node")
}

// The list of the ports that a firewall must let through is compared with what answers, and with what the API server
// itself says of its nodes.
func TestCLU05_PortsNeeded(t *testing.T) {
	t.Parallel()
	w := world{journey.Begin(t)}
	administrator := w.Person("ports", func(s *v1alpha1.UserSpec) { s.PlatformAdministrator = true })
	w.Partition("bj", journey.Beijing)
	caller := w.pod("bj", "caller", 0, nil)
	for cluster, nodes := range map[string]int{journey.Beijing: 2, journey.Shanghai: 1} {
		code, text, err := administrator.Do(w.Context(), http.MethodGet, "/api/v1/clusters/"+cluster+"/ports", nil)
		w.Expect(err).NotTo(gomega.HaveOccurred())
		w.Expect(code).To(gomega.Equal(http.StatusOK), string(text))
		var ports []struct{ Component, Address string }
		w.Expect(json.Unmarshal(text, &ports)).To(gomega.Succeed())
		listed := map[string][]string{}
		for _, p := range ports {
			listed[p.Component] = append(listed[p.Component], p.Address)
			w.Expect(w.outside(p.Address)).To(gomega.BeTrue(), p.Component+" listens on "+p.Address)
			w.Expect(w.reaches(caller, p.Address)).To(gomega.BeFalse(), p.Component+" is closed to pods on "+p.Address)
		}
		w.Expect(listed["kube-apiserver"]).To(gomega.ContainElement(strings.TrimPrefix(w.Clusters[cluster].Config.Host, "https://")))
		var kubelets []string
		for _, node := range w.Nodes(cluster) {
			kubelets = append(kubelets, net.JoinHostPort(node, "10250"))
		}
		w.Expect(listed["kubelet"]).To(gomega.ConsistOf(kubelets))
		w.Expect(kubelets).To(gomega.HaveLen(nodes))
		w.Expect(listed).To(gomega.HaveLen(2), "nothing else has to be open: %v", listed)
	}
	viewer := w.Person("nobody")
	code, _, err := viewer.Do(w.Context(), http.MethodGet, "/api/v1/clusters/"+journey.Beijing+"/ports", nil)
	w.Expect(err).NotTo(gomega.HaveOccurred())
	w.Expect(code).To(gomega.Equal(http.StatusForbidden))
}

func TestSEC10_ImagesOfOtherTenants(t *testing.T) {
	t.Parallel()
	w, other := world{journey.Begin(t)}, world{journey.Begin(t)}
	w.Partition("bj", journey.Beijing)
	for name, image := range map[string]string{
		"plain": "registry.yunfan.internal/" + other.Tenant + "/app:v1", "mirrored": "docker.io/" + other.Tenant + "/app:v1",
	} {
		a := w.Application(name, journey.In("bj"), journey.Echo(name, journey.Image(image)))
		w.Eventually(func() string { p := w.Placement(a, "bj"); return p.Reason + " " + p.Message }).
			Should(gomega.And(gomega.HavePrefix(v1alpha1.ReasonRefused), gomega.ContainSubstring("belongs to another tenant")))
		w.Expect(w.Pods(journey.Beijing, w.Tenant+"-bj", name)).To(gomega.BeEmpty())
	}
}
