package isolation

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/api/v1alpha1"
)

// The sample of the book, as it is written there.
const sample = `
podSelector: {matchLabels: {role: db}}
policyTypes: [Ingress, Egress]
ingress:
- from:
  - ipBlock: {cidr: 172.17.0.0/16, except: [172.17.1.0/24]}
  - namespaceSelector: {matchLabels: {project: myproject}}
  - podSelector: {matchLabels: {role: frontend}}
  ports: [{protocol: TCP, port: 6379}]
egress:
- to:
  - ipBlock: {cidr: 10.0.0.0/24}
  ports: [{protocol: TCP, port: 5978}]
`

func policy(t *testing.T, name, text string) v1alpha1.PartitionNetworkPolicy {
	t.Helper()
	p := v1alpha1.PartitionNetworkPolicy{Name: name}
	if err := yaml.UnmarshalStrict([]byte(text), &p.Spec); err != nil {
		t.Fatal(err)
	}
	return p
}

func partition(policies ...v1alpha1.PartitionNetworkPolicy) *v1alpha1.Partition {
	return &v1alpha1.Partition{
		ObjectMeta: metav1.ObjectMeta{Namespace: "edu", Name: "prod"},
		Spec: v1alpha1.PartitionSpec{
			Isolation: v1alpha1.Isolation{Ingress: v1alpha1.IsolationTenant, Egress: v1alpha1.IsolationAll}, NetworkPolicies: policies,
		},
	}
}

func surroundings() *Surroundings {
	return &Surroundings{
		APIServers: []netip.AddrPort{netip.MustParseAddrPort("192.168.1.10:6443")},
		Closed:     []netip.Prefix{netip.MustParsePrefix("192.168.9.1/32")},
		Nodes:      []netip.Prefix{netip.MustParsePrefix("192.168.1.8/29"), netip.MustParsePrefix("fd00:1::/64")},
		Pods:       []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
	}
}

func made(t *testing.T, p *v1alpha1.Partition, s *Surroundings) map[string]networkingv1.NetworkPolicySpec {
	t.Helper()
	out, err := Policies(p, s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestNET08_Sample(t *testing.T) {
	got := made(t, partition(policy(t, "test-network-policy", sample)), surroundings())
	want := policy(t, "", strings.Replace(sample, "  - namespaceSelector: {matchLabels: {project: myproject}}", `
  - namespaceSelector: {matchLabels: {project: myproject}, matchExpressions: [{key: yunfan.io/tenant, operator: In, values: [edu]}]}
  - namespaceSelector: {matchLabels: {project: myproject}, matchExpressions: [{key: yunfan.io/tenant, operator: DoesNotExist}]}`, 1)).Spec
	if diff := cmp.Diff(want, got["test-network-policy"]); diff != "" {
		t.Errorf("the sample is not applied as written, with other tenants' namespaces left out (-want +got):\n%s", diff)
	}
	notDB := metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "role", Operator: "NotIn", Values: []string{"db"}}}}
	for _, name := range []string{"yunfan-ingress", "yunfan-egress"} {
		if diff := cmp.Diff(notDB, got[name].PodSelector); diff != "" {
			t.Errorf("%s must leave the sample's pods to the sample (-want +got):\n%s", name, diff)
		}
	}
}

