package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// DirectoryType is how a directory is asked.
//
// +kubebuilder:validation:Enum=LDAP;OIDC
type DirectoryType string

// Types of directories.
const (
	DirectoryLDAP DirectoryType = "LDAP"
	DirectoryOIDC DirectoryType = "OIDC"
)

// Directory knows users that are not the platform's own: an LDAP server, such as OpenLDAP or Active Directory, or an
// OpenID Connect issuer.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.type`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",message="a directory's name has at most 63 characters and no dots"
// +kubebuilder:validation:XValidation:rule="!(self.metadata.name in ['local', 'system', 'yunfan'])",message="the names local, system and yunfan belong to the platform: choose another"
type Directory struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec DirectorySpec `json:"spec"`
	// +optional
	Status DirectoryStatus `json:"status,omitempty"`
}

// DirectorySpec says where a directory is and what is taken from it.
//
// +kubebuilder:validation:XValidation:rule="self.type == oldSelf.type",message="a directory stays of its type: make another"
// +kubebuilder:validation:XValidation:rule="(self.type == 'LDAP') == has(self.ldap)",message="type LDAP needs ldap, and only it has it"
// +kubebuilder:validation:XValidation:rule="(self.type == 'OIDC') == has(self.oidc)",message="type OIDC needs oidc, and only it has it"
type DirectorySpec struct {
	// Type is how the directory is asked.
	// +required
	Type DirectoryType `json:"type"`
	// DisplayName is what the sign-in page shows.
	// +optional
	// +kubebuilder:validation:MaxLength=100
	DisplayName string `json:"displayName,omitempty"`
	// CreateUsers makes a User at the first sign-in. Otherwise an administrator makes it before, with this directory.
	// +optional
	// +kubebuilder:default=true
	CreateUsers *bool `json:"createUsers,omitempty"`
	// PlatformAdministratorGroups are groups of the directory whose members administer the platform. If there are any,
	// nobody else of this directory does.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=20
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=255
	PlatformAdministratorGroups []string `json:"platformAdministratorGroups,omitempty"`
	// LDAP is for type LDAP.
	// +optional
	LDAP *LDAPDirectory `json:"ldap,omitempty"`
	// OIDC is for type OIDC.
	// +optional
	OIDC *OIDCDirectory `json:"oidc,omitempty"`
}

// LDAPSecurity is how the connection is kept from others.
//
// +kubebuilder:validation:Enum=LDAPS;StartTLS;None
type LDAPSecurity string

// Ways to keep a connection from others.
const (
	// LDAPS is TLS from the first byte, by default on port 636.
	LDAPS LDAPSecurity = "LDAPS"
	// LDAPStartTLS begins in the clear, by default on port 389, and shows no password before TLS.
	LDAPStartTLS LDAPSecurity = "StartTLS"
	// LDAPPlain shows every password to the network.
	LDAPPlain LDAPSecurity = "None"
)

