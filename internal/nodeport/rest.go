package nodeport

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"strconv"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
	"yunfan.io/yunfan/internal/rest"
)

// Routes give the list of ports in use: all of it to who may list node ports, the rows of their tenants to others.
func (p *Ports) Routes(authorizer *rest.Authorizer) []rest.Route {
	return []rest.Route{{Pattern: "GET /api/v1/ports/{cluster}/{port}", Handler: rest.Get(func(r *http.Request) (*Answer, error) {
		return p.ask(r, authorizer)
	})}, {Pattern: "GET /api/v1/ports", Handler: rest.Get(func(r *http.Request) (rest.Page[Row], error) {
		rows, err := p.List(r.Context())
		if err != nil {
			return rest.Page[Row]{}, err
		}
		if rows, err = authorized(r, authorizer, rows); err != nil {
			return rest.Page[Row]{}, err
		}
		return rest.Paginate(rows, r.URL.Query(), fields...)
	})}}
}

// Answer says whether an application can have a node port.
type Answer struct {
	Cluster string `json:"cluster"`
	Port    int32  `json:"port"`
	Free    bool   `json:"free"`
	// Message says who has it.
	Message string `json:"message,omitempty"`
}

// ask answers at once, while somebody types, for ?tenant=…&application=…: who may see the applications of that tenant.
func (p *Ports) ask(r *http.Request, authorizer *rest.Authorizer) (*Answer, error) {
	tenant, application := r.URL.Query().Get("tenant"), r.URL.Query().Get("application")
	port, err := strconv.ParseUint(r.PathValue("port"), 10, 16)
	if err != nil || tenant == "" {
		return nil, apierrors.NewBadRequest("ask for /api/v1/ports/CLUSTER/PORT?tenant=TENANT, with &application=NAME for one that has ports already")
	}
	if err := authorizer.Require(r.Context(), authorizationv1.ResourceAttributes{
		Verb: "list", Group: v1alpha1.GroupVersion.Group, Resource: "applications", Namespace: tenant,
	}); err != nil {
		return nil, err
	}
	answer := &Answer{Cluster: r.PathValue("cluster"), Port: int32(port)}
	err = p.Check(r.Context(), []v1alpha1.NodePortSpec{{
		Cluster: answer.Cluster, Port: answer.Port, Owner: v1alpha1.NodePortOwner{Tenant: tenant, Application: application},
	}})
	if taken, ok := errors.AsType[*reconcile.Stalled](err); ok {
		answer.Message = taken.Error()
		return answer, nil
	}
	answer.Free = err == nil
	return answer, err
}

var fields = []rest.Field[Row]{
	{Name: "port", Text: func(r Row) string { return strconv.Itoa(int(r.Port)) }, Compare: func(a, b Row) int { return cmp.Compare(a.Port, b.Port) }},
	{Name: "cluster", Text: func(r Row) string { return r.Cluster }},
	{Name: "namespace", Text: func(r Row) string { return r.Namespace }},
	{Name: "service", Text: func(r Row) string { return r.Service }},
	{Name: "address", Text: func(r Row) string { return r.Address }},
	{Name: "tenant", Text: func(r Row) string { return r.Tenant }},
	{Name: "application", Text: func(r Row) string { return r.Application }},
	{Name: "component", Text: func(r Row) string { return r.Component }},
	{Name: "partition", Text: func(r Row) string { return r.Partition }},
	{Name: "external", Text: func(r Row) string { return strconv.FormatBool(r.External) }},
}

// authorized leaves out the rows that the user may not see.
func authorized(r *http.Request, authorizer *rest.Authorizer, rows []Row) ([]Row, error) {
	group := v1alpha1.GroupVersion.Group
	all, err := authorizer.Allowed(r.Context(), authorizationv1.ResourceAttributes{Verb: "list", Group: group, Resource: "nodeports"})
	if err != nil || all {
		return rows, err
	}
	var tenants []string
	for i := range rows {
		if rows[i].Tenant != "" {
			tenants = append(tenants, rows[i].Tenant)
		}
	}
	slices.Sort(tenants)
	allowed, err := authorizer.Namespaces(r.Context(),
		authorizationv1.ResourceAttributes{Verb: "list", Group: group, Resource: "applications"}, slices.Compact(tenants))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(rows, func(row Row) bool { return !slices.Contains(allowed, row.Tenant) }), nil
}
