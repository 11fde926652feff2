package edge_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"yunfan.io/yunfan/internal/route/edge"
	"yunfan.io/yunfan/internal/route/table"
)

const patience = 30 * time.Second

// memory is a driver without a load balancer.
type memory struct {
	mu     sync.Mutex
	tables []*table.Table
	refuse int // so many tables
	closed bool
}

func (m *memory) Apply(_ context.Context, t *table.Table) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuse > 0 {
		m.refuse--
		return errors.New("not now")
	}
	m.tables = append(m.tables, t)
	return nil
}

func (m *memory) State(context.Context) (*table.State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.tables) == 0 {
		return &table.State{Program: "memory"}, nil
	}
	generation, err := m.tables[len(m.tables)-1].Generation()
	return &table.State{Program: "memory", Generation: generation}, err
}

func (m *memory) Close(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

func (m *memory) Statistics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a page") })
}

type running struct {
	dir, address string
	driver       *memory
	stop         func()
}

func (r *running) client(t *testing.T) *edge.Client {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(r.dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(r.dir, "tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := edge.NewClient("https://"+r.address, strings.TrimSpace(string(token)), ca)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// run runs an agent until the test ends, or stop is called.
func run(t *testing.T, dir string, driver *memory) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, ended := &running{dir: dir, address: freePort(t), driver: driver}, make(chan error, 1)
	options := edge.Options{
		Dir: dir, Driver: "memory", Listen: r.address, HTTP: "127.0.0.1:1", Drain: time.Second, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Drivers: map[string]edge.New{"memory": func(context.Context, edge.Settings) (edge.Driver, error) { return driver, nil }},
	}
	go func() { ended <- edge.Run(ctx, options) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	NewWithT(t).Eventually(func() error {
		connection, err := net.Dial("tcp", r.address)
		if err == nil {
			connection.Close()
		}
		return err
	}, patience, 10*time.Millisecond).Should(Succeed())
	return r
}

func TestAgent(t *testing.T) {
	dir, driver := t.TempDir(), &memory{refuse: 2}
	r := run(t, dir, driver)
	client := r.client(t)
	given := &table.Table{Pools: []table.Pool{{Name: "p"}}, Certificates: []table.Certificate{{Name: "c", Key: "secret"}}}
	want, err := given.Generation()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Apply(t.Context(), given); err != nil {
		t.Fatal(err)
	}
	generation := func(c *edge.Client) func() (string, error) {
		return func() (string, error) {
			state, err := c.State(t.Context())
			if err != nil {
				return "", err
			}
			return state.Generation, nil
		}
	}
	g := NewWithT(t)
	g.Eventually(generation(client), patience).Should(Equal(want))
	for _, name := range []string{"token", "tls.key", "table.json"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, mode %v", name, err, info.Mode())
		}
	}
	r.stop()
	if !driver.closed {
		t.Error("the driver was not closed at the end")
	}
	again := run(t, dir, &memory{})
	g.Eventually(generation(again.client(t)), patience).Should(Equal(want), "the table is kept, and the token and the certificate are")
}

func TestAgentRefuses(t *testing.T) {
	r := run(t, t.TempDir(), &memory{})
	known := r.client(t)
	ca, err := os.ReadFile(filepath.Join(r.dir, "tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := edge.NewClient("https://"+r.address, "not the token at all", ca)
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Apply(t.Context(), &table.Table{}); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("another token: %v", err)
	}
	if _, err := stranger.State(t.Context()); err == nil {
		t.Error("another token reads the state")
	}
	distrustful, err := edge.NewClient("https://"+r.address, "not the token at all", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := distrustful.State(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without the certificate: %v", err)
	}
	token, err := os.ReadFile(filepath.Join(r.dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	raw := known.HTTP()
	do := func(method, path, body string, set func(*http.Request)) (int, string) {
		request, err := http.NewRequestWithContext(t.Context(), method, "https://"+r.address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		set(request)
		answer, err := raw.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(text)
	}
	nobody := func(*http.Request) {}
	bearer := func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token))) }
	browser := func(r *http.Request) { r.SetBasicAuth("admin", strings.TrimSpace(string(token))) }
	tests := map[string]struct {
		method, path, body string
		as                 func(*http.Request)
		want               int
	}{
		"health needs no token":         {"GET", "/healthz", "", nobody, 200},
		"the state does":                {"GET", "/v1/state", "", nobody, 401},
		"statistics do":                 {"GET", "/v1/statistics", "", nobody, 401},
		"statistics in a browser":       {"GET", "/v1/statistics", "", browser, 200},
		"what is no table":              {"PUT", "/v1/table", "[", bearer, 400},
		"a table that says more":        {"PUT", "/v1/table", `{"new": 1}`, bearer, 400},
		"two tables":                    {"PUT", "/v1/table", `{}{}`, bearer, 400},
		"a table":                       {"PUT", "/v1/table", `{}`, bearer, 202},
		"nothing else is there to call": {"POST", "/v1/table", `{}`, bearer, 405},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got, text := do(test.method, test.path, test.body, test.as); got != test.want {
				t.Errorf("got %d %s, want %d", got, text, test.want)
			}
		})
	}
}

func TestNewClient(t *testing.T) {
	tests := map[string]struct{ endpoint, token, ca, want string }{
		"no URL":           {"192.0.2.1:8444", "token", "", "endpoint"},
		"in the open":      {"http://192.0.2.1:8444", "token", "", "in the open"},
		"no token":         {"https://192.0.2.1:8444", "", "", "token"},
		"no certificate":   {"https://192.0.2.1:8444", "token", "nonsense", "ca.crt"},
		"good":             {"https://192.0.2.1:8444", "token", "", ""},
		"on this computer": {"http://127.0.0.1:8444", "token", "", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := edge.NewClient(test.endpoint, test.token, []byte(test.ca))
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
