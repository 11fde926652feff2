// Package plugin is what Traefik cannot do by itself: it counts the requests in flight of each target, tells the gateway
// the partition and the client's networks, drops what clients say of these, and answers the marker. Traefik interprets
// this file (Yaegi): it uses the standard library only, and of that no package with type parameters.
package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what Traefik hands over: one text, since it understands the fields of a plugin by guessing.
type Config struct {
	// JSON is Settings.
	JSON string `json:"json"`
}

// CreateConfig makes an empty configuration; Traefik fills it.
func CreateConfig() *Config { return &Config{} }

// The roles of a middleware.
const (
	RolePool   = "pool"
	RoleTarget = "target"
	RoleAnswer = "answer"
	RoleCounts = "counts"
)

// Settings of one middleware. Which fields count depends on the role.
type Settings struct {
	Role string `json:"role"`

	// Counter is the name under which RoleTarget counts, Partition the value of Header.
	Counter   string `json:"counter,omitempty"`
	Partition string `json:"partition,omitempty"`
	Header    string `json:"header,omitempty"`

	// Status and Text are what RoleAnswer answers.
	Status int    `json:"status,omitempty"`
	Text   string `json:"text,omitempty"`

	// Allow and Deny are ranges of addresses; Networks go to ClientHeader. Headers that begin with Drop and are not Keep are
	// taken away. HTTPSPort is where requests without TLS are sent; nowhere if empty.
	Allow        []string  `json:"allow,omitempty"`
	Deny         []string  `json:"deny,omitempty"`
	Networks     []Network `json:"networks,omitempty"`
	ClientHeader string    `json:"clientHeader,omitempty"`
	Drop         string    `json:"drop,omitempty"`
	Keep         string    `json:"keep,omitempty"`
	HTTPSPort    string    `json:"httpsPort,omitempty"`
	Fault        *Fault    `json:"fault,omitempty"`
	// Limit is the number of requests that Bucket holds; it is filled once in PeriodMillis. PerClient gives each client one.
	Bucket       string `json:"bucket,omitempty"`
	Limit        int    `json:"limit,omitempty"`
	PeriodMillis int64  `json:"periodMillis,omitempty"`
	PerClient    bool   `json:"perClient,omitempty"`
}

// Network is a set of ranges of client addresses.
type Network struct {
	Name  string   `json:"name"`
	CIDRs []string `json:"cidrs"`
}

// Fault makes requests slow, or fail.
type Fault struct {
	Matches      []Match `json:"matches,omitempty"`
	DelayPercent int     `json:"delayPercent,omitempty"`
	DelayMillis  int64   `json:"delayMillis,omitempty"`
	AbortPercent int     `json:"abortPercent,omitempty"`
	AbortStatus  int     `json:"abortStatus,omitempty"`
}

// Match is one kind of requests, as expressions: empty ones match all.
type Match struct {
	Path    string   `json:"path,omitempty"`
	Method  string   `json:"method,omitempty"`
	Headers []Value  `json:"headers,omitempty"`
	Query   []Value  `json:"query,omitempty"`
	Cookies []Value  `json:"cookies,omitempty"`
	Clients []string `json:"clients,omitempty"`
}

// Value compares one header, query parameter or cookie with an expression.
type Value struct {
	Name  string `json:"name"`
	Regex string `json:"regex"`
}

// counters lives as long as the process, whatever configuration comes and goes.
var counters = struct {
	sync.Mutex

	inFlight map[string]*int64
}{inFlight: map[string]*int64{}}

func counter(name string) *int64 {
	counters.Lock()
	defer counters.Unlock()
	if counters.inFlight[name] == nil {
		counters.inFlight[name] = new(int64)
	}
	return counters.inFlight[name]
}

// maxBuckets bounds the memory for rate limits. When there are as many, all are filled anew.
const maxBuckets = 100000

// buckets are the rate limits; they last through changes of the configuration, too.
var buckets = struct {
	sync.Mutex

	all map[string]*bucket
}{all: map[string]*bucket{}}

type bucket struct {
	left float64
	seen time.Time
}

