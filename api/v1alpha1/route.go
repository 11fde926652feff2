package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Route brings requests for hosts and paths to components of the tenant's applications, in every partition that the
// application runs in: the edge chooses the partition, the gateway of its cluster the component and its version. A host
// belongs to the tenant whose Route named it first.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Hosts",type=string,JSONPath=`.spec.hosts`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Certificate until",type=string,JSONPath=`.status.certificate.notAfter`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 40",message="a route's name has at most 40 characters: names of other objects are made from it"
// +kubebuilder:validation:XValidation:rule="!self.metadata.name.contains('.')",message="a route's name has no dots"
type Route struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec RouteSpec `json:"spec"`
	// +optional
	Status RouteStatus `json:"status,omitempty"`
}

// RouteSpec says which requests go where, and how.
type RouteSpec struct {
	// Hosts that are served, like shop.example.com or *.shop.example.com. None: requests for any host that no other Route
	// names.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=230
	// +kubebuilder:validation:items:Pattern=`^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	Hosts []string `json:"hosts,omitempty"`
	// TLS is the certificate for the hosts.
	// +optional
	TLS *RouteTLS `json:"tls,omitempty"`
	// PlainHTTP says what requests without TLS get: Redirect sends them to https, Serve answers them. Redirect is the
	// default of Routes with a certificate and of those without hosts, Serve of the others.
	// +optional
	// +kubebuilder:validation:Enum=Redirect;Serve
	PlainHTTP PlainHTTP `json:"plainHTTP,omitempty"`
	// Rules are looked at in order of how exactly they match: exact paths, longer prefixes, then more conditions; among
	// equals the first wins.
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Rules []RouteRule `json:"rules"`
	// Partitions say how requests are shared among the partitions of an application. Those that are not named get a
	// share by their ready pods.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=100
	Partitions []RoutePartition `json:"partitions,omitempty"`
	// Affinity keeps a client's requests in one partition, and at one pod.
	// +optional
	Affinity *RouteAffinity `json:"affinity,omitempty"`
	// RateLimit answers 429 to what is more.
	// +optional
	RateLimit *RateLimit `json:"rateLimit,omitempty"`
	// Allow are the ranges of client addresses that are let in, like 10.0.0.0/8; all if empty. Others get 403.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self)",message="write a range like 10.0.0.0/8, or one address as 10.1.2.3/32"
	Allow []string `json:"allow,omitempty"`
	// Deny are the ranges of client addresses that get 403, also where Allow has them.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self)",message="write a range like 10.0.0.0/8, or one address as 10.1.2.3/32"
	Deny []string `json:"deny,omitempty"`
	// Health says how the edge finds out that a partition does not answer.
	// +optional
	Health *RouteHealth `json:"health,omitempty"`
	// Retries by the edge, in another partition or at another gateway, of requests that have had no answer: connections
	// that fail always, and requests that a server ended without an answer for GET, HEAD and OPTIONS only. 0 is the
	// default.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=3
	Retries int32 `json:"retries,omitempty"`
	// Fault makes requests slow, or fail, on purpose.
	// +optional
	Fault *RouteFault `json:"fault,omitempty"`
}

// PlainHTTP says what requests without TLS get.
type PlainHTTP string

// What requests without TLS get.
const (
	PlainHTTPRedirect PlainHTTP = "Redirect"
	PlainHTTPServe    PlainHTTP = "Serve"
)

// RouteTLS is where a certificate is.
type RouteTLS struct {
	// Configuration of the type Secret with the files tls.crt and tls.key, in PEM. Its newest version is used.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	Configuration string `json:"configuration"`
}

// RouteRule is what happens to requests of one kind: backends answer them, or a redirect.
// +kubebuilder:validation:XValidation:rule="has(self.backends) != has(self.redirect)",message="a rule has either backends or a redirect, not both and not neither"
type RouteRule struct {
	// Name of the rule in its Route.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=20
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Matches are the kinds of requests; one that is enough. None: every request.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Matches []RouteMatch `json:"matches,omitempty"`
	// Backends share the requests by their weights. All are of one application.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:XValidation:rule="self.size() == 1 || self.all(b, has(b.weight)) && self.map(b, b.weight).sum() == 100",message="the weights of several backends are 100 together"
	// +kubebuilder:validation:XValidation:rule="self.all(b, b.application == self[0].application)",message="the backends of a rule are components of one application"
	Backends []RouteBackend `json:"backends,omitempty"`
	// Redirect answers with another address.
	// +optional
	Redirect *RouteRedirect `json:"redirect,omitempty"`
	// Rewrite changes host and path on the way to the backend.
	// +optional
	Rewrite *RouteRewrite `json:"rewrite,omitempty"`
	// RequestHeaders change what the backend gets.
	// +optional
	RequestHeaders *HeaderChange `json:"requestHeaders,omitempty"`
	// ResponseHeaders change what the client gets.
	// +optional
	ResponseHeaders *HeaderChange `json:"responseHeaders,omitempty"`
	// Mirror sends a copy of requests to another component; its answers are dropped.
	// +optional
	Mirror *RouteMirror `json:"mirror,omitempty"`
	// Timeout for an answer to begin; 504 then. None is the default.
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// Retries by the gateway at another pod, of requests that could not be sent to one. 0 is the default.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=5
	Retries int32 `json:"retries,omitempty"`
	// CircuitBreaker answers 503 for a while when too much fails.
	// +optional
	CircuitBreaker *CircuitBreaker `json:"circuitBreaker,omitempty"`
}

