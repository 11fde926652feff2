package haproxy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"yunfan.io/yunfan/internal/route/table"
)

// Defaults where a table says nothing.
const (
	defaultInterval = 2 * time.Second
	defaultFailures = 2
	leastInterval   = 100 * time.Millisecond
	mostRetries     = 10
	// clients is how many addresses a rate limit per client remembers.
	clients = "100k"
)

// backend writes the backend of a pool.
func (p *plan) backend(w *writer, pool *table.Pool) {
	w.section("backend %s", backendName(pool))
	p.affinity(w, pool)
	w.line("http-send-name-header %s", table.HeaderPartition)
	p.lists(w, pool)
	if pool.RedirectHTTP {
		w.line("http-request redirect code 308 location https://%%[var(txn.host)]%s%%[pathq] if !{ var(txn.tls) -m found }", w.site.httpsPort())
	}
	p.rateLimit(w, pool)
	p.networks(w, pool)
	p.fault(w, pool)
	retries(w, pool)
	p.health(w, pool)
	p.servers(w, pool)
}

func (p *plan) affinity(w *writer, pool *table.Pool) {
	switch a := pool.Affinity; {
	case a != nil && a.ClientIP:
		// By a hash, so that every process and every replica of the edge comes to the same answer.
		w.line("balance source")
		w.line("hash-type consistent sdbm avalanche")
	case a != nil:
		w.line("balance roundrobin")
		name := cmp.Or(a.Cookie, table.DefaultCookie)
		if !cookies.MatchString(name) {
			p.leaveOut(pool, fmt.Sprintf("%q is no name for a cookie", name))
			return
		}
		w.line("cookie %s insert indirect nocache httponly attr SameSite=Lax", name)
		// Cookies lead to servers of weight 0, too, unless they are ignored.
		w.line("ignore-persist if { req.cook(%s),concat(/,txn.pool),map_str(%s) -m found }", name, w.path(closedFile))
	default:
		w.line("balance roundrobin")
	}
}

func (p *plan) lists(w *writer, pool *table.Pool) {
	refused := false
	deny := func(name, condition string, cidrs []string) {
		content, err := ranges(cidrs)
		if refused {
			return
		}
		if err != nil {
			refused = true
			// Letting in whom the list may mean to keep out would be worse than keeping out everybody.
			p.leaveOut(pool, err.Error()+", so that everybody gets 403")
			w.line("http-request return status 403 content-type text/plain string forbidden")
			return
		}
		w.line("http-request return status 403 content-type text/plain string forbidden if %s{ src -f %s }", condition, w.file(name, content))
	}
	if len(pool.Deny) > 0 {
		deny("deny", "", pool.Deny)
	}
	if len(pool.Allow) > 0 {
		deny("allow", "!", pool.Allow)
	}
}

func (p *plan) rateLimit(w *writer, pool *table.Pool) {
	limit := pool.RateLimit
	if limit == nil {
		return
	}
	period := max(limit.Period, time.Millisecond).Milliseconds()
	kind, size, key := "integer", "1", "int(1)"
	if limit.PerClient {
		kind, size, key = "ipv6", clients, "src"
	}
	// What was refused does not count: those who ask too often still get what they may have.
	w.line("stick-table type %s size %s expire %dms store gpc0_rate(%dms)", kind, size, 2*period, period)
	w.line("http-request track-sc0 %s", key)
	w.line("http-request return status 429 content-type text/plain hdr Retry-After %d string %s if { sc0_gpc0_rate ge %d }",
		max(1, (period+999)/1000), word("too many requests\n"), max(limit.Requests, 1))
	w.line("http-request sc-inc-gpc0(0)")
}

func (p *plan) networks(w *writer, pool *table.Pool) {
	for _, network := range pool.Networks {
		content, err := ranges(network.CIDRs)
		if err == nil && !names.MatchString(network.Name) {
			err = fmt.Errorf("%q is no name for a network", network.Name)
		}
		if err != nil {
			p.leaveOut(pool, err.Error())
			continue
		}
		w.line("http-request add-header %s %s if { src -f %s }", table.HeaderClient, network.Name, w.file("network", content))
	}
}