// take takes one request out of the bucket of a name, if there is one in it.
func take(name string, limit int, period time.Duration, now time.Time) bool {
	buckets.Lock()
	defer buckets.Unlock()
	b := buckets.all[name]
	if b == nil {
		if len(buckets.all) >= maxBuckets {
			buckets.all = map[string]*bucket{}
		}
		b = &bucket{left: float64(limit), seen: now}
		buckets.all[name] = b
	}
	full := float64(limit)
	b.left += full * float64(now.Sub(b.seen)) / float64(period)
	if b.left > full {
		b.left = full
	}
	b.seen = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// New makes a middleware.
func New(_ context.Context, next http.Handler, config *Config, _ string) (http.Handler, error) {
	settings := &Settings{}
	if err := json.Unmarshal([]byte(config.JSON), settings); err != nil {
		return nil, fmt.Errorf("reading the plugin's settings: %w", err)
	}
	switch settings.Role {
	case RoleTarget:
		return target(settings, next), nil
	case RoleAnswer:
		return answer(settings), nil
	case RoleCounts:
		return http.HandlerFunc(counts), nil
	case RolePool:
		return newPool(settings, next)
	default:
		return nil, fmt.Errorf("the plugin knows no role %q", settings.Role)
	}
}

// target counts a request for as long as it lasts: a WebSocket until it ends.
func target(settings *Settings, next http.Handler) http.Handler {
	count := counter(settings.Counter)
	header, partition := settings.Header, settings.Partition
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		atomic.AddInt64(count, 1)
		defer atomic.AddInt64(count, -1)
		r.Header.Set(header, partition)
		next.ServeHTTP(w, r)
	})
}

func answer(settings *Settings) http.Handler {
	status, text := settings.Status, settings.Text
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	})
}

// counts answers with the requests in flight by counter.
func counts(w http.ResponseWriter, _ *http.Request) {
	now := map[string]int64{}
	counters.Lock()
	for name, count := range counters.inFlight {
		now[name] = atomic.LoadInt64(count)
	}
	counters.Unlock()
	content, err := json.Marshal(now)
	if err != nil {
		http.Error(w, "no counts", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(content)
}

// pool is what happens to a request before a target is chosen.
type pool struct {
	*Settings

	next        http.Handler
	allow, deny []netip.Prefix
	networks    [][]netip.Prefix
	matches     []matcher
}

type matcher struct {
	method                  string
	path                    *regexp.Regexp
	headers, query, cookies []valueMatcher
	clients                 []netip.Prefix
}

type valueMatcher struct {
	name  string
	regex *regexp.Regexp
}

func newPool(settings *Settings, next http.Handler) (http.Handler, error) {
	p := &pool{Settings: settings, next: next}
	var err error
	if p.allow, err = prefixes(settings.Allow); err != nil {
		return nil, err
	}
	if p.deny, err = prefixes(settings.Deny); err != nil {
		return nil, err
	}
	for _, network := range settings.Networks {
		ranges, err := prefixes(network.CIDRs)
		if err != nil {
			return nil, err
		}
		p.networks = append(p.networks, ranges)
	}
	if settings.Fault != nil {
		for _, match := range settings.Fault.Matches {
			m, err := newMatcher(match)
			if err != nil {
				return nil, err
			}
			p.matches = append(p.matches, m)
		}
	}
	return http.HandlerFunc(p.serve), nil
}

func newMatcher(match Match) (matcher, error) {
	m := matcher{method: match.Method}
	var err error
	if match.Path != "" {
		if m.path, err = regexp.Compile(match.Path); err != nil {
			return m, fmt.Errorf("reading a path's expression: %w", err)
		}
	}
	if m.headers, err = valueMatchers(match.Headers); err != nil {
		return m, err
	}
	if m.query, err = valueMatchers(match.Query); err != nil {
		return m, err
	}
	if m.cookies, err = valueMatchers(match.Cookies); err != nil {
		return m, err
	}
	m.clients, err = prefixes(match.Clients)
	return m, err
}

func valueMatchers(values []Value) ([]valueMatcher, error) {
	var all []valueMatcher
	for _, value := range values {
		regex, err := regexp.Compile(value.Regex)
		if err != nil {
			return nil, fmt.Errorf("reading the expression for %s: %w", value.Name, err)
		}
		all = append(all, valueMatcher{name: value.Name, regex: regex})
	}
	return all, nil
}

func (p *pool) serve(w http.ResponseWriter, r *http.Request) {
	if p.HTTPSPort != "" && r.TLS == nil {
		redirect(w, r, p.HTTPSPort)
		return
	}
	client := address(r)
	if in(client, p.deny) || len(p.allow) > 0 && !in(client, p.allow) {
		http.Error(w, http.StatusText(http.StatusForbidden), http.StatusForbidden)
		return
	}
	for name := range r.Header {
		if strings.HasPrefix(name, p.Drop) && name != p.Keep {
			delete(r.Header, name)
		}
	}
	for i, network := range p.networks {
		if in(client, network) {
			r.Header.Add(p.ClientHeader, p.Networks[i].Name)
		}
	}
	if p.Limit > 0 && !p.within(client) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, http.StatusText(http.StatusTooManyRequests), http.StatusTooManyRequests)
		return
	}
	if p.Fault != nil && p.concerns(r, client) && p.faulty(w, r) {
		return
	}
	p.next.ServeHTTP(w, r)
}

