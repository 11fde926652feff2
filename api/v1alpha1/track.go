package v1alpha1

import (
	"slices"
	"strings"
)

// suffixLength of a track, in letters of the hash of its revision.
const suffixLength = 8

// RunsBesideItself says whether two revisions of a component may run side by side in one partition, and if not why, for
// people: what cannot be there twice is changed in place.
func (c *Component) RunsBesideItself() (beside bool, reason string) {
	switch c.Workload {
	case WorkloadDeployment, WorkloadReplicationController, "":
	case WorkloadExternal:
		return false, "it has no pods"
	default:
		return false, "a " + string(c.Workload) + " is changed in place"
	}
	if c.Template == nil {
		return true, ""
	}
	pod := &c.Template.Spec
	if pod.HostNetwork {
		return false, "its pods use the network of their nodes"
	}
	for _, container := range slices.Concat(pod.InitContainers, pod.Containers) {
		for _, port := range container.Ports {
			if port.HostPort != 0 {
				return false, "container " + container.Name + " takes a port of its node"
			}
		}
	}
	for i := range pod.Volumes {
		v := &pod.Volumes[i]
		switch {
		case v.HostPath != nil:
			return false, "volume " + v.Name + " is a path of the node"
		case v.PersistentVolumeClaim != nil && !v.PersistentVolumeClaim.ReadOnly:
			// The claim is the partition's: how it may be used is not known here.
			return false, "volume " + v.Name + " may be for one writer only"
		}
	}
	return true, ""
}

// WorkloadName is the name of the object that holds a component's pods in this track, and the value of LabelWorkload by
// which it selects them. Jobs have another, for each revision has its own.
func (t *Track) WorkloadName(c *Component) string {
	if beside, _ := c.RunsBesideItself(); t.Suffix == "" || !beside {
		return c.Name
	}
	return c.Name + "-" + t.Suffix
}

// ServiceName is the name of the Service that leads to a component in this track; in one without a suffix it is the
// component's own. It is there for every component with a service, also for those whose pods both tracks share.
func (t *Track) ServiceName(component string) string {
	if t.Suffix == "" {
		return component
	}
	return component + "-" + t.Suffix
}

// NewSuffix gives the suffix of a track in which a revision of an application begins to run beside another: letters of
// the revision's hash, or others if the other track has these.
func NewSuffix(application, revision, other string) string {
	hash := strings.TrimPrefix(revision, application+"-")
	suffix := hash[:min(len(hash), suffixLength)]
	if suffix == other {
		suffix += "b"
	}
	return suffix
}

// Track gives the track of a role; nil if there is none.
func (s *DeliverySpec) Track(role TrackRole) *Track {
	for i := range s.Tracks {
		if s.Tracks[i].Role == role {
			return &s.Tracks[i]
		}
	}
	return nil
}
