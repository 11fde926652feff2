package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ResourceRequest asks the platform's administrators for resources: a new partition, another quota or a longer term for
// one that is there, or that they take one back. It carries the form that is filled in for it. A WorkflowRun carries it
// from the application to the end of the term. Nothing of it but withdrawn can be changed once it is made.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.wanted.type`
// +kubebuilder:printcolumn:name="Partition",type=string,JSONPath=`.spec.wanted.partition`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Until",type=date,JSONPath=`.status.granted.until`
// +kubebuilder:printcolumn:name="Applicant",type=string,JSONPath=`.spec.user.name`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63",message="a request's name has at most 63 characters: that of its run is made from it"
type ResourceRequest struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec ResourceRequestSpec `json:"spec"`
	// +optional
	Status ResourceRequestStatus `json:"status,omitempty"`
}

// ResourceRequestSpec is the form and what is wanted.
//
// +kubebuilder:validation:XValidation:rule="self.form == oldSelf.form && self.wanted == oldSelf.wanted",message="a request cannot be changed once it is made: withdraw it and make another"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.user) || (has(self.user) && self.user == oldSelf.user)",message="who made a request cannot be changed"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.withdrawn) || !oldSelf.withdrawn || (has(self.withdrawn) && self.withdrawn)",message="a withdrawn request does not come back: make another"
type ResourceRequestSpec struct {
	// Form is what is told about the applicant and the purpose. When it was asked for is the object's own time of creation.
	// +required
	Form RequestForm `json:"form"`
	// Wanted is what is asked for.
	// +required
	Wanted WantedResources `json:"wanted"`
	// User who asks: written by admission, whatever a client says. He must still be allowed to when it is decided.
	// +optional
	User *Actor `json:"user,omitempty"`
	// Withdrawn ends the request, as long as nobody has decided on it.
	// +optional
	Withdrawn bool `json:"withdrawn,omitempty"`
}

