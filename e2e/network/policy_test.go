//go:build e2e

// Package network_test puts network policies to the proof with packets between real pods, on one node and on two. What
// should pass is worked out by an oracle of its own.
package network_test

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/e2e/journey"
)

// upstream are the cases of Kubernetes' own tests (test/e2e/network/netpol); policies are in namespace x.
var upstream = map[string][]string{
	"nothing comes in":                       {`{podSelector: {}, policyTypes: [Ingress]}`},
	"nothing goes out":                       {`{podSelector: {}, policyTypes: [Egress]}`},
	"nothing in or out":                      {`{podSelector: {}, policyTypes: [Ingress, Egress]}`},
	"everything comes in, whatever denies":   {`{podSelector: {}, policyTypes: [Ingress]}`, `{podSelector: {}, policyTypes: [Ingress], ingress: [{}]}`},
	"everything goes out, whatever denies":   {`{podSelector: {}, policyTypes: [Egress]}`, `{podSelector: {}, policyTypes: [Egress], egress: [{}]}`},
	"from pods by label":                     {`{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}`},
	"from all pods of the namespace":         {`{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}]}]}`},
	"from namespaces by label":               {`{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}]}]}`},
	"from all namespaces":                    {`{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {}}]}]}`},
	"from namespaces by expression":          {`{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}}]}]}`},
	"from pods and namespaces by expression": {`{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}, podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}}]}]}`},
	"from pods or namespaces":                {`{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}, {podSelector: {matchLabels: {pod: b}}}]}]}`},
	"to pods and namespaces":                 {`{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: "y"}}, podSelector: {matchLabels: {pod: b}}}]}]}`},
	"policies add up":                        {`{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}], ports: [{port: 80}]}]}`, `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}], ports: [{port: 81, protocol: UDP}]}]}`},
	"a port":                                 {`{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{ports: [{port: 81}]}]}`},
	"no port that anybody serves":            {`{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{ports: [{port: 79}, {port: 82}]}]}`},
	"a named port":                           {`{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{ports: [{port: serve-81-tcp}]}]}`},
	"a named port of those that are asked":   {`{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: serve-80-udp, protocol: UDP}]}]}`},
	"a port by namespace":                    {`{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}], ports: [{port: serve-81-tcp}]}]}`},
	"a range of ports":                       {`{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 79, endPort: 80}]}], egress: [{ports: [{port: 81, endPort: 90, protocol: UDP}, {port: 80, endPort: 81}]}]}`},
	"UDP only":                               {`{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{ports: [{port: 80, protocol: UDP}]}]}`},
	"to an address":                          {`{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: $yb/32}}]}]}`},
	"to all addresses but some":              {`{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [$ya/32, $yb/32, $zc/32]}}]}]}`},
	"an exception that another policy lifts": {`{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [$ya/32, $yb/32]}}]}]}`, `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: $ya/32}}]}]}`},
	"from addresses":                         {`{podSelector: {matchLabels: {pod: b}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 198.18.0.0/15, except: [$ya/32, $xc/32]}}]}]}`},
	"stacked, both ways":                     {`{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress], ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}], ports: [{port: 80}]}], egress: [{to: [{namespaceSelector: {matchLabels: {ns: z}}}], ports: [{port: 81, protocol: UDP}]}]}`, `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {pod: c}}}]}]}`},
	"nobody is selected":                     {`{podSelector: {matchLabels: {pod: nobody}}, policyTypes: [Ingress, Egress]}`},
}