func (p *pool) within(client netip.Addr) bool {
	name := p.Bucket
	if p.PerClient {
		name += " " + client.String()
	}
	return take(name, p.Limit, time.Duration(p.PeriodMillis)*time.Millisecond, time.Now())
}

// faulty makes the request slow, or fail; then it is answered.
func (p *pool) faulty(w http.ResponseWriter, r *http.Request) (answered bool) {
	if p.Fault.DelayPercent > rand.Intn(100) { //nolint:gosec // A share of requests is no secret.
		timer := time.NewTimer(time.Duration(p.Fault.DelayMillis) * time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return true
		}
	}
	if p.Fault.AbortPercent > rand.Intn(100) { //nolint:gosec // A share of requests is no secret.
		http.Error(w, "fault on purpose", p.Fault.AbortStatus)
		return true
	}
	return false
}

func (p *pool) concerns(r *http.Request, client netip.Addr) bool {
	if len(p.matches) == 0 {
		return true
	}
	for _, m := range p.matches {
		if m.matches(r, client) {
			return true
		}
	}
	return false
}

func (m matcher) matches(r *http.Request, client netip.Addr) bool {
	if m.method != "" && m.method != r.Method || m.path != nil && !m.path.MatchString(r.URL.Path) {
		return false
	}
	if len(m.clients) > 0 && !in(client, m.clients) {
		return false
	}
	query := r.URL.Query()
	for _, v := range m.query {
		if !some(query[v.name], v.regex) {
			return false
		}
	}
	for _, v := range m.headers {
		if !some(r.Header.Values(v.name), v.regex) {
			return false
		}
	}
	for _, v := range m.cookies {
		cookie, err := r.Cookie(v.name)
		if err != nil || !v.regex.MatchString(cookie.Value) {
			return false
		}
	}
	return true
}

func some(values []string, regex *regexp.Regexp) bool {
	for _, value := range values { //nolint:modernize // Traefik's interpreter knows no package with type parameters.
		if regex.MatchString(value) {
			return true
		}
	}
	return false
}

// redirect sends a client to the same address with https.
func redirect(w http.ResponseWriter, r *http.Request, port string) {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
		if strings.Contains(name, ":") {
			host = "[" + name + "]"
		}
	}
	if port != "443" {
		host += ":" + port
	}
	w.Header().Set("Location", "https://"+host+r.URL.RequestURI())
	w.WriteHeader(http.StatusPermanentRedirect)
}

// address is where the request comes from; of X-Forwarded-For nothing is believed.
func address(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	client, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return client.Unmap()
}

func in(client netip.Addr, ranges []netip.Prefix) bool {
	for _, prefix := range ranges {
		if prefix.Contains(client) {
			return true
		}
	}
	return false
}

func prefixes(ranges []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range ranges {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("reading the range %q: %w", text, err)
		}
		all = append(all, prefix)
	}
	return all, nil
}
