package right

import (
	"context"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// The roles as they are evaluated. They never change while the program runs.
var (
	onHub    = hubRoles()
	onMember = memberRoles()
)

// allows says whether rules allow what attributes describe, as RBAC of Kubernetes does.
func allows(rules []rbacv1.PolicyRule, a *authorizationv1.ResourceAttributes) bool {
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	return slices.ContainsFunc(rules, func(rule rbacv1.PolicyRule) bool {
		return slices.Contains(rule.Verbs, a.Verb) && slices.Contains(rule.APIGroups, a.Group) && slices.Contains(rule.Resources, resource)
	})
}

// hubRole gives the ClusterRole and the group through which groups may do on the hub what attributes describe; empty if
// they may not.
func hubRole(groups []string, a *authorizationv1.ResourceAttributes) (role, through string) {
	for _, name := range groups {
		if role := roleOfGroup(name, a.Namespace); role != "" && allows(onHub[role], a) {
			return role, name
		}
	}
	return "", ""
}

// roleOfGroup is the ClusterRole that a group has for requests to a namespace of the hub.
func roleOfGroup(name, namespace string) string {
	switch name {
	case v1alpha1.GroupPlatformAdmin:
		return hubPlatformAdmin
	case v1alpha1.GroupReader:
		return hubReader
	case v1alpha1.GroupAuthenticated:
		return hubEverybody
	}
	// The cheap question first: a user may be in very many groups.
	if namespace == "" || !strings.Contains(name, ":"+namespace+":") {
		return ""
	}
	grant, ok := v1alpha1.ParseGroup(name)
	if !ok || grant.Tenant != namespace {
		return ""
	}
	return hubRoleOf(name, grant)
}

// memberRole gives the ClusterRole and the group through which groups may do in a partition's namespace what attributes
// describe; empty if they may not.
func memberRole(groups []string, tenant, partition string, a *authorizationv1.ResourceAttributes) (role, through string) {
	for _, name := range groups {
		grant, ok := v1alpha1.ParseGroup(name)
		if !ok || grant.Tenant != tenant || grant.Role == "" || grant.Partition != "" && grant.Partition != partition {
			continue
		}
		if role := memberRoleOf(grant.Role); allows(onMember[role], a) {
			return role, name
		}
	}
	return "", ""
}

// Decide answers for users of the platform, and for its own kinds, what the hub would. Reading one object by name
// counts as allowed where the proxy allows it: when the object is the user's own; so does deploying where admission does.
func (x *Index) Decide(user rest.User, a authorizationv1.ResourceAttributes) (allowed, decided bool) {
	if _, ours := user.OfPlatform(); !ours || a.Group != group {
		return false, false
	}
	if role, _ := hubRole(user.Groups, &a); role != "" {
		return true, true
	}
	return deploys(user.Groups, &a) || x.Own(context.Background(), user, a), true
}

// deploys says whether a is the verb deploy on a partition in which one of the groups is Operator: admission of the hub
// takes the group for the verb.
func deploys(groups []string, a *authorizationv1.ResourceAttributes) bool {
	return a.Verb == VerbDeploy && a.Group == group && a.Resource == "partitions" && a.Subresource == "" && a.Name != "" &&
		slices.Contains(groups, v1alpha1.PartitionGroup(a.Namespace, a.Name, v1alpha1.RoleOperator))
}
