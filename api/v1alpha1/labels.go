package v1alpha1

// Labels and annotations that Yunfan puts on objects of the hub and of members. Selectors are built from them, so a
// name here is never changed.
const (
	// LabelTenant names the tenant on hub namespaces, members' namespaces and everything delivered.
	LabelTenant = "yunfan.io/tenant"
	// LabelPartition names the partition on members' namespaces and on everything delivered.
	LabelPartition = "yunfan.io/partition"
	// LabelCluster names the cluster on Deliveries, so that each member's queue watches only its own.
	LabelCluster = "yunfan.io/cluster"
	// LabelApplication names the application on Revisions, Deliveries and everything delivered.
	LabelApplication = "yunfan.io/application"
	// LabelComponent names the component on everything delivered for it.
	LabelComponent = "yunfan.io/component"
	// LabelRevision names the revision on delivered workload objects; on pods only while two revisions run.
	LabelRevision = "yunfan.io/revision"
	// LabelWorkload is the label by which one workload object, and no other, selects its pods.
	LabelWorkload = "yunfan.io/workload"
	// LabelConfiguration names the configuration on the ConfigMaps and Secrets made from it.
	LabelConfiguration = "yunfan.io/configuration"

	// AnnotationForceRemoval set to "true" lets a cluster that no longer answers be removed: nothing is cleaned there.
	AnnotationForceRemoval = "yunfan.io/force-removal"
	// AnnotationNodeSelector on a member's namespace is the node pool of its partition, as "key=value,…". The member's
	// admission policy reads it.
	AnnotationNodeSelector = "yunfan.io/node-selector"
	// AnnotationAdopted on a member's namespace says that it was there before its partition, and stays after it.
	AnnotationAdopted = "yunfan.io/adopted"
	// AnnotationRestartedAt on an Application's pod templates restarts their pods, as kubectl rollout restart does.
	AnnotationRestartedAt = "yunfan.io/restartedAt"
	// AnnotationRollbackTo on an Application names the revision from which its components were taken. While they are
	// the same, the revision's versions of configurations are used instead of the newest.
	AnnotationRollbackTo = "yunfan.io/rollback-to"

	// LabelMadeBy with the value MadeByPlatform marks a WorkflowRun that the platform itself has made: its definition may
	// have internal actions. Admission lets only identities that may stamp workflowruns set, change or remove it, and
	// lets nobody else change spec.definition or spec.inputs of any run.
	LabelMadeBy = "yunfan.io/made-by"
	// MadeByPlatform is the only value of LabelMadeBy.
	MadeByPlatform = "platform"
	// LabelWorkflow names the workflow on its WorkflowRuns, where they are one's.
	LabelWorkflow = "yunfan.io/workflow"

	// AnnotationChangedBy on an Application is who changed its spec last, as Kubernetes knows him. Admission writes it.
	AnnotationChangedBy = "yunfan.io/changed-by"

	// AnnotationRolloutAgain on an Application begins once more a rollout that has failed, was aborted or refused, each
	// time its value changes. It is a time, for people to see when that was.
	AnnotationRolloutAgain = "yunfan.io/rollout-again"
	// AnnotationGeneration on a Rollout is the generation of the Application that it was made for.
	AnnotationGeneration = "yunfan.io/generation"

	// AnnotationApproved on an ApplicationRevision says for which application, by its UID, and by which run the revision
	// was approved, as "<uid> <run>": it needs no other approval.
	AnnotationApproved = "yunfan.io/approved"

	// TaintTenant is the taint of nodes that a partition has for itself; its value is the tenant.
	TaintTenant = "yunfan.io/tenant"

	// DeliveryServiceAccount is the service account in a partition's namespace as which the hub delivers.
	DeliveryServiceAccount = "yunfan-delivery"

	// FinalizerDelivery keeps a Delivery until its objects are gone from the member. Whoever creates a Delivery sets it.
	FinalizerDelivery = "yunfan.io/delivery"

	// FinalizerRun keeps a WorkflowRun until it has finished and is in the records. Admission stamps it at creation, so
	// that it costs no write.
	FinalizerRun = "yunfan.io/run"

	// FieldOwner is the field manager of everything the platform applies.
	FieldOwner = "yunfan"
)
