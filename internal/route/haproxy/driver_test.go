package haproxy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"yunfan.io/yunfan/internal/route/edge"
	"yunfan.io/yunfan/internal/route/table"
)

const patience = 40 * time.Second

// freePort asks the kernel for a port.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// start runs a HAProxy of the test's own.
func start(t *testing.T) *Driver {
	t.Helper()
	requireHAProxy(t)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	made, err := New(t.Context(), edge.Settings{Dir: shortDir(t), HTTP: freePort(t), HTTPS: freePort(t), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	d := made.(*Driver)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := d.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return d
}

// backend is a gateway of a cluster: it answers with its name and says what it saw.
type backend struct {
	name   string
	server *httptest.Server
	seen   atomic.Int64
	broken atomic.Bool
}

func (b *backend) address() string { return b.server.Listener.Addr().String() }

func startBackend(t *testing.T, name string) *backend {
	t.Helper()
	b := &backend{name: name}
	b.server = httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(b.server.Close)
	return b
}

func (b *backend) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		if b.broken.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
		return
	}
	b.seen.Add(1)
	w.Header().Set("X-Backend", b.name)
	for _, header := range []string{"Host", table.HeaderPartition, table.HeaderClient, "Yunfan-Track", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Upgrade", "Cookie", "Yunfan-Foo"} {
		for _, value := range r.Header.Values(header) {
			w.Header().Add("X-Saw-"+header, value)
		}
	}
	if wait, err := time.ParseDuration(r.URL.Query().Get("wait")); err == nil {
		select {
		case <-time.After(wait):
		case <-r.Context().Done():
		}
	}
	_, _ = io.Copy(io.Discard, r.Body)
	fmt.Fprint(w, b.name)
}

// poolOf is a pool whose targets have one backend each, all of weight 1.
func poolOf(name string, backends ...*backend) table.Pool {
	pool := table.Pool{Name: name, Health: table.Health{Path: "/healthz", Interval: 200 * time.Millisecond, Failures: 2}}
	for _, b := range backends {
		pool.Targets = append(pool.Targets, table.Target{Name: b.name, Label: b.name, Weight: 1, Servers: []string{b.address()}})
	}
	return pool
}

func mustApply(t *testing.T, d *Driver, pools ...table.Pool) {
	t.Helper()
	applied := &table.Table{Pools: pools}
	if err := d.Apply(t.Context(), applied); err != nil {
		t.Fatal(err)
	}
	settled(t, d, applied)
}

// settled waits until the table is confirmed.
func settled(t *testing.T, d *Driver, applied *table.Table) {
	t.Helper()
	want, err := applied.Generation()
	if err != nil {
		t.Fatal(err)
	}
	NewWithT(t).Eventually(func() (string, error) {
		state, err := d.State(t.Context())
		if err != nil {
			return "", err
		}
		return state.Generation, nil
	}, patience, 50*time.Millisecond).Should(Equal(want))
}

func stateOf(t *testing.T, d *Driver, pool, target string) table.TargetState {
	t.Helper()
	state, err := d.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range state.Targets {
		if s.Pool == pool && s.Target == target {
			return s
		}
	}
	t.Fatalf("no target %s in pool %s: %+v", target, pool, state)
	return table.TargetState{}
}

type answer struct {
	status int
	header http.Header
	body   string
}

// ask makes one request on a connection of its own, and follows no redirect.
func ask(t *testing.T, d *Driver, host, path string, header ...string) answer {
	t.Helper()
	got, err := askWith(t.Context(), &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, d, http.MethodGet, host, path, header...)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func askWith(ctx context.Context, client *http.Client, d *Driver, method, host, path string, header ...string) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+d.site.http+path, http.NoBody)
	if err != nil {
		return answer{}, err
	}
	request.Host = host
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Add(header[i], header[i+1])
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(body)}, err
}

