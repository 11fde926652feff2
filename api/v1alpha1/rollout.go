package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Rollout moves an application from one revision to another over its partitions, by a strategy. The platform makes one
// for each change of an Application's components or configurations; it owns exactly one WorkflowRun, in which each step
// can be watched, paused, approved, retried and aborted. It is written by the platform only.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Application",type=string,JSONPath=`.spec.application`
// +kubebuilder:printcolumn:name="Strategy",type=string,JSONPath=`.spec.strategy.type`
// +kubebuilder:printcolumn:name="From",type=string,JSONPath=`.spec.from`
// +kubebuilder:printcolumn:name="To",type=string,JSONPath=`.spec.to`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Rollout struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a rollout is never changed: change the application, or abort the rollout's run"
	Spec RolloutSpec `json:"spec"`
	// +optional
	Status RolloutStatus `json:"status,omitempty"`
}

// RolloutSpec is what is moved where, and how.
type RolloutSpec struct {
	// Application that is moved.
	// +required
	Application string `json:"application"`
	// From is the revision that ran before, and to which it goes back.
	// +required
	From string `json:"from"`
	// To is the revision that it moves to.
	// +required
	To string `json:"to"`
	// Strategy by which it moves.
	// +required
	Strategy Strategy `json:"strategy"`
	// Partitions that move, in the order of their names. Those that come later begin with the revision that won.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	Partitions []string `json:"partitions"`
	// User who changed the application, as Kubernetes knows him.
	// +optional
	User string `json:"user,omitempty"`
}

// RolloutPhase is where a rollout is.
type RolloutPhase string

// The phases of a rollout. Pending: another rollout of the application has not ended. Aborted and Failed: every partition
// that can be reached is back at the revision it came from. Refused: it was never begun, and why is in the message.
const (
	RolloutPending   RolloutPhase = "Pending"
	RolloutRunning   RolloutPhase = "Running"
	RolloutSucceeded RolloutPhase = "Succeeded"
	RolloutFailed    RolloutPhase = "Failed"
	RolloutAborted   RolloutPhase = "Aborted"
	RolloutRefused   RolloutPhase = "Refused"
)

// Ended says whether a rollout does nothing more.
func (p RolloutPhase) Ended() bool {
	return p == RolloutSucceeded || p == RolloutFailed || p == RolloutAborted || p == RolloutRefused
}

// RolloutStatus is how far a rollout is.
type RolloutStatus struct {
	// ObservedGeneration is the generation of the spec this status was made for.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Phase of the rollout.
	// +optional
	Phase RolloutPhase `json:"phase,omitempty"`
	// Message for the phase.
	// +optional
	Message string `json:"message,omitempty"`
	// Run is the WorkflowRun in which it happens.
	// +optional
	Run string `json:"run,omitempty"`
	// Plan says before it begins what will be done and what users will notice: which components run side by side, which
	// are changed in place and why, what is interrupted.
	// +optional
	// +listType=atomic
	Plan []string `json:"plan,omitempty"`
	// Weight is the share of requests that the new revision gets where it runs beside the old one, in percent.
	// +optional
	Weight int32 `json:"weight,omitempty"`
	// Partitions in the order of their names.
	// +optional
	// +listType=map
	// +listMapKey=partition
	Partitions []RolloutPartition `json:"partitions,omitempty"`
	// StartTime is when its run began.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`
	// EndTime is when it ended.
	// +optional
	EndTime *metav1.Time `json:"endTime,omitempty"`
	// Conditions: Succeeded is Unknown until it has ended.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// RolloutPartitionPhase is where a rollout is in one partition.
type RolloutPartitionPhase string

// The phases in a partition. Unreachable: its cluster does not answer; it is out of the traffic, and comes to the
// revision that has won when it answers again.
const (
	RolloutPartitionWaiting     RolloutPartitionPhase = "Waiting"
	RolloutPartitionMoving      RolloutPartitionPhase = "Moving"
	RolloutPartitionMoved       RolloutPartitionPhase = "Moved"
	RolloutPartitionReturned    RolloutPartitionPhase = "Returned"
	RolloutPartitionUnreachable RolloutPartitionPhase = "Unreachable"
)

// RolloutPartition is one partition of a rollout.
type RolloutPartition struct {
	// Partition that moves.
	// +required
	Partition string `json:"partition"`
	// Cluster of the partition.
	// +optional
	Cluster string `json:"cluster,omitempty"`
	// Phase of it.
	// +optional
	Phase RolloutPartitionPhase `json:"phase,omitempty"`
	// Message for the phase.
	// +optional
	Message string `json:"message,omitempty"`
}

// RolloutList is a list of Rollouts.
//
// +kubebuilder:object:root=true
type RolloutList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Rollout `json:"items"`
}

// StatusConditions gives the conditions, to be read and set.
func (o *Rollout) StatusConditions() *[]metav1.Condition { return &o.Status.Conditions }

// SetObservedGeneration says for which generation of the spec the status was made.
func (o *Rollout) SetObservedGeneration(generation int64) { o.Status.ObservedGeneration = generation }
