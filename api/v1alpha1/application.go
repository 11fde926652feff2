package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Application is a set of components, or a Helm chart, and where they run.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.spec.version`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Pods",type=string,JSONPath=`.status.pods`
// +kubebuilder:printcolumn:name="Revision",type=string,JSONPath=`.status.revision`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 40",message="an application's name has at most 40 characters: names of other objects are made from it"
// +kubebuilder:validation:XValidation:rule="!self.metadata.name.contains('.')",message="an application's name has no dots"
type Application struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec ApplicationSpec `json:"spec"`
	// +optional
	Status ApplicationStatus `json:"status,omitempty"`
}

// ApplicationSpec says what runs where.
// +kubebuilder:validation:XValidation:rule="has(self.components) != has(self.chart)",message="an application has either components or a chart, not both and not neither"
type ApplicationSpec struct {
	// Version is the user's word for what runs; it is shown, and never part of a selector or an object's name.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Version string `json:"version,omitempty"`
	// Description is free text.
	// +optional
	// +kubebuilder:validation:MaxLength=1000
	Description string `json:"description,omitempty"`
	// Components are the parts of the application; each has its own pods, and its own service if it has ports.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Components []Component `json:"components,omitempty"`
	// Chart is a Helm chart, instead of components.
	// +optional
	Chart *Chart `json:"chart,omitempty"`
	// Placement says in which partitions it runs.
	// +required
	Placement Placement `json:"placement"`
	// Strategy is the default way to move from one revision to the next.
	// +optional
	Strategy Strategy `json:"strategy,omitempty"`
	// Stopped takes away all pods; everything else stays: services, volumes, node ports.
	// +optional
	Stopped bool `json:"stopped,omitempty"`
}

// WorkloadKind is the kind of Kubernetes object that holds a component's pods. External is a service outside
// Kubernetes that pods reach by the component's name.
// +kubebuilder:validation:Enum=Deployment;StatefulSet;DaemonSet;ReplicationController;Job;CronJob;External
type WorkloadKind string

// The kinds of workload.
const (
	WorkloadDeployment            WorkloadKind = "Deployment"
	WorkloadStatefulSet           WorkloadKind = "StatefulSet"
	WorkloadDaemonSet             WorkloadKind = "DaemonSet"
	WorkloadReplicationController WorkloadKind = "ReplicationController"
	WorkloadJob                   WorkloadKind = "Job"
	WorkloadCronJob               WorkloadKind = "CronJob"
	WorkloadExternal              WorkloadKind = "External"
)

// Component is one part of an application.
// +kubebuilder:validation:XValidation:rule="(self.workload == 'CronJob') == has(self.schedule)",message="schedule belongs to a CronJob, and a CronJob needs one"
// +kubebuilder:validation:XValidation:rule="(self.workload == 'External') == has(self.external)",message="external belongs to the workload External, which needs it"
// +kubebuilder:validation:XValidation:rule="self.workload == 'External' || has(self.template)",message="a component needs a pod template"
// +kubebuilder:validation:XValidation:rule="!has(self.volumeClaimTemplates) || self.workload == 'StatefulSet'",message="volumeClaimTemplates belong to a StatefulSet"
// +kubebuilder:validation:XValidation:rule="!has(self.replicas) || !(self.workload in ['DaemonSet', 'External'])",message="a DaemonSet runs on every node of the partition and External has no pods: replicas cannot be set"
// +kubebuilder:validation:XValidation:rule="self.workload != 'External' || has(self.service)",message="an External component needs a service with the ports it offers"
// +kubebuilder:validation:XValidation:rule="self.workload != 'External' || !has(self.service) || self.service.type == 'ClusterIP'",message="an External component's service has type ClusterIP: a node port would lead from outside to any address, other tenants' pods among them"
// +kubebuilder:validation:XValidation:rule="!has(self.dependsOn) || !self.dependsOn.exists(d, d == self.name)",message="a component cannot depend on itself"
type Component struct {
	// Name of the component; also of its workload object and its service.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Workload is the kind of object that holds the pods.
	// +optional
	// +kubebuilder:default=Deployment
	Workload WorkloadKind `json:"workload,omitempty"`
	// Placement overrides the application's policy: Duplicated is the default of StatefulSet and DaemonSet.
	// +optional
	Placement PlacementPolicy `json:"placement,omitempty"`
	// Replicas over all partitions together; in each partition if the placement is Duplicated. For a Job, and for each
	// run of a CronJob, the number of pods that must succeed.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000
	Replicas *int32 `json:"replicas,omitempty"`
	// Schedule of a CronJob, in cron syntax.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=100
	Schedule string `json:"schedule,omitempty"`
	// DependsOn names components that must be ready in the partition before this one is created or moved to another
	// revision there.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	DependsOn []string `json:"dependsOn,omitempty"`
	// Service gives the pods one name and address, the component's name; none if it has no ports.
	// +optional
	Service *Service `json:"service,omitempty"`
	// External is where the workload External finds the service.
	// +optional
	External *External `json:"external,omitempty"`
	// Template of the pods, as in any Kubernetes workload.
	// +optional
	Template *corev1.PodTemplateSpec `json:"template,omitempty"`
	// VolumeClaimTemplates give each pod of a StatefulSet volumes of its own.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	VolumeClaimTemplates []corev1.PersistentVolumeClaim `json:"volumeClaimTemplates,omitempty"`
	// Configurations are given to the pods as files, as environment, or both.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Configurations []ConfigurationUse `json:"configurations,omitempty"`
}

// Service is how a component is reached.
// +kubebuilder:validation:XValidation:rule="!has(self.headless) || !self.headless || self.type == 'ClusterIP'",message="headless needs type ClusterIP"
type Service struct {
	// Type of the service.
	// +optional
	// +kubebuilder:default=ClusterIP
	// +kubebuilder:validation:Enum=ClusterIP;NodePort;LoadBalancer
	Type corev1.ServiceType `json:"type,omitempty"`
	// Headless gives the name the pods' addresses instead of one of its own.
	// +optional
	Headless bool `json:"headless,omitempty"`
	// SessionAffinity ClientIP sends all requests of one client to the same pod; None goes round them.
	// +optional
	// +kubebuilder:default=None
	// +kubebuilder:validation:Enum=None;ClientIP
	SessionAffinity corev1.ServiceAffinity `json:"sessionAffinity,omitempty"`
	// ExternalIPs are addresses at which the service's ports answer on their own, such as those of a few nodes that are
	// chosen for it, or one that is led to the cluster. The cluster must set them aside (spec.externalIPs of the Cluster).
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MaxLength=45
	// +kubebuilder:validation:items:Pattern=`^[0-9a-fA-F.:]+$`
	ExternalIPs []string `json:"externalIPs,omitempty"`
	// Ports of the service.
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Ports []ServicePort `json:"ports"`
}

// ServicePort is one port of a service.
type ServicePort struct {
	// Name of the port.
	// +required
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Port of the service.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// TargetPort of the pods, by number or name; the same as port if empty.
	// +optional
	TargetPort *intstr.IntOrString `json:"targetPort,omitempty"`
	// Protocol of the port.
	// +optional
	// +kubebuilder:default=TCP
	// +kubebuilder:validation:Enum=TCP;UDP;SCTP
	Protocol corev1.Protocol `json:"protocol,omitempty"`
	// NodePort opens the port on every node. It is reserved for this application in each cluster; one that is free is
	// chosen by the cluster if empty and the type is NodePort.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	NodePort int32 `json:"nodePort,omitempty"`
}

// External is a service outside Kubernetes.
type External struct {
	// Addresses are the hosts' IP addresses.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:XValidation:rule="self.all(a, isIP(a))",message="addresses are IP addresses"
	// +kubebuilder:validation:items:MaxLength=45
	Addresses []string `json:"addresses"`
}

// ConfigurationUse gives a configuration to a component's containers.
// +kubebuilder:validation:XValidation:rule="has(self.mountPath) || (has(self.environment) && self.environment)",message="say how the pods get it: mountPath, environment: true, or both"
type ConfigurationUse struct {
	// Name of the configuration.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	Name string `json:"name"`
	// MountPath is the folder in which every container sees the files.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^/`
	MountPath string `json:"mountPath,omitempty"`
	// Environment gives every container the files as variables.
	// +optional
	Environment bool `json:"environment,omitempty"`
	// Containers that get it; all if empty.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	Containers []string `json:"containers,omitempty"`
}

