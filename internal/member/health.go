package member

import (
	"context"
	"sync"
	"time"
)

// State is what the probes found.
type State struct {
	// Answering says that the last probe was answered as it should be.
	Answering bool
	// LastSeen is when a probe was last answered; zero if never.
	LastSeen time.Time
	// Reason why it does not answer, one of the conditions' reasons; empty before the first probe has ended.
	Reason string
	// Message for the reason.
	Message string
	// UID is that of the namespace kube-system: the cluster's identity.
	UID string
	// Version of the API server.
	Version string
}

// health is the state, and a way to wait for it to change.
type health struct {
	mu      sync.Mutex
	state   State
	changed chan struct{}
}

func (h *health) init() { h.changed = make(chan struct{}) }

func (h *health) get() State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state
}

func (h *health) update(change func(*State)) (before, after State) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before = h.state
	change(&h.state)
	close(h.changed)
	h.changed = make(chan struct{})
	return before, h.state
}

// wait waits until the member has answered a probe after t and has not stopped since.
func (h *health) wait(ctx context.Context, t time.Time) error {
	for {
		h.mu.Lock()
		state, changed := h.state, h.changed
		h.mu.Unlock()
		if state.Answering && state.LastSeen.After(t) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}
