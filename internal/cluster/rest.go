package cluster

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/rest"
)

// API gives the lists of clusters and nodes, and takes kubeconfigs.
type API struct {
	// Hub reads from the cache.
	Hub        client.Client
	Members    member.Lookup
	Authorizer *rest.Authorizer
}

// Routes are the API's.
func (a *API) Routes() []rest.Route {
	return []rest.Route{
		{Pattern: "GET /api/v1/clusters", Handler: rest.Get(a.clusters)},
		{Pattern: "PUT /api/v1/clusters/{cluster}/kubeconfig", Handler: rest.Get(a.join)},
		{Pattern: "GET /api/v1/clusters/{cluster}/ports", Handler: rest.Get(a.managementPorts)},
		{Pattern: "GET /api/v1/cluster-nodes", Handler: rest.Get(a.nodes)},
		{Pattern: "GET /api/v1/clusters/{cluster}/nodes/{node}", Handler: rest.Get(a.node)},
	}
}

// Row is a cluster in a list.
type Row struct {
	// ID is the cluster's identity, the same whatever it is called.
	ID          string              `json:"id,omitempty"`
	Name        string              `json:"name"`
	DisplayName string              `json:"displayName,omitempty"`
	Labels      map[string]string   `json:"labels,omitempty"`
	Version     string              `json:"version,omitempty"`
	Remarks     string              `json:"remarks,omitempty"`
	Nodes       int32               `json:"nodes"`
	ReadyNodes  int32               `json:"readyNodes"`
	Ready       string              `json:"ready"`
	Reason      string              `json:"reason,omitempty"`
	Message     string              `json:"message,omitempty"`
	LastSeen    *metav1.Time        `json:"lastSeen,omitempty"`
	Capacity    corev1.ResourceList `json:"capacity,omitempty"`
	Allocatable corev1.ResourceList `json:"allocatable,omitempty"`
	Requested   corev1.ResourceList `json:"requested,omitempty"`
}

var fields = []rest.Field[Row]{
	{Name: "name", Text: func(r Row) string { return r.Name }},
	{Name: "id", Text: func(r Row) string { return r.ID }},
	{Name: "displayName", Text: func(r Row) string { return r.DisplayName }},
	{Name: "version", Text: func(r Row) string { return r.Version }},
	{Name: "remarks", Text: func(r Row) string { return r.Remarks }},
	{Name: "ready", Text: func(r Row) string { return r.Ready }},
	{Name: "reason", Text: func(r Row) string { return r.Reason }},
	{Name: "label", Texts: func(r Row) []string { return pairs(r.Labels) }},
	{
		Name: "nodes", Text: func(r Row) string { return fmt.Sprint(r.Nodes) },
		Compare: func(a, b Row) int { return cmp.Compare(a.Nodes, b.Nodes) },
	},
}

func pairs(labels map[string]string) []string {
	var all []string
	for key, value := range labels {
		all = append(all, key+"="+value)
	}
	slices.Sort(all)
	return all
}

// clusters lists all clusters, or to users of a tenant those in which they have a partition: without what is requested
// there, which is mostly by others.
func (a *API) clusters(r *http.Request) (rest.Page[Row], error) {
	may := authorizationv1.ResourceAttributes{Verb: "list", Group: v1alpha1.GroupVersion.Group, Resource: "clusters"}
	all, err := a.Authorizer.Allowed(r.Context(), may)
	if _, ours := rest.UserOf(r.Context()).OfPlatform(); err == nil && !all && !ours {
		err = a.Authorizer.Require(r.Context(), may)
	}
	if err != nil {
		return rest.Page[Row]{}, err
	}
	list := &v1alpha1.ClusterList{}
	if err := a.Hub.List(r.Context(), list); err != nil {
		return rest.Page[Row]{}, fmt.Errorf("listing clusters: %w", err)
	}
	rows := make([]Row, 0, len(list.Items))
	for i := range list.Items {
		row := rowOf(&list.Items[i])
		if !all {
			may.Verb, may.Name = "get", row.Name
			seen, err := a.Authorizer.Allowed(r.Context(), may)
			if err != nil {
				return rest.Page[Row]{}, err
			}
			if !seen {
				continue
			}
			row.Requested, row.Remarks = nil, ""
		}
		rows = append(rows, row)
	}
	return rest.Paginate(rows, r.URL.Query(), fields...)
}

func rowOf(c *v1alpha1.Cluster) Row {
	row := Row{
		ID: c.Status.UID, Name: c.Name, DisplayName: c.Spec.DisplayName, Labels: c.Labels, Version: c.Status.KubernetesVersion, Remarks: c.Spec.Remarks,
		Nodes: c.Status.Nodes.Total, ReadyNodes: c.Status.Nodes.Ready, Ready: string(metav1.ConditionUnknown), LastSeen: c.Status.LastSeenTime,
		Capacity: c.Status.Capacity, Allocatable: c.Status.Allocatable, Requested: c.Status.Requested,
	}
	if ready := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
		row.Ready, row.Reason, row.Message = string(ready.Status), ready.Reason, ready.Message
	}
	return row
}
