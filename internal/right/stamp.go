package right

import (
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Names of the policies that say who did something. A mutating policy writes it; the validating policy of the same name
// refuses what the first did not write, so that a hub without mutating policies (before Kubernetes 1.36) believes nobody.
const (
	policyRuns      = "yunfan-stamp-workflowruns"
	policyRequests  = "yunfan-stamp-resourcerequests"
	policyApprovals = "yunfan-stamp-approvals"
	policyChanges   = "yunfan-stamp-applications"
)

// quoted is a text in CEL.
func quoted(text string) string { return "'" + text + "'" }

// stampVariables are who the request is from: whether it is the platform itself; whether he sees all objects of the
// tenant, and not only his own; and those of his groups that count in the tenant. The others would make every object of
// somebody in many tenants large, and tell the tenants of each other.
func stampVariables(resource string) []admissionv1.Variable {
	has := func(verb string) string {
		return fmt.Sprintf("authorizer.group('%s').resource('%s').namespace(request.namespace).check('%s').allowed()", group, resource, verb)
	}
	return []admissionv1.Variable{
		{Name: "platform", Expression: has(VerbStamp)},
		{Name: "whole", Expression: has("list")},
		{Name: "mine", Expression: "'yunfan:tenant:' + request.namespace + ':'"},
		{Name: "parts", Expression: "'yunfan:partition:' + request.namespace + ':'"},
		{Name: "groups", Expression: fmt.Sprintf(
			"request.userInfo.groups.filter(g, g.startsWith('yunfan:') && (g == '%s' || g == '%s' || g.startsWith(variables.mine) || g.startsWith(variables.parts)))",
			v1alpha1.GroupAuthenticated, v1alpha1.GroupPlatformAdmin)},
	}
}

// actor is the request's user as a value for a field of spec.
func actor(field string) string {
	return "Object.spec." + field + "{name: request.userInfo.username, groups: variables.groups}"
}

// isActor says whether a field of spec is the request's user. Without groups it is, too: where nothing writes them they
// can be left out, and then nothing is allowed because of them.
func isActor(field string) string {
	f := "object.spec." + field
	return fmt.Sprintf("has(%s) && %s.name == request.userInfo.username && (%s.?groups.orValue([]) == [] || %s.groups == variables.groups)", f, f, f, f)
}

// unchanged says whether a path of the object is as it was.
func unchanged(path string) string {
	optional := strings.ReplaceAll(path, ".", ".?")
	return fmt.Sprintf("object.%s == oldObject.%s", "?"+optional, "?"+optional)
}

// patch is a mutation by a JSON patch that an expression gives.
func patch(expression string) admissionv1.Mutation {
	return admissionv1.Mutation{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{Expression: expression}}
}

// when is a list of operations that is empty unless a condition is met.
func when(condition, operations string) string { return condition + " ? [" + operations + "] : []" }

// set is an operation that adds a value, or puts it in the place of what is there.
func set(path, value string) string {
	return fmt.Sprintf("JSONPatch{op: 'add', path: %s, value: %s}", path, value)
}

// stamp gives a mutating policy for what is created and updated.
func stamp(name, resource string, variables []admissionv1.Variable, mutations ...admissionv1.Mutation) []client.Object {
	fail, scope := admissionv1.Fail, admissionv1.NamespacedScope
	return []client.Object{
		&admissionv1.MutatingAdmissionPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: admissionv1.MutatingAdmissionPolicySpec{
				FailurePolicy: &fail, ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
				MatchConditions:  []admissionv1.MatchCondition{{Name: "people", Expression: kubernetes}},
				MatchConstraints: matching(resource, &scope, admissionv1.Create, admissionv1.Update),
				Variables:        variables, Mutations: mutations,
			},
		},
		&admissionv1.MutatingAdmissionPolicyBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: name},
		},
	}
}

// must is a check that the platform itself is exempt from.
func must(expression, message string) admissionv1.Validation {
	return always("variables.platform || "+expression, message)
}

func always(expression, message string) admissionv1.Validation {
	reason := metav1.StatusReasonForbidden
	return admissionv1.Validation{Expression: expression, Message: message, Reason: &reason}
}

// named is a check of who did something, with a message that tells what to write where nothing writes it.
func named(expression, field string) admissionv1.Validation {
	reason := metav1.StatusReasonForbidden
	return admissionv1.Validation{
		Expression: expression, Reason: &reason,
		MessageExpression: fmt.Sprintf("'%s says who did it, and you are ' + request.userInfo.username + ': leave it out. A hub before Kubernetes 1.36 does not write it: "+
			"then write your own name there, and in groups all of yours of the tenant, or none'", field),
	}
}

const created, updated, deleted = "oldObject == null", "(object != null && oldObject != null)", "object == null"

