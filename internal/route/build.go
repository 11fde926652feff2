package route

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/route/table"
)

// Defaults of what a Route leaves open.
const (
	defaultInterval = 2 * time.Second
	defaultFailures = 2
	defaultPeriod   = time.Second
)

// restSuffix marks the pool of what no path of a host takes.
const restSuffix = ".rest"

// anyPath is the path of rules that name none.
var anyPath = table.Path{Type: table.PathPrefix, Value: "/"}

// making is one table in the making.
type making struct {
	*facts
	out *built
	// owner is the tenant of a host.
	owner      map[string]string
	deliveryOf map[client.ObjectKey][]*v1alpha1.Delivery // by tenant and application
	partition  map[client.ObjectKey]*v1alpha1.Partition
	cluster    map[string]*v1alpha1.Cluster
	pools      []*pool
}

// pool is one of the table's in the making.
type pool struct {
	table.Pool
	key    client.ObjectKey // its Route
	tenant string
	// paths that its rules name, in their order.
	paths []table.Path
}

// build makes the table of all Routes. It is the same for the same objects in any order.
func build(f *facts) (*built, error) {
	b := &making{facts: f, out: &built{
		table: &table.Table{}, deliveries: make(map[client.ObjectKey]place, len(f.deliveries)), routes: make(map[client.ObjectKey]*outcome, len(f.routes)),
		partitions: map[string]client.ObjectKey{}, serversOf: map[string][]string{},
	}}
	b.index()
	for _, route := range b.byAge() {
		b.route(route)
	}
	b.separate()
	b.shield()
	slices.SortFunc(b.pools, func(x, y *pool) int { return cmp.Compare(x.Name, y.Name) })
	for _, p := range b.pools {
		b.out.table.Pools = append(b.out.table.Pools, p.Pool)
		o := b.out.routes[p.key]
		o.pools = append(o.pools, p.Name)
	}
	b.places()
	b.certify()
	for i := range f.edges {
		b.out.edges = append(b.out.edges, f.edges[i].Name)
	}
	slices.Sort(b.out.edges)
	return b.out, b.out.seal()
}

func (b *making) index() {
	b.owner = make(map[string]string, len(b.hosts))
	for i := range b.hosts {
		b.owner[b.hosts[i].Spec.Host] = b.hosts[i].Spec.Tenant
	}
	b.partition = make(map[client.ObjectKey]*v1alpha1.Partition, len(b.partitions))
	for i := range b.partitions {
		b.partition[client.ObjectKeyFromObject(&b.partitions[i])] = &b.partitions[i]
	}
	b.cluster = make(map[string]*v1alpha1.Cluster, len(b.clusters))
	for i := range b.clusters {
		b.cluster[b.clusters[i].Name] = &b.clusters[i]
	}
	b.deliveryOf = make(map[client.ObjectKey][]*v1alpha1.Delivery, len(b.deliveries))
	for i := range b.deliveries {
		d := &b.deliveries[i]
		key := client.ObjectKey{Namespace: d.Namespace, Name: d.Spec.Application}
		b.deliveryOf[key] = append(b.deliveryOf[key], d)
	}
	for _, list := range b.deliveryOf {
		slices.SortFunc(list, func(x, y *v1alpha1.Delivery) int { return cmp.Compare(x.Spec.Partition, y.Spec.Partition) })
	}
}

