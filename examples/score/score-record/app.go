package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Parse(pageText))

// maxConfig bounds the configuration file that is read, in bytes.
const maxConfig = 1 << 20

// scoreReader is where the scores come from.
type scoreReader interface {
	scores(ctx context.Context) ([]score, error)
}

type app struct {
	log      *slog.Logger
	settings settings
	store    scoreReader
	gate     *gate
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	metrics  *prometheus.Registry
	dead     atomic.Bool // liveness broken by a drill
	unready  atomic.Bool // readiness broken by a drill
	hogged   atomic.Pointer[[]byte]
}

func newApp(log *slog.Logger, s settings, store scoreReader) *app {
	a := &app{
		log: log, settings: s, store: store, gate: newGate(), metrics: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_requests_total", Help: "Requests answered.",
		}, []string{"path", "method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_request_duration_seconds", Help: "Time to answer a request.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"path"}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "score_record_info", Help: "Always 1.", ConstLabels: prometheus.Labels{"version": s.version},
	})
	info.Set(1)
	inFlight := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "http_requests_in_flight", Help: "Requests being answered.",
	}, func() float64 { return float64(a.gate.count()) })
	a.metrics.MustRegister(a.requests, a.duration, info, inFlight, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return a
}

// handler serves users, probes and Prometheus.
func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_ping", a.ping)
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.metrics, promhttp.HandlerOpts{}))
	user := func(path string, h http.HandlerFunc) {
		mux.Handle("GET "+path, a.measure(strings.TrimSuffix(path, "{$}"), a.gate.wrap(h)))
	}
	user("/{$}", a.showScores)
	user("/api/scores", a.listScores)
	user("/config", a.showConfig)
	// A probe is not a user's request: it must not keep a stopping pod alive.
	mux.Handle("GET /demo", a.measure("/demo", http.HandlerFunc(a.ready)))
	if a.settings.drills {
		a.addDrills(mux)
	}
	return mux
}

func (a *app) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /drain", a.drain)
	return mux
}

func (a *app) ping(w http.ResponseWriter, _ *http.Request) {
	if a.dead.Load() {
		http.Error(w, "broken by a drill", http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, "pong")
}

// ready answers like the page, so that an instance without database gets no users.
func (a *app) ready(w http.ResponseWriter, r *http.Request) {
	switch {
	case a.gate.isDraining():
		http.Error(w, "stopping", http.StatusServiceUnavailable)
	case a.unready.Load():
		http.Error(w, "broken by a drill", http.StatusServiceUnavailable)
	default:
		a.showScores(w, r)
	}
}

func (a *app) showScores(w http.ResponseWriter, r *http.Request) {
	rows, ok := a.read(w, r)
	if !ok {
		return
	}
	var body bytes.Buffer
	s := a.settings
	err := page.Execute(&body, map[string]any{
		"Version": s.version, "Color": s.color, "Instance": s.instance, "Partition": s.partition, "Cluster": s.cluster, "Scores": rows,
	})
	if err != nil {
		a.log.Error("page cannot be shown", "error", err.Error())
		http.Error(w, "the page cannot be shown", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	a.identify(h)
	w.Write(body.Bytes()) //nolint:errcheck // the client hung up
}

// identify says in headers who answered, for load balancer tests.
func (a *app) identify(h http.Header) {
	h.Set("X-Score-Version", a.settings.version)
	h.Set("X-Score-Instance", a.settings.instance)
}

func (a *app) listScores(w http.ResponseWriter, r *http.Request) {
	rows, ok := a.read(w, r)
	if !ok {
		return
	}
	a.identify(w.Header())
	a.writeJSON(w, map[string]any{"version": a.settings.version, "instance": a.settings.instance, "scores": rows})
}

// read answers with 503 itself when the database does not. Users see no detail of it.
func (a *app) read(w http.ResponseWriter, r *http.Request) ([]score, bool) {
	rows, err := a.store.scores(r.Context())
	if err != nil {
		a.log.Warn("database does not answer", "database", a.settings.databaseAddress(), "error", err.Error())
		http.Error(w, "the database cannot be reached", http.StatusServiceUnavailable)
		return nil, false
	}
	return rows, true
}

func (a *app) showConfig(w http.ResponseWriter, _ *http.Request) {
	f, err := os.Open(a.settings.configFile)
	if errors.Is(err, fs.ErrNotExist) {
		http.Error(w, a.settings.configFile+" is not mounted", http.StatusNotFound)
		return
	}
	if err != nil {
		a.log.Error("configuration cannot be read", "error", err.Error())
		http.Error(w, "the configuration cannot be read", http.StatusInternalServerError)
		return
	}
	defer f.Close()
	hash := sha256.New()
	size, err := io.Copy(hash, io.LimitReader(f, maxConfig+1))
	if err != nil || size > maxConfig {
		http.Error(w, fmt.Sprintf("the configuration cannot be read or is bigger than %d bytes", maxConfig), http.StatusInternalServerError)
		return
	}
	a.writeJSON(w, map[string]any{"path": a.settings.configFile, "size": size, "sha256": hex.EncodeToString(hash.Sum(nil))})
}

func (a *app) writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		a.log.Debug("client hung up", "error", err.Error())
	}
}

// drain makes readiness fail, goes on serving while the service learns of it, and answers when nothing is in flight.
func (a *app) drain(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), drainTimeout)
	defer cancel()
	a.gate.startDraining()
	a.log.Info("pre-stop: leaving the service", "inFlight", a.gate.count(), "delay", a.settings.drainDelay.String())
	select {
	case <-time.After(a.settings.drainDelay):
	case <-ctx.Done():
	}
	left := a.gate.waitIdle(ctx)
	a.log.Info("pre-stop: done", "inFlight", left)
	fmt.Fprintln(w, "drained")
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// measure counts and times requests under the route's path: the request's own path could be anything.
func (a *app) measure(path string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start, status := time.Now(), &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(status, r)
		a.duration.WithLabelValues(path).Observe(time.Since(start).Seconds())
		a.requests.WithLabelValues(path, r.Method, fmt.Sprint(status.status)).Inc()
		if path != "/demo" {
			a.log.Info("request", "path", path, "status", status.status, "duration", time.Since(start).String())
		}
	})
}
