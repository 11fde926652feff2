package nodeport

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"

	authorizationv1 "k8s.io/api/authorization/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// Routes give the list of ports in use: all of it to who may list node ports, the rows of their tenants to others.
func (p *Ports) Routes(authorizer *rest.Authorizer) []rest.Route {
	return []rest.Route{{Pattern: "GET /api/v1/ports", Handler: rest.Get(func(r *http.Request) (rest.Page[Row], error) {
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
