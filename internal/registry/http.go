package registry

import (
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// readOnly lets only pulls through. The answer has the form registry clients show to their users.
func readOnly(hint string, next http.Handler) http.Handler {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	body, err := json.Marshal(map[string][]entry{"errors": {{"DENIED", "this address of the registry is read-only: " + hint}}})
	if err != nil { // two strings always marshal
		panic(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		w.Write(body) //nolint:errcheck // the client hung up
	})
}

// logWrites logs images that come and go: writes of manifests, not of the blobs before them.
func logWrites(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/manifests/") || (r.Method != http.MethodPut && r.Method != http.MethodDelete) {
			next.ServeHTTP(w, r)
			return
		}
		status := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(status, r)
		log.Info("image changed", "method", r.Method, "path", r.URL.Path, "status", status.status, "digest", w.Header().Get("Docker-Content-Digest"))
	})
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// unstall bounds a request's body and cuts off clients that stop reading or sending. A fixed limit for the whole
// request would cut off slow ones with big layers.
func unstall(timeout time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		defer func() {
			// The connection may carry another request.
			control.SetReadDeadline(time.Time{})  //nolint:errcheck // not every writer has deadlines
			control.SetWriteDeadline(time.Time{}) //nolint:errcheck // not every writer has deadlines
		}()
		body := http.MaxBytesReader(w, r.Body, maxBlob)
		r.Body = struct {
			io.Reader
			io.Closer
		}{unstalledReader{body, control, timeout}, body}
		next.ServeHTTP(unstalledWriter{w, control, timeout}, r)
	})
}

type unstalledReader struct {
	io.Reader
	control *http.ResponseController
	timeout time.Duration
}

func (r unstalledReader) Read(p []byte) (int, error) {
	r.control.SetReadDeadline(time.Now().Add(r.timeout)) //nolint:errcheck // not every writer has deadlines
	return r.Reader.Read(p)
}

type unstalledWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
}

func (w unstalledWriter) Write(p []byte) (int, error) {
	w.control.SetWriteDeadline(time.Now().Add(w.timeout)) //nolint:errcheck // not every writer has deadlines
	return w.ResponseWriter.Write(p)
}

func (w unstalledWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// limit bounds the connections of a listener.
func limit(l net.Listener) net.Listener {
	return &limitedListener{Listener: l, slots: make(chan struct{}, maxConnections), closed: make(chan struct{})}
}

type limitedListener struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{Conn: conn, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	release func()
}

func (c *limitedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
