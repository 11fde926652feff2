package delivery

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/rest"
)

// podsTimeout bounds the wait for a member's cache that is still being filled.
const podsTimeout = 5 * time.Second

// API gives the pods of an application.
type API struct {
	// Hub is the cache.
	Hub        client.Reader
	Members    member.Lookup
	Authorizer *rest.Authorizer
}

// Routes are the API's.
func (a *API) Routes() []rest.Route {
	return []rest.Route{{Pattern: "GET /api/v1/tenants/{tenant}/applications/{name}/pods", Handler: rest.Get(a.list)}}
}

// PodRow is a pod of an application in a list.
type PodRow struct {
	Partition string `json:"partition"`
	Cluster   string `json:"cluster"`
	Component string `json:"component"`
	Pod       string `json:"pod"`
	Namespace string `json:"namespace"`
	Node      string `json:"node,omitempty"`
	Address   string `json:"address,omitempty"`
	Phase     string `json:"phase"`
	Ready     bool   `json:"ready"`
	Restarts  int32  `json:"restarts"`
	// QOSClass is Guaranteed, Burstable or BestEffort, as its requests and limits make it.
	QOSClass string              `json:"qosClass"`
	Requests corev1.ResourceList `json:"requests,omitempty"`
	Limits   corev1.ResourceList `json:"limits,omitempty"`
	// Reason and Message say why it is not ready, Causes and Remedies what the scheduler lacks and what helps.
	Reason     string         `json:"reason,omitempty"`
	Message    string         `json:"message,omitempty"`
	Causes     []string       `json:"causes,omitempty"`
	Remedies   []string       `json:"remedies,omitempty"`
	Containers []ContainerRow `json:"containers"`
	// Stale says that the cluster does not answer: this is what was last seen.
	Stale     bool        `json:"stale,omitempty"`
	CreatedAt metav1.Time `json:"createdAt"`
}

// ContainerRow is one container of a pod.
type ContainerRow struct {
	Name     string `json:"name"`
	Image    string `json:"image,omitempty"`
	Ready    bool   `json:"ready"`
	Restarts int32  `json:"restarts"`
	State    State  `json:"state"`
	// Last is how it ended the last time; nil if it never did.
	Last *State `json:"last,omitempty"`
}

// State of a container: Waiting, Running or Terminated.
type State struct {
	State      string       `json:"state"`
	Reason     string       `json:"reason,omitempty"`
	Message    string       `json:"message,omitempty"`
	ExitCode   *int32       `json:"exitCode,omitempty"`
	StartedAt  *metav1.Time `json:"startedAt,omitempty"`
	FinishedAt *metav1.Time `json:"finishedAt,omitempty"`
}

var podFields = []rest.Field[PodRow]{
	{Name: "pod", Text: func(r PodRow) string { return r.Pod }},
	{Name: "partition", Text: func(r PodRow) string { return r.Partition }},
	{Name: "cluster", Text: func(r PodRow) string { return r.Cluster }},
	{Name: "component", Text: func(r PodRow) string { return r.Component }},
	{Name: "node", Text: func(r PodRow) string { return r.Node }},
	{Name: "address", Text: func(r PodRow) string { return r.Address }},
	{Name: "phase", Text: func(r PodRow) string { return r.Phase }},
	{Name: "ready", Text: func(r PodRow) string { return strconv.FormatBool(r.Ready) }},
	{Name: "qosClass", Text: func(r PodRow) string { return r.QOSClass }},
	{Name: "reason", Text: func(r PodRow) string { return r.Reason }},
	{
		Name: "restarts", Text: func(r PodRow) string { return strconv.Itoa(int(r.Restarts)) },
		Compare: func(a, b PodRow) int { return cmp.Compare(a.Restarts, b.Restarts) },
	},
}

