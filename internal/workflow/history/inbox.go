package history

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// How somebody has to do with what waits for a decision.
const (
	// RelationDecide is his who may decide and has not.
	RelationDecide = "Decide"
	// RelationAsked is his who started or retried the run.
	RelationAsked = "Asked"
)

// Wanted is a step that waits for a decision.
type Wanted struct {
	// Relation is that of the user who asks for the list.
	Relation    string                     `json:"relation"`
	Tenant      string                     `json:"tenant"`
	Run         string                     `json:"run"`
	RunUID      string                     `json:"runUID"`
	Workflow    string                     `json:"workflow,omitempty"`
	DisplayName string                     `json:"displayName,omitempty"`
	Step        string                     `json:"step"`
	Subject     string                     `json:"subject,omitempty"`
	Digest      string                     `json:"digest"`
	Values      map[string]json.RawMessage `json:"values,omitempty"`
	// Editable are the names of the values that whoever approves may change.
	Editable []string                `json:"editable,omitempty"`
	Roles    []v1alpha1.ApproverRole `json:"roles,omitempty"`
	Users    []string                `json:"users,omitempty"`
	// Count is how many different people must approve; ApprovedBy are those who have.
	Count      int32     `json:"count"`
	ApprovedBy []string  `json:"approvedBy,omitempty"`
	AskedBy    string    `json:"askedBy,omitempty"`
	Since      time.Time `json:"since"`
}

var wantedFields = []rest.Field[Wanted]{
	{
		Name: "since", Text: func(w Wanted) string { return w.Since.Format(time.RFC3339) },
		Compare: func(a, b Wanted) int { return a.Since.Compare(b.Since) },
	},
	{Name: "relation", Text: func(w Wanted) string { return w.Relation }},
	{Name: "tenant", Text: func(w Wanted) string { return w.Tenant }},
	{Name: "run", Text: func(w Wanted) string { return w.Run }},
	{Name: "workflow", Text: func(w Wanted) string { return w.Workflow }},
	{Name: "step", Text: func(w Wanted) string { return w.Step }},
	{Name: "subject", Text: func(w Wanted) string { return w.Subject }},
	{Name: "askedBy", Text: func(w Wanted) string { return w.AskedBy }},
}

// inbox lists what the request's user may decide, and what he waits for himself.
func (a *API) inbox(r *http.Request) (rest.Page[Wanted], error) {
	var runs v1alpha1.WorkflowRunList
	if err := a.Hub.List(r.Context(), &runs, client.UnsafeDisableDeepCopy); err != nil {
		return rest.Page[Wanted]{}, fmt.Errorf("listing runs: %w", err)
	}
	given, err := a.given(r)
	if err != nil {
		return rest.Page[Wanted]{}, err
	}
	user := rest.UserOf(r.Context())
	var rows []Wanted
	for i := range runs.Items {
		run := &runs.Items[i]
		for j := range run.Status.Steps {
			step := &run.Status.Steps[j]
			if !waits(run, step) {
				continue
			}
			approved := given[decided{string(run.UID), step.Name, step.Approval.Digest}]
			if relation := relationOf(run, step.Approval, approved, user); relation != "" {
				rows = append(rows, wantedOf(run, step, relation, approved))
			}
		}
	}
	return rest.Paginate(rows, r.URL.Query(), wantedFields...)
}

// waits says that a step waits for a decision.
func waits(run *v1alpha1.WorkflowRun, step *v1alpha1.StepStatus) bool {
	return step.Approval != nil && (step.Phase == v1alpha1.StepWaiting || step.Phase == v1alpha1.StepRunning) && !run.Status.Phase.Finished() && !run.Spec.Aborted
}

func wantedOf(run *v1alpha1.WorkflowRun, step *v1alpha1.StepStatus, relation string, approved []string) Wanted {
	row, asked := rowOf(run), step.Approval
	w := Wanted{
		Relation: relation, Tenant: run.Namespace, Run: run.Name, RunUID: row.UID, Workflow: row.Workflow, DisplayName: row.DisplayName,
		Step: step.Name, Subject: asked.Subject, Digest: asked.Digest, Values: asked.Values, Editable: asked.Editable, Roles: asked.Roles, Users: asked.Users,
		Count: max(1, asked.Count), AskedBy: row.User, Since: row.CreatedAt,
	}
	for _, name := range approved {
		w.ApprovedBy = append(w.ApprovedBy, v1alpha1.PlainName(name))
	}
	if step.StartTime != nil {
		w.Since = step.StartTime.UTC()
	}
	return w
}

// decided is what an approval is for.
type decided struct{ uid, step, digest string }

// given are those who have approved, as Kubernetes knows them.
func (a *API) given(r *http.Request) (map[decided][]string, error) {
	var approvals v1alpha1.ApprovalList
	if err := a.Hub.List(r.Context(), &approvals, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing approvals: %w", err)
	}
	given := map[decided][]string{}
	for i := range approvals.Items {
		s := &approvals.Items[i].Spec
		if s.User != nil && meta.IsStatusConditionPresentAndEqual(approvals.Items[i].Status.Conditions, v1alpha1.ConditionAccepted, metav1.ConditionTrue) {
			key := decided{s.RunUID, s.Step, s.Digest}
			given[key] = append(given[key], s.User.Name)
		}
	}
	for _, names := range given {
		slices.Sort(names)
	}
	return given, nil
}

// relationOf is what a user has to do with a step that waits; empty if nothing. Whether his decision counts is decided
// when it is there; this is what he is shown.
func relationOf(run *v1alpha1.WorkflowRun, asked *v1alpha1.ApprovalWanted, approved []string, user rest.User) string {
	isUser := func(a *v1alpha1.Actor) bool { return a != nil && a.Name == user.Name }
	switch {
	case isUser(run.Spec.User), isUser(run.Status.RetriedBy):
		return RelationAsked
	case slices.Contains(approved, user.Name):
		return ""
	case asked.MayDecide(run.Namespace, &v1alpha1.Actor{Name: user.Name, Groups: user.Groups}):
		return RelationDecide
	}
	return ""
}
