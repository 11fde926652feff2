package haproxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"yunfan.io/yunfan/internal/route/table"
)

type targetKey struct{ pool, target string }

type count struct{ requests, failures uint64 }

// counters go on counting when workers end: what they had is kept.
type counters struct {
	last  map[int]map[targetKey]count
	ended map[targetKey]count
}

// take replaces what is known of the workers.
func (c *counters) take(now map[int]map[targetKey]count) {
	for pid, counts := range c.last {
		if _, there := now[pid]; there {
			continue
		}
		for key, n := range counts {
			sum := c.ended[key]
			c.ended[key] = count{sum.requests + n.requests, sum.failures + n.failures}
		}
	}
	c.last = now
}

func (c *counters) sum(key targetKey) count {
	all := c.ended[key]
	for _, counts := range c.last {
		all.requests += counts[key].requests
		all.failures += counts[key].failures
	}
	return all
}

// states are the plan's targets as the workers have them. Only the newest worker asks servers how they are.
func (p *plan) states(seen map[int][]row, newest int, c *counters) []table.TargetState {
	byServer := map[int]map[string]row{}
	for pid, rows := range seen {
		byServer[pid] = map[string]row{}
		for _, r := range rows {
			byServer[pid][r["pxname"]+"/"+r["svname"]] = r
		}
	}
	now, states := map[int]map[targetKey]count{}, make([]table.TargetState, 0, len(p.targets))
	for pid := range seen {
		now[pid] = map[targetKey]count{}
	}
	for i := range p.targets {
		states = append(states, p.targets[i].state(byServer, newest, now))
	}
	c.take(now)
	for i := range states {
		n := c.sum(targetKey{states[i].Pool, states[i].Target})
		states[i].Requests, states[i].Failures = n.requests, n.failures
	}
	return states
}

func (t *plannedTarget) state(byServer map[int]map[string]row, newest int, now map[int]map[targetKey]count) table.TargetState {
	s := table.TargetState{Pool: t.pool, Target: t.target, Closed: t.closed}
	key := targetKey{t.pool, t.target}
	for pid, rows := range byServer {
		var n count
		for id, r := range rows {
			// Servers that an old worker has and the plan has no more are counted, too.
			name, mine := strings.CutPrefix(id, t.backend+"/")
			if !mine || !belongs(name, t.target) {
				continue
			}
			s.InFlight += int(r.number("scur"))
			failures := r.number("hrsp_5xx", "econ", "eresp", "srv_abrt")
			n.failures += failures
			n.requests += r.number("hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "hrsp_other", "econ", "eresp")
			if r.number("uweight") > 0 {
				s.Closed = false
			}
		}
		now[pid][key] = n
	}
	for _, name := range slices.Sorted(maps.Keys(t.servers)) {
		r := byServer[newest][t.backend+"/"+name]
		if r != nil && !strings.HasPrefix(r["status"], "DOWN") {
			s.Up = true
			continue
		}
		s.DownServers = append(s.DownServers, t.servers[name])
		s.Probe = strings.TrimSpace(strings.Join([]string{t.servers[name], r["check_status"], r["check_code"], r["last_chk"]}, " "))
	}
	return s
}

// belongs says whether a server's name is the target's: what follows is the server's address.
func belongs(server, target string) bool {
	rest, mine := strings.CutPrefix(server, target+".")
	if !mine {
		return false
	}
	return net.ParseIP(rest[:max(0, strings.LastIndexByte(rest, ':'))]) != nil
}

// marker asks for the generation as clients would.
func (d *Driver) marker(ctx context.Context) (string, error) {
	scheme, address := "http", d.site.http
	if address == "" {
		scheme, address = "https", d.site.https
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("asking HAProxy for what it serves: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
		host = "localhost"
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(host, port)+table.MarkerPath, http.NoBody)
	if err != nil {
		return "", fmt.Errorf("asking HAProxy for what it serves: %w", err)
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,                                  // a new connection goes to the newest worker
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // it is our own port, and what it answers is no secret
	}}
	answer, err := client.Do(request)
	if err != nil {
		return "", fmt.Errorf("asking HAProxy for what it serves: %w", err)
	}
	defer answer.Body.Close()
	const most = 64
	text, err := io.ReadAll(io.LimitReader(answer.Body, most))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	if err != nil {
		return "", fmt.Errorf("asking HAProxy for what it serves: %w", err)
	}
	return string(text), nil
}

// Statistics shows HAProxy's own page.
func (d *Driver) Statistics() http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "haproxy"})
			r.Out.Header.Del("Authorization")
		},
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", d.path(statsSocket))
		}},
	}
}

// writeDefaultCertificate makes what clients get that ask for no host that is known; it stays the same.
func writeDefaultCertificate(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	const life, skew = 20 * 365 * 24 * time.Hour, time.Hour
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making the edge's default certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "yunfan-edge.invalid"},
		NotBefore: time.Now().Add(-skew), NotAfter: time.Now().Add(life), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("making the edge's default certificate: %w", err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("making the edge's default certificate: %w", err)
	}
	content := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)
	if err := os.WriteFile(filepath.Clean(path), content, 0o600); err != nil {
		return fmt.Errorf("keeping the edge's default certificate: %w", err)
	}
	return nil
}