func TestNET08UpstreamCases(t *testing.T) {
	t.Parallel()
	f := newField(journey.Begin(t))
	f.isAsItShouldBe("without policies everything passes")
	for _, name := range slices.Sorted(maps.Keys(upstream)) {
		begun := time.Now()
		f.enforce(upstream[name]...)
		f.isAsItShouldBe(name)
		t.Logf("NET-08 %s: %d connections as they should be (%s)", name, 2*len(f.pods)*len(f.pods)*len(fieldPorts)*len(fieldProtocols), time.Since(begun).Round(100*time.Millisecond))
	}

	const fromY = `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}, podSelector: {matchLabels: {pod: b}}}]}]}`
	f.enforce(fromY)
	f.isAsItShouldBe("before anything changes")

	np := f.policies[0]
	np.Spec = f.policy("changed", strings.ReplaceAll(fromY, `"y"`, `"z"`)).Spec
	f.Expect(f.cluster.Update(f.Context(), np)).To(Succeed())
	f.isAsItShouldBe("a policy that names another namespace than before")

	z := f.namespaces[2]
	z.Labels["ns"] = "other"
	f.Expect(f.cluster.Update(f.Context(), z)).To(Succeed())
	f.isAsItShouldBe("a namespace that is called otherwise than before")
	z.Labels["ns"] = "z"
	f.Expect(f.cluster.Update(f.Context(), z)).To(Succeed())
	f.isAsItShouldBe("and back")

	for pod, label := range map[string]string{"zc": "b", "zb": "c", "xa": "b", "xb": "a"} {
		p := f.pod(pod)
		f.Expect(f.cluster.Patch(f.Context(), p, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"pod":"`+label+`"}}}`)))).To(Succeed())
	}
	f.isAsItShouldBe("pods that changed their labels")

	f.replace("xb", "a")
	f.replace("zb", "c")
	f.isAsItShouldBe("pods that are made again, with other addresses")
}

// replace deletes a pod and makes it again with a label, on the other node.
func (f *field) replace(name, label string) {
	f.Helper()
	old := f.pod(name)
	f.Expect(f.cluster.Delete(f.Context(), old)).To(Succeed())
	f.Eventually(func() error { return f.cluster.Get(f.Context(), client.ObjectKeyFromObject(old), &corev1.Pod{}) }).Should(MatchError(ContainSubstring("not found")))
	f.pods = slices.DeleteFunc(f.pods, func(p *corev1.Pod) bool { return p == old })
	node := f.pod(name[:1] + "a").Spec.NodeName
	i := slices.IndexFunc(f.namespaces, func(ns *corev1.Namespace) bool { return ns.Name == old.Namespace })
	f.add(f.namespaces[i], name, label, node)
	f.awaitReady(f.pod(name))
}

// TestNET08FromOutside is about who sends what comes through a node port: the node puts its own address in place of the
// sender's, and what comes from a pod's own node is always let in.
func TestNET08FromOutside(t *testing.T) {
	t.Parallel()
	f := newField(journey.Begin(t))
	service := &corev1.Service{}
	key := client.ObjectKey{Namespace: f.namespaces[0].Name, Name: "xa"}
	f.Expect(f.cluster.Get(f.Context(), key, service)).To(Succeed())
	service.Spec.Type = corev1.ServiceTypeNodePort
	f.Expect(f.cluster.Update(f.Context(), service)).To(Succeed())
	nodePort := int(service.Spec.Ports[0].NodePort)
	var nodes corev1.NodeList
	f.Expect(f.cluster.List(f.Context(), &nodes)).To(Succeed())
	ways := map[string]string{"pod": net.JoinHostPort(f.pod("xa").Status.PodIP, "80")}
	for _, node := range nodes.Items {
		way := "other node"
		if node.Name == f.pod("xa").Spec.NodeName {
			way = "own node"
		}
		ways[way] = net.JoinHostPort(node.Status.Addresses[0].Address, strconv.Itoa(nodePort))
	}
	gateway := f.Gateway()
	for _, c := range []struct {
		reason, spec string
		own, other   bool // what passes: to the pod and through its node; through the other node
	}{
		{"nobody is selected", `{podSelector: {matchLabels: {pod: nobody}}, policyTypes: [Ingress]}`, true, true},
		{"only pods", `{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {}}]}]}`, false, false},
		{"everybody but the sender", `{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [` + gateway + `/32]}}]}]}`, false, false},
		{"everybody", `{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}`, true, true},
		{"the sender alone: another node does not tell who it was", `{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: ` + gateway + `/32}}]}]}`, true, false},
	} {
		f.enforce(c.spec)
		f.Eventually(func() map[string]bool {
			got := map[string]bool{}
			for way, address := range ways {
				conn, err := net.DialTimeout("tcp", address, time.Second)
				if got[way] = err == nil; got[way] {
					conn.Close()
				}
			}
			return got
		}).Should(Equal(map[string]bool{"pod": c.own, "own node": c.own, "other node": c.other}), c.reason)
	}
	f.testNodes(nodes.Items)
}

// testNodes is about pods that are the node: no policy selects them, and to others they are the node.
func (f *field) testNodes(nodes []corev1.Node) {
	f.Helper()
	port := journey.Port()
	var targets []string
	for _, node := range nodes {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: f.namespaces[0].Name, Name: "host-" + node.Name, Labels: map[string]string{"pod": "host"}},
			Spec: corev1.PodSpec{
				NodeName: node.Name, HostNetwork: true, TerminationGracePeriodSeconds: new(int64(1)),
				Containers: []corev1.Container{{Name: "c80", Image: journey.EchoImage, Args: []string{"serve", "--http", "", "--tcp", fmt.Sprint(":", port)}}},
			},
		}
		f.Expect(f.cluster.Create(f.Context(), pod)).To(Succeed())
		f.awaitReady(pod)
		targets = append(targets, "tcp://"+net.JoinHostPort(node.Status.Addresses[0].Address, strconv.Itoa(int(port))))
		if node.Name != f.pod("xa").Spec.NodeName {
			continue
		}
		f.enforce(`{podSelector: {}, policyTypes: [Ingress]}`)
		f.Eventually(func() map[string]string {
			return f.reach(pod, []string{"tcp://" + f.pod("xa").Status.PodIP + ":80", "tcp://" + f.pod("xb").Status.PodIP + ":80"})
		}).Should(Equal(map[string]string{"tcp://" + f.pod("xa").Status.PodIP + ":80": "xa", "tcp://" + f.pod("xb").Status.PodIP + ":80": "-"}),
			"a node reaches its own pods and those of others as policies say")
	}
	for reason, spec := range map[string]string{
		"-":     `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}]}]}`,
		"beiji": `{podSelector: {}, policyTypes: [Ingress]}`,
	} {
		f.enforce(spec)
		f.Eventually(func() map[string]string { return f.reach(f.pod("xa"), targets) }).Should(HaveEach(HavePrefix(reason)),
			"who may send to pods alone sends nothing to nodes, its own or another; others do")
	}
}
