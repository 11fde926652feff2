package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// AccessToken lets a machine act as a user, with his rights or fewer. The platform writes it; deleting it revokes it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:printcolumn:name="User",type=string,JSONPath=`.spec.user`
// +kubebuilder:printcolumn:name="Description",type=string,JSONPath=`.spec.description`
// +kubebuilder:printcolumn:name="Tenant",type=string,JSONPath=`.spec.scope.tenant`
// +kubebuilder:printcolumn:name="Role",type=string,JSONPath=`.spec.scope.role`
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.spec.expirationTime`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type AccessToken struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec AccessTokenSpec `json:"spec"`
}

// AccessTokenSpec says whose token it is and what may be done with it.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a token stays as it was made: make another"
type AccessTokenSpec struct {
	// User as whom the token acts.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	User string `json:"user"`
	// UserUID is the UID of the User: one who is made anew under the same name does not inherit tokens.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	UserUID string `json:"userUID"`
	// Description says what the token is for.
	// +optional
	// +kubebuilder:validation:MaxLength=200
	Description string `json:"description,omitempty"`
	// Scope narrows what the user may do. Without it, the token may do all that he may.
	// +optional
	Scope TokenScope `json:"scope,omitempty"`
	// ExpirationTime is when the token ends.
	// +required
	ExpirationTime metav1.Time `json:"expirationTime"`
	// Hash is the SHA-256 of the token's secret, in hexadecimal.
	// +required
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	Hash string `json:"hash"`
}

// TokenScope narrows what a user may do. It never adds a right: what he loses, his tokens lose.
//
// +kubebuilder:validation:XValidation:rule="!has(self.partitions) || size(self.partitions) == 0 || has(self.tenant)",message="partitions need tenant: they are the tenant's"
// +kubebuilder:validation:XValidation:rule="!has(self.partitions) || size(self.partitions) == 0 || !has(self.role) || self.role != 'Admin'",message="an Admin is never limited to partitions: give role Operator or Viewer"
type TokenScope struct {
	// Tenant is the only one in which the token acts.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	Tenant string `json:"tenant,omitempty"`
	// Role is the highest that the token has: Admin, Operator or Viewer. Without a tenant it takes the rights over the
	// platform as a whole away.
	// +optional
	// +kubebuilder:validation:Enum=Admin;Operator;Viewer
	Role string `json:"role,omitempty"`
	// Partitions of the tenant are the only ones in which the token acts.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=63
	Partitions []string `json:"partitions,omitempty"`
}

// AccessTokenList is a list of AccessTokens.
//
// +kubebuilder:object:root=true
type AccessTokenList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AccessToken `json:"items"`
}