// RouteBackend is a component of an application.
type RouteBackend struct {
	// Application of the tenant.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	Application string `json:"application"`
	// Component of the application; it has a service.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	Component string `json:"component"`
	// Port of the component's service, by its name; its first if empty.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	Port string `json:"port,omitempty"`
	// Weight among several backends, which are 100 together.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Weight *int32 `json:"weight,omitempty"`
}

// RouteRedirect is another address. What is empty stays as the request has it.
type RouteRedirect struct {
	// Scheme of the address.
	// +optional
	// +kubebuilder:validation:Enum=http;https
	Scheme string `json:"scheme,omitempty"`
	// Host of the address.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	Host string `json:"host,omitempty"`
	// Port of the address.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`
	// Path in place of the whole path.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^/`
	Path string `json:"path,omitempty"`
	// Status of the answer.
	// +optional
	// +kubebuilder:default=302
	// +kubebuilder:validation:Enum=301;302;303;307;308
	Status int32 `json:"status,omitempty"`
}

// RouteRewrite is what the backend sees in place of what the client asked for.
// +kubebuilder:validation:XValidation:rule="!has(self.path) || !has(self.prefix)",message="a rewrite has path or prefix, not both"
type RouteRewrite struct {
	// Host in place of the request's.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	Host string `json:"host,omitempty"`
	// Path in place of the whole path.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^/`
	Path string `json:"path,omitempty"`
	// Prefix in place of the one that the rule matched.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^/`
	Prefix string `json:"prefix,omitempty"`
}

// HeaderChange changes headers.
type HeaderChange struct {
	// Set gives headers these values.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	Set map[string]string `json:"set,omitempty"`
	// Remove takes headers away.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=100
	Remove []string `json:"remove,omitempty"`
}

// RouteMirror is who gets copies.
type RouteMirror struct {
	// Component, of the application of the rule's backends.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	Component string `json:"component"`
	// Port of the component's service, by its name; its first if empty.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	Port string `json:"port,omitempty"`
	// Percent of the requests that are copied.
	// +optional
	// +kubebuilder:default=100
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Percent int32 `json:"percent,omitempty"`
}

// CircuitBreaker opens when the share of failing requests of the last ten seconds is too large.
type CircuitBreaker struct {
	// ErrorPercent of requests with an answer of 500 and more, or none.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	ErrorPercent int32 `json:"errorPercent"`
	// OpenFor is how long 503 is answered at first; then it is tried again, little by little. 10s is the default.
	// +optional
	OpenFor *metav1.Duration `json:"openFor,omitempty"`
}

// RoutePartition is the share of one partition.
type RoutePartition struct {
	// Name of the partition.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	Name string `json:"name"`
	// Weight among the partitions; by ready pods if empty. 0 sends nothing there.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	Weight *int32 `json:"weight,omitempty"`
	// Closed sends nothing new there; what is under way may end.
	// +optional
	Closed bool `json:"closed,omitempty"`
}

// AffinityType is what clients are known by.
// +kubebuilder:validation:Enum=Cookie;ClientIP
type AffinityType string

// What clients are known by.
const (
	AffinityCookie   AffinityType = "Cookie"
	AffinityClientIP AffinityType = "ClientIP"
)

// RouteAffinity keeps a client's requests together.
type RouteAffinity struct {
	// Type is what clients are known by: a cookie that is set for them, or their address.
	// +required
	Type AffinityType `json:"type"`
	// Cookie is its name; yunfan-affinity if empty.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_-]*$`
	Cookie string `json:"cookie,omitempty"`
}

// RateLimit bounds requests.
type RateLimit struct {
	// Requests in a period.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	Requests int32 `json:"requests"`
	// Period, from 1s to 1h; 1s is the default.
	// +optional
	Period *metav1.Duration `json:"period,omitempty"`
	// Per says what is counted: Route, all requests together; Client, those of each address.
	// +optional
	// +kubebuilder:default=Route
	// +kubebuilder:validation:Enum=Route;Client
	Per RateLimitPer `json:"per,omitempty"`
}

