package right

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Indexes of the hub's cache.
const (
	bySubject   = "right.subject"
	byUser      = "right.user"
	byNamespace = "right.memberNamespace"
)

// maxGroups bounds the groups of one user: a request carries each as a header.
const maxGroups = 1500

// Index knows the members of all tenants. It reads the hub's cache by indexes only, so a question costs what the user
// has, not what the platform has.
type Index struct{ hub client.Reader }

// NewIndex makes an index over the hub's cache.
func NewIndex(ctx context.Context, hub client.Reader, indexer client.FieldIndexer) (*Index, error) {
	for _, one := range []struct {
		object client.Object
		field  string
		keys   client.IndexerFunc
	}{
		{&v1alpha1.Membership{}, bySubject, func(o client.Object) []string { return []string{subjectKey(o.(*v1alpha1.Membership))} }},
		{&v1alpha1.UserGroup{}, byUser, func(o client.Object) []string { return o.(*v1alpha1.UserGroup).Spec.Users }},
		{&v1alpha1.Partition{}, byNamespace, func(o client.Object) []string {
			p := o.(*v1alpha1.Partition)
			return []string{p.Spec.Cluster + "/" + p.MemberNamespace()}
		}},
	} {
		if err := indexer.IndexField(ctx, one.object, one.field, one.keys); err != nil {
			return nil, fmt.Errorf("indexing %T: %w", one.object, err)
		}
	}
	return &Index{hub}, nil
}

// subjectKey is how a Membership is found by who has it. A group of a tenant is another one in each tenant.
func subjectKey(m *v1alpha1.Membership) string {
	s := m.Spec.Subject
	switch {
	case s.Kind == v1alpha1.SubjectUser:
		return "u/" + s.Name
	case strings.Contains(s.Name, ":"):
		return "d/" + s.Name
	}
	return "g/" + m.Namespace + "/" + s.Name
}

// Memberships gives those that a user has, by himself or through a group. They are shared: never change them.
func (x *Index) memberships(ctx context.Context, user *v1alpha1.User) ([]*v1alpha1.Membership, error) {
	var groups v1alpha1.UserGroupList
	if err := x.hub.List(ctx, &groups, client.MatchingFields{byUser: user.Name}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("looking up the groups of user %s: %w", user.Name, err)
	}
	keys := []string{"u/" + user.Name}
	for i := range groups.Items {
		keys = append(keys, "g/"+groups.Items[i].Namespace+"/"+groups.Items[i].Name)
	}
	for _, name := range user.Status.DirectoryGroups {
		if foreign(name) {
			keys = append(keys, "d/"+name)
		}
	}
	found := map[types.UID]*v1alpha1.Membership{}
	for _, key := range keys {
		var list v1alpha1.MembershipList
		if err := x.hub.List(ctx, &list, client.MatchingFields{bySubject: key}, client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("looking up the memberships of user %s: %w", user.Name, err)
		}
		for i := range list.Items {
			found[list.Items[i].UID] = &list.Items[i]
		}
	}
	return slices.Collect(maps.Values(found)), nil
}

// foreign says whether a directory's group is one that counts: not one that looks like the platform's or Kubernetes'.
func foreign(name string) bool {
	_, group, ok := strings.Cut(name, ":")
	return ok && !strings.HasPrefix(group, "system:") && !strings.HasPrefix(group, "yunfan:")
}

// Groups gives the groups as which a user acts, sorted. They are found anew each time: a change of a Membership or a
// UserGroup counts from the next request on.
func (x *Index) Groups(ctx context.Context, user *v1alpha1.User) ([]string, error) {
	memberships, err := x.memberships(ctx, user)
	if err != nil {
		return nil, err
	}
	groups := map[string]bool{v1alpha1.GroupAuthenticated: true}
	if user.Spec.PlatformAdministrator {
		groups[v1alpha1.GroupPlatformAdmin] = true
	}
	for _, m := range memberships {
		tenant, role := m.Namespace, m.Spec.Role
		if len(m.Spec.Partitions) == 0 {
			groups[v1alpha1.TenantGroup(tenant, role)] = true
			continue
		}
		if role == v1alpha1.RoleAdmin {
			continue // the API refuses such a Membership
		}
		groups[v1alpha1.LimitedGroup(tenant)] = true
		if role == v1alpha1.RoleOperator {
			groups[v1alpha1.LimitedOperatorGroup(tenant)] = true
		}
		for _, partition := range m.Spec.Partitions {
			groups[v1alpha1.PartitionGroup(tenant, partition, role)] = true
		}
	}
	all := slices.Sorted(maps.Keys(groups))
	return all[:min(len(all), maxGroups)], nil
}

// partitionAt finds the partition that a namespace of a cluster belongs to; nil if there is none.
func (x *Index) partitionAt(ctx context.Context, cluster, namespace string) (*v1alpha1.Partition, error) {
	var list v1alpha1.PartitionList
	err := x.hub.List(ctx, &list, client.MatchingFields{byNamespace: cluster + "/" + namespace}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("looking for the partition of namespace %s of cluster %s: %w", namespace, cluster, err)
	}
	for i := range list.Items {
		if p := &list.Items[i]; p.Status.Namespace == namespace && namespace != corev1.NamespaceDefault {
			return p, nil
		}
	}
	return nil, nil
}