func TestNET08_NamespacesOfOthersAreNotChosenByTheirOwnLabels(t *testing.T) {
	cases := map[string]struct {
		reason   string
		selector string
		peers    int // 2 if it was confined
	}{
		"Label":      {"anybody could give his namespace the label", "{matchLabels: {project: x}}", 2},
		"Expression": {"the same", "{matchExpressions: [{key: project, operator: Exists}]}", 2},
		"Negative":   {"everybody without a label, and not that tenant", "{matchExpressions: [{key: yunfan.io/tenant, operator: NotIn, values: [a]}]}", 2},
		"Tenant":     {"another tenant by his name", "{matchLabels: {yunfan.io/tenant: a}}", 1},
		"Tenants":    {"the same", "{matchExpressions: [{key: yunfan.io/tenant, operator: In, values: [a, b]}]}", 1},
		"Name":       {"a namespace by its name", "{matchLabels: {kubernetes.io/metadata.name: kube-system}}", 1},
		"All":        {"everybody, and that is meant", "{}", 1},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := made(t, partition(policy(t, "p", "{podSelector: {}, ingress: [{from: [{namespaceSelector: "+tc.selector+"}]}]}")), surroundings())
			if peers := len(got["p"].Ingress[0].From); peers != tc.peers {
				t.Errorf("%s: want %d peers, got %d", tc.reason, tc.peers, peers)
			}
		})
	}
}

func TestNET09_FiveChoices(t *testing.T) {
	const all, tenant, none = v1alpha1.IsolationAll, v1alpha1.IsolationTenant, v1alpha1.IsolationNone
	cases := map[string]struct {
		isolation       v1alpha1.Isolation
		ingress, egress string // as said by tell
	}{
		"DenyAllIngress":  {v1alpha1.Isolation{Ingress: none, Egress: all}, "nobody", "limited"},
		"AllowAllIngress": {v1alpha1.Isolation{Ingress: all, Egress: all}, "everybody", "limited"},
		"DenyAllEgress":   {v1alpha1.Isolation{Ingress: all, Egress: none}, "everybody", "nobody"},
		"AllowAllEgress":  {v1alpha1.Isolation{Ingress: none, Egress: all}, "nobody", "limited"},
		"DenyBoth":        {v1alpha1.Isolation{Ingress: none, Egress: none}, "nobody", "nobody"},
		"Default":         {v1alpha1.Isolation{}, "limited", "limited"},
		"Tenant":          {v1alpha1.Isolation{Ingress: tenant, Egress: tenant}, "limited", "limited"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := partition()
			p.Spec.Isolation = tc.isolation
			got := made(t, p, surroundings())
			tell := func(name string, rules func(networkingv1.NetworkPolicySpec) int) string {
				spec, restricted := got[name]
				switch {
				case !restricted:
					return "everybody"
				case rules(spec) == 0:
					return "nobody"
				}
				return "limited"
			}
			ingress := tell("yunfan-ingress", func(s networkingv1.NetworkPolicySpec) int { return len(s.Ingress) })
			egress := tell("yunfan-egress", func(s networkingv1.NetworkPolicySpec) int { return len(s.Egress) })
			if ingress != tc.ingress || egress != tc.egress {
				t.Errorf("want ingress %s, egress %s, got %s, %s", tc.ingress, tc.egress, ingress, egress)
			}
		})
	}
}

// reaches says whether one of the policies lets a pod talk to an address past all selectors.
func reaches(policies map[string]networkingv1.NetworkPolicySpec, address string, port int32) bool {
	a := netip.MustParseAddr(address)
	for _, spec := range policies {
		for _, rule := range spec.Egress {
			for _, peer := range rule.To {
				if peer.IPBlock == nil || !netip.MustParsePrefix(peer.IPBlock.CIDR).Contains(a) {
					continue
				}
				excluded := slices.ContainsFunc(peer.IPBlock.Except, func(e string) bool { return netip.MustParsePrefix(e).Contains(a) })
				open := len(rule.Ports) == 0 || slices.ContainsFunc(rule.Ports, func(p networkingv1.NetworkPolicyPort) bool {
					if p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
						return false
					}
					last := p.Port.IntValue()
					if p.EndPort != nil {
						last = int(*p.EndPort)
					}
					return p.Port.IntValue() <= int(port) && int(port) <= last
				})
				if !excluded && open {
					return true
				}
			}
		}
	}
	return false
}

