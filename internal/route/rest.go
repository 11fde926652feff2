package route

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/route/table"
)

// Routes are the views.
func (r *Routes) Routes() []rest.Route {
	return []rest.Route{
		{Pattern: "GET /api/v1/routes", Handler: rest.Get(r.listRoutes)},
		{Pattern: "GET /api/v1/tenants/{tenant}/routes", Handler: rest.Get(r.listRoutes)},
		{Pattern: "GET /api/v1/edges", Handler: rest.Get(r.listEdges)},
	}
}

// Row is a Route in a list.
type Row struct {
	Tenant string `json:"tenant"`
	Name   string `json:"name"`
	// Hosts that it is for; * for any.
	Hosts        []string `json:"hosts"`
	Applications []string `json:"applications"`
	// PlainHTTP says what requests without TLS get: Redirect or Serve.
	PlainHTTP   v1alpha1.PlainHTTP              `json:"plainHTTP"`
	Addresses   []string                        `json:"addresses,omitempty"`
	Certificate *v1alpha1.CertificateStatus     `json:"certificate,omitempty"`
	NotAfter    string                          `json:"notAfter,omitempty"`
	Partitions  []v1alpha1.RoutePartitionStatus `json:"partitions,omitempty"`
	// Targets are the partitions as each replica of each edge has them at this moment; empty on servers that do not lead.
	Targets   []TargetRow `json:"targets,omitempty"`
	Ready     string      `json:"ready"`
	Reason    string      `json:"reason,omitempty"`
	Message   string      `json:"message,omitempty"`
	CreatedAt metav1.Time `json:"createdAt"`
}

// TargetRow is a partition as one replica of an edge has it.
type TargetRow struct {
	Edge        string `json:"edge"`
	Endpoint    string `json:"endpoint"`
	Application string `json:"application"`
	// Partition as tenant/partition.
	Partition string                `json:"partition"`
	State     v1alpha1.TrafficState `json:"state"`
	// Probe is what the last probe that failed said.
	Probe string `json:"probe,omitempty"`
	// InFlight is the number of requests under way; -1 if the edge cannot tell.
	InFlight int `json:"inFlight"`
	// Requests and Failures are counted since this server leads.
	Requests uint64 `json:"requests"`
	Failures uint64 `json:"failures"`
}

var routeFields = []rest.Field[Row]{
	{Name: "name", Text: func(r Row) string { return r.Name }},
	{Name: "tenant", Text: func(r Row) string { return r.Tenant }},
	{Name: "hosts", Texts: func(r Row) []string { return r.Hosts }},
	{Name: "applications", Texts: func(r Row) []string { return r.Applications }},
	{Name: "plainHTTP", Text: func(r Row) string { return string(r.PlainHTTP) }},
	{Name: "notAfter", Text: func(r Row) string { return r.NotAfter }},
	{Name: "partitions", Texts: func(r Row) (texts []string) {
		for i := range r.Partitions {
			texts = append(texts, r.Partitions[i].Partition)
		}
		return texts
	}},
	{Name: "ready", Text: func(r Row) string { return r.Ready }},
	{Name: "reason", Text: func(r Row) string { return r.Reason }},
	{
		Name: "createdAt", Text: func(r Row) string { return r.CreatedAt.UTC().Format("2006-01-02T15:04:05Z") },
		Compare: func(a, b Row) int { return a.CreatedAt.Compare(b.CreatedAt.Time) },
	},
}

// listRoutes gives the Routes that the user may see: those of tenants whose Routes he may list, and of other tenants
// those that he may get.
func (r *Routes) listRoutes(req *http.Request) (rest.Page[Row], error) {
	var list v1alpha1.RouteList
	if err := r.client.List(req.Context(), &list, client.InNamespace(req.PathValue("tenant")), client.UnsafeDisableDeepCopy); err != nil {
		return rest.Page[Row]{}, fmt.Errorf("listing routes: %w", err)
	}
	tenants := map[string]bool{}
	for i := range list.Items {
		tenants[list.Items[i].Namespace] = true
	}
	names := make([]string, 0, len(tenants))
	for name := range tenants {
		names = append(names, name)
	}
	slices.Sort(names)
	may := authorizationv1.ResourceAttributes{Verb: "list", Group: v1alpha1.GroupVersion.Group, Resource: "routes"}
	whole, err := r.o.Authorizer.Namespaces(req.Context(), may, names)
	if err != nil {
		return rest.Page[Row]{}, err
	}
	// Questions about users of the platform are answered here; the hub is not asked about each Route.
	_, limited := rest.UserOf(req.Context()).OfPlatform()
	rows := make([]Row, 0, len(list.Items))
	live := r.edges.targets()
	for i := range list.Items {
		route := &list.Items[i]
		seen := slices.Contains(whole, route.Namespace)
		if !seen && limited {
			may.Verb, may.Namespace, may.Name = "get", route.Namespace, route.Name
			if seen, err = r.o.Authorizer.Allowed(req.Context(), may); err != nil {
				return rest.Page[Row]{}, err
			}
		}
		if seen {
			row := routeRow(route)
			row.Targets = live[client.ObjectKeyFromObject(route)]
			rows = append(rows, row)
		}
	}
	return rest.Paginate(rows, req.URL.Query(), routeFields...)
}

