package load

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxAnswer bounds an answer with its headers, in bytes.
	maxAnswer = 4 << 20
	// shown is how much of an answer that is not good is kept, in bytes.
	shown = 160
	// maxCookies bounds what is kept of a user.
	maxCookies = 50
)

// What examples/echo tells of itself with each answer.
const (
	HeaderVersion   = "Echo-Version"
	HeaderPartition = "Echo-Partition"
	HeaderPod       = "Echo-Pod"
	HeaderBytes     = "Echo-Bytes"
)

// connection is one to the server. What is read for one answer is bounded.
type connection struct {
	net.Conn

	raw   net.Conn // below TLS
	limit *io.LimitedReader
	read  *bufio.Reader
}

// dialer makes connections.
type dialer struct {
	address string
	tls     *tls.Config
	from    net.IP
}

func (d *dialer) dial(ctx context.Context) (*connection, error) {
	var plain net.Dialer
	if d.from != nil {
		plain.LocalAddr = &net.TCPAddr{IP: d.from}
	}
	raw, err := plain.DialContext(ctx, "tcp", d.address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	c := &connection{Conn: raw, raw: raw}
	if d.tls != nil {
		secure := tls.Client(raw, d.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, fmt.Errorf("tls: %w", err)
		}
		c.Conn = secure
	}
	c.limit = &io.LimitedReader{R: c.Conn}
	c.read = bufio.NewReader(c.limit)
	return c, nil
}

// closed says whether the server has closed the connection, as far as is known here: it has a right to while nothing is
// asked. Users' programs look before they use one, too.
func (c *connection) closed() bool {
	if c.read.Buffered() > 0 {
		return true // it said more than was asked
	}
	tcp, ok := c.raw.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return true
	}
	over := false
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		// Below TLS there may be records that are no answer.
		over = n == 0 && err == nil || n > 0 && c.Conn == c.raw || err != nil && err != syscall.EAGAIN
		return true
	})
	return over || err != nil
}

// pool keeps connections open between requests. The one that was longest without a request is taken first, so that
// all of them are used.
type pool struct {
	dialer

	keep int
	// closedIdle counts those that the server closed while nothing was asked.
	closedIdle atomic.Int64

	mu    sync.Mutex
	idle  []*connection
	ended bool
}

func (p *pool) take(ctx context.Context, fresh bool) (c *connection, reused bool, err error) {
	for !fresh {
		if c = p.pop(); c == nil {
			break
		}
		if !c.closed() {
			return c, true, nil
		}
		p.closedIdle.Add(1)
		c.Close()
	}
	c, err = p.dial(ctx)
	return c, false, err
}

func (p *pool) pop() *connection {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return nil
	}
	c := p.idle[0]
	p.idle = slices.Delete(p.idle, 0, 1)
	return c
}

func (p *pool) give(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || len(p.idle) >= p.keep {
		c.Close()
		return
	}
	p.idle = append(p.idle, c)
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	for _, c := range p.idle {
		c.Close()
	}
	p.idle = nil
}

// ask sends one request, once.
func (l *Load) ask(k Kind) Answer {
	a := Answer{At: time.Now(), Kind: k.Name}
	ctx, cancel := context.WithDeadline(context.Background(), a.At.Add(l.config.Timeout))
	defer cancel()
	c, reused, err := l.pool.take(ctx, k.NewConnection)
	if err == nil {
		a.Reused = reused
		var keep bool
		if keep, err = l.exchange(ctx, c, k, &a); keep && err == nil && !k.NewConnection {
			l.pool.give(c)
		} else {
			c.Close()
		}
	}
	if err != nil {
		a.Error = err.Error()
	}
	a.Took = time.Since(a.At)
	return a
}

// exchange is one request and its answer. It says whether the connection can be used again.
func (l *Load) exchange(ctx context.Context, c *connection, k Kind, a *Answer) (keep bool, err error) {
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return false, fmt.Errorf("send: %w", err)
	}
	if _, err := io.WriteString(c, l.text(k)); err != nil {
		return false, fmt.Errorf("send: %w", err)
	}
	response, err := c.response(k.Method)
	if err != nil {
		return false, fmt.Errorf("answer: %w", err)
	}
	defer response.Body.Close()
	a.Status = response.StatusCode
	a.Who = Who{
		Version: response.Header.Get(HeaderVersion), Partition: response.Header.Get(HeaderPartition), Pod: response.Header.Get(HeaderPod),
	}
	if l.config.Cookies {
		l.cookies.keep(response.Cookies())
	}
	body := &excerpt{}
	if _, err := io.Copy(body, response.Body); err != nil {
		return false, fmt.Errorf("body: %w", err)
	}
	if !k.good(a.Status) {
		return !response.Close, fmt.Errorf("status: %s: %s", response.Status, body)
	}
	if got := response.Header.Get(HeaderBytes); got != "" && got != strconv.Itoa(k.Body) {
		return false, fmt.Errorf("body: the server got %s bytes of %d", got, k.Body)
	}
	return !response.Close, nil
}

// response reads the headers of the answer; what is only preliminary is passed over.
func (c *connection) response(method string) (*http.Response, error) {
	c.limit.N = maxAnswer
	for {
		response, err := http.ReadResponse(c.read, &http.Request{Method: cmp.Or(method, http.MethodGet)})
		if err != nil || response.StatusCode >= http.StatusOK || response.StatusCode == http.StatusSwitchingProtocols {
			return response, err
		}
	}
}

// text is the whole request.
func (l *Load) text(k Kind) string {
	path := k.Path
	if path == "" {
		path = "/"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: load\r\n", cmp.Or(k.Method, http.MethodGet), path, l.config.Host)
	for name, value := range k.Headers {
		fmt.Fprintf(&b, "%s: %s\r\n", name, value)
	}
	if kept := l.cookies.text(); kept != "" {
		fmt.Fprintf(&b, "Cookie: %s\r\n", kept)
	}
	if k.Body > 0 {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", k.Body)
	}
	if k.NewConnection {
		b.WriteString("Connection: close\r\n")
	}
	b.WriteString("\r\n")
	b.WriteString(l.body[:min(k.Body, len(l.body))])
	return b.String()
}

func (k *Kind) good(status int) bool {
	if len(k.Good) > 0 {
		return slices.Contains(k.Good, status)
	}
	return status >= 200 && status <= 299
}

// excerpt keeps the beginning of what is written to it.
type excerpt struct{ text []byte }

func (e *excerpt) Write(p []byte) (int, error) {
	e.text = append(e.text, p[:min(len(p), shown-len(e.text))]...)
	return len(p), nil
}

func (e *excerpt) String() string { return strings.Join(strings.Fields(string(e.text)), " ") }

// cookies of one user.
type cookies struct {
	mu   sync.Mutex
	kept map[string]string
}

func (c *cookies) keep(set []*http.Cookie) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cookie := range set {
		if c.kept == nil {
			c.kept = map[string]string{}
		}
		if len(c.kept) < maxCookies {
			c.kept[cookie.Name] = cookie.Value
		}
	}
}

func (c *cookies) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, name := range slices.Sorted(maps.Keys(c.kept)) {
		all = append(all, name+"="+c.kept[name])
	}
	return strings.Join(all, "; ")
}
