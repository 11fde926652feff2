package rules

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const here, elsewhere = "here", "elsewhere"

var nodePods = netip.MustParsePrefix("10.1.0.0/24")

// nine makes three namespaces of three pods each, spread over two nodes, as upstream's tests have them.
func nine() *cluster {
	c := &cluster{namespaces: map[string]map[string]string{}, pods: map[string]*Pod{}, policies: map[string]*networkingv1.NetworkPolicy{}}
	number := 0
	for _, ns := range []string{"x", "y", "z"} {
		c.namespaces[ns] = map[string]string{"ns": ns, corev1.LabelMetadataName: ns}
		for _, name := range []string{"a", "b", "c"} {
			number++
			node, address := here, fmt.Sprintf("10.1.0.%d", number)
			if number%2 == 0 {
				node, address = elsewhere, fmt.Sprintf("10.1.1.%d", number)
			}
			c.pods[ns+name] = &Pod{
				UID: ns + name, Namespace: ns, Name: name, Node: node, Labels: map[string]string{"pod": name}, Address: netip.MustParseAddr(address),
				Ports: []Port{{"serve-80-tcp", corev1.ProtocolTCP, 80}, {"serve-81-tcp", corev1.ProtocolTCP, 81}, {"serve-80-udp", corev1.ProtocolUDP, 80}, {"serve-81-udp", corev1.ProtocolUDP, 81}},
			}
		}
	}
	return c
}

// apply tells a model everything of the cluster.
func (c *cluster) apply(tb testing.TB, m *Model) {
	tb.Helper()
	for name, set := range c.namespaces {
		m.SetNamespace(name, set)
	}
	for _, p := range c.pods {
		c.attach(m, p)
	}
	for _, np := range c.policies {
		if err := m.SetPolicy(np); err != nil {
			tb.Fatal(err)
		}
	}
}

func (c *cluster) attach(m *Model, p *Pod) {
	m.SetPod(*p)
	if p.Node == m.node {
		m.Attach("sandbox-"+p.UID, p.UID, p.Address)
	}
}

func policyOf(tb testing.TB, namespace, name, spec string) *networkingv1.NetworkPolicy {
	tb.Helper()
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := yaml.UnmarshalStrict([]byte(spec), &np.Spec); err != nil {
		tb.Fatal(err)
	}
	return np
}

