package main

import (
	"context"
	"net/http"
	"sync"
)

// gate counts requests in flight and can be told that no new ones are wanted.
type gate struct {
	mu       sync.Mutex
	inFlight int
	draining bool
	idle     chan struct{} // closed when draining and nothing is in flight
}

func newGate() *gate { return &gate{idle: make(chan struct{})} }

func (g *gate) enter() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inFlight++
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inFlight--
	g.signalIdle()
}

func (g *gate) signalIdle() {
	if !g.draining || g.inFlight > 0 {
		return
	}
	select {
	case <-g.idle:
	default:
		close(g.idle)
	}
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inFlight
}

func (g *gate) isDraining() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.draining
}

func (g *gate) startDraining() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.draining = true
}

// waitIdle returns when no request is left, or with the number left when the context ends.
func (g *gate) waitIdle(ctx context.Context) int {
	g.mu.Lock()
	g.signalIdle()
	g.mu.Unlock()
	select {
	case <-g.idle:
		return 0
	case <-ctx.Done():
		return g.count()
	}
}

func (g *gate) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.enter()
		defer g.leave()
		next.ServeHTTP(w, r)
	})
}
