// Package f5 drives an F5 BIG-IP by its iControl REST interface. Its pools are there already, made by those who look after
// it: a pool has the name of the Route's, and the gateways' addresses as its members. The driver opens and closes members
// and reads how many connections they have; what else a table says is the device's own matter, and told as not done.
//
// Other devices of this kind (A10, Array) are driven the same way: list a pool's members, set one's state, read its
// connections are the three questions that a driver of them needs.
package f5

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"yunfan.io/yunfan/internal/route/edge"
	"yunfan.io/yunfan/internal/route/table"
)

// statsInterval is how often connections are counted at pools of which nothing is closed. The others are asked each time.
const statsInterval = 10 * time.Second

// driver brings tables to one device.
type driver struct {
	device *device

	mu         sync.Mutex
	table      *table.Table
	generation string
	problem    string
	stats      map[string]poolStats
}

type poolStats struct {
	members map[string]memberStats
	at      time.Time
}

// New makes the driver of a device with the content of its Secret: username, password, and ca.crt if the device's
// certificate is not signed by a public authority.
func New(endpoint string, credentials map[string][]byte) (edge.Driver, error) {
	device, err := newDevice(endpoint, credentials)
	if err != nil {
		return nil, err
	}
	return &driver{device: device, stats: map[string]poolStats{}}, nil
}

// Apply opens and closes members of the device's pools.
func (d *driver) Apply(ctx context.Context, t *table.Table) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	generation, err := t.Generation()
	if err != nil {
		return err
	}
	d.table, d.generation = t, generation
	err = d.apply(ctx, t)
	d.problem = ""
	if err != nil {
		d.problem = err.Error()
	}
	return err
}

func (d *driver) apply(ctx context.Context, t *table.Table) error {
	pools, err := d.device.pools(ctx)
	if err != nil {
		return err
	}
	var failures []error
	for i := range t.Pools {
		members, ok := pools[t.Pools[i].Name]
		if !ok {
			continue
		}
		// That one pool fails does not keep the others from theirs.
		if err := d.applyPool(ctx, &t.Pools[i], members); err != nil {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// applyPool opens before it closes: at no time is less open than before and after.
func (d *driver) applyPool(ctx context.Context, p *table.Pool, members map[string]member) error {
	wanted := openServers(p)
	for _, open := range []bool{true, false} {
		for _, address := range servers(p) {
			m, ok := members[address]
			if !ok || wanted[address] != open || m.open() == open {
				continue
			}
			if err := d.device.set(ctx, p.Name, m, open); err != nil {
				return err
			}
		}
	}
	return nil
}

// servers are the addresses of all targets of a pool.
func servers(p *table.Pool) []string {
	var all []string
	for _, target := range p.Targets {
		all = append(all, target.Servers...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// openServers are those that at least one open target has.
func openServers(p *table.Pool) map[string]bool {
	open := map[string]bool{}
	for _, target := range p.Targets {
		for _, address := range target.Servers {
			open[address] = open[address] || takes(&target)
		}
	}
	return open
}

// takes says whether a target should get something.
func takes(t *table.Target) bool { return !t.Closed && t.Weight > 0 }

// State reads what the device has.
func (d *driver) State(ctx context.Context) (*table.State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	state := &table.State{Program: "F5 BIG-IP", Problem: d.problem}
	version, err := d.device.version(ctx)
	if err != nil {
		return nil, err
	}
	state.Program += " " + version
	if d.table == nil {
		return state, nil
	}
	pools, err := d.device.pools(ctx)
	if err != nil {
		return nil, err
	}
	serves := true
	for i := range d.table.Pools {
		p := &d.table.Pools[i]
		members, ok := pools[p.Name]
		if !ok {
			state.Unsupported = append(state.Unsupported, fmt.Sprintf("pool %s: the device has no pool of this name", p.Name))
			continue
		}
		state.Unsupported = append(state.Unsupported, lacks(p, members)...)
		serves = serves && as(p, members)
		if err := d.count(ctx, p); err != nil {
			return nil, err
		}
		for _, target := range p.Targets {
			state.Targets = append(state.Targets, d.target(p, &target, members))
		}
	}
	if serves {
		state.Generation = d.generation
	}
	return state, nil
}

// as says whether the members of a pool are open and closed as the table wants it.
func as(p *table.Pool, members map[string]member) bool {
	for address, open := range openServers(p) {
		if m, ok := members[address]; ok && m.open() != open {
			return false
		}
	}
	return true
}

// count asks for the connections of a pool's members, if it is time.
func (d *driver) count(ctx context.Context, p *table.Pool) error {
	closing := slices.ContainsFunc(p.Targets, func(t table.Target) bool { return !takes(&t) })
	if !closing && time.Since(d.stats[p.Name].at) < statsInterval {
		return nil
	}
	members, err := d.device.stats(ctx, p.Name)
	if err != nil {
		return err
	}
	d.stats[p.Name] = poolStats{members: members, at: time.Now()}
	return nil
}

// target adds up the members of one target. Those that several targets share are counted at each.
func (d *driver) target(p *table.Pool, t *table.Target, members map[string]member) table.TargetState {
	one := table.TargetState{Pool: p.Name, Target: t.Name, Closed: len(t.Servers) > 0}
	stats := d.stats[p.Name].members
	for _, address := range t.Servers {
		m, ok := members[address]
		if !ok {
			continue
		}
		one.Closed = one.Closed && !m.open()
		s, counted := stats[address]
		if !counted {
			one.InFlight = -1
			continue
		}
		if one.InFlight >= 0 {
			one.InFlight += s.connections
		}
		one.Requests += s.requests
		if s.down {
			one.DownServers = append(one.DownServers, address)
			one.Probe = s.reason
		} else {
			one.Up = true
		}
	}
	return one
}

// lacks says what the device does not do of a pool.
func lacks(p *table.Pool, members map[string]member) []string {
	var said []string
	say := func(format string, values ...any) {
		said = append(said, fmt.Sprintf("pool %s: ", p.Name)+fmt.Sprintf(format, values...))
	}
	users := map[string]bool{}
	weight := 0
	for _, target := range p.Targets {
		for _, address := range target.Servers {
			if _, ok := members[address]; !ok {
				say("%s of %s is no member", address, target.Label)
			}
			if open, shared := users[address]; shared && open != takes(&target) {
				say("%s cannot be closed for one partition and open for another", address)
			}
			users[address] = takes(&target)
		}
		if takes(&target) {
			if weight != 0 && target.Weight != weight {
				say("shares by weight are the device's own matter")
			}
			weight = target.Weight
		}
	}
	for what, asked := range map[string]bool{
		"affinity": p.Affinity != nil, "rate limits": p.RateLimit != nil, "lists of addresses": len(p.Allow)+len(p.Deny) > 0,
		"networks of clients": len(p.Networks) > 0, "retries": p.Retries > 0, "faults": p.Fault != nil,
	} {
		if asked {
			say("%s are the device's own matter", what)
		}
	}
	slices.Sort(said)
	return slices.Compact(said)
}