func TestCLU05_ManagementPortsAreClosed(t *testing.T) {
	everything := "{podSelector: {}, policyTypes: [Egress], egress: [{}]}"
	blocks := "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.168.0.0/16}}, {ipBlock: {cidr: 192.168.1.10/32}}, {ipBlock: {cidr: 192.168.1.11/32}}, {ipBlock: {cidr: 8.8.8.0/24}}]}]}"
	named := "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.168.1.0/24}}], ports: [{port: 10250}, {port: 8080}, {port: 10000, endPort: 11000}]}]}"
	cases := map[string]struct {
		policy string // none: the default
		port   int32
		addr   string
		want   bool
		reason string
	}{
		"APIServer":            {"", 6443, "192.168.1.10", false, "the cluster's API server"},
		"APIServerAnyPort":     {"", 2379, "192.168.1.10", false, "etcd beside it"},
		"Hub":                  {"", 6443, "192.168.9.1", false, "the hub's API server"},
		"Kubelet":              {"", 10250, "192.168.1.9", false, "a node's kubelet"},
		"Kubelet6":             {"", 10250, "fd00:1::9", false, "the same by IPv6"},
		"SSH":                  {"", 22, "192.168.1.9", false, "a node's shell"},
		"Metadata":             {"", 80, "169.254.169.254", false, "the node's credentials in a cloud"},
		"NodePort":             {"", 30001, "192.168.1.9", true, "a service on a node"},
		"NodePort6":            {"", 30001, "fd00:1::9", true, "the same by IPv6"},
		"Outside":              {"", 6443, "8.8.8.8", true, "somebody else's API server"},
		"OwnPolicyAll":         {everything, 6443, "192.168.1.10", false, "a policy of the partition's own that allows everything"},
		"OwnPolicyAllKubelet":  {everything, 10250, "192.168.1.9", false, "the same"},
		"OwnPolicyAllOutside":  {everything, 443, "8.8.8.8", true, "the same, and nothing else is lost"},
		"OwnPolicyRange":       {blocks, 6443, "192.168.1.10", false, "the address itself, and a range around it"},
		"OwnPolicyNode":        {blocks, 10250, "192.168.1.11", false, "a node by its address"},
		"OwnPolicyNodePort":    {blocks, 30001, "192.168.1.11", true, "a node's service by its address"},
		"OwnPolicyNeighbour":   {blocks, 10250, "192.168.2.1", true, "no node"},
		"OwnPolicyPort":        {named, 10250, "192.168.1.9", false, "the port by its number"},
		"OwnPolicyPortRange":   {named, 10257, "192.168.1.9", false, "the port within a range"},
		"OwnPolicyRangeBeside": {named, 10300, "192.168.1.9", true, "the rest of the range"},
		"OwnPolicyOtherPort":   {named, 8080, "192.168.1.9", true, "another port of a node"},
		"OwnPolicyPortNotNode": {named, 10250, "192.168.1.77", true, "the port of a machine that is no node"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := partition()
			if tc.policy != "" {
				p = partition(policy(t, "own", tc.policy))
			}
			if got := reaches(made(t, p, surroundings()), tc.addr, tc.port); got != tc.want {
				t.Errorf("%s: want reached %v, got %v", tc.reason, tc.want, got)
			}
		})
	}
	t.Run("Allowed", func(t *testing.T) {
		p := partition()
		p.Spec.Isolation = v1alpha1.Isolation{Ingress: v1alpha1.IsolationNone, Egress: v1alpha1.IsolationNone, APIServer: true}
		got := made(t, p, surroundings())
		if !reaches(got, "192.168.1.10", 6443) || reaches(got, "192.168.1.10", 2379) || reaches(got, "192.168.9.1", 6443) {
			t.Error("apiServer opens the API port of the partition's own cluster, and nothing else")
		}
	})
	t.Run("NothingLeft", func(t *testing.T) {
		got := made(t, partition(policy(t, "own", "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 192.168.1.10/32}}]}]}")), surroundings())
		if spec := got["own"]; len(spec.Egress) != 0 || len(spec.PolicyTypes) != 2 {
			t.Errorf("a rule without peers would allow everything, and egress must stay restricted: %+v", spec)
		}
	})
	t.Run("NoRange", func(t *testing.T) {
		if _, err := Policies(partition(policy(t, "own", "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: nonsense}}]}]}")), surroundings()); err == nil {
			t.Error("want it refused")
		}
	})
}

