package isolation

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

// custom is a policy of the partition's own as it is applied: what it allows beyond the tenant's reach is taken out.
func custom(wanted *networkingv1.NetworkPolicySpec, tenant string, protected *addresses) (*networkingv1.NetworkPolicySpec, error) {
	spec := wanted.DeepCopy()
	spec.PolicyTypes = TypesOf(wanted) // before rules are taken out
	for i := range spec.Ingress {
		spec.Ingress[i].From = confine(spec.Ingress[i].From, tenant)
	}
	spec.Egress = nil
	for _, rule := range wanted.DeepCopy().Egress {
		rule.To = confine(rule.To, tenant)
		if err := check(rule.To); err != nil {
			return nil, err
		}
		spec.Egress = append(spec.Egress, protected.limit(rule)...)
	}
	return spec, nil
}

// confine makes selectors of namespaces by freely chosen labels select no other tenant's namespaces: he could label his
// own. Selectors by the tenant's or the namespace's name, and of all namespaces, are left as they are.
func confine(peers []networkingv1.NetworkPolicyPeer, tenant string) []networkingv1.NetworkPolicyPeer {
	var out []networkingv1.NetworkPolicyPeer
	for _, peer := range peers {
		if peer.NamespaceSelector == nil || !forgeable(peer.NamespaceSelector) {
			out = append(out, peer)
			continue
		}
		for _, owner := range []metav1.LabelSelectorRequirement{
			{Key: v1alpha1.LabelTenant, Operator: metav1.LabelSelectorOpIn, Values: []string{tenant}},
			{Key: v1alpha1.LabelTenant, Operator: metav1.LabelSelectorOpDoesNotExist}, // of whoever administers the cluster
		} {
			confined := *peer.DeepCopy()
			confined.NamespaceSelector.MatchExpressions = append(confined.NamespaceSelector.MatchExpressions, owner)
			out = append(out, confined)
		}
	}
	return out
}

func forgeable(selector *metav1.LabelSelector) bool {
	ours := func(key string) bool { return key == v1alpha1.LabelTenant || key == corev1.LabelMetadataName }
	for key := range selector.MatchLabels {
		if ours(key) {
			return false
		}
	}
	for _, e := range selector.MatchExpressions {
		if ours(e.Key) && e.Operator == metav1.LabelSelectorOpIn {
			return false
		}
	}
	return len(selector.MatchLabels)+len(selector.MatchExpressions) > 0
}
