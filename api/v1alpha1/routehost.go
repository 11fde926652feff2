package v1alpha1

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RouteHost reserves one host for one tenant. Its name is made of the host, so that of two tenants who want it only one
// can create it. It is written by the platform only, and goes when the tenant's last Route for the host has gone.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:printcolumn:name="Host",type=string,JSONPath=`.spec.host`
// +kubebuilder:printcolumn:name="Tenant",type=string,JSONPath=`.spec.tenant`
type RouteHost struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a reservation is never changed: it is deleted and made anew"
	Spec RouteHostSpec `json:"spec"`
}

// RouteHostSpec is a reservation.
type RouteHostSpec struct {
	// Host that is reserved; * for requests of any host.
	// +required
	Host string `json:"host"`
	// Tenant that has it.
	// +required
	Tenant string `json:"tenant"`
}

// RouteHostList is a list of RouteHosts.
//
// +kubebuilder:object:root=true
type RouteHostList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []RouteHost `json:"items"`
}

// AnyHost is the host of Routes that name none.
const AnyHost = "*"

// RouteHostName is the name of the reservation of a host.
func RouteHostName(host string) string {
	if host == AnyHost {
		return "any"
	}
	if rest, wildcard := strings.CutPrefix(host, "*."); wildcard {
		return "wildcard." + rest
	}
	return "host." + host
}
