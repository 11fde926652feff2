package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Membership gives a user or a group a role in the tenant in whose hub namespace it is, in all of the tenant or in some
// of its partitions only.
//
// +kubebuilder:object:root=true
// +kubebuilder:printcolumn:name="Kind",type=string,JSONPath=`.spec.subject.kind`
// +kubebuilder:printcolumn:name="Subject",type=string,JSONPath=`.spec.subject.name`
// +kubebuilder:printcolumn:name="Role",type=string,JSONPath=`.spec.role`
// +kubebuilder:printcolumn:name="Partitions",type=string,JSONPath=`.spec.partitions`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Membership struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec MembershipSpec `json:"spec"`
}

// MembershipSpec says who has which role where.
// +kubebuilder:validation:XValidation:rule="self.role != 'Admin' || !has(self.partitions) || size(self.partitions) == 0",message="an Admin is one of the whole tenant: leave partitions out, or choose the role Operator or Viewer"
type MembershipSpec struct {
	// Subject is who has the role.
	// +required
	Subject Subject `json:"subject"`
	// Role in the tenant.
	// +required
	Role Role `json:"role"`
	// Partitions of the tenant to which the role is limited; all of them, also future ones, if empty.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=40
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Partitions []string `json:"partitions,omitempty"`
}

// Subject is a user or a group of users.
// +kubebuilder:validation:XValidation:rule="self.kind != 'User' || self.name.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",message="a user's name consists of small letters, digits, '-' and '.': it is that of a User object"
// +kubebuilder:validation:XValidation:rule="self.kind != 'Group' || self.name.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:.+)?$')",message="a group is the name of a UserGroup of the tenant, or <directory>:<group> of a Directory"
// +kubebuilder:validation:XValidation:rule="self.kind != 'Group' || !self.name.matches('^[^:]*:(system|yunfan):')",message="groups that begin with system: or yunfan: are not taken from a directory"
type Subject struct {
	// Kind of the subject.
	// +required
	// +kubebuilder:validation:Enum=User;Group
	Kind SubjectKind `json:"kind"`
	// Name of a User, of a UserGroup of the same tenant, or, with a colon, of a group of a Directory: corp:ops is the
	// group ops of the Directory corp.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=320
	Name string `json:"name"`
}

// SubjectKind is the kind of a Membership's subject.
type SubjectKind string

// The kinds of subjects.
const (
	SubjectUser  SubjectKind = "User"
	SubjectGroup SubjectKind = "Group"
)

// Role is what a member may do in a tenant. Admin: everything the tenant has, its members too. Operator: applications
// and configurations. Viewer: look at them.
// +kubebuilder:validation:Enum=Admin;Operator;Viewer
type Role string

// The roles.
const (
	RoleAdmin    Role = "Admin"
	RoleOperator Role = "Operator"
	RoleViewer   Role = "Viewer"
)

// MembershipList is a list of Memberships.
//
// +kubebuilder:object:root=true
type MembershipList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Membership `json:"items"`
}
