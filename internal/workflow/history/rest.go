package history

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/rest"
)

// resource is what runs are called where rights are asked for.
const resource = "workflowruns"

// API answers with runs, those of the hub and archived ones alike, their logs, and what waits for a decision.
type API struct {
	*History

	Authorizer *rest.Authorizer
	// Actions are those that workflows may use.
	Actions action.Catalogue
	// Namespace is where the platform's own runs are.
	Namespace string
}

// Routes are the API's.
func (a *API) Routes() []rest.Route {
	return []rest.Route{
		{Pattern: "GET /api/v1/workflow-runs", Handler: rest.Get(a.runs)},
		{Pattern: "GET /api/v1/workflow-actions", Handler: rest.Get(a.actions)},
		{Pattern: "GET /api/v1/approvals", Handler: rest.Get(a.inbox)},
		{Pattern: "GET /api/v1/tenants/{tenant}/workflow-runs/{name}", Handler: rest.Get(a.run)},
		{Pattern: "GET /api/v1/tenants/{tenant}/workflow-runs/{name}/steps/{step}/log", Handler: a.log, Stream: true},
	}
}

// runs lists runs of all tenants.
func (a *API) runs(r *http.Request) (rest.Page[Row], error) {
	q, err := parse(r.URL.Query())
	if err != nil {
		return rest.Page[Row]{}, err
	}
	if q.visible, err = a.visible(r.Context()); err != nil {
		return rest.Page[Row]{}, err
	}
	var list v1alpha1.WorkflowRunList
	if err := a.Hub.List(r.Context(), &list, client.UnsafeDisableDeepCopy); err != nil {
		return rest.Page[Row]{}, fmt.Errorf("listing runs: %w", err)
	}
	var live []Row
	for i := range list.Items {
		if row := rowOf(&list.Items[i]); q.visible.has(row.Tenant, row.User) {
			live = append(live, row)
		}
	}
	return a.list(r.Context(), live, q)
}

// visible is whose runs the request's user may see. Who is a member of some partitions of a tenant only sees there what he
// started himself.
func (a *API) visible(ctx context.Context) (scope, error) {
	all, err := a.Authorizer.Allowed(ctx, may("list", "", ""))
	if err != nil || all {
		return scope{all: all}, err
	}
	var tenants v1alpha1.TenantList
	if err := a.Hub.List(ctx, &tenants, client.UnsafeDisableDeepCopy); err != nil {
		return scope{}, fmt.Errorf("listing tenants: %w", err)
	}
	names := []string{a.Namespace}
	for i := range tenants.Items {
		names = append(names, tenants.Items[i].Name)
	}
	slices.Sort(names)
	s := a.own(ctx)
	s.tenants, err = a.Authorizer.Namespaces(ctx, may("list", "", ""), names)
	return s, err
}

// own is what the request's user may see because it is his own: the runs that he started in tenants that he belongs to.
func (a *API) own(ctx context.Context) scope {
	user := rest.UserOf(ctx)
	name, ours := user.OfPlatform()
	if !ours {
		return scope{}
	}
	s := scope{user: name}
	for _, group := range user.Groups {
		if grant, ok := v1alpha1.ParseGroup(group); ok {
			s.own = append(s.own, grant.Tenant)
		}
	}
	slices.Sort(s.own)
	s.own = slices.Compact(s.own)
	return s
}

func may(verb, tenant, name string) authorizationv1.ResourceAttributes {
	return authorizationv1.ResourceAttributes{Verb: verb, Group: v1alpha1.GroupVersion.Group, Resource: resource, Namespace: tenant, Name: name}
}

// Detail is a run with what was decided in it.
type Detail struct {
	Archived

	// Archived says that the run is no longer an object of the hub.
	IsArchived bool `json:"archived"`
}

// run gives one run: that of the hub, or the newest archived one of the name, or the one with the UID that is asked for.
func (a *API) run(r *http.Request) (*Detail, error) {
	for _, key := range slices.Sorted(maps.Keys(r.URL.Query())) {
		if key != "uid" {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("there is no %q: ask with uid", key))
		}
	}
	detail, err := a.find(r)
	if err != nil {
		return nil, err
	}
	if detail.IsArchived {
		return detail, nil
	}
	detail.Approvals, err = a.approvals(r.Context(), &detail.Run)
	detail.Run.ManagedFields = nil
	return detail, err
}

// find gives the run that a request names, if its user may see it.
func (a *API) find(r *http.Request) (*Detail, error) {
	ctx, tenant, name, uid := r.Context(), r.PathValue("tenant"), r.PathValue("name"), types.UID(r.URL.Query().Get("uid"))
	all, err := a.Authorizer.Allowed(ctx, may("list", tenant, ""))
	if err != nil {
		return nil, err
	}
	detail := &Detail{}
	err = a.Hub.Get(ctx, client.ObjectKey{Namespace: tenant, Name: name}, &detail.Run)
	if client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("reading run %s: %w", name, err)
	}
	if err != nil || uid != "" && detail.Run.UID != uid {
		archived, err := a.Find(ctx, tenant, name, uid)
		if err != nil {
			return nil, err
		}
		if archived == nil {
			return nil, errors.Join(a.Authorizer.Require(ctx, may("get", tenant, name)), rest.NotFound(resource, name))
		}
		detail = &Detail{Archived: *archived, IsArchived: true}
	}
	own := a.own(ctx)
	if all || own.has(tenant, userName(detail.Run.Spec.User)) {
		return detail, nil
	}
	if detail.IsArchived { // what one may see of an object that is gone cannot be asked
		return nil, a.Authorizer.Require(ctx, may("list", tenant, ""))
	}
	return detail, a.Authorizer.Require(ctx, may("get", tenant, name))
}

// Action is one that workflows may use.
type Action struct {
	action.Description

	// Timeout of one attempt if a step names none; none for those that wait for people.
	Timeout string `json:"timeout"`
}

var actionFields = []rest.Field[Action]{
	{Name: "name", Text: func(a Action) string { return a.Name }},
	{Name: "summary", Text: func(a Action) string { return a.Summary }},
	{Name: "internal", Text: func(a Action) string { return fmt.Sprint(a.Internal) }},
}

// actions lists what steps can do. That is no secret.
func (a *API) actions(r *http.Request) (rest.Page[Action], error) {
	var all []Action
	for _, one := range a.Actions {
		row := Action{Description: one.Describe()}
		switch row.Description.Timeout {
		case action.NoTimeout:
			row.Timeout = "none"
		case 0:
			row.Timeout = action.DefaultTimeout.String()
		default:
			row.Timeout = row.Description.Timeout.String()
		}
		all = append(all, row)
	}
	return rest.Paginate(all, r.URL.Query(), actionFields...)
}
