package v1alpha1

import (
	"encoding/json"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// WorkflowRun is one execution of a Workflow. It can be watched, paused, approved, retried and aborted. What it has done
// is in its status; its logs, and the run itself after it has finished, are in the platform's records.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Workflow",type=string,JSONPath=`.spec.workflow`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`
// +kubebuilder:printcolumn:name="By",type=string,JSONPath=`.spec.user.name`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 100",message="a run's name has at most 100 characters: names of other objects are made from it"
type WorkflowRun struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec WorkflowRunSpec `json:"spec"`
	// +optional
	Status WorkflowRunStatus `json:"status,omitempty"`
}

// WorkflowRunSpec says what is run and how it is steered. What is run is fixed when the run begins.
//
// +kubebuilder:validation:XValidation:rule="has(self.workflow) != has(self.definition)",message="name a workflow of the tenant in workflow, or write the steps in definition: one of the two"
// +kubebuilder:validation:XValidation:rule="has(self.workflow) == has(oldSelf.workflow) && (!has(self.workflow) || self.workflow == oldSelf.workflow)",message="what is run cannot be changed: start another run"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.user) || (has(self.user) && self.user == oldSelf.user)",message="who started a run cannot be changed"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.aborted) || !oldSelf.aborted || (has(self.aborted) && self.aborted) || (has(self.retry) && (!has(oldSelf.retry) || self.retry.number > oldSelf.retry.number))",message="an aborted run does not go on: retry it by setting retry with the next number and aborted to false at once, or start another"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.retry) || (has(self.retry) && self.retry.number >= oldSelf.retry.number)",message="the number of a retry only grows"
type WorkflowRunSpec struct {
	// Workflow of the same namespace that is run.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Workflow string `json:"workflow,omitempty"`
	// Definition is what is run, where it is not a Workflow's.
	// +optional
	Definition *WorkflowSpec `json:"definition,omitempty"`
	// Inputs of the run.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Inputs map[string]json.RawMessage `json:"inputs,omitempty"`
	// User who started the run: written by admission, whatever a client says. Steps do what he may do.
	// +optional
	User *Actor `json:"user,omitempty"`
	// Paused lets running steps finish and begins no others.
	// +optional
	Paused bool `json:"paused,omitempty"`
	// Aborted ends running steps and undoes what has a compensation, the latest first.
	// +optional
	Aborted bool `json:"aborted,omitempty"`
	// Reason of the last pause or abort, for people.
	// +optional
	// +kubebuilder:validation:MaxLength=1000
	Reason string `json:"reason,omitempty"`
	// Retry runs a step of a failed or aborted run again, and everything that comes after it. That of an aborted run is
	// set together with aborted: false.
	// +optional
	Retry *RunRetry `json:"retry,omitempty"`
	// ChangedBy is who last paused, resumed, aborted or retried the run: written by admission.
	// +optional
	ChangedBy *Actor `json:"changedBy,omitempty"`
}

// Actor is who did something: written by admission from the request, never believed from a client.
type Actor struct {
	// Name of the user as Kubernetes knows him: yunfan:<name> for users of the platform.
	// +required
	// +kubebuilder:validation:MaxLength=320
	Name string `json:"name"`
	// Groups of the user that count in the tenant: those that begin with yunfan:tenant:<tenant>: and
	// yunfan:partition:<tenant>:, yunfan:platform-admin and yunfan:authenticated. Roles in other tenants are none of its
	// business.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1500
	// +kubebuilder:validation:items:MaxLength=320
	Groups []string `json:"groups,omitempty"`
}

// RunRetry runs a part of a run again.
type RunRetry struct {
	// Number of the retry: one more than the last.
	// +required
	// +kubebuilder:validation:Minimum=1
	Number int32 `json:"number"`
	// From is a step that has ended, to begin with, besides those that failed. If empty, all steps that failed, were
	// aborted or undone are run again.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	From string `json:"from,omitempty"`
}

