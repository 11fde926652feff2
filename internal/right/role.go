// Package right says who may do what: what each role may on the hub and on members, in which roles a user is, and why
// something is refused. The table of roles is in this file only; RBAC of hub and members is made from it, and questions
// of the platform's own views are answered from it without asking the hub.
package right

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

// group is Yunfan's own API group.
var group = v1alpha1.GroupVersion.Group

var (
	readVerbs  = []string{"get", "list", "watch"}
	writeVerbs = []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}
	// secretVerbs are for the endpoint of secrets, which tells names and never values.
	secretVerbs = []string{"get", "list", "create", "update", "delete"}
	// blindVerbs change an object by its name without a list of what else there is.
	blindVerbs = []string{"create", "update", "patch", "delete"}
	// steerVerbs are for what is begun and steered, and stays as evidence; decideVerbs for what is said once.
	steerVerbs  = []string{"get", "list", "watch", "create", "update", "patch"}
	decideVerbs = []string{"get", "list", "watch", "create"}
)

// Verbs of our own, on partitions and on what carries the name of whoever made it.
const (
	// VerbDeploy lets applications be placed in a partition.
	VerbDeploy = "deploy"
	// VerbAllocate lets partitions be made out of the tenant's quota, in any cluster and of any kind.
	VerbAllocate = "allocate"
	// VerbStamp lets runs and requests be made in somebody else's name, and be marked as the platform's. No role has it:
	// the platform's own server has all verbs.
	VerbStamp = "stamp"
)

// Names of ClusterRoles on the hub.
const (
	hubPlatformAdmin  = "yunfan:platform-admin"
	hubTenantAdmin    = "yunfan:tenant-admin"
	hubTenantOperator = "yunfan:tenant-operator"
	hubTenantViewer   = "yunfan:tenant-viewer"
	hubTenantLimited  = "yunfan:tenant-limited"
	hubReader         = "yunfan:reader"
	hubEverybody      = "yunfan:authenticated"
)

// Names of ClusterRoles on members, and of the RoleBindings to them in each partition's namespace.
const (
	memberAdmin    = "yunfan-admin"
	memberOperator = "yunfan-operator"
	memberViewer   = "yunfan-viewer"
)

func on(apiGroup string, verbs []string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{apiGroup}, Resources: resources, Verbs: verbs}
}

func ours(verbs []string, resources ...string) rbacv1.PolicyRule {
	return on(group, verbs, resources...)
}

// made are the kinds that only the platform writes.
var made = []string{"applicationrevisions", "deliveries", "rollouts"}

// hubRoles is what each ClusterRole allows on the hub: all of it, and nothing else.
func hubRoles() map[string][]rbacv1.PolicyRule {
	events := []rbacv1.PolicyRule{on("", readVerbs, "events"), on("events.k8s.io", readVerbs, "events")}
	work := []string{"configurations", "applications"}
	carried := []string{"routes"} // they are of all partitions of an application, so limited members write none
	people := []string{"memberships", "usergroups"}
	// Begun and steered by people, and done by the platform.
	begun := []string{"workflowruns", "resourcerequests"}
	return map[string][]rbacv1.PolicyRule{
		hubPlatformAdmin: append([]rbacv1.PolicyRule{
			ours(writeVerbs, slices.Concat([]string{"clusters", "tenants", "partitions", "users", "directories", "settings", "products", "notificationproviders", "notificationreceivers", "workflows", "edges"},
				people, work, carried, begun)...),
			ours(decideVerbs, "approvals"),
			ours([]string{VerbDeploy, VerbAllocate}, "partitions"),
			ours(secretVerbs, "secrets"),
			// Whoever could make one could act as anybody: they come from signing in only.
			ours(append([]string{"delete", "deletecollection"}, readVerbs...), "sessions", "accesstokens"),
			ours(readVerbs, append([]string{"nodeports", "routehosts", "clusters/nodes", "health", "certificates", logs}, made...)...),
			on("", readVerbs, "namespaces"),
			{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}},
		}, events...),
		hubTenantAdmin: append([]rbacv1.PolicyRule{
			ours(writeVerbs, slices.Concat(people, work, carried, []string{"workflows", "notificationreceivers"})...),
			ours(steerVerbs, begun...),
			ours(decideVerbs, "approvals"),
			ours(secretVerbs, "secrets"),
			ours(append([]string{"create", "update", "patch", "delete", VerbDeploy}, readVerbs...), "partitions"),
			ours(readVerbs, append([]string{logs}, made...)...),
			on("", []string{"get"}, "namespaces"),
		}, events...),
		hubTenantOperator: append([]rbacv1.PolicyRule{
			ours(writeVerbs, slices.Concat([]string{"workflows"}, work, carried)...),
			ours(steerVerbs, begun...),
			ours(decideVerbs, "approvals"),
			ours(secretVerbs, "secrets"),
			ours(append([]string{VerbDeploy}, readVerbs...), "partitions"),
			ours(readVerbs, slices.Concat([]string{logs, "notificationreceivers"}, people, made)...),
			on("", []string{"get"}, "namespaces"),
		}, events...),
		hubTenantViewer: append([]rbacv1.PolicyRule{
			ours(readVerbs, slices.Concat([]string{"partitions", logs, "workflows", "approvals", "notificationreceivers"}, people, work, carried, begun, made)...),
			on("", []string{"get"}, "namespaces"),
		}, events...),
		// Where they may write it, admission asks for each partition. What they may read is found by the proxy, object
		// by object: a list would show what is in partitions that are not theirs.
		hubTenantLimited: {
			ours(blindVerbs, work...),
			ours([]string{"create", "update", "patch"}, begun...),
			ours([]string{"create"}, "approvals"),
			ours([]string{"get", "create", "update", "delete"}, "secrets"),
		},
		hubReader: {ours([]string{"get"}, slices.Concat([]string{"clusters", "tenants", "partitions", logs, "workflows", "approvals"}, work, carried, begun, made)...)},
		// The catalogue of what can be asked for.
		hubEverybody: {ours(readVerbs, "products")},
	}
}

