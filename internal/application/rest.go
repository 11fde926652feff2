package application

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// parallelPreviews is the number of partitions asked at the same time for one preview.
const parallelPreviews = 16

// DryRun says what a delivery would change in a partition, without doing it.
type DryRun func(ctx context.Context, partition *v1alpha1.Partition, revision *v1alpha1.ApplicationRevision,
	spec v1alpha1.DeliverySpec, inventory []v1alpha1.InventoryEntry) (changes any, err error)

// API answers what the hub's own API cannot: lists over all tenants, an application with the state of its components,
// and previews.
type API struct {
	// Hub is read from the cache. It is written to in dry runs only.
	Hub        client.Client
	Authorizer *rest.Authorizer
	DryRun     DryRun
}

// Routes are the API's.
func (a *API) Routes() []rest.Route {
	return []rest.Route{
		{Pattern: "GET /api/v1/applications", Handler: rest.Get(a.list)},
		{Pattern: "GET /api/v1/tenants/{tenant}/applications", Handler: rest.Get(a.list)},
		{Pattern: "GET /api/v1/tenants/{tenant}/applications/{name}", Handler: rest.Get(a.get)},
		{Pattern: "POST /api/v1/tenants/{tenant}/preview", Handler: rest.Get(a.preview)},
	}
}

// Row is an application in a list.
type Row struct {
	Tenant      string      `json:"tenant"`
	Name        string      `json:"name"`
	Version     string      `json:"version,omitempty"`
	Description string      `json:"description,omitempty"`
	Ready       string      `json:"ready"`
	Reason      string      `json:"reason,omitempty"`
	Message     string      `json:"message,omitempty"`
	ReadyPods   int32       `json:"readyPods"`
	Pods        int32       `json:"pods"`
	Stopped     bool        `json:"stopped,omitempty"`
	Revision    string      `json:"revision,omitempty"`
	Partitions  []string    `json:"partitions,omitempty"`
	Clusters    []string    `json:"clusters,omitempty"`
	CreatedAt   metav1.Time `json:"createdAt"`
}

var fields = []rest.Field[Row]{
	{Name: "name", Text: func(r Row) string { return r.Name }},
	{Name: "tenant", Text: func(r Row) string { return r.Tenant }},
	{Name: "version", Text: func(r Row) string { return r.Version }},
	{Name: "description", Text: func(r Row) string { return r.Description }},
	{Name: "ready", Text: func(r Row) string { return r.Ready }},
	{Name: "reason", Text: func(r Row) string { return r.Reason }},
	{Name: "revision", Text: func(r Row) string { return r.Revision }},
	{Name: "partition", Texts: func(r Row) []string { return r.Partitions }},
	{Name: "cluster", Texts: func(r Row) []string { return r.Clusters }},
	{
		Name: "pods", Text: func(r Row) string { return fmt.Sprintf("%d/%d", r.ReadyPods, r.Pods) },
		Compare: func(a, b Row) int { return cmp.Compare(a.Pods, b.Pods) },
	},
	{
		Name: "createdAt", Text: func(r Row) string { return r.CreatedAt.UTC().Format("2006-01-02T15:04:05Z") },
		Compare: func(a, b Row) int { return a.CreatedAt.Compare(b.CreatedAt.Time) },
	},
}

// list gives the applications of one tenant, or of all those in which the user may list applications.
func (a *API) list(r *http.Request) (rest.Page[Row], error) {
	list := &v1alpha1.ApplicationList{}
	tenant := r.PathValue("tenant")
	if err := a.Hub.List(r.Context(), list, client.InNamespace(tenant), client.UnsafeDisableDeepCopy); err != nil {
		return rest.Page[Row]{}, fmt.Errorf("listing applications: %w", err)
	}
	may := authorizationv1.ResourceAttributes{Verb: "list", Group: v1alpha1.GroupVersion.Group, Resource: "applications", Namespace: tenant}
	// Questions about users of the platform are answered here; the hub is not asked about each application.
	_, limited := rest.UserOf(r.Context()).OfPlatform()
	if tenant != "" && !limited {
		if err := a.Authorizer.Require(r.Context(), may); err != nil {
			return rest.Page[Row]{}, err
		}
		return rest.Paginate(rows(list.Items), r.URL.Query(), fields...)
	}
	var tenants []string
	for i := range list.Items {
		tenants = append(tenants, list.Items[i].Namespace)
	}
	slices.Sort(tenants)
	allowed, err := a.Authorizer.Namespaces(r.Context(), may, slices.Compact(tenants))
	if err != nil {
		return rest.Page[Row]{}, err
	}
	all := slices.DeleteFunc(rows(list.Items), func(row Row) bool {
		if limited && !slices.Contains(allowed, row.Tenant) {
			one := may
			one.Verb, one.Namespace, one.Name = "get", row.Tenant, row.Name
			seen, failed := a.Authorizer.Allowed(r.Context(), one)
			err = errors.Join(err, failed)
			return !seen
		}
		return !slices.Contains(allowed, row.Tenant)
	})
	if err != nil {
		return rest.Page[Row]{}, err
	}
	if tenant != "" && len(all) == 0 {
		if err := a.member(r, tenant); err != nil {
			return rest.Page[Row]{}, err
		}
	}
	return rest.Paginate(all, r.URL.Query(), fields...)
}

