package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// NotificationReceiverType is the channel by which a receiver is told.
//
// +kubebuilder:validation:Enum=Webhook;Email;SMS
type NotificationReceiverType string

// Types of receivers.
const (
	ReceiverWebhook NotificationReceiverType = "Webhook"
	ReceiverEmail   NotificationReceiverType = "Email"
	ReceiverSMS     NotificationReceiverType = "SMS"
)

// NotificationLanguage is a language that messages are written in.
//
// +kubebuilder:validation:Enum=zh;en
type NotificationLanguage string

// Languages of messages.
const (
	Chinese NotificationLanguage = "zh"
	English NotificationLanguage = "en"
)

// NotificationReceiver is where messages about the tenant in whose hub namespace it is go besides to people: a program
// that is called (webhook), mail addresses or phones.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.type`
// +kubebuilder:printcolumn:name="Topics",type=string,JSONPath=`.spec.topics`
// +kubebuilder:printcolumn:name="Suspended",type=boolean,JSONPath=`.spec.suspended`
// +kubebuilder:printcolumn:name="Key",type=date,JSONPath=`.status.keyTime`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",message="a receiver's name has at most 63 characters and no dots"
type NotificationReceiver struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec NotificationReceiverSpec `json:"spec"`
	// +optional
	Status NotificationReceiverStatus `json:"status,omitempty"`
}

// NotificationReceiverSpec says who is told what.
//
// +kubebuilder:validation:XValidation:rule="self.type == oldSelf.type",message="a receiver stays of its type: make another"
// +kubebuilder:validation:XValidation:rule="(self.type == 'Webhook') == has(self.url)",message="type Webhook needs url, and only it has it"
// +kubebuilder:validation:XValidation:rule="!has(self.caBundle) || self.type == 'Webhook'",message="caBundle is of type Webhook"
// +kubebuilder:validation:XValidation:rule="(self.type == 'Email') == has(self.addresses)",message="type Email needs addresses, and only it has them"
// +kubebuilder:validation:XValidation:rule="(self.type == 'SMS') == has(self.phones)",message="type SMS needs phones, and only it has them"
type NotificationReceiverSpec struct {
	// Type is the channel.
	// +required
	Type NotificationReceiverType `json:"type"`
	// DisplayName is the receiver's name for people.
	// +optional
	// +kubebuilder:validation:MaxLength=100
	DisplayName string `json:"displayName,omitempty"`
	// Topics that the receiver is told of: a topic such as request.approved, all of a capability as request.*, or * for
	// all. Without any it only gets what is sent to it by name.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=50
	// +kubebuilder:validation:items:MaxLength=100
	// +kubebuilder:validation:items:Pattern=`^(\*|[a-z0-9-]+(\.[a-z0-9-]+)*(\.\*)?)$`
	Topics []string `json:"topics,omitempty"`
	// Language of mails and text messages. Webhooks carry all.
	// +optional
	// +kubebuilder:default=zh
	Language NotificationLanguage `json:"language,omitempty"`
	// Suspended receivers are told nothing: what would be sent meanwhile is not sent later.
	// +optional
	Suspended bool `json:"suspended,omitempty"`
	// URL that is called with POST, for type Webhook.
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://[^/?#@ ]+([/?][^ #]*)?$')",message="url is http:// or https:// with a host, without user, blanks and fragment"
	URL string `json:"url,omitempty"`
	// CABundle is the PEM of the certificates by which the webhook's is checked; by default those of the platform's
	// machine.
	// +optional
	// +kubebuilder:validation:MaxLength=65536
	CABundle string `json:"caBundle,omitempty"`
	// Addresses of mail, for type Email.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=20
	// +kubebuilder:validation:items:MaxLength=254
	// +kubebuilder:validation:items:Pattern=`^[A-Za-z0-9.!#$%&*+/=?^_{|}~-]+@[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`
	Addresses []string `json:"addresses,omitempty"`
	// Phones in international form such as +8613800138000, or as 11 digits of China, for type SMS.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=20
	// +kubebuilder:validation:items:MaxLength=16
	// +kubebuilder:validation:items:Pattern=`^(\+[1-9][0-9]{6,14}|1[3-9][0-9]{9})$`
	Phones []string `json:"phones,omitempty"`
}

// NotificationReceiverStatus is what the platform knows of a receiver.
type NotificationReceiverStatus struct {
	// KeyTime is when the key that webhooks are signed with was last made. Without one nothing is sent to a webhook.
	// +optional
	KeyTime *metav1.Time `json:"keyTime,omitempty"`
	// FormerKeyUntil is until when webhooks are signed with the key before that, too.
	// +optional
	FormerKeyUntil *metav1.Time `json:"formerKeyUntil,omitempty"`
	// GoneGeneration is the generation of the receiver whose webhook answered that it is gone for good (410). Nothing more
	// is sent until the receiver is changed.
	// +optional
	GoneGeneration int64 `json:"goneGeneration,omitempty"`
	// Message says in words why nothing is sent.
	// +optional
	Message string `json:"message,omitempty"`
}

// NotificationReceiverList is a list of NotificationReceivers.
//
// +kubebuilder:object:root=true
type NotificationReceiverList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NotificationReceiver `json:"items"`
}
