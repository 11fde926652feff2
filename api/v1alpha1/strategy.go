package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// StrategyType is a way to move from one revision to the next.
// +kubebuilder:validation:Enum=RollingUpdate;Recreate;BlueGreen;Canary;ABTest;Shadow
type StrategyType string

// The ways to move. RollingUpdate: pod by pod, by the workloads themselves. Recreate: a partition is taken out of the
// traffic, its pods end, and only then new ones begin. The others run both revisions side by side where components allow
// it, and what does not is changed as by Recreate. BlueGreen: all requests move at once, and back as fast. Canary: by and
// by. ABTest: those of chosen users. Shadow: none, the new revision gets copies.
const (
	StrategyRollingUpdate StrategyType = "RollingUpdate"
	StrategyRecreate      StrategyType = "Recreate"
	StrategyBlueGreen     StrategyType = "BlueGreen"
	StrategyCanary        StrategyType = "Canary"
	StrategyABTest        StrategyType = "ABTest"
	StrategyShadow        StrategyType = "Shadow"
)

// Strategy is the way to move from one revision to the next.
// +kubebuilder:validation:XValidation:rule="!has(self.rollingUpdate) || self.type == 'RollingUpdate'",message="rollingUpdate belongs to the type RollingUpdate"
// +kubebuilder:validation:XValidation:rule="!has(self.blueGreen) || self.type == 'BlueGreen'",message="blueGreen belongs to the type BlueGreen"
// +kubebuilder:validation:XValidation:rule="!has(self.canary) || self.type == 'Canary'",message="canary belongs to the type Canary"
// +kubebuilder:validation:XValidation:rule="has(self.abTest) == (has(self.type) && self.type == 'ABTest')",message="abTest belongs to the type ABTest, which needs it"
// +kubebuilder:validation:XValidation:rule="!has(self.shadow) || self.type == 'Shadow'",message="shadow belongs to the type Shadow"
type Strategy struct {
	// Type of the strategy.
	// +optional
	// +kubebuilder:default=RollingUpdate
	Type StrategyType `json:"type,omitempty"`
	// Order of the partitions.
	// +optional
	Order RolloutOrder `json:"order,omitempty"`
	// RollingUpdate's own settings.
	// +optional
	RollingUpdate *RollingUpdateStrategy `json:"rollingUpdate,omitempty"`
	// BlueGreen's own settings.
	// +optional
	BlueGreen *BlueGreenStrategy `json:"blueGreen,omitempty"`
	// Canary's own settings.
	// +optional
	Canary *CanaryStrategy `json:"canary,omitempty"`
	// ABTest's own settings.
	// +optional
	ABTest *ABTestStrategy `json:"abTest,omitempty"`
	// Shadow's own settings.
	// +optional
	Shadow *ShadowStrategy `json:"shadow,omitempty"`
	// Drain bounds the wait for requests in flight.
	// +optional
	Drain Drain `json:"drain,omitempty"`
	// Gates are looked at after each step that gives the new revision requests, and after each wave.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=8
	Gates []Gate `json:"gates,omitempty"`
	// Before are Jobs that run before anything changes, such as the migration of a database.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=4
	Before []RolloutHook `json:"before,omitempty"`
	// After are Jobs that run when all partitions have moved.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=4
	After []RolloutHook `json:"after,omitempty"`
	// Notice is what owners of what is up- and downstream are told before it begins.
	// +optional
	Notice *RolloutNotice `json:"notice,omitempty"`
	// WhileRunning says what a change does that comes while a rollout is under way: Replace sends that one back and goes
	// on with the newest, Wait lets it end first.
	// +optional
	// +kubebuilder:default=Replace
	// +kubebuilder:validation:Enum=Replace;Wait
	WhileRunning WhileRunning `json:"whileRunning,omitempty"`
}

// WhileRunning says what a change does that comes while a rollout is under way.
type WhileRunning string

// What a change does that comes while a rollout is under way.
const (
	WhileRunningReplace WhileRunning = "Replace"
	WhileRunningWait    WhileRunning = "Wait"
)

