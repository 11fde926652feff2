// Package edgetest is what every driver of an edge is held to, by the real load balancer on the loopback interface: for
// tests only.
package edgetest

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"yunfan.io/yunfan/internal/route/edge"
	"yunfan.io/yunfan/internal/route/table"
)

// patience is how long anything may take on a machine that is busy with other things.
const patience = 40 * time.Second

// Features are what a driver says of itself, where drivers differ.
type Features struct {
	// Program of the load balancer; where the driver finds it if empty.
	Program string
	// NoFault, NoNetworks, NoClientAffinity and NoSafeRetries: named in State.Unsupported in place of done.
	NoFault, NoNetworks, NoClientAffinity, NoSafeRetries bool
	// OnlySafeRetries: requests other than GET, HEAD and OPTIONS are not sent again, which State.Unsupported says, too.
	OnlySafeRetries bool
	// KeepsUnknown: of the headers that begin with Yunfan- only those that mean something are dropped.
	KeepsUnknown bool
	// ClosesIdle: with each change connections that are kept are closed, and who writes to one at this instant gets no
	// answer. Requests of the load have connections of their own then.
	ClosesIdle bool
}

// Run holds a driver to everything that the contract says.
func Run(t *testing.T, start edge.New, features Features) {
	for name, test := range map[string]func(*world){
		"confirms what it serves":                         confirms,
		"shares by weight":                                weights,
		"tells partitions and drops what clients say":     headers,
		"the most exact host and path wins":               mostExact,
		"certificates by host, and plain HTTP is sent on": certificates,
		"ING-03 changes lose no request":                  changes,
		"closed targets drain":                            drains,
		"WebSockets are counted and outlast changes":      webSockets,
		"servers that fail get nothing":                   health,
		"no target, no answer":                            nobody,
		"retries":                                         retries,
		"affinity by cookie":                              cookies,
		"affinity by address":                             addresses,
		"MSH-06 rate limit":                               rateLimit,
		"allow and deny":                                  allowDeny,
		"networks of clients":                             networks,
		"MSH-05 faults":                                   faults,
		"one pool's mistake is no other's":                mistakes,
	} {
		t.Run(name, func(t *testing.T) { test(newWorld(t, start, features)) })
	}
}

// world is one driver with its load balancer, two backends, and a client that never asks twice.
type world struct {
	*testing.T
	*WithT

	features    Features
	driver      edge.Driver
	http, https string
	a, b        *backend
	client      *http.Client
}

func newWorld(t *testing.T, start edge.New, features Features) *world {
	t.Helper()
	w := &world{T: t, WithT: NewWithT(t), features: features, http: free(t), https: free(t)}
	w.a, w.b = newBackend(t, "a"), newBackend(t, "b")
	w.client = &http.Client{Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	transport := &http.Transport{
		MaxIdleConnsPerHost: 64, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, w.http)
		},
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			host, _, _ := net.SplitHostPort(address)
			return (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, ServerName: host}}).DialContext(ctx, network, w.https)
		},
	}
	w.client.Transport = transport
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	logs := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	driver, err := start(ctx, edge.Settings{
		Dir: shortDir(t), HTTP: w.http, HTTPS: w.https, Program: features.Program, Log: logs,
	})
	if err != nil {
		cancel()
		t.Fatalf("starting the driver: %v", err)
	}
	w.driver = driver
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if closer, ok := driver.(edge.Closer); ok {
			ending, done := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Second)
			defer done()
			if err := closer.Close(ending); err != nil {
				t.Errorf("closing: %v", err)
			}
		}
		cancel()
	})
	return w
}

// shortDir is a folder whose name is short enough for sockets, and has no letters that any load balancer minds.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "yf-edge-") //nolint:usetesting // The test's own folder has its name, which is long.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// free is an address that nobody listens at.
func free(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// pool has both backends as targets, with half of the requests each; change makes it another.
func (w *world) pool(change ...func(*table.Pool)) table.Pool {
	p := table.Pool{
		Name:  "shop",
		Hosts: []string{"shop.test"},
		Targets: []table.Target{
			{Name: "edu-a.beijing", Weight: 50, Servers: []string{w.a.address}},
			{Name: "edu-b.shanghai", Weight: 50, Servers: []string{w.b.address}},
		},
		// Nobody is down because this machine is busy.
		Health: table.Health{Path: "/healthz", Interval: time.Second, Failures: 20},
	}
	for _, c := range change {
		c(&p)
	}
	return p
}

// serve applies a table and waits until it is served.
func (w *world) serve(pools ...table.Pool) *table.Table {
	w.Helper()
	t := &table.Table{Pools: pools}
	w.serveTable(t)
	return t
}

func (w *world) serveTable(t *table.Table) {
	w.Helper()
	generation, err := t.Generation()
	w.Expect(err).NotTo(HaveOccurred())
	w.Eventually(func() error { return w.driver.Apply(w.Context(), t) }).WithTimeout(patience).Should(Succeed())
	w.Eventually(w.state).WithTimeout(patience).WithPolling(20*time.Millisecond).Should(
		HaveField("Generation", generation), "the table is served")
}

func (w *world) state() *table.State {
	state, err := w.driver.State(w.Context())
	if err != nil {
		return &table.State{Problem: err.Error()}
	}
	return state
}

func (w *world) target(name string) table.TargetState {
	for _, target := range w.state().Targets {
		if target.Target == name {
			return target
		}
	}
	return table.TargetState{}
}

// inFlightA is what is counted for the first target.
func (w *world) inFlightA() int { return w.target("edu-a.beijing").InFlight }

// get asks once.
func (w *world) get(url string, change ...func(*http.Request)) (status int, seen Seen, header http.Header) {
	w.Helper()
	status, seen, header, err := w.try(w.Context(), url, change...)
	if err != nil {
		w.Fatalf("asking %s: %v", url, err)
	}
	return status, seen, header
}

func (w *world) try(ctx context.Context, url string, change ...func(*http.Request)) (int, Seen, http.Header, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, Seen{}, nil, fmt.Errorf("making a request: %w", err)
	}
	for _, c := range change {
		c(r)
	}
	answer, err := w.client.Do(r)
	if err != nil {
		return 0, Seen{}, nil, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		return answer.StatusCode, Seen{}, answer.Header, fmt.Errorf("reading the answer: %w", err)
	}
	var seen Seen
	if answer.StatusCode == http.StatusOK {
		if err := json.Unmarshal(content, &seen); err != nil {
			return answer.StatusCode, seen, answer.Header, fmt.Errorf("reading %q: %w", content, err)
		}
	}
	return answer.StatusCode, seen, answer.Header, nil
}

func set(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func method(name string) func(*http.Request) {
	return func(r *http.Request) { r.Method = name }
}

// unsupported says whether the driver tells that it cannot do something. Then there is nothing more to test.
func (w *world) unsupported(is bool, what string) bool {
	w.Helper()
	if is {
		w.Expect(w.state().Unsupported).To(ContainElement(ContainSubstring(what)), "what is not done is told")
	}
	return is
}

func (w *world) both() []string { return slices.Sorted(slices.Values([]string{w.a.name, w.b.name})) }
