package route

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/internal/route/edge"
	"yunfan.io/yunfan/internal/route/table"
)

const (
	// applyTimeout and stateTimeout bound one question to a replica.
	applyTimeout = 10 * time.Second
	stateTimeout = 5 * time.Second
	// againAfter is when a replica gets the same table again that it has taken and does not serve.
	againAfter = 5 * time.Second
	// mostPause is the longest pause after failures.
	mostPause = 5 * time.Second
)

// replica is one endpoint of one edge, with a worker of its own: that one hangs is nothing to others.
type replica struct {
	edges  *Edges
	key    replicaKey
	driver edge.Driver
	cancel context.CancelFunc
	wake   chan struct{}

	// Only the worker uses these.
	applied   string
	appliedAt time.Time
	failures  int
	essence   string

	// These are guarded by edges.mu.
	state   table.State
	serves  uint64 // sequence of the table that it serves; 0 if none that is known
	failure string // why it does not answer, or does not take the newest table
	last    map[stateKey]counts
	sums    map[stateKey]counts
}

type stateKey struct{ pool, target string }

type counts struct{ requests, failures uint64 }

// connect begins to work with an endpoint, in place of what was there before.
func (e *Edges) connect(key replicaKey, driver edge.Driver) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &replica{
		edges: e, key: key, driver: driver, cancel: cancel, wake: make(chan struct{}, 1), failure: "it was not asked yet",
		last: map[stateKey]counts{}, sums: map[stateKey]counts{},
	}
	e.mu.Lock()
	if was := e.replicas[key]; was != nil {
		was.cancel()
	}
	if e.ended {
		cancel()
	}
	e.replicas[key] = r
	e.mu.Unlock()
	go r.run(ctx)
}

// disconnect ends the work with an endpoint.
func (e *Edges) disconnect(key replicaKey) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.replicas[key]; r != nil {
		r.cancel()
		delete(e.replicas, key)
	}
}

// Start ends all work with edges when the server ends or no longer leads.
func (e *Edges) Start(ctx context.Context) error {
	<-ctx.Done()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
	for _, r := range e.replicas {
		r.cancel()
	}
	return nil
}

func (r *replica) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default: // it will look anyway
	}
}

