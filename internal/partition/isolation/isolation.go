// Package isolation says which NetworkPolicies make the network isolation of a partition: what its spec says, what its
// services publish, and the addresses that no tenant's pod may reach. All of it is pure.
package isolation

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Surroundings are what a partition's policies must know of the clusters and of its namespace.
type Surroundings struct {
	// APIServers of the partition's own cluster, which a partition may be allowed to talk to.
	APIServers []netip.AddrPort
	// Closed addresses are reached by no pod: those of all clusters' API servers, the hub's among them.
	Closed []netip.Prefix
	// Nodes of all clusters. Their management ports are closed.
	Nodes []netip.Prefix
	// Gateways are the ports at which nodes of any cluster answer edges, in ascending order. They are closed, too.
	Gateways []int32
	// Pods are the ranges of pods' addresses. Without them nothing can be published to outside.
	Pods []netip.Prefix
	// Services of the partition's namespace.
	Services []corev1.Service
}

// metadataService gives a node's credentials to whoever asks from it, in most public clouds.
var metadataService = netip.MustParsePrefix("169.254.169.254/32")

// Policies gives the name and the spec of every policy of the partition. The error says what of the spec cannot be
// made into policies.
func Policies(p *v1alpha1.Partition, s *Surroundings) (map[string]networkingv1.NetworkPolicySpec, error) {
	out := map[string]networkingv1.NetworkPolicySpec{}
	closed := append(slices.Clone(s.Closed), metadataService)
	for _, server := range s.APIServers {
		closed = append(closed, single(server.Addr()))
	}
	protected := &addresses{closed: closed, nodes: s.Nodes, gateways: s.Gateways}
	for i := range p.Spec.NetworkPolicies {
		own := &p.Spec.NetworkPolicies[i]
		spec, err := custom(&own.Spec, p.Namespace, protected)
		if err != nil {
			return nil, fmt.Errorf("spec.networkPolicies %s: %w", own.Name, err)
		}
		out[own.Name] = *spec
	}
	incoming, err := unselected(p.Spec.NetworkPolicies, networkingv1.PolicyTypeIngress)
	if err != nil {
		return nil, err
	}
	outgoing, err := unselected(p.Spec.NetworkPolicies, networkingv1.PolicyTypeEgress)
	if err != nil {
		return nil, err
	}
	ingress(out, p, incoming)
	egress(out, p, outgoing, protected)
	publish(out, p, s, incoming)
	admitGateway(out, p, incoming)
	if p.Spec.Isolation.APIServer && len(s.APIServers) > 0 {
		out["yunfan-api-server"] = networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}, Egress: toAPIServers(s.APIServers),
		}
	}
	return out, nil
}

// ingress adds what spec.isolation says of who may talk to the pods, for those that no own policy selects.
func ingress(out map[string]networkingv1.NetworkPolicySpec, p *v1alpha1.Partition, selectors []metav1.LabelSelector) {
	peers, restricted := peersOf(p, ingressLevel(p))
	if !restricted {
		return
	}
	var rules []networkingv1.NetworkPolicyIngressRule
	if len(peers) > 0 {
		rules = append(rules, networkingv1.NetworkPolicyIngressRule{From: peers})
	}
	for i, selector := range selectors {
		out[numbered("yunfan-ingress", i)] = networkingv1.NetworkPolicySpec{
			PodSelector: selector, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}, Ingress: rules,
		}
	}
}

// egress adds what spec.isolation says of whom the pods may talk to, for those that no own policy selects.
func egress(out map[string]networkingv1.NetworkPolicySpec, p *v1alpha1.Partition, selectors []metav1.LabelSelector, protected *addresses) {
	var rules []networkingv1.NetworkPolicyEgressRule
	level := p.Spec.Isolation.Egress
	if level == "" {
		level = v1alpha1.IsolationAll
	}
	switch peers, restricted := peersOf(p, level); {
	case !restricted:
		rules = protected.limit(networkingv1.NetworkPolicyEgressRule{})
	case len(peers) > 0:
		rules = []networkingv1.NetworkPolicyEgressRule{nameService(), {To: peers}}
	}
	for i, selector := range selectors {
		out[numbered("yunfan-egress", i)] = networkingv1.NetworkPolicySpec{
			PodSelector: selector, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}, Egress: rules,
		}
	}
}

func ingressLevel(p *v1alpha1.Partition) v1alpha1.IsolationLevel {
	if p.Spec.Isolation.Ingress == "" {
		return v1alpha1.IsolationTenant
	}
	return p.Spec.Isolation.Ingress
}

