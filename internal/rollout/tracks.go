package rollout

import (
	"maps"

	"yunfan.io/yunfan/api/v1alpha1"
)

// What follows changes the spec of a Delivery. Each of them changes nothing the second time.

// is says whether a Delivery wants one revision and nothing beside it.
func is(spec *v1alpha1.DeliverySpec, revision string) bool {
	return len(spec.Tracks) == 1 && spec.Tracks[0].Revision == revision
}

// inPlace gives the stable track another revision. Its workloads keep their names, and it has pods unless people have
// stopped the application.
func inPlace(revision string, resting bool) func(*v1alpha1.DeliverySpec) {
	return func(spec *v1alpha1.DeliverySpec) {
		stable := spec.Track(v1alpha1.TrackStable)
		if stable == nil {
			return
		}
		stable.Revision = revision
		spec.Tracks, spec.Stopped = []v1alpha1.Track{*stable}, resting
	}
}

// closed brings no new requests.
func closed(spec *v1alpha1.DeliverySpec) {
	if spec.Traffic == nil {
		spec.Traffic = &v1alpha1.Traffic{}
	}
	spec.Traffic.Closed = true
}

// opened brings requests again. What is shared between two tracks stays shared.
func opened(spec *v1alpha1.DeliverySpec) {
	if spec.Traffic == nil {
		return
	}
	spec.Traffic.Closed, spec.Traffic.UntilHealthy = false, false
	if len(spec.Tracks) == 1 {
		spec.Traffic = nil
	}
}

// putAside takes a partition whose cluster does not answer out of the traffic until it is healthy.
func putAside(spec *v1alpha1.DeliverySpec) {
	closed(spec)
	spec.Traffic.UntilHealthy = true
}

// stopped takes away all pods.
func stopped(spec *v1alpha1.DeliverySpec) { spec.Stopped = true }

// beside lets a revision run beside the stable one, without requests.
func beside(revision string, replicas map[string]int32) func(*v1alpha1.DeliverySpec) {
	return func(spec *v1alpha1.DeliverySpec) {
		stable := spec.Track(v1alpha1.TrackStable)
		candidate := spec.Track(v1alpha1.TrackCandidate)
		if stable == nil || stable.Revision == revision || candidate != nil && candidate.Revision == revision {
			return
		}
		spec.Tracks = []v1alpha1.Track{*stable, {
			Role: v1alpha1.TrackCandidate, Revision: revision, Suffix: v1alpha1.NewSuffix(spec.Application, revision, stable.Suffix), Replicas: maps.Clone(replicas),
		}}
		shared(0, 0, nil)(spec)
	}
}

// shared says what the candidate gets of the requests.
func shared(weight, mirror int32, matches []v1alpha1.RouteMatch) func(*v1alpha1.DeliverySpec) {
	return func(spec *v1alpha1.DeliverySpec) {
		if len(spec.Tracks) < 2 {
			return
		}
		if spec.Traffic == nil {
			spec.Traffic = &v1alpha1.Traffic{}
		}
		spec.Traffic.Weight, spec.Traffic.Mirror, spec.Traffic.Matches = weight, mirror, matches
	}
}

// promoted makes the candidate the stable track. Its workloads keep their names; what the stable track alone has gets the
// new revision in place.
func promoted(spec *v1alpha1.DeliverySpec) {
	stable, candidate := spec.Track(v1alpha1.TrackStable), spec.Track(v1alpha1.TrackCandidate)
	if stable == nil || candidate == nil {
		return
	}
	won := *candidate
	won.Role = v1alpha1.TrackStable
	won.Replicas = maps.Clone(stable.Replicas)
	if won.Replicas == nil && len(candidate.Replicas) > 0 {
		won.Replicas = map[string]int32{}
	}
	maps.Copy(won.Replicas, candidate.Replicas)
	spec.Tracks = []v1alpha1.Track{won}
	single(spec)
}

// dropped takes the candidate away.
func dropped(spec *v1alpha1.DeliverySpec) {
	if stable := spec.Track(v1alpha1.TrackStable); stable != nil && len(spec.Tracks) > 1 {
		spec.Tracks = []v1alpha1.Track{*stable}
		single(spec)
	}
}

// single forgets how requests were shared between two tracks.
func single(spec *v1alpha1.DeliverySpec) {
	if spec.Traffic == nil {
		return
	}
	spec.Traffic.Weight, spec.Traffic.Mirror, spec.Traffic.Matches = 0, 0, nil
	if !spec.Traffic.Closed && !spec.Traffic.UntilHealthy {
		spec.Traffic = nil
	}
}

// won gives a partition that was put aside the revision that has won: it opens by itself when it has it.
func won(revision string, resting bool) func(*v1alpha1.DeliverySpec) {
	return func(spec *v1alpha1.DeliverySpec) {
		if candidate := spec.Track(v1alpha1.TrackCandidate); candidate != nil && candidate.Revision == revision {
			promoted(spec)
		} else {
			dropped(spec)
		}
		inPlace(revision, resting)(spec)
		single(spec)
	}
}
