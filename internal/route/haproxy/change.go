package haproxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"yunfan.io/yunfan/internal/route/table"
)

// change brings a plan of the same structure to all workers without a new process: certificates, weights, closed targets,
// and last of all the generation. The newest worker comes last, so that none lags behind what the marker says.
func (d *Driver) change(ctx context.Context, before, wanted *plan) error {
	newest, _, err := d.master.workers(ctx)
	if err == nil && newest == 0 {
		err = errors.New("HAProxy has no process that takes connections at this moment")
	}
	if err == nil {
		err = d.changeCertificates(ctx, newest, before, wanted)
	}
	if err == nil {
		err = d.tellOld(ctx, wanted)
	}
	if err == nil {
		err = d.tell(ctx, newest, wanted, true)
	}
	if err == nil {
		err = d.served(ctx, wanted.generation)
	}
	return err
}

// tellOld brings weights and closed targets to old workers, too: they may still take requests on connections that are
// kept open. Those of another structure keep their generation.
func (d *Driver) tellOld(ctx context.Context, p *plan) error {
	_, old, err := d.master.workers(ctx)
	if err != nil {
		return err
	}
	d.mu.Lock()
	maps.DeleteFunc(d.old, func(pid int, _ string) bool { return !slices.Contains(old, pid) })
	structures := maps.Clone(d.old)
	d.mu.Unlock()
	for _, pid := range old {
		if err := d.tell(ctx, pid, p, structures[pid] == p.structure); err != nil && !d.gone(ctx, pid) {
			return err
		}
	}
	return nil
}

// gone says whether a worker has ended.
func (d *Driver) gone(ctx context.Context, pid int) bool {
	newest, old, err := d.master.workers(ctx)
	return err == nil && pid != newest && !slices.Contains(old, pid)
}

// tell brings one worker to a plan as far as it has the servers, and looks whether that has worked.
func (d *Driver) tell(ctx context.Context, pid int, p *plan, whole bool) error {
	for range 2 {
		commands, err := d.differences(ctx, pid, p)
		if err != nil {
			return err
		}
		if len(commands) == 0 {
			if !whole {
				return nil
			}
			return d.master.all(ctx, pid, []string{fmt.Sprintf("set map %s %s %s", d.path(generationFile), markerKey, p.generation)})
		}
		if err := d.master.all(ctx, pid, commands); err != nil {
			return err
		}
	}
	commands, err := d.differences(ctx, pid, p)
	if err == nil && len(commands) > 0 {
		err = fmt.Errorf("HAProxy does not do %q", commands[0])
	}
	if err == nil && whole {
		err = d.master.all(ctx, pid, []string{fmt.Sprintf("set map %s %s %s", d.path(generationFile), markerKey, p.generation)})
	}
	return err
}

func (d *Driver) path(name string) string { return d.site.dir + "/" + name }

// differences are the commands that bring a worker to a plan.
func (d *Driver) differences(ctx context.Context, pid int, p *plan) ([]string, error) {
	var commands []string
	closed, err := d.master.entries(ctx, pid, d.path(closedFile))
	if err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(p.closed)) {
		if _, there := closed[key]; !there {
			commands = append(commands, fmt.Sprintf("add map %s %s 1", d.path(closedFile), key))
		}
	}
	rows, err := d.master.statistics(ctx, pid, serverRows)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		servers, there := p.weights[r["pxname"]]
		if !there {
			continue // a pool that is no more
		}
		// A server that is no more in its pool gets nothing from old workers, either.
		if weight := servers[r["svname"]]; strconv.Itoa(weight) != r["uweight"] {
			commands = append(commands, fmt.Sprintf("set server %s/%s weight %d", r["pxname"], r["svname"], weight))
		}
	}
	// What opens again is let in when its weight is there.
	for _, key := range slices.Sorted(maps.Keys(closed)) {
		if !p.closed[key] {
			commands = append(commands, fmt.Sprintf("del map %s %s", d.path(closedFile), key))
		}
	}
	return commands, nil
}