// Chart is a Helm chart.
type Chart struct {
	// Repository of the chart: https:// or oci://.
	// +required
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^(https?|oci)://`
	Repository string `json:"repository"`
	// Name of the chart.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=100
	Name string `json:"name"`
	// Version of the chart.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Version string `json:"version"`
	// Values for the chart, as YAML text.
	// +optional
	// +kubebuilder:validation:MaxLength=262144
	Values string `json:"values,omitempty"`
}

// PlacementPolicy says how replicas are spread over partitions. Duplicated: all of them in each. Weighted: by the
// partitions' weights. Available: by free capacity. Priority: the first partition takes what it can hold, the next the
// rest.
// +kubebuilder:validation:Enum=Duplicated;Weighted;Available;Priority
type PlacementPolicy string

// The placement policies.
const (
	PlacementDuplicated PlacementPolicy = "Duplicated"
	PlacementWeighted   PlacementPolicy = "Weighted"
	PlacementAvailable  PlacementPolicy = "Available"
	PlacementPriority   PlacementPolicy = "Priority"
)

// Placement says in which partitions an application runs.
type Placement struct {
	// Policy for components that have none of their own.
	// +optional
	// +kubebuilder:default=Duplicated
	Policy PlacementPolicy `json:"policy,omitempty"`
	// Partitions, in the order in which the policy Priority fills them.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	Partitions []PartitionChoice `json:"partitions"`
}

