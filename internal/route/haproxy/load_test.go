package haproxy

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"yunfan.io/yunfan/internal/route/edge"
	"yunfan.io/yunfan/internal/route/table"
)

// load makes requests until it is stopped, some on connections that are kept, some on new ones, some of 2 s. It never tries
// again: its requests have bodies that can be read once.
type load struct {
	wg         sync.WaitGroup
	stop       context.CancelFunc
	done, lost atomic.Int64
	mu         sync.Mutex
	problems   []string
}

func startLoad(t *testing.T, d *Driver, host string, workers int) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{stop: cancel}
	for n := range workers {
		l.wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: n%2 == 1, MaxIdleConnsPerHost: 1}}
			for ctx.Err() == nil {
				path := "/"
				if n%4 >= 2 {
					path = "/?wait=2s"
				}
				l.one(client, d, host, path)
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) one(client *http.Client, d *Driver, host, path string) {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+d.site.http+path, io.MultiReader(strings.NewReader("once")))
	if err != nil {
		panic(err)
	}
	request.Host, request.ContentLength = host, 4
	answer, err := client.Do(request)
	if err == nil {
		_, err = io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s", answer.Status)
		}
	}
	l.done.Add(1)
	if err != nil {
		l.lost.Add(1)
		l.mu.Lock()
		l.problems = append(l.problems, err.Error())
		l.mu.Unlock()
	}
}

func (l *load) end() {
	l.stop()
	l.wg.Wait()
}

func (l *load) mustBeWhole(t *testing.T, least int64) {
	t.Helper()
	l.end()
	if l.lost.Load() > 0 || l.done.Load() < least {
		t.Errorf("%d of %d requests failed (at least %d were expected): %v", l.lost.Load(), l.done.Load(), least, l.problems[:min(len(l.problems), 5)])
	}
}

// Fifty tables come one after another under load: other weights, closed targets, new pools, new servers, certificates.
func TestNothingIsLostWhileTablesChange(t *testing.T) {
	d := start(t)
	a, b, c := startBackend(t, "a.x"), startBackend(t, "b.x"), startBackend(t, "c.x")
	pool := poolOf("p", a, b)
	pool.Hosts = []string{"shop"}
	mustApply(t, d, pool)
	l := startLoad(t, d, "shop", 16)
	var last *table.Table
	for n := range 50 {
		pool.Targets[0].Weight, pool.Targets[1].Weight = 1+n%7, 1+n%3
		pool.Targets[0].Closed, pool.Targets[1].Closed = n%5 == 1, n%5 == 3
		last = &table.Table{Pools: []table.Pool{pool}, Certificates: []table.Certificate{selfSigned(t, "c", fmt.Sprintf("shop%d", n/10))}}
		for extra := range n / 8 {
			other := poolOf(fmt.Sprintf("other%d", extra), c)
			other.Hosts = []string{fmt.Sprintf("other%d", extra)}
			last.Pools = append(last.Pools, other)
		}
		if n > 30 {
			last.Pools[0].Targets = append(slices.Clone(pool.Targets), table.Target{Name: "c.x", Weight: 3, Servers: []string{c.address()}})
		}
		if err := d.Apply(t.Context(), last); err != nil {
			t.Fatalf("table %d: %v", n, err)
		}
	}
	settled(t, d, last)
	l.mustBeWhole(t, 500)
	if state, err := d.State(t.Context()); err != nil || len(state.Targets) < 8 || state.Problem != "" {
		t.Errorf("%v %+v", err, state)
	}
}

func TestDrain(t *testing.T) {
	d := start(t)
	a, b := startBackend(t, "a.x"), startBackend(t, "b.x")
	pool := poolOf("p", a, b)
	mustApply(t, d, pool)
	l := startLoad(t, d, "x", 16)
	g := NewWithT(t)
	g.Eventually(func() int { return stateOf(t, d, "p", "a.x").InFlight }, patience).Should(BeNumerically(">", 1))
	pool.Targets[0].Closed = true
	mustApply(t, d, pool)
	seen := a.seen.Load() // the table is confirmed: nothing new arrives from now on
	g.Eventually(func() int { return stateOf(t, d, "p", "a.x").InFlight }, patience, 20*time.Millisecond).Should(BeZero())
	if s := stateOf(t, d, "p", "a.x"); !s.Closed || !s.Up {
		t.Errorf("a closed target that is well: %+v", s)
	}
	before := b.seen.Load()
	g.Eventually(b.seen.Load, patience).Should(BeNumerically(">", before+50))
	if got := a.seen.Load(); got != seen {
		t.Errorf("%d requests came to a closed target", got-seen)
	}
	pool.Targets[0].Closed = false
	mustApply(t, d, pool)
	g.Eventually(a.seen.Load, patience).Should(BeNumerically(">", seen+5))
	l.mustBeWhole(t, 50)
}