// Every pod is selected either by a policy of the partition's own or by the isolation, never by both.
func TestNET08_IsolationIsForTheRest(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	operators := []metav1.LabelSelectorOperator{"In", "NotIn", "Exists", "DoesNotExist"}
	keys, values := []string{"role", "tier", "app"}, []string{"a", "b"}
	for range 300 {
		var policies []v1alpha1.PartitionNetworkPolicy
		for i := range random.IntN(3) {
			p := v1alpha1.PartitionNetworkPolicy{Name: fmt.Sprint(i)}
			for range random.IntN(3) {
				e := metav1.LabelSelectorRequirement{Key: keys[random.IntN(3)], Operator: operators[random.IntN(4)]}
				if e.Operator == "In" || e.Operator == "NotIn" {
					e.Values = []string{values[random.IntN(2)]}
				}
				p.Spec.PodSelector.MatchExpressions = append(p.Spec.PodSelector.MatchExpressions, e)
			}
			if random.IntN(2) == 0 {
				p.Spec.PodSelector.MatchLabels = map[string]string{keys[random.IntN(3)]: values[random.IntN(2)]}
			}
			policies = append(policies, p)
		}
		rest, err := unselected(policies, networkingv1.PolicyTypeIngress)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			pod := labels.Set{}
			for _, key := range keys {
				if n := random.IntN(3); n < 2 {
					pod[key] = values[n]
				}
			}
			selected := slices.ContainsFunc(policies, func(p v1alpha1.PartitionNetworkPolicy) bool { return matches(t, &p.Spec.PodSelector, pod) })
			isolated := slices.ContainsFunc(rest, func(s metav1.LabelSelector) bool { return matches(t, &s, pod) })
			if selected == isolated {
				t.Fatalf("pod %v: selected %v, isolated %v\n%+v\n%+v", pod, selected, isolated, policies, rest)
			}
		}
	}
	both, err := unselected([]v1alpha1.PartitionNetworkPolicy{policy(t, "a", sample)}, networkingv1.PolicyTypeEgress)
	if err != nil || len(both) != 1 || len(both[0].MatchExpressions) != 1 {
		t.Errorf("each direction by itself: %v, %v", both, err)
	}
	var many []v1alpha1.PartitionNetworkPolicy
	for i := range 6 {
		many = append(many, policy(t, fmt.Sprint(i), fmt.Sprintf("{podSelector: {matchLabels: {a%d: x, b%d: x}}}", i, i)))
	}
	if _, err := unselected(many, networkingv1.PolicyTypeIngress); err == nil || !strings.Contains(err.Error(), "fewer labels") {
		t.Errorf("64 selectors: want a refusal that says what to do, got %v", err)
	}
}

func matches(t *testing.T, s *metav1.LabelSelector, pod labels.Set) bool {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return selector.Matches(pod)
}

// TestNET10_Gateways lets the cluster's gateway in where a Route may lead to, and nobody else by that.
func TestNET10_Gateways(t *testing.T) {
	for level, admitted := range map[v1alpha1.IsolationLevel]bool{
		"": true, v1alpha1.IsolationTenant: true, v1alpha1.IsolationPartition: true,
		v1alpha1.IsolationNone: false, // nobody is let in
		v1alpha1.IsolationAll:  false, // everybody is, without a policy
	} {
		p := partition(policy(t, "own", "{podSelector: {matchLabels: {role: db}}}"))
		p.Spec.Isolation.Ingress = level
		got, there := made(t, p, surroundings())["yunfan-gateway"]
		if there != admitted {
			t.Errorf("ingress %q: admitted %v, want %v", level, there, admitted)
		}
		if !there {
			continue
		}
		want := policy(t, "", strings.TrimSpace(`
podSelector: {matchExpressions: [{key: role, operator: NotIn, values: [db]}]}
policyTypes: [Ingress]
ingress:
- from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: yunfan-gateway}}}]`)).Spec
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ingress %q (-want +got):\n%s", level, diff)
		}
	}
}

