// Package supervisor keeps processes running: it starts each one when what it needs is ready, restarts it with
// growing pauses when it ends, bounds its log file and tells its state.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Process describes one supervised program.
type Process struct {
	Name    string   `json:"name"`
	Command []string `json:"command"`
	Env     []string `json:"env,omitempty"` // added to the supervisor's own environment
	// Needs names processes that must be ready (or, with Once, done) before the first start.
	Needs []string `json:"needs,omitempty"`
	// Gate must answer before each start. It is for things outside this supervisor: a client that starts before its
	// server answers would retry with pauses that grow to half a minute.
	Gate  Probe `json:"gate,omitzero"`
	Ready Probe `json:"ready,omitzero"`
	// Once marks a program that does its work and ends; only a failure starts it again.
	Once bool   `json:"once,omitempty"`
	Log  string `json:"log"`
}

// State is where a process is in its life.
type State string

// The states a process can be in.
const (
	Waiting  State = "Waiting"  // for what it needs
	Starting State = "Starting" // running, its probe does not answer yet
	Ready    State = "Ready"
	Backoff  State = "Backoff" // ended, will be started again
	Stopped  State = "Stopped" // by request
	Frozen   State = "Frozen"  // by request: it accepts connections and never answers
	Done     State = "Done"    // a Once program that succeeded
)

// Status is what is known about a process.
type Status struct {
	Name      string    `json:"name"`
	State     State     `json:"state"`
	PID       int       `json:"pid,omitempty"`
	Restarts  int       `json:"restarts"`
	LastError string    `json:"lastError,omitempty"`
	Log       string    `json:"log,omitempty"`
	Since     time.Time `json:"since"`
}

// Pauses before a restart: the first, the longest, and how long a process must have run for the count to begin anew.
const (
	firstPause = 300 * time.Millisecond
	maxPause   = 10 * time.Second
	steady     = 30 * time.Second
	termGrace  = 3 * time.Second
	settling   = time.Second // how long a process without a probe must run to be taken for ready
	maxLog     = 16 << 20    // bytes of a log file; see Trim
	logCheck   = 10 * time.Second
)

// Launch starts a command and returns a function that waits for its end. It exists because in a PID namespace the
// first process must reap everybody's children, which does not go together with exec.Cmd.Wait.
type Launch func(*exec.Cmd) (wait func() error, err error)

// Exec launches the ordinary way.
func Exec(cmd *exec.Cmd) (func() error, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return cmd.Wait, nil
}

// Supervisor runs a fixed set of processes.
type Supervisor struct {
	launch    Launch
	processes []*process
	changed   chan struct{} // closed and replaced whenever a state changes
	mu        sync.Mutex    // guards changed and the mutable fields of every process
}

type process struct {
	Process
	status  Status
	wanted  bool
	started time.Time
	ending  string // why it last ended; while it is starting, the status tells what the probe says instead
}

// New prepares a supervisor; nothing runs before Run.
func New(launch Launch, processes []Process) (*Supervisor, error) {
	s := &Supervisor{launch: launch, changed: make(chan struct{})}
	for _, p := range processes {
		if s.find(p.Name) != nil || len(p.Command) == 0 {
			return nil, fmt.Errorf("process %q: needs a command and a name of its own", p.Name)
		}
		s.processes = append(s.processes, &process{Process: p, wanted: true,
			status: Status{Name: p.Name, State: Waiting, Log: p.Log, Since: time.Now()}})
	}
	for _, p := range processes {
		for _, need := range p.Needs {
			if s.find(need) == nil {
				return nil, fmt.Errorf("process %s needs %q, which is not there", p.Name, need)
			}
		}
	}
	return s, nil
}

// Run supervises until the context ends, then stops everything (SIGTERM, after a grace SIGKILL) and returns.
func (s *Supervisor) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, p := range s.processes {
		wg.Go(func() { s.supervise(ctx, p) })
	}
	wg.Go(func() { s.trimLogs(ctx) })
	wg.Wait()
}

// Status lists the processes in the order they were given.
func (s *Supervisor) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Status, len(s.processes))
	for i, p := range s.processes {
		out[i] = p.status
	}
	return out
}

// Start undoes Stop.
func (s *Supervisor) Start(name string) error {
	return s.with(name, func(p *process) error {
		p.wanted = true
		return nil
	})
}

// Stop ends a process and leaves it so until Start.
func (s *Supervisor) Stop(name string) error {
	return s.with(name, func(p *process) error {
		p.wanted = false
		return nil
	})
}

// Kill sends SIGKILL; the process comes back like after any crash.
func (s *Supervisor) Kill(name string) error {
	return s.with(name, func(p *process) error { return p.signal(syscall.SIGKILL) })
}

// Freeze suspends a process or, with false, lets it go on.
func (s *Supervisor) Freeze(name string, frozen bool) error {
	return s.with(name, func(p *process) error {
		if !frozen && p.status.State != Frozen {
			return nil
		}
		sig, state := syscall.SIGCONT, Ready
		if frozen {
			sig, state = syscall.SIGSTOP, Frozen
		}
		if err := p.signal(sig); err != nil {
			return err
		}
		p.status.State, p.status.Since = state, time.Now()
		return nil
	})
}

// signal goes to the whole process group, for programs that fork. The caller holds the lock.
func (p *process) signal(sig syscall.Signal) error {
	if p.status.PID == 0 {
		return fmt.Errorf("%s does not run (%s)", p.Name, p.status.State)
	}
	if err := syscall.Kill(-p.status.PID, sig); err != nil {
		return fmt.Errorf("signalling %s: %w", p.Name, err)
	}
	return nil
}

