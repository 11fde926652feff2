package rules

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Direction of traffic as a pod sees it.
type Direction int

// The directions.
const (
	Ingress Direction = iota
	Egress
)

// String is also the name of the verdict map from pods to their chains.
func (d Direction) String() string { return [...]string{"ingress", "egress"}[d] }

// remote is the field that holds the other side's address.
func (d Direction) remote() string { return [...]string{"ip saddr", "ip daddr"}[d] }

// policy is a NetworkPolicy as rules. Its chains accept what it allows and say nothing about the rest.
type policy struct {
	key       string // namespace/name
	namespace string
	pods      labels.Selector
	ways      [2]*way // by Direction; nil: the policy does not speak of that direction
}

type way struct {
	chain string
	rules []string
	uses  []string // names of sets in the rules
}

// source says which elements a set has.
type source struct {
	comment string
	// Addresses of pods: those in one namespace, or in all namespaces that a selector matches.
	namespace  string
	namespaces labels.Selector
	pods       labels.Selector // nil: the set is not of addresses but of a named port
	// Addresses and numbers of a named port.
	port     string
	protocol corev1.Protocol
}

// compile turns a NetworkPolicy into rules and tells what the sets in them hold. What cannot be understood allows
// nothing; the error tells what that was.
func compile(np *networkingv1.NetworkPolicy) (*policy, map[string]source, error) {
	c := compiler{namespace: np.Namespace, sources: map[string]source{}}
	p := &policy{key: np.Namespace + "/" + np.Name, namespace: np.Namespace}
	var err error
	if p.pods, err = metav1.LabelSelectorAsSelector(&np.Spec.PodSelector); err != nil {
		c.complain("podSelector", err)
		p.pods = labels.Everything() // whom it was meant for is not known: nobody is left open
	}
	types := np.Spec.PolicyTypes
	if len(types) == 0 { // as the API server would fill in
		types = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(np.Spec.Egress) > 0 {
			types = append(types, networkingv1.PolicyTypeEgress)
		}
	}
	if slices.Contains(types, networkingv1.PolicyTypeIngress) {
		p.ways[Ingress] = &way{chain: name("ingress-policy", p.key)}
		for _, r := range np.Spec.Ingress {
			c.rule(p.ways[Ingress], Ingress, r.From, r.Ports)
		}
	}
	if slices.Contains(types, networkingv1.PolicyTypeEgress) {
		p.ways[Egress] = &way{chain: name("egress-policy", p.key)}
		for _, r := range np.Spec.Egress {
			c.rule(p.ways[Egress], Egress, r.To, r.Ports)
		}
	}
	if len(c.faults) > 0 {
		err = fmt.Errorf("understanding network policy %s: %s", p.key, strings.Join(c.faults, "; "))
	}
	return p, c.sources, err
}

type compiler struct {
	namespace string
	sources   map[string]source
	faults    []string
}

func (c *compiler) complain(what string, err error) {
	c.faults = append(c.faults, fmt.Sprintf("%s: %v", what, err))
}

// rule adds what allows the peers to use the ports: every match of a peer with every match of ports.
func (c *compiler) rule(w *way, d Direction, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
	who := []match{{}}
	if len(peers) > 0 {
		who = nil
		for _, peer := range peers {
			if m, ok := c.peer(d, peer); ok {
				who = append(who, m)
			}
		}
	}
	what := []match{{}}
	if len(ports) > 0 {
		what = c.ports(ports)
	}
	for _, a := range who {
		for _, b := range what {
			w.rules = append(w.rules, strings.Join(slices.DeleteFunc([]string{a.text, b.text, "accept"}, func(s string) bool { return s == "" }), " "))
			for _, set := range []string{a.set, b.set} {
				if set != "" && !slices.Contains(w.uses, set) {
					w.uses = append(w.uses, set)
				}
			}
		}
	}
}

// match is a part of a rule and the set it looks into, if any. The empty match matches everything.
type match struct{ text, set string }