// TestNET09_PortsOfGateways closes to pods the ports at which nodes answer edges, of any cluster.
func TestNET09_PortsOfGateways(t *testing.T) {
	s := surroundings()
	open := func() []string {
		var out []string
		for _, rule := range made(t, partition(), s)["yunfan-egress"].Egress {
			for _, p := range rule.Ports {
				if *p.Protocol == corev1.ProtocolTCP && p.Port != nil && p.EndPort != nil {
					out = append(out, p.Port.String()+"-"+strconv.Itoa(int(*p.EndPort)))
				}
			}
		}
		return out
	}
	before := []string{"1-21", "23-2378", "2383-6442", "6444-9344", "9346-10247", "10261-65535"}
	if diff := cmp.Diff(before, open()); diff != "" {
		t.Errorf("without gateways (-want +got):\n%s", diff)
	}
	s.Gateways = []int32{10250, 30080, 30081}
	after := []string{"1-21", "23-2378", "2383-6442", "6444-9344", "9346-10247", "10261-30079", "30082-65535"}
	if diff := cmp.Diff(after, open()); diff != "" {
		t.Errorf("with gateways (-want +got):\n%s", diff)
	}
}

func TestNET09_PublishedServices(t *testing.T) {
	s := surroundings()
	service := func(name string, kind corev1.ServiceType, selector map[string]string) corev1.Service {
		return corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: kind, Selector: selector, Ports: []corev1.ServicePort{
			{Port: 80, TargetPort: intstr.FromString("http")}, {Port: 53, Protocol: corev1.ProtocolUDP},
		}}}
	}
	web := map[string]string{"app": "web"}
	s.Services = []corev1.Service{
		service("web", corev1.ServiceTypeNodePort, web), service("lb", corev1.ServiceTypeLoadBalancer, web),
		service("inside", corev1.ServiceTypeClusterIP, web), service("everything", corev1.ServiceTypeNodePort, nil),
	}
	p := partition(policy(t, "own", "{podSelector: {matchLabels: {role: db}}}"))
	got := made(t, p, s)
	want := []string{"own", "yunfan-egress", "yunfan-gateway", "yunfan-ingress", "yunfan-published-lb", "yunfan-published-web"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("policies differ (-want +got):\n%s", diff)
	}
	text, err := yaml.Marshal(got["yunfan-published-web"])
	if err != nil {
		t.Fatal(err)
	}
	published := strings.TrimSpace(`
podSelector: {matchLabels: {app: web}, matchExpressions: [{key: role, operator: NotIn, values: [db]}]}
policyTypes: [Ingress]
ingress:
- from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.244.0.0/16]}}, {ipBlock: {cidr: "::/0"}}]
  ports: [{protocol: TCP, port: http}, {protocol: UDP, port: 53}]`)
	if diff := cmp.Diff(policy(t, "", published).Spec, got["yunfan-published-web"]); diff != "" {
		t.Errorf("%s\ndiffers (-want +got):\n%s", text, diff)
	}
	for _, level := range []v1alpha1.IsolationLevel{v1alpha1.IsolationNone, v1alpha1.IsolationAll} {
		p.Spec.Isolation.Ingress = level
		if _, there := made(t, p, s)["yunfan-published-web"]; there {
			t.Errorf("ingress %s needs no hole", level)
		}
	}
	p.Spec.Isolation.Ingress, s.Pods = v1alpha1.IsolationTenant, nil
	if _, there := made(t, p, s)["yunfan-published-web"]; there {
		t.Error("where pods' addresses are not known, other tenants' pods would come in")
	}
}