// RolloutOrder is the order of the partitions.
// +kubebuilder:validation:XValidation:rule="!has(self.waves) || !has(self.by) || self.by == 'Together'",message="waves say the order themselves: leave by out"
type RolloutOrder struct {
	// By moves one Partition after the other, one Cluster after the other, or all Together. RollingUpdate and Recreate
	// with the order Partition are the partition-wise gray release.
	// +optional
	// +kubebuilder:validation:Enum=Together;Partition;Cluster
	By OrderBy `json:"by,omitempty"`
	// Waves in which partitions move; those that no wave names move in a last one.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Waves []RolloutWave `json:"waves,omitempty"`
	// StablePeriod after each wave, in which gates must hold; at most 168h.
	// +optional
	StablePeriod *metav1.Duration `json:"stablePeriod,omitempty"`
	// Continue says who begins the next wave: Automatic, or a person (Manual).
	// +optional
	// +kubebuilder:validation:Enum=Automatic;Manual
	Continue RolloutContinue `json:"continue,omitempty"`
}

// OrderBy says what moves together.
type OrderBy string

// What moves together. Recreate's default is Partition, that of the others Together.
const (
	OrderTogether  OrderBy = "Together"
	OrderPartition OrderBy = "Partition"
	OrderCluster   OrderBy = "Cluster"
)

// RolloutContinue says who begins what comes next.
type RolloutContinue string

// Who begins what comes next.
const (
	ContinueAutomatic RolloutContinue = "Automatic"
	ContinueManual    RolloutContinue = "Manual"
)

// RolloutWave is what moves together: partitions by name, and all those of clusters.
// +kubebuilder:validation:XValidation:rule="has(self.partitions) || has(self.clusters)",message="a wave names partitions, clusters, or both"
type RolloutWave struct {
	// Partitions of the wave.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=40
	Partitions []string `json:"partitions,omitempty"`
	// Clusters all of whose partitions are in the wave.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=40
	Clusters []string `json:"clusters,omitempty"`
}

