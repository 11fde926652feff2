package traefik

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"yunfan.io/yunfan/internal/route/table"
	"yunfan.io/yunfan/internal/route/traefik/plugin"
)

const (
	pluginName   = "yunfan"
	transportKey = "gateways"
	nothing      = "noop@internal"

	entryHTTP    = "http"
	entryHTTPS   = "https"
	entryControl = "traefik"

	countsPath = "/yunfan/counts"
)

// renderer makes Traefik's configuration of a table.
type renderer struct {
	// down says whether a server should get nothing.
	down func(pool, target, address string) bool
	// httpsPort is where requests without TLS are sent; empty if there is no such entry point.
	httpsPort string

	out dynamic
	err error
}

// render gives the content of the file that Traefik reads. Texts of users cannot become a part of Traefik's templates.
func (r *renderer) render(t *table.Table, generation string) ([]byte, error) {
	r.out = dynamic{HTTP: httpPart{
		Routers:     map[string]router{},
		Services:    map[string]service{},
		Middlewares: map[string]middleware{},
		ServersTransports: map[string]transport{transportKey: {
			MaxIdleConnsPerHost: 256,
			ForwardingTimeouts:  timeouts{DialTimeout: "5s", IdleConnTimeout: "30s"},
		}},
	}}
	r.own(generation)
	for i := range t.Pools {
		r.pool(&t.Pools[i])
	}
	if len(t.Certificates) > 0 {
		r.out.TLS = &tlsPart{}
		for _, c := range t.Certificates {
			r.out.TLS.Certificates = append(r.out.TLS.Certificates, certificate{CertFile: c.Chain, KeyFile: c.Key})
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	content, err := json.Marshal(r.out)
	if err != nil {
		return nil, fmt.Errorf("writing Traefik's configuration: %w", err)
	}
	// Traefik evaluates its files as templates, which could read its environment. JSON has two braces in a row within texts
	// only, where they can be written so.
	return bytes.ReplaceAll(content, []byte("{{"), []byte(`\u007b\u007b`)), nil
}

// own are the answers that are no pool's.
func (r *renderer) own(generation string) {
	r.plugin("marker", &plugin.Settings{Role: plugin.RoleAnswer, Status: http.StatusOK, Text: generation})
	r.plugin("counts", &plugin.Settings{Role: plugin.RoleCounts})
	r.plugin("nobody", &plugin.Settings{
		Role: plugin.RoleAnswer, Status: http.StatusServiceUnavailable, Text: "nobody is there to answer\n",
	})
	rule := "Path(" + strconv.Quote(table.MarkerPath) + ")"
	r.router("marker", router{Middlewares: []string{"marker"}, Service: nothing, Rule: rule, Priority: math.MaxInt32 * 4096})
	r.out.HTTP.Routers["counts"] = router{
		EntryPoints: []string{entryControl}, Middlewares: []string{"counts"}, Service: nothing,
		Rule: "Path(" + strconv.Quote(countsPath) + ")", Priority: math.MaxInt32,
	}
}

// router adds one for requests without TLS, and the same with it.
func (r *renderer) router(name string, one router) {
	one.EntryPoints = []string{entryHTTP}
	r.out.HTTP.Routers[name] = one
	if r.httpsPort == "" {
		return
	}
	one.EntryPoints, one.TLS = []string{entryHTTPS}, &struct{}{}
	r.out.HTTP.Routers[name+"_tls"] = one
}

func (r *renderer) plugin(name string, settings *plugin.Settings) {
	text, err := json.Marshal(settings)
	if err != nil {
		r.err = fmt.Errorf("writing the settings of %s: %w", name, err)
		return
	}
	r.out.HTTP.Middlewares[name] = middleware{Plugin: map[string]pluginConfig{pluginName: {JSON: string(text)}}}
}

func (r *renderer) pool(p *table.Pool) {
	// Names of pools have no underscore: what is made of them is never another pool's.
	first := "pool_" + p.Name
	r.plugin(first, r.settings(p))
	chain := []string{first}
	services := r.targets(p)
	name := nothing
	if len(services) == 0 {
		chain = append(chain, "nobody")
	} else {
		name = first
		r.out.HTTP.Services[name] = choice(p, services)
	}
	for i, rule := range rules(p) {
		r.pathRouters(fmt.Sprintf("%s_%d", first, i), p, rule, router{Middlewares: chain, Service: name})
	}
}

// pathRouters adds what one rule of a pool needs. Where requests may be sent twice, those that are harmless have a router
// of their own: only they are sent again when a server has taken them already.
func (r *renderer) pathRouters(name string, p *table.Pool, rule poolRule, one router) {
	one.Rule, one.Priority = rule.text, rule.priority
	if p.Retries == 0 || one.Service == nothing {
		r.router(name, one)
		return
	}
	chain := one.Middlewares
	again := "retry_" + p.Name
	r.out.HTTP.Middlewares[again] = middleware{Retry: &retry{Attempts: p.Retries + 1}}
	r.out.HTTP.Middlewares[again+"_safe"] = middleware{Retry: &retry{Attempts: p.Retries + 1, Status: []string{"502"}}}
	one.Middlewares = slices.Concat(chain, []string{again})
	r.router(name, one)
	one.Middlewares = slices.Concat(chain, []string{again + "_safe"})
	one.Rule = "(" + rule.text + ") && (Method(`GET`) || Method(`HEAD`) || Method(`OPTIONS`))"
	one.Priority++
	r.router(name+"_safe", one)
}

func (r *renderer) settings(p *table.Pool) *plugin.Settings {
	s := &plugin.Settings{
		Role: plugin.RolePool, Drop: "Yunfan-", Keep: "Yunfan-Track",
		Allow: p.Allow, Deny: p.Deny, ClientHeader: table.HeaderClient,
	}
	for _, network := range p.Networks {
		s.Networks = append(s.Networks, plugin.Network{Name: network.Name, CIDRs: network.CIDRs})
	}
	if p.RedirectHTTP {
		s.HTTPSPort = r.httpsPort
	}
	if p.RateLimit != nil {
		s.Bucket, s.Limit, s.PerClient = p.Name, p.RateLimit.Requests, p.RateLimit.PerClient
		s.PeriodMillis = max(p.RateLimit.Period.Milliseconds(), 1)
	}
	if p.Fault != nil {
		s.Fault = fault(p.Fault)
	}
	return s
}

// targets makes a service of each target that should get something, and gives their shares.
func (r *renderer) targets(p *table.Pool) []weightedService {
	var shares []weightedService
	for i := range p.Targets {
		t := &p.Targets[i]
		if t.Closed || t.Weight <= 0 {
			continue
		}
		lb := &loadBalancer{PassHostHeader: true, ServersTransport: transportKey}
		for _, address := range t.Servers {
			if !r.down(p.Name, t.Name, address) {
				lb.Servers = append(lb.Servers, server{URL: "http://" + address})
			}
		}
		if len(lb.Servers) == 0 {
			continue
		}
		name := counterName(p.Name, t.Name)
		r.plugin(name, &plugin.Settings{
			Role: plugin.RoleTarget, Counter: name, Partition: t.Name, Header: table.HeaderPartition,
		})
		r.out.HTTP.Services[name] = service{Middlewares: []string{name}, LoadBalancer: lb}
		shares = append(shares, weightedService{Name: name, Weight: t.Weight})
	}
	return shares
}

// counterName is the name of a target's service, under which its requests are counted, too.
func counterName(pool, target string) string { return "target_" + pool + "_" + target }

func choice(p *table.Pool, shares []weightedService) service {
	switch {
	case p.Affinity != nil && p.Affinity.ClientIP:
		return service{HighestRandomWeight: &weighted{Services: shares}}
	case p.Affinity != nil:
		name := p.Affinity.Cookie
		if name == "" {
			name = table.DefaultCookie
		}
		return service{Weighted: &weighted{Services: shares, Sticky: &sticky{Cookie: cookie{Name: name, HTTPOnly: true}}}}
	default:
		return service{Weighted: &weighted{Services: shares}}
	}
}

func fault(f *table.Fault) *plugin.Fault {
	out := &plugin.Fault{
		DelayPercent: f.DelayPercent, DelayMillis: f.Delay.Round(time.Millisecond).Milliseconds(),
		AbortPercent: f.AbortPercent, AbortStatus: f.AbortStatus,
	}
	for _, m := range f.Matches {
		match := plugin.Match{
			Method: m.Method, Headers: values(m.Headers), Query: values(m.Query), Cookies: values(m.Cookies), Clients: m.Clients,
		}
		if m.Path != nil {
			match.Path = pathRegex(*m.Path)
		}
		out.Matches = append(out.Matches, match)
	}
	return out
}

func values(matches []table.ValueMatch) []plugin.Value {
	var all []plugin.Value
	for _, m := range matches {
		regex := m.Value
		if !m.Regex {
			regex = "^" + regexp.QuoteMeta(m.Value) + "$"
		}
		all = append(all, plugin.Value{Name: m.Name, Regex: regex})
	}
	return all
}

// pathRegex is an expression for a path; prefixes go by whole segments.
func pathRegex(p table.Path) string {
	switch p.Type {
	case table.PathExact:
		return "^" + regexp.QuoteMeta(p.Value) + "$"
	case table.PathPrefix:
		return "^" + regexp.QuoteMeta(strings.TrimRight(p.Value, "/")) + "(/|$)"
	default:
		return p.Value
	}
}
