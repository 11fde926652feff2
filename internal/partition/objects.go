package partition

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	quotaName     = "yunfan"
	isolationName = "yunfan-isolation"
)

// identity are the labels by which the platform knows what it made for a partition.
func identity(p *v1alpha1.Partition) map[string]string {
	return map[string]string{v1alpha1.LabelTenant: p.Namespace, v1alpha1.LabelPartition: p.Name}
}

func owned(p *v1alpha1.Partition, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: p.MemberNamespace(), Name: name, Labels: identity(p)}
}

// objects gives what the partition is made of in its cluster, in the order in which it is applied, and what of it must
// not be there.
func objects(p *v1alpha1.Partition, adopted bool) (wanted, unwanted []client.Object) {
	wanted = append(wanted, namespace(p, adopted))
	sort := func(o client.Object, want bool) {
		if want {
			wanted = append(wanted, o)
		} else {
			unwanted = append(unwanted, o)
		}
	}
	sort(&corev1.ResourceQuota{
		ObjectMeta: owned(p, quotaName), Spec: corev1.ResourceQuotaSpec{Hard: p.Spec.Quota},
	}, len(p.Spec.Quota) > 0)
	sort(&corev1.LimitRange{
		ObjectMeta: owned(p, quotaName), Spec: corev1.LimitRangeSpec{Limits: p.Spec.Limits},
	}, len(p.Spec.Limits) > 0)
	policy := isolation(p)
	sort(policy, len(policy.Spec.PolicyTypes) > 0)
	unwanted = append(unwanted, formerRights(p)...)
	return append(wanted, rights(p)...), unwanted
}

func namespace(p *v1alpha1.Partition, adopted bool) *corev1.Namespace {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: p.MemberNamespace(), Labels: identity(p), Annotations: map[string]string{},
	}}
	level := strings.ToLower(string(p.Spec.PodSecurity))
	if level == "" {
		level = "baseline"
	}
	for _, mode := range []string{"enforce", "warn"} {
		ns.Labels["pod-security.kubernetes.io/"+mode] = level
	}
	if len(p.Spec.Nodes.Selector) > 0 {
		ns.Annotations[v1alpha1.AnnotationNodeSelector] = selectorText(p.Spec.Nodes.Selector)
	}
	if adopted {
		ns.Annotations[v1alpha1.AnnotationAdopted] = "true"
	}
	return ns
}

// selectorText is the form that the admission policy reads. Label keys and values have neither commas nor equal signs.
func selectorText(selector map[string]string) string {
	pairs := make([]string, 0, len(selector))
	for _, key := range slices.Sorted(maps.Keys(selector)) {
		pairs = append(pairs, key+"="+selector[key])
	}
	return strings.Join(pairs, ",")
}

// isolation gives the NetworkPolicy; without policy types it restricts nothing.
func isolation(p *v1alpha1.Partition) *networkingv1.NetworkPolicy {
	policy := &networkingv1.NetworkPolicy{ObjectMeta: owned(p, isolationName)}
	if peers, restricted := isolationPeers(p, p.Spec.Isolation.Ingress, v1alpha1.IsolationTenant); restricted {
		policy.Spec.PolicyTypes = append(policy.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
		if len(peers) > 0 {
			policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: peers}}
		}
	}
	if peers, restricted := isolationPeers(p, p.Spec.Isolation.Egress, v1alpha1.IsolationAll); restricted {
		policy.Spec.PolicyTypes = append(policy.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		policy.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{nameService()}
		if len(peers) > 0 {
			policy.Spec.Egress = append(policy.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: peers})
		}
	}
	return policy
}

func isolationPeers(p *v1alpha1.Partition, level, byDefault v1alpha1.IsolationLevel) (peers []networkingv1.NetworkPolicyPeer, restricted bool) {
	if level == "" {
		level = byDefault
	}
	switch level {
	case v1alpha1.IsolationAll:
		return nil, false
	case v1alpha1.IsolationTenant:
		same := metav1.LabelSelector{MatchLabels: map[string]string{v1alpha1.LabelTenant: p.Namespace}}
		return []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &same}}, true
	case v1alpha1.IsolationPartition:
		return []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}, true
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
		port := intstr.FromInt32(53)
		rule.Ports = append(rule.Ports, networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &port})
	}
	return rule
}

// reserved says why a namespace cannot be a partition's; empty if it can.
func reserved(name string) string {
	switch {
	case name == "default", strings.HasPrefix(name, "kube-"), strings.HasPrefix(name, "yunfan"):
		return fmt.Sprintf("namespace %s belongs to the system: set spec.namespace to another", name)
	case len(name) > 63:
		return fmt.Sprintf("the namespace's name %s has more than 63 characters: set spec.namespace to a shorter one", name)
	}
	return ""
}
