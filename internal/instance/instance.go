// Package instance runs the embedded default on this machine: it starts the engine with a hub, two members, the
// registry and the server, joins the members, and ends all of it again.
package instance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/internal/cli"
)

const (
	hubCluster = "hub"
	// engineTimeout is how long the engine may take to have everything ready.
	engineTimeout = 3 * time.Minute
)

// Instance is one set of embedded clusters, in a data directory.
type Instance struct {
	// Name tells instances on one machine apart; that of the data directory if empty.
	Name string
	// DataDir holds everything of it.
	DataDir string
	// Progress is where it is told what is being done.
	Progress io.Writer
	// Edge says why no load balancer can run on this machine, or nil; without it, none is started.
	Edge func() error
}

// Status is what the engine tells of a running instance.
type Status struct {
	Name     string    `json:"name"`
	State    string    `json:"state"`
	Gateway  string    `json:"gateway"`
	Clusters []Cluster `json:"clusters"`
}

// Cluster is one of the embedded clusters.
type Cluster struct {
	Name       string `json:"name"`
	Endpoint   string `json:"endpoint"`
	PodCIDR    string `json:"podCIDR"`
	Kubeconfig string `json:"kubeconfig"`
	State      string `json:"state"`
	Nodes      []Node `json:"nodes"`
}

// Node is one of a cluster's nodes.
type Node struct {
	Name string `json:"name"`
	IP   string `json:"ip"`
}

// Start brings up the engine with everything in it and returns once all of it is ready.
func (i *Instance) Start(ctx context.Context) error {
	if err := i.writeTopology(); err != nil {
		return err
	}
	args := []string{"up", "--timeout", engineTimeout.String()}
	if i.Name != "" {
		args = append(args, "--name", i.Name)
	}
	return i.engine(ctx, i.Progress, args...)
}

// Stop ends everything of the instance and cleans up the machine. Its data stays unless deleteData.
func (i *Instance) Stop(ctx context.Context, deleteData bool) error {
	if err := requireRoot(); err != nil {
		return err
	}
	args := []string{"down"}
	if deleteData {
		args = append(args, "--delete-data")
	}
	return i.engine(ctx, i.Progress, args...)
}

// Status asks the engine.
func (i *Instance) Status(ctx context.Context) (*Status, error) {
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := i.engine(ctx, writer, "status", "-o", "json")
		_ = writer.CloseWithError(err) // never fails
		ended <- err
	}()
	status := &Status{}
	err := json.NewDecoder(reader).Decode(status)
	_, _ = io.Copy(io.Discard, reader) // so that the engine can end
	if err := errors.Join(<-ended, err); err != nil {
		return nil, fmt.Errorf("asking the engine for its state: %w", err)
	}
	return status, nil
}

// Members are the clusters but the hub.
func (s *Status) Members() []Cluster {
	return slices.DeleteFunc(slices.Clone(s.Clusters), func(c Cluster) bool { return c.Name == hubCluster })
}

func requireRoot() error {
	if runtime.GOOS != "linux" {
		return cli.Usagef("the embedded clusters run on Linux only. On %s, run 'yunfan server --kubeconfig FILE' against a Kubernetes cluster of your own as hub", runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		return cli.Usagef("the embedded clusters need root, for namespaces, cgroups and network interfaces: run it with sudo.\n" +
			"Without root, run 'yunfan server --kubeconfig FILE' against a Kubernetes cluster of your own as hub")
	}
	return nil
}

// engine runs the engine's program; what it prints as its result goes to out.
func (i *Instance) engine(ctx context.Context, out io.Writer, args ...string) error {
	self, err := executable()
	if err != nil {
		return err
	}
	program := filepath.Join(filepath.Dir(self), "engine", "yunfan-engine")
	if _, err := os.Stat(program); err != nil {
		return fmt.Errorf("the engine is missing (build it with 'make engine'): %w", err)
	}
	cmd := exec.CommandContext(ctx, program, append(args, "--data-dir", i.DataDir)...)
	cmd.Stdout, cmd.Stderr = out, i.Progress
	// Ctrl-C reaches us alone, and the engine's program through us: one that is pressed twice must not end the cleaning.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	const patience = 10 * time.Second
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = patience
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running yunfan-engine %s: %w", args[0], err)
	}
	return nil
}

func executable() (string, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return "", fmt.Errorf("finding the programs of Yunfan: %w", err)
	}
	return self, nil
}

// writeTopology makes the engine's configuration, or, in one that is there, brings the commands of our own programs up
// to date: they may have moved. Everything else in it is the user's.
func (i *Instance) writeTopology() error {
	self, err := executable()
	if err != nil {
		return err
	}
	path := filepath.Join(i.DataDir, "engine.yaml")
	topology := map[string]any{
		"name": i.Name,
		"clusters": []any{
			map[string]any{"name": hubCluster, "nodes": float64(0)},
			map[string]any{"name": "beijing", "nodes": float64(2)}, //nolint:mnd // two nodes
			map[string]any{"name": "shanghai", "nodes": float64(1)},
		},
	}
	if i.Name == "" {
		topology["name"] = "default"
	}
	text, err := os.ReadFile(path)
	if err == nil {
		topology = nil
		err = yaml.Unmarshal(text, &topology)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(i.DataDir, 0o755)
	}
	if err != nil {
		return fmt.Errorf("reading the engine's configuration %s: %w", path, err)
	}
	before, _ := topology["services"].([]any)
	after := i.services(before, self)
	if reflect.DeepEqual(before, after) {
		return nil
	}
	topology["services"] = after
	if text, err = yaml.Marshal(topology); err == nil {
		err = os.WriteFile(path+".new", text, 0o644)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("writing the engine's configuration %s: %w", path, err)
	}
	return nil
}

// services are our programs that run beside the clusters.
func services(self string) []any {
	return []any{
		map[string]any{
			"name":    "registry",
			"command": []any{self, "registry", "--dir", "${data}/registry", "--listen", "${gateway}:5000", "--records", "sqlite://${data}/records/records.db"},
			"ready":   "http://${gateway}:5000/v2/",
		},
		map[string]any{
			"name": "server",
			"command": []any{
				self, "server", "--kubeconfig", "${data}/clusters/hub/pki/admin.kubeconfig", "--listen", "${gateway}:8443",
				"--advertise", "https://${gateway}:8443", "--health-listen", "${gateway}:8081",
				"--instance-dir", "${data}", "--registry", "http://${gateway}:5000",
				"--records", "sqlite://${data}/records/records.db",
			},
			"needs": []any{hubCluster},
			"ready": "http://${gateway}:8081/readyz",
		},
	}
}

// mergeServices puts ours in the place of those with the same name and keeps the rest.
func mergeServices(present, ours []any) []any {
	merged := slices.Clone(present)
	for _, service := range ours {
		at := slices.IndexFunc(merged, func(other any) bool {
			o, ok := other.(map[string]any)
			return ok && o["name"] == service.(map[string]any)["name"]
		})
		if at < 0 {
			merged = append(merged, service)
		} else {
			merged[at] = service
		}
	}
	return merged
}