func TestING01_HostsAndPaths(t *testing.T) {
	d := start(t)
	pools, want := []table.Pool{}, map[string]string{}
	add := func(name string, hosts []string, paths ...table.Path) {
		pool := poolOf(name, startBackend(t, name))
		pool.Hosts, pool.Paths = hosts, paths
		pools = append(pools, pool)
	}
	path := func(kind table.PathType, value string) table.Path { return table.Path{Type: kind, Value: value} }
	add("any", nil)
	add("any-api", nil, path(table.PathPrefix, "/api"))
	add("any-odd", nil, path(table.PathExact, "/only/any"))
	add("wild", []string{"*.example.com"})
	add("deep", []string{"*.deep.example.com"}, path(table.PathPrefix, "/deep"))
	add("shop", []string{"shop.example.com"}, path(table.PathPrefix, "/"))
	add("shop-cart", []string{"shop.example.com"}, path(table.PathPrefix, "/cart"))
	add("shop-cart-x", []string{"shop.example.com"}, path(table.PathExact, "/cart/x"), path(table.PathPrefix, "/cart/long/er"))
	add("part", []string{"part.example.com"}, path(table.PathRegex, `^/it[e]m/[0-9]+$`), path(table.PathExact, "/item/7x"))
	mustApply(t, d, pools...)
	for _, line := range []string{
		"other.org/ any", "other.org/api any-api", "other.org/api/ any-api", "other.org/apix any", "other.org/only/any any-odd", "other.org/only/any/ any",
		"a.example.com/ wild", "a.b.example.com/api wild", "example.com/ any", "x.deep.example.com/deep/1 deep", "x.deep.example.com/ wild",
		"shop.example.com/ shop", "SHOP.example.com:8080/cart shop-cart", "shop.example.com/cart/ shop-cart", "shop.example.com/carts shop",
		"shop.example.com/cart/x shop-cart-x", "shop.example.com/cart/xy shop-cart", "shop.example.com/cart/long/er/a?b=/cart/x shop-cart-x",
		"part.example.com/item/12 part", "part.example.com/item/12x wild", "part.example.com/item/7x part",
	} {
		url, backend, _ := strings.Cut(line, " ")
		want[url] = backend
	}
	for url, backend := range want {
		host, path, _ := strings.Cut(url, "/")
		if got := ask(t, d, host, "/"+path); got.body != backend {
			t.Errorf("%s: %d from %q, want %s", url, got.status, got.body, backend)
		}
	}
	mustApply(t, d, pools[3])
	if got := ask(t, d, "other.org", "/"); got.status != http.StatusNotFound {
		t.Errorf("a host that nobody serves: %d", got.status)
	}
}

func TestHeaders(t *testing.T) {
	d := start(t)
	pool := poolOf("p", startBackend(t, "ns.beijing"))
	pool.Networks = []table.Network{{Name: "n1", CIDRs: []string{"127.0.0.0/8"}}, {Name: "n2", CIDRs: []string{"10.0.0.0/8"}}, {Name: "n3", CIDRs: []string{"127.0.0.1"}}}
	mustApply(t, d, pool)
	got := ask(t, d, "a.example.com:81", "/", "Yunfan-Partition", "evil", "yunfan-client", "n2", "YUNFAN-FOO", "x", "Yunfan-Track", "Candidate",
		"X-Forwarded-For", "1.2.3.4", "Connection", "Upgrade, HTTP2-Settings", "Upgrade", "h2c", "HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")
	want := map[string]string{
		"X-Saw-Yunfan-Partition": "ns.beijing." + pool.Targets[0].Servers[0], "X-Saw-Yunfan-Client": "n1,n3", "X-Saw-Yunfan-Track": "Candidate",
		"X-Saw-Yunfan-Foo": "", "X-Saw-X-Forwarded-For": "127.0.0.1", "X-Saw-X-Forwarded-Proto": "http", "X-Saw-X-Forwarded-Host": "a.example.com:81", "X-Saw-Upgrade": "",
	}
	for header, value := range want {
		if seen := strings.Join(got.header.Values(header), ","); seen != value {
			t.Errorf("%s is %q, want %q", header, seen, value)
		}
	}
}