// TestUpstreamCases are those of Kubernetes' own tests of NetworkPolicy (test/e2e/network/netpol), with the pods and
// ports they use. some names connections by hand, so that the oracle is not believed alone.
func TestUpstreamCases(t *testing.T) {
	const all, none = true, false
	cases := map[string]struct {
		reason   string
		policies []string // of namespace x
		some     map[string]bool
	}{
		"DenyIngress":       {"A policy without rules lets nothing in", []string{`{podSelector: {}, policyTypes: [Ingress]}`}, map[string]bool{"ya>xb 80": none, "xa>xb 80": none, "xa>xa 80": all, "xa>yb 80": all}},
		"DenyEgress":        {"A policy without rules lets nothing out", []string{`{podSelector: {}, policyTypes: [Egress]}`}, map[string]bool{"xa>yb 80": none, "ya>xb 80": all}},
		"DenyBoth":          {"Both ways", []string{`{podSelector: {}, policyTypes: [Ingress, Egress]}`}, map[string]bool{"xa>yb 80": none, "ya>xc 80": none}},
		"AllowAllIngress":   {"An empty rule lets everybody in", []string{`{podSelector: {}, policyTypes: [Ingress], ingress: [{}]}`, `{podSelector: {}, policyTypes: [Ingress]}`}, map[string]bool{"ya>xa 80": all}},
		"PodSelector":       {"A pod selector alone is about the policy's namespace", []string{`{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}`}, map[string]bool{"xb>xa 80": all, "yb>xa 80": none, "yb>xc 80": all}},
		"NamespaceSelector": {"Every pod of the namespaces", []string{`{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}]}]}`}, map[string]bool{"yb>xa 80": all, "xb>xa 80": none}},
		"AnyNamespace":      {"An empty namespace selector is all namespaces", []string{`{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {}}]}]}`}, map[string]bool{"zb>xa 80": all}},
		"Expressions":       {"Selectors with expressions", []string{`{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}, podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}}]}]}`}, map[string]bool{"yb>xa 80": all, "ya>xa 80": none, "xb>xa 80": none}},
		"AndOr":             {"Selectors in one peer are both asked, peers one of them", []string{`{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}, {podSelector: {matchLabels: {pod: c}}}]}]}`}, map[string]bool{"ya>xa 80": all, "xc>xa 80": all, "zc>xa 80": none}},
		"Union":             {"Policies only add", []string{`{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}], ports: [{port: 80}]}]}`, `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}], ports: [{port: 81}]}]}`}, map[string]bool{"ya>xa 80": all, "ya>xa 81": all, "za>xa 80": none}},
		"Port":              {"One port", []string{`{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 81}]}]}`}, map[string]bool{"ya>xa 81": all, "ya>xa 80": none}},
		"NamedPort":         {"A port by its name", []string{`{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: serve-80-tcp}]}]}`}, map[string]bool{"ya>xa 80": all, "ya>xa 81": none}},
		"NamedPortEgress":   {"A name is that of the pod asked", []string{`{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: serve-80-tcp}]}]}`}, map[string]bool{"xa>yb 80": all, "xa>yb 81": none}},
		"NamedPortUDP":      {"A name of another protocol is another port", []string{`{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: serve-80-udp, protocol: UDP}]}]}`}, map[string]bool{"ya>xa 80": none}},
		"EndPort":           {"A range of ports", []string{`{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 81, endPort: 90}]}]}`}, map[string]bool{"ya>xa 81": all, "ya>xa 80": none}},
		"Overlap":           {"Ranges that overlap and touch", []string{`{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 70, endPort: 80}, {port: 75, endPort: 79}, {port: 80}]}]}`}, map[string]bool{"ya>xa 80": all, "ya>xa 81": none}},
		"Protocol":          {"A protocol without a port", []string{`{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{protocol: UDP}]}]}`}, map[string]bool{"ya>xa 80": none}},
		"Block":             {"Addresses", []string{`{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.1.1.0/24}}]}]}`}, map[string]bool{"xa>yc 80": all, "xa>yb 80": none}},
		"BlockExcept":       {"Addresses but for some", []string{`{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.1.0.0/16, except: [10.1.1.0/24, 10.1.0.5/32]}}]}]}`}, map[string]bool{"xa>yc 80": none, "xa>yb 80": none, "xa>za 80": all}},
		"BlockAll":          {"All addresses", []string{`{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.1.1.0/24]}}], ports: [{port: 80}]}]}`}, map[string]bool{"ya>xa 80": none, "yb>xa 80": all, "yb>xa 81": none}},
		"BlockExceptAgain":  {"What one policy excepts another may allow", []string{`{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.1.0.0/16, except: [10.1.0.5/32]}}]}]}`, `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.1.0.5/32}}]}]}`}, map[string]bool{"xa>yb 80": all}},
		"Stacked":           {"Both directions in one policy", []string{`{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress], ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}], ports: [{port: 80}]}], egress: [{to: [{namespaceSelector: {matchLabels: {ns: z}}, podSelector: {matchLabels: {pod: b}}}], ports: [{port: 81}]}]}`}, map[string]bool{"ya>xa 80": all, "ya>xa 81": none, "xa>zb 81": all, "xa>zb 80": none, "xa>zc 81": none}},
		"NotSelected":       {"Who is not selected is free", []string{`{podSelector: {matchLabels: {pod: nobody}}, policyTypes: [Ingress, Egress]}`}, map[string]bool{"ya>xa 80": all}},
		"IPv6":              {"Addresses of another family are nobody here, not everybody", []string{`{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: "::/0"}}]}]}`}, map[string]bool{"ya>xa 80": none}},
	}
	for name, tc := range cases {
		t.Run("NET-08 "+name, func(t *testing.T) {
			c := nine()
			for i, spec := range tc.policies {
				c.policies[fmt.Sprint(i)] = policyOf(t, "x", fmt.Sprint(i), spec)
			}
			for _, node := range []string{here, elsewhere} {
				m := New(node, map[string]netip.Prefix{here: nodePods, elsewhere: netip.MustParsePrefix("10.1.1.0/24")}[node], "eth0")
				c.apply(t, m)
				for _, fault := range c.faults(t, m) {
					t.Errorf("%s: on node %s: %s", tc.reason, node, fault)
				}
			}
			for connection, want := range tc.some {
				var port int32
				pair, _, _ := strings.Cut(connection, " ")
				fmt.Sscanf(connection, pair+" %d", &port)
				from, to, _ := strings.Cut(pair, ">")
				if got := c.allows(t, c.pods[from], c.pods[to], corev1.ProtocolTCP, port); got != want {
					t.Errorf("%s: the oracle says %v of %s", tc.reason, got, connection)
				}
			}
		})
	}
}

