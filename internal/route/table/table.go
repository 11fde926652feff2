// Package table is what the hub tells an edge, and what an edge tells the hub: the contract between them, without any
// knowledge of Kubernetes. A table is the whole of what an edge should serve; two with the same content are the same.
package table

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

const (
	// HeaderPartition tells the gateway which partition the edge has chosen. It begins with the name of the Target, and a
	// dot and more may follow. What clients send is dropped.
	HeaderPartition = "Yunfan-Partition"
	// HeaderClient holds the names of the networks that the client is in, each in a header line of its own. What clients
	// send is dropped.
	HeaderClient = "Yunfan-Client"
	// MarkerPath answers, at each edge and for any host, with the generation that is served: a short text.
	MarkerPath = "/.well-known/yunfan/generation"
	// DefaultCookie is set where affinity is by cookie and has no name.
	DefaultCookie = "yunfan-affinity"
)

// Table is the whole of what an edge should serve.
type Table struct {
	// Pools in the order of their names. Of those that match a request the most exact one takes it: a host before a
	// wildcard before any host, then exact paths, then longer prefixes, then regular expressions.
	Pools []Pool `json:"pools,omitempty"`
	// Certificates in the order of their names.
	Certificates []Certificate `json:"certificates,omitempty"`
}

// Pool is who answers requests of one kind.
type Pool struct {
	// Name is the same for as long as the pool is: letters, digits, dots and hyphens.
	Name string `json:"name"`
	// Hosts that it is for, like shop.example.com or *.example.com; any if empty.
	Hosts []string `json:"hosts,omitempty"`
	// Paths that it is for; any if empty.
	Paths []Path `json:"paths,omitempty"`
	// RedirectHTTP sends requests without TLS to https, with 308.
	RedirectHTTP bool `json:"redirectHTTP,omitempty"`
	// Targets are the partitions, in the order of their names. Without one that is open, or alive, the answer is 503.
	Targets []Target `json:"targets,omitempty"`
	// Affinity keeps a client at one target.
	Affinity *Affinity `json:"affinity,omitempty"`
	// RateLimit answers 429.
	RateLimit *RateLimit `json:"rateLimit,omitempty"`
	// Allow and Deny are ranges of client addresses; others get 403. Allow lets all in if empty; Deny goes first.
	Allow []string `json:"allow,omitempty"`
	Deny  []string `json:"deny,omitempty"`
	// Networks are put into HeaderClient where the client is in one.
	Networks []Network `json:"networks,omitempty"`
	// Retries of requests that have had no answer, at another server: connections that fail, and requests that a server
	// ended without an answer for GET, HEAD and OPTIONS only.
	Retries int `json:"retries,omitempty"`
	// Fault makes requests slow, or fail.
	Fault *Fault `json:"fault,omitempty"`
	// Health is how targets are probed.
	Health Health `json:"health"`
}

// PathType says how a path is compared.
type PathType string

// How paths are compared. Prefixes go by whole segments.
const (
	PathExact  PathType = "Exact"
	PathPrefix PathType = "Prefix"
	PathRegex  PathType = "RegularExpression"
)

// Path is one kind of paths.
type Path struct {
	Type  PathType `json:"type"`
	Value string   `json:"value"`
}

// Target is one partition.
type Target struct {
	// Name is TargetName: the partition's namespace in its cluster, which is what gateways know it by, and the cluster.
	Name string `json:"name"`
	// Label is for people: tenant/partition.
	Label string `json:"label"`
	// Weight among the targets, from 0 to 1000.
	Weight int `json:"weight"`
	// Closed gets nothing new; requests in flight end in peace, and connections that are kept open with its servers, such as
	// WebSockets, are left to the client and the backend.
	Closed bool `json:"closed,omitempty"`
	// Servers are the replicas of the cluster's gateway, in the order of their addresses. They share the weight.
	Servers []string `json:"servers"`
}

// Affinity keeps a client at one target: by a cookie that is set for it, or by its address.
type Affinity struct {
	Cookie   string `json:"cookie,omitempty"`
	ClientIP bool   `json:"clientIP,omitempty"`
}