func retries(w *writer, pool *table.Pool) {
	n := min(pool.Retries, mostRetries)
	if n <= 0 {
		return
	}
	w.line("retries %d", n)
	w.line("option redispatch 1")
	w.line("retry-on conn-failure empty-response")
	// A request that may have been done is not done again, unless doing it twice changes nothing.
	w.line("http-request disable-l7-retry if !{ method GET HEAD OPTIONS }")
}

func (p *plan) health(w *writer, pool *table.Pool) {
	path := cmp.Or(pool.Health.Path, "/")
	if !strings.HasPrefix(path, "/") || control(path) || strings.Contains(path, " ") {
		p.leaveOut(pool, fmt.Sprintf("%q cannot be asked for; / is, to see who is well", path))
		path = "/"
	}
	host := "yunfan"
	if len(pool.Hosts) > 0 && hosts.MatchString(strings.TrimPrefix(strings.ToLower(pool.Hosts[0]), "*.")) {
		host = strings.Replace(strings.ToLower(pool.Hosts[0]), "*", "probe", 1)
	}
	interval := max(cmp.Or(pool.Health.Interval, defaultInterval), leastInterval)
	w.line("option httpchk")
	w.line("http-check send meth GET uri %s ver HTTP/1.1 hdr Host %s hdr User-Agent yunfan-edge hdr %s %%[srv_name]", word(path), host, table.HeaderPartition)
	w.line("http-check expect status 100-499")
	w.line("default-server check inter %dms fall %d rise 1", interval.Milliseconds(), cmp.Or(max(pool.Health.Failures, 0), defaultFailures))
}

// servers writes one line for each server of each target, and keeps what was written.
func (p *plan) servers(w *writer, pool *table.Pool) {
	targets := slices.Clone(pool.Targets)
	for i := range targets {
		targets[i].Servers = p.usable(pool, &targets[i])
	}
	backend, given, seen := backendName(pool), weights(targets), map[string]bool{}
	p.weights[backend] = map[string]int{}
	for i, target := range targets {
		planned := plannedTarget{pool: pool.Name, target: target.Name, backend: backend, closed: target.Closed || target.Weight == 0, servers: map[string]string{}}
		for _, address := range target.Servers {
			// What comes after the target's name tells servers of it apart: gateways look at the beginning only.
			name := target.Name + "." + strings.NewReplacer("[", "", "]", "").Replace(address)
			if seen[name] {
				continue
			}
			seen[name] = true
			planned.servers[name] = address
			cookie := ""
			if pool.Affinity != nil && !pool.Affinity.ClientIP {
				key := digest(name)
				cookie = " cookie " + key
				if planned.closed {
					p.closed[key+"/"+backend] = true
				}
			}
			p.weights[backend][name] = given[i]
			w.line("server %s %s%s"+weightMark+"%d", name, address, cookie, given[i])
		}
		p.targets = append(p.targets, planned)
	}
}

func (p *plan) usable(pool *table.Pool, target *table.Target) []string {
	if !names.MatchString(target.Name) {
		p.leaveOut(pool, fmt.Sprintf("%q is no name for a target", target.Name))
		return nil
	}
	var servers []string
	for _, server := range target.Servers {
		address, err := netip.ParseAddrPort(server)
		if err != nil || address.Addr().Zone() != "" || address.Port() == 0 {
			p.leaveOut(pool, fmt.Sprintf("%q is no address of a server", server))
			continue
		}
		servers = append(servers, address.String())
	}
	return servers
}

// delayProgram waits, which HAProxy's own rules cannot.
const delayProgram = `core.register_action("yunfan-delay", {"http-req"}, function(txn, milliseconds)
  core.msleep(tonumber(milliseconds))
end, 1)
`

