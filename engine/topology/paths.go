package topology

import (
	"os"
	"path/filepath"
)

// Paths is the layout of a data directory.
type Paths struct{ Data string }

// Config is the topology file.
func (p Paths) Config() string { return filepath.Join(p.Data, "engine.yaml") }

// State is the file of addresses given.
func (p Paths) State() string { return filepath.Join(p.Data, "state.json") }

// Socket is where the daemon answers.
func (p Paths) Socket() string { return filepath.Join(p.Data, "engine.sock") }

// Lock is held by the one daemon, or by `down` without a daemon.
func (p Paths) Lock() string { return filepath.Join(p.Data, "engine.lock") }

// DaemonLog is the daemon's own log.
func (p Paths) DaemonLog() string { return filepath.Join(p.Data, "log", "daemon.log") }

// Kubeconfig is the administrator's kubeconfig of a cluster.
func (p Paths) Kubeconfig(cluster string) string {
	return filepath.Join(p.Data, "kubeconfig", cluster+".kubeconfig")
}

// Clusters holds a folder per cluster.
func (p Paths) Clusters() string { return filepath.Join(p.Data, "clusters") }

// Cluster holds everything of a cluster.
func (p Paths) Cluster(name string) string { return filepath.Join(p.Clusters(), name) }

// PKI holds a cluster's certificates and internal kubeconfigs.
func (p Paths) PKI(cluster string) string { return filepath.Join(p.Cluster(cluster), "pki") }

// Authority is where an enterprise's own authority, ca.crt and ca.key, is put before the first `up`.
func (p Paths) Authority() string { return filepath.Join(p.Data, "authority") }

// ControlPlane is the directory of the control plane unit.
func (p Paths) ControlPlane(cluster string) string {
	return filepath.Join(p.Cluster(cluster), ControlPlane)
}

// Node is the directory of a node unit.
func (p Paths) Node(cluster, node string) string {
	return filepath.Join(p.Cluster(cluster), "nodes", node)
}

// Service is the directory of a host-side service.
func (p Paths) Service(name string) string { return filepath.Join(p.Data, "services", name) }

// Programs finds the other binaries beside the running one, and the system images beside their folder.
type Programs struct{ Dir string }

// FindPrograms starts from this executable.
func FindPrograms() (Programs, error) {
	self, err := os.Executable()
	if err != nil {
		return Programs{}, err
	}
	self, err = filepath.EvalSymlinks(self)
	return Programs{filepath.Dir(self)}, err
}

// Path of a program by name.
func (p Programs) Path(name string) string { return filepath.Join(p.Dir, name) }

// Images is the folder of system image archives.
func (p Programs) Images() string { return filepath.Join(filepath.Dir(p.Dir), "images") }

// Host remembers the machine's settings from before the first instance.
func (p Paths) Host() string { return filepath.Join(p.Data, "host.json") }
