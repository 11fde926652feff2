package request

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/rest"
)

// Routes are the views of requests, of their ledger and of products.
func (r *Requests) Routes() []rest.Route {
	return []rest.Route{
		{Pattern: "GET /api/v1/resource-requests", Handler: rest.Get(r.list)},
		{Pattern: "GET /api/v1/tenants/{tenant}/resource-requests", Handler: rest.Get(r.list)},
		{Pattern: "GET /api/v1/tenants/{tenant}/resource-requests/{name}", Handler: rest.Get(r.get)},
		{Pattern: "GET /api/v1/tenants/{tenant}/resource-requests/{name}/form", Handler: r.form},
		{Pattern: "GET /api/v1/resource-ledger", Handler: r.account},
		{Pattern: "GET /api/v1/products", Handler: rest.Get(r.products)},
	}
}

func badRequest(format string, args ...any) error {
	return apierrors.NewBadRequest(fmt.Sprintf(format, args...))
}

// nameOf is the name of the request in the annotation of who carries a term.
func nameOf(holder string) string {
	name, _, _ := strings.Cut(holder, "/")
	return name
}

// Row is a request in a list.
type Row struct {
	Tenant      string                `json:"tenant"`
	Name        string                `json:"name"`
	Type        v1alpha1.RequestType  `json:"type"`
	Phase       v1alpha1.RequestPhase `json:"phase"`
	Message     string                `json:"message,omitempty"`
	Partition   string                `json:"partition"`
	Cluster     string                `json:"cluster,omitempty"`
	Environment string                `json:"environment,omitempty"`
	Project     string                `json:"projectGroup"`
	Applicant   string                `json:"applicant"`
	User        string                `json:"user"`
	Application string                `json:"application"`
	// Asked is what the request itself names; what its products have is in the ledger.
	Asked   corev1.ResourceList    `json:"asked,omitempty"`
	Items   []v1alpha1.RequestItem `json:"items,omitempty"`
	Granted corev1.ResourceList    `json:"granted,omitempty"`
	// Until is the end that was granted, before that the one asked for.
	Until     *metav1.Time `json:"until,omitempty"`
	By        []string     `json:"by,omitempty"`
	Comment   string       `json:"comment,omitempty"`
	Run       string       `json:"run,omitempty"`
	CreatedAt metav1.Time  `json:"createdAt"`
}

var fields = []rest.Field[Row]{
	{Name: "name", Text: func(r Row) string { return r.Name }},
	{Name: "tenant", Text: func(r Row) string { return r.Tenant }},
	{Name: "type", Text: func(r Row) string { return string(r.Type) }},
	{Name: "phase", Text: func(r Row) string { return string(r.Phase) }},
	{Name: "partition", Text: func(r Row) string { return r.Partition }},
	{Name: "cluster", Text: func(r Row) string { return r.Cluster }},
	{Name: "environment", Text: func(r Row) string { return r.Environment }},
	{Name: "projectGroup", Text: func(r Row) string { return r.Project }},
	{Name: "applicant", Text: func(r Row) string { return r.Applicant }},
	{Name: "user", Text: func(r Row) string { return r.User }},
	{Name: "application", Text: func(r Row) string { return r.Application }},
	{Name: "by", Texts: func(r Row) []string { return r.By }},
	{Name: "message", Text: func(r Row) string { return r.Message }},
	{Name: "until", Text: func(r Row) string { return timeText(r.Until) }},
	{
		Name: "createdAt", Text: func(r Row) string { return r.CreatedAt.UTC().Format(time.RFC3339) },
		Compare: func(a, b Row) int { return a.CreatedAt.Compare(b.CreatedAt.Time) },
	},
}

func rowOf(req *v1alpha1.ResourceRequest) Row {
	wanted, form := &req.Spec.Wanted, &req.Spec.Form
	row := Row{
		Tenant: req.Namespace, Name: req.Name, Type: wanted.Type, Phase: cmp.Or(req.Status.Phase, v1alpha1.RequestApplied), Message: req.Status.Message,
		Partition: wanted.Partition, Cluster: wanted.Cluster, Environment: wanted.Environment, Project: form.ProjectGroup, Applicant: form.Applicant,
		Application: form.Application, Asked: wanted.Quota, Items: wanted.Items, Until: wanted.Until, By: req.Status.By, Comment: req.Status.Comment,
		Run: req.Status.Run, CreatedAt: req.CreationTimestamp,
	}
	if req.Spec.User != nil {
		row.User = person(req.Spec.User)
	}
	if g := req.Status.Granted; g != nil {
		row.Cluster, row.Granted, row.Until = g.Cluster, g.Quota, g.Until
	}
	return row
}