// PartitionChoice is one partition by name, or all that a selector matches.
// +kubebuilder:validation:XValidation:rule="has(self.name) != has(self.selector)",message="choose partitions by name or by selector, not both and not neither"
type PartitionChoice struct {
	// Name of a partition of the tenant.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	Name string `json:"name,omitempty"`
	// Selector over the labels of the partition and of its cluster together; the partition's win.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
	// Weight in the policy Weighted, of each partition chosen here.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	Weight *int32 `json:"weight,omitempty"`
	// Overrides change components in the partitions chosen here.
	// +optional
	// +listType=map
	// +listMapKey=component
	// +kubebuilder:validation:MaxItems=32
	Overrides []Override `json:"overrides,omitempty"`
}

// Override changes one component in one partition.
type Override struct {
	// Component that is changed.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	Component string `json:"component"`
	// NodePorts by the name of the service's port.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(name, self[name] >= 1 && self[name] <= 65535)",message="a node port is a number from 1 to 65535"
	NodePorts map[string]int32 `json:"nodePorts,omitempty"`
	// ExternalIPs of the service in place of those of the component: each cluster has its own.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MaxLength=45
	// +kubebuilder:validation:items:Pattern=`^[0-9a-fA-F.:]+$`
	ExternalIPs []string `json:"externalIPs,omitempty"`
	// Images by the name of the container.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	Images map[string]string `json:"images,omitempty"`
	// Env is set in every container, over what is there.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=100
	Env []corev1.EnvVar `json:"env,omitempty"`
	// Resources of every container.
	// +optional
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
}

