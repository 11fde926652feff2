// Package placement decides which partition gets how many replicas of each component, and says why. It consists of
// pure functions: the same input always gives the same output, and nothing is read or written.
package placement

import (
	"fmt"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Candidate is a partition in which an application may run, with what is known of it.
type Candidate struct {
	// Partition is its name, Cluster that of its cluster.
	Partition, Cluster string
	// Weight in the policy Weighted.
	Weight int32
	// Ready says that the partition can take new pods. Available and Priority give none to one that cannot, unless no
	// partition can; what it has stays.
	Ready bool
	// Room is what pods may still take, by the names of quotas: requests.cpu, requests.memory, limits.cpu, pods, …
	// Nil means that nothing is known.
	Room corev1.ResourceList
	// Pod is what one pod of each component takes, by the same names.
	Pod map[string]corev1.ResourceList
	// Replicas are those that the partition has now, by component.
	Replicas map[string]int32
	// Explanation is the one given for these Replicas.
	Explanation []string
	// Overrides of components in this partition.
	Overrides []v1alpha1.Override
}

// Assignment is what one partition gets.
type Assignment struct {
	// Partition is its name, Cluster that of its cluster.
	Partition, Cluster string
	// Replicas by component. DaemonSets and External components have no entry: they are everywhere.
	Replicas map[string]int32
	// Explanation has a line per component, such as "score-record 7 of 10 by weight 7/10".
	Explanation []string
}

// Place spreads the replicas of every component over the candidates, in the order given.
func Place(spec *v1alpha1.ApplicationSpec, candidates []Candidate) []Assignment {
	candidates = withOwnRoom(candidates)
	assignments := make([]Assignment, len(candidates))
	for i, c := range candidates {
		assignments[i] = Assignment{Partition: c.Partition, Cluster: c.Cluster, Replicas: map[string]int32{}}
	}
	for i := range spec.Components {
		component := &spec.Components[i]
		shares := place(component, spec.PlacementOf(component), candidates)
		for j, share := range shares {
			a := &assignments[j]
			a.Explanation = append(a.Explanation, share.explain(&candidates[j], component.Name))
			if counted(component) {
				a.Replicas[component.Name] = share.replicas
			}
		}
	}
	return assignments
}

// share is what one partition gets of one component.
type share struct {
	replicas int32
	// why follows the component's name in the explanation; note, about what does not fit, follows why.
	why, note string
	// kept says that no partition's number changed, so that an earlier note is still true.
	kept bool
}

// explain gives the line for people. Numbers that change by the minute are kept out of it, and a note made when the
// replicas were placed stays as long as they do.
func (s share) explain(c *Candidate, component string) string {
	line := component + " " + s.why
	if s.kept {
		for _, earlier := range c.Explanation {
			if strings.HasPrefix(earlier, line+", ") {
				return earlier
			}
		}
	}
	if s.note != "" {
		return line + ", " + s.note
	}
	return line
}

// counted says whether a component has a number of pods to spread.
func counted(c *v1alpha1.Component) bool {
	return c.Workload != v1alpha1.WorkloadDaemonSet && c.Workload != v1alpha1.WorkloadExternal
}

func place(component *v1alpha1.Component, policy v1alpha1.PlacementPolicy, candidates []Candidate) []share {
	total := component.ReplicasOrDefault()
	switch {
	case component.Workload == v1alpha1.WorkloadDaemonSet:
		return everywhere(len(candidates), 0, "on every node of the partition")
	case component.Workload == v1alpha1.WorkloadExternal:
		return everywhere(len(candidates), 0, "is outside Kubernetes")
	case policy == v1alpha1.PlacementWeighted:
		return weighted(component.Name, total, candidates)
	case policy == v1alpha1.PlacementAvailable:
		return available(component.Name, total, candidates)
	case policy == v1alpha1.PlacementPriority:
		return priority(component.Name, total, candidates)
	}
	return everywhere(len(candidates), total, fmt.Sprintf("%d in each partition", total))
}

func everywhere(n int, replicas int32, why string) []share {
	shares := make([]share, n)
	for i := range shares {
		shares[i] = share{replicas: replicas, why: why}
	}
	return shares
}

// withOwnRoom copies the candidates with rooms that can be counted down while components are placed.
func withOwnRoom(candidates []Candidate) []Candidate {
	own := make([]Candidate, len(candidates))
	for i, c := range candidates {
		c.Room = maps.Clone(c.Room)
		own[i] = c
	}
	return own
}