// errReload says that something takes a new process.
var errReload = errors.New("this takes a new process")

// changeCertificates brings certificates to the newest worker; old ones accept no connections any more.
func (d *Driver) changeCertificates(ctx context.Context, pid int, before, wanted *plan) error {
	had := map[string]certificate{}
	for _, c := range before.certificates {
		had[c.file] = c
	}
	for _, c := range wanted.certificates {
		present, there := had[c.file]
		delete(had, c.file)
		if there && present == c {
			continue
		}
		if there && present.hosts != c.hosts || len(c.content) > mostCommands {
			return errReload
		}
		if err := d.setCertificate(ctx, pid, c, there); err != nil {
			return err
		}
	}
	for _, file := range slices.Sorted(maps.Keys(had)) {
		if _, err := d.master.worker(ctx, pid, fmt.Sprintf("del ssl crt-list %s %s", d.path(listFile), d.path(file))); err != nil {
			return err
		}
		if err := d.expect(ctx, pid, "del ssl cert "+d.path(file), "deleted"); err != nil {
			return err
		}
	}
	return nil
}

func (d *Driver) setCertificate(ctx context.Context, pid int, c certificate, there bool) error {
	if !there {
		if err := d.expect(ctx, pid, "new ssl cert "+d.path(c.file), "New empty certificate"); err != nil {
			return err
		}
	}
	if err := d.expect(ctx, pid, fmt.Sprintf("set ssl cert %s <<\n%s", d.path(c.file), c.content), "ransaction"); err != nil {
		return err
	}
	if err := d.expect(ctx, pid, "commit ssl cert "+d.path(c.file), "Success"); err != nil {
		return err
	}
	if there {
		return nil
	}
	return d.expect(ctx, pid, fmt.Sprintf("add ssl crt-list %s <<\n%s\n", d.path(listFile), c.line(d.site)), "Success")
}

// expect asks a worker and looks for a word in its answer. The command may hold a key: it is in no message.
func (d *Driver) expect(ctx context.Context, pid int, command, wanted string) error {
	answer, err := d.master.worker(ctx, pid, command)
	if err != nil {
		return err
	}
	if !strings.Contains(answer, wanted) {
		first, _, _ := strings.Cut(command, "\n")
		return fmt.Errorf("telling HAProxy %q: it answered %.200q", first, strings.TrimSpace(answer))
	}
	return nil
}

// State tells what HAProxy serves.
func (d *Driver) State(ctx context.Context) (*table.State, error) {
	d.mu.Lock()
	p := d.plan
	d.mu.Unlock()
	state := &table.State{Program: d.version}
	if p == nil {
		state.Problem = "no table has been served yet"
		return state, nil
	}
	state.Unsupported = p.unsupported
	newest, old, err := d.master.workers(ctx)
	if err != nil {
		return nil, err
	}
	if state.Generation, err = d.marker(ctx); err != nil {
		return nil, err
	}
	seen := map[int][]row{}
	for _, pid := range append([]int{newest}, old...) {
		rows, err := d.master.statistics(ctx, pid, serverRows)
		if err != nil {
			if d.gone(ctx, pid) {
				continue
			}
			return nil, err
		}
		seen[pid] = rows
		if pid == newest || state.Generation == "" {
			continue
		}
		same, err := d.agrees(ctx, pid, state.Generation)
		if err != nil && !d.gone(ctx, pid) {
			return nil, err
		}
		if err == nil && !same {
			state.Generation = ""
		}
	}
	d.mu.Lock()
	state.Targets = p.states(seen, newest, &d.counters)
	d.mu.Unlock()
	return state, nil
}

// agrees says whether an old worker serves a generation, or takes no requests any more.
func (d *Driver) agrees(ctx context.Context, pid int, generation string) (bool, error) {
	entries, err := d.master.entries(ctx, pid, d.path(generationFile))
	if err != nil || entries[markerKey] == generation {
		return err == nil, err
	}
	takes, err := d.master.takesRequests(ctx, pid)
	return !takes, err
}
