package load

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

const patience = 30 * time.Second

// hostile listens, and does to each connection what it is told. It counts the requests that it has seen.
type hostile struct {
	address string
	seen    atomic.Int64
}

func newHostile(t *testing.T, do script) *hostile {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	h := &hostile{address: listener.Addr().String()}
	go func() {
		for n := 0; ; n++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				do(h, conn, bufio.NewReader(conn), n)
			}()
		}
	}()
	return h
}

// request reads one, and says whether there was one.
func (h *hostile) request(r *bufio.Reader) bool {
	request, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	h.seen.Add(1)
	_, err = io.Copy(io.Discard, request.Body)
	return err == nil
}

func say(conn net.Conn, body string) {
	fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// quiet is a load that asks only by Do.
func quiet(t *testing.T, address string) *Load {
	t.Helper()
	l := Start(t.Context(), Config{Address: address, Host: "shop.example.com", Timeout: 2 * time.Second})
	t.Cleanup(func() { l.Stop() })
	return l
}

// script is what a server does with a connection.
type script func(h *hostile, conn net.Conn, r *bufio.Reader, nth int)

// then answers the first request well and the second, on the same connection, with a text.
func then(text string) script {
	return func(h *hostile, conn net.Conn, r *bufio.Reader, _ int) {
		for h.request(r) {
			if h.seen.Load() > 1 {
				fmt.Fprint(conn, text)
				return
			}
			say(conn, "ok")
		}
	}
}

func TestHostileServers(t *testing.T) {
	post := Kind{Method: "POST", Body: 100}
	for reason, tc := range map[string]struct {
		do   script
		kind Kind
		// want is what the second request's error begins with; empty: it is good.
		want string
	}{
		"a kept connection that ends with the second request is a failure, and nothing is asked again": {then(""), Kind{}, "answer: unexpected EOF"},
		"a POST is not asked again either": {then(""), post, "answer: unexpected EOF"},
		"a kept connection that is reset with the second request": {func(h *hostile, conn net.Conn, r *bufio.Reader, nth int) {
			then("")(h, conn, r, nth)
			conn.(*net.TCPConn).SetLinger(0)
		}, Kind{}, "answer: "},
		"a body that breaks off":         {then("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it"), Kind{}, "body: unexpected EOF"},
		"a chunked body that breaks off": {then("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), Kind{}, "body: "},
		"no answer at all": {func(h *hostile, conn net.Conn, r *bufio.Reader, nth int) {
			then("")(h, conn, r, nth)
			io.Copy(io.Discard, r) // until the client leaves
		}, Kind{}, "answer: read tcp"},
		"an answer without end": {func(h *hostile, conn net.Conn, r *bufio.Reader, nth int) {
			then("HTTP/1.1 200 OK\r\n")(h, conn, r, nth)
			for err := error(nil); err == nil; {
				_, err = fmt.Fprintf(conn, "X-More: %s\r\n", strings.Repeat("x", 1000))
			}
		}, Kind{}, "answer: "},
		"what is no HTTP": {then("220 smtp.example.com\r\n\r\n"), Kind{}, "answer: malformed"},
		"a status that is not good, with its words": {then("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9\r\n\r\nno server"), Kind{}, "status: 503 Service Unavailable: no server"},
		"a body of which the server got less":       {then("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + HeaderBytes + ": 40\r\n\r\n"), post, "body: the server got 40 bytes of 100"},
		"a server may say that it closes":           {then("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"), Kind{}, ""},
		"a preliminary answer is none":              {then("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Kind{}, ""},
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			h := newHostile(t, tc.do)
			l := quiet(t, h.address)
			if first := l.Do(tc.kind); first.Error != "" {
				t.Fatalf("the first request: %s", first.Error)
			}
			second := l.Do(tc.kind)
			if tc.want == "" && second.Error != "" || tc.want != "" && !strings.HasPrefix(second.Error, tc.want) {
				t.Errorf("got %q, want %q", second.Error, tc.want)
			}
			report, failed := l.Stop(), 0
			if tc.want != "" {
				failed = 1
			}
			if report.Asked != 2 || report.Failed != failed || len(report.Failures) != failed {
				t.Errorf("the report: %s", report)
			}
			if h.seen.Load() != 2 {
				t.Errorf("the server saw %d requests, want 2", h.seen.Load())
			}
		})
	}
}

// What the server closes while nothing is asked of it is no failure: it has a right to, and every client looks.
func TestClosedWhileIdle(t *testing.T) {
	g := NewWithT(t)
	h := newHostile(t, func(h *hostile, conn net.Conn, r *bufio.Reader, nth int) {
		if h.request(r) {
			say(conn, "ok")
		}
	})
	l := quiet(t, h.address)
	g.Expect(l.Do(Kind{}).Error).To(BeEmpty())
	g.Eventually(func() bool {
		l.pool.mu.Lock()
		defer l.pool.mu.Unlock()
		return len(l.pool.idle) == 1 && l.pool.idle[0].closed()
	}).WithTimeout(patience).Should(BeTrue())
	second := l.Do(Kind{})
	g.Expect(second.Error).To(BeEmpty())
	g.Expect(second.Reused).To(BeFalse())
	g.Expect(l.Stop().ClosedIdle).To(Equal(int64(1)))
}

func TestNobodyListens(t *testing.T) {
	g := NewWithT(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	g.Expect(err).NotTo(HaveOccurred())
	listener.Close()
	l := quiet(t, listener.Addr().String())
	g.Expect(l.Do(Kind{Name: "kept"}).Error).To(HavePrefix("connect: "))
}

func good(w http.ResponseWriter, r *http.Request) {
	n, _ := io.Copy(io.Discard, r.Body)
	w.Header().Set(HeaderVersion, "v1")
	w.Header().Set(HeaderPartition, "p1")
	w.Header().Set(HeaderBytes, fmt.Sprint(n))
	fmt.Fprintln(w, "ok")
}

func TestCookies(t *testing.T) {
	g := NewWithT(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
		w.Header().Set(HeaderPod, r.Header.Get("Cookie"))
	}))
	defer server.Close()
	l := Start(t.Context(), Config{Address: server.Listener.Addr().String(), Host: "x", Cookies: true})
	defer l.Stop()
	g.Expect(l.Do(Kind{}).Who.Pod).To(BeEmpty())
	g.Expect(l.Do(Kind{NewConnection: true}).Who.Pod).To(Equal("a=1"))
}

// Requests are sent when their time has come, also while all those before wait.
func TestOpenLoop(t *testing.T) {
	g := NewWithT(t)
	ctx, release := context.WithCancel(t.Context())
	defer release()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-ctx.Done()
		good(w, r)
	}))
	defer server.Close()
	l := Start(t.Context(), Config{Address: server.Listener.Addr().String(), Host: "x", Rate: 200, Timeout: patience})
	g.Eventually(func() int64 { return l.Report().MostInFlight }).WithTimeout(patience).Should(BeNumerically(">=", 100))
	release()
	report := l.Stop()
	g.Expect(report.Failed).To(BeZero(), report.Timeline())
	g.Expect(report.Asked).To(BeNumerically(">=", 100))
	g.Expect(float64(report.Asked)).To(BeNumerically("<=", 200*report.Took.Seconds()+1), "never more than the rate")
}

func TestUsersOfAllKinds(t *testing.T) {
	g := NewWithT(t)
	server := httptest.NewServer(http.HandlerFunc(good))
	defer server.Close()
	l := Start(t.Context(), Config{Address: server.Listener.Addr().String(), Host: "x", Rate: 400})
	g.Eventually(func() int { return l.Report().Asked }).WithTimeout(patience).Should(BeNumerically(">=", 400))
	l.Note("half of it")
	report := l.Stop()
	g.Expect(report.Failed).To(BeZero(), report.Timeline())
	kinds, reused := map[string]int{}, 0
	for _, a := range report.Answers {
		kinds[a.Kind]++
		if a.Reused {
			reused++
		}
	}
	for _, k := range Users() {
		g.Expect(kinds[k.Name]).To(BeNumerically(">", 0), k.Name)
	}
	g.Expect(reused).To(And(BeNumerically(">", report.Asked/4), BeNumerically("<", report.Asked*3/4)))
	g.Expect(report.By).To(HaveKeyWithValue(Who{Version: "v1", Partition: "p1"}, report.Asked))
	g.Expect(report.Versions(report.Start, time.Time{})).To(Equal(map[string]int{"v1": report.Asked}))
	g.Expect(report.Timeline(Event{At: report.Start, Text: "a step"})).To(MatchRegexp(`(?s)a step.*half of it`))
}

// However much fails, memory is bounded and everything is counted.
func TestBounded(t *testing.T) {
	g := NewWithT(t)
	r := newRecord()
	for i := range maxAnswers + 10 {
		r.add(Answer{At: r.start, Who: Who{Pod: fmt.Sprint(i)}, Error: "answer: " + strings.Repeat("x", 2*maxError)})
	}
	report := r.report(0)
	g.Expect(report.Failed).To(Equal(maxAnswers + 10))
	g.Expect(report.Failures).To(HaveLen(maxFailures))
	g.Expect(report.Answers).To(HaveLen(maxAnswers))
	g.Expect(report.By).To(HaveLen(maxWho))
	g.Expect(report.Failures[0].Error).To(HaveLen(maxError))
	g.Expect(report.Timeline()).To(And(ContainSubstring(fmt.Sprintf("… and %d failures more", maxAnswers+10-maxFailures)), ContainSubstring("like it")))
}

// socketServer opens WebSockets and sends words back until it is told otherwise: then it asks to close, or just ends.
func socketServer(t *testing.T, polite bool, end <-chan struct{}) *hostile {
	t.Helper()
	return newHostile(t, func(h *hostile, conn net.Conn, r *bufio.Reader, _ int) {
		request, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		sum := sha1.Sum([]byte(request.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n%s: v1\r\n\r\n",
			base64.StdEncoding.EncodeToString(sum[:]), HeaderVersion)
		go func() {
			<-end
			if polite {
				conn.Write([]byte{0x80 | opcodeClose, 2, 0x03, 0xe9}) // 1001
				return
			}
			conn.Close()
		}()
		frame := make([]byte, 2+4+len("word"))
		for {
			if _, err := io.ReadFull(r, frame); err != nil {
				return
			}
			conn.Write([]byte{0x80 | opcodeText, 2, 'o', 'k'})
		}
	})
}

func TestWebSocket(t *testing.T) {
	for reason, tc := range map[string]struct {
		polite bool
		code   int
	}{"asked to close": {true, 1001}, "broken": {false, 0}} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			end := make(chan struct{})
			l := quiet(t, socketServer(t, tc.polite, end).address)
			s, err := l.WebSocket("/ws")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(s.Who.Version).To(Equal("v1"))
			g.Eventually(s.Echoes).WithTimeout(patience).Should(BeNumerically(">=", 2))
			_, _, _, ended := s.Ended()
			g.Expect(ended).To(BeFalse())
			close(end)
			g.Eventually(s.done).WithTimeout(patience).Should(BeClosed())
			_, code, err, _ := s.Ended()
			g.Expect(code).To(Equal(tc.code))
			g.Expect(err == nil).To(Equal(tc.polite), "%v", err)
		})
	}
	l := quiet(t, newHostile(t, func(h *hostile, conn net.Conn, r *bufio.Reader, _ int) {
		h.request(r)
		say(conn, "no")
	}).address)
	if _, err := l.WebSocket("/ws"); err == nil || !strings.Contains(err.Error(), "200 OK") {
		t.Errorf("a server without WebSockets: %v", err)
	}
}