func TestWeightsWithinThreePercent(t *testing.T) {
	d := start(t)
	a, b, c := startBackend(t, "a.x"), startBackend(t, "b.x"), startBackend(t, "c.x")
	pool := poolOf("p", a, b, c)
	pool.Targets[0].Weight, pool.Targets[1].Weight, pool.Targets[2].Weight = 100, 0, 0
	mustApply(t, d, pool)
	pool.Targets[0].Weight, pool.Targets[1].Weight, pool.Targets[2].Weight = 70, 27, 3
	mustApply(t, d, pool)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	const all = 10000
	for range all {
		if _, err := askWith(t.Context(), client, d, http.MethodGet, "x", "/"); err != nil {
			t.Fatal(err)
		}
	}
	for backend, percent := range map[*backend]float64{a: 70, b: 27, c: 3} {
		if got := float64(backend.seen.Load()) * 100 / all; got < percent-3 || got > percent+3 {
			t.Errorf("%s got %v %%, want %v", backend.name, got, percent)
		}
	}
	if s := stateOf(t, d, "p", "a.x"); s.Requests < 6700 || s.Failures != 0 {
		t.Errorf("counted %+v", s)
	}
}

func TestMSH06_RateLimit(t *testing.T) {
	d := start(t)
	pool := poolOf("p", startBackend(t, "a.x"))
	pool.RateLimit = &table.RateLimit{Requests: 10, Period: time.Second}
	mustApply(t, d, pool)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	ticker := time.NewTicker(20 * time.Millisecond) // 50 a second
	defer ticker.Stop()
	counts := map[int]int{}
	for range 250 {
		<-ticker.C
		got, err := askWith(t.Context(), client, d, http.MethodGet, "x", "/")
		if err != nil {
			t.Fatal(err)
		}
		counts[got.status]++
	}
	if counts[200] < 40 || counts[200] > 75 || counts[200]+counts[429] != 250 {
		t.Errorf("5 s of 50 requests a second with 10 allowed: %v", counts)
	}
	pool.RateLimit.PerClient, pool.RateLimit.Period = true, time.Hour
	mustApply(t, d, pool)
	counts = map[int]int{}
	for range 20 {
		counts[ask(t, d, "x", "/").status]++
	}
	if counts[200] != 10 || counts[429] != 10 {
		t.Errorf("20 requests of one client, 10 an hour allowed: %v", counts)
	}
}

func TestNET11_Affinity(t *testing.T) {
	d := start(t)
	backends := []*backend{startBackend(t, "a.x"), startBackend(t, "b.x"), startBackend(t, "c.x")}
	pool := poolOf("p", backends...)
	pool.Affinity = &table.Affinity{}
	mustApply(t, d, pool)
	first := ask(t, d, "x", "/")
	cookie, _, _ := strings.Cut(first.header.Get("Set-Cookie"), ";")
	if !strings.Contains(first.header.Get("Set-Cookie"), "HttpOnly") {
		t.Errorf("the cookie is %q", first.header.Get("Set-Cookie"))
	}
	again := func() answer { return ask(t, d, "x", "/", "Cookie", cookie+"; mine=1") }
	for range 20 {
		if got := again(); got.body != first.body || got.header.Get("X-Saw-Cookie") != "mine=1" {
			t.Fatalf("%q after %q; the backend saw the cookie %q", got.body, first.body, got.header.Get("X-Saw-Cookie"))
		}
	}
	for i := range pool.Targets {
		pool.Targets[i].Closed = pool.Targets[i].Name == first.body
	}
	mustApply(t, d, pool)
	for range 20 {
		if got := again(); got.body == first.body || got.status != http.StatusOK {
			t.Fatalf("a closed target answers those who have its cookie: %+v", got)
		}
	}
	for i := range pool.Targets {
		pool.Targets[i].Closed = false
	}
	mustApply(t, d, pool)
	if got := again(); got.body != first.body {
		t.Errorf("%q after it was opened again, want %q", got.body, first.body)
	}
	pool.Affinity = &table.Affinity{ClientIP: true}
	mustApply(t, d, pool)
	first = ask(t, d, "x", "/")
	for range 20 {
		if got := ask(t, d, "x", "/"); got.body != first.body {
			t.Fatalf("%q after %q from one address", got.body, first.body)
		}
	}
}

func TestLists(t *testing.T) {
	d := start(t)
	b := startBackend(t, "a.x")
	tests := []struct {
		host        string
		allow, deny []string
		want        int
	}{
		{"allowed", []string{"127.0.0.0/8"}, nil, 200}, {"others", []string{"10.0.0.0/8"}, nil, 403},
		{"denied", nil, []string{"127.0.0.1/32"}, 403}, {"both", []string{"127.0.0.0/8"}, []string{"127.0.0.1/32"}, 403}, {"broken", []string{"no range"}, nil, 403},
	}
	var pools []table.Pool
	for _, test := range tests {
		pool := poolOf(test.host, b)
		pool.Hosts, pool.Allow, pool.Deny = []string{test.host}, test.allow, test.deny
		pools = append(pools, pool)
	}
	mustApply(t, d, pools...)
	for _, test := range tests {
		if got := ask(t, d, test.host, "/"); got.status != test.want {
			t.Errorf("%s: %d, want %d", test.host, got.status, test.want)
		}
	}
}

