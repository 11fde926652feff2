package traefik

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"yunfan.io/yunfan/internal/route/edge"
)

const (
	fileName = "dynamic.yml"
	// grace is how long requests under way may last when Traefik is stopped, unless it is killed before.
	grace = time.Hour
)

// What Traefik interprets.
var (
	//go:embed plugin/plugin.go
	pluginSource []byte
	//go:embed manifest.yml
	pluginManifest []byte
)

// find gives Traefik's program: beside our own, or where the system has it.
func find(program string) (string, error) {
	if program != "" {
		return program, nil
	}
	if own, err := os.Executable(); err == nil {
		for _, place := range []string{"gateway/traefik", "traefik"} {
			path := filepath.Join(filepath.Dir(own), place)
			if info, err := os.Stat(path); err == nil && !info.IsDir() {
				return path, nil
			}
		}
	}
	path, err := exec.LookPath("traefik")
	if err != nil {
		return "", fmt.Errorf("finding Traefik (build it with `make build`, or name it with --program): %w", err)
	}
	return path, nil
}

// install puts the plugin where Traefik looks for it: below the folder that it runs in.
func install(dir string) error {
	folder := filepath.Join(dir, "plugins-local", "src", "yunfan.io", "plugin")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("making the plugin's folder: %w", err)
	}
	for name, content := range map[string][]byte{"plugin.go": pluginSource, ".traefik.yml": pluginManifest} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			return fmt.Errorf("writing the plugin: %w", err)
		}
	}
	return nil
}

// program is the Traefik that runs.
type program struct {
	path     string
	settings edge.Settings

	mu      sync.Mutex
	control string
	process *edge.Process
	closed  bool
}

// start runs Traefik, if it does not run yet, until stop.
func (p *program) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errors.New("the driver of Traefik was closed")
	}
	if p.process == nil {
		p.process = edge.StartProcess(p.command, syscall.SIGTERM, p.settings.Log)
	}
	return nil
}

// command is one process. Its own interface gets a port that was free a moment ago; if it is not any more the process
// dies, and the next one has another.
func (p *program) command() *exec.Cmd {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.control = loopback()
	command := exec.Command(p.path, arguments(p.settings, p.control)...) //nolint:noctx // Close ends it.
	command.Dir = p.settings.Dir
	// Nothing of our own environment concerns Traefik.
	command.Env = []string{"HOME=" + p.settings.Dir}
	return command
}

// loopback is an address on which nobody listens.
func loopback() string {
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return "127.0.0.1:0"
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return "127.0.0.1:0"
	}
	return address
}

// stop lets requests under way end until the context ends, and returns when the process is gone.
func (p *program) stop(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	process := p.process
	p.mu.Unlock()
	if process == nil {
		return nil
	}
	return process.Close(ctx)
}

func (p *program) controlAddress() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.control
}

// Close stops Traefik in peace.
func (d *driver) Close(ctx context.Context) error { return d.program.stop(ctx) }

// arguments are Traefik's static configuration.
func arguments(s edge.Settings, control string) []string {
	all := []string{
		"--global.checknewversion=false", "--global.sendanonymoususage=false",
		"--log.level=ERROR",
		"--api.insecure=true", "--api.dashboard=false", "--metrics.prometheus=true", "--metrics.prometheus.addentrypointslabels=false",
		"--providers.file.filename=" + filepath.Join(s.Dir, fileName), "--providers.file.watch=true",
		// Each change is taken over at once: they come one by one.
		"--providers.providersthrottleduration=0s",
		"--experimental.localplugins." + pluginName + ".modulename=yunfan.io/plugin",
		"--entrypoints." + entryControl + ".address=" + control,
	}
	for name, address := range map[string]string{entryHTTP: s.HTTP, entryHTTPS: s.HTTPS} {
		if address == "" {
			continue
		}
		entry := "--entrypoints." + name
		all = append(all, entry+".address="+address,
			// Uploads may last.
			entry+".transport.respondingtimeouts.readtimeout=0s",
			entry+".transport.lifecycle.gracetimeout="+grace.String(),
		)
	}
	return all
}