func peersOf(p *v1alpha1.Partition, level v1alpha1.IsolationLevel) (peers []networkingv1.NetworkPolicyPeer, restricted bool) {
	switch level {
	case v1alpha1.IsolationAll:
		return nil, false
	case v1alpha1.IsolationTenant:
		same := metav1.LabelSelector{MatchLabels: map[string]string{v1alpha1.LabelTenant: p.Namespace}}
		return []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &same}}, true
	case v1alpha1.IsolationPartition:
		return []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}, true
	case v1alpha1.IsolationNone:
	}
	return nil, true
}

// nameService lets pods ask the cluster's DNS, without which they find nothing that they may talk to.
func nameService() networkingv1.NetworkPolicyEgressRule {
	rule := networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: metav1.NamespaceSystem}},
		PodSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"k8s-app": "kube-dns"}},
	}}}
	for _, protocol := range []corev1.Protocol{corev1.ProtocolUDP, corev1.ProtocolTCP} {
		rule.Ports = append(rule.Ports, port(protocol, intstr.FromInt32(53)))
	}
	return rule
}

func toAPIServers(servers []netip.AddrPort) []networkingv1.NetworkPolicyEgressRule {
	rules := make([]networkingv1.NetworkPolicyEgressRule, len(servers))
	for i, server := range servers {
		rules[i] = networkingv1.NetworkPolicyEgressRule{
			To:    []networkingv1.NetworkPolicyPeer{block(single(server.Addr()))},
			Ports: []networkingv1.NetworkPolicyPort{port(corev1.ProtocolTCP, intstr.FromInt32(int32(server.Port())))},
		}
	}
	return rules
}

// Publishable says whether services of the partition can be opened to outside.
func Publishable(p *v1alpha1.Partition) bool {
	level := ingressLevel(p)
	return level == v1alpha1.IsolationTenant || level == v1alpha1.IsolationPartition
}

// Published says whether a service is meant to be reached from outside.
func Published(s *corev1.Service) bool {
	return (s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer || len(s.Spec.ExternalIPs) > 0) &&
		len(s.Spec.Selector) > 0
}

// publish opens the ports of services that are meant to be reached from outside to everything but pods. What comes
// through a node port has the address of a node, so pods that use it come in like anybody else; past it they do not.
func publish(out map[string]networkingv1.NetworkPolicySpec, p *v1alpha1.Partition, s *Surroundings, selectors []metav1.LabelSelector) {
	if !Publishable(p) || len(s.Pods) == 0 {
		return
	}
	outside := []networkingv1.NetworkPolicyPeer{block(everything4, s.Pods...), block(everything6, s.Pods...)}
	for i := range s.Services {
		service := &s.Services[i]
		if !Published(service) {
			continue
		}
		rule := networkingv1.NetworkPolicyIngressRule{From: outside}
		for _, served := range service.Spec.Ports {
			target := served.TargetPort
			if target == (intstr.IntOrString{}) {
				target = intstr.FromInt32(served.Port)
			}
			rule.Ports = append(rule.Ports, port(served.Protocol, target))
		}
		for i, selector := range selectors {
			selector.MatchLabels = service.Spec.Selector
			out[numbered("yunfan-published-"+service.Name, i)] = networkingv1.NetworkPolicySpec{
				PodSelector: selector, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
				Ingress: []networkingv1.NetworkPolicyIngressRule{rule},
			}
		}
	}
}

// admitGateway lets the gateway of the cluster in, which brings requests of Routes only. It keeps other pods out itself.
// Its pods are known by their namespace, which no partition can have, and which nobody but the platform makes pods in.
func admitGateway(out map[string]networkingv1.NetworkPolicySpec, p *v1alpha1.Partition, selectors []metav1.LabelSelector) {
	if !Publishable(p) {
		return
	}
	gateway := metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: v1alpha1.GatewayNamespace}}
	for i, selector := range selectors {
		out[numbered("yunfan-gateway", i)] = networkingv1.NetworkPolicySpec{
			PodSelector: selector, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &gateway}}}},
		}
	}
}

func port(protocol corev1.Protocol, number intstr.IntOrString) networkingv1.NetworkPolicyPort {
	if protocol == "" {
		protocol = corev1.ProtocolTCP
	}
	return networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &number}
}

func numbered(name string, i int) string {
	if i == 0 {
		return name
	}
	return fmt.Sprintf("%s.%d", name, i+1) // A service's name has no dots, so this is no other service's.
}
