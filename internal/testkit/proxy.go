package testkit

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Proxy stands between a client and a server and can disturb their connections the ways a network does.
type Proxy struct {
	address string
	target  string

	mu       sync.Mutex
	cond     *sync.Cond
	mode     proxyMode
	listener *net.TCPListener
	conns    map[net.Conn]struct{}
	fill     []net.Conn
	dials    int
}

type proxyMode int

const (
	passing proxyMode = iota
	refusing
	freezing
	dropping
	closed
)

// NewProxy starts a proxy to target, host and port, which ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	p := &Proxy{target: target, conns: map[net.Conn]struct{}{}, mode: refusing}
	p.cond = sync.NewCond(&p.mu)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("starting a proxy: %v", err)
	}
	p.address = l.Addr().String()
	p.mu.Lock()
	p.serve(l.(*net.TCPListener))
	p.mode = passing
	p.mu.Unlock()
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.shut()
		p.setMode(closed)
	})
	return p
}

// Address is the host and port to connect to.
func (p *Proxy) Address() string { return p.address }

// Connections is the number of connections accepted so far.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dials
}

// Pass undoes every disturbance.
func (p *Proxy) Pass(t testing.TB) {
	t.Helper()
	p.change(t, passing)
}

// Refuse closes all connections, and new ones are refused at once, as when the server's process is gone.
func (p *Proxy) Refuse(t testing.TB) {
	t.Helper()
	p.change(t, refusing)
}

// Freeze keeps connections open and accepts new ones, but nothing gets through, as when the server hangs.
func (p *Proxy) Freeze(t testing.TB) {
	t.Helper()
	p.change(t, freezing)
}

// Drop lets nothing through on the connections there are, and new ones get no answer, as when packets are lost.
func (p *Proxy) Drop(t testing.TB) {
	t.Helper()
	p.change(t, dropping)
}

func (p *Proxy) change(t testing.TB, mode proxyMode) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == mode {
		return
	}
	p.shut()
	if mode == refusing {
		p.closeConns()
	}
	if mode != refusing {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", p.address)
		if err != nil {
			t.Fatalf("listening again at %s: %v", p.address, err)
		}
		tcp := l.(*net.TCPListener)
		if mode == dropping {
			p.listener = tcp
			p.fillBacklog(t)
		} else {
			p.serve(tcp)
		}
	}
	if mode == passing {
		// What was frozen has lost nothing, but a client may have given up on it: a fresh start is what a healed
		// network gives after a while anyway.
		p.closeConns()
	}
	p.setMode(mode)
}

func (p *Proxy) setMode(mode proxyMode) {
	p.mode = mode
	if mode == closed {
		p.closeConns()
	}
	p.cond.Broadcast()
}

// shut stops listening.
func (p *Proxy) shut() {
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
	for _, c := range p.fill {
		_ = c.Close()
	}
	p.fill = nil
}

func (p *Proxy) closeConns() {
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

// fillBacklog makes the kernel drop further connection requests: the queue of a listener that accepts nothing is full.
func (p *Proxy) fillBacklog(t testing.TB) {
	t.Helper()
	raw, err := p.listener.SyscallConn()
	if err != nil {
		t.Fatalf("reaching the proxy's socket: %v", err)
	}
	if err := raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) }); err != nil {
		t.Fatalf("shortening the proxy's queue: %v", err)
	}
	const enough, patience = 8, 100 * time.Millisecond
	for range enough {
		c, err := net.DialTimeout("tcp", p.address, patience)
		if err != nil {
			return
		}
		p.fill = append(p.fill, c)
	}
	t.Fatal("the proxy still takes connections though its queue should be full")
}

func (p *Proxy) serve(l *net.TCPListener) {
	p.listener = l
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.forward(c)
		}
	}()
}

func (p *Proxy) forward(from net.Conn) {
	p.mu.Lock()
	p.dials++
	p.conns[from] = struct{}{}
	p.mu.Unlock()
	defer p.drop(from)
	if !p.waitPassing(from) {
		return
	}
	to, err := net.DialTimeout("tcp", p.target, time.Second)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.conns[to] = struct{}{}
	p.mu.Unlock()
	defer p.drop(to)
	go func() {
		p.copy(to, from)
		_ = to.Close()
		_ = from.Close()
	}()
	p.copy(from, to)
}

func (p *Proxy) drop(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// waitPassing waits until data may flow; false if the connection is closed by then.
func (p *Proxy) waitPassing(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.mode != passing {
		if _, open := p.conns[c]; !open || p.mode == closed {
			return false
		}
		p.cond.Wait()
	}
	_, open := p.conns[c]
	return open
}

func (p *Proxy) copy(to io.Writer, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if !p.waitPassing(from) {
				return
			}
			if _, werr := to.Write(buffer[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// String names the proxy in messages of tests.
func (p *Proxy) String() string { return fmt.Sprintf("proxy %s to %s", p.address, p.target) }