// Requests on connections that an old process keeps are served by the newest table, and come from where they come from.
func TestOldProcessesHandOver(t *testing.T) {
	d := start(t)
	a := startBackend(t, "a.x")
	pool := poolOf("p", a)
	mustApply(t, d, pool)
	secure := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	get := func(host string) answer {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+d.site.https+"/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = host
		response, err := secure.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		_, _ = io.Copy(io.Discard, response.Body)
		return answer{status: response.StatusCode, header: response.Header}
	}
	var kept []*http.Client
	for range 5 {
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
		if _, err := askWith(t.Context(), client, d, http.MethodGet, "x", "/"); err != nil {
			t.Fatal(err)
		}
		kept = append(kept, client)
	}
	get("x")
	other := poolOf("other", a)
	other.Hosts, other.Allow = []string{"other"}, []string{"127.0.0.1"}
	applied := &table.Table{Pools: []table.Pool{pool, other}}
	if err := d.Apply(t.Context(), applied); err != nil {
		t.Fatal(err)
	}
	if _, old, err := d.master.workers(t.Context()); err != nil || len(old) != 1 {
		t.Fatalf("there must be an old process for this: %v %v", err, old)
	}
	if state, err := d.State(t.Context()); err != nil || state.Generation == "" {
		t.Errorf("it decides nothing any more: %v %+v", err, state)
	}
	for _, client := range kept {
		got, err := askWith(t.Context(), client, d, http.MethodGet, "other", "/")
		if err != nil || got.status != http.StatusOK || got.header.Get("X-Saw-X-Forwarded-For") != "127.0.0.1" {
			t.Errorf("on a connection that was kept: %v %+v", err, got)
		}
	}
	if got := get("other"); got.status != http.StatusOK || got.header.Get("X-Saw-X-Forwarded-Proto") != "https" {
		t.Errorf("on a connection with TLS that was kept: %+v", got)
	}
}

func TestHealth(t *testing.T) {
	d := start(t)
	a, b := startBackend(t, "a.x"), startBackend(t, "b.x")
	pool := poolOf("p", a, b)
	mustApply(t, d, pool)
	g := NewWithT(t)
	state := func() table.TargetState { return stateOf(t, d, "p", "a.x") }
	g.Eventually(func() bool { return state().Up }, patience).Should(BeTrue())
	a.broken.Store(true)
	g.Eventually(func() bool { return state().Up }, patience).Should(BeFalse())
	if s := state(); !strings.Contains(s.Probe, "500") || !slices.Equal(s.DownServers, []string{a.address()}) {
		t.Errorf("a target that answers 500: %+v", s)
	}
	// A new process must not take for well who was down before.
	other := poolOf("other", b)
	other.Hosts = []string{"other"}
	seen := a.seen.Load()
	mustApply(t, d, pool, other)
	for range 20 {
		if got := ask(t, d, "x", "/"); got.body != "b.x" {
			t.Fatalf("answered by %+v", got)
		}
	}
	if a.seen.Load() != seen {
		t.Error("requests came to a target that is down")
	}
	a.broken.Store(false)
	g.Eventually(func() bool { return state().Up }, patience).Should(BeTrue())
	a.server.Close()
	g.Eventually(func() bool { return state().Up }, patience).Should(BeFalse())
}

func TestRetries(t *testing.T) {
	d := start(t)
	// One that takes connections and ends them without an answer, except for probes.
	rude := &backend{name: "rude.x", server: httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			panic(http.ErrAbortHandler)
		}
	}))}
	t.Cleanup(rude.server.Close)
	pool := poolOf("p", startBackend(t, "a.x"), rude)
	pool.Retries = 2
	none := pool
	none.Name, none.Retries, none.Hosts = "none", 0, []string{"none"}
	mustApply(t, d, pool, none)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	count := func(method, host string) (failed int) {
		for range 10 {
			if got, err := askWith(t.Context(), client, d, method, host, "/"); err != nil || got.status != http.StatusOK {
				failed++
			}
		}
		return failed
	}
	if failed := count(http.MethodGet, "x"); failed != 0 {
		t.Errorf("%d of 10 GETs failed with retries", failed)
	}
	if failed := count(http.MethodPost, "x"); failed == 0 {
		t.Error("POSTs that may have been done were done again")
	}
	if failed := count(http.MethodGet, "none"); failed == 0 {
		t.Error("there were retries that nobody asked for")
	}
}

// selfSigned is a certificate for one host.
func selfSigned(t *testing.T, name string, hosts ...string) table.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: hosts[0]}, DNSNames: hosts, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return table.Certificate{
		Name: name, Hosts: hosts, Chain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Key: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})),
	}
}