// member refuses who has nothing in the tenant: an empty list would say that there is nothing.
func (a *API) member(r *http.Request, tenant string) error {
	may := authorizationv1.ResourceAttributes{Verb: "list", Group: v1alpha1.GroupVersion.Group, Resource: "applications", Namespace: tenant}
	some, err := a.Authorizer.Allowed(r.Context(), authorizationv1.ResourceAttributes{
		Verb: "get", Group: v1alpha1.GroupVersion.Group, Resource: "tenants", Name: tenant,
	})
	if err != nil || some {
		return err
	}
	return a.Authorizer.Require(r.Context(), may)
}

func rows(applications []v1alpha1.Application) []Row {
	all := make([]Row, len(applications))
	for i := range applications {
		app := &applications[i]
		row := Row{
			Tenant: app.Namespace, Name: app.Name, Version: app.Spec.Version, Description: app.Spec.Description, Ready: string(metav1.ConditionUnknown),
			Stopped: app.Spec.Stopped, Revision: app.Status.Revision, CreatedAt: app.CreationTimestamp,
		}
		if c := meta.FindStatusCondition(app.Status.Conditions, v1alpha1.ConditionReady); c != nil {
			row.Ready, row.Reason, row.Message = string(c.Status), c.Reason, c.Message
		}
		for _, p := range app.Status.Placements {
			row.Pods, row.ReadyPods = row.Pods+p.Desired, row.ReadyPods+p.Ready
			row.Partitions = append(row.Partitions, p.Partition)
			if !slices.Contains(row.Clusters, p.Cluster) {
				row.Clusters = append(row.Clusters, p.Cluster)
			}
		}
		all[i] = row
	}
	return all
}

// Detail is an application with the state of its components in each partition.
type Detail struct {
	Application *v1alpha1.Application                 `json:"application"`
	Components  map[string][]v1alpha1.ComponentStatus `json:"components"`
}

func (a *API) get(r *http.Request) (*Detail, error) {
	tenant, name := r.PathValue("tenant"), r.PathValue("name")
	if err := a.Authorizer.Require(r.Context(), authorizationv1.ResourceAttributes{
		Verb: "get", Group: v1alpha1.GroupVersion.Group, Resource: "applications", Namespace: tenant, Name: name,
	}); err != nil {
		return nil, err
	}
	app := &v1alpha1.Application{}
	if err := a.Hub.Get(r.Context(), client.ObjectKey{Namespace: tenant, Name: name}, app); err != nil {
		return nil, fmt.Errorf("reading application %s: %w", name, err)
	}
	deliveries := &v1alpha1.DeliveryList{}
	if err := a.Hub.List(r.Context(), deliveries, client.InNamespace(tenant), client.MatchingLabels{v1alpha1.LabelApplication: name}); err != nil {
		return nil, fmt.Errorf("reading the deliveries of application %s: %w", name, err)
	}
	detail := &Detail{Application: app, Components: map[string][]v1alpha1.ComponentStatus{}}
	for i := range deliveries.Items {
		d := &deliveries.Items[i]
		for _, track := range d.Status.Tracks {
			detail.Components[d.Spec.Partition] = append(detail.Components[d.Spec.Partition], track.Components...)
		}
	}
	return detail, nil
}

// Preview is what an application would change in each partition.
type Preview struct {
	// Revision it would run.
	Revision string `json:"revision"`
	// Approval are the partitions that it reaches only after somebody else has approved it.
	Approval   []string           `json:"approval,omitempty"`
	Partitions []PartitionPreview `json:"partitions"`
}

// PartitionPreview is what it would change in one partition.
type PartitionPreview struct {
	Partition string `json:"partition"`
	Cluster   string `json:"cluster"`
	// Explanation says why the partition gets its numbers of replicas.
	Explanation []string `json:"explanation,omitempty"`
	// Removed says that the application would leave the partition.
	Removed bool `json:"removed,omitempty"`
	Changes any  `json:"changes,omitempty"`
	// QOSClasses are those that the pods of each component get.
	QOSClasses map[string]corev1.PodQOSClass `json:"qosClasses,omitempty"`
	// Error says why it cannot be told what would change.
	Error string `json:"error,omitempty"`
}

// preview answers with what the application in the body would change. Who may not write it may not try it, either.
func (a *API) preview(r *http.Request) (*Preview, error) {
	app := &v1alpha1.Application{}
	if err := rest.ReadBody(r, app); err != nil {
		return nil, err
	}
	tenant := r.PathValue("tenant")
	if app.Namespace != "" && app.Namespace != tenant {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the application's namespace is %s, the tenant asked for %s", app.Namespace, tenant))
	}
	if app.Name == "" {
		return nil, apierrors.NewBadRequest("the application has no name")
	}
	app.Namespace = tenant
	for _, verb := range []string{"create", "update"} {
		if err := a.Authorizer.Require(r.Context(), authorizationv1.ResourceAttributes{
			Verb: verb, Group: v1alpha1.GroupVersion.Group, Resource: "applications", Namespace: tenant, Name: app.Name,
		}); err != nil {
			return nil, err
		}
	}
	if err := a.deployable(r.Context(), app); err != nil {
		return nil, err
	}
	if err := a.complete(r.Context(), app); err != nil {
		return nil, err
	}
	plan, err := NewPlan(r.Context(), a.Hub, app)
	if err != nil {
		return nil, err
	}
	return a.try(r.Context(), app, plan)
}

