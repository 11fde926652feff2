// Package topology says what an instance of the engine consists of: the user's wish (engine.yaml) and the
// addresses it was given once and keeps (state.json).
package topology

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"
)

// ControlPlane is the unit name of a cluster's control plane; no node may have it.
const ControlPlane = "control-plane"

// Limits of one instance, which follow from the address plan (see Plan).
const (
	MaxClusters        = 7
	MaxNodesPerCluster = 8
	MaxServices        = 16
)

// Topology is the content of engine.yaml.
type Topology struct {
	// Name tells instances on one machine apart. It is part of cgroup paths.
	Name string `json:"name"`
	// Egress lets pods reach networks beyond this machine through its own address (NAT). Off by default.
	Egress bool `json:"egress,omitempty"`
	// DNS are servers for names outside the cluster domain; without any, such names do not exist.
	DNS []string `json:"dns,omitempty"`
	// CertificateLifetime is how long certificates are valid that are made from now on, such as 2160h; a year if empty.
	CertificateLifetime string    `json:"certificateLifetime,omitempty"`
	Clusters            []Cluster `json:"clusters"`
	Services            []Service `json:"services,omitempty"`
}

// Cluster is one Kubernetes cluster; without nodes it is a control plane only (a hub).
type Cluster struct {
	Name  string `json:"name"`
	Nodes int    `json:"nodes"`
	// Node is what each node of the cluster reports as allocatable.
	Node NodeSize `json:"node,omitzero"`
}

// NodeSize limits what a node offers to pods, as Kubernetes quantities. Empty means an even share of the machine.
type NodeSize struct {
	CPU    string `json:"cpu,omitempty"`
	Memory string `json:"memory,omitempty"`
}

// Service is a further program of the instance, run on the host side and supervised like the rest.
// ${gateway} and ${data} in Command, Env and Ready become the host's bridge address and the data directory.
type Service struct {
	Name    string   `json:"name"`
	Command []string `json:"command"`
	// Env is added to the engine's own environment, as NAME=value.
	Env []string `json:"env,omitempty"`
	// Needs names clusters that must be Ready before the service is started for the first time.
	Needs []string `json:"needs,omitempty"`
	// Ready is an http, https, tcp or unix URL that answers once the service is ready.
	Ready string `json:"ready,omitempty"`
}

// Default is the topology of `up` without a file: one hub and two members.
func Default(name string) *Topology {
	return &Topology{Name: name, Clusters: []Cluster{
		{Name: "hub"}, {Name: "beijing", Nodes: 2}, {Name: "shanghai", Nodes: 1},
	}}
}

var label = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$`)

// ValidName tells whether a name could be one of ours.
func ValidName(name string) bool { return label.MatchString(name) }

// CheckName refuses what cannot be a host name, a directory and a cgroup at once.
func CheckName(kind, name string) error {
	if !label.MatchString(name) {
		return fmt.Errorf("%s name %q: use 1 to 30 lower-case letters, digits and '-', beginning with a letter", kind, name)
	}
	return nil
}

// Validate returns every fault of the topology.
func (t *Topology) Validate() error {
	errs := []error{CheckName("instance", t.Name)}
	if len(t.Clusters) > MaxClusters {
		errs = append(errs, fmt.Errorf("%d clusters: an instance has addresses for %d", len(t.Clusters), MaxClusters))
	}
	if len(t.Services) > MaxServices {
		errs = append(errs, fmt.Errorf("%d services: at most %d are supervised", len(t.Services), MaxServices))
	}
	seen := map[string]bool{}
	for _, c := range t.Clusters {
		errs = append(errs, CheckName("cluster", c.Name), c.check())
		if seen[c.Name] || c.Name == "services" {
			errs = append(errs, fmt.Errorf("cluster name %q is taken: choose another", c.Name))
		}
		seen[c.Name] = true
	}
	if _, err := t.Lifetime(); err != nil {
		errs = append(errs, err)
	}
	names := map[string]bool{}
	for _, s := range t.Services {
		errs = append(errs, CheckName("service", s.Name))
		if names[s.Name] {
			errs = append(errs, fmt.Errorf("service name %q is taken: choose another", s.Name))
		}
		names[s.Name] = true
		if len(s.Command) == 0 {
			errs = append(errs, fmt.Errorf("service %s has no command", s.Name))
		}
		for _, need := range s.Needs {
			if !seen[need] {
				errs = append(errs, fmt.Errorf("service %s needs cluster %q, which does not exist", s.Name, need))
			}
		}
	}
	return errors.Join(errs...)
}

func (c Cluster) check() error {
	if c.Nodes < 0 || c.Nodes > MaxNodesPerCluster {
		return fmt.Errorf("cluster %s wants %d nodes: between 0 and %d are possible", c.Name, c.Nodes, MaxNodesPerCluster)
	}
	for _, size := range []struct{ field, quantity string }{{"cpu", c.Node.CPU}, {"memory", c.Node.Memory}} {
		if size.quantity == "" {
			continue
		}
		if q, err := resource.ParseQuantity(size.quantity); err != nil || q.Sign() <= 0 {
			return fmt.Errorf("cluster %s: node %s %q is not a positive quantity such as 2 or 4Gi", c.Name, size.field, size.quantity)
		}
	}
	return nil
}

// Lifetime is CertificateLifetime as a duration, 0 if it is empty.
func (t *Topology) Lifetime() (time.Duration, error) {
	if t.CertificateLifetime == "" {
		return 0, nil
	}
	life, err := time.ParseDuration(t.CertificateLifetime)
	if err != nil || life < time.Minute || life > MaxLifetime {
		return 0, fmt.Errorf("certificateLifetime %q: give a duration between 1m and %s, such as 2160h", t.CertificateLifetime, MaxLifetime)
	}
	return life, nil
}

// MaxLifetime is that of the authorities.
const MaxLifetime = 10 * 365 * 24 * time.Hour

// Cluster finds a cluster by name.
func (t *Topology) Cluster(name string) *Cluster {
	i := slices.IndexFunc(t.Clusters, func(c Cluster) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &t.Clusters[i]
}

// Expand replaces ${gateway} and ${data} in the strings of a service.
func (s Service) Expand(gateway, dataDir string) Service {
	r := strings.NewReplacer("${gateway}", gateway, "${data}", dataDir)
	all := func(in []string) []string {
		out := make([]string, len(in))
		for i, v := range in {
			out[i] = r.Replace(v)
		}
		return out
	}
	s.Command, s.Env, s.Ready = all(s.Command), all(s.Env), r.Replace(s.Ready)
	return s
}

// Load reads and checks a topology file; the error is fs.ErrNotExist when there is none.
func Load(path string) (*Topology, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading topology: %w", err)
	}
	t := &Topology{}
	if err := yaml.UnmarshalStrict(data, t); err != nil {
		return nil, fmt.Errorf("parsing topology %s: %w", path, err)
	}
	if t.Name == "" {
		t.Name = "default"
	}
	if err := t.Validate(); err != nil {
		return nil, fmt.Errorf("checking topology %s: %w", path, err)
	}
	return t, nil
}

// Save writes the topology as YAML.
func (t *Topology) Save(path string) error {
	data, err := yaml.Marshal(t)
	if err != nil {
		return fmt.Errorf("writing topology: %w", err)
	}
	return WriteFile(path, data, 0o644)
}

// WriteFile replaces a file at once, so that a crash leaves the old or the new content.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