// kernel plays the kernel's part: it holds what changes made of an empty table.
type kernel struct {
	sets   map[string]map[string]string
	chains map[string][]string
}

func (k *kernel) write(t *testing.T, c *Change) {
	t.Helper()
	if c.All {
		k.sets, k.chains = map[string]map[string]string{}, map[string][]string{}
	}
	for name, s := range c.Sets {
		if s.Set != nil {
			k.sets[name] = map[string]string{}
		}
		for _, key := range s.Remove {
			if _, there := k.sets[name][key]; !there {
				t.Fatalf("%s has no %s to remove", name, key)
			}
			delete(k.sets[name], key)
		}
		for key, value := range s.Add {
			if _, there := k.sets[name][key]; there {
				t.Fatalf("%s has %s already", name, key)
			}
			k.sets[name][key] = value
		}
	}
	maps.Copy(k.chains, c.Chains)
	for _, name := range c.GoneSets {
		if _, there := k.sets[name]; !there {
			t.Fatalf("no set %s to remove", name)
		}
		delete(k.sets, name)
	}
	for _, name := range c.GoneChains {
		if _, there := k.chains[name]; !there {
			t.Fatalf("no chain %s to remove", name)
		}
		delete(k.chains, name)
	}
}

func (k *kernel) equals(m *Model) string {
	want := kernel{map[string]map[string]string{}, m.table.chains}
	for name, s := range m.table.sets {
		want.sets[name] = s.Elements
	}
	return cmp.Diff(want.sets, k.sets) + cmp.Diff(want.chains, k.chains)
}

var someSpecs = []string{
	`{podSelector: {}, policyTypes: [Ingress]}`, `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {pod: b}}}]}]}`,
	`{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}], ports: [{port: serve-80-tcp}]}], egress: [{}]}`,
	`{podSelector: {matchLabels: {pod: c}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.1.0.0/16, except: [10.1.0.4/30]}}], ports: [{port: 80, endPort: 81}]}]}`,
	`{podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [a]}]}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: a}}}], ports: [{protocol: UDP}]}]}`,
}

// TestChangesInAnyOrder does what chance says, by seed: labels and policies change, pods go and others
// take their addresses. After each, what changes made of the kernel's table is what a model has that is told
// everything at once, and connections pass as the oracle says.
func TestChangesInAnyOrder(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			c, m, k := nine(), New(here, nodePods, "eth0"), &kernel{}
			c.apply(t, m)
			for step := range 150 {
				what := c.disturb(t, random, m, step)
				if random.IntN(3) > 0 { // several events are one change
					continue
				}
				k.write(t, m.Take())
				if diff := k.equals(m); diff != "" {
					t.Fatalf("step %d, %s: the kernel has, -want +got:\n%s", step, what, diff)
				}
				fresh := New(here, nodePods, "eth0")
				c.apply(t, fresh)
				if diff := k.equals(fresh); diff != "" {
					t.Fatalf("step %d, %s: told everything at once, -want +got:\n%s", step, what, diff)
				}
				if faults := c.faults(t, m); len(faults) > 0 {
					t.Fatalf("step %d, %s:\n%s", step, what, strings.Join(faults, "\n"))
				}
			}
		})
	}
}

// disturb changes something in the cluster and the model, and says what.
func (c *cluster) disturb(t *testing.T, random *rand.Rand, m *Model, step int) string {
	t.Helper()
	p := c.pods[slices.Sorted(maps.Keys(c.pods))[random.IntN(len(c.pods))]]
	key := fmt.Sprint(random.IntN(4))
	ns := []string{"x", "y", "z"}[random.IntN(3)]
	switch random.IntN(7) {
	case 0:
		p.Labels = map[string]string{"pod": []string{"a", "b", "c"}[random.IntN(3)]}
		m.SetPod(*p)
		return "a pod's label"
	case 1:
		c.namespaces[ns] = map[string]string{"ns": []string{"x", "y", "z"}[random.IntN(3)]}
		m.SetNamespace(ns, c.namespaces[ns])
		return "a namespace's label"
	case 2, 3:
		np := policyOf(t, ns, key, someSpecs[random.IntN(len(someSpecs))])
		c.policies[ns+key] = np
		if err := m.SetPolicy(np); err != nil {
			t.Fatal(err)
		}
		return "a policy " + ns + key
	case 4:
		delete(c.policies, ns+key)
		m.DeletePolicy(ns, key)
		return "no policy " + ns + key
	case 5:
		delete(c.namespaces, ns)
		m.DeleteNamespace(ns)
		return "a namespace that is not told yet"
	default: // another pod takes the address, sometimes before the end of the first is told
		next := *p
		next.UID, next.Name, next.Created = fmt.Sprint("new", step), fmt.Sprint("new", step), p.Created.Add(time.Second)
		next.Namespace = ns
		delete(c.pods, p.UID)
		c.pods[next.UID] = &next
		if late := random.IntN(2) == 0; late {
			c.attach(m, &next)
			m.DeletePod(p.UID)
			m.Detach("sandbox-" + p.UID)
		} else {
			m.Detach("sandbox-" + p.UID)
			m.DeletePod(p.UID)
			c.attach(m, &next)
		}
		return "a pod in place of another"
	}
}

