package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Tenant is a project or department. It owns the hub namespace of the same name, in which its partitions,
// configurations and applications live.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Display name",type=string,JSONPath=`.spec.displayName`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Within quota",type=string,JSONPath=`.status.conditions[?(@.type=="WithinQuota")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 40",message="a tenant's name has at most 40 characters: names of namespaces are made from it"
// +kubebuilder:validation:XValidation:rule="!self.metadata.name.contains('.')",message="a tenant's name has no dots: it is the name of a namespace"
// +kubebuilder:validation:XValidation:rule="!(self.metadata.name == 'default' || self.metadata.name.startsWith('kube-') || self.metadata.name.startsWith('yunfan'))",message="the names default, kube-* and yunfan* belong to the system: choose another"
type Tenant struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec TenantSpec `json:"spec,omitempty"`
	// +optional
	Status TenantStatus `json:"status,omitempty"`
}

// TenantSpec describes a tenant.
type TenantSpec struct {
	// DisplayName is the tenant's name for people.
	// +optional
	// +kubebuilder:validation:MaxLength=100
	DisplayName string `json:"displayName,omitempty"`
	// Quota bounds the sum of the hard quotas of the tenant's partitions, per resource.
	// +optional
	Quota corev1.ResourceList `json:"quota,omitempty"`
}

// TenantStatus is the state of a tenant.
type TenantStatus struct {
	// ObservedGeneration is the generation of the spec this status was made for.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Allocated is what the tenant's partitions were given of its quota. A partition is given something by writing it
	// here, so that two cannot be given the same.
	// +optional
	// +listType=map
	// +listMapKey=partition
	Allocated []Allocation `json:"allocated,omitempty"`
	// Conditions: Ready says that the tenant's hub namespace exists; WithinQuota that its partitions were not given more
	// than its quota, which lowering the quota can do.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Allocation is what one partition was given of its tenant's quota.
type Allocation struct {
	// Partition in the tenant's hub namespace.
	// +required
	Partition string `json:"partition"`
	// Quota of the partition.
	// +optional
	Quota corev1.ResourceList `json:"quota,omitempty"`
}

// TenantList is a list of Tenants.
//
// +kubebuilder:object:root=true
type TenantList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Tenant `json:"items"`
}
