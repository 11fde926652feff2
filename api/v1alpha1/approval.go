package v1alpha1

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Approval is somebody's decision on one step of one run. It can only be created. It counts if its user may decide on
// that step, is not the one who started the run, and decided on exactly what is to be decided; its condition Accepted
// says so.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:selectablefield:JSONPath=`.spec.runUID`
// +kubebuilder:printcolumn:name="Run",type=string,JSONPath=`.spec.run`
// +kubebuilder:printcolumn:name="Step",type=string,JSONPath=`.spec.step`
// +kubebuilder:printcolumn:name="Decision",type=string,JSONPath=`.spec.decision`
// +kubebuilder:printcolumn:name="By",type=string,JSONPath=`.spec.user.name`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Approval struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec ApprovalSpec `json:"spec"`
	// +optional
	Status ApprovalStatus `json:"status,omitempty"`
}

// ApprovalSpec is a decision. No part of it changes.
//
// +kubebuilder:validation:XValidation:rule="self.run == oldSelf.run && self.runUID == oldSelf.runUID && self.step == oldSelf.step && self.digest == oldSelf.digest && self.decision == oldSelf.decision && has(self.user) == has(oldSelf.user) && (!has(self.user) || self.user == oldSelf.user) && (has(self.comment) == has(oldSelf.comment)) && (!has(self.comment) || self.comment == oldSelf.comment)",message="an approval cannot be changed"
// +kubebuilder:validation:XValidation:rule="self.decision == 'Approved' || (has(self.comment) && self.comment.size() > 0)",message="say in comment why it is rejected"
type ApprovalSpec struct {
	// Run that is decided on, of the same namespace.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=100
	Run string `json:"run"`
	// RunUID of that run: a later one of the same name is another.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	RunUID string `json:"runUID"`
	// Step that waits for it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Step string `json:"step"`
	// Digest of what is decided on, from the run's status.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=100
	Digest string `json:"digest"`
	// Decision taken.
	// +required
	// +kubebuilder:validation:Enum=Approved;Rejected
	Decision Decision `json:"decision"`
	// Comment for whoever asked; a rejection needs one.
	// +optional
	// +kubebuilder:validation:MaxLength=2000
	Comment string `json:"comment,omitempty"`
	// Values approved in place of those asked for, where the step allows it.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Values map[string]json.RawMessage `json:"values,omitempty"`
	// User who decided: written by admission, whatever a client says.
	// +optional
	User *Actor `json:"user,omitempty"`
}

// Decision is approved or rejected.
type Decision string

// The decisions.
const (
	DecisionApproved Decision = "Approved"
	DecisionRejected Decision = "Rejected"
)

// ApprovalStatus says whether the approval counts.
type ApprovalStatus struct {
	// Conditions: Accepted.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ApprovalList is a list of Approvals.
//
// +kubebuilder:object:root=true
type ApprovalList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Approval `json:"items"`
}
