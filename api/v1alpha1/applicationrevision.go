package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ApplicationRevision is an immutable snapshot of what an Application runs, with the versions of the configurations it
// uses. Numbers of replicas, placement and stop are not part of it: changing them makes no new revision. It is written
// by the platform only and named <application>-<hash>.
//
// +kubebuilder:object:root=true
// +kubebuilder:printcolumn:name="Application",type=string,JSONPath=`.spec.application`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.spec.version`
// +kubebuilder:printcolumn:name="Number",type=integer,JSONPath=`.spec.number`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ApplicationRevision struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a revision is never changed"
	Spec ApplicationRevisionSpec `json:"spec"`
}

// ApplicationRevisionSpec is the snapshot.
type ApplicationRevisionSpec struct {
	// Application it is a snapshot of.
	// +required
	// +kubebuilder:validation:MinLength=1
	Application string `json:"application"`
	// Number counts the application's revisions from 1.
	// +required
	// +kubebuilder:validation:Minimum=1
	Number int64 `json:"number"`
	// Version is the user's word for it.
	// +optional
	Version string `json:"version,omitempty"`
	// Components without their numbers of replicas. The schema is not repeated: the Application they were copied from
	// was checked by it.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:pruning:PreserveUnknownFields
	Components []Component `json:"components,omitempty"`
	// Chart instead of components.
	// +optional
	Chart *Chart `json:"chart,omitempty"`
	// Overrides per partition.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:pruning:PreserveUnknownFields
	Overrides []PartitionOverrides `json:"overrides,omitempty"`
	// Configurations are the versions of the configurations that the components use.
	// +optional
	// +listType=map
	// +listMapKey=name
	Configurations []ConfigurationPin `json:"configurations,omitempty"`
}

// PartitionOverrides are the overrides of one partition.
type PartitionOverrides struct {
	// Partition they apply to.
	// +required
	Partition string `json:"partition"`
	// Overrides per component.
	// +required
	// +listType=map
	// +listMapKey=component
	Overrides []Override `json:"overrides"`
}

// ConfigurationPin is one version of a configuration.
type ConfigurationPin struct {
	// Name of the configuration.
	// +required
	Name string `json:"name"`
	// Type of the configuration.
	// +required
	Type ConfigurationType `json:"type"`
	// Version of the configuration.
	// +required
	Version string `json:"version"`
}

// ApplicationRevisionList is a list of ApplicationRevisions.
//
// +kubebuilder:object:root=true
type ApplicationRevisionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ApplicationRevision `json:"items"`
}
