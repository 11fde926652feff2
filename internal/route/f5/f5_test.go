package f5_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yunfan.io/yunfan/internal/route/edge"
	"yunfan.io/yunfan/internal/route/f5"
	"yunfan.io/yunfan/internal/route/table"
)

const password = "correct horse"

// bigIP stands in for an F5: one that answers like iControl REST does, and keeps a list of what was changed.
type bigIP struct {
	mu      sync.Mutex
	pools   map[string][]string
	closed  map[string]bool
	conns   map[string]int
	calls   []string
	broken  bool
	servers *httptest.Server
}

func newBigIP(t *testing.T, pools map[string][]string) *bigIP {
	t.Helper()
	b := &bigIP{pools: pools, closed: map[string]bool{}, conns: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /mgmt/tm/sys/version", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"entries":{"https://localhost/mgmt/tm/sys/version/0":{"nestedStats":{"entries":{"Version":{"description":"16.1.5"}}}}}}`)
	})
	mux.HandleFunc("GET /mgmt/tm/ltm/pool", b.list)
	mux.HandleFunc("GET /mgmt/tm/ltm/pool/{pool}/members/stats", b.stats)
	mux.HandleFunc("PATCH /mgmt/tm/ltm/pool/{pool}/members/{member}", b.change)
	b.servers = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name, pass, _ := r.BasicAuth(); name != "yunfan" || pass != password {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"code":401,"message":"Authentication failed."}`)
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(b.servers.Close)
	return b
}

func (b *bigIP) list(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("expandSubcollections") != "true" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var pools []any
	for name, addresses := range b.pools {
		var members []any
		for _, address := range addresses {
			host, _, _ := net.SplitHostPort(address)
			session, state := "monitor-enabled", "up"
			if b.closed[name+" "+address] {
				session, state = "user-disabled", "user-down"
			}
			members = append(members, map[string]string{
				"name": address, "fullPath": "/Common/" + address, "address": host + "%1", "session": session, "state": state,
			})
		}
		pools = append(pools, map[string]any{"name": name, "partition": "Common", "membersReference": map[string]any{"items": members}})
	}
	answer(w, map[string]any{"items": pools})
}

func answer(w http.ResponseWriter, value any) {
	content, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(content)
}

func (b *bigIP) stats(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.PathValue("pool"), "~Common~")
	entries := map[string]any{}
	for i, address := range b.pools[name] {
		host, port, _ := net.SplitHostPort(address)
		var number int
		fmt.Sscan(port, &number)
		enabled := "enabled"
		if b.closed[name+" "+address] {
			enabled = "disabled"
		}
		entries[fmt.Sprint("https://localhost/", i)] = map[string]any{"nestedStats": map[string]any{"entries": map[string]any{
			"addr": map[string]string{"description": host + "%1"}, "port": map[string]int{"value": number},
			"serverside.curConns": map[string]int{"value": b.conns[address]}, "totRequests": map[string]int{"value": 7},
			"status.availabilityState": map[string]string{"description": "available"},
			"status.enabledState":      map[string]string{"description": enabled},
		}}}
	}
	answer(w, map[string]any{"entries": entries})
}

func (b *bigIP) change(w http.ResponseWriter, r *http.Request) {
	if b.broken {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, `{"code":500,"message":"mcpd is busy"}`)
		return
	}
	var change map[string]string
	_ = json.NewDecoder(r.Body).Decode(&change)
	address := strings.TrimPrefix(r.PathValue("member"), "~Common~")
	pool := strings.TrimPrefix(r.PathValue("pool"), "~Common~")
	switch {
	case change["session"] == "user-disabled" && change["state"] == "user-down":
		b.closed[pool+" "+address] = true
		b.calls = append(b.calls, "close "+address)
	case change["session"] == "user-enabled" && change["state"] == "user-up":
		delete(b.closed, pool+" "+address)
		b.calls = append(b.calls, "open "+address)
	default:
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	fmt.Fprint(w, "{}")
}

// taken are the changes since the last question.
func (b *bigIP) taken() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	calls := b.calls
	b.calls = nil
	return calls
}

func (b *bigIP) connect(address string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns[address] = n
}

func (b *bigIP) credentials() map[string][]byte {
	return map[string][]byte{
		"username": []byte("yunfan"), "password": []byte(password),
		"ca.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.servers.Certificate().Raw}),
	}
}

func (b *bigIP) driver(t *testing.T) edge.Driver {
	t.Helper()
	d, err := f5.New(b.servers.URL, b.credentials())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const (
	north1, north2, south = "192.0.2.1:30080", "192.0.2.2:30080", "198.51.100.1:30080"
	north, southern       = "edu-prod.beijing", "edu-prod.shanghai"
)

func shop(closed ...string) *table.Table {
	target := func(name string, servers ...string) table.Target {
		return table.Target{Name: name, Label: name, Weight: 50, Servers: servers, Closed: slices.Contains(closed, name)}
	}
	return &table.Table{Pools: []table.Pool{{Name: "edu.shop", Targets: []table.Target{target(north, north1, north2), target(southern, south)}}}}
}

// bring applies a table and requires that it is served.
func bring(t *testing.T, d edge.Driver, wanted *table.Table) *table.State {
	t.Helper()
	if err := d.Apply(t.Context(), wanted); err != nil {
		t.Fatal(err)
	}
	state, err := d.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	generation, err := wanted.Generation()
	if err != nil {
		t.Fatal(err)
	}
	if state.Generation != generation {
		t.Fatalf("serves %q, want %q: %+v", state.Generation, generation, state)
	}
	return state
}

// TestNET10_F5GrayRelease takes one partition after the other out of traffic and back, as a gray release does.
func TestNET10_F5GrayRelease(t *testing.T) {
	b := newBigIP(t, map[string][]string{"edu.shop": {north1, north2, south}, "other": {north1}})
	d := b.driver(t)
	bring(t, d, shop())
	if calls := b.taken(); calls != nil {
		t.Errorf("nothing had to be changed, and was: %v", calls)
	}
	for _, step := range []struct {
		reason string
		table  *table.Table
		want   []string
	}{
		{"partition 1 is closed", shop(north), []string{"close " + north1, "close " + north2}},
		{"and again: nothing changes", shop(north), nil},
		{"partition 1 is opened", shop(), []string{"open " + north1, "open " + north2}},
		{"partition 2 is closed", shop(southern), []string{"close " + south}},
		{"the other way at once: open first, so that somebody answers at any time", shop(north), []string{"open " + south, "close " + north1, "close " + north2}},
		{"the end", shop(), []string{"open " + north1, "open " + north2}},
	} {
		state := bring(t, d, step.table)
		if diff := cmp.Diff(step.want, b.taken()); diff != "" {
			t.Errorf("%s: calls (-want +got):\n%s", step.reason, diff)
		}
		if len(state.Unsupported) > 0 {
			t.Errorf("%s: told as not done: %v", step.reason, state.Unsupported)
		}
	}
}

func TestF5CountsConnections(t *testing.T) {
	b := newBigIP(t, map[string][]string{"edu.shop": {north1, north2, south}})
	d := b.driver(t)
	b.connect(north1, 2)
	b.connect(north2, 1)
	for _, want := range []int{3, 2, 0} {
		state := bring(t, d, shop(north))
		one := state.Targets[0]
		if one.Target != north || one.InFlight != want || !one.Closed {
			t.Errorf("%+v, want %d in flight, and closed", one, want)
		}
		if other := state.Targets[1]; other.Closed || !other.Up || other.InFlight != 0 || other.Requests != 7 {
			t.Errorf("%+v, want it open and up", other)
		}
		b.connect(north2, 0)
		if want == 2 {
			b.connect(north1, 0)
		}
	}
}

func TestF5ConfirmsOnlyWhatTheDeviceHas(t *testing.T) {
	b := newBigIP(t, map[string][]string{"edu.shop": {north1, north2, south}})
	d := b.driver(t)
	b.broken = true
	err := d.Apply(t.Context(), shop(north))
	if err == nil || !strings.Contains(err.Error(), "mcpd is busy") {
		t.Errorf("error %v, want what the device said", err)
	}
	state, err := d.State(t.Context())
	if err != nil || state.Generation != "" || state.Problem == "" {
		t.Errorf("%+v, %v: nothing is served that was refused", state, err)
	}
	b.broken = false
	bring(t, d, shop(north))
	// Somebody opens a member by hand.
	b.mu.Lock()
	delete(b.closed, "edu.shop "+north1)
	b.mu.Unlock()
	if state, err = d.State(t.Context()); err != nil || state.Generation != "" {
		t.Errorf("%+v, %v: the device does not serve what was asked", state, err)
	}
}

func TestF5TellsWhatItDoesNot(t *testing.T) {
	b := newBigIP(t, map[string][]string{"edu.shop": {north1, south}})
	wanted := shop()
	wanted.Pools[0].Retries, wanted.Pools[0].Targets[1].Weight = 1, 10
	wanted.Pools[0].Targets[1].Servers = []string{north1, south}
	wanted.Pools[0].Targets[0].Closed = true
	wanted.Pools = append(wanted.Pools, table.Pool{Name: "edu.pay"})
	state := bring(t, b.driver(t), wanted)
	if diff := cmp.Diff([]string{
		"pool edu.shop: 192.0.2.1:30080 cannot be closed for one partition and open for another",
		"pool edu.shop: 192.0.2.2:30080 of edu-prod.beijing is no member",
		"pool edu.shop: retries are the device's own matter",
		"pool edu.pay: the device has no pool of this name",
	}, state.Unsupported); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

func TestF5TrustsNobodyElse(t *testing.T) {
	b := newBigIP(t, map[string][]string{"edu.shop": {north1}})
	for reason, change := range map[string]func(map[string][]byte){
		"a certificate of nobody's":  func(c map[string][]byte) { delete(c, "ca.crt") },
		"a password that is not his": func(c map[string][]byte) { c["password"] = []byte("battery staple") },
	} {
		credentials := b.credentials()
		change(credentials)
		d, err := f5.New(b.servers.URL, credentials)
		if err != nil {
			t.Fatal(err)
		}
		err = d.Apply(context.Background(), shop())
		if err == nil {
			t.Fatalf("%s: nothing was refused", reason)
		}
		if text := err.Error(); strings.Contains(text, string(credentials["password"])) || strings.Contains(text, "Basic ") {
			t.Errorf("%s: the error tells the password: %s", reason, text)
		}
	}
	for reason, made := range map[string]func() (edge.Driver, error){
		"without TLS":         func() (edge.Driver, error) { return f5.New("http://192.0.2.9", b.credentials()) },
		"without credentials": func() (edge.Driver, error) { return f5.New(b.servers.URL, nil) },
	} {
		if _, err := made(); err == nil {
			t.Errorf("%s: nothing was refused", reason)
		}
	}
}