// deployable refuses to show what would be in partitions in which the user may not deploy, as admission of the hub
// refuses to put it there: the hub is asked as the platform itself.
func (a *API) deployable(ctx context.Context, app *v1alpha1.Application) error {
	for _, choice := range app.Spec.Placement.Partitions {
		if err := a.Authorizer.Require(ctx, authorizationv1.ResourceAttributes{
			Verb: "deploy", Group: v1alpha1.GroupVersion.Group, Resource: "partitions", Namespace: app.Namespace, Name: choice.Name,
		}); err != nil {
			return err
		}
	}
	return nil
}

// complete makes of a manifest what the hub would store of it, with defaults and checked by the schema, and gives it the
// status of the application that is there: where replicas are now decides where they will be.
func (a *API) complete(ctx context.Context, app *v1alpha1.Application) error {
	manifest := app.DeepCopy()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		live := &v1alpha1.Application{}
		err := a.Hub.Get(ctx, client.ObjectKeyFromObject(manifest), live)
		manifest.DeepCopyInto(app)
		if apierrors.IsNotFound(err) {
			return a.Hub.Create(ctx, app, client.DryRunAll)
		} else if err != nil {
			return err
		}
		app.UID, app.ResourceVersion = live.UID, live.ResourceVersion
		return a.Hub.Update(ctx, app, client.DryRunAll)
	})
	if apierrors.IsForbidden(err) {
		// Our own webhook refuses what is unsound: the plan says so with a reason of its own.
		if _, unsound := NewPlan(ctx, a.Hub, manifest); unsound != nil {
			return unsound
		}
	}
	if err != nil {
		return fmt.Errorf("completing application %s: %w", manifest.Name, err)
	}
	return nil
}

// try asks every partition at once. One that cannot be asked has its error in its place.
func (a *API) try(ctx context.Context, app *v1alpha1.Application, plan *Plan) (*Preview, error) {
	existing := &v1alpha1.DeliveryList{}
	if err := a.Hub.List(ctx, existing, client.InNamespace(app.Namespace), client.MatchingLabels{v1alpha1.LabelApplication: app.Name}); err != nil {
		return nil, fmt.Errorf("reading the deliveries of application %s: %w", app.Name, err)
	}
	inventory := map[string][]v1alpha1.InventoryEntry{}
	for i := range existing.Items {
		inventory[existing.Items[i].Spec.Partition] = existing.Items[i].Status.Inventory
	}
	p := &Preview{Revision: plan.Revision.Name, Approval: plan.Approval, Partitions: make([]PartitionPreview, len(plan.Deliveries))}
	var group errgroup.Group
	group.SetLimit(parallelPreviews)
	for i := range plan.Deliveries {
		group.Go(func() error {
			p.Partitions[i] = a.tryOne(ctx, app.Namespace, plan, i, inventory[plan.Deliveries[i].Spec.Partition])
			return nil
		})
	}
	_ = group.Wait() // errors are in the previews
	for i := range existing.Items {
		d := &existing.Items[i]
		if !slices.ContainsFunc(plan.Deliveries, func(stays v1alpha1.Delivery) bool { return stays.Spec.Partition == d.Spec.Partition }) {
			p.Partitions = append(p.Partitions, PartitionPreview{Partition: d.Spec.Partition, Cluster: d.Spec.Cluster, Removed: true, Changes: removal(d)})
		}
	}
	slices.SortFunc(p.Partitions, func(a, b PartitionPreview) int { return strings.Compare(a.Partition, b.Partition) })
	return p, nil
}

func (a *API) tryOne(ctx context.Context, tenant string, plan *Plan, i int, inventory []v1alpha1.InventoryEntry) PartitionPreview {
	spec := plan.Deliveries[i].Spec
	preview := PartitionPreview{Partition: spec.Partition, Cluster: spec.Cluster, Explanation: plan.Assignments[i].Explanation}
	partition := &v1alpha1.Partition{}
	err := a.Hub.Get(ctx, client.ObjectKey{Namespace: tenant, Name: spec.Partition}, partition)
	if err == nil {
		preview.QOSClasses = qosClasses(plan.Revision, partition)
		preview.Changes, err = a.DryRun(ctx, partition, plan.Revision, spec, inventory)
	}
	if err != nil {
		preview.Error = err.Error()
	}
	return preview
}

// removal lists what would be removed from a partition that the application leaves.
func removal(d *v1alpha1.Delivery) []map[string]string {
	var changes []map[string]string
	for _, entry := range d.Status.Inventory {
		changes = append(changes, map[string]string{"component": entry.Component, "kind": entry.Kind, "name": entry.Name, "action": "Remove"})
	}
	return changes
}
