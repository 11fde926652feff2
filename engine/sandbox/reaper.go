package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// reaper collects every child that ends: the first process of a PID namespace inherits all orphans, and those nobody
// waits for would stay zombies. Since wait4(-1) also takes the supervised children, their endings are handed on.
type reaper struct {
	mu      sync.Mutex // held while starting, so that no child ends before it is known
	waiting map[int]chan unix.WaitStatus
}

func newReaper() *reaper { return &reaper{waiting: map[int]chan unix.WaitStatus{}} }

// launch is a supervisor.Launch.
func (r *reaper) launch(cmd *exec.Cmd) (func() error, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan unix.WaitStatus, 1)
	r.waiting[cmd.Process.Pid] = ended
	return func() error { return exitError(<-ended) }, nil
}

func (r *reaper) run(ctx context.Context) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGCHLD)
	defer signal.Stop(signals)
	for {
		r.collect()
		select {
		case <-signals:
		case <-ctx.Done():
			return
		}
	}
}

func (r *reaper) collect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if pid <= 0 {
			return
		}
		if ended, ok := r.waiting[pid]; ok {
			delete(r.waiting, pid)
			ended <- status
		}
	}
}

func exitError(status unix.WaitStatus) error {
	switch {
	case status.Signaled():
		return fmt.Errorf("signal: %s", status.Signal())
	case status.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", status.ExitStatus())
	}
	return nil
}
