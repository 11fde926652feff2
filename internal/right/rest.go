package right

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// API answers whether somebody may do something, and why not.
type API struct {
	// Hub is the cache.
	Hub        client.Reader
	Index      *Index
	Authorizer *rest.Authorizer
}

// Routes are the API's.
func (a *API) Routes() []rest.Route {
	return []rest.Route{{Pattern: "POST /api/v1/access-review", Handler: rest.Get(a.review)}}
}

// Question is what somebody wants to do.
type Question struct {
	// User who wants it; whoever asks if empty. Others are asked for by platform administrators, and by Admins for
	// members of their tenant.
	User string `json:"user,omitempty"`
	Verb string `json:"verb"`
	// Group of the API; that of the resource if it is one of the platform's or a usual one of Kubernetes.
	Group *string `json:"group,omitempty"`
	// Resource in the plural, with a subresource behind a slash: pods/exec.
	Resource string `json:"resource"`
	Name     string `json:"name,omitempty"`
	// Tenant in whose hub namespace it is. On a cluster, Namespace is that of the cluster.
	Tenant    string `json:"tenant,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	// Partition of the tenant, in place of cluster and namespace.
	Partition string `json:"partition,omitempty"`
	// Cluster on which it is; the hub if empty.
	Cluster string `json:"cluster,omitempty"`
}

// groupsOfResources are the API groups of what people ask for without saying the group.
var groupsOfResources = map[string]string{
	"deployments": "apps", "statefulsets": "apps", "daemonsets": "apps", "replicasets": "apps", "jobs": "batch", "cronjobs": "batch",
	"horizontalpodautoscalers": "autoscaling", "endpointslices": "discovery.k8s.io", "networkpolicies": "networking.k8s.io", "ingresses": "networking.k8s.io", "httproutes": "gateway.networking.k8s.io",
	"roles": "rbac.authorization.k8s.io", "rolebindings": "rbac.authorization.k8s.io",
	"clusterroles": "rbac.authorization.k8s.io", "clusterrolebindings": "rbac.authorization.k8s.io",
}

// platform are the resources of the platform's own group.
var platform = []string{
	"clusters", "tenants", "memberships", "usergroups", "partitions", "configurations", "applications", "applicationrevisions",
	"deliveries", "nodeports", "users", "directories", "sessions", "accesstokens", "settings", "secrets",
	"workflows", "workflowruns", "approvals", "resourcerequests", "products", "notificationreceivers", "notificationproviders",
	"routes", "routehosts", "edges", "rollouts",
}

func (q *Question) attributes() authorizationv1.ResourceAttributes {
	resource, sub, _ := strings.Cut(strings.ToLower(q.Resource), "/")
	a := authorizationv1.ResourceAttributes{Verb: strings.ToLower(q.Verb), Resource: resource, Subresource: sub, Name: q.Name, Namespace: q.Namespace}
	switch {
	case q.Group != nil:
		a.Group = *q.Group
	case q.Cluster == "" && slices.Contains(platform, resource):
		a.Group = group
	default:
		a.Group = groupsOfResources[resource]
	}
	if q.Cluster == "" && q.Tenant != "" {
		a.Namespace = q.Tenant
	}
	return a
}

func (a *API) review(r *http.Request) (Answer, error) {
	q := Question{}
	if err := rest.ReadBody(r, &q); err != nil {
		return Answer{}, err
	}
	if q.Verb == "" || q.Resource == "" {
		return Answer{}, apierrors.NewBadRequest("say verb and resource, such as create applications")
	}
	if q.Partition != "" && q.Cluster == "" && !strings.HasPrefix(strings.ToLower(q.Resource), "partitions") {
		p := &v1alpha1.Partition{}
		if err := a.Hub.Get(r.Context(), client.ObjectKey{Namespace: q.Tenant, Name: q.Partition}, p); err == nil {
			q.Cluster, q.Namespace = p.Spec.Cluster, p.MemberNamespace()
		}
	}
	user, who, err := a.subject(r.Context(), &q)
	if err != nil {
		return Answer{}, err
	}
	answer := a.Index.Answer(r.Context(), user, q.Cluster, q.attributes())
	if answer.Allowed && who != nil {
		answer.Memberships = a.Index.through(r.Context(), who, answer.Group)
	}
	return answer, nil
}

// subject is whose rights are asked for.
func (a *API) subject(ctx context.Context, q *Question) (rest.User, *v1alpha1.User, error) {
	asks := rest.UserOf(ctx)
	own, ours := asks.OfPlatform()
	if q.User == "" || ours && q.User == own {
		who := &v1alpha1.User{}
		if !ours {
			return asks, nil, apierrors.NewBadRequest("users of the hub ask it with kubectl auth can-i: this answers for users of the platform")
		}
		if err := a.Hub.Get(ctx, client.ObjectKey{Name: own}, who); err != nil {
			return asks, nil, fmt.Errorf("reading user %s: %w", own, err)
		}
		return asks, who, nil
	}
	if err := a.mayAskFor(ctx, asks, q); err != nil {
		return asks, nil, err
	}
	refused := aboutOthers(q.User)
	tenantOnly := ours && !scopeOf(asks).all
	who := &v1alpha1.User{}
	if err := a.Hub.Get(ctx, client.ObjectKey{Name: q.User}, who); err != nil {
		if tenantOnly {
			return asks, nil, refused // who exists is told to nobody
		}
		return asks, nil, fmt.Errorf("reading user %s: %w", q.User, err)
	}
	groups, err := a.Index.Groups(ctx, who)
	if err != nil {
		return asks, nil, err
	}
	user := rest.User{Name: v1alpha1.UserPrefix + who.Name, Groups: groups}
	if of := scopeOf(user); tenantOnly && (!of.whole[q.Tenant] && of.partly[q.Tenant] == nil || of.all) {
		return asks, nil, refused
	}
	return user, who, nil
}

func aboutOthers(user string) error {
	return apierrors.NewForbidden(schema.GroupResource{Group: group, Resource: "users"}, user,
		fmt.Errorf("for others, platform administrators ask, and Admins for members of their tenant and what is in it (give the tenant)"))
}

// mayAskFor lets platform administrators ask everything, and Admins what is in their tenant: what somebody may in
// others is not theirs to know.
func (a *API) mayAskFor(ctx context.Context, asks rest.User, q *Question) error {
	switch _, ours := asks.OfPlatform(); {
	case !ours:
		return a.Authorizer.Require(ctx, authorizationv1.ResourceAttributes{Verb: "list", Group: group, Resource: "users"})
	case scopeOf(asks).all:
		return nil
	case q.Tenant == "" || !slices.Contains(asks.Groups, v1alpha1.TenantGroup(q.Tenant, v1alpha1.RoleAdmin)):
		return aboutOthers(q.User)
	case q.Cluster == "" && q.attributes().Namespace == q.Tenant:
		return nil
	}
	if p, err := a.Index.partitionAt(ctx, q.Cluster, q.Namespace); q.Cluster != "" && err == nil && p != nil && p.Namespace == q.Tenant {
		return nil
	}
	return aboutOthers(q.User)
}
