package route

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/route/table"
)

const (
	// pollInterval is how often a replica is asked for its state, and quickInterval while something is not confirmed or
	// drains.
	pollInterval  = time.Second
	quickInterval = 200 * time.Millisecond
	// remembered tables are known by their generation when a replica says that it serves one of them.
	remembered = 1024
)

// Edges is what the edges should serve and what they do. It is in the memory of the server that leads.
type Edges struct {
	poll, quick time.Duration
	// changed is told of what differs in what a replica serves, but for numbers.
	changed func(changes)

	mu     sync.Mutex
	ended  bool
	newest *built
	// sequence counts the tables that were built. Tables of the same content are the same.
	sequence uint64
	// sequences of the tables by their generation: the last at which each was the newest.
	sequences map[string]uint64
	// pools by name: their content, and the sequence at which it became so. Deliveries: the same of the pools they are in.
	pools map[string]poolVersion
	// servers by address: the last sequence in whose table each was.
	servers  map[string]uint64
	replicas map[replicaKey]*replica
}

type replicaKey struct{ edge, endpoint string }

type poolVersion struct {
	content string
	since   uint64
}

// changes are what somebody may want to look at again.
type changes struct {
	edge               string
	routes, partitions []client.ObjectKey
}

func newEdges(poll, quick time.Duration) *Edges {
	return &Edges{
		poll: cmp.Or(poll, pollInterval), quick: cmp.Or(quick, quickInterval), changed: func(changes) {},
		sequences: map[string]uint64{}, pools: map[string]poolVersion{}, servers: map[string]uint64{}, replicas: map[replicaKey]*replica{},
	}
}

// publish makes a table the newest, which all replicas get.
func (e *Edges) publish(b *built) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.newest == nil || e.newest.generation != b.generation {
		e.sequence++
		e.sequences[b.generation] = e.sequence
		e.take(b)
	}
	e.newest = b
	for _, r := range e.replicas {
		r.wakeUp()
	}
}

// take notes which pools are other ones than before, and which servers there are.
func (e *Edges) take(b *built) {
	now := make(map[string]poolVersion, len(b.contents))
	for name, content := range b.contents {
		if was, ok := e.pools[name]; ok && was.content == content {
			now[name] = was
			continue
		}
		now[name] = poolVersion{content, e.sequence}
	}
	e.pools = now
	for i := range b.table.Pools {
		for _, target := range b.table.Pools[i].Targets {
			for _, server := range target.Servers {
				e.servers[server] = e.sequence
			}
		}
	}
	oldest := e.sequence
	for _, r := range e.replicas {
		oldest = min(oldest, r.serves)
	}
	maps.DeleteFunc(e.servers, func(_ string, last uint64) bool { return last < oldest })
	maps.DeleteFunc(e.sequences, func(_ string, at uint64) bool { return at+remembered < e.sequence })
}

// current is the newest table; nil before the first.
func (e *Edges) current() *built {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.newest
}

// Generation of the newest table; empty before there is one.
func (e *Edges) Generation() string {
	if b := e.current(); b != nil {
		return b.generation
	}
	return ""
}

// Applied says whether every replica serves the table of a generation, or one with the same content or newer.
func (e *Edges) Applied(generation string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	at, known := e.sequences[generation]
	for _, r := range e.replicas {
		known = known && r.serves >= at
	}
	return known && e.unconnected() == ""
}

// Settled says whether every replica of every edge serves what the Delivery's spec and the Routes want, as the Delivery
// is given: empty if so, else who is waited for.
func (e *Edges) Settled(d *v1alpha1.Delivery) (waiting string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.newest == nil {
		return "the table of all routes is not made yet"
	}
	place, known := e.newest.deliveries[client.ObjectKeyFromObject(d)]
	if !known || place.generation < d.Generation {
		return fmt.Sprintf("the table of all routes does not have the newest of delivery %s/%s yet", d.Namespace, d.Name)
	}
	return e.waiting(place.pools)
}

// waiting says which replicas do not serve the pools as they are in the newest table.
func (e *Edges) waiting(pools []string) string {
	if len(pools) == 0 {
		return ""
	}
	if missing := e.unconnected(); missing != "" {
		return missing
	}
	since := uint64(0)
	for _, pool := range pools {
		since = max(since, e.pools[pool].since)
	}
	var late []string
	for _, r := range e.sorted() {
		if r.serves < since {
			late = append(late, r.describe())
		}
	}
	return strings.Join(late, "; ")
}

