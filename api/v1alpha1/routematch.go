package v1alpha1

// RouteMatch is one kind of requests: all that is said must be so.
type RouteMatch struct {
	// Path of the request.
	// +optional
	Path *PathMatch `json:"path,omitempty"`
	// Method of the request.
	// +optional
	// +kubebuilder:validation:Enum=GET;HEAD;POST;PUT;DELETE;CONNECT;OPTIONS;TRACE;PATCH
	Method string `json:"method,omitempty"`
	// Headers, all of which the request has. Names are compared without regard to case. User-Agent tells browser and
	// operating system.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=8
	Headers []ValueMatch `json:"headers,omitempty"`
	// Query parameters, all of which the request has.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=8
	Query []ValueMatch `json:"query,omitempty"`
	// Cookies, all of which the request has.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=8
	Cookies []ValueMatch `json:"cookies,omitempty"`
	// Clients are ranges of addresses, one of which the client is in: those of a region, of an office.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self)",message="write a range like 10.0.0.0/8, or one address as 10.1.2.3/32"
	Clients []string `json:"clients,omitempty"`
	// Languages, one of which the client accepts, like zh or en-GB.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MaxLength=20
	// +kubebuilder:validation:items:Pattern=`^[a-zA-Z]{2,8}(-[a-zA-Z0-9]{1,8})*$`
	Languages []string `json:"languages,omitempty"`
}

// MatchType says how a text is compared.
// +kubebuilder:validation:Enum=Exact;Prefix;RegularExpression
type MatchType string

// How texts are compared. Prefix goes by whole segments of a path. Regular expressions are those of RE2, and match
// somewhere in the text unless they say otherwise.
const (
	MatchExact             MatchType = "Exact"
	MatchPrefix            MatchType = "Prefix"
	MatchRegularExpression MatchType = "RegularExpression"
)

// PathMatch compares a path.
// +kubebuilder:validation:XValidation:rule="self.type == 'RegularExpression' || self.value.startsWith('/')",message="a path begins with /"
type PathMatch struct {
	// Type of the comparison.
	// +optional
	// +kubebuilder:default=Prefix
	Type MatchType `json:"type,omitempty"`
	// Value that it is compared with.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Value string `json:"value"`
}

// ValueMatch compares a header, query parameter or cookie.
// +kubebuilder:validation:XValidation:rule="self.type != 'Prefix'",message="Prefix is for paths: write Exact or RegularExpression"
type ValueMatch struct {
	// Name of the header, parameter or cookie.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=100
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+.^_|~-]+$`
	Name string `json:"name"`
	// Type of the comparison.
	// +optional
	// +kubebuilder:default=Exact
	Type MatchType `json:"type,omitempty"`
	// Value that it is compared with.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Value string `json:"value"`
}
