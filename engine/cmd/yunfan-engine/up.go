package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"yunfan.io/engine/control"
	"yunfan.io/engine/daemon"
	"yunfan.io/engine/host"
	"yunfan.io/engine/supervisor"
	"yunfan.io/engine/topology"
)

const (
	poll        = 200 * time.Millisecond
	logLines    = 15
	maxRestarts = 5 // after which a process that is not ready is given up
	callTimeout = 90 * time.Second
)

type pathsFunc func() (topology.Paths, error)

func up(paths pathsFunc) *cobra.Command {
	var name, config string
	var timeout time.Duration
	cmd := &cobra.Command{Use: "up", Short: "Start the instance, or what is missing of it, and wait until everything is Ready", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := paths()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			if err := prepareDataDir(p, name, config); err != nil {
				return err
			}
			if err := ensureDaemon(ctx, p); err != nil {
				return err
			}
			return awaitReady(ctx, p, "", cmd.ErrOrStderr())
		}}
	cmd.Flags().StringVar(&name, "name", "", "name of a new instance (default \"default\")")
	cmd.Flags().StringVar(&config, "config", "", "topology file to use from now on (default: the one in the data directory, or one hub and two members)")
	cmd.Flags().DurationVar(&timeout, "timeout", 120*time.Second, "how long to wait for everything to be Ready")
	return cmd
}

// prepareDataDir writes engine.yaml if it is missing or another one is given.
func prepareDataDir(p topology.Paths, name, config string) error {
	if err := os.MkdirAll(filepath.Join(p.Data, "log"), 0o755); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	if config != "" {
		t, err := topology.Load(config)
		if err != nil {
			return err
		}
		if name != "" {
			t.Name = name
		}
		return t.Save(p.Config())
	}
	t, err := topology.Load(p.Config())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if name == "" {
			name = "default"
		}
		return topology.Default(name).Save(p.Config())
	case err != nil:
		return err
	case name != "" && name != t.Name:
		return fmt.Errorf("the instance in %s is called %s: leave out --name or choose another --data-dir", p.Data, t.Name)
	}
	return nil
}

// ensureDaemon starts a daemon, or tells the running one to bring everything up. Two commands at once take turns.
func ensureDaemon(ctx context.Context, p topology.Paths) error {
	dir, err := os.Open(p.Data)
	if err != nil {
		return fmt.Errorf("opening the data directory: %w", err)
	}
	defer func() { _ = dir.Close() }()
	for unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for another `up` on %s: %w", p.Data, ctx.Err())
		case <-time.After(poll):
		}
	}
	client := control.Client{Path: p.Socket(), Timeout: callTimeout}
	err = client.Call(ctx, "/up", struct{}{}, nil)
	var refused *control.Error
	if err == nil || errors.As(err, &refused) {
		return err
	}
	programs, err := topology.FindPrograms()
	if err != nil {
		return fmt.Errorf("finding the engine's programs: %w", err)
	}
	facts, err := host.Gather(ctx, programs, p.Data)
	if err != nil {
		return err
	}
	if err := facts.Check(); err != nil {
		return fmt.Errorf("this machine cannot run the engine: %w", err)
	}
	return startDaemon(ctx, p, programs)
}

func startDaemon(ctx context.Context, p topology.Paths, programs topology.Programs) error {
	if err := supervisor.Trim(p.DaemonLog()); err != nil {
		return err
	}
	log, err := os.OpenFile(p.DaemonLog(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("opening the daemon's log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(programs.Path("yunfan-engine"), "daemon", "--data-dir", p.Data) //nolint:noctx // it outlives this command
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// A proxy is for the world outside: clusters are inside this machine.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return strings.HasSuffix(strings.ToLower(name), "_proxy")
	})
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		if err := (control.Client{Path: p.Socket(), Timeout: callTimeout}).Call(ctx, "/ping", struct{}{}, nil); err == nil {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("the daemon ended (%w): %s", err, strings.Join(supervisor.Tail(p.DaemonLog(), logLines), "\n"))
		case <-ctx.Done():
			return fmt.Errorf("waiting for the daemon: %w: see %s", ctx.Err(), p.DaemonLog())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// awaitReady shows what is being waited for until everything, or one cluster, is Ready, and explains a failure.
func awaitReady(ctx context.Context, p topology.Paths, cluster string, progress io.Writer) error {
	client := control.Client{Path: p.Socket()}
	w := wait{begun: time.Now(), out: progress, shown: map[string]string{}, restarts: map[string]int{}}
	var s daemon.Status
	for {
		var now daemon.Status
		if err := client.Call(ctx, "/status", struct{}{}, &now); err == nil {
			s = now
			if cluster != "" {
				s.Narrow(cluster)
			}
			w.show(&s)
			if s.State == daemon.Ready {
				return nil
			}
			if w.hopeless(&s) {
				return explain(&s, errors.New("a process keeps failing"))
			}
		}
		select {
		case <-ctx.Done():
			return explain(&s, fmt.Errorf("not Ready after %s", time.Since(w.begun).Round(time.Second)))
		case <-time.After(poll):
		}
	}
}

// wait is what a command remembers while it waits.
type wait struct {
	begun    time.Time
	out      io.Writer
	shown    map[string]string
	restarts map[string]int // of each culprit when it was first seen: what failed before this command does not count
}

// show prints a line for every cluster and service that changed.
func (w *wait) show(s *daemon.Status) {
	say := func(what, state string) {
		if w.shown[what] != state {
			fmt.Fprintf(w.out, "%6.1fs  %-12s %s\n", time.Since(w.begun).Seconds(), what, state)
			w.shown[what] = state
		}
	}
	for _, c := range s.Clusters {
		say(c.Name, describe(c.State, c.Message))
	}
	for _, p := range s.Processes {
		if name, isService := strings.CutPrefix(p.Target, "services/"); isService && strings.Contains(name, "/") {
			say(p.Name, string(p.State))
		}
	}
}

// hopeless tells whether waiting longer would not help.
func (w *wait) hopeless(s *daemon.Status) bool {
	c := s.Culprit()
	if c == nil {
		return false
	}
	if _, known := w.restarts[c.Target]; !known {
		w.restarts[c.Target] = c.Restarts
	}
	return c.Restarts-w.restarts[c.Target] >= maxRestarts
}

// describe shortens connection errors, which would change with every try.
func describe(state, message string) string {
	message, _, _ = strings.Cut(message, ": ")
	if message == "" {
		return state
	}
	return state + ", " + message
}

// explain names what is to blame and shows the end of its log.
func explain(s *daemon.Status, cause error) error {
	var text strings.Builder
	for _, c := range s.Clusters {
		if c.State != daemon.Ready {
			fmt.Fprintf(&text, "\ncluster %s: %s: %s", c.Name, c.State, c.Message)
		}
	}
	if c := s.Culprit(); c != nil {
		fmt.Fprintf(&text, "\n%s is %s after %d restarts: %s\nlast lines of %s:", c.Target, c.State, c.Restarts, c.LastError, c.Log)
		for _, line := range supervisor.Tail(c.Log, logLines) {
			fmt.Fprintf(&text, "\n  %s", line)
		}
	}
	return fmt.Errorf("%w%s", cause, text.String())
}
