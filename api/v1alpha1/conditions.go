package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Condition types. All are of positive polarity: True is good. They are present from the first reconciliation on.
const (
	// ConditionReady says that the object does what its spec asks for.
	ConditionReady = "Ready"
	// ConditionAuthorization on a Cluster says that RBAC decides there who may do what; its reason is the mode.
	ConditionAuthorization = "Authorization"
	// ConditionProgressing on an Application is True while its deliveries move towards the spec.
	ConditionProgressing = "Progressing"
	// ConditionTrafficReady on a Partition says that its data plane answers, as the edge sees it.
	ConditionTrafficReady = "TrafficReady"
	// ConditionWithinQuota on a Tenant says that its partitions were not given more than its quota.
	ConditionWithinQuota = "WithinQuota"
	// ConditionApplied on a Delivery says that the member holds every object of it.
	ConditionApplied = "Applied"
	// ConditionValid on a Workflow says that it can be run.
	ConditionValid = "Valid"
	// ConditionSucceeded on a WorkflowRun is Unknown until it has finished.
	ConditionSucceeded = "Succeeded"
	// ConditionArchived on a WorkflowRun that has finished says that it is in the platform's records.
	ConditionArchived = "Archived"
	// ConditionAccepted on an Approval says that it counts.
	ConditionAccepted = "Accepted"
	// ConditionHealthy on a Delivery says that all its pods are as wanted and ready.
	ConditionHealthy = "Healthy"
)

// Reasons of conditions. They are for people and scripts that look at one object, and stable; decisions are not made
// on them.
const (
	// ReasonReady: nothing is missing.
	ReasonReady = "Ready"
	// ReasonReconciling: work is under way.
	ReasonReconciling = "Reconciling"
	// ReasonFailed: an error that is tried again; the message holds it.
	ReasonFailed = "Failed"
	// ReasonDeleting: the object is being removed.
	ReasonDeleting = "Deleting"

	// ReasonUnreachable: the cluster does not answer; what is shown is what was last seen.
	ReasonUnreachable = "Unreachable"
	// ReasonCredentialsInvalid: the cluster answers but refuses the kubeconfig, or the kubeconfig cannot be read.
	ReasonCredentialsInvalid = "CredentialsInvalid"
	// ReasonAlreadyJoined: this cluster is already joined under another name.
	ReasonAlreadyJoined = "AlreadyJoined"
	// ReasonIdentityChanged: another cluster than the one that was joined answers at the address.
	ReasonIdentityChanged = "IdentityChanged"
	// ReasonClusterNotFound: the cluster named does not exist.
	ReasonClusterNotFound = "ClusterNotFound"
	// ReasonClusterNotReady: the cluster named is not ready.
	ReasonClusterNotReady = "ClusterNotReady"

	// ReasonNameReserved: the name belongs to the system.
	ReasonNameReserved = "NameReserved"
	// ReasonNamespaceTaken: the namespace exists and is somebody else's.
	ReasonNamespaceTaken = "NamespaceTaken"
	// ReasonInUse: an application still uses the configuration that is to be deleted, or partitions or applications are
	// still in the tenant that is.
	ReasonInUse = "InUse"
	// ReasonDeliveriesExist: applications are still delivered to the partition.
	ReasonDeliveriesExist = "DeliveriesExist"
	// ReasonNoEdge: no edge is connected, so nothing is known of the traffic.
	ReasonNoEdge = "NoEdge"
	// ReasonProbeFailed: the edge gets no good answer from the partition; the message says what it got.
	ReasonProbeFailed = "ProbeFailed"

	// ReasonHostTaken: another tenant has the host of a route, or the domain that it is in.
	ReasonHostTaken = "HostTaken"
	// ReasonConflict: another rule, or an older route, has the same host and path.
	ReasonConflict = "Conflict"
	// ReasonApplicationNotFound: an application, component or port named does not exist.
	ReasonApplicationNotFound = "ApplicationNotFound"
	// ReasonCertificateInvalid: the certificate cannot be used; the message says why, and what is served instead.
	ReasonCertificateInvalid = "CertificateInvalid"
	// ReasonUpdating: edges or gateways do not serve the newest yet; the message names them.
	ReasonUpdating = "Updating"

	// ReasonInvalid: the spec contradicts itself; the message says where.
	ReasonInvalid = "Invalid"
	// ReasonPartitionNotFound: a partition named does not exist, or a selector matches none.
	ReasonPartitionNotFound = "PartitionNotFound"
	// ReasonPartitionNotReady: a partition named is not ready.
	ReasonPartitionNotReady = "PartitionNotReady"
	// ReasonConfigurationNotFound: a configuration named does not exist or is not published to a partition.
	ReasonConfigurationNotFound = "ConfigurationNotFound"
	// ReasonQuotaExceeded: the quota of a partition or tenant does not hold what is asked for.
	ReasonQuotaExceeded = "QuotaExceeded"
	// ReasonNodePortTaken: another service has the node port; the message names it.
	ReasonNodePortTaken = "NodePortTaken"
	// ReasonChartNotSupported: charts cannot be delivered yet.
	ReasonChartNotSupported = "ChartNotSupported"
	// ReasonRolloutRunning: a rollout moves the application to another revision; the message names it.
	ReasonRolloutRunning = "RolloutRunning"
	// ReasonRolloutFailed: a rollout has failed, and what ran before runs; the message names it and says why.
	ReasonRolloutFailed = "RolloutFailed"
	// ReasonRolloutAborted: somebody has aborted a rollout, and what ran before runs.
	ReasonRolloutAborted = "RolloutAborted"
	// ReasonRolloutRefused: a rollout was not begun; the message says why.
	ReasonRolloutRefused = "RolloutRefused"
	// ReasonStopped: the application is stopped by its spec.
	ReasonStopped = "Stopped"

	// ReasonWaitingForApproval: a revision waits until somebody approves it; the message says who may.
	ReasonWaitingForApproval = "WaitingForApproval"
	// ReasonApprovalRejected: a revision was rejected, by whom and why is in the message; the former one keeps running.
	ReasonApprovalRejected = "ApprovalRejected"

	// ReasonWaitingForDependency: a component named in dependsOn is not ready in this partition.
	ReasonWaitingForDependency = "WaitingForDependency"
	// ReasonRefused: the member refused an object; the message names the rule.
	ReasonRefused = "Refused"
	// ReasonImagePull: an image cannot be pulled.
	ReasonImagePull = "ImagePullFailed"
	// ReasonUnschedulable: no node takes the pod.
	ReasonUnschedulable = "Unschedulable"
	// ReasonCrashLoop: a container ends again and again; the message has exit code and last line of its log.
	ReasonCrashLoop = "CrashLoop"
	// ReasonOOMKilled: a container used more memory than its limit.
	ReasonOOMKilled = "OOMKilled"
	// ReasonNotReady: pods run but are not ready, such as when a readiness probe fails.
	ReasonNotReady = "NotReady"
	// ReasonConfigError: a container cannot be created from its spec, such as for a missing ConfigMap.
	ReasonConfigError = "ContainerConfigError"
)

