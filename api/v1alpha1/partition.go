package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Partition is a namespace in one cluster with quota, limits, node pool, isolation and security level, bound to the
// tenant in whose hub namespace it lives.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Cluster",type=string,JSONPath=`.spec.cluster`
// +kubebuilder:printcolumn:name="Namespace",type=string,JSONPath=`.status.namespace`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Pods",type=integer,JSONPath=`.status.pods`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 40",message="a partition's name has at most 40 characters: names of other objects are made from it"
// +kubebuilder:validation:XValidation:rule="!self.metadata.name.contains('.')",message="a partition's name has no dots: it becomes part of a namespace's name"
// +kubebuilder:validation:XValidation:rule="!has(self.spec.parent) || self.spec.parent != self.metadata.name",message="a partition is not a part of itself: name another in spec.parent"
type Partition struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec PartitionSpec `json:"spec"`
	// +optional
	Status PartitionStatus `json:"status,omitempty"`
}

// PartitionSpec describes a partition.
// +kubebuilder:validation:XValidation:rule="has(self.__namespace__) == has(oldSelf.__namespace__) && (!has(self.__namespace__) || self.__namespace__ == oldSelf.__namespace__)",message="namespace cannot be changed: make a new partition and move the applications"
// +kubebuilder:validation:XValidation:rule="has(self.parent) == has(oldSelf.parent) && (!has(self.parent) || self.parent == oldSelf.parent)",message="parent cannot be changed: make a new partition and move the applications"
// +kubebuilder:validation:XValidation:rule="!has(self.parent) || !has(self.adopt) || !self.adopt",message="a sub-partition makes a namespace of its own: leave adopt out"
type PartitionSpec struct {
	// Cluster the partition is in.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cluster cannot be changed: make a new partition and move the applications"
	Cluster string `json:"cluster"`
	// Parent is the partition of the same tenant and cluster that this one is a part of. Its quota is taken out of the
	// parent's, not out of the tenant's; it has the parent's nodes, or some of them, and at least its isolation and pod
	// security. A sub-partition has no parts of its own. Its namespace begins with the tenant's name.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	Parent string `json:"parent,omitempty"`
	// Namespace in the cluster; <tenant>-<name> if empty. System namespaces are refused.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="!(self == 'default' || self.startsWith('kube-') || self.startsWith('yunfan'))",message="the namespaces default, kube-* and yunfan* belong to the system: choose another"
	Namespace string `json:"namespace,omitempty"`
	// Adopt takes over a namespace that already exists; it stays when the partition is deleted.
	// +optional
	Adopt bool `json:"adopt,omitempty"`
	// Environment the partition is for.
	// +optional
	// +kubebuilder:validation:Enum=Production;Test;Development
	Environment string `json:"environment,omitempty"`
	// Nodes is the node pool; all nodes if empty.
	// +optional
	Nodes NodePool `json:"nodes,omitempty"`
	// Quota becomes a ResourceQuota: requests.cpu, limits.memory, pods, services, …
	// +optional
	Quota corev1.ResourceList `json:"quota,omitempty"`
	// Limits become a LimitRange: minimum, maximum, default and ratio per container, pod or claim.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=10
	Limits []corev1.LimitRangeItem `json:"limits,omitempty"`
	// Isolation becomes NetworkPolicies.
	// +optional
	Isolation Isolation `json:"isolation,omitempty"`
	// NetworkPolicies are applied to the namespace beside what isolation says: what any of them allows is allowed.
	// Policies of the namespace that are not listed here are not touched.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=20
	NetworkPolicies []PartitionNetworkPolicy `json:"networkPolicies,omitempty"`
	// PodSecurity is the Pod Security Standard that the cluster enforces in the namespace. Privileged is for platform
	// administrators.
	// +optional
	// +kubebuilder:default=Baseline
	PodSecurity PodSecurityLevel `json:"podSecurity,omitempty"`
	// DeletionPolicy says what deleting the partition does while applications are delivered to it.
	// +optional
	// +kubebuilder:default=Refuse
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`
	// ReleaseApproval Required holds a new revision of an application back from the partition until an Admin of the
	// tenant has approved it, or a platform administrator: never who made the change. Sub-partitions have it from their
	// parent.
	// +optional
	ReleaseApproval ReleaseApproval `json:"releaseApproval,omitempty"`
}

// ReleaseApproval says whether somebody must approve what is released to a partition.
// +kubebuilder:validation:Enum=Required
type ReleaseApproval string

// ReleaseApprovalRequired asks for approval.
const ReleaseApprovalRequired ReleaseApproval = "Required"

// NodePool is a set of nodes.
// +kubebuilder:validation:XValidation:rule="!has(self.exclusive) || !self.exclusive || (has(self.selector) && size(self.selector) > 0)",message="exclusive needs a selector: it would take every node of the cluster"
type NodePool struct {
	// Selector is the labels of the nodes; all nodes if empty.
	// +optional
	// +kubebuilder:validation:MaxProperties=10
	Selector map[string]string `json:"selector,omitempty"`
	// Exclusive keeps other tenants' pods off these nodes, by a taint.
	// +optional
	Exclusive bool `json:"exclusive,omitempty"`
}

// IsolationLevel says with whom pods may talk. All: everybody. Tenant: pods of the same tenant. Partition: pods of the
// same partition. None: nobody.
// +kubebuilder:validation:Enum=All;Tenant;Partition;None
type IsolationLevel string

// The isolation levels.
const (
	IsolationAll       IsolationLevel = "All"
	IsolationTenant    IsolationLevel = "Tenant"
	IsolationPartition IsolationLevel = "Partition"
	IsolationNone      IsolationLevel = "None"
)

// Isolation is the network isolation of a partition, each way. Management ports of clusters are closed to pods whatever
// it says. With egress Tenant or Partition the cluster's name service is reachable, with None it is not.
type Isolation struct {
	// Ingress says who may talk to the partition's pods. With Tenant and Partition, services of type NodePort and
	// LoadBalancer are reachable from outside on their own ports.
	// +optional
	// +kubebuilder:default=Tenant
	Ingress IsolationLevel `json:"ingress,omitempty"`
	// Egress says to whom the partition's pods may talk.
	// +optional
	// +kubebuilder:default=All
	Egress IsolationLevel `json:"egress,omitempty"`
	// APIServer lets pods talk to the API server of their cluster, for applications that are controllers themselves.
	// +optional
	APIServer bool `json:"apiServer,omitempty"`
}

// PartitionNetworkPolicy is a NetworkPolicy of a partition's namespace. A namespace selector in it that names neither
// the label yunfan.io/tenant nor kubernetes.io/metadata.name selects namespaces of the same tenant, and those that
// belong to no tenant: labels of other tenants' namespaces are theirs to choose.
type PartitionNetworkPolicy struct {
	// Name of the NetworkPolicy. Names that begin with yunfan are the platform's.
	// +required
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('yunfan')",message="names that begin with yunfan are the platform's: choose another"
	Name string `json:"name"`
	// Spec as Kubernetes has it: which pods, and who may talk to them and to whom they may talk.
	// +required
	Spec networkingv1.NetworkPolicySpec `json:"spec"`
}

// PodSecurityLevel is a Pod Security Standard.
// +kubebuilder:validation:Enum=Restricted;Baseline;Privileged
type PodSecurityLevel string

// The pod security levels.
const (
	PodSecurityRestricted PodSecurityLevel = "Restricted"
	PodSecurityBaseline   PodSecurityLevel = "Baseline"
	PodSecurityPrivileged PodSecurityLevel = "Privileged"
)

// DeletionPolicy says what deleting a partition does. Refuse: it waits while applications are delivered there. Delete:
// they are removed with it.
// +kubebuilder:validation:Enum=Refuse;Delete
type DeletionPolicy string

// The deletion policies.
const (
	DeletionRefuse DeletionPolicy = "Refuse"
	DeletionDelete DeletionPolicy = "Delete"
)

// PartitionStatus is what was last seen of a partition.
type PartitionStatus struct {
	// ObservedGeneration is the generation of the spec this status was made for.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Namespace in the cluster.
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// Pool is the node pool of a sub-partition as it is enforced: its parent's if it has none of its own.
	// +optional
	Pool *NodePool `json:"pool,omitempty"`
	// Allocated is what sub-partitions were given of this partition's quota. One is given something by writing it here,
	// so that two cannot be given the same; what is left is enforced in the partition itself.
	// +optional
	// +listType=map
	// +listMapKey=partition
	Allocated []Allocation `json:"allocated,omitempty"`
	// Hard is the quota as the cluster enforces it.
	// +optional
	Hard corev1.ResourceList `json:"hard,omitempty"`
	// Used is what of the quota is used.
	// +optional
	Used corev1.ResourceList `json:"used,omitempty"`
	// Nodes is the number of nodes in the pool.
	// +optional
	Nodes int32 `json:"nodes"`
	// Free is the sum over the pool's nodes of what is allocatable and not requested by a pod.
	// +optional
	Free corev1.ResourceList `json:"free,omitempty"`
	// Pods is the number of pods that have not ended.
	// +optional
	Pods int32 `json:"pods"`
	// Conditions: Ready says that the namespace is set up; TrafficReady that its data plane answers.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// PartitionList is a list of Partitions.
//
// +kubebuilder:object:root=true
type PartitionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Partition `json:"items"`
}

// MemberNamespace is the namespace of the partition in its cluster.
func (p *Partition) MemberNamespace() string {
	if p.Spec.Namespace != "" {
		return p.Spec.Namespace
	}
	return p.Namespace + "-" + p.Name
}

// NodePool is the pool of nodes that the partition's pods run on.
func (p *Partition) NodePool() NodePool {
	if p.Spec.Parent != "" && p.Status.Pool != nil {
		return *p.Status.Pool
	}
	return p.Spec.Nodes
}