// LDAPDirectory says how an LDAP server is asked. A user is searched for below baseDN, as the bind account, and his
// password is tried by a bind as what was found.
//
// +kubebuilder:validation:XValidation:rule="!has(self.bindDN) || has(self.bindPasswordSecretRef)",message="bindDN needs bindPasswordSecretRef: a bind without password is anonymous"
// +kubebuilder:validation:XValidation:rule="has(self.bindDN) || !has(self.bindPasswordSecretRef)",message="bindPasswordSecretRef needs bindDN"
// +kubebuilder:validation:XValidation:rule="!has(self.groupFilter) || has(self.groupBaseDN)",message="groupFilter needs groupBaseDN"
type LDAPDirectory struct {
	// Host is the server's name or address.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="!self.contains('/') && !self.contains(' ')",message="host is a name or an address, without scheme and port"
	Host string `json:"host"`
	// Port of the server; by default 636 with LDAPS and 389 otherwise.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`
	// Security is how the connection is kept from others.
	// +optional
	// +kubebuilder:default=StartTLS
	Security LDAPSecurity `json:"security,omitempty"`
	// CA is the PEM of the certificates by which the server's is checked; by default those of the platform's machine.
	// +optional
	// +kubebuilder:validation:MaxLength=65536
	CA string `json:"ca,omitempty"`
	// BindDN is the account that searches; without it the search is anonymous.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	BindDN string `json:"bindDN,omitempty"`
	// BindPasswordSecretRef names a Secret in the platform's namespace whose key "password" is the account's.
	// +optional
	BindPasswordSecretRef *SecretReference `json:"bindPasswordSecretRef,omitempty"`
	// BaseDN is where users are searched for.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	BaseDN string `json:"baseDN"`
	// Filter is what users must match besides having the name, such as (objectClass=person).
	// +optional
	// +kubebuilder:default="(objectClass=person)"
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.startsWith('(') && self.endsWith(')')",message="a filter stands in parentheses, such as (objectClass=person)"
	Filter string `json:"filter,omitempty"`
	// TimeoutSeconds is how long everything that is asked for one sign-in may take.
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=25
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`
	// Attributes are the names of the attributes that are read.
	// +optional
	// +kubebuilder:default={}
	Attributes LDAPAttributes `json:"attributes,omitempty"`
	// GroupBaseDN is where groups are searched for. Without it they are only taken from attributes.groups.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	GroupBaseDN string `json:"groupBaseDN,omitempty"`
	// GroupFilter finds the user's groups: {dn} and {user} stand for his DN and name. By default
	// (|(member={dn})(uniqueMember={dn})(memberUid={user})); in Active Directory
	// (member:1.2.840.113556.1.4.1941:={dn}) also finds groups in groups.
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.startsWith('(') && self.endsWith(')')",message="a filter stands in parentheses, such as (member={dn})"
	GroupFilter string `json:"groupFilter,omitempty"`
}

// LDAPAttributes are names of attributes.
type LDAPAttributes struct {
	// User is the attribute with the name by which users sign in: uid, or sAMAccountName in Active Directory.
	// +optional
	// +kubebuilder:default=uid
	// +kubebuilder:validation:Pattern=`^[A-Za-z][A-Za-z0-9-]{0,63}$`
	User string `json:"user,omitempty"`
	// ID is the attribute with the lasting identifier: entryUUID, or objectGUID in Active Directory.
	// +optional
	// +kubebuilder:default=entryUUID
	// +kubebuilder:validation:Pattern=`^[A-Za-z][A-Za-z0-9-]{0,63}$`
	ID string `json:"id,omitempty"`
	// Name is the attribute with the full name.
	// +optional
	// +kubebuilder:default=cn
	// +kubebuilder:validation:Pattern=`^[A-Za-z][A-Za-z0-9-]{0,63}$`
	Name string `json:"name,omitempty"`
	// Surname is the attribute with the family name, shown if there is no full name.
	// +optional
	// +kubebuilder:default=sn
	// +kubebuilder:validation:Pattern=`^[A-Za-z][A-Za-z0-9-]{0,63}$`
	Surname string `json:"surname,omitempty"`
	// Mail is the attribute with the address for mail.
	// +optional
	// +kubebuilder:default=mail
	// +kubebuilder:validation:Pattern=`^[A-Za-z][A-Za-z0-9-]{0,63}$`
	Mail string `json:"mail,omitempty"`
	// Groups is the attribute of a user with the DNs or names of his groups, where the server has one.
	// +optional
	// +kubebuilder:default=memberOf
	// +kubebuilder:validation:Pattern=`^[A-Za-z][A-Za-z0-9-]{0,63}$`
	Groups string `json:"groups,omitempty"`
	// GroupName is the attribute of a group that is its name.
	// +optional
	// +kubebuilder:default=cn
	// +kubebuilder:validation:Pattern=`^[A-Za-z][A-Za-z0-9-]{0,63}$`
	GroupName string `json:"groupName,omitempty"`
}

// OIDCDirectory says how an OpenID Connect issuer is asked: by the authorization code flow with PKCE.
type OIDCDirectory struct {
	// Issuer is the issuer's URL, exactly as it stands in its tokens.
	// +required
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() == 'https'",message="the issuer is an https URL"
	Issuer string `json:"issuer"`
	// ClientID is the platform's name at the issuer.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	ClientID string `json:"clientID"`
	// ClientSecretRef names a Secret in the platform's namespace whose key "clientSecret" the issuer gave. Without it
	// the platform is a public client.
	// +optional
	ClientSecretRef *SecretReference `json:"clientSecretRef,omitempty"`
	// Scopes that are asked for besides openid.
	// +optional
	// +listType=set
	// +kubebuilder:default={"profile","email"}
	// +kubebuilder:validation:MaxItems=20
	// +kubebuilder:validation:items:MaxLength=100
	Scopes []string `json:"scopes,omitempty"`
	// UsernameClaim is the claim that becomes the user's name. Two people of the issuer must never have the same.
	// +optional
	// +kubebuilder:default=preferred_username
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=100
	UsernameClaim string `json:"usernameClaim,omitempty"`
	// GroupsClaim is the claim with the user's groups, a list of names.
	// +optional
	// +kubebuilder:default=groups
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=100
	GroupsClaim string `json:"groupsClaim,omitempty"`
	// CA is the PEM of the certificates by which the issuer's is checked; by default those of the platform's machine.
	// +optional
	// +kubebuilder:validation:MaxLength=65536
	CA string `json:"ca,omitempty"`
}

// DirectoryStatus is the state of a directory.
type DirectoryStatus struct {
	// ObservedGeneration is the generation of the spec this status was made for.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions: Ready says that the directory answers, and knows the platform's account.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// StatusConditions gives the conditions, to be read and set.
func (d *Directory) StatusConditions() *[]metav1.Condition { return &d.Status.Conditions }

// SetObservedGeneration says for which generation of the spec the status was made.
func (d *Directory) SetObservedGeneration(generation int64) { d.Status.ObservedGeneration = generation }

// DirectoryList is a list of Directories.
//
// +kubebuilder:object:root=true
type DirectoryList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Directory `json:"items"`
}
