package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"yunfan.io/yunfan/e2e/load"
)

const patience = 30 * time.Second

// running is a server with its address; end tells it to end, ended is closed when it has.
type running struct {
	address string
	end     context.CancelFunc
	ended   chan struct{}
}

func started(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	s, log := &running{end: end, ended: make(chan struct{})}, &lockedBuffer{}
	go func() {
		defer close(s.ended)
		run(ctx, append([]string{"serve", "--http", "127.0.0.1:0"}, args...), log)
	}()
	NewWithT(t).Eventually(func() string {
		for line := range strings.Lines(log.String()) {
			said := map[string]string{}
			if json.Unmarshal([]byte(line), &said) == nil && said["http"] != "" {
				s.address = said["http"]
			}
		}
		return s.address
	}).WithTimeout(patience).ShouldNot(BeEmpty())
	return s
}

// A server that is told to end answers what is under way, and asks WebSockets and long polls to end; a rude one does not.
func TestEnd(t *testing.T) {
	t.Setenv("ECHO_VERSION", "v7")
	t.Setenv("ECHO_PARTITION", "here")
	g := NewWithT(t)
	s := started(t)
	l := load.Start(t.Context(), load.Config{Address: s.address, Host: "x"})
	socket, err := l.WebSocket("/ws")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(socket.Who.Version).To(Equal("v7"))
	g.Eventually(socket.Echoes).WithTimeout(patience).Should(BeNumerically(">", 0))
	answers := make(chan load.Answer, 2)
	for _, path := range []string{"/slow?ms=700", "/longpoll"} {
		go func() { answers <- l.Do(load.Kind{Path: path, NewConnection: true}) }()
	}
	g.Expect(l.Do(load.Kind{Method: "POST", Body: 1000}).Error).To(BeEmpty())
	time.AfterFunc(300*time.Millisecond, s.end)
	for range 2 {
		a := <-answers
		g.Expect(a.Error).To(BeEmpty())
		g.Expect(a.Took).To(BeNumerically("<", patience))
		g.Expect(a.Who).To(And(HaveField("Version", "v7"), HaveField("Partition", "here")))
	}
	g.Eventually(func() int { _, code, _, _ := socket.Ended(); return code }).WithTimeout(patience).Should(Equal(1001))
	g.Eventually(s.ended).WithTimeout(patience).Should(BeClosed())
	g.Expect(l.Stop().Failed).To(BeZero())
}

func TestRudeEnd(t *testing.T) {
	g := NewWithT(t)
	s := started(t, "--graceful=false")
	// The connection stays open, for the process that holds the server is this test: only its word is asked for.
	go http.Get("http://" + s.address + "/slow?ms=60000")
	s.end()
	g.Eventually(s.ended).WithTimeout(patience).Should(BeClosed())
}

func TestReadyLater(t *testing.T) {
	g := NewWithT(t)
	began := time.Now()
	s := started(t, "--start-after", "100ms", "--ready-after", "500ms")
	g.Expect(time.Since(began)).To(BeNumerically(">=", 100*time.Millisecond))
	status := func() int {
		r, err := http.Get("http://" + s.address + "/readyz")
		g.Expect(err).NotTo(HaveOccurred())
		defer r.Body.Close()
		return r.StatusCode
	}
	g.Expect(status()).To(Equal(http.StatusServiceUnavailable))
	g.Eventually(status).WithTimeout(patience).Should(Equal(http.StatusOK))
}

// What is no WebSocket, or speaks too long, is left alone.
func TestStrangeSockets(t *testing.T) {
	g := NewWithT(t)
	s := started(t)
	r, err := http.Get("http://" + s.address + "/ws")
	g.Expect(err).NotTo(HaveOccurred())
	r.Body.Close()
	g.Expect(r.StatusCode).To(Equal(http.StatusUpgradeRequired))
	conn, err := net.Dial("tcp", s.address)
	g.Expect(err).NotTo(HaveOccurred())
	defer conn.Close()
	io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: k\r\n\r\n\x81\xff\x00\x00\x00\x00\x00\x00\x00\x00")
	conn.SetDeadline(time.Now().Add(patience))
	text, err := io.ReadAll(conn)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(text)).To(HaveSuffix("\r\n\r\n"), "it closes")
}
