package partition

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
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// What a row has where nothing is bounded.
const (
	// All nodes of the cluster.
	All = "all"
	// Unlimited amount.
	Unlimited = "unlimited"
)

// API gives the list of partitions.
type API struct {
	// Hub is the cache.
	Hub        client.Reader
	Authorizer *rest.Authorizer
}

// Routes are the API's.
func (a *API) Routes() []rest.Route {
	return []rest.Route{
		{Pattern: "GET /api/v1/partitions", Handler: rest.Get(a.list)},
		{Pattern: "GET /api/v1/tenants/{tenant}/partitions", Handler: rest.Get(a.list)},
	}
}

// Row is a partition in a list.
type Row struct {
	Tenant      string `json:"tenant"`
	Cluster     string `json:"cluster"`
	Partition   string `json:"partition"`
	Parent      string `json:"parent,omitempty"`
	Namespace   string `json:"namespace,omitempty"`
	Environment string `json:"environment,omitempty"`
	// Hosts is the number of nodes in the pool; "all" without one.
	Hosts string `json:"hosts"`
	// CPU, Memory and Pods are the quota, all of it; "unlimited" without one. CPU and memory are what may be requested,
	// or what limits may add up to where only that is bounded.
	CPU    string `json:"cpu"`
	Memory string `json:"memory"`
	Pods   string `json:"pods"`
	// GPU is what may be requested of the resources named …/gpu; "unlimited" without a quota.
	GPU string `json:"gpu"`
	// Quota is what the spec asks for; Hard what the cluster enforces in the partition itself, without what its parts
	// were given; Used what is used of that, as kubectl describe quota shows it.
	Quota corev1.ResourceList `json:"quota,omitempty"`
	Hard  corev1.ResourceList `json:"hard,omitempty"`
	Used  corev1.ResourceList `json:"used,omitempty"`
	// Parts were given something of the quota.
	Parts       []v1alpha1.Allocation     `json:"parts,omitempty"`
	Limits      []corev1.LimitRangeItem   `json:"limits,omitempty"`
	PodSecurity v1alpha1.PodSecurityLevel `json:"podSecurity,omitempty"`
	Isolation   v1alpha1.Isolation        `json:"isolation"`
	RunningPods int32                     `json:"runningPods"`
	Ready       string                    `json:"ready"`
	Reason      string                    `json:"reason,omitempty"`
	Message     string                    `json:"message,omitempty"`
	Conditions  []metav1.Condition        `json:"conditions,omitempty"`
	CreatedAt   metav1.Time               `json:"createdAt"`
}

var fields = []rest.Field[Row]{
	{Name: "partition", Text: func(r Row) string { return r.Partition }},
	{Name: "cluster", Text: func(r Row) string { return r.Cluster }},
	{Name: "tenant", Text: func(r Row) string { return r.Tenant }},
	{Name: "parent", Text: func(r Row) string { return r.Parent }},
	{Name: "namespace", Text: func(r Row) string { return r.Namespace }},
	{Name: "environment", Text: func(r Row) string { return r.Environment }},
	amountField("hosts", func(r Row) string { return r.Hosts }),
	amountField("cpu", func(r Row) string { return r.CPU }),
	amountField("memory", func(r Row) string { return r.Memory }),
	amountField("pods", func(r Row) string { return r.Pods }),
	amountField("gpu", func(r Row) string { return r.GPU }),
	{Name: "ready", Text: func(r Row) string { return r.Ready }},
	{Name: "reason", Text: func(r Row) string { return r.Reason }},
	{
		Name: "runningPods", Text: func(r Row) string { return strconv.Itoa(int(r.RunningPods)) },
		Compare: func(a, b Row) int { return cmp.Compare(a.RunningPods, b.RunningPods) },
	},
	{
		Name: "createdAt", Text: func(r Row) string { return r.CreatedAt.UTC().Format("2006-01-02T15:04:05Z") },
		Compare: func(a, b Row) int { return a.CreatedAt.Compare(b.CreatedAt.Time) },
	},
}

