// Package haproxy runs HAProxy and brings tables to it: weights, closed targets and certificates by its runtime interface,
// everything else by a new process beside the old one, which ends in peace.
package haproxy

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"yunfan.io/yunfan/internal/route/table"
)

// site is what a configuration is for, beside the table.
type site struct {
	dir         string // absolute
	http, https string
	user        string // that workers run as; empty for the one who started them
	// relay is the folder of the sockets that workers reach each other by: they may not look into dir.
	relay       string
	connections int
}

const (
	configFile     = "haproxy.cfg"
	generationFile = "maps/generation.map"
	closedFile     = "maps/closed.map"
	listFile       = "certificates.list"
	delayFile      = "delay.lua"
	downFile       = "servers.state"
	masterSocket   = "master.sock"
	workerSocket   = "worker.sock"
	statsSocket    = "statistics.sock"
	markerKey      = "generation"
	retiredKey     = "retired"
	// What has come by TLS goes another way between workers than what has not.
	relayPlain = "relay"
	relayTLS   = "relaytls"
	frontend   = "web"
	// StatisticsPath is where HAProxy shows its page.
	StatisticsPath = "/v1/statistics"
)

// plan is a table as HAProxy gets it.
type plan struct {
	generation string
	// files by their names in the site's folder. Those of maps and lists are named after their content, except for the two
	// whose content can be changed while HAProxy runs.
	files map[string]string
	// structure names everything that takes a new process to change.
	structure string
	// weights of servers, by backend and server.
	weights map[string]map[string]int
	// closed are the keys of closedFile.
	closed map[string]bool
	// targets in the order of the table.
	targets      []plannedTarget
	certificates []certificate
	unsupported  []string
}

// plannedTarget knows which servers are whose.
type plannedTarget struct {
	pool, target, backend string
	closed                bool
	servers               map[string]string // the address of each server, by its name
}

type writer struct {
	site  site
	out   strings.Builder
	files map[string]string
}

func (w *writer) line(format string, args ...any) { fmt.Fprintf(&w.out, "  "+format+"\n", args...) }

func (w *writer) section(format string, args ...any) { fmt.Fprintf(&w.out, "\n"+format+"\n", args...) }

// file keeps a content under a name made of it, and gives its path.
func (w *writer) file(name, content string) string {
	path := fmt.Sprintf("maps/%s-%s.map", name, digest(content))
	w.files[path] = content
	return w.path(path)
}

func (w *writer) path(name string) string { return filepath.Join(w.site.dir, name) }

// render makes the plan for a table. It is pure: the same table at the same site gives the same plan.
func render(t *table.Table, s site) (*plan, error) {
	generation, err := t.Generation()
	if err != nil {
		return nil, err
	}
	p := &plan{generation: generation, weights: map[string]map[string]int{}, closed: map[string]bool{}}
	w := &writer{site: s, files: map[string]string{}}
	w.global()
	backends, found := &writer{site: s, files: w.files}, &lookup{groups: map[string]*group{}}
	seen := map[string]bool{}
	for i := range t.Pools {
		pool := &t.Pools[i]
		if !names.MatchString(pool.Name) || seen[pool.Name] {
			p.leaveOut(pool, "no name for a pool, or the name of another")
			continue
		}
		seen[pool.Name] = true
		p.backend(backends, pool)
		for _, problem := range found.add(pool, backendName(pool)) {
			p.leaveOut(pool, problem)
		}
	}
	w.frontend(found)
	w.statistics()
	config := w.out.String() + backends.out.String()
	p.files = w.files
	p.structure = digest(weightless(config))
	p.files[configFile] = config
	p.files[delayFile] = delayProgram
	p.files[generationFile] = markerKey + " " + generation + "\n"
	p.files[closedFile] = lines(p.closed)
	p.addCertificates(t, s)
	return p, nil
}

func (p *plan) leaveOut(pool *table.Pool, problem string) {
	p.unsupported = append(p.unsupported, fmt.Sprintf("pool %q: %s", pool.Name, problem))
}

func backendName(pool *table.Pool) string { return "pool." + pool.Name }

// weightMark stands before weights, so that they can be told from the rest.
const weightMark = " weight "

// weightless is a configuration with all weights taken out: they can be changed at any time.
func weightless(config string) string {
	kept := strings.Builder{}
	for line := range strings.Lines(config) {
		if strings.HasPrefix(line, "  server ") {
			line, _, _ = strings.Cut(line, weightMark)
			line += "\n"
		}
		kept.WriteString(line)
	}
	return kept.String()
}