// TestNothingLeaks follows an address of the node from nobody to a pod and back.
func TestNothingLeaks(t *testing.T) {
	c := nine()
	m := New(here, nodePods, "eth0")
	c.apply(t, m)
	other, pod := c.pods["ya"].Address, netip.MustParseAddr("10.1.0.200")
	check := func(reason string, out, in bool) {
		t.Helper()
		if got := m.table.passes(t, packet{pod, other, corev1.ProtocolTCP, 80}); got != out {
			t.Errorf("%s: its packets pass: %v", reason, got)
		}
		if got := m.table.passes(t, packet{other, pod, corev1.ProtocolTCP, 80}); got != in {
			t.Errorf("%s: packets to it pass: %v", reason, got)
		}
	}
	fresh := Pod{UID: "fresh", Namespace: "x", Name: "fresh", Node: here, Labels: map[string]string{"pod": "fresh"}}
	check("an address nobody told of", false, false)
	m.Attach("box", "fresh", pod)
	check("a sandbox whose pod is not known yet", false, false)
	if known, _ := m.Attached("box"); known {
		t.Error("the plugin is told that the pod is known")
	}
	m.SetPod(fresh)
	check("a pod without policies", true, true)
	if known, number := m.Attached("box"); !known || m.Take().Number != number {
		t.Error("the plugin is not told that the pod is known")
	}
	if err := m.SetPolicy(policyOf(t, "x", "out", `{podSelector: {matchLabels: {pod: fresh}}, policyTypes: [Egress]}`)); err != nil {
		t.Fatal(err)
	}
	check("a pod that may not send", false, true)
	m.DeletePod("fresh")
	check("a pod removed by force that still runs", false, false)
	m.SetPod(fresh)
	m.Detach("box")
	check("a pod whose sandbox has ended", false, false)
	m.Attach("box2", "xa", pod)
	m.Detach("box")
	check("the address of another pod, when the end of the first sandbox is told once more", true, true)
	m.Attach("box3", "fresh", pod)
	check("an address taken over without a word from the former holder", false, true)
	if got := m.Take().Freed; !slices.Contains(got, pod) {
		t.Errorf("connections of %s are kept", pod)
	}
	fresh.HostNetwork = true
	m.SetPod(fresh)
	check("a pod that is the node has no address in the pods' range", false, false)
}

// TestEntrance is about pods of other nodes whose Services are asked for here from outside.
func TestEntrance(t *testing.T) {
	c := nine()
	m := New(here, nodePods, "eth0")
	c.policies["p"] = policyOf(t, "x", "p", `{podSelector: {matchLabels: {pod: b}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [192.0.2.7/32]}}]}]}`)
	c.apply(t, m)
	rules := m.table.chains[ToPods]
	if diff := cmp.Diff(`iifname "eth0" oifname "eth0" ip daddr vmap @entrance`, rules[len(rules)-1]); diff != "" {
		t.Error(diff)
	}
	chain := strings.TrimPrefix(m.table.sets[Entrance].Elements[c.pods["xb"].Address.String()], "jump ")
	for from, want := range map[string]string{"192.0.2.7": "drop", "192.0.2.8": "accept"} {
		if got := m.table.run(t, chain, packet{netip.MustParseAddr(from), c.pods["xb"].Address, corev1.ProtocolTCP, 80}); got != want {
			t.Errorf("from %s: %s, want %s", from, got, want)
		}
	}
	if _, there := m.table.sets[Entrance].Elements[c.pods["xc"].Address.String()]; there {
		t.Error("a pod of this node is judged where it is")
	}
}