// amountField sorts by quantity. What has no bound comes after everything.
func amountField(name string, text func(Row) string) rest.Field[Row] {
	return rest.Field[Row]{Name: name, Text: text, Compare: func(a, b Row) int {
		x, errX := resource.ParseQuantity(text(a))
		y, errY := resource.ParseQuantity(text(b))
		if errX != nil || errY != nil {
			return cmp.Compare(strconv.FormatBool(errX != nil), strconv.FormatBool(errY != nil))
		}
		return x.Cmp(y)
	}}
}

func (a *API) list(r *http.Request) (rest.Page[Row], error) {
	partitions, err := a.Visible(r.Context(), r.PathValue("tenant"))
	if err != nil {
		return rest.Page[Row]{}, err
	}
	rows := make([]Row, len(partitions))
	for i, p := range partitions {
		rows[i] = rowOf(p)
	}
	return rest.Paginate(rows, r.URL.Query(), fields...)
}

// Visible gives the partitions of a tenant, or of all, that the request's user may see: those of tenants whose
// partitions he may list, and of other tenants those that he may get. They are the cache's own: not to be changed.
func (a *API) Visible(ctx context.Context, tenant string) ([]*v1alpha1.Partition, error) {
	var list v1alpha1.PartitionList
	if err := a.Hub.List(ctx, &list, client.InNamespace(tenant), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing partitions: %w", err)
	}
	var tenants []string
	for i := range list.Items {
		tenants = append(tenants, list.Items[i].Namespace)
	}
	slices.Sort(tenants)
	may := authorizationv1.ResourceAttributes{Verb: "list", Group: v1alpha1.GroupVersion.Group, Resource: "partitions"}
	whole, err := a.Authorizer.Namespaces(ctx, may, slices.Compact(tenants))
	if err != nil {
		return nil, err
	}
	// Questions about users of the platform are answered here; the hub is not asked about each partition.
	_, limited := rest.UserOf(ctx).OfPlatform()
	var visible []*v1alpha1.Partition
	for i := range list.Items {
		p := &list.Items[i]
		seen := slices.Contains(whole, p.Namespace)
		if !seen && limited {
			may.Verb, may.Namespace, may.Name = "get", p.Namespace, p.Name
			if seen, err = a.Authorizer.Allowed(ctx, may); err != nil {
				return nil, err
			}
		}
		if seen {
			visible = append(visible, p)
		}
	}
	return visible, nil
}

func rowOf(p *v1alpha1.Partition) Row {
	quota := v1alpha1.NormalizedQuota(p.Spec.Quota)
	row := Row{
		Tenant: p.Namespace, Cluster: p.Spec.Cluster, Partition: p.Name, Parent: p.Spec.Parent, Namespace: p.MemberNamespace(),
		Environment: p.Spec.Environment, Hosts: All, Quota: p.Spec.Quota, Hard: p.Status.Hard, Used: p.Status.Used, Parts: p.Status.Allocated,
		CPU:    first(quota, corev1.ResourceRequestsCPU, corev1.ResourceLimitsCPU),
		Memory: first(quota, corev1.ResourceRequestsMemory, corev1.ResourceLimitsMemory),
		Pods:   first(quota, corev1.ResourcePods, "count/pods"), GPU: gpus(quota),
		Limits: p.Spec.Limits, PodSecurity: p.Spec.PodSecurity, Isolation: p.Spec.Isolation, RunningPods: p.Status.Pods,
		Ready: string(metav1.ConditionUnknown), Conditions: p.Status.Conditions, CreatedAt: p.CreationTimestamp,
	}
	if len(p.NodePool().Selector) > 0 {
		row.Hosts = strconv.Itoa(int(p.Status.Nodes))
	}
	if ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
		row.Ready, row.Reason, row.Message = string(ready.Status), ready.Reason, ready.Message
	}
	return row
}

func first(quota corev1.ResourceList, names ...corev1.ResourceName) string {
	for _, name := range names {
		if q, ok := quota[name]; ok {
			return q.String()
		}
	}
	return Unlimited
}

// gpus is the sum over the makes of GPU: requests.nvidia.com/gpu, requests.amd.com/gpu and others of that form.
func gpus(quota corev1.ResourceList) string {
	sum, bounded := resource.Quantity{}, false
	for name, q := range quota {
		if v1alpha1.IsGPU(name) {
			sum.Add(q)
			bounded = true
		}
	}
	if !bounded {
		return Unlimited
	}
	return sum.String()
}
