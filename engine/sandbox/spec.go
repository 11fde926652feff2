// Package sandbox runs a unit (a control plane, a node or a service of the host) as one process tree in namespaces of
// its own. Its first process, `yunfan-engine init`, prepares mounts, supervises the unit's programs and answers on a
// socket. When it dies the kernel ends everything in it and drops every mount, so a unit never leaves anything behind.
//
// An init outlives the daemon that started it: the next daemon adopts it by the recorded process id and start time.
package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"yunfan.io/engine/supervisor"
	"yunfan.io/engine/topology"
)

// Spec is everything an init must know, written to <Dir>/init.json.
type Spec struct {
	Unit     string `json:"unit"`     // e.g. "beijing/beijing-1"
	Dir      string `json:"dir"`      // the unit's own directory
	Program  string `json:"program"`  // path of yunfan-engine
	Hostname string `json:"hostname"` // empty: stay in the host's UTS, IPC, network and cgroup namespaces
	// Binds replaces directories of the machine by the unit's own, within the unit only.
	Binds []Bind `json:"binds,omitempty"`
	// CgroupV1 are the v1 controllers to mount in the unit; empty with a host on cgroup v2.
	CgroupV1  []string             `json:"cgroupV1,omitempty"`
	PrivateFS bool                 `json:"privateFS,omitempty"` // own /run and /sys, as a node needs
	Sysctls   map[string]string    `json:"sysctls,omitempty"`
	Rules     string               `json:"rules,omitempty"` // nftables script loaded in the unit's network
	Env       []string             `json:"env,omitempty"`
	Processes []supervisor.Process `json:"processes"`
}

// Bind shows Source, made if missing, at Target.
type Bind struct {
	Source string `json:"source"`
	Target string `json:"target"`
}

// Isolated tells whether the unit has a network of its own.
func (s *Spec) Isolated() bool { return s.Hostname != "" }

// Socket is where the unit's init answers.
func (s *Spec) Socket() string { return filepath.Join(s.Dir, "init.sock") }

func (s *Spec) file() string   { return filepath.Join(s.Dir, "init.json") }
func (s *Spec) record() string { return filepath.Join(s.Dir, "init.pid") }

// Log is the log of the init itself.
func (s *Spec) Log() string { return filepath.Join(s.Dir, "log", "init.log") }

func (s *Spec) save() error {
	if err := os.MkdirAll(filepath.Join(s.Dir, "log"), 0o755); err != nil {
		return fmt.Errorf("writing unit %s: %w", s.Unit, err)
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("writing unit %s: %w", s.Unit, err)
	}
	return topology.WriteFile(s.file(), data, 0o600)
}

func load(path string) (*Spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading unit: %w", err)
	}
	s := &Spec{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("parsing unit %s: %w", path, err)
	}
	return s, nil
}

// Request names a process of the unit.
type Request struct {
	Process string `json:"process"`
}
