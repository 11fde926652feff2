package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Delivery is one application in one partition: which revisions with how many replicas it should have there, and what
// it has. It is written by the platform only, named <application>.<partition>, and labelled with application,
// partition and cluster.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Application",type=string,JSONPath=`.spec.application`
// +kubebuilder:printcolumn:name="Partition",type=string,JSONPath=`.spec.partition`
// +kubebuilder:printcolumn:name="Applied",type=string,JSONPath=`.status.conditions[?(@.type=="Applied")].status`
// +kubebuilder:printcolumn:name="Healthy",type=string,JSONPath=`.status.conditions[?(@.type=="Healthy")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Healthy")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Delivery struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec DeliverySpec `json:"spec"`
	// +optional
	Status DeliveryStatus `json:"status,omitempty"`
}

// DeliverySpec is what a partition should have of an application.
type DeliverySpec struct {
	// Application that is delivered.
	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="application cannot be changed"
	Application string `json:"application"`
	// Partition it is delivered to.
	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="partition cannot be changed"
	Partition string `json:"partition"`
	// Cluster of the partition.
	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cluster cannot be changed"
	Cluster string `json:"cluster"`
	// Tracks are the revisions that should run: one, or two during a rollout. The first is the stable one.
	// +required
	// +listType=map
	// +listMapKey=role
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	Tracks []Track `json:"tracks"`
	// Stopped takes away all pods and leaves everything else.
	// +optional
	Stopped bool `json:"stopped,omitempty"`
	// Traffic is what the partition gets of the requests that Routes bring.
	// +optional
	Traffic *Traffic `json:"traffic,omitempty"`
	// RollingUpdate bounds how many pods are exchanged at a time when a Deployment is changed in place. Where it says
	// nothing, components with a service lose no pod before the next one is ready.
	// +optional
	RollingUpdate *RollingUpdateStrategy `json:"rollingUpdate,omitempty"`
}

// Traffic is what a partition gets of the requests that Routes bring. Edge and gateways hold to it.
type Traffic struct {
	// Closed brings no new requests; what is under way may end.
	// +optional
	Closed bool `json:"closed,omitempty"`
	// UntilHealthy ends Closed by itself once the Delivery is Healthy at its newest generation and its cluster answers: for
	// partitions that cannot be reached now.
	// +optional
	UntilHealthy bool `json:"untilHealthy,omitempty"`
	// Weight of the candidate, in percent; 0 lets only those reach it who ask for it with the header that testers use.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Weight int32 `json:"weight,omitempty"`
	// Matches are the requests that the candidate gets whatever its weight.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Matches []RouteMatch `json:"matches,omitempty"`
	// Mirror is the percentage of the stable track's requests that the candidate gets a copy of.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Mirror int32 `json:"mirror,omitempty"`
}

// HeaderTrack is the request header with which testers reach the candidate before anybody else does: its value is
// Candidate.
const HeaderTrack = "Yunfan-Track"

// TrackRole says what a track is for. Stable: what users get. Candidate: what is being rolled out beside it.
// +kubebuilder:validation:Enum=Stable;Candidate
type TrackRole string

// The roles of tracks.
const (
	TrackStable    TrackRole = "Stable"
	TrackCandidate TrackRole = "Candidate"
)

// Track is one revision with its numbers of replicas.
type Track struct {
	// Role of the track.
	// +required
	Role TrackRole `json:"role"`
	// Revision that runs.
	// +required
	Revision string `json:"revision"`
	// Suffix of the names of its workloads: <component>-<suffix>, or <component> if empty. It is decided when the track
	// begins to run beside another, and kept for as long as the workloads live, for selectors cannot be changed.
	// +optional
	// +kubebuilder:validation:MaxLength=12
	// +kubebuilder:validation:Pattern=`^[a-z0-9]*$`
	Suffix string `json:"suffix,omitempty"`
	// Replicas by component, in this partition. DaemonSets have no entry.
	// +optional
	Replicas map[string]int32 `json:"replicas,omitempty"`
}

// DeliveryStatus is what the partition has, as last seen.
type DeliveryStatus struct {
	// ObservedGeneration is the generation of the spec this status was made for.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Inventory lists every object applied; pruning works from it and from nothing else.
	// +optional
	// +listType=atomic
	Inventory []InventoryEntry `json:"inventory,omitempty"`
	// Tracks are the revisions that run.
	// +optional
	// +listType=map
	// +listMapKey=role
	Tracks []TrackStatus `json:"tracks,omitempty"`
	// LastSeenTime is when the cluster last told of it; kept while the cluster cannot be reached.
	// +optional
	LastSeenTime *metav1.Time `json:"lastSeenTime,omitempty"`
	// Conditions: Applied says that the member holds every object; Healthy that all pods are as wanted and ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// InventoryEntry is one object in the partition's namespace.
type InventoryEntry struct {
	// Group of the object's API; empty for the core group.
	// +optional
	Group string `json:"group,omitempty"`
	// Version of the object's API.
	// +required
	Version string `json:"version"`
	// Kind of the object.
	// +required
	Kind string `json:"kind"`
	// Name of the object.
	// +required
	Name string `json:"name"`
	// Component it was made for; empty for what several share.
	// +optional
	Component string `json:"component,omitempty"`
}

// TrackStatus is one revision as it runs.
type TrackStatus struct {
	// Role of the track.
	// +required
	Role TrackRole `json:"role"`
	// Revision that was last applied.
	// +required
	Revision string `json:"revision"`
	// Components in the order of their names.
	// +optional
	// +listType=map
	// +listMapKey=name
	Components []ComponentStatus `json:"components,omitempty"`
}

// ComponentStatus is one component in one partition.
type ComponentStatus struct {
	// Name of the component.
	// +required
	Name string `json:"name"`
	// Revision that was last applied for this component; it lags while a dependency is not ready.
	// +optional
	Revision string `json:"revision,omitempty"`
	// Desired number of pods.
	// +optional
	Desired int32 `json:"desired"`
	// Updated number of pods that run the newest template.
	// +optional
	Updated int32 `json:"updated"`
	// Ready number of pods.
	// +optional
	Ready int32 `json:"ready"`
	// Reason why it is not ready; empty if it is.
	// +optional
	Reason string `json:"reason,omitempty"`
	// Message for the reason.
	// +optional
	Message string `json:"message,omitempty"`
}

// DeliveryList is a list of Deliveries.
//
// +kubebuilder:object:root=true
type DeliveryList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Delivery `json:"items"`
}

// DeliveryName is the name of the Delivery of an application to a partition. Neither name has a dot.
func DeliveryName(application, partition string) string { return application + "." + partition }
