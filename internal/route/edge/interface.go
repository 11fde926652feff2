package edge

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"yunfan.io/yunfan/internal/route/table"
)

const (
	tablePath      = "/v1/table"
	statePath      = "/v1/state"
	statisticsPath = "/v1/statistics"
	// mostTable bounds a table and a state in JSON, in bytes.
	mostTable = 64 << 20
	// stateTimeout bounds one question to the driver.
	stateTimeout = 15 * time.Second
)

// Statistics is a Driver whose load balancer has a page for people.
type Statistics interface {
	// Statistics serves the page at /v1/statistics.
	Statistics() http.Handler
}

// server is the interface.
func (a *agent) server(certificate *tls.Certificate) *http.Server {
	const headers, body, idle = 10 * time.Second, time.Minute, 2 * time.Minute
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.Handle("PUT "+tablePath, a.known(http.HandlerFunc(a.putTable)))
	mux.Handle("GET "+statePath, a.known(http.HandlerFunc(a.getState)))
	if s, ok := a.driver.(Statistics); ok {
		mux.Handle("GET "+statisticsPath, a.known(s.Statistics()))
		mux.Handle("GET "+statisticsPath+"/", a.known(s.Statistics()))
	}
	return &http.Server{
		Handler: mux, ReadHeaderTimeout: headers, ReadTimeout: body, WriteTimeout: body, IdleTimeout: idle,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{*certificate}, MinVersion: tls.VersionTLS12},
		ErrorLog:  slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
}

// known lets in those who have the token: as a bearer token, or as the password of any user, which browsers ask for.
func (a *agent) known(next http.Handler) http.Handler {
	wanted := sha256.Sum256([]byte(a.token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if _, password, basic := r.BasicAuth(); basic && !bearer {
			given = password
		}
		sum := sha256.Sum256([]byte(given))
		if subtle.ConstantTimeCompare(sum[:], wanted[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="yunfan edge: the token is the password"`)
			http.Error(w, "this takes the edge's token", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (a *agent) putTable(w http.ResponseWriter, r *http.Request) {
	t, err := decode[table.Table](http.MaxBytesReader(w, r.Body, mostTable))
	if err != nil {
		status := http.StatusBadRequest
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, "reading the table (is this edge older than the hub?): "+err.Error(), status)
		return
	}
	if err := a.take(t); err != nil {
		a.log.Error("a table was not kept", "error", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

func (a *agent) getState(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), stateTimeout)
	defer cancel()
	var content []byte
	state, err := a.state(ctx)
	if err == nil {
		content, err = json.Marshal(state)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(content) // who went away needs no answer
}

// decode reads one document of JSON to its end. What is not known is refused: it would be left out in silence.
func decode[T any](body io.Reader) (*T, error) {
	decoder, into := json.NewDecoder(body), new(T)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("there is more than one document")
	}
	return into, nil
}
