package rules

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// packet is the first of a connection.
type packet struct {
	from, to netip.Addr
	protocol corev1.Protocol
	port     int32
}

// passes reads the rules as nftables does.
func (t *table) passes(tb testing.TB, p packet) bool {
	tb.Helper()
	return t.run(tb, FromPods, p) != "drop" && t.run(tb, ToPods, p) != "drop"
}

// run gives the verdict of a chain, "" if it has none.
func (t *table) run(tb testing.TB, chain string, p packet) string {
	tb.Helper()
	rules, ok := t.chains[chain]
	if !ok {
		tb.Fatalf("there is no chain %s", chain)
	}
	for _, rule := range rules {
		verdict, target := t.rule(tb, strings.Fields(rule), p)
		if verdict == "jump" {
			verdict = t.run(tb, target, p)
		}
		if verdict != "" {
			return verdict
		}
	}
	return ""
}

// rule gives the verdict of a rule for a packet, "" if it does not match.
func (t *table) rule(tb testing.TB, words []string, p packet) (verdict, target string) {
	tb.Helper()
	addresses := map[string]netip.Addr{"saddr": p.from, "daddr": p.to}
	for i := 0; i < len(words); {
		matches := false
		switch word := words[i]; {
		case word == "accept", word == "drop":
			return word, ""
		case word == "jump":
			return word, words[i+1]
		case word == "ct", word == "iifname": // a first packet is new, and comes from or goes to a pod of this node
			return "", ""
		case word == "meta":
			matches = words[i+2] == strings.ToLower(string(p.protocol))
			i += 3
		case word == "th": // th dport { 80, 90-95 }
			end := i
			for words[end] != "}" {
				end++
			}
			matches = inRanges(tb, words[i+3:end], p.port)
			i = end + 1
		case word == "ip" && words[i+2] == "vmap":
			value, ok := t.set(tb, words[i+3]).Elements[addresses[words[i+1]].String()]
			if !ok {
				return "", ""
			}
			return "jump", strings.TrimPrefix(value, "jump ")
		case word == "ip" && words[i+2] == ".": // ip daddr . th dport @set, ip saddr . ip daddr @set
			key := addresses[words[i+1]].String() + " . " + strconv.Itoa(int(p.port))
			if words[i+3] == "ip" {
				key = addresses[words[i+1]].String() + " . " + addresses[words[i+4]].String()
			}
			_, matches = t.set(tb, words[i+5]).Elements[key]
			i += 6
		case word == "ip":
			operand, not := words[i+2], words[i+2] == "!="
			if not {
				i++
				operand = words[i+2]
			}
			matches = t.matches(tb, operand, addresses[words[1+i-map[bool]int{true: 1}[not]]]) != not
			i += 3
		default:
			tb.Fatalf("unknown word %q in %q", word, words)
		}
		if !matches {
			return "", ""
		}
	}
	tb.Fatalf("%q has no verdict", words)
	return "", ""
}

func (t *table) set(tb testing.TB, reference string) *Set {
	tb.Helper()
	s := t.sets[strings.TrimPrefix(reference, "@")]
	if s == nil {
		tb.Fatalf("there is no set %s", reference)
	}
	return s
}

func (t *table) matches(tb testing.TB, operand string, a netip.Addr) bool {
	tb.Helper()
	if strings.HasPrefix(operand, "@") {
		_, ok := t.set(tb, operand).Elements[a.String()]
		return ok
	}
	return netip.MustParsePrefix(operand).Contains(a)
}

func inRanges(tb testing.TB, words []string, port int32) bool {
	tb.Helper()
	for _, w := range words {
		first, last, isRange := strings.Cut(strings.TrimSuffix(w, ","), "-")
		low, err := strconv.Atoi(first)
		if err != nil {
			tb.Fatal(err)
		}
		high := low
		if isRange {
			if high, err = strconv.Atoi(last); err != nil {
				tb.Fatal(err)
			}
		}
		if port >= int32(low) && port <= int32(high) {
			return true
		}
	}
	return false
}

// cluster is what a test puts into a model, and what the oracle judges by.
type cluster struct {
	namespaces map[string]map[string]string
	pods       map[string]*Pod // by UID
	policies   map[string]*networkingv1.NetworkPolicy
}