// byAge gives the Routes, the oldest first: it keeps what a younger one wants, too.
func (b *making) byAge() []*v1alpha1.Route {
	out := make([]*v1alpha1.Route, len(b.routes))
	for i := range b.routes {
		out[i] = &b.routes[i]
	}
	slices.SortFunc(out, func(x, y *v1alpha1.Route) int {
		return cmp.Or(x.CreationTimestamp.Compare(y.CreationTimestamp.Time), cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	return out
}

// route makes the pools of one Route, with all the paths that its rules name.
func (b *making) route(r *v1alpha1.Route) {
	o := &outcome{generation: r.Generation}
	key := client.ObjectKeyFromObject(r)
	b.out.routes[key] = o
	var hosts []string
	for _, host := range hostsOf(r) {
		if b.owner[host] == r.Namespace {
			hosts = append(hosts, host)
		} else {
			o.problems = append(o.problems, problem{v1alpha1.ReasonHostTaken, "host " + host + " is not this tenant's"})
		}
	}
	if len(hosts) == 0 {
		return
	}
	if len(r.Spec.Hosts) == 0 {
		hosts = nil
	}
	for _, application := range applicationsOf(r) {
		p := b.pool(r, application)
		p.key, p.tenant, p.Hosts = key, r.Namespace, hosts
		b.pools = append(b.pools, p)
	}
}

// hostsOf gives the hosts of a Route, those with a wildcard last: the first is the one that probes name.
func hostsOf(r *v1alpha1.Route) []string {
	if len(r.Spec.Hosts) == 0 {
		return []string{v1alpha1.AnyHost}
	}
	return slices.SortedFunc(slices.Values(r.Spec.Hosts), func(x, y string) int {
		return cmp.Or(cmp.Compare(strings.Count(x, "*"), strings.Count(y, "*")), cmp.Compare(x, y))
	})
}

// applicationsOf a Route, in the order of its rules.
func applicationsOf(r *v1alpha1.Route) (names []string) {
	for i := range r.Spec.Rules {
		for _, backend := range r.Spec.Rules[i].Backends {
			if !slices.Contains(names, backend.Application) {
				names = append(names, backend.Application)
			}
		}
	}
	return names
}

func (b *making) pool(r *v1alpha1.Route, application string) *pool {
	spec := &r.Spec
	p := &pool{Pool: table.Pool{
		Name:         poolName{r.Namespace, r.Name, application}.String(),
		RedirectHTTP: Redirects(r), Retries: int(spec.Retries), Affinity: affinity(spec.Affinity), RateLimit: rateLimit(spec.RateLimit),
		Allow: slices.Sorted(slices.Values(spec.Allow)), Deny: slices.Sorted(slices.Values(spec.Deny)), Fault: fault(spec.Fault), Health: health(spec.Health),
	}}
	p.paths = pathsOf(r, application)
	deliveries := b.deliveryOf[client.ObjectKey{Namespace: r.Namespace, Name: application}]
	p.Networks = networks(r, deliveries)
	p.Targets = b.targets(r, application, deliveries)
	return p
}

// Redirects says whether requests without TLS are sent to https.
func Redirects(r *v1alpha1.Route) bool {
	if r.Spec.PlainHTTP != "" {
		return r.Spec.PlainHTTP == v1alpha1.PlainHTTPRedirect
	}
	return r.Spec.TLS != nil || len(r.Spec.Hosts) == 0
}

// pathsOf gives the paths that lead to an application. Those of redirects lead to the application that has the same
// path, else to the first: its gateways answer with the redirect.
func pathsOf(r *v1alpha1.Route, application string) (paths []table.Path) {
	own := func(rule *v1alpha1.RouteRule) string {
		if len(rule.Backends) > 0 {
			return rule.Backends[0].Application
		}
		return ""
	}
	leads := map[table.Path]string{}
	for i := range r.Spec.Rules {
		for _, path := range rulePaths(&r.Spec.Rules[i]) {
			if name := own(&r.Spec.Rules[i]); name != "" && leads[path] == "" {
				leads[path] = name
			}
		}
	}
	first := applicationsOf(r)[0]
	for i := range r.Spec.Rules {
		rule := &r.Spec.Rules[i]
		for _, path := range rulePaths(rule) {
			name := cmp.Or(own(rule), leads[path], first)
			if name == application && !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

// rulePaths are the paths of a rule. Expressions that do not compile match nothing.
func rulePaths(rule *v1alpha1.RouteRule) []table.Path {
	if len(rule.Matches) == 0 {
		return []table.Path{anyPath}
	}
	var paths []table.Path
	for i := range rule.Matches {
		path, ok := tablePath(rule.Matches[i].Path)
		if ok && !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	return paths
}

func tablePath(m *v1alpha1.PathMatch) (path table.Path, ok bool) {
	if m == nil {
		return anyPath, true
	}
	switch m.Type {
	case v1alpha1.MatchExact:
		return table.Path{Type: table.PathExact, Value: m.Value}, true
	case v1alpha1.MatchRegularExpression:
		_, err := regexp.Compile(m.Value)
		return table.Path{Type: table.PathRegex, Value: m.Value}, err == nil
	default:
		return table.Path{Type: table.PathPrefix, Value: m.Value}, true
	}
}

// separate gives paths to the pools whose host others have, too. What two want goes to the first.
func (b *making) separate() {
	of := map[string][]*pool{}
	for _, p := range b.pools {
		for _, host := range poolHosts(p) {
			of[host] = append(of[host], p)
		}
	}
	taken := map[string]*pool{}
	b.pools = slices.DeleteFunc(b.pools, func(p *pool) bool {
		shared := slices.ContainsFunc(poolHosts(p), func(host string) bool { return len(of[host]) > 1 })
		if !shared {
			return len(p.paths) == 0
		}
		for _, path := range p.paths {
			if other, host := takenBy(taken, p, path); other != nil {
				b.conflict(p, other, host, path)
				continue
			}
			for _, host := range poolHosts(p) {
				taken[pathKey(host, path)] = p
			}
			p.Paths = append(p.Paths, path)
		}
		slices.SortFunc(p.Paths, func(x, y table.Path) int { return cmp.Or(cmp.Compare(x.Type, y.Type), cmp.Compare(x.Value, y.Value)) })
		return len(p.Paths) == 0
	})
}

func takenBy(taken map[string]*pool, p *pool, path table.Path) (other *pool, at string) {
	for _, host := range poolHosts(p) {
		if other := taken[pathKey(host, path)]; other != nil {
			return other, host
		}
	}
	return nil, ""
}

func pathKey(host string, path table.Path) string {
	return host + " " + string(path.Type) + " " + path.Value
}

func poolHosts(p *pool) []string {
	if len(p.Hosts) == 0 {
		return []string{v1alpha1.AnyHost}
	}
	return p.Hosts
}

func (b *making) conflict(p, other *pool, host string, path table.Path) {
	o := b.out.routes[p.key]
	where := "rule"
	if other.key != p.key {
		where = "route " + other.key.Name
	}
	o.problems = append(o.problems, problem{
		v1alpha1.ReasonConflict,
		"requests for " + host + path.Value + " to application " + parsePool(p.Name).application + " are taken by an earlier " + where + " to application " + parsePool(other.Name).application,
	})
}

// shield keeps what no path of an exact host takes from the wildcards of other tenants, and from Routes for any host:
// the host's own gateway answers that there is nothing.
func (b *making) shield() {
	wide, open := map[string]bool{}, map[string]bool{} // wildcards, and hosts all of whose requests are taken
	for _, p := range b.pools {
		for _, host := range poolHosts(p) {
			if strings.HasPrefix(host, "*") {
				wide[host] = true
			}
			if len(p.Paths) == 0 || slices.Contains(p.Paths, anyPath) {
				open[host] = true
			}
		}
	}
	for _, p := range slices.Clone(b.pools) {
		var hosts []string
		for _, host := range p.Hosts {
			if !open[host] && b.exposed(host, p.tenant, wide) {
				hosts = append(hosts, host)
				open[host] = true
			}
		}
		if len(hosts) > 0 {
			rest := *p
			rest.Name, rest.Hosts, rest.Paths = p.Name+restSuffix, hosts, nil
			b.pools = append(b.pools, &rest)
		}
	}
}

// exposed says whether a Route for any host, or a wildcard of another tenant, would take requests for the host.
func (b *making) exposed(host, tenant string, wide map[string]bool) bool {
	if wide[v1alpha1.AnyHost] {
		return true
	}
	return slices.ContainsFunc(wildcardsOver(host), func(wildcard string) bool { return wide[wildcard] && b.owner[wildcard] != tenant })
}

// wildcardsOver gives the wildcards that a host is in, the narrowest first.
func wildcardsOver(host string) (wildcards []string) {
	host = strings.TrimPrefix(host, "*.")
	for {
		_, parent, found := strings.Cut(host, ".")
		if !found {
			return wildcards
		}
		wildcards = append(wildcards, "*."+parent)
		host = parent
	}
}

// places notes where each Delivery is.
func (b *making) places() {
	pools := map[client.ObjectKey][]string{} // by tenant and application
	for _, p := range b.pools {
		key := client.ObjectKey{Namespace: p.tenant, Name: parsePool(p.Name).application}
		pools[key] = append(pools[key], p.Name)
	}
	for i := range b.deliveries {
		d := &b.deliveries[i]
		in := place{generation: d.Generation}
		if p := b.partition[client.ObjectKey{Namespace: d.Namespace, Name: d.Spec.Partition}]; p != nil {
			in.target = table.TargetName(p.MemberNamespace(), p.Spec.Cluster)
			in.pools = pools[client.ObjectKey{Namespace: d.Namespace, Name: d.Spec.Application}]
		}
		b.out.deliveries[client.ObjectKeyFromObject(d)] = in
	}
}

// certify adds the certificates of the Routes that are served.
func (b *making) certify() {
	for _, key := range slices.SortedFunc(maps.Keys(b.certificates), compareKeys) {
		c, o := b.certificates[key], b.out.routes[key]
		if o == nil {
			continue
		}
		o.certificate = c.problem + c.chain
		if c.chain == "" || len(o.pools) == 0 {
			continue
		}
		at := slices.IndexFunc(b.pools, func(p *pool) bool { return p.key == key })
		b.out.table.Certificates = append(b.out.table.Certificates, table.Certificate{
			Name: key.Namespace + "." + key.Name, Hosts: b.pools[at].Hosts, Chain: c.chain, Key: c.key,
		})
	}
}

func compareKeys(x, y client.ObjectKey) int {
	return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
}

// networks are the sets of client addresses that gateways ask for.
func networks(r *v1alpha1.Route, deliveries []*v1alpha1.Delivery) []table.Network {
	byName := map[string][]string{}
	add := func(matches []v1alpha1.RouteMatch) {
		for i := range matches {
			if clients := matches[i].Clients; len(clients) > 0 {
				byName[table.NetworkName(clients)] = slices.Compact(slices.Sorted(slices.Values(clients)))
			}
		}
	}
	for i := range r.Spec.Rules {
		add(r.Spec.Rules[i].Matches)
	}
	for _, d := range deliveries {
		if d.Spec.Traffic != nil {
			add(d.Spec.Traffic.Matches)
		}
	}
	var out []table.Network
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, table.Network{Name: name, CIDRs: byName[name]})
	}
	return out
}

func affinity(a *v1alpha1.RouteAffinity) *table.Affinity {
	switch {
	case a == nil:
		return nil
	case a.Type == v1alpha1.AffinityClientIP:
		return &table.Affinity{ClientIP: true}
	}
	return &table.Affinity{Cookie: cmp.Or(a.Cookie, table.DefaultCookie)}
}

func rateLimit(l *v1alpha1.RateLimit) *table.RateLimit {
	if l == nil {
		return nil
	}
	return &table.RateLimit{Requests: int(l.Requests), Period: duration(l.Period, defaultPeriod), PerClient: l.Per == v1alpha1.RateLimitPerClient}
}

func health(h *v1alpha1.RouteHealth) table.Health {
	if h == nil {
		h = &v1alpha1.RouteHealth{}
	}
	return table.Health{Path: cmp.Or(h.Path, "/"), Interval: duration(h.Interval, defaultInterval), Failures: cmp.Or(int(h.Failures), defaultFailures)}
}

func duration(d *metav1.Duration, otherwise time.Duration) time.Duration {
	if d == nil || d.Duration == 0 {
		return otherwise
	}
	return d.Duration
}

func fault(f *v1alpha1.RouteFault) *table.Fault {
	if f == nil {
		return nil
	}
	out := &table.Fault{}
	if f.Delay != nil {
		out.DelayPercent, out.Delay = int(f.Delay.Percent), f.Delay.Duration.Duration
	}
	if f.Abort != nil {
		out.AbortPercent, out.AbortStatus = int(f.Abort.Percent), int(f.Abort.Status)
	}
	for i := range f.Matches {
		m := &f.Matches[i]
		match := table.Match{Method: m.Method, Headers: values(m.Headers), Query: values(m.Query), Cookies: values(m.Cookies), Clients: m.Clients}
		if m.Path != nil {
			if path, ok := tablePath(m.Path); ok {
				match.Path = &path
			}
		}
		out.Matches = append(out.Matches, match)
	}
	return out
}

func values(list []v1alpha1.ValueMatch) (out []table.ValueMatch) {
	for _, v := range list {
		out = append(out, table.ValueMatch{Name: v.Name, Value: v.Value, Regex: v.Type == v1alpha1.MatchRegularExpression})
	}
	return out
}
