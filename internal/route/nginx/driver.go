// Package nginx drives one Nginx: it renders its configuration, has Nginx check it and read it again, probes the servers,
// and counts what is in flight, at processes that read an older configuration too.
//
// Requests pass Nginx twice: the side that clients see chooses the target by weight, and hands the request over a Unix
// socket to the side of that target, which adds the partition's name and chooses the server. So the sockets' connections
// are the requests in flight of each target.
package nginx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"yunfan.io/yunfan/internal/route/edge"
	"yunfan.io/yunfan/internal/route/probe"
	"yunfan.io/yunfan/internal/route/table"
)

// driver brings tables to one Nginx.
type driver struct {
	settings edge.Settings
	program  string
	version  string
	prober   *probe.Prober
	answers  *answers
	// changed says that servers went down or came up.
	changed chan struct{}

	mu          sync.Mutex
	process     *edge.Process
	closed      bool
	table       *table.Table
	generation  string
	unsupported []string
	problem     string
	written     []byte
	// leaving are targets that the table has no more, whose requests may be under way.
	leaving map[string]side
}

var _ edge.New = New

// New makes a driver of an Nginx of its own, which begins with the first table.
func New(ctx context.Context, s edge.Settings) (edge.Driver, error) {
	if s.HTTP == "" && s.HTTPS == "" {
		return nil, errors.New("nginx needs an address at which requests arrive")
	}
	program, err := find(s.Program)
	if err != nil {
		return nil, err
	}
	d := &driver{settings: s, program: program, changed: make(chan struct{}, 1), leaving: map[string]side{}}
	if d.version, err = version(ctx, program); err != nil {
		return nil, err
	}
	// The workers are nobody, and reach the sockets by names relative to this folder.
	if err := os.MkdirAll(d.run(), 0o711); err != nil {
		return nil, fmt.Errorf("making the folder for sockets: %w", err)
	}
	if d.answers, err = listen(ctx, d.run()); err != nil {
		return nil, err
	}
	d.prober = probe.New(func() {
		select {
		case d.changed <- struct{}{}:
		default:
		}
	})
	go d.prober.Run(ctx)
	go d.follow(ctx)
	return d, nil
}

func (d *driver) run() string { return filepath.Join(d.settings.Dir, "run") }

// find gives Nginx's program, which is not in everybody's path.
func find(program string) (string, error) {
	if program != "" {
		return program, nil
	}
	if path, err := exec.LookPath("nginx"); err == nil {
		return path, nil
	}
	for _, path := range []string{"/usr/sbin/nginx", "/usr/local/sbin/nginx"} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("finding Nginx: install it (on Debian nginx-light), or name it with --program")
}

// version asks the program for its version.
func version(ctx context.Context, program string) (string, error) {
	output, err := exec.CommandContext(ctx, program, "-v").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("asking Nginx for its version: %w: %s", err, output)
	}
	_, number, _ := strings.Cut(strings.TrimSpace(string(output)), "nginx/")
	return "nginx " + number, nil
}

// follow writes the configuration anew when servers went down or came up.
func (d *driver) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.changed:
			d.mu.Lock()
			if d.table != nil {
				if err := d.write(ctx, d.table, d.generation); err != nil {
					d.settings.Log.ErrorContext(ctx, "Nginx's configuration could not be written", "error", err)
				}
			}
			d.mu.Unlock()
		}
	}
}

// Apply makes the table what Nginx should serve.
func (d *driver) Apply(ctx context.Context, t *table.Table) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.problem = ""
	if err := d.apply(ctx, t); err != nil {
		d.problem = err.Error()
		return err
	}
	return nil
}

func (d *driver) apply(ctx context.Context, t *table.Table) error {
	if d.closed {
		return errors.New("the driver of Nginx was closed")
	}
	generation, err := t.Generation()
	if err != nil {
		return err
	}
	usable, left := t.Usable()
	d.leave(usable)
	d.prober.Set(usable)
	if err := d.write(ctx, usable, generation); err != nil {
		return err
	}
	d.table, d.generation, d.unsupported = usable, generation, slices.Concat(left, lacks(usable))
	if d.process == nil {
		d.process = edge.StartProcess(d.command, syscall.SIGQUIT, d.settings.Log)
	}
	return nil
}

// leave remembers the targets that go: requests may be on the way to them. When no process is left that knew them as
// theirs they are forgotten.
func (d *driver) leave(next *table.Table) {
	if d.process != nil {
		if _, old := workers(d.process.PID()); old == 0 {
			clear(d.leaving)
		}
	}
	if d.table != nil {
		for _, s := range sides(d.settings.Dir, d.table) {
			d.leaving[s.socket] = s
		}
	}
	for _, s := range sides(d.settings.Dir, next) {
		delete(d.leaving, s.socket)
	}
}

// write puts the configuration in place of the former one, if it differs and Nginx finds it good, and has Nginx read it.
func (d *driver) write(ctx context.Context, t *table.Table, generation string) error {
	r := &renderer{dir: d.settings.Dir, settings: d.settings, down: d.prober.Down, leaving: d.leaving}
	content, files, err := r.render(t, generation)
	if err != nil {
		return err
	}
	if bytes.Equal(content, d.written) {
		return nil
	}
	for name, file := range files {
		if err := replace(filepath.Join(d.settings.Dir, name), file); err != nil {
			return err
		}
	}
	next, name := filepath.Join(d.settings.Dir, "next.conf"), filepath.Join(d.settings.Dir, "nginx.conf")
	if err := replace(next, content); err != nil {
		return err
	}
	if err := d.check(ctx, next); err != nil {
		return err
	}
	if err := os.Rename(next, name); err != nil {
		return fmt.Errorf("putting Nginx's configuration in place: %w", err)
	}
	d.written = content
	if d.process == nil || d.process.PID() == 0 {
		return nil // It reads the file when it starts.
	}
	if err := d.process.Signal(syscall.SIGHUP); err != nil {
		return fmt.Errorf("telling Nginx to read its configuration: %w", err)
	}
	return nil
}

// check has Nginx read a configuration without serving it.
func (d *driver) check(ctx context.Context, name string) error {
	check := exec.CommandContext(ctx, d.program, "-t", "-q", "-p", d.run(), "-e", "stderr", "-c", name)
	check.Dir = d.run()
	output, err := check.CombinedOutput()
	if err != nil {
		return fmt.Errorf("checking Nginx's configuration: %w: %.500s", err, output)
	}
	return nil
}

// command is one Nginx. What another one has left of its sockets is in its way.
func (d *driver) command() *exec.Cmd {
	if left, err := filepath.Glob(filepath.Join(d.run(), "t-*")); err == nil {
		for _, name := range left {
			os.Remove(name)
		}
	}
	command := exec.Command(d.program, "-p", d.run(), "-e", "stderr", "-c", filepath.Join(d.settings.Dir, "nginx.conf")) //nolint:noctx // Close ends it.
	command.Dir = d.run()
	return command
}

// Close stops Nginx in peace.
func (d *driver) Close(ctx context.Context) error {
	d.mu.Lock()
	d.closed = true
	process := d.process
	d.mu.Unlock()
	defer d.answers.close()
	if process == nil {
		return nil
	}
	return process.Close(ctx)
}

// replace writes a file that nobody ever sees half of. It may be a key.
func replace(name string, content []byte) error {
	if err := os.WriteFile(name+".new", content, 0o600); err != nil {
		return fmt.Errorf("writing Nginx's configuration: %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("putting Nginx's configuration in place: %w", err)
	}
	return nil
}
