package tenant

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// API gives the list of tenants.
type API struct {
	// Hub is the cache.
	Hub        client.Reader
	Authorizer *rest.Authorizer
}

// Routes are the API's.
func (a *API) Routes() []rest.Route {
	return []rest.Route{{Pattern: "GET /api/v1/tenants", Handler: rest.Get(a.list)}}
}

// Row is a tenant in a list.
type Row struct {
	Tenant      string `json:"tenant"`
	DisplayName string `json:"displayName,omitempty"`
	// Quota of the tenant, what of it was given to partitions and what is left to give.
	Quota corev1.ResourceList `json:"quota,omitempty"`
	Given corev1.ResourceList `json:"given,omitempty"`
	Left  corev1.ResourceList `json:"left,omitempty"`
	// Hard and Used are the sums over the tenant's partitions, as their clusters enforce and count them.
	Hard corev1.ResourceList `json:"hard,omitempty"`
	Used corev1.ResourceList `json:"used,omitempty"`
	// Partitions and RunningPods are numbers.
	Partitions  int         `json:"partitions"`
	RunningPods int32       `json:"runningPods"`
	Clusters    []string    `json:"clusters,omitempty"`
	WithinQuota string      `json:"withinQuota"`
	Ready       string      `json:"ready"`
	Reason      string      `json:"reason,omitempty"`
	Message     string      `json:"message,omitempty"`
	CreatedAt   metav1.Time `json:"createdAt"`
}

var fields = []rest.Field[Row]{
	{Name: "tenant", Text: func(r Row) string { return r.Tenant }},
	{Name: "displayName", Text: func(r Row) string { return r.DisplayName }},
	{Name: "cluster", Texts: func(r Row) []string { return r.Clusters }},
	{Name: "ready", Text: func(r Row) string { return r.Ready }},
	{Name: "withinQuota", Text: func(r Row) string { return r.WithinQuota }},
	{
		Name: "partitions", Text: func(r Row) string { return strconv.Itoa(r.Partitions) },
		Compare: func(a, b Row) int { return cmp.Compare(a.Partitions, b.Partitions) },
	},
	{
		Name: "runningPods", Text: func(r Row) string { return strconv.Itoa(int(r.RunningPods)) },
		Compare: func(a, b Row) int { return cmp.Compare(a.RunningPods, b.RunningPods) },
	},
	{
		Name: "createdAt", Text: func(r Row) string { return r.CreatedAt.UTC().Format("2006-01-02T15:04:05Z") },
		Compare: func(a, b Row) int { return a.CreatedAt.Compare(b.CreatedAt.Time) },
	},
}

// list gives the tenants that the user may get: all, or his own.
func (a *API) list(r *http.Request) (rest.Page[Row], error) {
	ctx := r.Context()
	var tenants v1alpha1.TenantList
	if err := a.Hub.List(ctx, &tenants, client.UnsafeDisableDeepCopy); err != nil {
		return rest.Page[Row]{}, fmt.Errorf("listing tenants: %w", err)
	}
	may, err := a.may(ctx)
	if err != nil {
		return rest.Page[Row]{}, err
	}
	rows := map[string]*Row{}
	for i := range tenants.Items {
		t := &tenants.Items[i]
		visible, err := may(t.Name)
		if err != nil {
			return rest.Page[Row]{}, err
		}
		if visible {
			rows[t.Name] = rowOf(t)
		}
	}
	var partitions v1alpha1.PartitionList
	if err := a.Hub.List(ctx, &partitions, client.UnsafeDisableDeepCopy); err != nil {
		return rest.Page[Row]{}, fmt.Errorf("listing partitions: %w", err)
	}
	for i := range partitions.Items {
		if row := rows[partitions.Items[i].Namespace]; row != nil {
			row.add(&partitions.Items[i])
		}
	}
	all := make([]Row, 0, len(rows))
	for _, row := range rows {
		slices.Sort(row.Clusters)
		all = append(all, *row)
	}
	return rest.Paginate(all, r.URL.Query(), fields...)
}

// may gives the question whether the user may see a tenant. Only about users of the platform is it asked tenant by
// tenant: those questions are answered here, and not by the hub.
func (a *API) may(ctx context.Context) (func(tenant string) (bool, error), error) {
	attributes := authorizationv1.ResourceAttributes{Verb: "list", Group: v1alpha1.GroupVersion.Group, Resource: "tenants"}
	all, err := a.Authorizer.Allowed(ctx, attributes)
	if err != nil {
		return nil, err
	}
	_, ours := rest.UserOf(ctx).OfPlatform()
	return func(tenant string) (bool, error) {
		if all || !ours {
			return all, nil
		}
		one := attributes
		one.Verb, one.Name = "get", tenant
		return a.Authorizer.Allowed(ctx, one)
	}, nil
}

func rowOf(t *v1alpha1.Tenant) *Row {
	row := &Row{
		Tenant: t.Name, DisplayName: t.Spec.DisplayName, Quota: t.Spec.Quota, Given: Given(t), Left: corev1.ResourceList{},
		Hard: corev1.ResourceList{}, Used: corev1.ResourceList{}, WithinQuota: state(t, v1alpha1.ConditionWithinQuota),
		Ready: state(t, v1alpha1.ConditionReady), CreatedAt: t.CreationTimestamp,
	}
	for name, q := range v1alpha1.NormalizedQuota(t.Spec.Quota) {
		left := q.DeepCopy()
		left.Sub(row.Given[name])
		row.Left[name] = left
	}
	for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionWithinQuota} {
		if c := meta.FindStatusCondition(t.Status.Conditions, kind); c != nil && c.Status != metav1.ConditionTrue {
			row.Reason, row.Message = c.Reason, c.Message
			break
		}
	}
	return row
}

func state(t *v1alpha1.Tenant, kind string) string {
	if c := meta.FindStatusCondition(t.Status.Conditions, kind); c != nil {
		return string(c.Status)
	}
	return string(metav1.ConditionUnknown)
}

func (r *Row) add(p *v1alpha1.Partition) {
	r.Partitions++
	r.RunningPods += p.Status.Pods
	if !slices.Contains(r.Clusters, p.Spec.Cluster) {
		r.Clusters = append(r.Clusters, p.Spec.Cluster)
	}
	v1alpha1.AddQuota(r.Hard, p.Status.Hard)
	v1alpha1.AddQuota(r.Used, p.Status.Used)
}