func ask(verb, resource, namespace, name string) authorizationv1.ResourceAttributes {
	return authorizationv1.ResourceAttributes{Verb: verb, Group: v1alpha1.GroupVersion.Group, Resource: resource, Namespace: namespace, Name: name}
}

// list gives the requests of one tenant, or of all, that the user may see: those of tenants whose requests he may list,
// and of others those that he may get.
func (r *Requests) list(req *http.Request) (rest.Page[Row], error) {
	ctx, tenant := req.Context(), req.PathValue("tenant")
	var all v1alpha1.ResourceRequestList
	if err := r.client.List(ctx, &all, client.InNamespace(tenant), client.UnsafeDisableDeepCopy); err != nil {
		return rest.Page[Row]{}, fmt.Errorf("listing requests: %w", err)
	}
	var tenants []string
	for i := range all.Items {
		tenants = append(tenants, all.Items[i].Namespace)
	}
	slices.Sort(tenants)
	whole, err := r.Authorizer.Namespaces(ctx, ask("list", "resourcerequests", "", ""), slices.Compact(tenants))
	if err != nil {
		return rest.Page[Row]{}, err
	}
	// Questions about users of the platform are answered here; the hub is not asked about each request.
	_, limited := rest.UserOf(ctx).OfPlatform()
	var rows []Row
	for i := range all.Items {
		one := &all.Items[i]
		seen := slices.Contains(whole, one.Namespace)
		if !seen && limited {
			if seen, err = r.Authorizer.Allowed(ctx, ask("get", "resourcerequests", one.Namespace, one.Name)); err != nil {
				return rest.Page[Row]{}, err
			}
		}
		if seen {
			rows = append(rows, rowOf(one))
		}
	}
	if tenant != "" && len(rows) == 0 {
		// An empty list would say that there is nothing.
		if member, err := r.Authorizer.Allowed(ctx, ask("get", "tenants", "", tenant)); err != nil {
			return rest.Page[Row]{}, err
		} else if !member {
			if err := r.Authorizer.Require(ctx, ask("list", "resourcerequests", tenant, "")); err != nil {
				return rest.Page[Row]{}, err
			}
		}
	}
	return rest.Paginate(rows, req.URL.Query(), fields...)
}

// Detail is a request with all that is known of it.
type Detail struct {
	Request *v1alpha1.ResourceRequest `json:"request"`
	// Steps of its run; empty when that is only in the records any more.
	Steps []v1alpha1.StepStatus `json:"steps,omitempty"`
	// Ledger has everything that became of it.
	Ledger []LedgerRow `json:"ledger"`
	// Evidence is what was used over time, as it is now.
	Evidence *Evidence `json:"evidence,omitempty"`
	// Notes are what was found when it was checked.
	Notes []string `json:"notes,omitempty"`
	// Room is what the cluster has left, while nobody has decided. It is told to those who may list clusters.
	Room []string `json:"room,omitempty"`
}

// one reads a request that the user may see.
func (r *Requests) one(req *http.Request) (*v1alpha1.ResourceRequest, error) {
	tenant, name := req.PathValue("tenant"), req.PathValue("name")
	if err := r.Authorizer.Require(req.Context(), ask("get", "resourcerequests", tenant, name)); err != nil {
		return nil, err
	}
	out := &v1alpha1.ResourceRequest{}
	if err := r.client.Get(req.Context(), client.ObjectKey{Namespace: tenant, Name: name}, out); err != nil {
		return nil, fmt.Errorf("reading request %s: %w", name, err)
	}
	return out, nil
}

