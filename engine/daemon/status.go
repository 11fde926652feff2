package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"yunfan.io/engine/supervisor"
	"yunfan.io/engine/topology"
)

// The states of clusters, nodes and the whole, beside those of processes.
const (
	Ready    = "Ready"
	Starting = "Starting"
	NotReady = "NotReady" // was Ready, or fails to become so
	Stopped  = "Stopped"  // by a drill, like the next two
	Isolated = "Isolated"
	Frozen   = "Frozen"
)

// Status is what `yunfan-engine status -o json` prints.
type Status struct {
	Name      string          `json:"name"`
	State     string          `json:"state"`
	Gateway   string          `json:"gateway"` // the host's address as clusters see it
	Range     string          `json:"range"`   // all addresses of the instance
	DataDir   string          `json:"dataDir"`
	Clusters  []ClusterStatus `json:"clusters"`
	Processes []ProcessStatus `json:"processes"`
}

// ClusterStatus tells how to reach a cluster and how it is.
type ClusterStatus struct {
	Name       string       `json:"name"`
	Endpoint   string       `json:"endpoint"`
	Kubeconfig string       `json:"kubeconfig"`
	PodCIDR    string       `json:"podCIDR"`
	State      string       `json:"state"`
	Message    string       `json:"message,omitempty"`
	Nodes      []NodeStatus `json:"nodes"`
}

// NodeStatus is a node as its cluster sees it.
type NodeStatus struct {
	Name    string `json:"name"`
	IP      string `json:"ip"`
	PodCIDR string `json:"podCIDR"`
	State   string `json:"state"`
	Message string `json:"message,omitempty"`

	since time.Time // when its unit was started; what the cluster knows from before does not count
}

// ProcessStatus is a supervised process. Target is its name in the drill commands; the first process of each unit
// (CLUSTER/control-plane, CLUSTER/NODE, services/NAME) is listed too.
type ProcessStatus struct {
	supervisor.Status

	Target string `json:"target"`
}

// Status asks everything at once; what does not answer within two seconds is reported as such.
func (d *Daemon) Status(ctx context.Context) Status {
	d.mu.Lock()
	plan := d.state.Plan()
	s := Status{Name: d.state.Name, State: Ready, Gateway: plan.Gateway().String(), Range: plan.Range().String(), DataDir: d.paths.Data}
	clusters := slices.Clone(d.state.Clusters)
	units := d.sortedUnits()
	frozen := map[string]bool{}
	for target, state := range d.drills {
		frozen[target] = state.frozen
	}
	d.mu.Unlock()

	processes := make([][]ProcessStatus, len(units))
	s.Clusters = make([]ClusterStatus, len(clusters))
	var wg sync.WaitGroup
	for i, u := range units {
		wg.Go(func() { processes[i] = u.status(ctx, frozen[u.name]) })
	}
	for i, c := range clusters {
		wg.Go(func() { s.Clusters[i] = d.clusterStatus(ctx, c) })
	}
	wg.Wait()
	s.Processes = slices.Concat(processes...)
	judge(&s)
	return s
}

// judge takes processes into account: a cluster is not Ready while one of its processes is not.
func judge(s *Status) {
	for i := range s.Clusters {
		c := &s.Clusters[i]
		for _, p := range s.Processes {
			if owner(p.Target) == c.Name && c.State == Ready && !settled(p.State) {
				c.State, c.Message = Starting, fmt.Sprintf("waiting for %s (%s)", p.Target, p.State)
			}
		}
		if c.State != Ready {
			s.State = Starting
		}
	}
	for _, p := range s.Processes {
		if owner(p.Target) == serviceUnits && !settled(p.State) {
			s.State = Starting
		}
	}
}

// Narrow leaves only what concerns one cluster.
func (s *Status) Narrow(cluster string) {
	s.Clusters = slices.DeleteFunc(s.Clusters, func(c ClusterStatus) bool { return c.Name != cluster })
	s.Processes = slices.DeleteFunc(s.Processes, func(p ProcessStatus) bool { return owner(p.Target) != cluster })
	s.State = Starting
	if len(s.Clusters) == 1 && s.Clusters[0].State == Ready {
		s.State = Ready
	}
}

// owner is the cluster a target belongs to, or serviceUnits.
func owner(target string) string {
	name, _, _ := strings.Cut(target, "/")
	return name
}

func settled(s supervisor.State) bool { return s == supervisor.Ready || s == supervisor.Done }

// Culprit picks the process to blame when the instance is not Ready: one that failed before one that is slow, and
// that before one that only waits for others.
func (s *Status) Culprit() *ProcessStatus {
	var worst *ProcessStatus
	weight := func(p *ProcessStatus) int {
		switch {
		case settled(p.State):
			return 0
		case p.State == supervisor.Backoff:
			return 4
		case p.Restarts > 0:
			return 3
		case p.State == supervisor.Starting:
			return 2
		}
		return 1
	}
	for i := range s.Processes {
		p := &s.Processes[i]
		if weight(p) > 0 && (worst == nil || weight(p) > weight(worst)) {
			worst = p
		}
	}
	return worst
}

func (d *Daemon) clusterStatus(ctx context.Context, c *topology.ClusterState) ClusterStatus {
	d.mu.Lock()
	plan := d.state.Plan()
	s := ClusterStatus{Name: c.Name, Endpoint: d.controlPlane(c).Endpoint(), Kubeconfig: d.paths.Kubeconfig(c.Name),
		PodCIDR: plan.ClusterPods(c.Slot).String(), State: Ready, Nodes: []NodeStatus{}}
	for _, n := range c.Nodes {
		s.Nodes = append(s.Nodes, NodeStatus{Name: n.Name, State: NotReady, since: d.units[c.Name+"/"+n.Name].since(), IP: plan.Node(c.Slot, n.Index).String(), PodCIDR: plan.NodePods(c.Slot, n.Index).String()})
	}
	drill := d.drills.on(c.Name, topology.ControlPlane)
	controlPlane := d.units[c.Name+"/"+topology.ControlPlane]
	cluster := d.clusters[c.Name]
	d.mu.Unlock()
	if drill != "" {
		s.State, s.Message = drill, "by request, until heal or start"
		return d.markNodes(c, s)
	}
	s.Message = "waiting for the control plane to start"
	if controlPlane.running() != nil { // before that nobody would answer, which takes long to find out
		s.Message = cluster.observe(ctx, s.Nodes)
	}
	if s.Message != "" {
		s.State = Starting
		if cluster.wasReady() {
			s.State = NotReady
		}
	}
	return d.markNodes(c, s)
}

// markNodes shows drills on single nodes.
func (d *Daemon) markNodes(c *topology.ClusterState, s ClusterStatus) ClusterStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, n := range s.Nodes {
		if own := d.drills.on(c.Name, n.Name); own != "" {
			s.Nodes[i].State = own
		}
	}
	return s
}