func (r *replica) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.round(ctx)
		if ctx.Err() != nil {
			return
		}
		wake, pause := r.wake, r.pause()
		if r.failures++; err == nil {
			r.failures = 0
		} else { // a new table is no reason to ask earlier what does not answer
			wake, pause = nil, min(mostPause, r.edges.quick<<min(r.failures, 10))
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// round brings the newest table and asks for the state.
func (r *replica) round(ctx context.Context) error {
	newest := r.edges.current()
	if newest != nil && (r.applied != newest.generation || !r.serving(newest) && time.Since(r.appliedAt) > againAfter) {
		r.applied, r.appliedAt = "", time.Now()
		if err := r.apply(ctx, newest.table); err != nil {
			r.fail(fmt.Sprintf("bringing it the newest table failed: %v", err))
			return err
		}
		r.applied = newest.generation
	}
	asking, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	state, err := r.driver.State(asking)
	if err != nil {
		r.fail(fmt.Sprintf("it does not answer: %v", err))
		return fmt.Errorf("asking for the state: %w", err)
	}
	if newest != nil && r.serving(newest) && state.Generation != newest.generation {
		r.applied = "" // it has begun anew
	}
	r.note(state)
	return nil
}

func (r *replica) apply(ctx context.Context, t *table.Table) error {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	if err := r.driver.Apply(ctx, t); err != nil {
		return fmt.Errorf("applying the table: %w", err)
	}
	return nil
}

// serving says whether the replica was seen to serve a table.
func (r *replica) serving(b *built) bool {
	r.edges.mu.Lock()
	defer r.edges.mu.Unlock()
	return r.state.Generation == b.generation
}

// pause until the next question.
func (r *replica) pause() time.Duration {
	e := r.edges
	e.mu.Lock()
	defer e.mu.Unlock()
	draining := slices.ContainsFunc(r.state.Targets, func(t table.TargetState) bool { return t.Closed && t.InFlight > 0 })
	if draining || e.newest != nil && r.state.Generation != e.newest.generation {
		return e.quick
	}
	return e.poll
}

// fail notes why nothing is known of the replica now. What was last seen of it stays.
func (r *replica) fail(why string) {
	e := r.edges
	e.mu.Lock()
	known, c := r.failure == why, changes{edge: r.key.edge}
	if r.failure == "" {
		c = e.everything(r.key.edge)
	}
	r.failure = why
	e.mu.Unlock()
	if !known {
		e.changed(c)
	}
}

// note takes a state, and tells who may want to know if it differs from the one before in more than numbers.
func (r *replica) note(state *table.State) {
	e := r.edges
	e.mu.Lock()
	before := r.state
	wasSilent := r.failure != ""
	r.failure, r.state = "", *state
	r.serves = e.sequences[state.Generation]
	if state.Generation == "" {
		r.serves = 0
	}
	r.count(state)
	changed := e.differences(r.key.edge, &before, state)
	if wasSilent {
		changed = e.everything(r.key.edge)
	}
	essence := essenceOf(state)
	same := essence == r.essence && !wasSilent
	r.essence = essence
	e.mu.Unlock()
	if !same {
		e.changed(changed)
	}
}

// count adds what a replica has counted since it was last asked. What began anew counts from zero.
func (r *replica) count(state *table.State) {
	last, sums := make(map[stateKey]counts, len(state.Targets)), make(map[stateKey]counts, len(state.Targets))
	for i := range state.Targets {
		t := &state.Targets[i]
		key := stateKey{t.Pool, t.Target}
		was, sum := r.last[key], r.sums[key]
		if was.requests > t.Requests || was.failures > t.Failures {
			was = counts{}
		}
		last[key] = counts{t.Requests, t.Failures}
		sums[key] = counts{sum.requests + t.Requests - was.requests, sum.failures + t.Failures - was.failures}
	}
	r.last, r.sums = last, sums
}

// describe says what is wrong with a replica, for people.
func (r *replica) describe() string {
	why := "serves an older table"
	switch {
	case r.failure != "":
		why = r.failure
	case r.state.Problem != "":
		why = "refused the newest table: " + r.state.Problem
	}
	return fmt.Sprintf("edge %s at %s: %s", r.key.edge, r.key.endpoint, why)
}

// differences says which Routes and partitions are concerned by a change from one state to another. Another generation
// concerns all.
func (e *Edges) differences(edgeName string, before, after *table.State) changes {
	c := changes{edge: edgeName}
	if e.newest == nil {
		return c
	}
	was := make(map[stateKey]string, len(before.Targets))
	for i := range before.Targets {
		was[stateKey{before.Targets[i].Pool, before.Targets[i].Target}] = essenceOfTarget(&before.Targets[i])
	}
	routes, partitions := map[client.ObjectKey]bool{}, map[client.ObjectKey]bool{}
	add := func(key stateKey) {
		name := parsePool(key.pool)
		routes[client.ObjectKey{Namespace: name.tenant, Name: name.route}] = true
		if partition, ok := e.newest.partitions[key.target]; ok {
			partitions[partition] = true
		}
	}
	for i := range after.Targets {
		t := &after.Targets[i]
		key := stateKey{t.Pool, t.Target}
		if was[key] != essenceOfTarget(t) {
			add(key)
		}
		delete(was, key)
	}
	for key := range was {
		add(key)
	}
	if before.Generation != after.Generation {
		for key := range e.newest.routes {
			routes[key] = true
		}
	}
	if len(partitions) > 0 { // those that fail alone are told otherwise than all that fail at once
		for i := range after.Targets {
			if partition, ok := e.newest.partitions[after.Targets[i].Target]; ok && !after.Targets[i].Up {
				partitions[partition] = true
			}
		}
	}
	c.routes, c.partitions = keys(routes), keys(partitions)
	return c
}

// everything is concerned when a replica is silent, or speaks again.
func (e *Edges) everything(edgeName string) changes {
	c := changes{edge: edgeName}
	if e.newest != nil {
		c.routes = slices.Collect(maps.Keys(e.newest.routes))
		c.partitions = slices.Collect(maps.Values(e.newest.partitions))
	}
	return c
}

func keys(set map[client.ObjectKey]bool) []client.ObjectKey {
	out := make([]client.ObjectKey, 0, len(set))
	for key := range set {
		out = append(out, key)
	}
	return out
}

// essenceOfTarget leaves out the numbers.
func essenceOfTarget(t *table.TargetState) string {
	return fmt.Sprintf("%t %t %s %v", t.Closed, t.Up, t.Probe, t.DownServers)
}

// essenceOf a state is all of it but the numbers.
func essenceOf(s *table.State) string {
	content := *s
	content.Targets = slices.Clone(s.Targets)
	for i := range content.Targets {
		content.Targets[i].InFlight, content.Targets[i].Requests, content.Targets[i].Failures = 0, 0, 0
	}
	data, err := json.Marshal(content)
	if err != nil {
		return err.Error()
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
