// Package load asks a web server at a constant rate, as many users would who know nothing of one another: a request is sent
// when its time has come, whether or not those before it have been answered. Nothing is ever asked twice. It speaks HTTP
// over connections of its own, for the standard client quietly sends a request again if a connection that was kept open
// breaks; here, that is a failure.
package load

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultTimeout = 20 * time.Second
	defaultKeep    = 16
	// maxInFlight bounds requests that wait for an answer. What would be more counts as failed.
	maxInFlight = 4096
	// late is how much after its time a request may be sent before it is said.
	late = time.Second
)

// Kind is one kind of requests.
type Kind struct {
	// Name of the kind in the report.
	Name string
	// Share among the kinds.
	Share int
	// Method of the request; GET if empty.
	Method string
	// Path with query; / if empty.
	Path string
	// Headers of the request.
	Headers map[string]string
	// Body is its size in bytes.
	Body int
	// NewConnection asks over a connection of its own, else over one that is kept open.
	NewConnection bool
	// Good are the statuses that count as answers; those from 200 to 299 if empty.
	Good []int
}

// Users is the usual mixture: connections that are kept and new ones, a few requests that take two seconds, a few with
// a body.
func Users() []Kind {
	return []Kind{
		{Name: "kept", Share: 50, Path: "/kept"},
		{Name: "new", Share: 34, Path: "/new", NewConnection: true},
		// Bodies of more than 4 KiB are left out: the gateway breaks some of the answers to them, see docs/gateway.md.
		{Name: "post", Share: 8, Method: "POST", Path: "/post", Body: 3_000},
		{Name: "post-new", Share: 4, Method: "POST", Path: "/post", Body: 2_000, NewConnection: true},
		{Name: "slow", Share: 2, Path: "/slow?ms=2000"},
		{Name: "slow-new", Share: 2, Path: "/slow?ms=2000", NewConnection: true},
	}
}

// Config says who is asked for what.
type Config struct {
	// Address that is dialled, like 192.0.2.1:80.
	Address string
	// Host that is asked for.
	Host string
	// TLS of the connections; none if nil.
	TLS *tls.Config
	// Rate of requests a second; none but those of Do if 0.
	Rate int
	// Kinds of requests; those of Users if empty.
	Kinds []Kind
	// Timeout of one request, from dialling to the end of its answer.
	Timeout time.Duration
	// Keep is how many connections without a request are kept open.
	Keep int
	// Cookies that are set are sent again, by name: all requests are those of one user.
	Cookies bool
	// From is the address that connections come from; any if nil.
	From net.IP
}

// Load is requests that are being made.
type Load struct {
	config Config
	pool   *pool
	record *record
	// body is what bodies are cut from.
	body     string
	inFlight atomic.Int64
	cookies  cookies
	stop     context.CancelFunc
	done     chan struct{}
	running  sync.WaitGroup
}

// Start begins to ask. It ends with Stop, or with the context.
func Start(ctx context.Context, c Config) *Load {
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Keep == 0 {
		c.Keep = defaultKeep
	}
	if len(c.Kinds) == 0 {
		c.Kinds = Users()
	}
	largest := 0
	for _, k := range c.Kinds {
		largest = max(largest, k.Body)
	}
	l := &Load{
		config: c, record: newRecord(), body: strings.Repeat("x", largest), done: make(chan struct{}),
		pool: &pool{dialer: dialer{address: c.Address, tls: c.TLS, from: c.From}, keep: c.Keep},
	}
	ctx, l.stop = context.WithCancel(ctx)
	go l.run(ctx)
	return l
}

// Stop asks for nothing more, waits until what was asked is answered or has failed, and tells all.
func (l *Load) Stop() *Report {
	l.stop()
	<-l.done
	l.record.stop()
	l.running.Wait()
	l.pool.close()
	return l.Report()
}

// Report tells what there is until now.
func (l *Load) Report() *Report { return l.record.report(l.pool.closedIdle.Load()) }

// Note puts a word beside the answers, with its time.
func (l *Load) Note(format string, args ...any) { l.record.note(fmt.Sprintf(format, args...)) }

// Do asks once, and gives the answer, which is recorded like the others.
func (l *Load) Do(k Kind) Answer {
	l.running.Add(1)
	defer l.running.Done()
	a := l.ask(k)
	l.record.add(a)
	return a
}

// run sends requests when their time has come. If this process was kept from it, what is due is sent at once.
func (l *Load) run(ctx context.Context) {
	defer close(l.done)
	if l.config.Rate <= 0 {
		<-ctx.Done()
		return
	}
	choice := newChoice(l.config.Kinds)
	start, sent := time.Now(), 0
	interval := time.Second / time.Duration(l.config.Rate)
	timer := time.NewTicker(max(interval, time.Millisecond))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		due := int(time.Since(start) / interval)
		for ; sent < due; sent++ {
			if behind := time.Since(start) - time.Duration(sent)*interval; behind > late {
				l.record.late(behind)
			}
			l.send(choice.next())
		}
	}
}

func (l *Load) send(k Kind) {
	if l.inFlight.Load() >= maxInFlight {
		l.record.add(Answer{At: time.Now(), Kind: k.Name, Error: fmt.Sprintf("send: %d requests are waiting for an answer already", maxInFlight)})
		return
	}
	l.running.Add(1)
	l.record.flying(l.inFlight.Add(1))
	go func() {
		defer l.running.Done()
		defer l.inFlight.Add(-1)
		l.record.add(l.ask(k))
	}()
}

// choice picks kinds by their shares, in an order that is the same each time.
type choice struct {
	kinds []Kind
	total int
	rand  *rand.Rand
}

func newChoice(kinds []Kind) *choice {
	c := &choice{kinds: kinds, rand: rand.New(rand.NewPCG(1, 2))}
	for _, k := range kinds {
		c.total += max(k.Share, 1)
	}
	return c
}

func (c *choice) next() Kind {
	n := c.rand.IntN(c.total)
	for _, k := range c.kinds {
		if n -= max(k.Share, 1); n < 0 {
			return k
		}
	}
	return c.kinds[len(c.kinds)-1]
}
