package v1alpha1

import (
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodePort reserves one node port of one cluster for one application. Its name is made of cluster and port, so that of
// two who want it only one can create it. It is written by the platform only.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:printcolumn:name="Cluster",type=string,JSONPath=`.spec.cluster`
// +kubebuilder:printcolumn:name="Port",type=integer,JSONPath=`.spec.port`
// +kubebuilder:printcolumn:name="Tenant",type=string,JSONPath=`.spec.owner.tenant`
// +kubebuilder:printcolumn:name="Application",type=string,JSONPath=`.spec.owner.application`
// +kubebuilder:printcolumn:name="Partition",type=string,JSONPath=`.spec.owner.partition`
// +kubebuilder:printcolumn:name="Component",type=string,JSONPath=`.spec.owner.component`
type NodePort struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a reservation is never changed: it is deleted and made anew"
	Spec NodePortSpec `json:"spec"`
}

// NodePortSpec is a reservation.
type NodePortSpec struct {
	// Cluster on whose nodes the port is.
	// +required
	Cluster string `json:"cluster"`
	// Port number.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// Owner of the reservation.
	// +required
	Owner NodePortOwner `json:"owner"`
}

// NodePortOwner is a component of an application in a partition.
type NodePortOwner struct {
	// Tenant of the application.
	// +required
	Tenant string `json:"tenant"`
	// Application that has the port.
	// +required
	Application string `json:"application"`
	// Partition in which it has it.
	// +required
	Partition string `json:"partition"`
	// Component whose service has it.
	// +required
	Component string `json:"component"`
	// PortName is the name of the service's port.
	// +required
	PortName string `json:"portName"`
}

// NodePortList is a list of NodePorts.
//
// +kubebuilder:object:root=true
type NodePortList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodePort `json:"items"`
}

// NodePortName is the name of the reservation of a port on a cluster.
func NodePortName(cluster string, port int32) string {
	return cluster + "." + strconv.Itoa(int(port))
}