func TestING04_CertificatePerHost(t *testing.T) {
	d := start(t)
	pool := poolOf("p", startBackend(t, "a.x"))
	pool.RedirectHTTP = true
	one, two := selfSigned(t, "one", "one.example.com"), selfSigned(t, "two", "*.two.example.com", "two.example.com")
	serves := func(host string, pools []table.Pool, certificates ...table.Certificate) (string, *x509.Certificate) {
		t.Helper()
		applied := &table.Table{Pools: pools, Certificates: certificates}
		if err := d.Apply(t.Context(), applied); err != nil {
			t.Fatal(err)
		}
		settled(t, d, applied)
		client := &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: host},
		}}
		answer, err := client.Get("https://" + d.site.https + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK || answer.Header.Get("X-Saw-X-Forwarded-Proto") != "https" {
			t.Errorf("%s: %s, the backend saw %q", host, answer.Status, answer.Header.Get("X-Saw-X-Forwarded-Proto"))
		}
		return answer.Proto, answer.TLS.PeerCertificates[0]
	}
	pools := []table.Pool{pool}
	proto, leaf := serves("one.example.com", pools, one)
	if leaf.Subject.CommonName != "one.example.com" || proto != "HTTP/2.0" {
		t.Errorf("%s with %s", proto, leaf.Subject)
	}
	worker, _, err := d.master.workers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, leaf = serves("a.two.example.com", pools, one, two); leaf.Subject.CommonName != "*.two.example.com" {
		t.Errorf("a second certificate: %s", leaf.Subject)
	}
	renewed := selfSigned(t, "one", "one.example.com")
	before := leaf.SerialNumber
	if _, leaf = serves("one.example.com", pools, renewed, two); leaf.Subject.CommonName != "one.example.com" || leaf.SerialNumber.Cmp(before) == 0 {
		t.Errorf("a certificate that was renewed: %s", leaf.Subject)
	}
	if _, leaf = serves("a.two.example.com", pools, renewed); leaf.Subject.CommonName != "yunfan-edge.invalid" {
		t.Errorf("a certificate that was removed: %s", leaf.Subject)
	}
	if now, _, err := d.master.workers(t.Context()); err != nil || now != worker {
		t.Errorf("%v: certificates took a new process", err)
	}
	bad := table.Certificate{Name: "bad", Hosts: []string{"bad"}, Chain: renewed.Chain, Key: two.Key}
	if _, leaf = serves("one.example.com", pools, renewed, bad); leaf.Subject.CommonName != "one.example.com" {
		t.Errorf("beside a bad certificate: %s", leaf.Subject)
	}
	if got := ask(t, d, "one.example.com", "/a?b=c"); got.status != http.StatusPermanentRedirect || !strings.HasPrefix(got.header.Get("Location"), "https://one.example.com:") || !strings.HasSuffix(got.header.Get("Location"), "/a?b=c") {
		t.Errorf("without TLS: %+v", got)
	}
}

// A WebSocket lives through new processes, counts as in flight, and no other protocol gets through.
func TestWebSocket(t *testing.T) {
	d := start(t)
	echo := &backend{name: "ws.x", server: httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		connection, stream, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer connection.Close()
		_, _ = io.WriteString(connection, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n")
		_, _ = io.Copy(connection, stream)
	}))}
	t.Cleanup(echo.server.Close)
	pool := poolOf("p", echo)
	mustApply(t, d, pool)
	connection, err := net.Dial("tcp", d.site.http)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(connection, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	reader := bufio.NewReader(connection)
	answer, err := http.ReadResponse(reader, nil)
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v %+v", err, answer)
	}
	talk := func(text string) {
		t.Helper()
		fmt.Fprintln(connection, text)
		if line, err := reader.ReadString('\n'); err != nil || line != text+"\n" {
			t.Errorf("%v, got %q", err, line)
		}
	}
	talk("hello")
	other := poolOf("other", echo)
	other.Hosts = []string{"other"}
	mustApply(t, d, pool, other)
	talk("still there")
	if s := stateOf(t, d, "p", "ws.x"); s.InFlight != 1 {
		t.Errorf("in flight: %+v", s)
	}
	connection.Close()
	NewWithT(t).Eventually(func() int { return stateOf(t, d, "p", "ws.x").InFlight }, patience).Should(BeZero())
}

// What was served last is served again: by a new driver in the same folder, and after HAProxy was killed.
func TestKilled(t *testing.T) {
	d := start(t)
	a := startBackend(t, "a.x")
	pool := poolOf("p", a)
	pool.Targets[0].Weight = 77
	mustApply(t, d, pool)
	first := d.process.PID()
	worker, _, err := d.master.workers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.process.Signal(9); err != nil {
		t.Fatal(err)
	}
	g := NewWithT(t)
	g.Eventually(func() (bool, error) {
		now, _, err := d.master.workers(t.Context())
		return now != 0 && now != worker && d.process.PID() != first, err
	}, patience).Should(BeTrue())
	settled(t, d, &table.Table{Pools: []table.Pool{pool}})
	if got := ask(t, d, "x", "/"); got.body != "a.x" {
		t.Errorf("after HAProxy was killed: %+v", got)
	}
	pool.Targets[0].Weight = 5
	mustApply(t, d, pool)
}

func TestStatisticsPage(t *testing.T) {
	d := start(t)
	mustApply(t, d, poolOf("p", startBackend(t, "a.x")))
	var _ edge.Statistics = d
	server := httptest.NewServer(d.Statistics())
	defer server.Close()
	answer, err := http.Get(server.URL + StatisticsPath)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK || !strings.Contains(string(page), "pool.p") {
		t.Errorf("%v %s %.200s", err, answer.Status, page)
	}
}