func (p *plan) fault(w *writer, pool *table.Pool) {
	fault := pool.Fault
	if fault == nil {
		return
	}
	if len(fault.Matches) == 0 {
		w.line("http-request set-var(txn.fault) bool(true)")
	}
	for _, match := range fault.Matches {
		conditions, err := matchConditions(w, match)
		if err != nil {
			p.leaveOut(pool, "a fault is left out: "+err.Error())
			continue
		}
		w.line("http-request set-var(txn.match) bool(true)")
		for _, condition := range conditions {
			w.line("http-request unset-var(txn.match) if !%s", condition)
		}
		w.line("http-request set-var(txn.fault) bool(true) if { var(txn.match) -m found }")
	}
	if fault.DelayPercent > 0 && fault.Delay > 0 {
		w.line("http-request lua.yunfan-delay %d if { var(txn.fault) -m found } { rand(100) lt %d }", fault.Delay.Milliseconds(), fault.DelayPercent)
	}
	if fault.AbortPercent > 0 && fault.AbortStatus >= 200 && fault.AbortStatus <= 599 {
		w.line("http-request return status %d content-type text/plain string %s if { var(txn.fault) -m found } { rand(100) lt %d }",
			fault.AbortStatus, word("fault on purpose\n"), fault.AbortPercent)
	}
}

// matchConditions gives the conditions that a request of one kind meets, all of them.
func matchConditions(w *writer, match table.Match) ([]string, error) {
	var all []string
	if match.Path != nil {
		condition, err := pathCondition(*match.Path)
		if err != nil {
			return nil, err
		}
		all = append(all, condition)
	}
	if match.Method != "" {
		if !tokens.MatchString(match.Method) {
			return nil, fmt.Errorf("%q is no method", match.Method)
		}
		all = append(all, "{ method -m str -- "+word(match.Method)+" }")
	}
	values := map[string][]table.ValueMatch{"req.fhdr(%s)": match.Headers, "url_param(%s),url_dec": match.Query, "req.cook(%s)": match.Cookies}
	for _, fetch := range slices.Sorted(maps.Keys(values)) {
		for _, value := range values[fetch] {
			condition, err := valueCondition(fetch, value)
			if err != nil {
				return nil, err
			}
			all = append(all, condition)
		}
	}
	if len(match.Clients) > 0 {
		content, err := ranges(match.Clients)
		if err != nil {
			return nil, err
		}
		all = append(all, "{ src -f "+w.file("clients", content)+" }")
	}
	return all, nil
}

func pathCondition(path table.Path) (string, error) {
	if control(path.Value) {
		return "", fmt.Errorf("%q is no path that a request can have", path.Value)
	}
	switch path.Type {
	case table.PathExact:
		return "{ path -m str -- " + word(path.Value) + " }", nil
	case table.PathPrefix:
		return "{ path,concat(/) -m beg -- " + word(strings.TrimRight(path.Value, "/")+"/") + " }", nil
	default:
		return regexCondition("path", path.Value)
	}
}

func valueCondition(fetch string, value table.ValueMatch) (string, error) {
	if !tokens.MatchString(value.Name) {
		return "", fmt.Errorf("%q is no name of a header, parameter or cookie", value.Name)
	}
	if control(value.Value) {
		return "", fmt.Errorf("%q cannot be sent by clients", value.Value)
	}
	fetch = fmt.Sprintf(fetch, argument(value.Name))
	if value.Regex {
		return regexCondition(fetch, value.Value)
	}
	return "{ " + fetch + " -m str -- " + word(value.Value) + " }", nil
}

func regexCondition(fetch, expression string) (string, error) {
	if _, err := regexp.Compile(expression); err != nil || control(expression) {
		return "", fmt.Errorf("%q is no regular expression that can be used", expression)
	}
	return "{ " + fetch + " -m reg -- " + word(expression) + " }", nil
}
