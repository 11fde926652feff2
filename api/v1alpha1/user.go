package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// User is somebody who signs in to the platform. Kubernetes knows him as "yunfan:<name>". His password, if he has one
// here, is kept elsewhere, as a hash.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Display name",type=string,JSONPath=`.spec.displayName`
// +kubebuilder:printcolumn:name="Directory",type=string,JSONPath=`.spec.directory`
// +kubebuilder:printcolumn:name="Platform administrator",type=boolean,JSONPath=`.spec.platformAdministrator`
// +kubebuilder:printcolumn:name="Disabled",type=boolean,JSONPath=`.spec.disabled`
// +kubebuilder:printcolumn:name="Last sign-in",type=date,JSONPath=`.status.lastSignInTime`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63",message="a user's name has at most 63 characters"
type User struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec must be there, so that its rules compare it with what it was.
	// +required
	Spec UserSpec `json:"spec"`
	// +optional
	Status UserStatus `json:"status,omitempty"`
}

// UserSpec says who a user is.
//
// +kubebuilder:validation:XValidation:rule="has(self.directory) == has(oldSelf.directory) && (!has(self.directory) || self.directory == oldSelf.directory)",message="a user stays in his directory: delete the user and let him be made anew"
// +kubebuilder:validation:XValidation:rule="!has(self.externalID) || has(self.directory)",message="externalID is of a user of a directory"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.externalID) || (has(self.externalID) && self.externalID == oldSelf.externalID)",message="externalID stays as it is: another person with this name must not inherit the user's rights"
type UserSpec struct {
	// DisplayName is the user's name for people.
	// +optional
	// +kubebuilder:validation:MaxLength=100
	DisplayName string `json:"displayName,omitempty"`
	// Email is where notices are sent. Nobody is known by it.
	// +optional
	// +kubebuilder:validation:MaxLength=254
	Email string `json:"email,omitempty"`
	// Phone is where text messages are sent: in international form such as +8613800138000, or as 11 digits of China.
	// +optional
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^(\+[1-9][0-9]{6,14}|1[3-9][0-9]{9})$`
	Phone string `json:"phone,omitempty"`
	// Notifications is how the user wants to be told. He changes it himself.
	// +optional
	Notifications *UserNotifications `json:"notifications,omitempty"`
	// Disabled users cannot sign in, and what they have open ends.
	// +optional
	Disabled bool `json:"disabled,omitempty"`
	// PlatformAdministrator may do everything that is done on the platform as a whole. Where the user's directory names
	// platformAdministratorGroups, it is set at each sign-in by them.
	// +optional
	PlatformAdministrator bool `json:"platformAdministrator,omitempty"`
	// Directory is the Directory that knows the user; empty for a local account with a password of its own.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Directory string `json:"directory,omitempty"`
	// ExternalID is the directory's own lasting identifier of the user (entryUUID, objectGUID or sub). It is written at
	// the first sign-in and never changes: whoever gets the same name later is somebody else.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	ExternalID string `json:"externalID,omitempty"`
}

// UserNotifications is how a user wants to be told. Whatever he chooses, messages are in his inbox on the platform.
type UserNotifications struct {
	// Language of mails and text messages; Chinese if empty.
	// +optional
	Language NotificationLanguage `json:"language,omitempty"`
	// Channels by which the user is told besides his inbox; by mail if this is not there, by none if it is empty.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=2
	Channels *[]NotificationChannel `json:"channels,omitempty"`
	// MutedTopics are left in the inbox: a topic such as request.approved, all of a capability as request.*, or *.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=50
	// +kubebuilder:validation:items:MaxLength=100
	// +kubebuilder:validation:items:Pattern=`^(\*|[a-z0-9-]+(\.[a-z0-9-]+)*(\.\*)?)$`
	MutedTopics []string `json:"mutedTopics,omitempty"`
}

// NotificationChannel is a way by which people are told besides their inbox.
//
// +kubebuilder:validation:Enum=Email;SMS
type NotificationChannel string

// Channels to people.
const (
	ChannelEmail NotificationChannel = "Email"
	ChannelSMS   NotificationChannel = "SMS"
)

// UserStatus is what the platform knows of a user.
type UserStatus struct {
	// LastSignInTime is when the user last signed in.
	// +optional
	LastSignInTime *metav1.Time `json:"lastSignInTime,omitempty"`
	// DirectoryGroups are the user's groups in his directory as of his last sign-in, as <directory>:<group>.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=500
	// +kubebuilder:validation:items:MaxLength=320
	DirectoryGroups []string `json:"directoryGroups,omitempty"`
	// FailedAttempts to sign in since the last that succeeded.
	// +optional
	FailedAttempts int32 `json:"failedAttempts,omitempty"`
	// LockedUntil is when the user can sign in again after failed attempts. Taking it and failedAttempts away unlocks him.
	// +optional
	LockedUntil *metav1.Time `json:"lockedUntil,omitempty"`
	// PasswordChangeRequired lets the user do nothing but change his password.
	// +optional
	PasswordChangeRequired bool `json:"passwordChangeRequired,omitempty"`
}

// UserList is a list of Users.
//
// +kubebuilder:object:root=true
type UserList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []User `json:"items"`
}
