package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Cluster is a member: a Kubernetes cluster that Yunfan manages.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.status.nodes.total`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.kubernetesVersion`
// +kubebuilder:printcolumn:name="Last seen",type=date,JSONPath=`.status.lastSeenTime`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 40",message="a cluster's name has at most 40 characters: names of other objects are made from it"
type Cluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec ClusterSpec `json:"spec"`
	// +optional
	Status ClusterStatus `json:"status,omitempty"`
}

// ClusterSpec says how a cluster is reached.
type ClusterSpec struct {
	// DisplayName is the cluster's name for people.
	// +optional
	// +kubebuilder:validation:MaxLength=100
	DisplayName string `json:"displayName,omitempty"`
	// Remarks are free text.
	// +optional
	// +kubebuilder:validation:MaxLength=1000
	Remarks string `json:"remarks,omitempty"`
	// Connection says how the hub reaches the cluster.
	// +required
	Connection ClusterConnection `json:"connection"`
	// OnRemoval says what happens to the workloads delivered there when this object is deleted.
	// +optional
	// +kubebuilder:default=Keep
	OnRemoval RemovalPolicy `json:"onRemoval,omitempty"`
	// PortReport has a small program run on each node, which reports the ports that programs of the node listen on, so
	// that they are refused as node ports.
	// +optional
	// +kubebuilder:default=Off
	PortReport PortReport `json:"portReport,omitempty"`
	// PodCIDRs are the ranges that pods have their addresses from; those that nodes tell if empty. Published services
	// are opened to everything else.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=20
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self)",message="write a range like 10.244.0.0/16"
	PodCIDRs []string `json:"podCIDRs,omitempty"`
	// ExternalIPs are the addresses, as ranges like 203.0.113.16/28, that services of partitions may be published on.
	// Services that ask for another are refused.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=20
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self)",message="write a range like 203.0.113.16/28, or one address as 203.0.113.16/32"
	ExternalIPs []string `json:"externalIPs,omitempty"`
	// Gateway is what brings requests from the edge to pods.
	// +optional
	Gateway Gateway `json:"gateway,omitempty"`
}

// Gateway is what brings requests from the edge to pods.
type Gateway struct {
	// Mode Managed has the platform run a gateway on each node; None brings no Routes to this cluster.
	// +optional
	// +kubebuilder:default=None
	Mode GatewayMode `json:"mode,omitempty"`
	// NodePort at which the gateway of each node answers the edge; 30080 is the default.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	NodePort int32 `json:"nodePort,omitempty"`
	// Image of the gateway; the platform's own if empty.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Image string `json:"image,omitempty"`
}

// GatewayMode says who runs the gateway.
// +kubebuilder:validation:Enum=None;Managed
type GatewayMode string

// Who runs the gateway.
const (
	GatewayNone    GatewayMode = "None"
	GatewayManaged GatewayMode = "Managed"
)

// PortReport says what is reported of each node. Off: nothing. Ports: ports in use. Programs: and the names of the
// programs, for which the reporter sees all processes of the node.
// +kubebuilder:validation:Enum=Off;Ports;Programs
type PortReport string

// The kinds of report.
const (
	PortReportOff      PortReport = "Off"
	PortReportPorts    PortReport = "Ports"
	PortReportPrograms PortReport = "Programs"
)

// RemovalPolicy says what becomes of workloads: Keep leaves them running, Delete removes the partitions' namespaces.
// +kubebuilder:validation:Enum=Keep;Delete
type RemovalPolicy string

// The removal policies.
const (
	RemovalKeep   RemovalPolicy = "Keep"
	RemovalDelete RemovalPolicy = "Delete"
)

// ConnectionMode is the way to a cluster. Direct: the hub dials the API server named in a kubeconfig.
// +kubebuilder:validation:Enum=Direct
type ConnectionMode string

// ConnectionDirect dials the API server.
const ConnectionDirect ConnectionMode = "Direct"