// RunPhase is where a run is.
type RunPhase string

// The phases of a run. Waiting: nothing goes on until somebody approves or a time has come.
const (
	RunPending      RunPhase = "Pending"
	RunRunning      RunPhase = "Running"
	RunWaiting      RunPhase = "Waiting"
	RunPaused       RunPhase = "Paused"
	RunCompensating RunPhase = "Compensating"
	RunSucceeded    RunPhase = "Succeeded"
	RunFailed       RunPhase = "Failed"
	RunAborted      RunPhase = "Aborted"
)

// Finished says whether nothing more happens by itself.
func (p RunPhase) Finished() bool {
	return p == RunSucceeded || p == RunFailed || p == RunAborted
}

// WorkflowRunStatus is all that a server needs to go on with the run. It is at most 256 KiB.
type WorkflowRunStatus struct {
	// ObservedGeneration is the generation that was looked at.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Phase of the run.
	// +optional
	Phase RunPhase `json:"phase,omitempty"`
	// Message says in words why it is in that phase.
	// +optional
	Message string `json:"message,omitempty"`
	// Holder is the server that carries the run. Another takes over by writing its own name before it does anything.
	// +optional
	Holder string `json:"holder,omitempty"`
	// Definition is what is run, as it was when the run began.
	// +optional
	Definition *WorkflowSpec `json:"definition,omitempty"`
	// Inputs with defaults filled in, as they were when the run began.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Inputs map[string]json.RawMessage `json:"inputs,omitempty"`
	// Outputs of a run that succeeded.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Outputs map[string]json.RawMessage `json:"outputs,omitempty"`
	// StartTime is when it began.
	// +optional
	StartTime *metav1.MicroTime `json:"startTime,omitempty"`
	// FinishTime is when it ended.
	// +optional
	FinishTime *metav1.MicroTime `json:"finishTime,omitempty"`
	// Retries is the number of the last retry that was begun or refused.
	// +optional
	Retries int32 `json:"retries,omitempty"`
	// RetriedBy is who last retried the run: he can approve none of its steps. Of his groups, those that count here.
	// +optional
	RetriedBy *Actor `json:"retriedBy,omitempty"`
	// RetryTime is when it was last retried: the timeout of the run counts from then.
	// +optional
	RetryTime *metav1.MicroTime `json:"retryTime,omitempty"`
	// Ending is how the run ends, Aborted or Failed, once its running steps have been ended and undone. Empty while it
	// goes on.
	// +optional
	Ending RunPhase `json:"ending,omitempty"`
	// Steps in the definition's order.
	// +optional
	// +listType=map
	// +listMapKey=name
	Steps []StepStatus `json:"steps,omitempty"`
	// Conditions: Succeeded, which is Unknown until the run has finished, and from then on Archived.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// StepPhase is where a step is.
type StepPhase string

// The phases of a step. Waiting: it has begun and waits for a time, a person, or its next attempt.
const (
	StepPending      StepPhase = "Pending"
	StepRunning      StepPhase = "Running"
	StepWaiting      StepPhase = "Waiting"
	StepSucceeded    StepPhase = "Succeeded"
	StepFailed       StepPhase = "Failed"
	StepSkipped      StepPhase = "Skipped"
	StepAborted      StepPhase = "Aborted"
	StepCompensating StepPhase = "Compensating"
	StepCompensated  StepPhase = "Compensated"
)

// StepStatus is what a step has done.
type StepStatus struct {
	// Name of the step.
	// +required
	Name string `json:"name"`
	// Phase of the step.
	// +optional
	Phase StepPhase `json:"phase,omitempty"`
	// Attempt is the number of the last attempt, from 1; it goes on counting when the run is retried.
	// +optional
	Attempt int32 `json:"attempt,omitempty"`
	// Failures of the attempts since it was last begun anew, which retry.limit bounds.
	// +optional
	Failures int32 `json:"failures,omitempty"`
	// StartTime of the last attempt.
	// +optional
	StartTime *metav1.MicroTime `json:"startTime,omitempty"`
	// FinishTime of the last attempt.
	// +optional
	FinishTime *metav1.MicroTime `json:"finishTime,omitempty"`
	// Actor on whose behalf it was done: who started or retried the run, or who approved.
	// +optional
	Actor string `json:"actor,omitempty"`
	// Message says in words what it waits for, or why it failed.
	// +optional
	Message string `json:"message,omitempty"`
	// Outputs of a step that succeeded.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Outputs map[string]json.RawMessage `json:"outputs,omitempty"`
	// State is what the action keeps between two calls. It is no part of the API.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:pruning:PreserveUnknownFields
	State json.RawMessage `json:"state,omitempty"`
	// NextTime is when a waiting step is looked at again, at the latest.
	// +optional
	NextTime *metav1.MicroTime `json:"nextTime,omitempty"`
	// Stopping says why a running attempt is being ended. It fails with these words.
	// +optional
	Stopping string `json:"stopping,omitempty"`
	// Approval is what a step waits for that somebody must approve.
	// +optional
	Approval *ApprovalWanted `json:"approval,omitempty"`
}

// ApprovalWanted says who may approve what.
type ApprovalWanted struct {
	// Digest of what is approved: an Approval names it, and counts for nothing else.
	// +required
	Digest string `json:"digest"`
	// Subject says in words what is approved.
	// +optional
	Subject string `json:"subject,omitempty"`
	// Roles of whom may approve.
	// +optional
	// +listType=set
	Roles []ApproverRole `json:"roles,omitempty"`
	// Users who may approve, by the name of their User object, whatever their role.
	// +optional
	// +listType=set
	Users []string `json:"users,omitempty"`
	// Count is how many different people must approve.
	// +optional
	Count int32 `json:"count,omitempty"`
	// Values that are asked for; an Approval may give others in their place, where editable says so.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Values map[string]json.RawMessage `json:"values,omitempty"`
	// Editable are the names of the values that an Approval may change.
	// +optional
	// +listType=set
	Editable []string `json:"editable,omitempty"`
}

// MayDecide says whether the user, in a tenant, has one of the roles or is one of the users. A platform administrator has
// every role, an administrator of the tenant that of an operator.
func (w *ApprovalWanted) MayDecide(tenant string, user *Actor) bool {
	if name, ours := strings.CutPrefix(user.Name, UserPrefix); ours && slices.Contains(w.Users, name) {
		return true
	}
	in := func(group string) bool { return slices.Contains(user.Groups, group) }
	admin := in(TenantGroup(tenant, RoleAdmin))
	for _, role := range w.Roles {
		switch {
		case in(GroupPlatformAdmin),
			role == ApproverAdmin && admin,
			role == ApproverOperator && (admin || in(TenantGroup(tenant, RoleOperator))):
			return true
		}
	}
	return false
}

// ApproverRole is a role that may approve.
// +kubebuilder:validation:Enum=PlatformAdministrator;Admin;Operator
type ApproverRole string

// The roles of approvers: Admin and Operator are those of the run's tenant.
const (
	ApproverPlatformAdministrator ApproverRole = "PlatformAdministrator"
	ApproverAdmin                 ApproverRole = "Admin"
	ApproverOperator              ApproverRole = "Operator"
)

// WorkflowRunList is a list of WorkflowRuns.
//
// +kubebuilder:object:root=true
type WorkflowRunList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []WorkflowRun `json:"items"`
}

// StatusConditions gives the conditions for changing.
func (r *WorkflowRun) StatusConditions() *[]metav1.Condition { return &r.Status.Conditions }

// SetObservedGeneration says for which generation of the spec the status was made.
func (r *WorkflowRun) SetObservedGeneration(generation int64) {
	r.Status.ObservedGeneration = generation
}
