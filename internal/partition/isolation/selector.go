package isolation

import (
	"maps"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// maxSelectors bounds the selectors that are needed to say which pods no policy selects.
const maxSelectors = 16

// unselected gives selectors that together select every pod that none of the policies selects in a direction: none if
// they select all pods, one that selects everything if they select nothing.
func unselected(policies []v1alpha1.PartitionNetworkPolicy, direction networkingv1.PolicyType) ([]metav1.LabelSelector, error) {
	rest := [][]metav1.LabelSelectorRequirement{nil}
	for i := range policies {
		policy := &policies[i]
		if !slices.Contains(TypesOf(&policy.Spec), direction) {
			continue
		}
		var next [][]metav1.LabelSelectorRequirement
		for _, requirements := range rest {
			for _, not := range negated(&policy.Spec.PodSelector) {
				both := requirements
				if !slices.ContainsFunc(both, func(r metav1.LabelSelectorRequirement) bool { return same(r, not) }) {
					both = append(slices.Clone(both), not)
				}
				next = appendNew(next, both)
			}
		}
		if rest = next; len(rest) > maxSelectors {
			return nil, reconcile.Stall(v1alpha1.ReasonInvalid, "spec.networkPolicies: the pod selectors are too many to say which pods "+
				"spec.isolation is for: use fewer labels in each, or one policy with an empty podSelector")
		}
	}
	selectors := make([]metav1.LabelSelector, len(rest))
	for i, requirements := range rest {
		selectors[i].MatchExpressions = requirements
	}
	return selectors, nil
}

func appendNew(all [][]metav1.LabelSelectorRequirement, one []metav1.LabelSelectorRequirement) [][]metav1.LabelSelectorRequirement {
	equal := func(other []metav1.LabelSelectorRequirement) bool { return slices.EqualFunc(one, other, same) }
	if slices.ContainsFunc(all, equal) {
		return all
	}
	return append(all, one)
}

func same(a, b metav1.LabelSelectorRequirement) bool {
	return a.Key == b.Key && a.Operator == b.Operator && slices.Equal(a.Values, b.Values)
}

// negated gives the ways in which a pod may not match a selector; an empty one matches every pod.
func negated(selector *metav1.LabelSelector) []metav1.LabelSelectorRequirement {
	var out []metav1.LabelSelectorRequirement
	for _, key := range slices.Sorted(maps.Keys(selector.MatchLabels)) {
		out = append(out, metav1.LabelSelectorRequirement{
			Key: key, Operator: metav1.LabelSelectorOpNotIn, Values: []string{selector.MatchLabels[key]},
		})
	}
	opposite := map[metav1.LabelSelectorOperator]metav1.LabelSelectorOperator{
		metav1.LabelSelectorOpIn: metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpNotIn: metav1.LabelSelectorOpIn,
		metav1.LabelSelectorOpExists: metav1.LabelSelectorOpDoesNotExist, metav1.LabelSelectorOpDoesNotExist: metav1.LabelSelectorOpExists,
	}
	for _, e := range selector.MatchExpressions {
		out = append(out, metav1.LabelSelectorRequirement{Key: e.Key, Operator: opposite[e.Operator], Values: e.Values})
	}
	return out
}

// TypesOf gives the directions of a policy as the API server fills them in.
func TypesOf(spec *networkingv1.NetworkPolicySpec) []networkingv1.PolicyType {
	switch {
	case len(spec.PolicyTypes) > 0:
		return spec.PolicyTypes
	case len(spec.Egress) > 0:
		return []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	}
	return []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
}