// allows judges a connection between two pods by the text of the NetworkPolicy documentation, without any of the code
// under test.
func (c *cluster) allows(tb testing.TB, from, to *Pod, protocol corev1.Protocol, port int32) bool {
	tb.Helper()
	return from == to || c.allowsWay(tb, Egress, from, to, to, protocol, port) && c.allowsWay(tb, Ingress, to, from, to, protocol, port)
}

func (c *cluster) allowsWay(tb testing.TB, d Direction, subject, peer, receiver *Pod, protocol corev1.Protocol, port int32) bool {
	tb.Helper()
	isolated := false
	for _, np := range c.policies {
		kind, peers, ports := networkingv1.PolicyTypeIngress, [][]networkingv1.NetworkPolicyPeer{}, [][]networkingv1.NetworkPolicyPort{}
		if d == Egress {
			kind = networkingv1.PolicyTypeEgress
			for _, r := range np.Spec.Egress {
				peers, ports = append(peers, r.To), append(ports, r.Ports)
			}
		} else {
			for _, r := range np.Spec.Ingress {
				peers, ports = append(peers, r.From), append(ports, r.Ports)
			}
		}
		applies := false
		for _, t := range np.Spec.PolicyTypes {
			applies = applies || t == kind
		}
		if !applies || np.Namespace != subject.Namespace || !selects(tb, &np.Spec.PodSelector, subject.Labels) {
			continue
		}
		isolated = true
		for i := range peers {
			if c.anyPeer(tb, np.Namespace, peers[i], peer) && anyPort(ports[i], receiver, protocol, port) {
				return true
			}
		}
	}
	return !isolated
}

func (c *cluster) anyPeer(tb testing.TB, namespace string, peers []networkingv1.NetworkPolicyPeer, pod *Pod) bool {
	tb.Helper()
	for _, p := range peers {
		switch {
		case p.IPBlock != nil:
			inside := netip.MustParsePrefix(p.IPBlock.CIDR).Contains(pod.Address)
			for _, e := range p.IPBlock.Except {
				inside = inside && !netip.MustParsePrefix(e).Contains(pod.Address)
			}
			if inside {
				return true
			}
		case p.NamespaceSelector == nil && namespace != pod.Namespace:
		case p.NamespaceSelector != nil && (c.namespaces[pod.Namespace] == nil || !selects(tb, p.NamespaceSelector, c.namespaces[pod.Namespace])):
		case p.PodSelector == nil || selects(tb, p.PodSelector, pod.Labels):
			return true
		}
	}
	return len(peers) == 0
}

func anyPort(ports []networkingv1.NetworkPolicyPort, receiver *Pod, protocol corev1.Protocol, port int32) bool {
	for _, p := range ports {
		if p.Protocol != nil && *p.Protocol != protocol || p.Protocol == nil && protocol != corev1.ProtocolTCP {
			continue
		}
		switch {
		case p.Port == nil:
			return true
		case p.Port.Type == intstr.String:
			for _, named := range receiver.Ports {
				if named.Name == p.Port.StrVal && named.Protocol == protocol && named.Number == port {
					return true
				}
			}
		case p.EndPort != nil && port >= p.Port.IntVal && port <= *p.EndPort, p.Port.IntVal == port:
			return true
		}
	}
	return len(ports) == 0
}

func selects(tb testing.TB, s *metav1.LabelSelector, set map[string]string) bool {
	tb.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		tb.Fatal(err)
	}
	return selector.Matches(labels.Set(set))
}

// matrix asks for every pair of pods, port and protocol what the rules of a node let pass: one line for each that is
// judged by the node and that is not as the oracle says.
func (c *cluster) faults(tb testing.TB, m *Model) []string {
	tb.Helper()
	var out []string
	for _, from := range c.pods {
		for _, to := range c.pods {
			for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP} {
				for _, port := range []int32{80, 81} {
					want := true // what is no business of this node passes
					if from != to && from.Node == m.node {
						want = c.allowsWay(tb, Egress, from, to, to, protocol, port)
					}
					if from != to && to.Node == m.node {
						want = want && c.allowsWay(tb, Ingress, to, from, to, protocol, port)
					}
					if got := m.table.passes(tb, packet{from.Address, to.Address, protocol, port}); got != want {
						out = append(out, fmt.Sprintf("%s/%s to %s/%s %s %d: passes %v, want %v", from.Namespace, from.Name, to.Namespace, to.Name, protocol, port, got, want))
					}
				}
			}
		}
	}
	return out
}