// stampPolicies are all policies that say who did something, the mutating ones first.
func stampPolicies() []client.Object {
	runs, requests := stampVariables("workflowruns"), stampVariables("resourcerequests")
	approvals, changes := stampVariables("approvals"), changeVariables()
	byUser := patch(when(created+" && (!variables.platform || !has(object.spec.user))", set("'/spec/user'", actor("user"))))
	steered := admissionv1.Variable{Name: "steered", Expression: updated + " && !(" + strings.Join([]string{
		unchanged("spec.paused"), unchanged("spec.aborted"), unchanged("spec.retry"), unchanged("spec.reason"),
	}, " && ") + ")"}
	runs = append(runs, steered)
	var all []client.Object
	for _, objects := range [][]client.Object{
		stamp(policyRuns, "workflowruns", runs, byUser,
			patch(fmt.Sprintf("!(%s) ? [] : !has(object.metadata.finalizers) ? [%s] : '%s' in object.metadata.finalizers ? [] : [%s]", created,
				set("'/metadata/finalizers'", "["+quoted(v1alpha1.FinalizerRun)+"]"), v1alpha1.FinalizerRun,
				set("'/metadata/finalizers/-'", quoted(v1alpha1.FinalizerRun)))),
			patch(when("variables.steered && (!variables.platform || "+unchanged("spec.changedBy")+")", set("'/spec/changedBy'", actor("changedBy")))),
		),
		stamp(policyRequests, "resourcerequests", requests, byUser),
		stamp(policyApprovals, "approvals", approvals, patch(when(created, set("'/spec/user'", actor("user"))))),
		stamp(policyChanges, "applications", changes, changeMutations()...),
		policy(policyRuns, "workflowruns", runs, runRules()),
		policy(policyRequests, "resourcerequests", requests, []admissionv1.Validation{
			named("variables.platform || !("+created+") || "+isActor("user"), "spec.user"),
			must("!"+updated+" || "+unchanged("spec.user"), "who made a request cannot be changed"),
			ownOnly("requests"),
		}),
		policy(policyApprovals, "approvals", approvals, []admissionv1.Validation{
			named("!("+created+") || "+isActor("user"), "spec.user"),
			must(created, "an approval is what somebody said: it is not changed and not deleted. The platform removes it with its run"),
			must("!has(object.metadata.finalizers)", "finalizers would keep an approval for ever: leave them out"),
		}),
		policy(policyChanges, "applications", changes, changeRules()),
	} {
		all = append(all, objects...)
	}
	return all
}

// ownOnly keeps members of some partitions from steering what others have begun.
func ownOnly(what string) admissionv1.Validation {
	return must("!"+updated+" || variables.whole || oldObject.spec.?user.?name.orValue('') == request.userInfo.username",
		"a member of some partitions changes only those "+what+" that he has begun himself: ask an Operator of the whole tenant")
}

// runRules are what mutation does not cover of runs.
func runRules() []admissionv1.Validation {
	mark := fmt.Sprintf("metadata.?labels[?'%s']", v1alpha1.LabelMadeBy)
	return []admissionv1.Validation{
		named("variables.platform || !("+created+") || "+isActor("user"), "spec.user"),
		must("!"+updated+" || "+unchanged("spec.user"), "who started a run cannot be changed"),
		named("variables.platform || !variables.steered || "+isActor("changedBy"), "spec.changedBy"),
		must("object == null || variables.steered || object.spec.?changedBy == (oldObject == null ? optional.none() : oldObject.spec.?changedBy)",
			"spec.changedBy is written when a run is paused, aborted or retried: leave it as it is"),
		must("!"+updated+" || "+unchanged("spec.definition")+" && "+unchanged("spec.inputs"), "what is run cannot be changed: start another run"),
		must("object == null || object."+mark+" == (oldObject == null ? optional.none() : oldObject."+mark+")",
			"the label "+v1alpha1.LabelMadeBy+" is the platform's: leave it as it is"),
		must(fmt.Sprintf("object == null || (oldObject == null ? object.metadata.?finalizers.orValue([]).all(f, f == '%s') : %s)", v1alpha1.FinalizerRun, unchanged("metadata.finalizers")),
			"finalizers keep a run until it is in the records, and are not changed by tenants"),
		ownOnly("runs"),
	}
}

// changeVariables are who changed an application's spec last, as it is and as it should be. Writes of the platform
// itself, and of those who may do everything on the hub, keep what is there.
func changeVariables() []admissionv1.Variable {
	annotation := fmt.Sprintf("metadata.?annotations[?'%s']", v1alpha1.AnnotationChangedBy)
	return []admissionv1.Variable{
		stampVariables("applications")[0],
		{Name: "changed", Expression: created + " || object != null && object.spec != oldObject.spec"},
		{Name: "is", Expression: "object == null ? '' : object." + annotation + ".orValue('')"},
		{Name: "was", Expression: "oldObject == null ? '' : oldObject." + annotation + ".orValue('')"},
		{Name: "should", Expression: "variables.platform && variables.is != '' ? variables.is : variables.changed ? request.userInfo.username : variables.was"},
	}
}

func changeMutations() []admissionv1.Mutation {
	path := "'/metadata/annotations/' + jsonpatch.escapeKey('" + v1alpha1.AnnotationChangedBy + "')"
	return []admissionv1.Mutation{
		patch(when("variables.should != '' && !has(object.metadata.annotations)", set("'/metadata/annotations'", "{}"))),
		patch("variables.is == variables.should ? [] : variables.should == '' ? [JSONPatch{op: 'remove', path: " + path + "}] : [" + set(path, "variables.should") + "]"),
	}
}

// changeRules refuse a name that is not the user's own. Without a name nobody can ask for a release: whoever wants to,
// on a hub that does not write it, writes his own.
func changeRules() []admissionv1.Validation {
	reason := metav1.StatusReasonForbidden
	return []admissionv1.Validation{{
		Expression: "object == null || variables.platform || variables.is == variables.should || variables.changed && variables.is == ''",
		MessageExpression: fmt.Sprintf("'the annotation %s says who changed the application last, and may not be ' + variables.is + ': leave it as it is. "+
			"A hub before Kubernetes 1.36 does not write it: then write ' + request.userInfo.username + ' there'", v1alpha1.AnnotationChangedBy),
		Reason: &reason,
	}}
}