// memberRoles is what each ClusterRole allows in a partition's namespace of a member. Whatever is delivered can be
// looked at, but secrets, and is changed through its Application only.
func memberRoles() map[string][]rbacv1.PolicyRule {
	look := []rbacv1.PolicyRule{
		on("", readVerbs, "pods", "pods/status", "pods/log", "events", "services", "endpoints", "configmaps", "persistentvolumeclaims",
			"replicationcontrollers", "replicationcontrollers/scale", "resourcequotas", "limitranges"),
		on("", []string{"get"}, "namespaces"),
		on("apps", readVerbs, "deployments", "deployments/scale", "statefulsets", "statefulsets/scale", "daemonsets", "replicasets", "controllerrevisions"),
		on("batch", readVerbs, "jobs", "cronjobs"),
		on("autoscaling", readVerbs, "horizontalpodautoscalers"),
		on("discovery.k8s.io", readVerbs, "endpointslices"),
		on("events.k8s.io", readVerbs, "events"),
		on("networking.k8s.io", readVerbs, "networkpolicies"),
		on("gateway.networking.k8s.io", readVerbs, "httproutes"),
		on("metrics.k8s.io", []string{"get", "list"}, "pods"),
	}
	act := append(slices.Clone(look),
		on("", []string{"delete"}, "pods"), // its workload starts another: a restart
		// Upgrades over WebSocket are GET requests, those over SPDY are POST.
		on("", []string{"get", "create"}, "pods/exec", "pods/attach", "pods/portforward"),
	)
	return map[string][]rbacv1.PolicyRule{memberAdmin: act, memberOperator: act, memberViewer: look}
}

// tenantBindings are the RoleBindings of a tenant's hub namespace, by name.
func tenantBindings(tenant string) map[string]binding {
	return map[string]binding{
		"yunfan-admin":    {hubTenantAdmin, v1alpha1.TenantGroup(tenant, v1alpha1.RoleAdmin)},
		"yunfan-operator": {hubTenantOperator, v1alpha1.TenantGroup(tenant, v1alpha1.RoleOperator)},
		"yunfan-viewer":   {hubTenantViewer, v1alpha1.TenantGroup(tenant, v1alpha1.RoleViewer)},
		"yunfan-limited":  {hubTenantLimited, v1alpha1.LimitedOperatorGroup(tenant)},
	}
}

type binding struct{ role, group string }

// hubRoleOf is the ClusterRole that a group has in the tenant's hub namespace; none if empty.
func hubRoleOf(name string, grant v1alpha1.Grant) string {
	switch {
	case grant.Limited && name == v1alpha1.LimitedOperatorGroup(grant.Tenant):
		return hubTenantLimited
	case grant.Limited:
		return ""
	}
	return map[v1alpha1.Role]string{
		v1alpha1.RoleAdmin: hubTenantAdmin, v1alpha1.RoleOperator: hubTenantOperator, v1alpha1.RoleViewer: hubTenantViewer,
	}[grant.Role]
}

// memberRoleOf is the ClusterRole of a role on members.
func memberRoleOf(role v1alpha1.Role) string { return "yunfan-" + strings.ToLower(string(role)) }
