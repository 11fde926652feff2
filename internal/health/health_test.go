package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/client-go/rest"
)

func find(all []Component, name string) Component {
	for _, c := range all {
		if c.Name == name {
			return c
		}
	}
	return Component{}
}

// TestOPS11_StoppedPartIsFlagged stops a registry and an API server while the monitor runs.
func TestOPS11_StoppedPartIsFlagged(t *testing.T) {
	g := NewWithT(t)
	up := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	registry := httptest.NewServer(up)
	defer registry.Close()
	var etcd atomic.Bool
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/etcd") && etcd.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer hub.Close()
	var broken atomic.Bool
	m := &Monitor{Checks: []Check{
		Registry(registry.URL), Hub(&rest.Config{Host: hub.URL}), Disk(t.TempDir()),
		Records(func(context.Context) error {
			if broken.Load() {
				return errors.New("no answer")
			}
			return nil
		}),
	}}
	m.look(t.Context())
	for _, name := range []string{"registry", "hub API", "hub etcd", "records"} {
		g.Expect(find(m.All(), name).State).To(Equal(OK), name)
	}
	g.Expect(find(m.All(), "disk").Message).To(ContainSubstring("GiB are free"))
	since := find(m.All(), "registry").Since
	m.look(t.Context())
	g.Expect(find(m.All(), "registry").Since).To(Equal(since), "it is so since then")

	registry.Close()
	etcd.Store(true)
	broken.Store(true)
	m.look(t.Context())
	for _, name := range []string{"registry", "hub etcd", "records"} {
		c := find(m.All(), name)
		g.Expect(c.State).To(Equal(Failed), name)
		g.Expect(c.Advice).NotTo(BeEmpty(), name)
	}
	g.Expect(find(m.All(), "hub API").State).To(Equal(OK), "one part says nothing of another")
	g.Expect(interval+checkTime).To(BeNumerically("<", time.Minute), "told within a minute")
}

func TestOPS11_HangingCheckCostsOnlyItself(t *testing.T) {
	g := NewWithT(t)
	m := &Monitor{Checks: []Check{
		{Name: "hangs", Look: func(ctx context.Context) ([]Component, error) { <-ctx.Done(); return nil, ctx.Err() }},
		{Name: "works", Look: func(context.Context) ([]Component, error) { return one("works", "fine"), nil }},
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	m.look(ctx)
	g.Expect(find(m.All(), "hangs").State).To(Equal(Failed))
	g.Expect(find(m.All(), "works").State).To(Equal(OK))
}

func TestCertificatesThatEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		days   int
		unseen []string
		want   State
	}{
		"Far":    {"Nothing to do", 60, nil, OK},
		"Near":   {"Somebody should look", 13, nil, Degraded},
		"Unseen": {"What cannot be seen may have ended", 60, []string{"beijing kubeconfig"}, Degraded},
		"Ended":  {"It has happened", -1, nil, Failed},
	} {
		t.Run(name, func(t *testing.T) {
			m := &Monitor{Checks: []Check{Certificates(func(context.Context) (string, int, []string) { return "hub apiserver", tc.days, tc.unseen })}}
			m.look(t.Context())
			if got := find(m.All(), "certificates"); got.State != tc.want {
				t.Errorf("%s: %+v", tc.reason, got)
			}
		})
	}
}

func TestEngineProcesses(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	listener, err := net.Listen("unix", filepath.Join(dir, "engine.sock"))
	g.Expect(err).NotTo(HaveOccurred())
	state := atomic.Value{}
	state.Store("Ready")
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"processes": [{"target": "hub/etcd", "state": %q, "lastError": "x"}, {"target": "images", "state": "Done"}]}`, state.Load())
	})}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	m := &Monitor{Checks: []Check{Engine(dir)}}
	m.look(t.Context())
	g.Expect(m.All()).To(HaveLen(1))
	state.Store("Backoff")
	m.look(t.Context())
	g.Expect(find(m.All(), "engine hub/etcd").State).To(Equal(Failed))
	_ = server.Close()
	m.look(t.Context())
	g.Expect(find(m.All(), "engine").State).To(Equal(Failed))
}
