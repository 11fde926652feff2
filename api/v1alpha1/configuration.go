package v1alpha1

import (
	"crypto/rand"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Configuration is a set of files or values that applications use as ConfigMap or Secret. Each change makes a new
// immutable version; a running application keeps the version of its revision.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.type`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 40",message="a configuration's name has at most 40 characters: names of other objects are made from it"
// +kubebuilder:validation:XValidation:rule="!self.metadata.name.contains('.')",message="a configuration's name has no dots: it becomes part of a volume's name"
type Configuration struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec ConfigurationSpec `json:"spec"`
	// +optional
	Status ConfigurationStatus `json:"status,omitempty"`
}

// ConfigurationSpec holds the files, or the names of the values of a Secret.
//
// +kubebuilder:validation:XValidation:rule="!has(self.type) || self.type != 'Secret' || self.files.all(name, self.files[name].size() == 0)",message="values of a Secret never pass through an object that others may read: write them with 'yunfan secret set' or PUT /api/v1/tenants/TENANT/secrets/NAME, and name them here with empty strings"
// +kubebuilder:validation:XValidation:rule="has(self.type) && self.type == 'Secret' || !has(self.secretType) && !has(self.stored)",message="secretType and stored are for type Secret only"
type ConfigurationSpec struct {
	// Type of the object that pods see. Values of a Secret are write-only: they are written through the platform's API,
	// and files has their names with empty strings.
	// +optional
	// +kubebuilder:default=ConfigMap
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="type cannot be changed: make a new configuration"
	Type ConfigurationType `json:"type,omitempty"`
	// SecretType is the Kubernetes type of a Secret; Opaque if empty.
	// +optional
	// +kubebuilder:validation:Enum=Opaque;kubernetes.io/dockerconfigjson;kubernetes.io/tls
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="secretType cannot be changed: make a new configuration"
	SecretType corev1.SecretType `json:"secretType,omitempty"`
	// Stored names the version that holds the values of a Secret that were written last. The platform's API sets it.
	// +optional
	// +kubebuilder:validation:Pattern=`^[a-z0-9]{1,20}$`
	Stored string `json:"stored,omitempty"`
	// Files by name; as environment the names are the variables' names. All together at most 1 MiB.
	// +required
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=100
	// +kubebuilder:validation:XValidation:rule="self.all(name, name.matches('^[-._a-zA-Z0-9]{1,253}$'))",message="a file's name consists of letters, digits, '-', '_' and '.'"
	// +kubebuilder:validation:XValidation:rule="self.all(name, name != '.' && !name.startsWith('..'))",message="a file's name is not '.' and does not begin with '..'"
	Files map[string]string `json:"files"`
	// Publication says where applications may use it.
	// +optional
	// +kubebuilder:default=All
	Publication Publication `json:"publication,omitempty"`
	// Partitions in which applications may use it when publication is Selected.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=200
	Partitions []string `json:"partitions,omitempty"`
}

// ConfigurationType is the kind of object that pods see.
// +kubebuilder:validation:Enum=ConfigMap;Secret
type ConfigurationType string

// The configuration types.
const (
	ConfigurationConfigMap ConfigurationType = "ConfigMap"
	ConfigurationSecret    ConfigurationType = "Secret"
)

// Publication says where a configuration may be used. All: in every partition of the tenant. Selected: in those
// listed. None: nowhere yet.
// +kubebuilder:validation:Enum=All;Selected;None
type Publication string

// The publications.
const (
	PublicationAll      Publication = "All"
	PublicationSelected Publication = "Selected"
	PublicationNone     Publication = "None"
)

// ConfigurationStatus is the state of a configuration.
type ConfigurationStatus struct {
	// ObservedGeneration is the generation of the spec this status was made for.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Version is the newest version: the hash of its content, or a random word for a Secret. The object
	// <name>-<version> holds it.
	// +optional
	Version string `json:"version,omitempty"`
	// Stored is the spec's, once it was taken up.
	// +optional
	Stored string `json:"stored,omitempty"`
	// Versions, newest first: 20, and older ones that a revision uses. A version that is taken up again is the newest.
	// +optional
	// +listType=map
	// +listMapKey=name
	Versions []ConfigurationVersion `json:"versions,omitempty"`
	// Conditions: Ready says that the newest version is stored.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ConfigurationVersion is one stored version.
type ConfigurationVersion struct {
	// Name is the hash of the content, or a random word for a Secret.
	// +required
	Name string `json:"name"`
	// CreatedAt is when it was stored.
	// +required
	CreatedAt metav1.Time `json:"createdAt"`
}

// WriteSecret makes the configuration name values, and gives the immutable object that holds them. It is created before the configuration is written: an
// object that no configuration takes up is deleted after a while.
func (o *Configuration) WriteSecret(kind corev1.SecretType, values map[string][]byte) *corev1.Secret {
	const length = 10
	// A random word: a hash of the values would let everybody who sees it try out values.
	o.Spec.Type, o.Spec.SecretType, o.Spec.Stored = ConfigurationSecret, kind, strings.ToLower(rand.Text())[:length]
	o.Spec.Files = map[string]string{}
	for name := range values {
		o.Spec.Files[name] = ""
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: o.Namespace, Name: VersionObjectName(o.Name, o.Spec.Stored), Labels: map[string]string{LabelConfiguration: o.Name},
		},
		Type: kind, Immutable: new(true), Data: values,
	}
}

// ConfigurationList is a list of Configurations.
//
// +kubebuilder:object:root=true
type ConfigurationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Configuration `json:"items"`
}

// VersionObjectName is the name of the ConfigMap or Secret, on hub and members, that holds a version.
func VersionObjectName(configuration, version string) string { return configuration + "-" + version }

// VolumeName is the name of the volume in which a component's pods have a configuration.
func VolumeName(configuration string) string { return "configuration-" + configuration }

// ConfigurationNames are those of the configurations that a component uses, those with the credentials of registries
// included. They may be there twice.
func (c *Component) ConfigurationNames() []string {
	var names []string
	for _, use := range c.Configurations {
		names = append(names, use.Name)
	}
	if c.Template != nil {
		for _, secret := range c.Template.Spec.ImagePullSecrets {
			names = append(names, secret.Name)
		}
	}
	return names
}