// RollingUpdateStrategy bounds how many pods of a partition are exchanged at a time, as in a Deployment.
type RollingUpdateStrategy struct {
	// MaxSurge is how many pods more than wanted there may be.
	// +optional
	MaxSurge *intstr.IntOrString `json:"maxSurge,omitempty"`
	// MaxUnavailable is how many pods fewer than wanted may be ready.
	// +optional
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`
}

// BlueGreenStrategy moves all requests at once.
type BlueGreenStrategy struct {
	// Switch says who moves the requests once green is ready: Automatic, or a person who has tested it (Manual).
	// +optional
	// +kubebuilder:validation:Enum=Automatic;Manual
	Switch RolloutContinue `json:"switch,omitempty"`
	// Keep is how long blue runs on after the switch, so that going back takes a moment only; at most 168h, none if empty.
	// +optional
	Keep *metav1.Duration `json:"keep,omitempty"`
}

// CanaryStrategy moves requests by and by.
type CanaryStrategy struct {
	// Steps in which the new revision gets more; 10, 50 and 100 percent with a minute between them if empty. The last one is
	// 100 percent also where it is not written.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=20
	Steps []CanaryStep `json:"steps,omitempty"`
}

// CanaryStep is one share.
type CanaryStep struct {
	// Weight of the new revision, in percent. 0 lets only testers reach it.
	// +required
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Weight int32 `json:"weight"`
	// Hold is how long it stays so before gates are looked at; at most 168h.
	// +optional
	Hold *metav1.Duration `json:"hold,omitempty"`
	// Continue says who begins the next step.
	// +optional
	// +kubebuilder:validation:Enum=Automatic;Manual
	Continue RolloutContinue `json:"continue,omitempty"`
}

// ABTestStrategy gives the new revision the requests of chosen users until it is decided.
type ABTestStrategy struct {
	// Matches are the requests that the new revision gets; one that is enough.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Matches []RouteMatch `json:"matches"`
	// Hold is how long the test takes, at most 720h; until somebody approves it if empty.
	// +optional
	Hold *metav1.Duration `json:"hold,omitempty"`
}

// ShadowStrategy gives the new revision copies.
type ShadowStrategy struct {
	// Percent of the requests that are copied.
	// +optional
	// +kubebuilder:default=100
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Percent int32 `json:"percent,omitempty"`
	// Hold is how long copies are made, at most 720h; until somebody approves it if empty.
	// +optional
	Hold *metav1.Duration `json:"hold,omitempty"`
}

// Drain bounds the wait for requests in flight.
type Drain struct {
	// Timeout after which what is left is cut off, at most 1h; 1m is the default. WebSockets are asked to close first.
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
}

// Gate is a question whose answer decides whether a rollout goes on. One that fails sends it back.
// +kubebuilder:validation:XValidation:rule="[has(self.requests), has(self.prometheus), has(self.http), has(self.approval)].filter(g, g).size() == 1",message="a gate has exactly one of requests, prometheus, http and approval"
type Gate struct {
	// Name of the gate in its strategy.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=20
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Requests looks at the real requests to the new revision.
	// +optional
	Requests *RequestsGate `json:"requests,omitempty"`
	// Prometheus asks a Prometheus.
	// +optional
	Prometheus *PrometheusGate `json:"prometheus,omitempty"`
	// HTTP asks a URL.
	// +optional
	HTTP *HTTPGate `json:"http,omitempty"`
	// Approval asks a person.
	// +optional
	Approval *ApprovalGate `json:"approval,omitempty"`
}

// RequestsGate looks at the requests since the step began: those of the new revision at the gateways where both run, else
// those of the partitions that have moved, at the edge.
type RequestsGate struct {
	// SuccessPercent is how many of a hundred requests must have an answer below 500; 99 is the default.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	SuccessPercent *int32 `json:"successPercent,omitempty"`
	// Latency is the longest that 95 of a hundred requests may take.
	// +optional
	Latency *metav1.Duration `json:"latency,omitempty"`
	// Minimum number of requests before anything is decided; 0 lets a step pass that had none.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000
	Minimum int32 `json:"minimum,omitempty"`
	// Timeout for the minimum to come together; 10m is the default. The gate fails then.
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
}

// PrometheusGate asks for one number.
type PrometheusGate struct {
	// URL of the Prometheus.
	// +required
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^https?://`
	URL string `json:"url"`
	// Query in PromQL that gives one number.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Query string `json:"query"`
	// Min that the number may be, as in "0.99".
	// +optional
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:Pattern=`^-?[0-9]+(\.[0-9]+)?$`
	Min string `json:"min,omitempty"`
	// Max that the number may be.
	// +optional
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:Pattern=`^-?[0-9]+(\.[0-9]+)?$`
	Max string `json:"max,omitempty"`
}

// HTTPGate asks a URL, three times at most.
type HTTPGate struct {
	// URL that is asked with GET.
	// +required
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^https?://`
	URL string `json:"url"`
	// Status that is a good answer; 200 is the default.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=599
	Status int32 `json:"status,omitempty"`
}

// ApprovalGate asks a person.
type ApprovalGate struct {
	// Roles, one of which the person must have; Admin if empty.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=3
	// +kubebuilder:validation:items:Enum=Admin;Operator;PlatformAdministrator
	Roles []string `json:"roles,omitempty"`
}

// RolloutHook is a Job that runs once, in one partition.
type RolloutHook struct {
	// Name of the hook in its strategy.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=20
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Partition it runs in; the first that moves if empty.
	// +optional
	// +kubebuilder:validation:MaxLength=40
	Partition string `json:"partition,omitempty"`
	// Image of its container.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Image string `json:"image"`
	// Command of its container.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Command []string `json:"command,omitempty"`
	// Args of its container.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Args []string `json:"args,omitempty"`
	// Env of its container.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Env []corev1.EnvVar `json:"env,omitempty"`
	// Timeout after which it has failed; 10m is the default.
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
}

// RolloutNotice is told before a rollout begins.
type RolloutNotice struct {
	// Receivers are NotificationReceivers of the tenant; all people of the tenant get it in any case.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=63
	Receivers []string `json:"receivers,omitempty"`
	// Scope says what is affected.
	// +optional
	// +kubebuilder:validation:MaxLength=1000
	Scope string `json:"scope,omitempty"`
	// Ahead is how long before the rollout begins it is told; at most 168h, none if empty.
	// +optional
	Ahead *metav1.Duration `json:"ahead,omitempty"`
}
