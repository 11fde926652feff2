package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"yunfan.io/engine/cgroup"
	"yunfan.io/engine/control"
	"yunfan.io/engine/supervisor"
	"yunfan.io/engine/topology"
)

// Running is a started unit as the daemon sees it.
type Running struct {
	Spec  *Spec         `json:"-"`
	Group *cgroup.Group `json:"-"` // nil for services
	PID   int           `json:"pid"`
	// StartTime (clock ticks after boot) tells this process from a later one with the same id.
	StartTime uint64 `json:"startTime"`
	// Since is when it was started, by the clock.
	Since time.Time     `json:"since"`
	ended chan struct{} // closed when a process we started ourselves has been waited for
}

// Launch starts a unit. connect wires its network, given its process id, before anything in it runs.
func Launch(spec *Spec, group *cgroup.Group, connect func(pid int) error) (*Running, error) {
	if err := spec.save(); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(spec.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("opening log of %s: %w", spec.Unit, err)
	}
	defer log.Close()
	ready, goAhead, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Unit, err)
	}
	defer ready.Close()
	defer goAhead.Close()
	cmd := exec.Command(spec.Program, "init", spec.file()) //nolint:noctx // it outlives the daemon
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{ready}
	cmd.Dir = "/"
	flags := uintptr(unix.CLONE_NEWPID | unix.CLONE_NEWNS)
	if spec.Isolated() {
		flags |= unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
	}
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: flags, Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Unit, err)
	}
	r := &Running{Spec: spec, Group: group, PID: cmd.Process.Pid, Since: time.Now(), ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // why it ended is in its log
		close(r.ended)
	}()
	if err := r.prepare(connect); err != nil {
		_ = unix.Kill(r.PID, unix.SIGKILL)
		<-r.ended
		return nil, fmt.Errorf("starting %s: %w", spec.Unit, err)
	}
	if _, err := goAhead.Write([]byte{1}); err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Unit, err)
	}
	return r, nil
}

func (r *Running) prepare(connect func(pid int) error) error {
	var err error
	if r.StartTime, err = startTime(r.PID); err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("recording: %w", err)
	}
	if err := topology.WriteFile(r.Spec.record(), data, 0o600); err != nil {
		return err
	}
	if r.Group != nil {
		if err := r.Group.Join(r.PID); err != nil {
			return err
		}
	}
	return connect(r.PID)
}

// Adopt finds the unit started by a former daemon; nil if it does not run.
func Adopt(spec *Spec, group *cgroup.Group) *Running {
	data, err := os.ReadFile(spec.record())
	if err != nil {
		return nil
	}
	r := &Running{Spec: spec, Group: group}
	if json.Unmarshal(data, r) != nil || !r.Alive() {
		return nil
	}
	return r
}

// Alive tells whether the unit's first process is there.
func (r *Running) Alive() bool {
	started, err := startTime(r.PID)
	return err == nil && started == r.StartTime
}

// Wait blocks until the unit has ended (true) or the context has (false).
func (r *Running) Wait(ctx context.Context) bool {
	if r.ended != nil {
		select {
		case <-r.ended:
			return true
		case <-ctx.Done():
			return false
		}
	}
	// Not our child: a pidfd becomes readable when the process ends.
	fd, err := unix.PidfdOpen(r.PID, 0)
	if err != nil || !r.Alive() {
		return true
	}
	defer func() { _ = unix.Close(fd) }()
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 500)
		if n > 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
			return true
		}
	}
	return false
}

// Stop ends the unit: with grace, its programs and pods are first asked to; without, it is as if the power failed.
func (r *Running) Stop(ctx context.Context, grace time.Duration) error {
	if grace > 0 && r.Alive() {
		_ = unix.Kill(r.PID, unix.SIGTERM)
		waiting, cancel := context.WithTimeout(ctx, grace)
		r.Wait(waiting)
		cancel()
	}
	if r.Alive() {
		_ = unix.Kill(r.PID, unix.SIGKILL)
	}
	if r.Group != nil { // what a frozen group holds cannot even die
		if err := r.Group.Freeze(ctx, false); err != nil {
			return fmt.Errorf("stopping %s: %w", r.Spec.Unit, err)
		}
	}
	if !r.Wait(ctx) {
		return fmt.Errorf("stopping %s: process %d does not end: %w", r.Spec.Unit, r.PID, ctx.Err())
	}
	return nil
}

// Call sends a request about one process to the unit's init.
func (r *Running) Call(ctx context.Context, verb, process string) error {
	return control.Client{Path: r.Spec.Socket()}.Call(ctx, "/"+verb, Request{process}, nil)
}

// Status asks the unit's init about its processes. Process ids are those of the host.
func (r *Running) Status(ctx context.Context) ([]supervisor.Status, error) {
	var out []supervisor.Status
	client := control.Client{Path: r.Spec.Socket(), Timeout: 2 * time.Second}
	if err := client.Call(ctx, "/status", struct{}{}, &out); err != nil {
		return nil, fmt.Errorf("asking %s: %w", r.Spec.Unit, err)
	}
	outer := r.hostPIDs()
	for i := range out {
		out[i].PID = outer[out[i].PID]
	}
	return out, nil
}

// hostPIDs maps process ids as the init sees them to those of the host, for the init's own children.
func (r *Running) hostPIDs() map[int]int {
	out := map[int]int{}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", r.PID))
	for _, list := range lists {
		data, _ := os.ReadFile(list)
		for child := range strings.FieldsSeq(string(data)) {
			status, _ := os.ReadFile("/proc/" + child + "/status")
			for line := range strings.Lines(string(status)) {
				ids, ok := strings.CutPrefix(line, "NSpid:")
				if fields := strings.Fields(ids); ok && len(fields) > 1 {
					host, _ := strconv.Atoi(child)
					own, _ := strconv.Atoi(fields[1])
					out[own] = host
				}
			}
		}
	}
	return out
}

// startTime reads field 22 of /proc/PID/stat. A zombie counts as gone.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("process %d is gone", pid)
	}
	if err != nil {
		return 0, fmt.Errorf("reading process %d: %w", pid, err)
	}
	// The second field, the name in brackets, may hold anything.
	_, rest, _ := strings.Cut(string(data[bytes.LastIndexByte(data, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0, fmt.Errorf("process %d is gone", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// Forget deletes the record and the socket of a unit that has ended.
func (s *Spec) Forget() error {
	for _, file := range []string{s.record(), s.Socket()} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forgetting unit: %w", err)
		}
	}
	return nil
}