func (c *compiler) peer(d Direction, peer networkingv1.NetworkPolicyPeer) (match, bool) {
	if peer.IPBlock != nil {
		return c.block(d, peer.IPBlock)
	}
	s, where := source{pods: labels.Everything()}, "namespace "+c.namespace
	var err error
	if peer.PodSelector != nil {
		if s.pods, err = metav1.LabelSelectorAsSelector(peer.PodSelector); err != nil {
			c.complain("podSelector of a peer", err)
			return match{}, false
		}
	}
	if peer.NamespaceSelector == nil {
		s.namespace = c.namespace
	} else {
		if s.namespaces, err = metav1.LabelSelectorAsSelector(peer.NamespaceSelector); err != nil {
			c.complain("namespaceSelector of a peer", err)
			return match{}, false
		}
		where = "namespaces " + words(s.namespaces)
	}
	s.comment = fmt.Sprintf("pods %s of %s", words(s.pods), where)
	set := name("peers", s.comment)
	c.sources[set] = s
	return match{d.remote() + " @" + set, set}, true
}

func words(s labels.Selector) string {
	if s.Empty() {
		return "(all)"
	}
	return "(" + s.String() + ")"
}

func (c *compiler) block(d Direction, block *networkingv1.IPBlock) (match, bool) {
	cidr, err := netip.ParsePrefix(block.CIDR)
	if err != nil {
		c.complain("ipBlock", err)
		return match{}, false
	}
	if !cidr.Addr().Is4() {
		return match{}, false // these networks have no such addresses
	}
	var text []string
	if cidr.Bits() > 0 {
		text = append(text, d.remote()+" "+cidr.Masked().String())
	}
	for _, e := range block.Except {
		except, err := netip.ParsePrefix(e)
		if err != nil || except.Bits() == 0 {
			c.complain("ipBlock.except "+e, cmp.Or(err, fmt.Errorf("it leaves nothing")))
			return match{}, false
		}
		text = append(text, d.remote()+" != "+except.Masked().String())
	}
	return match{text: strings.Join(text, " ")}, true
}

// ports gives one match for all numbers of a protocol and one for each named port. A name means the port that the pod
// on the receiving side calls so.
func (c *compiler) ports(ports []networkingv1.NetworkPolicyPort) []match {
	var out []match
	numbers := map[corev1.Protocol][][2]int32{}
	for _, p := range ports {
		protocol := corev1.ProtocolTCP
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		switch {
		case p.Port == nil:
			numbers[protocol] = append(numbers[protocol], [2]int32{0, 65535})
		case p.Port.Type == intstr.Int:
			last := p.Port.IntVal
			if p.EndPort != nil {
				last = *p.EndPort
			}
			numbers[protocol] = append(numbers[protocol], [2]int32{p.Port.IntVal, last})
		default:
			set := name("port-"+strings.ToLower(string(protocol)), p.Port.StrVal)
			c.sources[set] = source{comment: fmt.Sprintf("%s port %s of pods", protocol, p.Port.StrVal), port: p.Port.StrVal, protocol: protocol}
			out = append(out, match{fmt.Sprintf("meta l4proto %s ip daddr . th dport @%s", strings.ToLower(string(protocol)), set), set})
		}
	}
	for _, protocol := range []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP} {
		if ranges := merge(numbers[protocol]); len(ranges) > 0 {
			text := "meta l4proto " + strings.ToLower(string(protocol))
			if ranges[0] != "0-65535" {
				text += " th dport { " + strings.Join(ranges, ", ") + " }"
			}
			out = append(out, match{text: text})
		}
	}
	return out
}

// merge sorts ranges of ports and joins those that overlap or touch, since nftables refuses overlaps.
func merge(ranges [][2]int32) []string {
	slices.SortFunc(ranges, func(a, b [2]int32) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) })
	var merged [][2]int32
	for _, r := range ranges {
		if n := len(merged); n > 0 && r[0] <= merged[n-1][1]+1 {
			merged[n-1][1] = max(merged[n-1][1], r[1])
			continue
		}
		if r[0] <= r[1] {
			merged = append(merged, r)
		}
	}
	var out []string
	for _, r := range merged {
		if r[0] == r[1] {
			out = append(out, strconv.Itoa(int(r[0])))
			continue
		}
		out = append(out, fmt.Sprintf("%d-%d", r[0], r[1]))
	}
	return out
}

// maxReadable is how much of what it stands for a name shows to whoever reads the rules.
const maxReadable = 100

// name makes a name for nftables: unique by a hash, readable by what follows it.
func name(kind, what string) string {
	sum := sha256.Sum256([]byte(what))
	readable := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '/', r == '-', r == '.':
			return r
		}
		return '_'
	}, what)
	return fmt.Sprintf("%s-%s-%.*s", kind, hex.EncodeToString(sum[:6]), maxReadable, readable)
}
