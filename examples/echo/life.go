package main

import (
	"bufio"
	"context"
	"crypto/sha1" //nolint:gosec // the handshake of WebSockets asks for it; it protects nothing
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

const (
	maxSlow = 10 * time.Minute
	// drainTimeout is how long requests under way may take when the server is told to end.
	drainTimeout = 5 * time.Minute
	opcodeText   = 1
	opcodeClose  = 8
	// maxWord bounds a message on a WebSocket: lengths beyond it are written in another way.
	maxWord = 125
)

// life is how the web server begins and ends, so that one can see what a platform does with programs that are slow to
// begin, or rude in ending.
type life struct {
	startAfter, readyAfter time.Duration
	graceful               bool
	server                 *http.Server
	began                  time.Time
	ending                 chan struct{}  // closed when it is told to end
	sockets                sync.WaitGroup // WebSockets, which the server does not wait for itself
}

func newLife() *life { return &life{ending: make(chan struct{})} }

func (l *life) flags(f *flag.FlagSet) {
	duration := func(name string) time.Duration {
		d, _ := time.ParseDuration(env(name, "0s")) // what is none is none
		return d
	}
	f.DurationVar(&l.startAfter, "start-after", duration("ECHO_START_AFTER"), "how long it takes to begin, without listening")
	f.DurationVar(&l.readyAfter, "ready-after", duration("ECHO_READY_AFTER"), "how long /readyz says no, once it listens")
	f.BoolVar(&l.graceful, "graceful", env("ECHO_GRACEFUL", "true") != "false", "end requests before ending; false: end at once")
}

// begin waits for as long as it should take to begin.
func (l *life) begin(ctx context.Context, log *slog.Logger) bool {
	if l.startAfter > 0 {
		log.Info("starting", "takes", l.startAfter.String())
	}
	select {
	case <-time.After(l.startAfter):
		l.began = time.Now()
		return true
	case <-ctx.Done():
		return false
	}
}

// end answers what is under way and asks WebSockets to close, unless the server is a rude one.
func (l *life) end(log *slog.Logger) {
	if !l.graceful || l.server == nil {
		return
	}
	log.Info("draining")
	close(l.ending)
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := l.server.Shutdown(ctx); err != nil {
		log.Warn("requests were cut off", "error", err.Error())
	}
	done := make(chan struct{})
	go func() { l.sockets.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

func (l *life) serveHTTP(ctx context.Context, log *slog.Logger, address string, failed chan<- error) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", handler(log))
	mux.HandleFunc("/slow", slow)
	mux.HandleFunc("/longpoll", l.longPoll)
	mux.HandleFunc("/ws", l.webSocket)
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if left := l.readyAfter - time.Since(l.began); left > 0 {
			http.Error(w, "ready in "+left.String(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	l.server = &http.Server{Handler: signed(mux), ReadHeaderTimeout: networkTimeout, IdleTimeout: time.Minute}
	go func() {
		if err := l.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	}()
	log.Info("serving", "http", listener.Addr().String())
	return nil
}

// signed puts into each answer who gives it.
func signed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Echo-Version", os.Getenv("ECHO_VERSION"))
		h.Set("Echo-Pod", hostname())
		h.Set("Echo-Partition", partition())
		next.ServeHTTP(w, r)
	})
}

// partition is where it runs, as far as it is told.
func partition() string { return os.Getenv("ECHO_PARTITION") }

// period reads for how long a request asks to wait, from ms=.
func period(r *http.Request, otherwise time.Duration) time.Duration {
	ms, err := strconv.Atoi(r.URL.Query().Get("ms"))
	if err != nil || ms < 0 {
		return otherwise
	}
	return min(time.Duration(ms)*time.Millisecond, maxSlow)
}

// slow takes its time, also when the server is told to end meanwhile.
func slow(w http.ResponseWriter, r *http.Request) {
	select {
	case <-time.After(period(r, time.Second)):
		answer(w, r)
	case <-r.Context().Done():
	}
}

// longPoll waits for news; that the server ends is news.
func (l *life) longPoll(w http.ResponseWriter, r *http.Request) {
	select {
	case <-time.After(period(r, time.Minute)):
		fmt.Fprintln(w, "nothing new")
	case <-l.ending:
		w.Header().Set("Connection", "close")
		fmt.Fprintln(w, "ask again, elsewhere")
	case <-r.Context().Done():
	}
}

// webSocket sends back each short message, and asks to close when the server is told to end.
func (l *life) webSocket(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("Sec-WebSocket-Key")
	if key == "" {
		http.Error(w, "this is for WebSockets", http.StatusUpgradeRequired)
		return
	}
	controller := http.NewResponseController(w)
	conn, buffer, err := controller.Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	l.sockets.Add(1)
	defer l.sockets.Done()
	defer conn.Close()
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // see above
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	if err := w.Header().Write(conn); err != nil {
		return
	}
	fmt.Fprint(conn, "\r\n")
	var writing sync.Mutex
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-l.ending:
			writing.Lock()
			defer writing.Unlock()
			conn.Write([]byte{0x80 | opcodeClose, 2, 1001 >> 8, 1001 & 0xff}) //nolint:errcheck // it may have gone
		case <-ended:
		}
	}()
	for {
		opcode, word, err := readFrame(buffer.Reader)
		if err != nil || opcode == opcodeClose {
			return
		}
		writing.Lock()
		_, err = conn.Write(append([]byte{0x80 | opcodeText, byte(len(word))}, word...))
		writing.Unlock()
		if err != nil {
			return
		}
	}
}

// readFrame reads one short message of a client, which is masked.
func readFrame(r *bufio.Reader) (opcode byte, word []byte, err error) {
	var head [6]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := int(head[1] & 0x7f)
	if size > maxWord || head[1]&0x80 == 0 {
		return 0, nil, errors.New("messages are short and masked")
	}
	word = make([]byte, size)
	_, err = io.ReadFull(r, word)
	for i := range word {
		word[i] ^= head[2+i%4]
	}
	return head[0] & 0x0f, word, err
}
