package secret

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	clientrest "k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// API is the endpoint. Who may use it is asked as for a resource "secrets" of our own group, which no API serves.
type API struct {
	// Live reads and writes the hub past any cache, as the platform.
	Live client.Client
	// HubConfig is the way to the hub's API as one who may act for others.
	HubConfig  *clientrest.Config
	Scheme     *runtime.Scheme
	Mapper     meta.RESTMapper
	Authorizer *rest.Authorizer
}

// New makes the API on the manager's hub.
func New(mgr manager.Manager, authorizer *rest.Authorizer) (*API, error) {
	live, err := client.New(mgr.GetConfig(), client.Options{Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
	if err != nil {
		return nil, fmt.Errorf("making the client of secrets: %w", err)
	}
	return &API{Live: live, HubConfig: mgr.GetConfig(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(), Authorizer: authorizer}, nil
}

// Routes are the API's.
func (a *API) Routes() []rest.Route {
	const one = " /api/v1/tenants/{tenant}/secrets/{name}"
	return []rest.Route{
		{Pattern: "GET /api/v1/tenants/{tenant}/secrets", Handler: rest.Get(a.list)},
		{Pattern: "POST /api/v1/tenants/{tenant}/secrets", Handler: rest.Get(func(r *http.Request) (*Row, error) { return a.put(r, create) })},
		{Pattern: "GET" + one, Handler: rest.Get(a.get)},
		{Pattern: "PUT" + one, Handler: rest.Get(func(r *http.Request) (*Row, error) { return a.put(r, replace) })},
		{Pattern: "PATCH" + one, Handler: rest.Get(func(r *http.Request) (*Row, error) { return a.put(r, merge) })},
		{Pattern: "DELETE" + one, Handler: rest.Get(a.remove)},
	}
}

var fields = []rest.Field[Row]{
	{Name: "name", Text: func(r Row) string { return r.Name }},
	{Name: "type", Text: func(r Row) string { return string(r.Type) }},
	{Name: "keys", Texts: func(r Row) []string { return r.Keys }},
	{Name: "registry", Text: func(r Row) string { return r.Registry }},
	{Name: "writtenBy", Text: func(r Row) string { return r.WrittenBy }},
	{Name: "ready", Text: func(r Row) string { return r.Ready }},
	{
		Name: "writtenAt", Text: func(r Row) string {
			if r.WrittenAt == nil {
				return ""
			}
			return r.WrittenAt.UTC().Format("2006-01-02T15:04:05Z")
		},
	},
}

func (a *API) may(ctx context.Context, verb, tenant, name string) error {
	return a.Authorizer.Require(ctx, authorizationv1.ResourceAttributes{
		Verb: verb, Group: v1alpha1.GroupVersion.Group, Resource: "secrets", Namespace: tenant, Name: name,
	})
}

func (a *API) list(r *http.Request) (rest.Page[Row], error) {
	tenant := r.PathValue("tenant")
	if err := a.may(r.Context(), "list", tenant, ""); err != nil {
		return rest.Page[Row]{}, err
	}
	rows, err := a.rows(r.Context(), tenant, "")
	if err != nil {
		return rest.Page[Row]{}, err
	}
	return rest.Paginate(rows, r.URL.Query(), fields...)
}

func (a *API) get(r *http.Request) (*Row, error) {
	tenant, name := r.PathValue("tenant"), r.PathValue("name")
	if err := a.may(r.Context(), "get", tenant, name); err != nil {
		return nil, err
	}
	return a.row(r.Context(), tenant, name)
}

func (a *API) row(ctx context.Context, tenant, name string) (*Row, error) {
	rows, err := a.rows(ctx, tenant, name)
	if err != nil {
		return nil, err
	}
	return &rows[0], nil
}

func (a *API) put(r *http.Request, way how) (*Row, error) {
	ctx, tenant, name := r.Context(), r.PathValue("tenant"), r.PathValue("name")
	in := &Input{}
	var large *http.MaxBytesError
	if err := rest.ReadBody(r, in); errors.As(err, &large) {
		return nil, fmt.Errorf("reading the values: %w", err)
	} else if err != nil { // The message of a parser may quote what it could not read.
		return nil, apierrors.NewBadRequest("the body cannot be read: it is an object with data, stringData, registry or tls, see docs/secrets.md")
	}
	switch {
	case way == create:
		name = in.Name
	case in.Name != "" && in.Name != name:
		return nil, apierrors.NewBadRequest("the body has another name than the path")
	}
	if name == "" {
		return nil, apierrors.NewBadRequest("the secret needs a name")
	}
	verb := map[how]string{create: "create", replace: "update", merge: "update"}[way]
	fact(ctx, tenant, name, verb)
	if err := a.may(ctx, verb, tenant, name); err != nil {
		return nil, err
	}
	if err := a.write(ctx, tenant, name, in, way); err != nil {
		return nil, err
	}
	return a.row(ctx, tenant, name)
}

// remove deletes the configuration; its versions go with it once no application runs with it.
func (a *API) remove(r *http.Request) (*Row, error) {
	ctx, tenant, name := r.Context(), r.PathValue("tenant"), r.PathValue("name")
	fact(ctx, tenant, name, "delete")
	if err := a.may(ctx, "delete", tenant, name); err != nil {
		return nil, err
	}
	row, err := a.row(ctx, tenant, name)
	if err != nil {
		return nil, err
	}
	as, err := a.as(ctx)
	if err != nil {
		return nil, err
	}
	c := &v1alpha1.Configuration{}
	c.Namespace, c.Name = tenant, name
	if err := as.Delete(ctx, c); err != nil {
		return nil, fmt.Errorf("deleting secret %s: %w", name, err)
	}
	return row, nil
}

// fact tells the audit what this is about; it never sees the body.
func fact(ctx context.Context, tenant, name, verb string) {
	facts := rest.FactsOf(ctx)
	facts.Tenant, facts.Resource, facts.Name, facts.Action = tenant, "secrets", name, verb
}

// as is a client of the hub in the name of the user.
func (a *API) as(ctx context.Context) (client.Client, error) {
	user := rest.UserOf(ctx)
	config := clientrest.CopyConfig(a.HubConfig)
	config.Impersonate = clientrest.ImpersonationConfig{UserName: user.Name, UID: user.UID, Groups: user.Groups, Extra: user.Extra}
	c, err := client.New(config, client.Options{Scheme: a.Scheme, Mapper: a.Mapper})
	if err != nil {
		return nil, fmt.Errorf("acting as %s: %w", user.Name, err)
	}
	return c, nil
}
