// Package probe finds out which servers of a table answer, for load balancers that do not do so by themselves, or forget
// it with each change of their configuration.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"yunfan.io/yunfan/internal/route/table"
)

const (
	// tick is how often it is looked which probes are due.
	tick = 50 * time.Millisecond
	// atOnce bounds the probes under way.
	atOnce = 256
	// A probe waits for an answer as long as the interval, within these bounds.
	shortest, longest = time.Second, 10 * time.Second
	// message bounds what is told of a failure, in bytes.
	message = 200
)

// Prober probes all servers of all targets of the newest table, those of closed ones too. A server is up until it has
// failed as often in a row as the table says, and after that as soon as it has given one good answer.
type Prober struct {
	changed func()
	client  *http.Client
	slots   chan struct{}

	mu      sync.Mutex
	servers map[key]*server
}

type key struct{ pool, target, address string }

type server struct {
	health   table.Health
	host     string
	due      time.Time
	running  bool
	answered bool
	failures int
	down     bool
	last     string
}

// New makes a Prober. It calls changed after servers went down or came up: changed must not wait.
func New(changed func()) *Prober {
	dial := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10}
	follow := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Prober{
		changed: changed,
		client:  &http.Client{Transport: dial, CheckRedirect: follow},
		slots:   make(chan struct{}, atOnce),
		servers: map[key]*server{},
	}
}

// Set makes the table the one whose servers are probed. What is known of servers that stay is kept.
func (p *Prober) Set(t *table.Table) {
	servers := map[key]*server{}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pool := range t.Pools {
		for _, target := range pool.Targets {
			for _, address := range target.Servers {
				k := key{pool.Name, target.Name, address}
				s := p.servers[k]
				if s == nil {
					s = &server{}
				}
				s.health, s.host = pool.Health, host(pool.Hosts)
				servers[k] = s
			}
		}
	}
	p.servers = servers
}

// host is the first host of a pool; for a wildcard one that it is for.
func host(hosts []string) string {
	if len(hosts) == 0 {
		return ""
	}
	if rest, wildcard := strings.CutPrefix(hosts[0], "*."); wildcard {
		return "probe." + rest
	}
	return hosts[0]
}

// Down says whether a server should get nothing new.
func (p *Prober) Down(pool, target, address string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.servers[key{pool, target, address}]
	return s != nil && s.down
}

// Target says whether at least one of a target's servers answers, which are down, and what the last failure was.
func (p *Prober) Target(pool string, target *table.Target) (up bool, down []string, last string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, address := range target.Servers {
		s := p.servers[key{pool, target.Name, address}]
		if s == nil {
			continue
		}
		up = up || s.answered && !s.down
		if s.down {
			down = append(down, address)
		}
		if s.last != "" {
			last = address + ": " + s.last
		}
	}
	return up, down, last
}

// Run probes until the context ends.
func (p *Prober) Run(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var probes sync.WaitGroup
	defer probes.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			for _, k := range p.take(now) {
				probes.Go(func() {
					defer func() { <-p.slots }()
					p.probe(ctx, k)
				})
			}
		}
	}
}

// take gives those that are due, the longest waiting first, as many as there are slots; each has one.
func (p *Prober) take(now time.Time) []key {
	p.mu.Lock()
	defer p.mu.Unlock()
	var due []key
	for k, s := range p.servers {
		if !s.running && !now.Before(s.due) {
			due = append(due, k)
		}
	}
	slices.SortFunc(due, func(a, b key) int { return p.servers[a].due.Compare(p.servers[b].due) })
	for i, k := range due {
		select {
		case p.slots <- struct{}{}:
			p.servers[k].running = true
		default:
			return due[:i]
		}
	}
	return due
}

func (p *Prober) probe(ctx context.Context, k key) {
	p.mu.Lock()
	s := p.servers[k]
	if s == nil {
		p.mu.Unlock()
		return
	}
	health, host := s.health, s.host
	p.mu.Unlock()

	began := time.Now()
	err := p.ask(ctx, k, health, host)
	if ctx.Err() != nil {
		return
	}

	p.mu.Lock()
	s.running = false
	s.due = began.Add(health.Interval)
	changed := s.note(err)
	p.mu.Unlock()
	if changed {
		p.changed()
	}
}

// note takes one answer into account, and says whether the server went down or came up by it.
func (s *server) note(err error) (changed bool) {
	if err == nil {
		changed = s.down
		s.answered, s.down, s.failures, s.last = true, false, 0, ""
		return changed
	}
	s.failures++
	s.last = err.Error()
	if len(s.last) > message {
		s.last = s.last[:message]
	}
	if s.down || s.failures < max(s.health.Failures, 1) {
		return false
	}
	s.down = true
	return true
}

func (p *Prober) ask(ctx context.Context, k key, health table.Health, host string) error {
	timeout := min(max(health.Interval, shortest), longest)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	path := health.Path
	if path == "" {
		path = "/"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+k.address+path, nil)
	if err != nil {
		return fmt.Errorf("making the probe: %w", err)
	}
	if host != "" {
		r.Host = host
	}
	r.Header.Set(table.HeaderPartition, k.target)
	answer, err := p.client.Do(r)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s", timeout)
	}
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10))
	if answer.StatusCode >= http.StatusInternalServerError {
		return fmt.Errorf("answered %d", answer.StatusCode)
	}
	return nil
}