func routeRow(route *v1alpha1.Route) Row {
	row := Row{
		Tenant: route.Namespace, Name: route.Name, Hosts: hostsOf(route), Applications: applicationsOf(route), PlainHTTP: v1alpha1.PlainHTTPServe,
		Addresses: route.Status.Addresses, Certificate: route.Status.Certificate, Partitions: route.Status.Partitions,
		Ready: string(metav1.ConditionUnknown), CreatedAt: route.CreationTimestamp,
	}
	if Redirects(route) {
		row.PlainHTTP = v1alpha1.PlainHTTPRedirect
	}
	if row.Certificate != nil && row.Certificate.NotAfter != nil {
		row.NotAfter = row.Certificate.NotAfter.UTC().Format("2006-01-02T15:04:05Z")
	}
	if c := meta.FindStatusCondition(route.Status.Conditions, v1alpha1.ConditionReady); c != nil {
		row.Ready, row.Reason, row.Message = string(c.Status), c.Reason, c.Message
	}
	return row
}

// EdgeRow is one replica of an Edge in a list.
type EdgeRow struct {
	Edge      string              `json:"edge"`
	Driver    v1alpha1.EdgeDriver `json:"driver"`
	Endpoint  string              `json:"endpoint"`
	Addresses []string            `json:"addresses,omitempty"`
	Program   string              `json:"program,omitempty"`
	// Serving says whether it serves the newest table.
	Serving bool `json:"serving"`
	// Message says why it does not.
	Message string `json:"message,omitempty"`
	// Unsupported is what of the Routes it cannot do.
	Unsupported []string `json:"unsupported,omitempty"`
	// InFlight is the number of requests under way there, and Targets what they are made of; empty on servers that do not
	// lead.
	InFlight int         `json:"inFlight"`
	Targets  []TargetRow `json:"targets,omitempty"`
}

var edgeFields = []rest.Field[EdgeRow]{
	{Name: "edge", Text: func(r EdgeRow) string { return r.Edge }},
	{Name: "endpoint", Text: func(r EdgeRow) string { return r.Endpoint }},
	{Name: "driver", Text: func(r EdgeRow) string { return string(r.Driver) }},
	{Name: "program", Text: func(r EdgeRow) string { return r.Program }},
	{Name: "serving", Text: func(r EdgeRow) string { return strconv.FormatBool(r.Serving) }},
	{Name: "message", Text: func(r EdgeRow) string { return r.Message }},
	{
		Name: "inFlight", Text: func(r EdgeRow) string { return strconv.Itoa(r.InFlight) },
		Compare: func(a, b EdgeRow) int { return cmp.Compare(a.InFlight, b.InFlight) },
	},
}

// listEdges gives the replicas of all Edges to those who may list Edges.
func (r *Routes) listEdges(req *http.Request) (rest.Page[EdgeRow], error) {
	may := authorizationv1.ResourceAttributes{Verb: "list", Group: v1alpha1.GroupVersion.Group, Resource: "edges"}
	if err := r.o.Authorizer.Require(req.Context(), may); err != nil {
		return rest.Page[EdgeRow]{}, err
	}
	var list v1alpha1.EdgeList
	if err := r.client.List(req.Context(), &list, client.UnsafeDisableDeepCopy); err != nil {
		return rest.Page[EdgeRow]{}, fmt.Errorf("listing edges: %w", err)
	}
	live := r.edges.targets()
	rows := []EdgeRow{}
	for i := range list.Items {
		e := &list.Items[i]
		for _, endpoint := range e.Spec.Endpoints {
			row := EdgeRow{Edge: e.Name, Driver: e.Spec.Driver, Endpoint: endpoint, Addresses: e.Spec.Addresses}
			status, unsupported := r.edges.replicaStatus(replicaKey{e.Name, endpoint})
			for _, told := range e.Status.Replicas { // by the server that leads
				if told.Endpoint == endpoint && r.edges.current() == nil {
					status = told
				}
			}
			row.Program, row.Serving, row.Message, row.Unsupported = status.Program, status.Serving, status.Message, unsupported
			for _, targets := range live {
				for _, t := range targets {
					if t.Edge == e.Name && t.Endpoint == endpoint {
						row.Targets = append(row.Targets, t)
						row.InFlight += max(0, t.InFlight)
					}
				}
			}
			slices.SortFunc(row.Targets, compareTargets)
			rows = append(rows, row)
		}
	}
	return rest.Paginate(rows, req.URL.Query(), edgeFields...)
}

func compareTargets(a, b TargetRow) int {
	return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Application, b.Application), cmp.Compare(a.Edge, b.Edge), cmp.Compare(a.Endpoint, b.Endpoint))
}

// targets gives, by Route, what replicas have of its partitions.
func (e *Edges) targets() map[client.ObjectKey][]TargetRow {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[client.ObjectKey][]TargetRow{}
	if e.newest == nil {
		return out
	}
	for _, r := range e.sorted() {
		for i := range r.state.Targets {
			t := &r.state.Targets[i]
			name := parsePool(t.Pool)
			partition, known := e.newest.partitions[t.Target]
			if !known || strings.HasSuffix(t.Pool, restSuffix) {
				continue
			}
			key := client.ObjectKey{Namespace: name.tenant, Name: name.route}
			sum := r.sums[stateKey{t.Pool, t.Target}]
			out[key] = append(out[key], TargetRow{
				Edge: r.key.edge, Endpoint: r.key.endpoint, Application: name.application, Partition: partition.String(), State: seenAs(t), Probe: t.Probe,
				InFlight: t.InFlight, Requests: sum.requests, Failures: sum.failures,
			})
		}
	}
	for _, rows := range out {
		slices.SortFunc(rows, compareTargets)
	}
	return out
}

func seenAs(t *table.TargetState) v1alpha1.TrafficState {
	switch {
	case t.Closed:
		return v1alpha1.TrafficClosed
	case !t.Up:
		return v1alpha1.TrafficDown
	}
	return v1alpha1.TrafficOpen
}