func (w *writer) global() {
	w.out.WriteString("# Made by yunfan edge; what is changed here is lost.\nglobal\n")
	w.line("stats socket %s mode 600 level admin expose-fd listeners", w.path(workerSocket))
	w.line("server-state-file %s", w.path(downFile))
	if w.site.user != "" {
		w.line("user %s", w.site.user)
		w.line("group %s", w.site.user)
	}
	w.line("maxconn %d", w.site.connections)
	w.line("hard-stop-after 1h")
	w.line("mworker-max-reloads 50")
	w.line("spread-checks 5")
	w.line("lua-load %s", w.path(delayFile))
	w.line("ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets")
	w.line("tune.ssl.default-dh-param 2048")
	w.section("defaults")
	w.line("mode http")
	w.line("load-server-state-from-file global")
	w.line("timeout connect 5s")
	w.line("timeout http-request 30s") // for all headers: slow ones hold a connection no longer
	w.line("timeout http-keep-alive 10s")
	w.line("timeout client 1h") // answers and bodies may pause: who waits for how long is for the Route to say
	w.line("timeout server 1h")
	w.line("timeout tunnel 12h")
	w.line("timeout client-fin 30s")
	w.line("timeout server-fin 30s")
	w.line("timeout check 3s")
	w.line("retries 0")
	w.line("option dontlognull")
	// When a process gives way to a new one, clients hear it with their next answer. Connections that were closed without
	// would cost those who just send a request.
	w.line("option idle-close-on-response")
}

func (w *writer) frontend(found *lookup) {
	w.section("frontend %s", frontend)
	if w.site.http != "" {
		w.line("bind %s", w.site.http)
	}
	if w.site.https != "" {
		w.line("bind %s ssl crt-list %s alpn h2,http/1.1", w.site.https, w.path(listFile))
	}
	// A process that has a successor sends it the requests that still come on connections which clients keep: they are
	// served by the newest table, too. Where clients come from, and whether by TLS, goes along.
	for _, socket := range []string{relayPlain, relayTLS} {
		owner := ""
		if w.site.user != "" {
			owner = " user " + w.site.user
		}
		w.line("bind unix@%s/%s.sock%s mode 600 accept-proxy name %s", w.site.relay, socket, owner, socket)
	}
	w.line("http-request set-var(txn.retired) str(%s),map_str(%s)", retiredKey, w.path(generationFile))
	w.line("http-request set-var(txn.tls) bool(true) if { ssl_fc } || { so_name -m str %s }", relayTLS)
	w.line("http-request return status 200 content-type text/plain hdr Cache-Control no-store lf-string %%[str(%s),map_str(%s)] if { path %s } !{ var(txn.retired) -m found }",
		markerKey, w.path(generationFile), table.MarkerPath)
	w.line("http-request return status 405 content-type text/plain string %s if { method CONNECT }", word("method not allowed"))
	w.line("http-request set-var(txn.host) req.hdr(host),host_only,lower")
	// Nobody but the edge speaks to gateways in these headers; testers alone may ask for the new version.
	w.line("http-request del-header %s -m reg", word(`(?i)^yunfan-(?!track$)`))
	w.line("http-request del-header x-real-ip")
	w.line("http-request del-header forwarded")
	w.line("http-request set-header X-Forwarded-For %%[src]")
	w.line("http-request set-header X-Forwarded-Host %%[req.hdr(host)]")
	w.line("http-request set-header X-Forwarded-Proto https if { var(txn.tls) -m found }")
	w.line("http-request set-header X-Forwarded-Proto http if !{ var(txn.tls) -m found }")
	w.line("http-request set-header X-Forwarded-Port %%[dst_port]")
	// WebSockets are the only protocol that connections may change to: others would carry requests past all of this.
	w.line("http-request set-var(txn.websocket) bool(true) if { req.hdr(upgrade) -i websocket }")
	w.line("http-request del-header http2-settings")
	w.line("http-request del-header upgrade if !{ var(txn.websocket) -m found }")
	w.line("http-request set-header Upgrade websocket if { var(txn.websocket) -m found }")
	found.rules(w)
	w.line("http-request return status 404 content-type text/plain string %s if !{ var(txn.pool) -m found } !{ var(txn.retired) -m found }", word("no route for this host and path\n"))
	w.line("use_backend %s if { var(txn.retired) -m found } { var(txn.tls) -m found }", relayTLS)
	w.line("use_backend %s if { var(txn.retired) -m found }", relayPlain)
	w.line("use_backend %%[var(txn.pool)]")
	for _, socket := range []string{relayPlain, relayTLS} {
		w.section("backend %s", socket)
		w.line("http-reuse never")
		w.line("server successor unix@%s/%s.sock send-proxy-v2", w.site.relay, socket)
	}
}

// statistics is HAProxy's own page, which the agent shows to those who have its token.
func (w *writer) statistics() {
	w.section("frontend statistics")
	w.line("bind unix@%s mode 600", w.path(statsSocket))
	w.line("stats enable")
	w.line("stats uri %s", StatisticsPath)
	w.line("stats refresh 10s")
	w.line("stats show-legends")
}

// httpsPort is what a redirect to https has after the host.
func (s *site) httpsPort() string {
	_, port, err := net.SplitHostPort(s.https)
	if err != nil || port == "443" {
		return ""
	}
	return ":" + port
}
