package right

import (
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// oneByOne is how many partitions are asked for by themselves, for those who have the verb deploy on some by a role of
// their own: each question costs the hub a part of what it allows one admission.
const oneByOne = 8

// Names of the admission policies on the hub.
const (
	policyApplications   = "yunfan-deploy-applications"
	policyConfigurations = "yunfan-deploy-configurations"
	policyPartitions     = "yunfan-allocate-partitions"
)

const (
	// partitionVerb begins a question whether the user has a verb on partitions of the object's tenant.
	partitionVerb = "authorizer.group('yunfan.io').resource('partitions').namespace(request.namespace)"
	// kubernetes leaves out what Kubernetes itself does when a namespace is deleted.
	kubernetes = "!request.userInfo.username.startsWith('system:serviceaccount:kube-system:') && request.userInfo.username != 'system:kube-controller-manager'"
	askAdmin   = "an Admin of tenant ' + request.namespace + ' gives it"
)

// deployPolicy refuses what places something in partitions in which the user may not deploy, before or after the
// change: to take an application out of a partition is deploying there, too. The expressions give the names of the
// partitions, and whether it goes to partitions that it does not name.
func deployPolicy(name, resource, names, unnamed, hint string) []client.Object {
	reason := metav1.StatusReasonForbidden
	everywhere := partitionVerb + ".check('" + VerbDeploy + "').allowed()"
	validations := []admissionv1.Validation{{
		Expression: "variables.everywhere || !variables.unnamed",
		MessageExpression: "'this goes to partitions that it does not name, which needs the verb deploy on all partitions of the tenant: " +
			hint + ", or ask for the role Operator of the whole tenant, which " + askAdmin + "'",
		Reason: &reason,
	}}
	for i := range oneByOne {
		validations = append(validations, admissionv1.Validation{
			Expression: fmt.Sprintf("variables.everywhere || size(variables.missing) <= %d || %s.name(variables.missing[%d]).check('%s').allowed()",
				i, partitionVerb, i, VerbDeploy),
			MessageExpression: fmt.Sprintf("'you may not deploy to partition ' + variables.missing[%d] + ' of tenant ' + request.namespace + "+
				"': it needs the role Operator there, which %s'", i, askAdmin),
			Reason: &reason,
		})
	}
	validations = append(validations, admissionv1.Validation{
		Expression: fmt.Sprintf("variables.everywhere || size(variables.missing) <= %d", oneByOne),
		MessageExpression: "'you may not deploy to the partitions ' + variables.missing.join(', ') + ' of tenant ' + request.namespace + " +
			"': it needs the role Operator there, which " + askAdmin + "'",
		Reason: &reason,
	})
	return policy(name, resource, []admissionv1.Variable{
		{Name: "everywhere", Expression: everywhere},
		{Name: "unnamed", Expression: unnamed},
		{Name: "names", Expression: names},
		{Name: "missing", Expression: "variables.names.filter(name, !('yunfan:partition:' + request.namespace + ':' + name + ':operator' in request.userInfo.groups))"},
	}, validations)
}

func policy(name, resource string, variables []admissionv1.Variable, validations []admissionv1.Validation) []client.Object {
	fail, scope := admissionv1.Fail, admissionv1.NamespacedScope
	return []client.Object{
		&admissionv1.ValidatingAdmissionPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: admissionv1.ValidatingAdmissionPolicySpec{
				FailurePolicy:    &fail,
				MatchConditions:  []admissionv1.MatchCondition{{Name: "people", Expression: kubernetes}},
				MatchConstraints: matching(resource, &scope, admissionv1.Create, admissionv1.Update, admissionv1.Delete),
				Variables:        variables, Validations: validations,
			},
		},
		&admissionv1.ValidatingAdmissionPolicyBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
				PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
			},
		},
	}
}

// matching are requests for one of our resources.
func matching(resource string, scope *admissionv1.ScopeType, operations ...admissionv1.OperationType) *admissionv1.MatchResources {
	return &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
		Operations: operations,
		Rule: admissionv1.Rule{
			APIGroups: []string{group}, APIVersions: []string{v1alpha1.GroupVersion.Version}, Resources: []string{resource}, Scope: scope,
		},
	}}}}
}

// hubPolicies are the admission policies of the hub. They work while the platform's server is down.
func hubPolicies() []client.Object {
	const choices = "(object == null ? [] : object.spec.placement.partitions) + (oldObject == null ? [] : oldObject.spec.placement.partitions)"
	all := deployPolicy(policyApplications, "applications",
		"("+choices+").filter(c, has(c.name)).map(c, c.name)",
		"("+choices+").exists(c, has(c.selector))",
		"name the partitions of the placement one by one")
	const selected = "(object == null ? [] : object.spec.?partitions.orValue([])) + (oldObject == null ? [] : oldObject.spec.?partitions.orValue([]))"
	all = append(all, deployPolicy(policyConfigurations, "configurations",
		selected,
		"object != null && object.spec.?publication.orValue('All') == 'All' || oldObject != null && oldObject.spec.?publication.orValue('All') == 'All'",
		"set publication to Selected and name the partitions")...)
	return append(all, allocatePolicy()...)
}

// allocatePolicy lets those without the verb allocate split partitions of their tenant and nothing else: where a
// partition is, what it takes over and what its pods may reach is the platform's to decide.
func allocatePolicy() []client.Object {
	reason := metav1.StatusReasonForbidden
	rule := func(expression, message string) admissionv1.Validation {
		return admissionv1.Validation{
			Expression: "variables.allocate || " + expression,
			Message:    message + ": ask a platform administrator, who has the verb allocate on partitions", Reason: &reason,
		}
	}
	return policy(policyPartitions, "partitions", []admissionv1.Variable{
		{Name: "allocate", Expression: partitionVerb + ".check('" + VerbAllocate + "').allowed()"},
	}, []admissionv1.Validation{
		rule("(object == null || object.spec.?parent.orValue('') != '') && (oldObject == null || oldObject.spec.?parent.orValue('') != '')",
			"an Admin of a tenant makes, changes and deletes sub-partitions only, those with spec.parent"),
		rule("object == null || object.spec.?podSecurity.orValue('') != '"+string(v1alpha1.PodSecurityPrivileged)+"'",
			"the pod security level Privileged is not for tenants to choose"),
		rule("object == null || oldObject == null || object.metadata.?finalizers.orValue([]) == oldObject.metadata.?finalizers.orValue([])",
			"finalizers keep a partition until its namespace is gone, and are not changed by tenants"),
	})
}
