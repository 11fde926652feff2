package v1alpha1

import "strings"

// Groups as which the platform acts for its users on the hub and on members. Names in them have no colons, so that none
// can be mistaken for another.
const (
	// UserPrefix stands before the name of a User wherever a Kubernetes API sees him.
	UserPrefix = "yunfan:"
	// GroupAuthenticated has everybody who is signed in.
	GroupAuthenticated = "yunfan:authenticated"
	// GroupPlatformAdmin has the platform administrators.
	GroupPlatformAdmin = "yunfan:platform-admin"
	// GroupReader is added to a single request that reads one object which the proxy has found to be the user's own.
	GroupReader = "yunfan:reader"

	tenantGroup    = "yunfan:tenant:"
	partitionGroup = "yunfan:partition:"
	limited        = "limited"
)

// PlainName is the name of a user for people, from the one by which Kubernetes knows him: that of the User object, where it
// is one of the platform's. Others are named as they are.
func PlainName(name string) string { return strings.TrimPrefix(name, UserPrefix) }

// TenantGroup has those with a role in the whole of a tenant.
func TenantGroup(tenant string, role Role) string { return tenantGroup + tenant + ":" + lower(role) }

// LimitedGroup has those whose roles in a tenant are limited to some of its partitions.
func LimitedGroup(tenant string) string { return tenantGroup + tenant + ":" + limited }

// LimitedOperatorGroup has those of LimitedGroup who are Operator in at least one partition.
func LimitedOperatorGroup(tenant string) string {
	return tenantGroup + tenant + ":" + limited + "-" + lower(RoleOperator)
}

// PartitionGroup has those with a role in one partition of a tenant.
func PartitionGroup(tenant, partition string, role Role) string {
	return partitionGroup + tenant + ":" + partition + ":" + lower(role)
}

func lower(role Role) string { return strings.ToLower(string(role)) }

// Grant is what being in a group means: a role in a tenant, or in one partition of it.
type Grant struct {
	Tenant string
	// Partition is empty for a role in the whole tenant.
	Partition string
	// Role is empty in the groups of limited members, which only say that there is something in the tenant for them.
	Role Role
	// Limited says that the group is one of limited members.
	Limited bool
}

// ParseGroup reads a tenant's or partition's group; false for any other.
func ParseGroup(group string) (Grant, bool) {
	if rest, ok := strings.CutPrefix(group, tenantGroup); ok {
		tenant, name, _ := strings.Cut(rest, ":")
		if name == limited || name == limited+"-"+lower(RoleOperator) {
			return Grant{Tenant: tenant, Limited: true}, tenant != ""
		}
		role, known := parseRole(name)
		return Grant{Tenant: tenant, Role: role}, known && tenant != ""
	}
	rest, ok := strings.CutPrefix(group, partitionGroup)
	parts := strings.Split(rest, ":")
	if !ok || len(parts) != 3 || parts[0] == "" || parts[1] == "" {
		return Grant{}, false
	}
	role, known := parseRole(parts[2])
	return Grant{Tenant: parts[0], Partition: parts[1], Role: role, Limited: true}, known && role != RoleAdmin
}

func parseRole(text string) (Role, bool) {
	switch text {
	case "admin":
		return RoleAdmin, true
	case "operator":
		return RoleOperator, true
	case "viewer":
		return RoleViewer, true
	}
	return "", false
}
