package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"yunfan.io/engine/network"
	"yunfan.io/engine/topology"
)

const drillTimeout = 20 * time.Second

// drill is what was done on purpose to a cluster or unit.
type drill struct{ stopped, isolated, frozen bool }

// drills are by target: "beijing" for the wire of a whole cluster, "beijing/beijing-1" for a unit. They are not
// stored: `up` means that everything should run, so a new daemon begins by healing.
type drills map[string]drill

// on tells the drill state of a unit, its cluster's included.
func (d drills) on(cluster, unit string) string {
	own, all := d[cluster+"/"+unit], d[cluster]
	switch {
	case own.stopped:
		return Stopped
	case own.frozen:
		return Frozen
	case own.isolated || all.isolated:
		return Isolated
	}
	return ""
}

func (d drills) set(target string, change func(*drill)) {
	state := d[target]
	change(&state)
	if state == (drill{}) {
		delete(d, target)
		return
	}
	d[target] = state
}

// Drill carries out a verb (stop, start, isolate, freeze, heal, kill) on CLUSTER, CLUSTER/control-plane,
// CLUSTER/NODE, CLUSTER/PROCESS, CLUSTER/NODE/PROCESS or services/NAME.
func (d *Daemon) Drill(ctx context.Context, verb, target string) error {
	d.change.Lock()
	defer d.change.Unlock()
	ctx, cancel := context.WithTimeout(ctx, drillTimeout)
	defer cancel()
	units, process, err := d.resolve(target)
	if err != nil {
		return err
	}
	d.log.Info("drill", "verb", verb, "target", target)
	if process != "" {
		return d.drillProcess(ctx, verb, units[0], process)
	}
	switch verb {
	case "stop":
		return d.each(units, func(u *unit) error {
			d.mark(u.name, func(x *drill) { *x = drill{stopped: true, isolated: x.isolated} })
			return u.end(ctx, 0)
		})
	case "start":
		return d.each(units, func(u *unit) error {
			d.mark(u.name, func(x *drill) { x.stopped = false })
			u.want(true)
			return nil
		})
	case "freeze":
		return d.each(units, func(u *unit) error { return d.freeze(ctx, u, true) })
	case "isolate":
		if owner(target) == serviceUnits {
			return fmt.Errorf("isolating %s: services use the machine's own network: isolate a cluster or node", target)
		}
		d.mark(target, func(x *drill) { x.isolated = true })
		return d.cutWires(ctx)
	case "heal":
		d.mark(target, func(x *drill) { x.isolated = false })
		for _, u := range units {
			d.mark(u.name, func(x *drill) { x.isolated = false })
		}
		if err := d.cutWires(ctx); err != nil {
			return err
		}
		return d.each(units, func(u *unit) error { return d.freeze(ctx, u, false) })
	case "kill":
		return d.each(units, func(u *unit) error {
			if run := u.running(); run != nil {
				return run.Stop(ctx, 0)
			}
			return fmt.Errorf("%s does not run", u.name)
		})
	}
	return fmt.Errorf("unknown drill %q", verb)
}

func (d *Daemon) drillProcess(ctx context.Context, verb string, u *unit, process string) error {
	run := u.running()
	if run == nil {
		return fmt.Errorf("%s does not run: start it first", u.name)
	}
	if verb == "isolate" {
		return fmt.Errorf("isolating %s: a process shares the network of %s: isolate that", process, u.name)
	}
	if verb == "heal" { // of a process: both ways it can have been taken out
		return run.Call(ctx, "heal", process)
	}
	return run.Call(ctx, verb, process)
}

// resolve finds the units a target means and, if it means one process of a unit, its name.
func (d *Daemon) resolve(target string) (units []*unit, process string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	parts := strings.Split(target, "/")
	if len(parts) == 1 && d.state.Cluster(target) != nil {
		for _, u := range d.sortedUnits() {
			if owner(u.name) == target {
				units = append(units, u)
			}
		}
		return units, "", nil
	}
	if len(parts) < 2 || len(parts) > 3 {
		return nil, "", fmt.Errorf("no cluster %q here: targets are CLUSTER, CLUSTER/NODE, CLUSTER/PROCESS or CLUSTER/NODE/PROCESS", target)
	}
	if u := d.units[parts[0]+"/"+parts[1]]; u != nil {
		return []*unit{u}, strings.Join(parts[2:], ""), nil
	}
	if u := d.units[parts[0]+"/"+topology.ControlPlane]; u != nil && len(parts) == 2 {
		return []*unit{u}, parts[1], nil
	}
	return nil, "", fmt.Errorf("nothing here is called %q: see `yunfan-engine status`", target)
}

// each does something to all units at once and returns the first error.
func (d *Daemon) each(units []*unit, do func(*unit) error) error {
	errs := make(chan error, len(units))
	for _, u := range units {
		go func() { errs <- do(u) }()
	}
	var first error
	for range units {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (d *Daemon) mark(target string, change func(*drill)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drills.set(target, change)
}

func (d *Daemon) freeze(ctx context.Context, u *unit, frozen bool) error {
	if u.group == nil {
		return fmt.Errorf("freezing %s: name its process, such as %s", u.name, u.target(strings.TrimPrefix(u.name, serviceUnits+"/")))
	}
	if frozen && u.running() == nil {
		return fmt.Errorf("freezing %s: it does not run: start it first", u.name)
	}
	if err := u.group.Freeze(ctx, frozen); err != nil {
		return err
	}
	d.mark(u.name, func(x *drill) { x.frozen = frozen })
	return nil
}

// cutWires makes the network agree with the drills.
func (d *Daemon) cutWires(ctx context.Context) error {
	d.mu.Lock()
	var cut network.Isolation
	for _, c := range d.state.Clusters {
		if d.drills[c.Name].isolated {
			cut.Clusters = append(cut.Clusters, c.Slot)
		}
	}
	for _, u := range d.sortedUnits() {
		if u.port != nil && d.drills[u.name].isolated {
			cut.Ports = append(cut.Ports, *u.port)
		}
	}
	d.mu.Unlock()
	slices.Sort(cut.Clusters)
	return d.net.Isolate(ctx, cut)
}

// healAll ends every drill, also those of a former daemon.
func (d *Daemon) healAll(ctx context.Context) error {
	d.mu.Lock()
	clear(d.drills)
	var names []string
	for _, c := range d.state.Clusters {
		names = append(names, c.Name+"/"+topology.ControlPlane)
		for _, n := range c.Nodes {
			names = append(names, c.Name+"/"+n.Name)
		}
	}
	d.mu.Unlock()
	for _, name := range names {
		if err := d.group(name).Freeze(ctx, false); err != nil {
			return err
		}
	}
	return d.net.Isolate(ctx, network.Isolation{})
}

// SplitTarget cuts CLUSTER/NODE.
func SplitTarget(target string) (cluster, node string) {
	cluster, node, _ = strings.Cut(target, "/")
	return cluster, node
}
