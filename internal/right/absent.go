package right

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// Absent answers for people who are not there now: those who asked for something that is done later, and those who are to
// be told of something.
type Absent struct {
	Index      *Index
	Authorizer *rest.Authorizer
}

// May says whether an actor may do now what attributes describe. What he might do when he asked does not count, nor
// does it for users who are gone or disabled. The hub's own users are asked about by their name alone.
func (a Absent) May(ctx context.Context, actor v1alpha1.Actor, attributes authorizationv1.ResourceAttributes) (bool, error) {
	user := rest.User{Name: actor.Name}
	if name, ours := strings.CutPrefix(actor.Name, v1alpha1.UserPrefix); ours {
		who := &v1alpha1.User{}
		err := a.Index.hub.Get(ctx, client.ObjectKey{Name: name}, who)
		switch {
		case apierrors.IsNotFound(err), err == nil && who.Spec.Disabled:
			return false, nil
		case err != nil:
			return false, fmt.Errorf("reading user %s: %w", name, err)
		}
		if user.Groups, err = a.Index.Groups(ctx, who); err != nil {
			return false, err
		}
	}
	return a.Authorizer.Allowed(rest.WithUser(ctx, user), attributes)
}

// PlatformAdministrators gives the names of the users who are, sorted; without those who are disabled.
func (a Absent) PlatformAdministrators(ctx context.Context) ([]string, error) {
	return a.users(ctx, func(u *v1alpha1.User) bool { return u.Spec.PlatformAdministrator })
}

// Members gives the names of the users who have a role in all of a tenant, by themselves or through a group, sorted;
// without those who are disabled.
func (a Absent) Members(ctx context.Context, tenant string, role v1alpha1.Role) ([]string, error) {
	var memberships v1alpha1.MembershipList
	if err := a.Index.hub.List(ctx, &memberships, client.InNamespace(tenant), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing the members of tenant %s: %w", tenant, err)
	}
	names, foreignGroups := map[string]bool{}, map[string]bool{}
	for i := range memberships.Items {
		m := &memberships.Items[i]
		subject := m.Spec.Subject
		switch {
		case m.Spec.Role != role || len(m.Spec.Partitions) > 0:
		case subject.Kind == v1alpha1.SubjectUser:
			names[subject.Name] = true
		case strings.Contains(subject.Name, ":"):
			foreignGroups[subject.Name] = foreign(subject.Name)
		default:
			group := &v1alpha1.UserGroup{}
			if err := a.Index.hub.Get(ctx, client.ObjectKey{Namespace: tenant, Name: subject.Name}, group); client.IgnoreNotFound(err) != nil {
				return nil, fmt.Errorf("reading group %s of tenant %s: %w", subject.Name, tenant, err)
			}
			for _, name := range group.Spec.Users {
				names[name] = true
			}
		}
	}
	if len(names) == 0 && len(foreignGroups) == 0 {
		return nil, nil
	}
	return a.users(ctx, func(u *v1alpha1.User) bool {
		return names[u.Name] || slices.ContainsFunc(u.Status.DirectoryGroups, func(group string) bool { return foreignGroups[group] })
	})
}

func (a Absent) users(ctx context.Context, wanted func(*v1alpha1.User) bool) ([]string, error) {
	var users v1alpha1.UserList
	if err := a.Index.hub.List(ctx, &users, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing users: %w", err)
	}
	var names []string
	for i := range users.Items {
		if u := &users.Items[i]; !u.Spec.Disabled && wanted(u) {
			names = append(names, u.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}