// RateLimit bounds the requests in a period: of all clients together, or of each address.
type RateLimit struct {
	Requests  int           `json:"requests"`
	Period    time.Duration `json:"period"`
	PerClient bool          `json:"perClient,omitempty"`
}

// Network is a set of ranges of client addresses.
type Network struct {
	Name  string   `json:"name"`
	CIDRs []string `json:"cidrs"`
}

// Match is one kind of requests: all that is said must be so.
type Match struct {
	Path    *Path        `json:"path,omitempty"`
	Method  string       `json:"method,omitempty"`
	Headers []ValueMatch `json:"headers,omitempty"`
	Query   []ValueMatch `json:"query,omitempty"`
	Cookies []ValueMatch `json:"cookies,omitempty"`
	Clients []string     `json:"clients,omitempty"`
}

// ValueMatch compares one header, query parameter or cookie.
type ValueMatch struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Regex bool   `json:"regex,omitempty"`
}

// Fault makes requests slow, or fail, on purpose. Matches are those that it concerns; all if empty.
type Fault struct {
	Matches      []Match       `json:"matches,omitempty"`
	DelayPercent int           `json:"delayPercent,omitempty"`
	Delay        time.Duration `json:"delay,omitempty"`
	AbortPercent int           `json:"abortPercent,omitempty"`
	AbortStatus  int           `json:"abortStatus,omitempty"`
}

// Health is a request that is made of each server of each target, with the target's name in HeaderPartition and the first
// of the pool's hosts as its host. A server that gives no answer, or one of 500 and more, so many times in a row gets
// nothing until it has given a good one.
type Health struct {
	Path     string        `json:"path"`
	Interval time.Duration `json:"interval"`
	Failures int           `json:"failures"`
}

// Certificate is one for some hosts.
type Certificate struct {
	// Name is the same for as long as the certificate is for the same Route.
	Name  string   `json:"name"`
	Hosts []string `json:"hosts"`
	// Chain and Key in PEM. Key is a secret: it is in no log and no answer.
	Chain string `json:"chain"`
	Key   string `json:"key"`
}

// Generation names the content of a table: two that differ in anything have different ones.
func (t *Table) Generation() (string, error) {
	content, err := json.Marshal(t)
	if err != nil {
		return "", fmt.Errorf("naming the table: %w", err)
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:8]), nil
}

// State is what one replica of an edge serves at this moment.
type State struct {
	// Generation that every process of the replica serves that still takes new requests: the answer to MarkerPath, not what
	// was asked for. Empty if the processes differ, or none answers.
	Generation string `json:"generation"`
	// Program that carries the requests, with its version.
	Program string `json:"program"`
	// Targets as the replica has them.
	Targets []TargetState `json:"targets,omitempty"`
	// Unsupported says what of the table it cannot do, for people: pool by pool.
	Unsupported []string `json:"unsupported,omitempty"`
	// Problem is why the newest table was refused; it serves the former one.
	Problem string `json:"problem,omitempty"`
}

// TargetState is one target of one pool at one replica. The numbers count from when the replica, or its program, began:
// only differences mean something, and one that went down means that it began anew.
type TargetState struct {
	Pool   string `json:"pool"`
	Target string `json:"target"`
	// InFlight is the number of requests under way there, WebSockets among them, at all processes of the replica; -1 where
	// it cannot be known.
	InFlight int `json:"inFlight"`
	// Closed says that it gets nothing new by order.
	Closed bool `json:"closed"`
	// Up says that at least one of its servers answers the probe.
	Up bool `json:"up"`
	// Probe is what the last probe that failed said, for people.
	Probe string `json:"probe,omitempty"`
	// DownServers are those of its servers that do not answer the probe, and get nothing. Drivers that cannot tell leave
	// it empty.
	DownServers []string `json:"downServers,omitempty"`
	// Requests that had an answer, and Failures among them: answers of 500 and more, and those that broke.
	Requests uint64 `json:"requests"`
	Failures uint64 `json:"failures"`
}