// RequestForm is the form of a request.
type RequestForm struct {
	// ProjectGroup that the resources are for.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=100
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +kubebuilder:validation:XValidation:rule="self.trim().size() > 0",message="fill in the project group"
	ProjectGroup string `json:"projectGroup"`
	// Applicant is the name of the person who answers for the request.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=100
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +kubebuilder:validation:XValidation:rule="self.trim().size() > 0",message="fill in the applicant"
	Applicant string `json:"applicant"`
	// Phone of the applicant.
	// +required
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^[+(]?[0-9][-0-9 ()/#*.]{2,30}$')",message="a phone number has 3 to 32 characters: digits, blanks and -()/#*. with a + or ( in front if need be"
	Phone string `json:"phone"`
	// Email of the applicant.
	// +required
	// +kubebuilder:validation:MaxLength=254
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9.!#$%&*+/=?^_{|}~-]+@[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?([.][A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$')",message="write an e-mail address such as li@example.com"
	Email string `json:"email"`
	// Application that will run there, with its kind: Web, service, …
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=200
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +kubebuilder:validation:XValidation:rule="self.trim().size() > 0",message="fill in the name of the application"
	Application string `json:"application"`
	// BaseServices that the application needs: MySQL, shared storage, Kafka, Redis, …
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=30
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=60
	// +kubebuilder:validation:items:Pattern=`^[^\x00-\x1f\x7f]*$`
	BaseServices []string `json:"baseServices,omitempty"`
	// Purpose of the resources.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2000
	// +kubebuilder:validation:XValidation:rule="self.trim().size() > 0",message="say what the resources are for in purpose"
	Purpose string `json:"purpose"`
	// ServerType is the kind of machines.
	// +required
	ServerType ServerType `json:"serverType"`
	// Oracle says whether an Oracle database is needed.
	// +optional
	Oracle bool `json:"oracle,omitempty"`
	// Storage is the space needed, such as 500Gi.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!quantity(string(self)).isLessThan(quantity('0'))",message="storage cannot be below 0"
	Storage *resource.Quantity `json:"storage,omitempty"`
	// Bandwidth needed, in Mbit/s.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000000
	Bandwidth int32 `json:"bandwidth,omitempty"`
	// Room in which the machines should be.
	// +optional
	// +kubebuilder:validation:MaxLength=100
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	Room string `json:"room,omitempty"`
	// Machines is how many machines are needed.
	// +required
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100000
	Machines int32 `json:"machines"`
	// Remarks are what else is to be said.
	// +optional
	// +kubebuilder:validation:MaxLength=2000
	Remarks string `json:"remarks,omitempty"`
}

// ServerType is a kind of machines.
// +kubebuilder:validation:Enum=ApplicationHost;MPP;Hadoop
type ServerType string

// The kinds of machines.
const (
	ServerApplicationHost ServerType = "ApplicationHost"
	ServerMPP             ServerType = "MPP"
	ServerHadoop          ServerType = "Hadoop"
)

// RequestType is what a request is about. New: a partition that does not exist yet. Change: another quota for one, and
// another term if until is given. Extend: another term. Return: it is given back.
// +kubebuilder:validation:Enum=New;Change;Extend;Return
type RequestType string

// The types of requests.
const (
	RequestNew    RequestType = "New"
	RequestChange RequestType = "Change"
	RequestExtend RequestType = "Extend"
	RequestReturn RequestType = "Return"
)

// WantedResources is what a request asks for.
//
// +kubebuilder:validation:XValidation:rule="!(self.type in ['New', 'Change']) || has(self.items) || has(self.quota)",message="say how much: products in items, amounts in quota, or both"
// +kubebuilder:validation:XValidation:rule="self.type in ['New', 'Change'] || (!has(self.items) && !has(self.quota))",message="items and quota are for the types New and Change"
// +kubebuilder:validation:XValidation:rule="self.type == 'New' || (!has(self.cluster) && !has(self.environment))",message="cluster and environment are for the type New: a partition stays where it is"
// +kubebuilder:validation:XValidation:rule="self.type != 'Extend' || has(self.until)",message="say in until how long the partition is to stay"
// +kubebuilder:validation:XValidation:rule="self.type != 'Return' || !has(self.until)",message="a partition is given back at once: leave until out"
// +kubebuilder:validation:XValidation:rule="!has(self.until) || (self.until >= timestamp('2000-01-01T00:00:00Z') && self.until < timestamp('2100-01-01T00:00:00Z'))",message="until is a time before the year 2100"
type WantedResources struct {
	// Type of the request.
	// +required
	Type RequestType `json:"type"`
	// Partition that is wanted: the name of a new one for the type New, of one of the tenant's for the others.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="a partition's name consists of small letters, digits and '-'"
	Partition string `json:"partition"`
	// Cluster that is wished for; whoever approves may choose another. Empty leaves it to the platform.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Cluster string `json:"cluster,omitempty"`
	// Environment that the new partition is for.
	// +optional
	// +kubebuilder:validation:Enum=Production;Test;Development
	Environment string `json:"environment,omitempty"`
	// Items are products, and how many of each. What they have together is added to quota.
	// +optional
	// +listType=map
	// +listMapKey=product
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=20
	Items []RequestItem `json:"items,omitempty"`
	// Quota that the partition is to have, all of it and not what is added: requests.cpu, limits.memory, pods, … A Change
	// leaves resources that it does not name as they are.
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=30
	Quota corev1.ResourceList `json:"quota,omitempty"`
	// Until when it is needed; without an end if empty.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`
}

// RequestItem is a number of one product.
type RequestItem struct {
	// Product by its name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Product string `json:"product"`
	// Count is how many.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	Count int32 `json:"count"`
}

// RequestPhase is where a request is.
type RequestPhase string

// The phases of a request. Applied: somebody must decide. Approved: it is being given. Allocated: it is given and being
// set up. Active: it can be used. Expired: its term is over, and it is given back when nothing uses it any more.
const (
	RequestApplied   RequestPhase = "Applied"
	RequestApproved  RequestPhase = "Approved"
	RequestRejected  RequestPhase = "Rejected"
	RequestAllocated RequestPhase = "Allocated"
	RequestActive    RequestPhase = "Active"
	RequestExpired   RequestPhase = "Expired"
	RequestReturned  RequestPhase = "Returned"
	RequestWithdrawn RequestPhase = "Withdrawn"
	RequestFailed    RequestPhase = "Failed"
)

// Finished says whether nothing more comes of the request.
func (p RequestPhase) Finished() bool {
	return p == RequestRejected || p == RequestReturned || p == RequestWithdrawn || p == RequestFailed
}

// ResourceRequestStatus is what has become of a request.
type ResourceRequestStatus struct {
	// ObservedGeneration is the generation that was looked at.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Phase of the request.
	// +optional
	Phase RequestPhase `json:"phase,omitempty"`
	// Message says in words why it is in that phase, and what comes next.
	// +optional
	Message string `json:"message,omitempty"`
	// Run is the WorkflowRun of the same namespace that carries the request.
	// +optional
	Run string `json:"run,omitempty"`
	// Granted is what was given.
	// +optional
	Granted *GrantedResources `json:"granted,omitempty"`
	// By are the users who decided.
	// +optional
	// +listType=atomic
	By []string `json:"by,omitempty"`
	// Comment of whoever decided.
	// +optional
	Comment string `json:"comment,omitempty"`
	// History has the time of each phase that the request was in, the latest last.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=20
	History []RequestPhaseTime `json:"history,omitempty"`
	// Conditions: Ready says that what was granted can be used.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// GrantedResources is what was given for a request.
type GrantedResources struct {
	// Cluster of the partition.
	// +optional
	Cluster string `json:"cluster,omitempty"`
	// Partition that was made or changed.
	// +optional
	Partition string `json:"partition,omitempty"`
	// Quota of the partition, all of it.
	// +optional
	Quota corev1.ResourceList `json:"quota,omitempty"`
	// Until when; without an end if empty.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`
}

// RequestPhaseTime is when a request came to a phase.
type RequestPhaseTime struct {
	// Phase that it came to.
	// +required
	Phase RequestPhase `json:"phase"`
	// Time at which it did.
	// +required
	Time metav1.Time `json:"time"`
}

// ResourceRequestList is a list of ResourceRequests.
//
// +kubebuilder:object:root=true
type ResourceRequestList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ResourceRequest `json:"items"`
}

// StatusConditions gives the conditions, to be read and set.
func (r *ResourceRequest) StatusConditions() *[]metav1.Condition { return &r.Status.Conditions }

// SetObservedGeneration says for which generation of the spec the status was made.
func (r *ResourceRequest) SetObservedGeneration(generation int64) {
	r.Status.ObservedGeneration = generation
}