// ApplicationStatus is the state of an application over all its partitions.
type ApplicationStatus struct {
	// ObservedGeneration is the generation of the spec this status was made for.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Revision that the application is moving to or has reached.
	// +optional
	Revision string `json:"revision,omitempty"`
	// Pods is "ready/desired" over all partitions.
	// +optional
	Pods string `json:"pods,omitempty"`
	// Placements are the partitions, in the order of their names.
	// +optional
	// +listType=map
	// +listMapKey=partition
	Placements []PlacementStatus `json:"placements,omitempty"`
	// Rollout is the newest one; it moves the application to the revision, or has.
	// +optional
	Rollout string `json:"rollout,omitempty"`
	// Release is the approval of the revision, where partitions ask for one.
	// +optional
	Release *ReleaseStatus `json:"release,omitempty"`
	// Conditions: Ready says that every partition runs the revision with all its pods ready; Progressing that it is on
	// the way there.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ReleasePhase is where the approval of a revision is.
type ReleasePhase string

// The phases of a release. Rejected: the revision does not reach the partitions, whose former one keeps running.
const (
	ReleaseWaiting  ReleasePhase = "Waiting"
	ReleaseApproved ReleasePhase = "Approved"
	ReleaseRejected ReleasePhase = "Rejected"
)

// ReleaseStatus is the approval of a revision, where partitions ask for one.
type ReleaseStatus struct {
	// Revision that is to be approved, or was.
	// +required
	Revision string `json:"revision"`
	// Phase of the approval.
	// +required
	Phase ReleasePhase `json:"phase"`
	// Run is the WorkflowRun that waits for the approval.
	// +optional
	Run string `json:"run,omitempty"`
	// User who made the change, as Kubernetes knows him: he cannot approve it.
	// +optional
	User string `json:"user,omitempty"`
	// Partitions that wait for the revision.
	// +optional
	// +listType=atomic
	Partitions []string `json:"partitions,omitempty"`
	// By is who decided.
	// +optional
	// +listType=atomic
	By []string `json:"by,omitempty"`
	// Message says who may approve, or why it was rejected.
	// +optional
	Message string `json:"message,omitempty"`
}

// PlacementStatus is the application in one partition.
type PlacementStatus struct {
	// Partition it is in.
	// +required
	Partition string `json:"partition"`
	// Cluster of the partition.
	// +optional
	Cluster string `json:"cluster,omitempty"`
	// Revision that runs there.
	// +optional
	Revision string `json:"revision,omitempty"`
	// Desired number of pods.
	// +optional
	Desired int32 `json:"desired"`
	// Ready number of pods.
	// +optional
	Ready int32 `json:"ready"`
	// Explanation says, per component, why the partition has this number: "score-record 7 of 10 by weight 7/10".
	// +optional
	// +listType=atomic
	Explanation []string `json:"explanation,omitempty"`
	// LastSeenTime is when the partition's cluster last told of it.
	// +optional
	LastSeenTime *metav1.Time `json:"lastSeenTime,omitempty"`
	// Reason why it is not ready; empty if it is.
	// +optional
	Reason string `json:"reason,omitempty"`
	// Message for the reason.
	// +optional
	Message string `json:"message,omitempty"`
}

// ApplicationList is a list of Applications.
//
// +kubebuilder:object:root=true
type ApplicationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Application `json:"items"`
}

// PlacementOf is the policy by which a component is placed.
func (s *ApplicationSpec) PlacementOf(c *Component) PlacementPolicy {
	switch {
	case c.Placement != "":
		return c.Placement
	case c.Workload == WorkloadStatefulSet, c.Workload == WorkloadDaemonSet, c.Workload == WorkloadExternal:
		return PlacementDuplicated
	case s.Placement.Policy != "":
		return s.Placement.Policy
	}
	return PlacementDuplicated
}

// ReplicasOrDefault is the number of pods asked for: 1 where nothing is said, 0 where there are none to count.
func (c *Component) ReplicasOrDefault() int32 {
	switch {
	case c.Workload == WorkloadDaemonSet, c.Workload == WorkloadExternal:
		return 0
	case c.Replicas != nil:
		return *c.Replicas
	}
	return 1
}