// StatusConditions gives the conditions, to be read and set.
func (o *Cluster) StatusConditions() *[]metav1.Condition { return &o.Status.Conditions }

// SetObservedGeneration says for which generation of the spec the status was made.
func (o *Cluster) SetObservedGeneration(generation int64) { o.Status.ObservedGeneration = generation }

// StatusConditions gives the conditions, to be read and set.
func (o *Tenant) StatusConditions() *[]metav1.Condition { return &o.Status.Conditions }

// SetObservedGeneration says for which generation of the spec the status was made.
func (o *Tenant) SetObservedGeneration(generation int64) { o.Status.ObservedGeneration = generation }

// StatusConditions gives the conditions, to be read and set.
func (p *Partition) StatusConditions() *[]metav1.Condition { return &p.Status.Conditions }

// SetObservedGeneration says for which generation of the spec the status was made.
func (p *Partition) SetObservedGeneration(generation int64) { p.Status.ObservedGeneration = generation }

// StatusConditions gives the conditions, to be read and set.
func (o *Configuration) StatusConditions() *[]metav1.Condition { return &o.Status.Conditions }

// SetObservedGeneration says for which generation of the spec the status was made.
func (o *Configuration) SetObservedGeneration(generation int64) {
	o.Status.ObservedGeneration = generation
}

// StatusConditions gives the conditions, to be read and set.
func (o *Application) StatusConditions() *[]metav1.Condition { return &o.Status.Conditions }

// SetObservedGeneration says for which generation of the spec the status was made.
func (o *Application) SetObservedGeneration(generation int64) {
	o.Status.ObservedGeneration = generation
}

// StatusConditions gives the conditions, to be read and set.
func (o *Delivery) StatusConditions() *[]metav1.Condition { return &o.Status.Conditions }

// SetObservedGeneration says for which generation of the spec the status was made.
func (o *Delivery) SetObservedGeneration(generation int64) { o.Status.ObservedGeneration = generation }