func TestMSH05_Faults(t *testing.T) {
	d := start(t)
	jason := []table.Match{{Headers: []table.ValueMatch{{Name: "User", Value: "jason"}}, Path: &table.Path{Type: table.PathPrefix, Value: "/ratings"}}}
	slow, fail, some := poolOf("slow", startBackend(t, "a.x")), poolOf("fail", startBackend(t, "b.x")), poolOf("some", startBackend(t, "c.x"))
	slow.Hosts, slow.Fault = []string{"slow"}, &table.Fault{Matches: jason, DelayPercent: 100, Delay: 2 * time.Second}
	fail.Hosts, fail.Fault = []string{"fail"}, &table.Fault{Matches: append(jason, table.Match{Query: []table.ValueMatch{{Name: "q'", Value: `a "#`}}},
		table.Match{Cookies: []table.ValueMatch{{Name: "c", Value: "^x+$", Regex: true}}, Method: "GET"}), AbortPercent: 100, AbortStatus: 418}
	some.Hosts, some.Fault = []string{"some"}, &table.Fault{AbortPercent: 30, AbortStatus: 500}
	mustApply(t, d, slow, fail, some)
	began := time.Now()
	if got := ask(t, d, "slow", "/ratings/1", "User", "jason"); got.status != 200 || time.Since(began) < 2*time.Second {
		t.Errorf("%d after %v", got.status, time.Since(began))
	}
	tests := map[string]struct {
		path   string
		header []string
		want   int
	}{
		"header and path": {"/ratings", []string{"User", "jason"}, 418}, "another path": {"/ratingsx", []string{"User", "jason"}, 200}, "nobody": {"/ratings", nil, 200},
		"query": {"/?a=b&q'=a%20%22%23", nil, 418}, "another query": {"/?q'=a", nil, 200},
		"cookie": {"/", []string{"Cookie", "d=1; c=xxx"}, 418}, "another cookie": {"/", []string{"Cookie", "c=xy"}, 200},
	}
	for name, test := range tests {
		if got := ask(t, d, "fail", test.path, test.header...); got.status != test.want {
			t.Errorf("%s: %d, want %d", name, got.status, test.want)
		}
	}
	failed := 0
	for range 300 {
		if ask(t, d, "some", "/").status == 500 {
			failed++
		}
	}
	if failed < 50 || failed > 130 {
		t.Errorf("%d of 300 failed, want about 90", failed)
	}
	slow.Fault = nil
	mustApply(t, d, slow, fail, some)
	began = time.Now()
	if ask(t, d, "slow", "/ratings/1", "User", "jason"); time.Since(began) > time.Second {
		t.Errorf("without a fault it still takes %v", time.Since(began))
	}
}

func TestHostile(t *testing.T) {
	d := start(t)
	b := startBackend(t, "a.x")
	given := hostile()
	given.Pools = append(given.Pools, poolOf("good", b))
	if err := d.Apply(t.Context(), given); err != nil {
		t.Fatal(err)
	}
	settled(t, d, given)
	if got := ask(t, d, "x", "/"); got.body != "a.x" {
		t.Errorf("the pool beside bad ones: %+v", got)
	}
	// Regular expressions that Go takes and HAProxy does not cost their own pool only.
	bad := poolOf("bad", b)
	bad.Hosts, bad.Paths = []string{"bad"}, []table.Path{{Type: table.PathRegex, Value: `^/\x{10FFFF}`}}
	given.Pools = append(given.Pools, bad)
	if err := d.Apply(t.Context(), given); err != nil {
		t.Fatal(err)
	}
	settled(t, d, given)
	state, err := d.State(t.Context())
	if err != nil || !strings.Contains(strings.Join(state.Unsupported, "\n"), `pool "bad"`) {
		t.Errorf("%v %v", err, state.Unsupported)
	}
}
