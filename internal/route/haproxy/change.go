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

// change brings a plan of the same structure to the newest worker: certificates, weights, closed targets, and last of all
// the generation. Old workers decide nothing any more.
func (d *Driver) change(ctx context.Context, before, wanted *plan) error {
	newest, _, err := d.master.workers(ctx)
	if err == nil && newest == 0 {
		err = errors.New("HAProxy has no process that takes connections at this moment")
	}
	if err == nil {
		err = d.changeCertificates(ctx, newest, before, wanted)
	}
	if err == nil {
		err = d.retire(ctx)
	}
	if err == nil {
		err = d.tell(ctx, newest, wanted)
	}
	if err == nil {
		err = d.served(ctx, wanted.generation)
	}
	return err
}

// retire tells old workers that they have a successor: it gets the requests that still come on connections which clients
// keep. Their own weights cannot be changed any more.
func (d *Driver) retire(ctx context.Context) error {
	_, old, err := d.master.workers(ctx)
	if err != nil {
		return err
	}
	for _, pid := range old {
		retired, err := d.retired(ctx, pid)
		if err == nil && !retired {
			err = d.master.all(ctx, pid, []string{fmt.Sprintf("add map %s %s 1", d.path(generationFile), retiredKey)})
		}
		if err == nil && !retired {
			if retired, err = d.retired(ctx, pid); err == nil && !retired {
				err = errors.New("an old process of HAProxy does not hear that it has a successor")
			}
		}
		if err != nil && !d.gone(ctx, pid, err) {
			return err
		}
	}
	return nil
}

// retired says whether a worker sends what it gets to its successor.
func (d *Driver) retired(ctx context.Context, pid int) (bool, error) {
	entries, err := d.master.entries(ctx, pid, d.path(generationFile))
	_, there := entries[retiredKey]
	return there, err
}

// gone says whether a worker has ended, which may be why it gave no answer.
func (d *Driver) gone(ctx context.Context, pid int, why error) bool {
	if errors.Is(why, errGone) {
		return true
	}
	newest, old, err := d.master.workers(ctx)
	return err == nil && pid != newest && !slices.Contains(old, pid)
}

// tell brings a worker to a plan, and looks whether that has worked before it gives it the generation.
func (d *Driver) tell(ctx context.Context, pid int, p *plan) error {
	const attempts = 3
	for range attempts {
		commands, err := d.differences(ctx, pid, p)
		if err != nil {
			return err
		}
		if len(commands) == 0 {
			return d.master.all(ctx, pid, []string{fmt.Sprintf("set map %s %s %s", d.path(generationFile), markerKey, p.generation)})
		}
		if err := d.master.all(ctx, pid, commands); err != nil {
			return err
		}
	}
	return errors.New("HAProxy does not take the weights that it is told")
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
	rows, err := d.master.servers(ctx, pid)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		servers, there := p.weights[r["pxname"]]
		if !there {
			continue // not a pool's
		}
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
		rows, err := d.master.servers(ctx, pid)
		if err != nil {
			if pid != newest && d.gone(ctx, pid, err) {
				continue
			}
			return nil, err
		}
		seen[pid] = rows
		if pid == newest || state.Generation == "" {
			continue
		}
		retired, err := d.retired(ctx, pid)
		if err != nil && !d.gone(ctx, pid, err) {
			return nil, err
		}
		if err == nil && !retired {
			state.Generation = "" // it still serves what it was made for
		}
	}
	d.mu.Lock()
	state.Targets = p.states(seen, newest, &d.counters)
	d.mu.Unlock()
	return state, nil
}
