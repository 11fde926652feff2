package workflow

import (
	"context"
	"errors"
	"sync"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
)

const (
	// beat is how often the pulse is felt; after stallTime without one the whole process was stopped, or the machine.
	beat, stallTime = 500 * time.Millisecond, 4 * time.Second
	// stallPause is longer than a leader's lease: by its end a server that has lost the lead has noticed.
	stallPause = 10 * time.Second
)

var errStalled = errors.New("this server has stood still for a while, and first makes sure that it still leads")

// pulse notices that the process was stopped for so long that another may have taken over, before it does anything else.
type pulse struct {
	mu          sync.Mutex
	last, until time.Time
}

// NeedLeaderElection says that every server has a pulse.
func (*pulse) NeedLeaderElection() bool { return false }

// Start keeps the pulse until ctx ends.
func (p *pulse) Start(ctx context.Context) error {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			_ = p.check(now) // whoever does something asks itself
		}
	}
}

// check refuses for a while after a standstill, which whoever wakes up first notices. It is one by either clock: a
// sleeping machine's monotonic clock stands still, too.
func (p *pulse) check(now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if gap := max(now.Sub(p.last), now.Round(0).Sub(p.last.Round(0))); !p.last.IsZero() && gap > stallTime {
		p.until = now.Add(stallPause)
		ctrl.Log.WithName("workflow").Info("This server stood still: workflows wait until it is sure that it still leads", "stood", gap.String(), "wait", stallPause.String())
	}
	if p.last.IsZero() || now.After(p.last) {
		p.last = now
	}
	if now.Before(p.until) {
		return errStalled
	}
	return nil
}
