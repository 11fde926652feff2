package workflow

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/workflow/graph"
)

// flight is a call that waits for a worker or is under way.
type flight struct {
	attempt
	session *session
	graph   *graph.Graph
	// run as it was written when the call became due.
	run      *v1alpha1.WorkflowRun
	repeated bool
	// began is when the attempt began; ready when its step could have begun, zero for all but its first call.
	began, ready time.Time
	ctx          context.Context //nolint:containedctx // a call is canceled from outside while it waits
	cancel       context.CancelCauseFunc
}

func newFlight(a attempt, s *session) *flight {
	f := &flight{attempt: a, session: s}
	f.ctx, f.cancel = context.WithCancelCause(context.Background())
	return f
}

// pool makes calls: so many at once, in turn for all runs that have some, and not too many for one run or one tenant.
type pool struct {
	do                          func(context.Context, *flight)
	limit, perRun, perNamespace int

	mu         sync.Mutex
	ctx        context.Context //nolint:containedctx // of the leader's term
	busy       int
	runs       map[types.NamespacedName]int
	namespaces map[string]int
	lines      []*line
	idle       chan struct{}
}

// line is what waits of one run.
type line struct {
	session *session
	flights []*flight
}

func newPool(limit int, do func(context.Context, *flight)) *pool {
	const runsShare, tenantsShare = 32, 4
	return &pool{
		do: do, limit: limit, perRun: max(limit/runsShare, 2), perNamespace: max(limit/tenantsShare, 2),
		runs: map[types.NamespacedName]int{}, namespaces: map[string]int{}, idle: make(chan struct{}, 1),
	}
}

var errStopping = errors.New("the server stops, or no longer leads")

// Start makes calls until ctx ends, and then waits a little for those under way: the lead is given up after that.
func (p *pool) Start(ctx context.Context) error {
	p.mu.Lock()
	p.ctx = ctx
	p.fill()
	p.mu.Unlock()
	<-ctx.Done()
	patience := time.NewTimer(grace)
	defer patience.Stop()
	for {
		p.mu.Lock()
		busy := p.busy
		p.mu.Unlock()
		if busy == 0 {
			return nil
		}
		select {
		case <-p.idle:
		case <-patience.C:
			return nil
		}
	}
}

// submit queues a call.
func (p *pool) submit(f *flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := slices.IndexFunc(p.lines, func(l *line) bool { return l.session == f.session })
	if at < 0 {
		p.lines = append(p.lines, &line{f.session, []*flight{f}})
	} else {
		p.lines[at].flights = append(p.lines[at].flights, f)
	}
	p.fill()
}

// fill starts as many calls as may be under way. The lock is held.
func (p *pool) fill() {
	for p.ctx != nil && p.ctx.Err() == nil && p.busy < p.limit {
		f := p.next()
		if f == nil {
			return
		}
		key := f.session.key
		p.busy++
		p.runs[key]++
		p.namespaces[key.Namespace]++
		go p.run(p.ctx, f)
	}
}

// next takes the first call of the first run whose turn it is, and lets that run stand at the end.
func (p *pool) next() *flight {
	for i, l := range p.lines {
		if p.runs[l.session.key] >= p.perRun || p.namespaces[l.session.key.Namespace] >= p.perNamespace {
			continue
		}
		f := l.flights[0]
		l.flights = l.flights[1:]
		p.lines = slices.Delete(p.lines, i, i+1)
		if len(l.flights) > 0 {
			p.lines = append(p.lines, l)
		}
		return f
	}
	return nil
}

func (p *pool) run(ctx context.Context, f *flight) {
	stop := context.AfterFunc(ctx, func() { f.cancel(errStopping) })
	p.do(ctx, f)
	stop()
	f.cancel(nil)
	key := f.session.key
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy--
	less(p.runs, key)
	less(p.namespaces, key.Namespace)
	p.fill()
	select {
	case p.idle <- struct{}{}:
	default:
	}
}

// less counts down and forgets what is zero: tenants and runs come and go.
func less[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}