func (s *Supervisor) with(name string, do func(*process) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.find(name)
	if p == nil {
		return fmt.Errorf("no process %q here", name)
	}
	defer s.announce()
	return do(p)
}

func (s *Supervisor) find(name string) *process {
	i := slices.IndexFunc(s.processes, func(p *process) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return s.processes[i]
}

// announce wakes everybody in await. The caller holds the lock.
func (s *Supervisor) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Supervisor) set(p *process, state State, change func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.status.State != state {
		p.status.State, p.status.Since = state, time.Now()
	}
	if change != nil {
		change(&p.status)
	}
	s.announce()
}

// await blocks until cond, which is called under the lock, holds; false when the context or the time ended first.
func (s *Supervisor) await(ctx context.Context, timeout time.Duration, cond func() bool) bool {
	var after <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		after = timer.C
	}
	for {
		s.mu.Lock()
		ok, changed := cond(), s.changed
		s.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-after:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// supervise is the life of one process.
func (s *Supervisor) supervise(ctx context.Context, p *process) {
	pause := firstPause
	for ctx.Err() == nil {
		if !s.wants(p) {
			s.set(p, Stopped, func(st *Status) { st.PID = 0 })
		}
		if !s.await(ctx, 0, func() bool { return p.wanted }) {
			return
		}
		s.set(p, Waiting, nil)
		if !s.await(ctx, 0, func() bool { return s.satisfied(p) || !p.wanted }) {
			return
		}
		if !s.passGate(ctx, p) {
			continue
		}
		err := s.once(ctx, p)
		if ctx.Err() != nil {
			return
		}
		if !s.wants(p) {
			continue
		}
		if p.Once && err == nil {
			s.set(p, Done, func(st *Status) { st.PID, st.LastError = 0, "" })
			if !s.await(ctx, 0, func() bool { return !p.wanted }) {
				return
			}
			continue
		}
		if time.Since(p.started) > steady {
			pause = firstPause
		}
		s.set(p, Backoff, func(st *Status) {
			p.ending = describe(err)
			st.PID, st.LastError = 0, p.ending
			st.Restarts++
		})
		s.await(ctx, pause, func() bool { return !p.wanted })
		pause = min(2*pause, maxPause)
	}
}

// passGate waits for the gate; false when the process is no longer wanted, or nothing is.
func (s *Supervisor) passGate(ctx context.Context, p *process) bool {
	for s.wants(p) && ctx.Err() == nil {
		err := p.Gate.Check(ctx)
		if err == nil {
			return true
		}
		s.set(p, Waiting, func(st *Status) { st.LastError = err.Error() })
		s.await(ctx, 100*time.Millisecond, func() bool { return !p.wanted })
	}
	return false
}

func (s *Supervisor) wants(p *process) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.wanted
}

// satisfied is called under the lock.
func (s *Supervisor) satisfied(p *process) bool {
	for _, need := range p.Needs {
		if n := s.find(need); n.status.State != Ready && n.status.State != Done {
			return false
		}
	}
	return true
}

func describe(err error) string {
	if err == nil {
		return "ended by itself (exit status 0)"
	}
	return err.Error()
}

// once runs the process until it ends, is stopped or the context ends.
func (s *Supervisor) once(ctx context.Context, p *process) error {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(p.Command[0], p.Command[1:]...) //nolint:noctx // terminate ends it, with more patience than a context
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.started = time.Now()
	wait, err := s.launch(cmd)
	if err != nil {
		return fmt.Errorf("starting: %w", err)
	}
	s.set(p, Starting, func(st *Status) { st.PID = cmd.Process.Pid })
	ended := make(chan error, 1)
	go func() { ended <- wait() }()
	probing, cancel := context.WithCancel(ctx)
	defer cancel()
	if !p.Once {
		go s.probe(probing, p)
	}
	unwanted := make(chan struct{})
	go func() {
		s.await(probing, 0, func() bool { return !p.wanted })
		close(unwanted)
	}()
	select {
	case err := <-ended:
		return err
	case <-unwanted: // also when ctx ends
	}
	return s.terminate(cmd.Process.Pid, ended)
}

func (s *Supervisor) terminate(pid int, ended <-chan error) error {
	_ = syscall.Kill(-pid, syscall.SIGTERM)
	_ = syscall.Kill(-pid, syscall.SIGCONT) // a frozen process cannot act on SIGTERM
	select {
	case err := <-ended:
		return err
	case <-time.After(termGrace):
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	return errors.Join(fmt.Errorf("did not end within %s of SIGTERM", termGrace), <-ended)
}

// probed records the answer of a probe, unless the process has left the Starting state meanwhile. It reports whether
// probing is over.
func (s *Supervisor) probed(p *process, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case p.status.State == Frozen:
		return false
	case p.status.State != Starting:
		return true
	case err != nil:
		p.status.LastError = err.Error()
		return false
	}
	p.status.State, p.status.Since, p.status.LastError = Ready, time.Now(), p.ending
	s.announce()
	return true
}

// probe asks until the process answers; it is Ready from then on until it ends.
func (s *Supervisor) probe(ctx context.Context, p *process) {
	if p.Ready.URL == "" { // one that ends at once must not look ready for a moment
		select {
		case <-ctx.Done():
			return
		case <-time.After(settling):
		}
	}
	for {
		err := p.Ready.Check(ctx)
		if ctx.Err() != nil {
			return
		}
		if s.probed(p, err) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}
