package topology

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// State is what an instance was given once and keeps for the life of its data directory: its range of addresses and
// the place of every cluster and node in it. Restarting on the same directory therefore finds the same addresses in
// certificates, kubeconfigs and stored objects.
type State struct {
	Name     string          `json:"name"`
	Index    int             `json:"index"`
	Clusters []*ClusterState `json:"clusters"`
}

// ClusterState is a cluster with its slot (1 to 7).
type ClusterState struct {
	Name  string       `json:"name"`
	Slot  int          `json:"slot"`
	Size  NodeSize     `json:"size,omitzero"`
	Nodes []*NodeState `json:"nodes,omitempty"`
}

// NodeState is a node with its number in the cluster (0 to 7).
type NodeState struct {
	Name  string `json:"name"`
	Index int    `json:"index"`
}

// LoadState reads state.json; nil without error when there is none yet.
func LoadState(path string) (*State, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading state: %w", err)
	}
	s := &State{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("parsing state %s: %w", path, err)
	}
	return s, nil
}

// Save writes the state.
func (s *State) Save(path string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("writing state: %w", err)
	}
	return WriteFile(path, append(data, '\n'), 0o600)
}

// Plan computes the addresses of this instance.
func (s *State) Plan() Plan { return Plan{s.Index} }

// Cluster finds a cluster by name, nil if absent.
func (s *State) Cluster(name string) *ClusterState {
	for _, c := range s.Clusters {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Node finds a node by name, nil if absent.
func (c *ClusterState) Node(name string) *NodeState {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Merge adds the clusters and nodes the topology has and the state has not. It removes nothing: removing destroys
// data and is only done by an explicit command. It reports whether anything changed.
func (s *State) Merge(t *Topology) (bool, error) {
	changed := false
	for _, want := range t.Clusters {
		c := s.Cluster(want.Name)
		if c == nil {
			var err error
			if c, err = s.AddCluster(want.Name); err != nil {
				return changed, err
			}
			changed = true
		}
		if c.Size != want.Node {
			c.Size, changed = want.Node, true
		}
		for len(c.Nodes) < want.Nodes {
			if _, err := c.AddNode(""); err != nil {
				return changed, err
			}
			changed = true
		}
	}
	return changed, nil
}

// AddCluster gives a cluster the first free slot.
func (s *State) AddCluster(name string) (*ClusterState, error) {
	if err := CheckName("cluster", name); err != nil {
		return nil, err
	}
	if s.Cluster(name) != nil {
		return nil, fmt.Errorf("cluster %s exists already", name)
	}
	used := func(slot int) bool {
		return slices.ContainsFunc(s.Clusters, func(c *ClusterState) bool { return c.Slot == slot })
	}
	for slot := 1; slot <= MaxClusters; slot++ {
		if !used(slot) {
			c := &ClusterState{Name: name, Slot: slot}
			s.Clusters = append(s.Clusters, c)
			return c, nil
		}
	}
	return nil, fmt.Errorf("adding cluster %s: an instance has addresses for %d clusters: remove one first", name, MaxClusters)
}

// AddNode gives a node the first free number; without a name it is called <cluster>-<number from 1>.
func (c *ClusterState) AddNode(name string) (*NodeState, error) {
	for i := range MaxNodesPerCluster {
		if slices.ContainsFunc(c.Nodes, func(n *NodeState) bool { return n.Index == i }) {
			continue
		}
		if name == "" {
			name = fmt.Sprintf("%s-%d", c.Name, i+1)
		}
		if err := CheckName("node", name); err != nil {
			return nil, err
		}
		if c.Node(name) != nil || name == ControlPlane {
			return nil, fmt.Errorf("node name %s is taken in cluster %s: choose another", name, c.Name)
		}
		n := &NodeState{Name: name, Index: i}
		c.Nodes = append(c.Nodes, n)
		return n, nil
	}
	return nil, fmt.Errorf("adding a node to %s: a cluster has addresses for %d nodes: remove one first", c.Name, MaxNodesPerCluster)
}

// RemoveNode forgets a node.
func (c *ClusterState) RemoveNode(name string) {
	c.Nodes = slices.DeleteFunc(c.Nodes, func(n *NodeState) bool { return n.Name == name })
}

// RemoveCluster forgets a cluster.
func (s *State) RemoveCluster(name string) {
	s.Clusters = slices.DeleteFunc(s.Clusters, func(c *ClusterState) bool { return c.Name == name })
}
