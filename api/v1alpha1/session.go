package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// SessionKind is what signed in.
//
// +kubebuilder:validation:Enum=Browser;CLI
type SessionKind string

// Kinds of sessions.
const (
	// SessionBrowser is known by a cookie.
	SessionBrowser SessionKind = "Browser"
	// SessionCLI is known by short-lived tokens, and renewed by a refresh token that changes each time.
	SessionCLI SessionKind = "CLI"
)

// Session is one sign-in of one user. The platform writes it; deleting it signs the user out there.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:printcolumn:name="User",type=string,JSONPath=`.spec.user`
// +kubebuilder:printcolumn:name="Kind",type=string,JSONPath=`.spec.kind`
// +kubebuilder:printcolumn:name="Source",type=string,JSONPath=`.spec.source`
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.spec.expirationTime`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Session struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec SessionSpec `json:"spec"`
}

// SessionSpec says whose session it is and how it is known.
//
// +kubebuilder:validation:XValidation:rule="self.user == oldSelf.user && self.userUID == oldSelf.userUID && self.kind == oldSelf.kind",message="a session stays its user's"
type SessionSpec struct {
	// User whose session it is.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	User string `json:"user"`
	// UserUID is the UID of the User: one who is made anew under the same name does not inherit sessions.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	UserUID string `json:"userUID"`
	// Kind is what signed in.
	// +required
	Kind SessionKind `json:"kind"`
	// Source is the network address that signed in.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Source string `json:"source,omitempty"`
	// ExpirationTime is when the session ends, whatever is done in it.
	// +required
	ExpirationTime metav1.Time `json:"expirationTime"`
	// Hash is the SHA-256 of the cookie's or the current refresh token's secret, in hexadecimal.
	// +required
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	Hash string `json:"hash"`
	// PreviousHash is that of the refresh token before: whoever shows it has stolen it, or was stolen from, and the
	// session ends.
	// +optional
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	PreviousHash string `json:"previousHash,omitempty"`
}

// SessionList is a list of Sessions.
//
// +kubebuilder:object:root=true
type SessionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Session `json:"items"`
}
