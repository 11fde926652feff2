package edgetest

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Seen is what a backend saw of a request: its answer.
type Seen struct {
	Backend    string
	Host, Path string
	Partition  []string
	Client     []string
	Track      []string
	Other      []string
}

// backend is a gateway of a test: it answers with what it saw.
type backend struct {
	name, address string
	server        *http.Server
	requests      atomic.Int64
	sick          atomic.Bool
	mu            sync.Mutex
	held          map[string]chan struct{}
}

func newBackend(t *testing.T, name string) *backend {
	t.Helper()
	b := &backend{name: name, held: map[string]chan struct{}{}}
	b.listen(t, "127.0.0.1:0")
	return b
}

func (b *backend) listen(t *testing.T, address string) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	b.address = listener.Addr().String()
	b.server = &http.Server{Handler: b, ReadHeaderTimeout: time.Minute}
	server := b.server
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
}

// die ends the backend and all its connections at once; revive brings it back at the same address.
func (b *backend) die()                { b.server.Close() }
func (b *backend) revive(t *testing.T) { t.Helper(); b.listen(t, b.address) }

// release lets the requests that are held under a name go on.
func (b *backend) release(name string) { close(b.hold(name)) }

func (b *backend) hold(name string) chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held[name] == nil {
		b.held[name] = make(chan struct{})
	}
	return b.held[name]
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		if b.sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return
	}
	b.requests.Add(1)
	if r.Header.Get("Upgrade") == "websocket" {
		b.echo(w, r.Header.Get("Sec-WebSocket-Key"))
		return
	}
	query := r.URL.Query()
	if name := query.Get("hold"); name != "" {
		select {
		case <-b.hold(name):
		case <-r.Context().Done():
		}
	}
	if query.Has("hangup") {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			conn.Close()
		}
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	seen := Seen{
		Backend: b.name, Host: r.Host, Path: r.URL.Path,
		Partition: r.Header["Yunfan-Partition"], Client: r.Header["Yunfan-Client"],
		Track: r.Header["Yunfan-Track"], Other: r.Header["Yunfan-Other"],
	}
	content, err := json.Marshal(seen)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(content)
}

// echo upgrades a connection and sends back each line.
func (b *backend) echo(w http.ResponseWriter, key string) {
	conn, buffer, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	// What RFC 6455 wants to see of whoever understood the request; some load balancers look at it.
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	lines := bufio.NewScanner(buffer)
	for lines.Scan() {
		fmt.Fprintf(conn, "%s says %s\n", b.name, lines.Text())
	}
}
