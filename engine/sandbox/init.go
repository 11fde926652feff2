package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"yunfan.io/engine/cgroup"
	"yunfan.io/engine/control"
	"yunfan.io/engine/supervisor"
)

// inside marks the second stage of an init.
const inside = "--inside"

// Init is the main function of the first process of a unit; args is the path of its spec. The first stage waits until
// the daemon has put it into its cgroups and wired its network, takes a cgroup namespace of its own (only possible
// from within the right cgroup) and executes itself again, so that every thread has it.
func Init(args []string) error {
	if len(args) == 2 && args[0] == inside {
		return run(args[1])
	}
	if len(args) != 1 {
		return errors.New("usage: yunfan-engine init SPEC (started by the daemon only)")
	}
	spec, err := load(args[0])
	if err != nil {
		return err
	}
	goAhead := os.NewFile(3, "go-ahead")
	if n, _ := io.ReadFull(goAhead, make([]byte, 1)); n != 1 {
		return errors.New("waiting for the daemon: it ended before this unit was prepared")
	}
	_ = goAhead.Close()
	runtime.LockOSThread()
	if spec.Isolated() {
		if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
			return fmt.Errorf("making a cgroup namespace: %w", err)
		}
	}
	err = unix.Exec(spec.Program, []string{"yunfan-engine", "init", inside, args[0]}, os.Environ())
	return fmt.Errorf("executing %s: %w", spec.Program, err)
}

func run(path string) error {
	spec, err := load(path)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := prepare(ctx, spec); err != nil {
		return err
	}
	listener, err := control.Listen(spec.Socket())
	if err != nil {
		return err
	}
	children := newReaper()
	s, err := supervisor.New(children.launch, spec.Processes)
	if err != nil {
		return err
	}
	serving, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- control.Serve(serving, listener, handler(s)) }()
	go children.run(serving)
	rest := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(rest)
		terminateRest()
	})
	s.Run(ctx)
	<-rest
	cancel()
	return <-served
}

const restGrace = 3 * time.Second

// terminateRest asks everything in the unit, the containers of pods above all, to end in order before the kernel
// kills what is left.
func terminateRest() {
	_ = unix.Kill(-1, unix.SIGTERM)
	for deadline := time.After(restGrace); ; {
		if unix.Kill(-1, 0) != nil { // nobody is left
			return
		}
		select {
		case <-deadline:
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func handler(s *supervisor.Supervisor) http.Handler {
	mux := http.NewServeMux()
	control.Handle(mux, "/status", func(context.Context, struct{}) ([]supervisor.Status, error) { return s.Status(), nil })
	verb := func(path string, do func(string) error) {
		control.Handle(mux, path, func(_ context.Context, r Request) (struct{}, error) { return struct{}{}, do(r.Process) })
	}
	verb("/start", s.Start)
	verb("/stop", s.Stop)
	verb("/kill", s.Kill)
	verb("/freeze", func(name string) error { return s.Freeze(name, true) })
	verb("/heal", func(name string) error { return s.Freeze(name, false) })
	return mux
}

// prepare makes the unit's view of the machine.
func prepare(ctx context.Context, spec *Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := mountFS("proc", "/proc"); err != nil {
		return err
	}
	for _, e := range spec.Env {
		if name, value, ok := strings.Cut(e, "="); ok {
			if err := os.Setenv(name, value); err != nil {
				return fmt.Errorf("setting environment: %w", err)
			}
		}
	}
	if !spec.Isolated() {
		return nil
	}
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("setting host name: %w", err)
	}
	if spec.PrivateFS {
		if err := privateFS(spec); err != nil {
			return err
		}
	}
	for _, b := range spec.Binds {
		if err := bind(b); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Sysctls)) {
		if err := os.WriteFile(filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/")), []byte(spec.Sysctls[name]), 0o644); err != nil {
			return fmt.Errorf("setting sysctl: %w", err)
		}
	}
	if spec.Rules == "" {
		return nil
	}
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(spec.Rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("loading nftables rules: %w: %s", err, out)
	}
	return nil
}

// privateFS mounts fresh /sys, cgroups and /run, as a machine of its own would have.
func privateFS(spec *Spec) error {
	if err := mountFS("sysfs", "/sys"); err != nil {
		return err
	}
	if len(spec.CgroupV1) == 0 {
		if err := mountFS("cgroup2", "/sys/fs/cgroup"); err != nil {
			return err
		}
		return errors.Join(leaf("/sys/fs/cgroup"), runDir())
	}
	if err := unix.Mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mounting /sys/fs/cgroup: %w", err)
	}
	for _, set := range spec.CgroupV1 {
		options := set
		if name, named := strings.CutPrefix(set, "name="); named {
			options, set = "none,name="+name, name
		}
		dir := filepath.Join("/sys/fs/cgroup", set)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("mounting cgroup %s: %w", set, err)
		}
		if err := unix.Mount("cgroup", dir, "cgroup", 0, options); err != nil {
			return fmt.Errorf("mounting cgroup %s: %w", set, err)
		}
		// Programs look for cpu and cpuacct by their own names, also where both are one mount.
		for controller := range strings.SplitSeq(set, ",") {
			if err := os.Symlink(set, filepath.Join("/sys/fs/cgroup", controller)); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("mounting cgroup %s: %w", set, err)
			}
		}
	}
	return runDir()
}

// leaf moves this process below the root of its cgroup namespace: cgroup v2 allows no processes in a group that
// hands controllers to others, and kubelet makes its groups right below the root.
func leaf(root string) error {
	dir := filepath.Join(root, "init")
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making cgroup: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return fmt.Errorf("joining cgroup: %w", err)
	}
	return cgroup.Delegate(root)
}

func runDir() error {
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mounting /run: %w", err)
	}
	// Shared, because CNI plugins pin network namespaces below it and pods may see it.
	if err := unix.Mount("", "/run", "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("sharing /run: %w", err)
	}
	return os.MkdirAll("/run/netns", 0o755)
}

func bind(b Bind) error {
	if err := os.MkdirAll(b.Source, 0o755); err != nil {
		return fmt.Errorf("binding %s: %w", b.Target, err)
	}
	if err := unix.Mount(b.Source, b.Target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("binding %s: %w", b.Target, err)
	}
	// Shared, so that volumes mounted by kubelet appear in containers that ask for propagation.
	if err := unix.Mount("", b.Target, "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("sharing %s: %w", b.Target, err)
	}
	return nil
}

func mountFS(kind, target string) error {
	if err := unix.Mount(kind, target, kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting %s: %w", target, err)
	}
	return nil
}