// unconnected names an edge with which nobody speaks yet.
func (e *Edges) unconnected() string {
	if e.newest == nil {
		return "the table of all routes is not made yet"
	}
	for _, name := range e.newest.edges {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(e.replicas)), func(k replicaKey) bool { return k.edge == name }) {
			return fmt.Sprintf("edge %s is not connected yet", name)
		}
	}
	return ""
}

// InFlight counts the requests that are under way to a Delivery at all edges, also in pools that are no longer in the
// table. It is not known if an edge cannot count; then what others count is given.
func (e *Edges) InFlight(d *v1alpha1.Delivery) (requests int, known bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	known = true
	e.each(d, func(_ *replica, t *table.TargetState) {
		if t.InFlight < 0 {
			known = false
			return
		}
		requests += t.InFlight
	})
	return requests, known
}

// Down says that no replica of an edge sends anything to a Delivery, since it does not answer their probes. Without an
// edge, and where no Route leads to it, it is not down.
func (e *Edges) Down(d *v1alpha1.Delivery) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	seen, up := false, false
	e.each(d, func(r *replica, t *table.TargetState) {
		seen = true
		up = up || t.Up || r.failure != ""
	})
	return seen && !up
}

// Carries says whether a replica of an edge may send something to the gateway that has an address, like
// 192.0.2.7:30080.
func (e *Edges) Carries(server string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	last, known := e.servers[server]
	if !known {
		return false
	}
	for _, r := range e.replicas {
		switch {
		case r.serves > last: // it has a table without the server
		case r.failure != "" || r.serves == 0 || e.sends(r, server):
			return true
		}
	}
	return false
}

// sends says whether a replica has the server up in some target.
func (e *Edges) sends(r *replica, server string) bool {
	for i := range r.state.Targets {
		t := &r.state.Targets[i]
		if t.Up && !slices.Contains(t.DownServers, server) && slices.Contains(e.newest.serversOf[t.Target], server) {
			return true
		}
	}
	// A target that a server has left a moment ago is not looked up: a newer table takes it away.
	return r.serves < e.sequence && e.servers[server] < e.sequence
}

// Counts are the requests to a Delivery that edges have had an answer for, and failures among them: answers of 500 and
// more, and those that broke. They begin with this server, and rise only.
func (e *Edges) Counts(d *v1alpha1.Delivery) (requests, failures uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.each(d, func(r *replica, t *table.TargetState) {
		sum := r.sums[stateKey{t.Pool, t.Target}]
		requests += sum.requests
		failures += sum.failures
	})
	return requests, failures
}

// each goes through what replicas say of a Delivery.
func (e *Edges) each(d *v1alpha1.Delivery, do func(*replica, *table.TargetState)) {
	if e.newest == nil {
		return
	}
	target := e.newest.deliveries[client.ObjectKeyFromObject(d)].target
	for _, r := range e.replicas {
		for i := range r.state.Targets {
			t := &r.state.Targets[i]
			pool := parsePool(t.Pool)
			if t.Target == target && pool.tenant == d.Namespace && pool.application == d.Spec.Application {
				do(r, t)
			}
		}
	}
}

// sorted gives the replicas in the order of edge and endpoint.
func (e *Edges) sorted() []*replica {
	return slices.SortedFunc(maps.Values(e.replicas), func(a, b *replica) int {
		return cmp.Or(cmp.Compare(a.key.edge, b.key.edge), cmp.Compare(a.key.endpoint, b.key.endpoint))
	})
}

// poolName of what a Route sends to an application. None of the names has a dot.
type poolName struct{ tenant, route, application string }

func (p poolName) String() string { return p.tenant + "." + p.route + "." + p.application }

// parsePool reads the name of a pool; what is not one of ours gives an empty name.
func parsePool(name string) poolName {
	const parts = 3
	fields := strings.Split(name, ".")
	if len(fields) < parts {
		return poolName{}
	}
	return poolName{fields[0], fields[1], fields[2]}
}