// ClusterConnection says how the hub reaches a cluster.
// +kubebuilder:validation:XValidation:rule="self.mode != 'Direct' || has(self.kubeconfigSecretRef)",message="mode Direct needs kubeconfigSecretRef: the Secret in the platform's namespace that holds the kubeconfig"
type ClusterConnection struct {
	// Mode is the way to the cluster.
	// +optional
	// +kubebuilder:default=Direct
	Mode ConnectionMode `json:"mode,omitempty"`
	// KubeconfigSecretRef names a Secret in the platform's namespace (yunfan-system) whose key "kubeconfig" holds the
	// kubeconfig. Certificates and tokens must be inside it: files and commands are refused.
	// +optional
	KubeconfigSecretRef *SecretReference `json:"kubeconfigSecretRef,omitempty"`
}

// SecretReference names a Secret in the platform's namespace.
type SecretReference struct {
	// Name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// ClusterStatus is what was last seen of the cluster.
type ClusterStatus struct {
	// ObservedGeneration is the generation of the spec this status was made for.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// UID is the uid of the cluster's kube-system namespace: the cluster's identity.
	// +optional
	UID string `json:"uid,omitempty"`
	// KubernetesVersion is the API server's version, like v1.36.3.
	// +optional
	KubernetesVersion string `json:"kubernetesVersion,omitempty"`
	// Nodes counts the cluster's nodes.
	// +optional
	Nodes NodeCount `json:"nodes,omitempty"`
	// Capacity is the sum over all nodes.
	// +optional
	Capacity corev1.ResourceList `json:"capacity,omitempty"`
	// Allocatable is the sum over all ready, schedulable nodes.
	// +optional
	Allocatable corev1.ResourceList `json:"allocatable,omitempty"`
	// Requested is the sum of the requests of all pods that have not ended, and their number under "pods".
	// +optional
	Requested corev1.ResourceList `json:"requested,omitempty"`
	// Network is what of the cluster is kept from tenants' pods.
	// +optional
	Network ClusterNetwork `json:"network,omitempty"`
	// Gateways are the replicas of the gateway, in the order of their nodes.
	// +optional
	// +listType=map
	// +listMapKey=node
	// +kubebuilder:validation:MaxItems=1000
	Gateways []GatewayReplica `json:"gateways,omitempty"`
	// LastSeenTime is when the API server last answered. While it answers it is renewed every 30 seconds only.
	// +optional
	LastSeenTime *metav1.Time `json:"lastSeenTime,omitempty"`
	// Conditions: Ready says that the control plane answers.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ClusterNetwork are a cluster's addresses. Neighbouring ranges are joined; of very many, ranges are given that hold
// them.
type ClusterNetwork struct {
	// APIServers are the addresses, with port, at which API servers answer: those that the cluster's own pods are led
	// to, and the one that the platform uses.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	APIServers []string `json:"apiServers,omitempty"`
	// Nodes are the ranges of the nodes' addresses.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Nodes []string `json:"nodes,omitempty"`
	// Pods are the ranges of pods' addresses; empty if neither spec.podCIDRs nor nodes tell.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Pods []string `json:"pods,omitempty"`
}

// GatewayReplica is the gateway on one node.
type GatewayReplica struct {
	// Node it runs on.
	// +required
	Node string `json:"node"`
	// Pod it is.
	// +optional
	Pod string `json:"pod,omitempty"`
	// Address at which it answers the edge, like 192.0.2.7:30080.
	// +optional
	Address string `json:"address,omitempty"`
	// Ready says that it answers.
	// +optional
	Ready bool `json:"ready"`
}

// NodeCount counts nodes.
type NodeCount struct {
	// Total number of nodes.
	// +optional
	Total int32 `json:"total"`
	// Ready is the number of nodes whose kubelet says they are ready.
	// +optional
	Ready int32 `json:"ready"`
}

// ClusterList is a list of Clusters.
//
// +kubebuilder:object:root=true
type ClusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Cluster `json:"items"`
}
