package partition

import (
	"context"
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	memberNamespace   = "yunfan-system"
	imagePolicyName   = "yunfan-image"
	servicePolicyName = "yunfan-service"
	// parametersName is the ConfigMap that these policies read: its keys are the tenants' names, and rangesKey, which
	// can be no tenant's name.
	parametersName = "yunfan-admission"
	rangesKey      = "external.ips"
)

// parameters are what the member must know of the hub to judge images and services.
func (r *reconciler) parameters(ctx context.Context) ([]client.Object, error) {
	var tenants v1alpha1.TenantList
	if err := r.client.List(ctx, &tenants, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing tenants: %w", err)
	}
	var cluster v1alpha1.Cluster
	if err := r.client.Get(ctx, client.ObjectKey{Name: r.member.Name}, &cluster); client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("reading cluster %s: %w", r.member.Name, err)
	}
	data := map[string]string{rangesKey: strings.Join(cluster.Spec.ExternalIPs, ",")}
	for i := range tenants.Items {
		data[tenants.Items[i].Name] = ""
	}
	return []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: memberNamespace}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: memberNamespace, Name: parametersName}, Data: data},
	}, nil
}

// images keeps tenants to their own images: a repository whose first part is a tenant's name is that tenant's, in every
// registry, because nodes may be led from each to ours. What has no such name is everybody's.
func images() []client.Object {
	const all = "object.spec.containers.map(c, c.image) + " +
		"object.spec.?initContainers.orValue([]).map(c, c.image) + object.spec.?ephemeralContainers.orValue([]).map(c, c.image) + " +
		"object.spec.?volumes.orValue([]).filter(v, has(v.image)).map(v, v.image.?reference.orValue(''))"
	was := strings.NewReplacer("object.", "oldObject.").Replace(all)
	// The first part that is no host. Docker's own hub puts names of one part below "library".
	const hosted = "(i.contains('/') && (i.split('/')[0].contains('.') || i.split('/')[0].contains(':') || i.split('/')[0] == 'localhost'))"
	const owner = "(" + hosted + " ? i.split('/')[1] : i.contains('/') ? i.split('/')[0] : '').split('@')[0].split(':')[0]"
	return admission(imagePolicyName, []string{"pods", "pods/ephemeralcontainers"},
		[]admissionv1.Variable{
			{Name: "tenant", Expression: "namespaceObject.metadata.labels['" + v1alpha1.LabelTenant + "']"},
			{Name: "before", Expression: "oldObject == null ? [] : " + was},
			{Name: "images", Expression: "(" + all + ").filter(i, !(i in variables.before))"},
			{Name: "foreign", Expression: "variables.images.filter(i, " + owner + " in params.data && " + owner + " != variables.tenant)"},
		},
		admissionv1.Validation{
			Expression:        "variables.foreign.size() == 0",
			MessageExpression: "'yunfan: the image ' + variables.foreign[0] + ' belongs to another tenant: pods of tenant ' + variables.tenant + ' may use their own and common ones'",
		},
		admissionv1.Validation{
			Expression: "variables.images.all(i, !i.matches('^(sha256:)?[a-f0-9]{64}$'))",
			Message:    "yunfan: an image must be named by its repository: by its identity alone every image of the node could be run",
		})
}

// services keeps services to the addresses that the cluster's administrator has set aside: with any other address a
// tenant could take traffic that is not his.
func services() []client.Object {
	return admission(servicePolicyName, []string{"services"},
		[]admissionv1.Variable{
			{Name: "before", Expression: "oldObject == null ? [] : oldObject.spec.?externalIPs.orValue([])"},
			{Name: "ranges", Expression: "params.data['" + rangesKey + "'].split(',').filter(r, r != '')"},
			{Name: "foreign", Expression: "object.spec.?externalIPs.orValue([]).filter(i, !(i in variables.before) && !variables.ranges.exists(r, cidr(r).containsIP(i)))"},
		},
		admissionv1.Validation{
			Expression:        "variables.foreign.size() == 0",
			MessageExpression: "'yunfan: the external address ' + variables.foreign[0] + ' is not among those that spec.externalIPs of the cluster sets aside'",
		})
}

// admission makes a policy for the tenants' namespaces, which reads the parameters.
func admission(name string, resources []string, variables []admissionv1.Variable, rules ...admissionv1.Validation) []client.Object {
	fail, missing, scope := admissionv1.Fail, admissionv1.DenyAction, admissionv1.NamespacedScope
	return []client.Object{
		&admissionv1.ValidatingAdmissionPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: admissionv1.ValidatingAdmissionPolicySpec{
				FailurePolicy: &fail,
				ParamKind:     &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"},
				MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{
					RuleWithOperations: admissionv1.RuleWithOperations{
						Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
						Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: resources, Scope: &scope},
					},
				}}},
				Variables: variables, Validations: rules,
			},
		},
		&admissionv1.ValidatingAdmissionPolicyBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
				PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
				ParamRef: &admissionv1.ParamRef{Name: parametersName, Namespace: memberNamespace, ParameterNotFoundAction: &missing},
				MatchResources: &admissionv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{
					MatchExpressions: []metav1.LabelSelectorRequirement{{Key: v1alpha1.LabelTenant, Operator: metav1.LabelSelectorOpExists}},
				}},
			},
		},
	}
}
