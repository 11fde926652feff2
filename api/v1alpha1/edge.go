package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Edge is a load balancer in front of all clusters, which the platform drives. All Edges serve all Routes.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Driver",type=string,JSONPath=`.spec.driver`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 40",message="an edge's name has at most 40 characters"
type Edge struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec EdgeSpec `json:"spec"`
	// +optional
	Status EdgeStatus `json:"status,omitempty"`
}

// EdgeDriver is the kind of load balancer. Agent: HAProxy, Traefik or Nginx, run by `yunfan edge` on machines of one's
// own. F5: an F5 BIG-IP whose pools are there already; the platform opens and closes their members.
// +kubebuilder:validation:Enum=Agent;F5
type EdgeDriver string

// The drivers.
const (
	EdgeDriverAgent EdgeDriver = "Agent"
	EdgeDriverF5    EdgeDriver = "F5"
)

// EdgeSpec says how an edge is reached.
type EdgeSpec struct {
	// Driver of the load balancer.
	// +optional
	// +kubebuilder:default=Agent
	Driver EdgeDriver `json:"driver,omitempty"`
	// Endpoints are the URLs of the replicas' interfaces, like https://192.0.2.1:8444. A change counts when all of them
	// serve it.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:Pattern=`^https?://`
	Endpoints []string `json:"endpoints"`
	// CredentialsSecretRef names a Secret in the platform's namespace: "token" for an Agent; "username" and "password" for
	// F5; and "ca.crt" if the interface's certificate is not signed by a public authority.
	// +required
	CredentialsSecretRef SecretReference `json:"credentialsSecretRef"`
	// Addresses at which users reach it, like http://192.0.2.1 and https://192.0.2.1; shown in Routes.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:Pattern=`^https?://`
	Addresses []string `json:"addresses,omitempty"`
}

// EdgeStatus is what was last seen of an edge.
type EdgeStatus struct {
	// ObservedGeneration is the generation of the spec this status was made for.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Replicas in the order of the endpoints.
	// +optional
	// +listType=map
	// +listMapKey=endpoint
	Replicas []EdgeReplica `json:"replicas,omitempty"`
	// Conditions: Ready says that every replica answers and serves the newest table.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// EdgeReplica is one replica of an edge.
type EdgeReplica struct {
	// Endpoint of its interface.
	// +required
	Endpoint string `json:"endpoint"`
	// Program that carries the requests, with its version, like haproxy 2.6.12.
	// +optional
	Program string `json:"program,omitempty"`
	// Serving says whether it serves the newest table.
	// +optional
	Serving bool `json:"serving"`
	// Message says why it does not.
	// +optional
	Message string `json:"message,omitempty"`
}

// EdgeList is a list of Edges.
//
// +kubebuilder:object:root=true
type EdgeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Edge `json:"items"`
}

// StatusConditions gives the conditions, to be read and set.
func (o *Edge) StatusConditions() *[]metav1.Condition { return &o.Status.Conditions }

// SetObservedGeneration says for which generation of the spec the status was made.
func (o *Edge) SetObservedGeneration(generation int64) { o.Status.ObservedGeneration = generation }
