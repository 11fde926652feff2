package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// NotificationProviderType is the channel that a provider opens.
//
// +kubebuilder:validation:Enum=Email;SMS
type NotificationProviderType string

// Types of providers.
const (
	ProviderEmail NotificationProviderType = "Email"
	ProviderSMS   NotificationProviderType = "SMS"
)

// NotificationProvider is a way out for messages to people: a mail server, or a gateway that sends text messages to
// phones. Its password or token is kept elsewhere and never shown.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.type`
// +kubebuilder:printcolumn:name="Suspended",type=boolean,JSONPath=`.spec.suspended`
// +kubebuilder:printcolumn:name="Secret written",type=date,JSONPath=`.status.secretTime`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",message="a provider's name has at most 63 characters and no dots"
type NotificationProvider struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec NotificationProviderSpec `json:"spec"`
	// +optional
	Status NotificationProviderStatus `json:"status,omitempty"`
}

// NotificationProviderSpec says how messages leave.
//
// +kubebuilder:validation:XValidation:rule="self.type == oldSelf.type",message="a provider stays of its type: make another"
// +kubebuilder:validation:XValidation:rule="(self.type == 'Email') == has(self.email)",message="type Email needs email, and only it has it"
// +kubebuilder:validation:XValidation:rule="(self.type == 'SMS') == has(self.sms)",message="type SMS needs sms, and only it has it"
type NotificationProviderSpec struct {
	// Type is the channel.
	// +required
	Type NotificationProviderType `json:"type"`
	// DisplayName is the provider's name for people.
	// +optional
	// +kubebuilder:validation:MaxLength=100
	DisplayName string `json:"displayName,omitempty"`
	// Suspended providers send nothing. Of several providers of one type the first by name is used, and the next where it
	// fails.
	// +optional
	Suspended bool `json:"suspended,omitempty"`
	// Email is for type Email.
	// +optional
	Email *EmailProvider `json:"email,omitempty"`
	// SMS is for type SMS.
	// +optional
	SMS *SMSProvider `json:"sms,omitempty"`
}

// EmailSecurity is how the connection to a mail server is kept from others.
//
// +kubebuilder:validation:Enum=StartTLS;TLS;None
type EmailSecurity string

// Ways to keep a connection to a mail server from others.
const (
	// EmailStartTLS begins in the clear, by default on port 587, and sends nothing before TLS.
	EmailStartTLS EmailSecurity = "StartTLS"
	// EmailTLS is TLS from the first byte, by default on port 465.
	EmailTLS EmailSecurity = "TLS"
	// EmailPlain shows every mail to the network, by default on port 25. No password is ever sent over it.
	EmailPlain EmailSecurity = "None"
)

// EmailProvider is a mail server that takes mail from the platform (submission).
//
// +kubebuilder:validation:XValidation:rule="!has(self.username) || !has(self.security) || self.security != 'None'",message="a username needs security StartTLS or TLS: its password would be shown to the network"
type EmailProvider struct {
	// Host is the server's name or address; its certificate must be for it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9.:_-]+$')",message="host is a name or an address, without scheme and port"
	Host string `json:"host"`
	// Port of the server; by default 587 with StartTLS, 465 with TLS and 25 without.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`
	// Security is how the connection is kept from others.
	// +optional
	// +kubebuilder:default=StartTLS
	Security EmailSecurity `json:"security,omitempty"`
	// From is the address that mail comes from.
	// +required
	// +kubebuilder:validation:MaxLength=254
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9.!#$%&*+/=?^_{|}~-]+@[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$')",message="from is a plain address such as yunfan@example.com"
	From string `json:"from"`
	// Username signs in at the server, with the password written through the endpoint of secrets; without one nobody
	// signs in.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=254
	Username string `json:"username,omitempty"`
	// CABundle is the PEM of the certificates by which the server's is checked; by default those of the platform's machine.
	// +optional
	// +kubebuilder:validation:MaxLength=65536
	CABundle string `json:"caBundle,omitempty"`
}

