package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"yunfan.io/engine/cgroup"
	"yunfan.io/engine/network"
	"yunfan.io/engine/sandbox"
	"yunfan.io/engine/supervisor"
)

// Pauses between restarts of a unit.
const (
	unitPause    = 500 * time.Millisecond
	maxUnitPause = 10 * time.Second
	unitSteady   = time.Minute
)

// unit is a control plane, a node or a service that the daemon keeps running.
type unit struct {
	name  string // "beijing/control-plane", "beijing/beijing-1", "services/registry"
	build func() (*sandbox.Spec, error)
	group *cgroup.Group // nil for services
	port  *network.Port // nil for services
	wire  func(pid int) error
	gate  func(context.Context) error // waited for before the first start

	log    *slog.Logger
	stop   context.CancelFunc // ends keep without ending the unit
	kept   chan struct{}      // closed when keep has returned
	mu     sync.Mutex
	wanted bool
	change chan struct{} // closed and replaced when wanted changes
	run    *sandbox.Running
	spec   *sandbox.Spec
	state  supervisor.Status // of the unit's init
}

func (u *unit) init(log *slog.Logger) {
	u.log = log.With("unit", u.name)
	u.wanted, u.change, u.kept = true, make(chan struct{}), make(chan struct{})
	u.state = supervisor.Status{Name: "init", State: supervisor.Waiting, Since: time.Now()}
	u.wire = func(int) error { return nil }
	if u.gate == nil {
		u.gate = func(context.Context) error { return nil }
	}
}

// keep runs the unit, or adopts it if it runs already, and starts it again whenever it ends while it is wanted. The
// unit outlives the end of the context.
func (u *unit) keep(ctx context.Context) {
	defer close(u.kept)
	pause := unitPause
	for ctx.Err() == nil {
		if !u.awaitWanted(ctx) {
			return
		}
		started := time.Now()
		run, err := u.begin(ctx)
		if err == nil {
			u.log.Info("unit runs", "pid", run.PID)
			u.set(func() { u.run, u.state.State, u.state.PID = run, supervisor.Ready, run.PID })
			if !u.isWanted() { // stopped while it was starting
				err = run.Stop(ctx, 0)
			}
			if !run.Wait(ctx) {
				return
			}
			err = errors.Join(err, fmt.Errorf("the first process ended: %s", strings.Join(supervisor.Tail(run.Spec.Log(), 2), "; ")))
		}
		if ctx.Err() != nil {
			return
		}
		u.log.Warn("unit ended", "wanted", u.isWanted(), "error", err)
		if time.Since(started) > unitSteady {
			pause = unitPause
		}
		u.set(func() {
			u.run, u.state.PID = nil, 0
			u.state.State = supervisor.Stopped
			if u.wanted {
				u.state.State, u.state.LastError = supervisor.Backoff, err.Error()
				u.state.Restarts++
			}
		})
		if u.isWanted() {
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, maxUnitPause)
		}
	}
}

func (u *unit) begin(ctx context.Context) (*sandbox.Running, error) {
	if err := u.gate(ctx); err != nil {
		return nil, err
	}
	spec, err := u.build()
	if err != nil {
		return nil, err
	}
	u.set(func() { u.spec, u.state.Log = spec, spec.Log() })
	if run := sandbox.Adopt(spec, u.group); run != nil {
		return run, nil
	}
	if u.group != nil && u.group.Exists() { // what a dead unit left in its cgroups would spoil the counters
		clean, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		u.group.Kill()
		if err := u.group.Remove(clean); err != nil {
			return nil, err
		}
	}
	return sandbox.Launch(spec, u.group, u.wire)
}

func (u *unit) set(change func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	before := u.state.State
	change()
	if u.state.State != before {
		u.state.Since = time.Now()
	}
}

func (u *unit) isWanted() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.wanted
}

func (u *unit) want(wanted bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.wanted = wanted
	close(u.change)
	u.change = make(chan struct{})
}

func (u *unit) awaitWanted(ctx context.Context) bool {
	for {
		u.mu.Lock()
		wanted, change := u.wanted, u.change
		u.mu.Unlock()
		if wanted {
			return true
		}
		select {
		case <-change:
		case <-ctx.Done():
			return false
		}
	}
}

func (u *unit) running() *sandbox.Running {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.run
}

// since tells when the running unit was started; zero, so that nothing is too old, for a unit that does not run.
func (u *unit) since() time.Time {
	if u == nil {
		return time.Time{}
	}
	if run := u.running(); run != nil {
		return run.Since.Truncate(time.Second) // as times are in the API
	}
	return time.Time{}
}

// end stops the unit until it is wanted again.
func (u *unit) end(ctx context.Context, grace time.Duration) error {
	u.want(false)
	if run := u.running(); run != nil {
		return run.Stop(ctx, grace)
	}
	return nil
}

// retire ends the unit and its keeper, keeping its data.
func (u *unit) retire(ctx context.Context) error {
	u.stop()
	<-u.kept
	return u.end(ctx, stopGrace)
}

// runs tells whether the unit is a service with this command.
func (u *unit) runs(command, env []string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.spec != nil && slices.Equal(u.spec.Processes[0].Command, command) && slices.Equal(u.spec.Processes[0].Env, env)
}

// destroy ends the unit for good and deletes its directory.
func (u *unit) destroy(ctx context.Context, dir string) error {
	if err := u.retire(ctx); err != nil {
		return err
	}
	if u.group != nil {
		u.group.Kill()
		if err := u.group.Remove(ctx); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("deleting data of %s: %w", u.name, err)
	}
	return nil
}

// target is the name of one of the unit's processes in commands and status.
func (u *unit) target(process string) string {
	if base, ok := strings.CutSuffix(u.name, "/control-plane"); ok {
		return base + "/" + process
	}
	return u.name + "/" + process
}

// status of the unit's first process and, through it, of the others. A frozen unit is not asked: it cannot answer.
func (u *unit) status(ctx context.Context, frozen bool) []ProcessStatus {
	u.mu.Lock()
	run, spec := u.run, u.spec
	out := []ProcessStatus{{u.state, u.name}}
	u.mu.Unlock()
	var processes []supervisor.Status
	var err error
	others := supervisor.Waiting
	switch {
	case frozen:
		out[0].State, others = supervisor.Frozen, supervisor.Frozen
	case run != nil:
		if processes, err = run.Status(ctx); err != nil {
			out[0].LastError = err.Error()
		}
	case out[0].State == supervisor.Stopped:
		others = supervisor.Stopped
	}
	if processes == nil && spec != nil { // not running or not answering: what is known is what should be there
		for _, p := range spec.Processes {
			processes = append(processes, supervisor.Status{Name: p.Name, State: others, Log: p.Log, Since: out[0].Since})
		}
	}
	for _, p := range processes {
		out = append(out, ProcessStatus{p, u.target(p.Name)})
	}
	return out
}
