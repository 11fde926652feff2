package partition

import (
	"context"
	"fmt"
	"slices"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/reconcile"
)

const (
	policyName = "yunfan-partition"
	// policyInterval is how often the policy is put back in case somebody changed it.
	policyInterval = 5 * time.Minute
)

// rules are what the member itself refuses in every partition, whoever creates the pod. Only what a request adds is
// looked at, so that pods from before a rule can still be updated and removed.
func rules() []admissionv1.Validation {
	const created = "request.operation != 'CREATE' || "
	return []admissionv1.Validation{
		{
			Expression: created + "variables.pool.all(pair, " +
				"object.spec.?nodeSelector[?pair.split('=')[0]].orValue('') == pair.split('=')[1])",
			MessageExpression: "'yunfan: pods of this partition must have the node selector ' + variables.pool.join(',')",
		},
		{
			Expression: created + "object.spec.?nodeName.orValue('') == ''",
			Message:    "yunfan: pods of a partition must not name their node: use labels of nodes",
		},
		{
			Expression: "variables.tolerations.all(t, t in variables.oldTolerations || !(" +
				"t.?key.orValue('') == '' && t.?operator.orValue('Equal') == 'Exists' || " +
				"t.?key.orValue('') == '" + v1alpha1.TaintTenant + "' && " +
				"(t.?operator.orValue('Equal') != 'Equal' || t.?value.orValue('') != variables.tenant)))",
			MessageExpression: "'yunfan: pods of tenant ' + variables.tenant + ' must not tolerate the taint " + v1alpha1.TaintTenant +
				" of other tenants, nor every taint'",
		},
		{
			Expression: created + "object.spec.?serviceAccountName.orValue('') != '" + v1alpha1.DeliveryServiceAccount + "'",
			Message:    "yunfan: pods must not run as the service account " + v1alpha1.DeliveryServiceAccount,
		},
		{
			Expression: created + "!object.spec.?priorityClassName.orValue('').startsWith('system-')",
			Message:    "yunfan: pods of a partition must not have a priority class of the system",
		},
	}
}

func policies() []client.Object { return slices.Concat(podPolicy(), images(), services()) }

func podPolicy() []client.Object {
	fail, deny := admissionv1.Fail, admissionv1.Deny
	all := admissionv1.NamespacedScope
	return []client.Object{
		&admissionv1.ValidatingAdmissionPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: policyName},
			Spec: admissionv1.ValidatingAdmissionPolicySpec{
				FailurePolicy: &fail,
				MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{
					RuleWithOperations: admissionv1.RuleWithOperations{
						Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
						Rule: admissionv1.Rule{
							APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}, Scope: &all,
						},
					},
				}}},
				Variables: []admissionv1.Variable{
					{Name: "tenant", Expression: "namespaceObject.metadata.labels['" + v1alpha1.LabelTenant + "']"},
					{Name: "poolText", Expression: "namespaceObject.metadata.?annotations[?'" + v1alpha1.AnnotationNodeSelector + "'].orValue('')"},
					{Name: "pool", Expression: "variables.poolText == '' ? [] : variables.poolText.split(',')"},
					{Name: "tolerations", Expression: "object.spec.?tolerations.orValue([])"},
					{Name: "oldTolerations", Expression: "oldObject == null ? [] : oldObject.spec.?tolerations.orValue([])"},
				},
				Validations: rules(),
			},
		},
		&admissionv1.ValidatingAdmissionPolicyBinding{
			ObjectMeta: metav1.ObjectMeta{Name: policyName},
			Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
				PolicyName:        policyName,
				ValidationActions: []admissionv1.ValidationAction{deny},
				MatchResources: &admissionv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{
					MatchExpressions: []metav1.LabelSelectorRequirement{{Key: v1alpha1.LabelTenant, Operator: metav1.LabelSelectorOpExists}},
				}},
			},
		},
	}
}

// enforce makes sure that the member has the policy. A member that is too old for it is not refused, but people are
// told what is not enforced there.
func (r *reconciler) enforce(ctx context.Context, _ *v1alpha1.Partition) error {
	r.policy.Lock()
	defer r.policy.Unlock()
	parameters, err := r.parameters(ctx)
	if err != nil {
		return err
	}
	if now := text(parameters); now != r.parameterText || time.Since(r.enforced) > policyInterval {
		if r.unsupported, err = applyPolicies(ctx, r.member, slices.Concat(r.roles, parameters, policies())); err != nil {
			return err
		}
		r.enforced, r.parameterText = time.Now(), now
	}
	if r.unsupported {
		return reconcile.Remark("the cluster's Kubernetes is older than 1.30 and has no admission policies: " +
			"node pool, exclusive nodes, images of other tenants and external addresses are not enforced there")
	}
	return nil
}

// applyPolicies applies the roles before the admission policies, which a member may be too old for.
func applyPolicies(ctx context.Context, m *member.Member, all []client.Object) (unsupported bool, err error) {
	for _, o := range all {
		_, err := apply(ctx, m.Client, o)
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

func removePolicies(ctx context.Context, m *member.Member, all []client.Object) error {
	for _, o := range all {
		if err := m.Client.Delete(ctx, o); client.IgnoreNotFound(err) != nil && !meta.IsNoMatchError(err) {
			return fmt.Errorf("deleting %T %s: %w", o, o.GetName(), err)
		}
	}
	return nil
}