// RateLimitPer says what is counted.
type RateLimitPer string

// What is counted.
const (
	RateLimitPerRoute  RateLimitPer = "Route"
	RateLimitPerClient RateLimitPer = "Client"
)

// RouteHealth is a request that the edge makes of each partition, through its gateway and to its stable version.
type RouteHealth struct {
	// Path that is asked for; / if empty. Any answer below 500 is a good one.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^(/.*)?$`
	Path string `json:"path,omitempty"`
	// Interval between requests, from 500ms to 1m; 2s is the default.
	// +optional
	Interval *metav1.Duration `json:"interval,omitempty"`
	// Failures in a row after which a partition is closed; 2 is the default.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10
	Failures int32 `json:"failures,omitempty"`
}

// RouteFault makes requests slow, or fail, on purpose.
// +kubebuilder:validation:XValidation:rule="has(self.delay) || has(self.abort)",message="a fault has a delay, an abort, or both"
type RouteFault struct {
	// Matches are the requests that it concerns; all if empty. Paths, methods, headers, query, cookies and clients count.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Matches []RouteMatch `json:"matches,omitempty"`
	// Delay keeps requests for a while.
	// +optional
	Delay *FaultDelay `json:"delay,omitempty"`
	// Abort answers requests with an error.
	// +optional
	Abort *FaultAbort `json:"abort,omitempty"`
}

// FaultDelay keeps requests for a while.
type FaultDelay struct {
	// Percent of the requests.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Percent int32 `json:"percent"`
	// Duration of the delay, at most 30s.
	// +required
	Duration metav1.Duration `json:"duration"`
}

// FaultAbort answers with an error.
type FaultAbort struct {
	// Percent of the requests.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Percent int32 `json:"percent"`
	// Status of the answer.
	// +required
	// +kubebuilder:validation:Minimum=400
	// +kubebuilder:validation:Maximum=599
	Status int32 `json:"status"`
}

// RouteStatus is how a Route is carried.
type RouteStatus struct {
	// ObservedGeneration is the generation of the spec this status was made for.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Addresses at which the edge answers, like http://192.0.2.1:80.
	// +optional
	// +listType=atomic
	Addresses []string `json:"addresses,omitempty"`
	// Certificate that is served.
	// +optional
	Certificate *CertificateStatus `json:"certificate,omitempty"`
	// Partitions that get requests, or would.
	// +optional
	// +listType=map
	// +listMapKey=application
	// +listMapKey=partition
	Partitions []RoutePartitionStatus `json:"partitions,omitempty"`
	// Conditions: Ready says that every edge and every gateway serves the Route as it is.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// CertificateStatus is what a certificate says of itself.
type CertificateStatus struct {
	// Subject of the certificate.
	// +optional
	Subject string `json:"subject,omitempty"`
	// Issuer of the certificate.
	// +optional
	Issuer string `json:"issuer,omitempty"`
	// Hosts that it is for.
	// +optional
	// +listType=atomic
	Hosts []string `json:"hosts,omitempty"`
	// NotAfter is when it expires.
	// +optional
	NotAfter *metav1.Time `json:"notAfter,omitempty"`
	// Fingerprint is the SHA-256 of it.
	// +optional
	Fingerprint string `json:"fingerprint,omitempty"`
}

// TrafficState is what a partition gets. Open: its share. Closed: nothing new. Down: nothing, for it does not answer.
type TrafficState string

// What a partition gets.
const (
	TrafficOpen   TrafficState = "Open"
	TrafficClosed TrafficState = "Closed"
	TrafficDown   TrafficState = "Down"
)

// RoutePartitionStatus is one application in one partition, as the edge has it.
type RoutePartitionStatus struct {
	// Application that answers.
	// +required
	Application string `json:"application"`
	// Partition it is in.
	// +required
	Partition string `json:"partition"`
	// Cluster of the partition.
	// +optional
	Cluster string `json:"cluster,omitempty"`
	// State of it.
	// +optional
	State TrafficState `json:"state,omitempty"`
	// Share of the requests, in percent.
	// +optional
	Share int32 `json:"share"`
	// Message says why the state is not Open.
	// +optional
	Message string `json:"message,omitempty"`
}

// RouteList is a list of Routes.
//
// +kubebuilder:object:root=true
type RouteList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Route `json:"items"`
}

// StatusConditions gives the conditions, to be read and set.
func (o *Route) StatusConditions() *[]metav1.Condition { return &o.Status.Conditions }

// SetObservedGeneration says for which generation of the spec the status was made.
func (o *Route) SetObservedGeneration(generation int64) { o.Status.ObservedGeneration = generation }
