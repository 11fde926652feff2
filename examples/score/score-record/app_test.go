package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
)

// rows stands in for the database where only the page matters; the real one is in the integration test.
type rows struct {
	list []score
	err  error
}

func (r rows) scores(context.Context) ([]score, error) { return r.list, r.err }

func testApp(env map[string]string, r rows) *app {
	return newApp(slog.New(slog.DiscardHandler), settingsFromEnv(func(k string) string { return env[k] }), r)
}

func fetch(h http.Handler, path string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestEX01_PageEscapes(t *testing.T) {
	a := testApp(map[string]string{"SCORE_VERSION": "<v1>", "SCORE_COLOR": "#d4380d", "POD_NAME": "pod-1", "YUNFAN_PARTITION": "prod-bj"},
		rows{list: []score{{1, "<script>alert(1)</script>", "数学", 95.5}}})
	code, body := fetch(a.handler(), "/")
	if code != http.StatusOK {
		t.Fatalf("status %d: %s", code, body)
	}
	for _, want := range []string{"&lt;script&gt;alert(1)&lt;/script&gt;", "数学", "95.5", "&lt;v1&gt;", "pod-1", "prod-bj", "background: #d4380d"} {
		if !strings.Contains(body, want) {
			t.Errorf("%q is missing in the page", want)
		}
	}
	for _, bad := range []string{"<script>", `id="cluster"`, "ZgotmplZ"} {
		if strings.Contains(body, bad) {
			t.Errorf("%q is in the page", bad)
		}
	}
}

func TestTPL07_Probes(t *testing.T) {
	noDatabase := rows{err: errors.New("dial tcp 10.0.0.1:3306: connection refused")}
	for reason, c := range map[string]struct {
		rows        rows
		prepare     func(*testing.T, *app)
		ping, ready int
	}{
		"all well":                         {rows{}, func(*testing.T, *app) {}, 200, 200},
		"no database: alive but not ready": {noDatabase, func(*testing.T, *app) {}, 200, 503},
		"stopping: alive but not ready":    {rows{}, func(_ *testing.T, a *app) { a.gate.startDraining() }, 200, 503},
		"liveness broken by a drill": {rows{}, func(t *testing.T, a *app) {
			t.Helper()
			drill(t, a, "/break?probe=liveness")
		}, 500, 200},
		"readiness broken by a drill": {rows{}, func(t *testing.T, a *app) {
			t.Helper()
			drill(t, a, "/break?probe=readiness")
		}, 200, 503},
		"repaired": {rows{}, func(t *testing.T, a *app) {
			t.Helper()
			drill(t, a, "/break?probe=readiness")
			drill(t, a, "/break?probe=readiness&repair=1")
		}, 200, 200},
	} {
		t.Run(reason, func(t *testing.T) {
			a := testApp(map[string]string{"SCORE_DRILLS": "1"}, c.rows)
			c.prepare(t, a)
			ping, _ := fetch(a.handler(), "/_ping")
			ready, body := fetch(a.handler(), "/demo")
			if ping != c.ping || ready != c.ready {
				t.Errorf("/_ping %d, /demo %d; want %d, %d", ping, ready, c.ping, c.ready)
			}
			if strings.Contains(body, "10.0.0.1") {
				t.Error("a user sees addresses of the inside")
			}
		})
	}
}

func drill(t *testing.T, a *app, path string) {
	t.Helper()
	if code, body := fetch(a.handler(), path); code != http.StatusOK {
		t.Fatalf("%s: %d %s", path, code, body)
	}
}

func TestDrillsAreOffByDefault(t *testing.T) {
	a := testApp(nil, rows{})
	for _, path := range []string{"/crash", "/break?probe=liveness", "/hog?mb=1", "/slow?duration=1s"} {
		if code, _ := fetch(a.handler(), path); code != http.StatusNotFound {
			t.Errorf("%s: %d, want 404", path, code)
		}
	}
}

func TestCFG04_ConfigFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.xml")
	a := testApp(map[string]string{"SCORE_CONFIG": path}, rows{})
	if code, body := fetch(a.handler(), "/config"); code != http.StatusNotFound || !strings.Contains(body, "is not mounted") {
		t.Errorf("%d %s", code, body)
	}
	if err := os.WriteFile(path, []byte("<Server/>"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := `{"path":"` + path + `","sha256":"e2200907b9dcc4657af475377abffa76c89a5859314f9c27b7726d43498e0115","size":9}` + "\n"
	if _, body := fetch(a.handler(), "/config"); body != want {
		t.Error(cmp.Diff(want, body))
	}
	if err := os.WriteFile(path, make([]byte, maxConfig+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _ := fetch(a.handler(), "/config"); code != http.StatusInternalServerError {
		t.Errorf("a huge file was read: %d", code)
	}
}

func TestMetricsHaveRoutesAndNotPaths(t *testing.T) {
	a := testApp(map[string]string{"SCORE_VERSION": "v1"}, rows{})
	h := a.handler()
	for _, path := range []string{"/", "/api/scores", "/made/up/by/a/scanner"} {
		fetch(h, path)
	}
	_, body := fetch(h, "/metrics")
	for _, want := range []string{`http_requests_total{code="200",method="GET",path="/"} 1`, `path="/api/scores"`, `score_record_info{version="v1"} 1`, "go_goroutines"} {
		if !strings.Contains(body, want) {
			t.Errorf("%q is missing in the metrics", want)
		}
	}
	if strings.Contains(body, "scanner") {
		t.Error("a path from outside became a label")
	}
}

func TestDrainWaitsForRequestsAndIsBounded(t *testing.T) {
	g := NewWithT(t)
	a := testApp(map[string]string{"SCORE_DRAIN_DELAY": "0s"}, rows{})
	admin := httptest.NewServer(a.adminHandler())
	defer admin.Close()
	drain := func(ctx context.Context) <-chan error {
		done := make(chan error, 1)
		go func() {
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, admin.URL+"/drain", nil)
			if err == nil {
				var response *http.Response
				if response, err = http.DefaultClient.Do(request); err == nil {
					_, err = io.Copy(io.Discard, response.Body)
					response.Body.Close()
				}
			}
			done <- err
		}()
		return done
	}
	a.gate.enter()
	impatient, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	g.Eventually(drain(impatient)).Should(Receive(HaveOccurred()), "it waits while a request is in flight")
	g.Expect(a.gate.isDraining()).To(BeTrue())
	patient := drain(t.Context())
	a.gate.leave()
	g.Eventually(patient).Should(Receive(Not(HaveOccurred())))
	g.Eventually(drain(t.Context())).Should(Receive(Not(HaveOccurred())), "asking twice is fine")
}

func TestSettings(t *testing.T) {
	for reason, c := range map[string]struct {
		env  map[string]string
		want time.Duration
	}{
		"default":             {nil, 2 * time.Second},
		"given":               {map[string]string{"SCORE_DRAIN_DELAY": "5s"}, 5 * time.Second},
		"nonsense":            {map[string]string{"SCORE_DRAIN_DELAY": "soon"}, 2 * time.Second},
		"longer than allowed": {map[string]string{"SCORE_DRAIN_DELAY": "1h"}, 2 * time.Second},
	} {
		t.Run(reason, func(t *testing.T) {
			s := settingsFromEnv(func(k string) string { return c.env[k] })
			if diff := cmp.Diff(c.want, s.drainDelay); diff != "" {
				t.Error(diff)
			}
			if s.databaseAddress() != "db-service:3306" || s.dbName != "HPE_APP" {
				t.Errorf("database %s %s", s.databaseAddress(), s.dbName)
			}
		})
	}
}