// TestWhatIsNotUnderstood allows nothing.
func TestWhatIsNotUnderstood(t *testing.T) {
	for reason, spec := range map[string]string{
		"an exception for everything":  `{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [0.0.0.0/0]}}]}]}`,
		"an exception that is none":    `{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [here]}}]}]}`,
		"a block that is none":         `{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: everywhere}}]}]}`,
		"an operator that is none":     `{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: Is}]}}]}]}`,
		"who is meant cannot be known": `{podSelector: {matchExpressions: [{key: a, operator: Is}]}, policyTypes: [Ingress]}`,
	} {
		c := nine()
		m := New(here, nodePods, "eth0")
		c.apply(t, m)
		if err := m.SetPolicy(policyOf(t, "x", "p", spec)); err == nil || !strings.Contains(err.Error(), "x/p") {
			t.Errorf("%s: error %v", reason, err)
		}
		if m.table.passes(t, packet{c.pods["yb"].Address, c.pods["xa"].Address, corev1.ProtocolTCP, 80}) {
			t.Errorf("%s: it passes", reason)
		}
	}
}

// TestPolicyTypesDefault is for objects that no API server has filled in.
func TestPolicyTypesDefault(t *testing.T) {
	p, _, err := compile(policyOf(t, "x", "p", `{podSelector: {}, egress: [{}]}`))
	if err != nil || p.ways[Ingress] == nil || p.ways[Egress] == nil {
		t.Errorf("rules for sending speak of both directions: %+v, %v", p, err)
	}
	if p, _, err = compile(policyOf(t, "x", "p", `{podSelector: {}}`)); err != nil || p.ways[Ingress] == nil || p.ways[Egress] != nil {
		t.Errorf("without rules a policy is about receiving: %+v, %v", p, err)
	}
}

// TestOnePodIsAFewElements holds the work for an event to what it is about, whatever the size of the cluster.
func TestOnePodIsAFewElements(t *testing.T) {
	m := crowd(t, 1000, 200)
	m.Take()
	m.SetPod(Pod{UID: "one", Namespace: "ns1", Name: "one", Node: here, Labels: map[string]string{"app": "app1"}})
	m.Attach("one", "one", netip.MustParseAddr("10.1.0.250"))
	c := m.Take()
	if c.All || len(c.Chains) > 0 || len(c.Sets) > 12 {
		t.Errorf("a pod changes %d sets and %d chains", len(c.Sets), len(c.Chains))
	}
	for name, s := range c.Sets {
		if s.Set != nil || len(s.Remove)+len(s.Add) != 1 {
			t.Errorf("a pod changes %d elements of %s", len(s.Remove)+len(s.Add), name)
		}
	}
	if c := m.Take(); !c.Empty() {
		t.Errorf("nothing happened, but %+v", c)
	}
}

// crowd is a cluster of ten namespaces; every policy selects the pods of one app and names those of another.
func crowd(tb testing.TB, pods, policies int) *Model {
	tb.Helper()
	m := New(here, nodePods, "eth0")
	for i := range 10 {
		m.SetNamespace(fmt.Sprint("ns", i), map[string]string{"ns": fmt.Sprint(i)})
	}
	for i := range pods {
		p := Pod{UID: fmt.Sprint(i), Namespace: fmt.Sprint("ns", i%10), Name: fmt.Sprint("p", i), Node: elsewhere, Labels: map[string]string{"app": fmt.Sprint("app", i%50)}, Address: netip.AddrFrom4([4]byte{10, 2, byte(i / 250), byte(i%250 + 1)})}
		if i < 200 {
			p.Node = here
			m.Attach(p.UID, p.UID, netip.AddrFrom4([4]byte{10, 1, 0, byte(i + 1)}))
		}
		m.SetPod(p)
	}
	for i := range policies {
		np := policyOf(tb, fmt.Sprint("ns", i%10), fmt.Sprint("policy", i), fmt.Sprintf(`{podSelector: {matchLabels: {app: app%d}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: app%d}}}, {namespaceSelector: {matchLabels: {ns: "%d"}}}], ports: [{port: 80}]}]}`, i%50, (i+7)%50, (i+3)%10))
		if err := m.SetPolicy(np); err != nil {
			tb.Fatal(err)
		}
	}
	return m
}

func BenchmarkPodComesAndGoes(b *testing.B) {
	m := crowd(b, 1000, 200)
	m.Take()
	for b.Loop() {
		m.SetPod(Pod{UID: "one", Namespace: "ns1", Name: "one", Node: here, Labels: map[string]string{"app": "app1"}})
		m.Attach("one", "one", netip.MustParseAddr("10.1.0.250"))
		m.Take()
		m.Detach("one")
		m.DeletePod("one")
		m.Take()
	}
}
