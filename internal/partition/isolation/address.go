package isolation

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

var everything4, everything6 = netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")

// portRange has both its ends.
type portRange struct{ first, last int32 }

// managementPorts of nodes are closed to pods: SSH, etcd, API server, RKE2's supervisor, kubelet, kube-proxy,
// controller manager, scheduler and cloud controller manager. In ascending order.
var managementPorts = []portRange{{22, 22}, {2379, 2382}, {6443, 6443}, {9345, 9345}, {10248, 10260}}

// addresses are those that pods may not reach: closed ones not at all, nodes not on their management ports, nor where
// gateways answer edges. A gateway brings whoever gets there to pods of any tenant.
type addresses struct {
	closed, nodes []netip.Prefix
	gateways      []int32 // in ascending order
}

// ports of nodes that are closed, in ascending order.
func (a *addresses) ports() []portRange {
	out := slices.Clone(managementPorts)
	for _, g := range a.gateways {
		if !slices.ContainsFunc(out, func(r portRange) bool { return r.first <= g && g <= r.last }) {
			out = append(out, portRange{g, g})
		}
	}
	slices.SortFunc(out, func(a, b portRange) int { return int(a.first - b.first) })
	return out
}

// limit gives rules that allow what a rule allows, without what pods may not reach. Pods are reached by selectors, and
// by addresses as far as these are no node's.
func (a *addresses) limit(rule networkingv1.NetworkPolicyEgressRule) []networkingv1.NetworkPolicyEgressRule {
	peers := rule.To
	if len(peers) == 0 {
		peers = []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}}, block(everything4), block(everything6)}
	}
	var open, nodes []networkingv1.NetworkPolicyPeer
	for _, peer := range peers {
		if peer.IPBlock == nil {
			open = append(open, peer)
			continue
		}
		if rest, ok := subtract(peer.IPBlock, a.closed, a.nodes); ok {
			open = append(open, rest)
		}
		for _, node := range a.nodes {
			if shared, ok := intersect(peer.IPBlock, node); ok {
				if rest, ok := subtract(shared, a.closed); ok {
					nodes = append(nodes, rest)
				}
			}
		}
	}
	var rules []networkingv1.NetworkPolicyEgressRule
	if len(open) > 0 { // a rule without peers would allow everything
		rules = append(rules, networkingv1.NetworkPolicyEgressRule{To: open, Ports: rule.Ports})
	}
	if ports := without(rule.Ports, a.ports()); len(nodes) > 0 && len(ports) > 0 {
		rules = append(rules, networkingv1.NetworkPolicyEgressRule{To: nodes, Ports: ports})
	}
	return rules
}

// subtract gives what of a block is in none of the ranges; false if nothing is.
func subtract(b *networkingv1.IPBlock, ranges ...[]netip.Prefix) (networkingv1.NetworkPolicyPeer, bool) {
	cidr := mustParse(b.CIDR)
	excluded := make([]netip.Prefix, 0, len(b.Except))
	for _, except := range b.Except {
		excluded = append(excluded, mustParse(except))
	}
	for _, r := range slices.Concat(ranges...) {
		switch {
		case !cidr.Overlaps(r):
		case r.Bits() <= cidr.Bits():
			return networkingv1.NetworkPolicyPeer{}, false
		default:
			excluded = append(excluded, r)
		}
	}
	return block(cidr, excluded...), true
}

// intersect gives what of a block is in a range.
func intersect(b *networkingv1.IPBlock, r netip.Prefix) (*networkingv1.IPBlock, bool) {
	cidr := mustParse(b.CIDR)
	if !cidr.Overlaps(r) {
		return nil, false
	}
	if cidr.Bits() > r.Bits() {
		r = cidr
	}
	out := &networkingv1.IPBlock{CIDR: r.String()}
	for _, except := range b.Except {
		switch e := mustParse(except); {
		case !e.Overlaps(r):
		case e.Bits() <= r.Bits():
			return nil, false
		default:
			out.Except = append(out.Except, e.String())
		}
	}
	return out, true
}

// without gives the ports without closed ones; all others if none is named. Named ports are pods'.
func without(ports []networkingv1.NetworkPolicyPort, closed []portRange) []networkingv1.NetworkPolicyPort {
	if len(ports) == 0 {
		return slices.Concat(between(closed, 1, 65535),
			[]networkingv1.NetworkPolicyPort{{Protocol: new(corev1.ProtocolUDP)}, {Protocol: new(corev1.ProtocolSCTP)}})
	}
	var out []networkingv1.NetworkPolicyPort
	for _, p := range ports {
		switch {
		case p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP:
			out = append(out, p)
		case p.Port == nil:
			out = append(out, between(closed, 1, 65535)...)
		case p.Port.Type == intstr.Int:
			last := p.Port.IntVal
			if p.EndPort != nil {
				last = *p.EndPort
			}
			out = append(out, between(closed, p.Port.IntVal, last)...)
		}
	}
	return out
}

// between gives the TCP ports of a range without closed ones, as ranges.
func between(not []portRange, first, last int32) []networkingv1.NetworkPolicyPort {
	var out []networkingv1.NetworkPolicyPort
	add := func(first, last int32) {
		if first > last {
			return
		}
		p := port(corev1.ProtocolTCP, intstr.FromInt32(first))
		if last > first {
			p.EndPort = &last
		}
		out = append(out, p)
	}
	for _, closed := range not {
		if closed.last < first || closed.first > last {
			continue
		}
		add(first, closed.first-1)
		first = closed.last + 1
	}
	add(first, last)
	return out
}

// block makes a peer of a range without those exceptions that are in it.
func block(cidr netip.Prefix, except ...netip.Prefix) networkingv1.NetworkPolicyPeer {
	b := &networkingv1.IPBlock{CIDR: cidr.String()}
	for _, e := range except {
		if cidr.Overlaps(e) && e.Bits() > cidr.Bits() {
			b.Except = append(b.Except, e.Masked().String())
		}
	}
	slices.Sort(b.Except)
	b.Except = slices.Compact(b.Except)
	return networkingv1.NetworkPolicyPeer{IPBlock: b}
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// check refuses blocks that are no ranges, as the API server would.
func check(peers []networkingv1.NetworkPolicyPeer) error {
	for _, peer := range peers {
		if peer.IPBlock == nil {
			continue
		}
		for _, text := range append([]string{peer.IPBlock.CIDR}, peer.IPBlock.Except...) {
			if _, err := netip.ParsePrefix(text); err != nil {
				return reconcile.Stall(v1alpha1.ReasonInvalid, "%q is no range of addresses: write one like 10.0.0.0/24", text)
			}
		}
	}
	return nil
}

// mustParse parses what was checked.
func mustParse(text string) netip.Prefix { return netip.MustParsePrefix(text).Masked() }
