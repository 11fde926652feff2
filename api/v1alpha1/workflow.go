package v1alpha1

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Workflow is a graph of steps that can be run: a release, a fail-over, an upgrade, a pipeline, a request. It does
// nothing by itself; each execution is a WorkflowRun.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Display name",type=string,JSONPath=`.spec.displayName`
// +kubebuilder:printcolumn:name="Valid",type=string,JSONPath=`.status.conditions[?(@.type=="Valid")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Valid")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63",message="a workflow's name has at most 63 characters: labels are made from it"
type Workflow struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec WorkflowSpec `json:"spec"`
	// +optional
	Status WorkflowStatus `json:"status,omitempty"`
}

// WorkflowSpec is a graph of steps with what goes in and what comes out. Texts in with and outputs may hold expressions
// in CEL between ${{ and }}: inputs.<name>, steps.<name>.outputs.<name>, steps.<name>.phase, run.name, run.namespace,
// run.user. A text that is one expression and nothing else keeps the expression's type.
type WorkflowSpec struct {
	// DisplayName is the workflow's name for people.
	// +optional
	// +kubebuilder:validation:MaxLength=100
	DisplayName string `json:"displayName,omitempty"`
	// Description says what it is for.
	// +optional
	// +kubebuilder:validation:MaxLength=1000
	Description string `json:"description,omitempty"`
	// Inputs are what a run is given.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=50
	Inputs []WorkflowInput `json:"inputs,omitempty"`
	// Steps of the graph, in any order.
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=200
	Steps []WorkflowStep `json:"steps"`
	// Outputs of a run, each a value that may hold expressions over its steps.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Outputs map[string]json.RawMessage `json:"outputs,omitempty"`
	// Timeout of a whole run; none if empty.
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// OnFailure says what follows when a step fails for good. Stop: running steps are let finish and nothing new begins,
	// so that it can be retried from there. Compensate: what was done is undone, as when the run is aborted.
	// +optional
	// +kubebuilder:default=Stop
	// +kubebuilder:validation:Enum=Stop;Compensate
	OnFailure WorkflowFailurePolicy `json:"onFailure,omitempty"`
}

// WorkflowFailurePolicy is what follows a failure.
type WorkflowFailurePolicy string

// The failure policies.
const (
	OnFailureStop       WorkflowFailurePolicy = "Stop"
	OnFailureCompensate WorkflowFailurePolicy = "Compensate"
	// OnFailureContinue is of steps only.
	OnFailureContinue WorkflowFailurePolicy = "Continue"
)

// ValueType is the type of an input or output.
// +kubebuilder:validation:Enum=String;Integer;Number;Boolean;Object;List
type ValueType string

// The types of values.
const (
	TypeString  ValueType = "String"
	TypeInteger ValueType = "Integer"
	TypeNumber  ValueType = "Number"
	TypeBoolean ValueType = "Boolean"
	TypeObject  ValueType = "Object"
	TypeList    ValueType = "List"
)

// WorkflowInput is one value that a run is given.
type WorkflowInput struct {
	// Name by which expressions know it.
	// +required
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-zA-Z][a-zA-Z0-9_]*$`
	Name string `json:"name"`
	// Type of the value.
	// +optional
	// +kubebuilder:default=String
	Type ValueType `json:"type,omitempty"`
	// Required inputs have no default: each run must give them.
	// +optional
	Required bool `json:"required,omitempty"`
	// Default is the value of runs that give none.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:pruning:PreserveUnknownFields
	Default json.RawMessage `json:"default,omitempty"`
	// Enum are the values that a String may have; any if empty.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=253
	Enum []string `json:"enum,omitempty"`
	// Description for whoever starts a run.
	// +optional
	// +kubebuilder:validation:MaxLength=1000
	Description string `json:"description,omitempty"`
}

// WorkflowStep is one action and when it is done.
type WorkflowStep struct {
	// Name of the step in the graph; expressions write steps['my-step'] where it is not a plain word.
	// +required
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// DisplayName is the step's name for people.
	// +optional
	// +kubebuilder:validation:MaxLength=100
	DisplayName string `json:"displayName,omitempty"`
	// Action that the step is: approve, wait, http, notify, container, or one of a capability.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Action string `json:"action"`
	// With are the action's inputs. Texts may hold expressions.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	With map[string]json.RawMessage `json:"with,omitempty"`
	// Needs are the steps that must have ended well before this one begins. Without any it begins at once.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=200
	// +kubebuilder:validation:items:MaxLength=63
	Needs []string `json:"needs,omitempty"`
	// When is an expression in CEL, without ${{ }}, that is asked when all needs have ended: the step is skipped if it is
	// false. Without it a step whose needs were all skipped is skipped.
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	When string `json:"when,omitempty"`
	// Timeout of one attempt; the action's own if empty.
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// Retry says how often a failed step is tried again; not at all if empty.
	// +optional
	Retry *StepRetry `json:"retry,omitempty"`
	// OnFailure Continue lets the steps that need this one go on when it fails. Stop is the default.
	// +optional
	// +kubebuilder:default=Stop
	// +kubebuilder:validation:Enum=Stop;Continue
	OnFailure WorkflowFailurePolicy `json:"onFailure,omitempty"`
	// Compensate undoes the step when the run is aborted or compensated after it had its effect.
	// +optional
	Compensate *StepCompensation `json:"compensate,omitempty"`
}

// StepRetry says how a failed step is tried again.
type StepRetry struct {
	// Limit is how often, after the first attempt.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Limit int32 `json:"limit"`
	// Interval before the first further attempt, 1s if empty; it doubles each time, up to maxInterval.
	// +optional
	Interval *metav1.Duration `json:"interval,omitempty"`
	// MaxInterval between two attempts; 1m if empty.
	// +optional
	MaxInterval *metav1.Duration `json:"maxInterval,omitempty"`
}

// StepCompensation is the action that undoes a step. Its expressions see the step's own outputs, too.
type StepCompensation struct {
	// Action that undoes.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Action string `json:"action"`
	// With are its inputs.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	With map[string]json.RawMessage `json:"with,omitempty"`
}

// WorkflowStatus says whether the workflow can be run.
type WorkflowStatus struct {
	// ObservedGeneration is the generation that was looked at.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions: Valid.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// WorkflowList is a list of Workflows.
//
// +kubebuilder:object:root=true
type WorkflowList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Workflow `json:"items"`
}

// StatusConditions gives the conditions for changing.
func (w *Workflow) StatusConditions() *[]metav1.Condition { return &w.Status.Conditions }

// SetObservedGeneration says for which generation of the spec the status was made.
func (w *Workflow) SetObservedGeneration(generation int64) { w.Status.ObservedGeneration = generation }
