package right

import (
	"context"
	"slices"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// scope is what is a user's own: tenants, and of those in which he is limited the partitions.
type scope struct {
	all    bool            // a platform administrator
	whole  map[string]bool // tenants
	partly map[string]map[string]bool
}

func scopeOf(user rest.User) scope {
	s := scope{whole: map[string]bool{}, partly: map[string]map[string]bool{}}
	for _, name := range user.Groups {
		s.all = s.all || name == v1alpha1.GroupPlatformAdmin
		grant, ok := v1alpha1.ParseGroup(name)
		switch {
		case !ok:
		case !grant.Limited:
			s.whole[grant.Tenant] = true
		default:
			if s.partly[grant.Tenant] == nil {
				s.partly[grant.Tenant] = map[string]bool{}
			}
			if grant.Partition != "" {
				s.partly[grant.Tenant][grant.Partition] = true
			}
		}
	}
	return s
}

func (s scope) partition(tenant, name string) bool {
	return s.all || s.whole[tenant] || s.partly[tenant][name]
}

// Own says whether attributes describe reading one object, by its name, that is the user's own: a cluster with a
// partition of his, his tenant, his partition, and what is in one. What does not exist in a limited member's tenant is
// nobody's, and may be asked for by all of them.
func (x *Index) Own(ctx context.Context, user rest.User, a authorizationv1.ResourceAttributes) bool {
	if a.Verb != "get" || a.Group != group || a.Name == "" || a.Subresource != "" && a.Resource+"/"+a.Subresource != logs {
		return false
	}
	s := scopeOf(user)
	switch a.Resource {
	case "tenants":
		return a.Namespace == "" && (s.whole[a.Name] || s.partly[a.Name] != nil)
	case "clusters":
		return a.Namespace == "" && x.clusters(ctx, s)[a.Name]
	case "partitions":
		return s.partition(a.Namespace, a.Name)
	}
	if s.partly[a.Namespace] == nil {
		return false // whoever is not limited has his role
	}
	key := client.ObjectKey{Namespace: a.Namespace, Name: a.Name}
	in := func(partition string) bool { return s.partition(a.Namespace, partition) }
	switch a.Resource {
	case "applications":
		return x.application(ctx, key, in, a.Subresource != "")
	case "configurations":
		c := &v1alpha1.Configuration{}
		found, err := x.get(ctx, key, c)
		return err == nil && (!found || c.Spec.Publication == v1alpha1.PublicationSelected && slices.ContainsFunc(c.Spec.Partitions, in))
	case "deliveries":
		d := &v1alpha1.Delivery{}
		found, err := x.get(ctx, key, d)
		return err == nil && found && in(d.Spec.Partition)
	case "applicationrevisions":
		r := &v1alpha1.ApplicationRevision{}
		found, err := x.get(ctx, key, r)
		return err == nil && found && x.application(ctx, client.ObjectKey{Namespace: a.Namespace, Name: r.Labels[v1alpha1.LabelApplication]}, in, false)
	case "rollouts":
		r := &v1alpha1.Rollout{}
		found, err := x.get(ctx, key, r)
		return err == nil && found && x.application(ctx, client.ObjectKey{Namespace: a.Namespace, Name: r.Spec.Application}, in, false)
	case "routes":
		r := &v1alpha1.Route{}
		found, err := x.get(ctx, key, r)
		return err == nil && (!found || x.carries(ctx, r, in))
	case "workflows":
		return true // whoever may start a run must see what it does
	}
	return x.begun(ctx, user.Name, key, a.Resource, in)
}

// carries says whether a Route leads to an application in one of the partitions.
func (x *Index) carries(ctx context.Context, r *v1alpha1.Route, in func(string) bool) bool {
	return slices.ContainsFunc(r.Spec.Rules, func(rule v1alpha1.RouteRule) bool {
		return slices.ContainsFunc(rule.Backends, func(b v1alpha1.RouteBackend) bool {
			return x.application(ctx, client.ObjectKey{Namespace: r.Namespace, Name: b.Application}, in, false)
		})
	})
}

// begun says whether a run, a request or an approval is of the user's own making, or a run is about an application in one
// of the partitions.
func (x *Index) begun(ctx context.Context, user string, key client.ObjectKey, resource string, in func(string) bool) bool {
	by := func(actor *v1alpha1.Actor) bool { return actor != nil && actor.Name == user }
	switch resource {
	case "workflowruns":
		r := &v1alpha1.WorkflowRun{}
		found, err := x.get(ctx, key, r)
		about := r.Labels[v1alpha1.LabelApplication]
		return err == nil && (!found || by(r.Spec.User) || about != "" && r.Labels[v1alpha1.LabelMadeBy] == v1alpha1.MadeByPlatform &&
			x.application(ctx, client.ObjectKey{Namespace: key.Namespace, Name: about}, in, false))
	case "resourcerequests":
		r := &v1alpha1.ResourceRequest{}
		found, err := x.get(ctx, key, r)
		return err == nil && (!found || by(r.Spec.User))
	case "approvals":
		a := &v1alpha1.Approval{}
		found, err := x.get(ctx, key, a)
		return err == nil && (!found || by(a.Spec.User))
	}
	return false
}

// logs are those of an application wherever it runs, put together by the platform: no API serves them.
const logs = "applications/log"

// application says whether an application is in one of the partitions, or only in them, or is not there.
func (x *Index) application(ctx context.Context, key client.ObjectKey, in func(string) bool, only bool) bool {
	app := &v1alpha1.Application{}
	found, err := x.get(ctx, key, app)
	if err != nil || !found {
		return err == nil
	}
	var partitions []string
	for _, p := range app.Status.Placements {
		partitions = append(partitions, p.Partition)
	}
	for _, choice := range app.Spec.Placement.Partitions {
		partitions = append(partitions, choice.Name) // empty for a selector, and then nobody's
	}
	if only {
		return !slices.ContainsFunc(partitions, func(p string) bool { return !in(p) })
	}
	return slices.ContainsFunc(partitions, in)
}

func (x *Index) get(ctx context.Context, key client.ObjectKey, o client.Object) (found bool, err error) {
	err = x.hub.Get(ctx, key, o, client.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// clusters gives those in which there is a partition of the scope's.
func (x *Index) clusters(ctx context.Context, s scope) map[string]bool {
	own := map[string]bool{}
	collect := func(tenant string, wanted func(string) bool) {
		var list v1alpha1.PartitionList
		if x.hub.List(ctx, &list, client.InNamespace(tenant), client.UnsafeDisableDeepCopy) != nil {
			return // the cache is always there once requests are answered
		}
		for i := range list.Items {
			if wanted(list.Items[i].Name) {
				own[list.Items[i].Spec.Cluster] = true
			}
		}
	}
	for tenant := range s.whole {
		collect(tenant, func(string) bool { return true })
	}
	for tenant, partitions := range s.partly {
		collect(tenant, func(name string) bool { return partitions[name] })
	}
	return own
}

// Clusters gives the clusters that a user may know of; all for platform administrators.
func (x *Index) Clusters(ctx context.Context, user rest.User) (all bool, names map[string]bool) {
	s := scopeOf(user)
	if s.all {
		return true, nil
	}
	return false, x.clusters(ctx, s)
}
