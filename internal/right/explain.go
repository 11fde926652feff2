package right

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// Answer says whether somebody may do something, by which rule, or what is missing.
type Answer struct {
	Allowed bool `json:"allowed"`
	// Role that decides, such as Operator of tenant edu.
	Role string `json:"role,omitempty"`
	// Group through which the role comes, as the Kubernetes APIs see it.
	Group string `json:"group,omitempty"`
	// Rule is the ClusterRole that has the verb.
	Rule string `json:"rule,omitempty"`
	// Memberships that give the role, as <tenant>/<name>.
	Memberships []string `json:"memberships,omitempty"`
	// Missing is what is needed and who gives it, if it is not allowed.
	Missing string `json:"missing,omitempty"`
}

// views are the lists over all tenants and clusters.
var views = map[string]string{
	"clusters": "GET /api/v1/clusters", "tenants": "GET /api/v1/tenants", "partitions": "GET /api/v1/partitions", "applications": "GET /api/v1/applications",
}

// Answer says whether groups may do on the hub, or on a cluster if it is given, what attributes describe.
func (x *Index) Answer(ctx context.Context, user rest.User, cluster string, a authorizationv1.ResourceAttributes) Answer {
	if cluster != "" {
		return x.answerOnMember(ctx, user, cluster, a)
	}
	if role, through := hubRole(user.Groups, &a); role != "" {
		return Answer{Allowed: true, Role: inWords(through), Group: through, Rule: role}
	}
	if deploys(user.Groups, &a) {
		through := v1alpha1.PartitionGroup(a.Namespace, a.Name, v1alpha1.RoleOperator)
		return Answer{Allowed: true, Role: inWords(through), Group: through, Rule: policyApplications}
	}
	if x.Own(ctx, user, a) {
		return Answer{Allowed: true, Role: "reading by name what is one's own", Group: v1alpha1.GroupReader, Rule: hubReader}
	}
	return Answer{Missing: x.missingOnHub(user, a)}
}

func (x *Index) answerOnMember(ctx context.Context, user rest.User, cluster string, a authorizationv1.ResourceAttributes) Answer {
	s := scopeOf(user)
	if s.all {
		return Answer{Allowed: true, Role: inWords(v1alpha1.GroupPlatformAdmin), Group: v1alpha1.GroupPlatformAdmin, Rule: "cluster-admin"}
	}
	p, err := x.partitionAt(ctx, cluster, a.Namespace)
	if err != nil || a.Namespace == "" || p == nil || !s.partition(p.Namespace, p.Name) {
		where := fmt.Sprintf("namespace %s of cluster %s is not one of your partitions", a.Namespace, cluster)
		if a.Namespace == "" {
			where = fmt.Sprintf("outside namespaces nothing of cluster %s is yours: give the namespace of a partition", cluster)
		}
		return Answer{Missing: where + ": ask an Admin of the tenant to which it belongs, or a platform administrator"}
	}
	if role, through := memberRole(user.Groups, p.Namespace, p.Name, &a); role != "" {
		return Answer{Allowed: true, Role: inWords(through), Group: through, Rule: role}
	}
	for _, role := range []v1alpha1.Role{v1alpha1.RoleViewer, v1alpha1.RoleOperator, v1alpha1.RoleAdmin} {
		if allows(onMember[memberRoleOf(role)], &a) {
			return Answer{Missing: fmt.Sprintf("it needs the role %s in partition %s of tenant %s, which an Admin of the tenant gives", role, p.Name, p.Namespace)}
		}
	}
	if a.Resource == "secrets" {
		return Answer{Missing: "nobody reads secrets back, and they are written through the platform only"}
	}
	return Answer{Missing: "no role of a tenant has it on members: what is delivered there is changed through its Application"}
}

