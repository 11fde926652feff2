//go:build e2e

package isolation_test

import (
	"net"
	"strconv"
	"testing"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

func TestNET09_TenantsAreIsolatedFromOneAnother(t *testing.T) {
	t.Parallel()
	a, b := world{journey.Begin(t)}, world{journey.Begin(t)}
	a.Partition("bj", journey.Beijing)
	p := b.Partition("bj", journey.Beijing)
	b.Partition("test", journey.Beijing)
	strangers := []*corev1.Pod{a.pod("bj", "near", 0, nil), a.pod("bj", "far", 1, nil)}
	web := b.pod("bj", "web", 0, nil)
	own, sibling := b.pod("bj", "own", 1, nil), b.pod("test", "sibling", 1, nil)
	service := "web." + web.Namespace + ".svc:8080"

	b.open(own, at(web, 8080), "the same partition, from another node")
	b.open(sibling, service, "another partition of the tenant, by name")
	for i, stranger := range strangers {
		b.closed(stranger, at(web, 8080), "another tenant's pod of node "+strconv.Itoa(i))
		b.closed(stranger, service, "another tenant's pod by the service, of node "+strconv.Itoa(i))
	}
	b.Expect(b.outside(at(web, 8080))).To(gomega.BeFalse(), "a machine outside the cluster")

	b.isolate(p, func(s *v1alpha1.PartitionSpec) {
		s.NetworkPolicies = []v1alpha1.PartitionNetworkPolicy{{Name: "partners", Spec: networkingv1.NetworkPolicySpec{
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
				{NamespaceSelector: selector(v1alpha1.LabelTenant, a.Tenant)}, {PodSelector: selector(v1alpha1.LabelComponent, "own")},
			}}},
		}}}
	})
	for _, stranger := range strangers {
		b.open(stranger, at(web, 8080), "the tenant who was let in")
		b.open(stranger, service, "the tenant who was let in, by the service")
	}
	b.open(own, at(web, 8080), "who else was let in")
	b.closed(sibling, at(web, 8080), "who was not: the policy stands in place of the isolation")
	b.isolate(p, func(s *v1alpha1.PartitionSpec) { s.NetworkPolicies = nil })
	b.closed(strangers[0], at(web, 8080), "the rule was taken away")
	b.open(sibling, at(web, 8080), "and the isolation is back")
}

func TestNET09_FiveChoices(t *testing.T) {
	t.Parallel()
	const all, none = v1alpha1.IsolationAll, v1alpha1.IsolationNone
	w, other := world{journey.Begin(t)}, world{journey.Begin(t)}
	p := w.Partition("bj", journey.Beijing)
	w.Partition("out", journey.Beijing, journey.Public)
	other.Partition("bj", journey.Beijing)
	web, peer := w.pod("bj", "web", 0, nil), w.pod("bj", "peer", 1, nil)
	target := w.pod("out", "target", 1, nil)
	stranger := other.pod("bj", "stranger", 1, nil)
	for _, tc := range []struct {
		name            string
		ingress, egress v1alpha1.IsolationLevel
		in, out         bool
	}{
		{"deny all ingress", none, all, false, true},
		{"allow all ingress", all, all, true, true},
		{"deny all egress", all, none, true, false},
		{"deny both", none, none, false, false},
		{"allow all egress", none, all, false, true},
	} {
		w.isolate(p, func(s *v1alpha1.PartitionSpec) {
			s.Isolation = v1alpha1.Isolation{Ingress: tc.ingress, Egress: tc.egress}
		})
		check := map[bool]func(*corev1.Pod, string, string){true: w.open, false: w.closed}
		check[tc.in](stranger, at(web, 8080), tc.name+": another tenant comes in")
		check[tc.in && tc.out](peer, at(web, 8080), tc.name+": a pod of the partition itself comes in")
		check[tc.out](web, at(target, 8080), tc.name+": a pod gets out")
		check[tc.out](web, "target."+target.Namespace+".svc:8080", tc.name+": a name is found")
		w.Expect(w.outside(at(web, 8080))).To(gomega.Equal(tc.in), tc.name+": a machine outside the cluster")
	}
}

