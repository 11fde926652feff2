package rollout

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// Routes are the views of rollouts.
func (r *Rollouts) Routes() []rest.Route {
	return []rest.Route{
		{Pattern: "GET /api/v1/rollouts", Handler: rest.Get(r.list)},
		{Pattern: "GET /api/v1/tenants/{tenant}/rollouts/{name}", Handler: rest.Get(r.get)},
	}
}

// Row is a rollout in a list.
type Row struct {
	Tenant      string                `json:"tenant"`
	Name        string                `json:"name"`
	Application string                `json:"application"`
	Strategy    v1alpha1.StrategyType `json:"strategy"`
	From        string                `json:"from"`
	To          string                `json:"to"`
	Phase       v1alpha1.RolloutPhase `json:"phase"`
	Message     string                `json:"message,omitempty"`
	// Moved is how many of the partitions have the new revision.
	Moved      int   `json:"moved"`
	Partitions int   `json:"partitions"`
	Weight     int32 `json:"weight"`
	// Run is the WorkflowRun in which it happens.
	Run       string       `json:"run,omitempty"`
	User      string       `json:"user,omitempty"`
	CreatedAt metav1.Time  `json:"createdAt"`
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	EndedAt   *metav1.Time `json:"endedAt,omitempty"`
}

func rowOf(o *v1alpha1.Rollout) Row {
	row := Row{
		Tenant: o.Namespace, Name: o.Name, Application: o.Spec.Application, Strategy: o.Spec.Strategy.Type, From: o.Spec.From, To: o.Spec.To,
		Phase: o.Status.Phase, Message: o.Status.Message, Partitions: len(o.Spec.Partitions), Weight: o.Status.Weight, Run: o.Status.Run,
		User: v1alpha1.PlainName(o.Spec.User), CreatedAt: o.CreationTimestamp, StartedAt: o.Status.StartTime, EndedAt: o.Status.EndTime,
	}
	if row.Phase == "" {
		row.Phase = v1alpha1.RolloutPending
	}
	for i := range o.Status.Partitions {
		if o.Status.Partitions[i].Phase == v1alpha1.RolloutPartitionMoved {
			row.Moved++
		}
	}
	return row
}

var fields = []rest.Field[Row]{
	{Name: "name", Text: func(r Row) string { return r.Name }},
	{Name: "tenant", Text: func(r Row) string { return r.Tenant }},
	{Name: "application", Text: func(r Row) string { return r.Application }},
	{Name: "strategy", Text: func(r Row) string { return string(r.Strategy) }},
	{Name: "from", Text: func(r Row) string { return r.From }},
	{Name: "to", Text: func(r Row) string { return r.To }},
	{Name: "phase", Text: func(r Row) string { return string(r.Phase) }},
	{Name: "message", Text: func(r Row) string { return r.Message }},
	{Name: "user", Text: func(r Row) string { return r.User }},
	{Name: "weight", Text: func(r Row) string { return strconv.Itoa(int(r.Weight)) }, Compare: func(a, b Row) int { return int(a.Weight - b.Weight) }},
	{
		Name: "createdAt", Text: func(r Row) string { return r.CreatedAt.UTC().Format(time.RFC3339) },
		Compare: func(a, b Row) int { return a.CreatedAt.Compare(b.CreatedAt.Time) },
	},
}

func ask(verb, namespace, name string) authorizationv1.ResourceAttributes {
	return authorizationv1.ResourceAttributes{Verb: verb, Group: v1alpha1.GroupVersion.Group, Resource: "rollouts", Namespace: namespace, Name: name}
}

// list gives the rollouts of all tenants that the user may see: those of tenants whose rollouts he may list, and of others
// those that he may get.
func (r *Rollouts) list(req *http.Request) (rest.Page[Row], error) {
	ctx := req.Context()
	var all v1alpha1.RolloutList
	if err := r.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return rest.Page[Row]{}, fmt.Errorf("listing rollouts: %w", err)
	}
	var tenants []string
	for i := range all.Items {
		tenants = append(tenants, all.Items[i].Namespace)
	}
	slices.Sort(tenants)
	whole, err := r.Authorizer.Namespaces(ctx, ask("list", "", ""), slices.Compact(tenants))
	if err != nil {
		return rest.Page[Row]{}, err
	}
	// Questions about users of the platform are answered here; the hub is not asked about each rollout.
	_, limited := rest.UserOf(ctx).OfPlatform()
	var rows []Row
	for i := range all.Items {
		one := &all.Items[i]
		seen := slices.Contains(whole, one.Namespace)
		if !seen && limited {
			if seen, err = r.Authorizer.Allowed(ctx, ask("get", one.Namespace, one.Name)); err != nil {
				return rest.Page[Row]{}, err
			}
		}
		if seen {
			rows = append(rows, rowOf(one))
		}
	}
	return rest.Paginate(rows, req.URL.Query(), fields...)
}

// Detail is a rollout with the steps of its run.
type Detail struct {
	Rollout *v1alpha1.Rollout `json:"rollout"`
	// Steps of its run; empty when that is only in the records any more.
	Steps []v1alpha1.StepStatus `json:"steps,omitempty"`
}

func (r *Rollouts) get(req *http.Request) (*Detail, error) {
	ctx, tenant, name := req.Context(), req.PathValue("tenant"), req.PathValue("name")
	if err := r.Authorizer.Require(ctx, ask("get", tenant, name)); err != nil {
		return nil, err
	}
	d := &Detail{Rollout: &v1alpha1.Rollout{}}
	if err := r.client.Get(ctx, client.ObjectKey{Namespace: tenant, Name: name}, d.Rollout); err != nil {
		return nil, fmt.Errorf("reading rollout %s: %w", name, err)
	}
	if d.Rollout.Status.Run == "" {
		return d, nil
	}
	run, err := r.run(ctx, d.Rollout)
	if err != nil || run == nil {
		return d, err
	}
	d.Steps = run.Status.Steps
	for i := range d.Steps {
		d.Steps[i].State = nil // no part of the API
	}
	return d, nil
}