func (x *Index) missingOnHub(user rest.User, a authorizationv1.ResourceAttributes) string {
	view := ""
	if views[a.Resource] != "" && (a.Verb == "list" || a.Verb == "watch") {
		view = fmt.Sprintf(". %s lists those that are yours", views[a.Resource])
	}
	if a.Namespace != "" {
		for _, role := range []v1alpha1.Role{v1alpha1.RoleViewer, v1alpha1.RoleOperator, v1alpha1.RoleAdmin} {
			if allows(onHub[hubRoleOf("", v1alpha1.Grant{Role: role})], &a) {
				return fmt.Sprintf("%s and it needs %s, which an Admin of the tenant gives%s", roleIn(user, a.Namespace), role, view)
			}
		}
	}
	switch {
	case allows(onHub[hubPlatformAdmin], &a):
		return "it is for platform administrators: ask one of them" + view
	case a.Group == "" && a.Resource == "secrets":
		return "nobody reads the hub's secrets"
	case a.Group == group && (a.Resource == "deliveries" || a.Resource == "applicationrevisions"):
		return "the platform alone writes it: change the Application instead"
	case a.Group == group && a.Resource == "rollouts":
		return "the platform alone writes it: change the Application to begin one, and pause, retry or abort its WorkflowRun"
	case a.Group == group && a.Resource == "routehosts":
		return "the platform alone writes it: name the host in a Route"
	case a.Group == group && a.Resource == "approvals":
		return "an approval is what somebody said: nobody changes or deletes it"
	case a.Group == group && a.Verb == VerbStamp:
		return "the platform alone does something in the name of others"
	}
	return "no role of the platform has it"
}

// roleIn says in words what somebody is in a tenant.
func roleIn(user rest.User, tenant string) string {
	var roles []string
	for _, name := range user.Groups {
		grant, ok := v1alpha1.ParseGroup(name)
		switch {
		case !ok || grant.Tenant != tenant || grant.Role == "":
		case grant.Partition != "":
			roles = append(roles, fmt.Sprintf("%s in partition %s", grant.Role, grant.Partition))
		default:
			roles = append(roles, string(grant.Role))
		}
	}
	if len(roles) == 0 {
		return fmt.Sprintf("you have no role in tenant %s,", tenant)
	}
	slices.Sort(roles)
	const most = 5
	if len(roles) > most {
		roles = append(roles[:most], "…")
	}
	return fmt.Sprintf("your role in tenant %s is %s,", tenant, strings.Join(roles, ", "))
}

// inWords says what a group means.
func inWords(name string) string {
	switch name {
	case v1alpha1.GroupPlatformAdmin:
		return "platform administrator"
	case v1alpha1.GroupAuthenticated:
		return "everybody who is signed in"
	}
	grant, ok := v1alpha1.ParseGroup(name)
	switch {
	case !ok:
		return name
	case grant.Partition != "":
		return fmt.Sprintf("%s of partition %s of tenant %s", grant.Role, grant.Partition, grant.Tenant)
	case grant.Limited:
		return fmt.Sprintf("%s in some partitions of tenant %s", v1alpha1.RoleOperator, grant.Tenant)
	}
	return fmt.Sprintf("%s of tenant %s", grant.Role, grant.Tenant)
}

// Why says what is missing for what was refused; empty if nothing of the roles is.
func (x *Index) Why(ctx context.Context, user rest.User, cluster string, a authorizationv1.ResourceAttributes) string {
	return x.Answer(ctx, user, cluster, a).Missing
}

// through gives the Memberships by which a user is in a group, as <tenant>/<name>.
func (x *Index) through(ctx context.Context, user *v1alpha1.User, name string) []string {
	grant, ok := v1alpha1.ParseGroup(name)
	memberships, err := x.memberships(ctx, user)
	if !ok || err != nil {
		return nil
	}
	var names []string
	for _, m := range memberships {
		limited := len(m.Spec.Partitions) > 0
		sameRole := grant.Role == m.Spec.Role || grant.Role == "" && m.Spec.Role == v1alpha1.RoleOperator
		if m.Namespace == grant.Tenant && limited == grant.Limited && sameRole &&
			(grant.Partition == "" || slices.Contains(m.Spec.Partitions, grant.Partition)) {
			names = append(names, m.Namespace+"/"+m.Name)
		}
	}
	slices.Sort(names)
	return names
}