// list gives the application's pods in those partitions that the user may see, from the members' caches.
func (a *API) list(r *http.Request) (rest.Page[PodRow], error) {
	tenant, name := r.PathValue("tenant"), r.PathValue("name")
	ctx, cancel := context.WithTimeout(r.Context(), podsTimeout)
	defer cancel()
	may := authorizationv1.ResourceAttributes{Verb: "get", Group: v1alpha1.GroupVersion.Group, Resource: "applications", Namespace: tenant, Name: name}
	if err := a.Authorizer.Require(ctx, may); err != nil {
		return rest.Page[PodRow]{}, err
	}
	if err := a.Hub.Get(ctx, client.ObjectKey{Namespace: tenant, Name: name}, &v1alpha1.Application{}); err != nil {
		return rest.Page[PodRow]{}, fmt.Errorf("reading application %s: %w", name, err)
	}
	deliveries := &v1alpha1.DeliveryList{}
	if err := a.Hub.List(ctx, deliveries, client.InNamespace(tenant), client.MatchingLabels{v1alpha1.LabelApplication: name}); err != nil {
		return rest.Page[PodRow]{}, fmt.Errorf("reading the deliveries of application %s: %w", name, err)
	}
	var rows []PodRow
	for i := range deliveries.Items {
		d := &deliveries.Items[i]
		may.Resource, may.Name = "partitions", d.Spec.Partition
		allowed, err := a.Authorizer.Allowed(ctx, may)
		if err != nil {
			return rest.Page[PodRow]{}, err
		}
		if !allowed {
			continue
		}
		some, err := a.in(ctx, d)
		if err != nil {
			return rest.Page[PodRow]{}, err
		}
		rows = append(rows, some...)
	}
	return rest.Paginate(rows, r.URL.Query(), podFields...)
}

// in gives the pods of one delivery; none while its cluster was never seen.
func (a *API) in(ctx context.Context, d *v1alpha1.Delivery) ([]PodRow, error) {
	m, joined := a.Members.Member(d.Spec.Cluster)
	if !joined {
		return nil, nil
	}
	pods := &corev1.PodList{}
	if err := m.Cache.List(ctx, pods, client.MatchingLabels{
		v1alpha1.LabelTenant: d.Namespace, v1alpha1.LabelPartition: d.Spec.Partition, v1alpha1.LabelApplication: d.Spec.Application,
	}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing pods of cluster %s: %w", m.Name, err)
	}
	answering, _ := m.Answering()
	rows := make([]PodRow, len(pods.Items))
	for i := range pods.Items {
		rows[i] = podRow(&pods.Items[i])
		rows[i].Cluster, rows[i].Stale = m.Name, !answering
	}
	return rows, nil
}

func podRow(pod *corev1.Pod) PodRow {
	row := PodRow{
		Partition: pod.Labels[v1alpha1.LabelPartition], Component: pod.Labels[v1alpha1.LabelComponent], Pod: pod.Name, Namespace: pod.Namespace,
		Node: pod.Spec.NodeName, Address: pod.Status.PodIP, Phase: string(pod.Status.Phase), Ready: podReady(pod), QOSClass: string(pod.Status.QOSClass),
		Requests: member.Requests(pod), Limits: member.Limits(pod), CreatedAt: pod.CreationTimestamp, Containers: []ContainerRow{},
	}
	row.Reason, row.Message = podReason(pod)
	if row.Reason == v1alpha1.ReasonUnschedulable {
		row.Causes, row.Remedies = unschedulable(pod, said(pod))
	}
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			s := &statuses[i]
			c := ContainerRow{Name: s.Name, Image: s.Image, Ready: s.Ready, Restarts: s.RestartCount, State: stateOf(&s.State)}
			if s.LastTerminationState.Terminated != nil {
				last := stateOf(&s.LastTerminationState)
				c.Last = &last
			}
			row.Restarts += s.RestartCount
			row.Containers = append(row.Containers, c)
		}
	}
	slices.SortStableFunc(row.Containers, func(a, b ContainerRow) int { return cmp.Compare(a.Name, b.Name) })
	return row
}

// said is what the scheduler says of a pod.
func said(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			return c.Message
		}
	}
	return ""
}

func stateOf(s *corev1.ContainerState) State {
	switch {
	case s.Terminated != nil:
		t := s.Terminated
		return State{
			State: "Terminated", Reason: t.Reason, Message: t.Message, ExitCode: &t.ExitCode, StartedAt: &t.StartedAt, FinishedAt: &t.FinishedAt,
		}
	case s.Running != nil:
		return State{State: "Running", StartedAt: &s.Running.StartedAt}
	case s.Waiting != nil:
		return State{State: "Waiting", Reason: s.Waiting.Reason, Message: s.Waiting.Message}
	}
	return State{State: "Waiting"}
}