// SMSBodyFormat is what the body of a request to a gateway is. What is put into the body is escaped for it.
//
// +kubebuilder:validation:Enum=JSON;Form;XML;Text
type SMSBodyFormat string

// Formats of bodies.
const (
	BodyJSON SMSBodyFormat = "JSON"
	BodyForm SMSBodyFormat = "Form"
	BodyXML  SMSBodyFormat = "XML"
	BodyText SMSBodyFormat = "Text"
)

// SMSProvider is a gateway that takes one text message with one request over HTTP. URL, headers and body have places
// such as {{phone}} that are filled in: phone (as written by the user), digits (the phone's digits only), text, title, id
// (the same for every attempt), topic, tenant, time (RFC 3339), timestamp (seconds since 1970), secret.
//
// +kubebuilder:validation:XValidation:rule="!has(self.body) || !has(self.method) || self.method != 'GET'",message="a GET has no body: put the places into the URL"
type SMSProvider struct {
	// URL of the gateway. Its scheme and host are fixed; what is put in behind them is escaped.
	// +required
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://[^/?#{}@ ]+([/?][^ #]*)?$')",message="url is http:// or https:// with a fixed host, without user and blanks; places such as {{phone}} may stand behind the host"
	URL string `json:"url"`
	// Method of the request.
	// +optional
	// +kubebuilder:default=POST
	// +kubebuilder:validation:Enum=GET;POST;PUT
	Method string `json:"method,omitempty"`
	// Headers of the request.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=20
	Headers []SMSHeader `json:"headers,omitempty"`
	// BodyFormat is what the body is, and its Content-Type if no header gives one.
	// +optional
	// +kubebuilder:default=JSON
	BodyFormat SMSBodyFormat `json:"bodyFormat,omitempty"`
	// Body of the request, such as {"to": "{{phone}}", "text": "{{text}}"}.
	// +optional
	// +kubebuilder:validation:MaxLength=8192
	Body string `json:"body,omitempty"`
	// ExpectedStatus are the status codes that mean that the gateway has taken the message; any from 200 to 299 if empty.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=10
	// +kubebuilder:validation:items:Minimum=200
	// +kubebuilder:validation:items:Maximum=299
	ExpectedStatus []int32 `json:"expectedStatus,omitempty"`
	// ExpectedBody is a regular expression (RE2) that the gateway's answer must match, for gateways that tell errors with
	// status 200.
	// +optional
	// +kubebuilder:validation:MaxLength=500
	ExpectedBody string `json:"expectedBody,omitempty"`
	// CABundle is the PEM of the certificates by which the gateway's is checked; by default those of the platform's machine.
	// +optional
	// +kubebuilder:validation:MaxLength=65536
	CABundle string `json:"caBundle,omitempty"`
}

// SMSHeader is a header of a request to a gateway.
type SMSHeader struct {
	// Name of the header.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=100
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9-]+$`
	// +kubebuilder:validation:XValidation:rule="!(self.lowerAscii() in ['host', 'content-length', 'transfer-encoding', 'connection'])",message="this header is the request's own"
	Name string `json:"name"`
	// Value, with places such as {{secret}}.
	// +required
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="!self.contains('\\n') && !self.contains('\\r')",message="a header is one line"
	Value string `json:"value"`
}

// NotificationProviderStatus is what the platform knows of a provider.
type NotificationProviderStatus struct {
	// SecretTime is when the password or token was last written; none was if empty.
	// +optional
	SecretTime *metav1.Time `json:"secretTime,omitempty"`
	// SecretWrittenBy is the user who wrote it.
	// +optional
	SecretWrittenBy string `json:"secretWrittenBy,omitempty"`
}

// NotificationProviderList is a list of NotificationProviders.
//
// +kubebuilder:object:root=true
type NotificationProviderList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NotificationProvider `json:"items"`
}