func TestNET08_Sample(t *testing.T) {
	t.Parallel()
	w, other := world{journey.Begin(t)}, world{journey.Begin(t)}
	tcp := func(port int32) []networkingv1.NetworkPolicyPort {
		return []networkingv1.NetworkPolicyPort{{Protocol: new(corev1.ProtocolTCP), Port: new(intstr.FromInt32(port))}}
	}
	serve := journey.Args("serve", "--tcp", ":6379")
	p := w.Partition("bj", journey.Beijing)
	project, rest := w.Partition("project", journey.Beijing), w.Partition("rest", journey.Beijing)
	imposter := other.Partition("bj", journey.Beijing)
	for world, partition := range map[world]*v1alpha1.Partition{w: project, other: imposter} {
		world.Update(partition, func() { partition.Labels = map[string]string{"project": "myproject"} })
	}
	db := w.pod("bj", "db", 0, map[string]string{"role": "db"}, serve)
	frontend, backend := w.pod("bj", "frontend", 1, map[string]string{"role": "frontend"}, serve), w.pod("bj", "backend", 1, map[string]string{"role": "backend"}, serve)
	member, impostor := w.pod("project", "member", 1, nil), other.pod("bj", "impostor", 1, nil)
	inside, excepted := w.pod("rest", "inside", 0, nil, serve), w.pod("rest", "excepted", 1, nil, serve)
	_ = rest
	// The sample with the addresses of this network: pods of both nodes but those of the second, and those of the first.
	node0, node1 := podRange(inside), podRange(excepted)
	w.isolate(p, func(s *v1alpha1.PartitionSpec) {
		s.NetworkPolicies = []v1alpha1.PartitionNetworkPolicy{{Name: "test-network-policy", Spec: networkingv1.NetworkPolicySpec{
			PodSelector: *selector("role", "db"),
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{
				From: []networkingv1.NetworkPolicyPeer{
					{IPBlock: &networkingv1.IPBlock{CIDR: "198.18.0.0/15", Except: []string{node1}}},
					{NamespaceSelector: selector("project", "myproject")}, {PodSelector: selector("role", "frontend")},
				},
				Ports: tcp(6379),
			}},
			Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: node0}}}, Ports: tcp(8080)}},
		}}}
	})
	w.closed(backend, at(db, 6379), "a pod that is no frontend, on the excepted node")
	w.open(frontend, at(db, 6379), "the frontend")
	w.closed(frontend, at(db, 8080), "the frontend on another port")
	w.open(member, at(db, 6379), "a pod of the project")
	w.closed(impostor, at(db, 6379), "another tenant who calls himself the project")
	w.open(inside, at(db, 6379), "an address of the range")
	w.closed(excepted, at(db, 6379), "an address of the exception")
	w.Expect(w.outside(at(db, 6379))).To(gomega.BeTrue(), "the machine, whose address is in the range")
	w.Expect(w.outside(at(db, 8080))).To(gomega.BeFalse(), "the machine on another port")
	w.open(db, at(inside, 8080), "where the database may go")
	w.closed(db, at(inside, 6379), "the same address on another port")
	w.closed(db, at(excepted, 8080), "another address on that port")
	w.open(backend, at(excepted, 8080), "pods that the policy does not select are not restricted")
}

// podRange is the range of the pods of a pod's node: each has a /24.
func podRange(p *corev1.Pod) string {
	ip := net.ParseIP(p.Status.PodIP).Mask(net.CIDRMask(24, 32))
	return ip.String() + "/24"
}

func TestNET09_PublishedServices(t *testing.T) {
	t.Parallel()
	w, other := world{journey.Begin(t)}, world{journey.Begin(t)}
	w.Partition("bj", journey.Beijing)
	other.Partition("bj", journey.Beijing)
	port := journey.Port()
	web := w.pod("bj", "web", 0, nil, journey.NodePort(port), journey.Args("serve", "--tcp", ":6379"))
	strangers := []*corev1.Pod{other.pod("bj", "near", 0, nil), other.pod("bj", "far", 1, nil)}
	for _, node := range w.Nodes(journey.Beijing) {
		w.Eventually(func() bool { return w.outside(net.JoinHostPort(node, strconv.Itoa(int(port)))) }).Should(gomega.BeTrue(), "from outside, by node %s", node)
	}
	w.Expect(w.outside(at(web, 6379))).To(gomega.BeFalse(), "what is not published stays closed")
	for _, stranger := range strangers {
		w.closed(stranger, at(web, 8080), "past the node port, another tenant does not come in")
		w.closed(stranger, "web."+web.Namespace+".svc:8080", "nor by the service's name")
	}
}

// An External component may name any address. What is sent there is judged like everything else.
func TestSEC10_ExternalComponentsReachNobodyElse(t *testing.T) {
	t.Parallel()
	w, other := world{journey.Begin(t)}, world{journey.Begin(t)}
	w.Partition("bj", journey.Beijing)
	other.Partition("bj", journey.Beijing)
	victim := other.pod("bj", "victim", 0, nil)
	own := w.pod("bj", "own", 1, nil)
	external := func(name, address string, port int32) v1alpha1.Component {
		return v1alpha1.Component{
			Name: name, Workload: v1alpha1.WorkloadExternal, External: &v1alpha1.External{Addresses: []string{address}},
			Service: &v1alpha1.Service{Ports: []v1alpha1.ServicePort{{Name: "x", Port: port}}},
		}
	}
	w.Ready(w.Application("outside", journey.In("bj"), external("to-victim", victim.Status.PodIP, 8080),
		external("to-api", apiServer(w, journey.Beijing), 6443), external("to-own", own.Status.PodIP, 8080)))
	caller := w.pod("bj", "caller", 0, nil)
	w.open(caller, "to-own:8080", "a pod that it may reach")
	w.closed(caller, "to-victim:8080", "another tenant's pod")
	w.closed(caller, "to-api:6443", "the API server")
}
