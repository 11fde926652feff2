//go:build e2e

package journey

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	upTimeout   = 5 * time.Minute
	downTimeout = 2 * time.Minute
)

// Instance is a running Yunfan with its clusters.
type Instance struct {
	DataDir string
	bin     string // folder of the programs
}

// Existing is the instance in a data directory; nil if none is named.
func Existing(dataDir string) *Instance {
	if dataDir == "" {
		return nil
	}
	return &Instance{DataDir: dataDir, bin: binaries()}
}

// Start starts an instance of its own, with a name and folder that no other run has.
func Start(ctx context.Context) (*Instance, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("journeys start real clusters, which needs root: run them as root, or set " + DataDirVariable + " to a running instance")
	}
	dir, err := os.MkdirTemp("", "yunfan-e2e-")
	if err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	i := &Instance{DataDir: dir, bin: binaries()}
	ctx, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	up := i.Command(ctx, "yunfan", "up", "--detach", "--no-demo", "--name", fmt.Sprintf("e2e-%d", os.Getpid()))
	up.Stdout, up.Stderr = os.Stderr, os.Stderr
	if err := up.Run(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the clusters: %w", err), i.Stop())
	}
	return i, nil
}

// Stop ends everything of the instance and removes its data, also after an interrupt.
func (i *Instance) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), downTimeout)
	defer cancel()
	if out, err := i.Command(ctx, "yunfan", "down").CombinedOutput(); err != nil {
		return fmt.Errorf("stopping the clusters (data is kept in %s): %w\n%s", i.DataDir, err, out)
	}
	if err := os.RemoveAll(i.DataDir); err != nil {
		return fmt.Errorf("removing the data directory: %w", err)
	}
	return nil
}

// Command is a program of ours, told which instance is meant.
func (i *Instance) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(i.bin, program), append(args, "--data-dir", i.DataDir)...)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Kubectl is kubectl as the administrator of a cluster.
func (i *Instance) Kubectl(ctx context.Context, cluster string, args ...string) *exec.Cmd {
	args = append([]string{"--kubeconfig", i.kubeconfig(cluster)}, args...)
	return exec.CommandContext(ctx, filepath.Join(i.bin, "engine", "kubectl"), args...)
}

// kubeconfig of the administrator of a cluster.
func (i *Instance) kubeconfig(cluster string) string {
	return filepath.Join(i.DataDir, "kubeconfig", cluster+".kubeconfig")
}

// binaries is the repository's bin folder, found by walking up.
func binaries() string {
	dir, err := os.Getwd()
	for err == nil && dir != "/" {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return filepath.Join(dir, "bin")
		}
		dir = filepath.Dir(dir)
	}
	return "bin"
}