func (r *Requests) get(req *http.Request) (*Detail, error) {
	ctx := req.Context()
	one, err := r.one(req)
	if err != nil {
		return nil, err
	}
	d := &Detail{Request: one, Ledger: []LedgerRow{}}
	run, err := r.run(ctx, one)
	if err != nil {
		return nil, err
	}
	if run != nil {
		d.Steps = run.Status.Steps
		for i := range d.Steps {
			d.Steps[i].State = nil // no part of the API
		}
		for _, c := range stepsOf(run)["request.check"] {
			(&state{}).read(c.Outputs["notes"], &d.Notes)
		}
	}
	w := &where{}
	w.in("uid", []string{string(one.UID)})
	if d.Ledger, _, err = r.ledger.page(ctx, w, false, 0, maxLedgerPage); err != nil {
		return nil, err
	}
	found := &finding{}
	if one.Spec.Wanted.Type != v1alpha1.RequestNew || one.Status.Granted != nil {
		if found.partition, err = r.cachedPartition(ctx, one); err != nil {
			return nil, err
		}
	}
	if d.Evidence, err = r.evidence(ctx, one, found); err != nil {
		return nil, err
	}
	d.Room, err = r.room(ctx, one)
	return d, err
}

// room is what the cluster has left for a request on which nobody has decided, for those who may know.
func (r *Requests) room(ctx context.Context, req *v1alpha1.ResourceRequest) ([]string, error) {
	if req.Status.Phase != "" && req.Status.Phase != v1alpha1.RequestApplied {
		return nil, nil
	}
	if may, err := r.Authorizer.Allowed(ctx, ask("list", "clusters", "", "")); err != nil || !may {
		return nil, err
	}
	found, err := r.examine(ctx, r.client, req)
	if action.IsFailed(err) {
		return []string{err.Error()}, nil
	}
	if err != nil {
		return nil, err
	}
	return found.room, nil
}

func (r *Requests) cachedPartition(ctx context.Context, req *v1alpha1.ResourceRequest) (*v1alpha1.Partition, error) {
	p := &v1alpha1.Partition{}
	err := r.client.Get(ctx, client.ObjectKey{Namespace: req.Namespace, Name: req.Spec.Wanted.Partition}, p)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading partition %s: %w", req.Spec.Wanted.Partition, err)
	}
	return p, nil
}

// ProductRow is a product in the list.
type ProductRow struct {
	Name        string               `json:"name"`
	DisplayName string               `json:"displayName,omitempty"`
	Kind        v1alpha1.ProductKind `json:"kind"`
	CPU         string               `json:"cpu"`
	Memory      string               `json:"memory"`
	Description string               `json:"description,omitempty"`
	Available   bool                 `json:"available"`
}

var productFields = []rest.Field[ProductRow]{
	{Name: "name", Text: func(p ProductRow) string { return p.Name }},
	{Name: "displayName", Text: func(p ProductRow) string { return p.DisplayName }},
	{Name: "kind", Text: func(p ProductRow) string { return string(p.Kind) }},
	quantityField("cpu", func(p ProductRow) string { return p.CPU }),
	quantityField("memory", func(p ProductRow) string { return p.Memory }),
	{Name: "available", Text: func(p ProductRow) string { return strconv.FormatBool(p.Available) }},
}

// products are for everybody who is signed in.
func (r *Requests) products(req *http.Request) (rest.Page[ProductRow], error) {
	var all v1alpha1.ProductList
	if err := r.client.List(req.Context(), &all, client.UnsafeDisableDeepCopy); err != nil {
		return rest.Page[ProductRow]{}, fmt.Errorf("listing products: %w", err)
	}
	rows := make([]ProductRow, len(all.Items))
	for i := range all.Items {
		p := &all.Items[i]
		rows[i] = ProductRow{
			Name: p.Name, DisplayName: p.Spec.DisplayName, Kind: p.Spec.Kind, CPU: p.Spec.CPU.String(), Memory: p.Spec.Memory.String(),
			Description: p.Spec.Description, Available: p.Spec.Available == nil || *p.Spec.Available,
		}
	}
	return rest.Paginate(rows, req.URL.Query(), productFields...)
}

// quantityField sorts by quantity.
func quantityField(name string, text func(ProductRow) string) rest.Field[ProductRow] {
	return rest.Field[ProductRow]{Name: name, Text: text, Compare: func(a, b ProductRow) int {
		x, y := resource.MustParse(text(a)), resource.MustParse(text(b)) // as Kubernetes wrote them
		return x.Cmp(y)
	}}
}
