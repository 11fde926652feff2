package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Product is a good that tenants ask for in ResourceRequests: a machine or a bundle of quota with a fixed size. Platform
// administrators say which there are.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:printcolumn:name="Display name",type=string,JSONPath=`.spec.displayName`
// +kubebuilder:printcolumn:name="Kind",type=string,JSONPath=`.spec.kind`
// +kubebuilder:printcolumn:name="CPU",type=string,JSONPath=`.spec.cpu`
// +kubebuilder:printcolumn:name="Memory",type=string,JSONPath=`.spec.memory`
// +kubebuilder:printcolumn:name="Available",type=boolean,JSONPath=`.spec.available`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63",message="a product's name has at most 63 characters"
type Product struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec ProductSpec `json:"spec"`
}

// ProductSpec describes a product.
// +kubebuilder:validation:XValidation:rule="quantity(string(self.cpu)).isGreaterThan(quantity('0'))",message="cpu must be more than 0"
// +kubebuilder:validation:XValidation:rule="quantity(string(self.memory)).isGreaterThan(quantity('0'))",message="memory must be more than 0"
type ProductSpec struct {
	// DisplayName is the product's name for people.
	// +optional
	// +kubebuilder:validation:MaxLength=100
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	DisplayName string `json:"displayName,omitempty"`
	// Kind of good: a physical machine, a virtual machine, or a piece of quota.
	// +required
	Kind ProductKind `json:"kind"`
	// CPU of one piece, in cores.
	// +required
	CPU resource.Quantity `json:"cpu"`
	// Memory of one piece.
	// +required
	Memory resource.Quantity `json:"memory"`
	// Description says what it is good for.
	// +optional
	// +kubebuilder:validation:MaxLength=1000
	Description string `json:"description,omitempty"`
	// Available products can be asked for.
	// +optional
	// +kubebuilder:default=true
	Available *bool `json:"available,omitempty"`
}

// ProductKind is the kind of good that a product is.
// +kubebuilder:validation:Enum=Physical;Virtual;Quota
type ProductKind string

// The kinds of products.
const (
	ProductPhysical ProductKind = "Physical"
	ProductVirtual  ProductKind = "Virtual"
	ProductQuota    ProductKind = "Quota"
)

// ProductList is a list of Products.
//
// +kubebuilder:object:root=true
type ProductList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Product `json:"items"`
}
