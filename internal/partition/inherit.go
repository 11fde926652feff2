package partition

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/partition/isolation"
	"yunfan.io/yunfan/internal/reconcile"
)

// From the weakest to the strictest. The default of each, which a manifest has that says nothing, gives way to the
// parent's.
var (
	securityOrder  = []v1alpha1.PodSecurityLevel{v1alpha1.PodSecurityPrivileged, v1alpha1.PodSecurityBaseline, v1alpha1.PodSecurityRestricted}
	isolationOrder = []v1alpha1.IsolationLevel{v1alpha1.IsolationAll, v1alpha1.IsolationTenant, v1alpha1.IsolationPartition, v1alpha1.IsolationNone}
)

// inherit gives a sub-partition as its parent allows it: on the parent's nodes or some of them, and never less secure or
// less isolated. The error says what it asks for beyond that; the result holds nevertheless.
func inherit(p, parent *v1alpha1.Partition) (*v1alpha1.Partition, error) {
	out := p.DeepCopy()
	var problems []string
	out.Spec.Nodes.Selector = maps.Clone(parent.Spec.Nodes.Selector)
	for _, key := range slices.Sorted(maps.Keys(p.Spec.Nodes.Selector)) {
		value := p.Spec.Nodes.Selector[key]
		if has, set := parent.Spec.Nodes.Selector[key]; set && has != value {
			problems = append(problems, fmt.Sprintf("spec.nodes.selector %s=%s is not among the nodes of %s, which have %s=%s", key, value, parent.Name, key, has))
			continue
		}
		if out.Spec.Nodes.Selector == nil {
			out.Spec.Nodes.Selector = map[string]string{}
		}
		out.Spec.Nodes.Selector[key] = value
	}
	if out.Spec.Nodes.Exclusive = parent.Spec.Nodes.Exclusive; p.Spec.Nodes.Exclusive && !parent.Spec.Nodes.Exclusive {
		problems = append(problems, "spec.nodes.exclusive: the nodes of "+parent.Name+" are not kept for the tenant")
	}
	level := func(field string, own, parents, byDefault string, weaker bool) {
		if weaker && own != "" && own != byDefault {
			problems = append(problems, fmt.Sprintf("spec.%s %s is weaker than %s of %s", field, own, parents, parent.Name))
		}
	}
	var weaker bool
	out.Spec.PodSecurity, weaker = stricter(securityOrder, p.Spec.PodSecurity, parent.Spec.PodSecurity, v1alpha1.PodSecurityBaseline)
	level("podSecurity", string(p.Spec.PodSecurity), string(out.Spec.PodSecurity), string(v1alpha1.PodSecurityBaseline), weaker)
	out.Spec.Isolation.Ingress, weaker = stricter(isolationOrder, p.Spec.Isolation.Ingress, parent.Spec.Isolation.Ingress, v1alpha1.IsolationTenant)
	level("isolation.ingress", string(p.Spec.Isolation.Ingress), string(out.Spec.Isolation.Ingress), string(v1alpha1.IsolationTenant), weaker)
	out.Spec.Isolation.Egress, weaker = stricter(isolationOrder, p.Spec.Isolation.Egress, parent.Spec.Isolation.Egress, v1alpha1.IsolationAll)
	level("isolation.egress", string(p.Spec.Isolation.Egress), string(out.Spec.Isolation.Egress), string(v1alpha1.IsolationAll), weaker)
	problems = append(problems, inheritPolicies(out, parent)...)
	if problems != nil {
		return out, reconcile.Stall(v1alpha1.ReasonInvalid, "a part of partition %s cannot have what that has not: %s", parent.Name, strings.Join(problems, "; "))
	}
	return out, nil
}

// inheritPolicies takes out of a part, and tells, what opens more than its parent's isolation does. A policy of its own
// stands in place of the isolation, so it needs a parent that leaves tenants the choice.
func inheritPolicies(out, parent *v1alpha1.Partition) (problems []string) {
	if out.Spec.Isolation.APIServer && !parent.Spec.Isolation.APIServer {
		out.Spec.Isolation.APIServer = false
		problems = append(problems, "spec.isolation.apiServer: the API server is closed to "+parent.Name)
	}
	_, closedIn := stricter(isolationOrder, v1alpha1.IsolationTenant, parent.Spec.Isolation.Ingress, v1alpha1.IsolationTenant)
	_, closedOut := stricter(isolationOrder, v1alpha1.IsolationAll, parent.Spec.Isolation.Egress, v1alpha1.IsolationAll)
	out.Spec.NetworkPolicies = slices.DeleteFunc(out.Spec.NetworkPolicies, func(policy v1alpha1.PartitionNetworkPolicy) bool {
		types := isolation.TypesOf(&policy.Spec)
		wider := closedIn && slices.Contains(types, networkingv1.PolicyTypeIngress) || closedOut && slices.Contains(types, networkingv1.PolicyTypeEgress)
		if wider {
			problems = append(problems, fmt.Sprintf("spec.networkPolicies %s may open what spec.isolation of %s closes", policy.Name, parent.Name))
		}
		return wider
	})
	return problems
}

// stricter gives the stricter of two levels, and says whether the part's own is the weaker one.
func stricter[T ~string](order []T, own, parents, byDefault T) (level T, weaker bool) {
	if own == "" {
		own = byDefault
	}
	if parents == "" {
		parents = byDefault
	}
	if slices.Index(order, own) < slices.Index(order, parents) {
		return parents, true
	}
	return own, false
}
