package route

import (
	"cmp"
	"math"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/route/table"
)

// mostWeight is the largest weight that a table has.
const mostWeight = 1000

// targets are the partitions that an application is delivered to.
func (b *making) targets(r *v1alpha1.Route, application string, deliveries []*v1alpha1.Delivery) []table.Target {
	var shares []share
	var out []table.Target
	for _, d := range deliveries {
		p := b.partition[client.ObjectKey{Namespace: d.Namespace, Name: d.Spec.Partition}]
		if p == nil {
			continue
		}
		cluster := b.cluster[p.Spec.Cluster]
		name := table.TargetName(p.MemberNamespace(), p.Spec.Cluster)
		target := table.Target{
			Name: name, Label: p.Namespace + "/" + p.Name, Closed: closedIn(r, d, cluster), Servers: servers(cluster),
		}
		b.out.partitions[name] = client.ObjectKeyFromObject(p)
		b.out.serversOf[name] = target.Servers
		out = append(out, target)
		shares = append(shares, shareOf(d, componentsOf(r, application), ownWeight(r, p.Name), target.Closed))
	}
	for i, weight := range weights(shares) {
		out[i].Weight = weight
	}
	slices.SortFunc(out, func(x, y table.Target) int { return cmp.Compare(x.Name, y.Name) })
	return out
}

// Closed says whether a Delivery gets nothing new by its own spec. Its cluster is nil if there is none.
func Closed(d *v1alpha1.Delivery, cluster *v1alpha1.Cluster) bool {
	if d.Spec.Stopped || !d.DeletionTimestamp.IsZero() {
		return true
	}
	t := d.Spec.Traffic
	return t != nil && t.Closed && (!t.UntilHealthy || !healthyAgain(d, cluster))
}

// healthyAgain says whether a Delivery that was closed until it is healthy is so, at the newest of its spec.
func healthyAgain(d *v1alpha1.Delivery, cluster *v1alpha1.Cluster) bool {
	if cluster == nil || !ready(cluster) {
		return false
	}
	healthy := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ConditionHealthy)
	return healthy != nil && healthy.Status == metav1.ConditionTrue && healthy.ObservedGeneration == d.Generation && d.Status.ObservedGeneration == d.Generation
}

// closedIn says whether a Delivery gets nothing new from a Route.
func closedIn(r *v1alpha1.Route, d *v1alpha1.Delivery, cluster *v1alpha1.Cluster) bool {
	return Closed(d, cluster) || slices.ContainsFunc(r.Spec.Partitions, func(p v1alpha1.RoutePartition) bool {
		return p.Name == d.Spec.Partition && p.Closed
	})
}

// servers are the addresses of a cluster's gateways that are ready. If none is all are given: whether they answer is
// what probes say.
func servers(cluster *v1alpha1.Cluster) []string {
	out := []string{}
	if cluster == nil {
		return out
	}
	all := []string{}
	for _, gateway := range cluster.Status.Gateways {
		if gateway.Address == "" {
			continue
		}
		all = append(all, gateway.Address)
		if gateway.Ready {
			out = append(out, gateway.Address)
		}
	}
	if len(out) == 0 {
		out = all
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// componentsOf an application that a Route leads to.
func componentsOf(r *v1alpha1.Route, application string) (names []string) {
	for i := range r.Spec.Rules {
		for _, backend := range r.Spec.Rules[i].Backends {
			if backend.Application == application && !slices.Contains(names, backend.Component) {
				names = append(names, backend.Component)
			}
		}
	}
	return names
}

// share is what the weight of one partition is made of.
type share struct {
	weight        *int32 // that the Route gives
	ready, wanted int    // pods
	closed        bool
}

func ownWeight(r *v1alpha1.Route, partition string) *int32 {
	for i := range r.Spec.Partitions {
		if r.Spec.Partitions[i].Name == partition {
			return r.Spec.Partitions[i].Weight
		}
	}
	return nil
}

// shareOf a Delivery. Of its tracks the one with most ready pods counts: while two revisions run, neither the old nor the
// new one counts twice.
func shareOf(d *v1alpha1.Delivery, components []string, weight *int32, closed bool) share {
	s := share{weight: weight, closed: closed, wanted: 1}
	for i := range d.Status.Tracks {
		ready := 0
		for j := range d.Status.Tracks[i].Components {
			if c := &d.Status.Tracks[i].Components[j]; slices.Contains(components, c.Name) {
				ready += int(c.Ready)
			}
		}
		s.ready = max(s.ready, ready)
	}
	for i := range d.Spec.Tracks {
		sum := 0
		for _, name := range components {
			sum += int(d.Spec.Tracks[i].Replicas[name])
		}
		s.wanted = max(s.wanted, sum)
	}
	return s
}

// pods that count: those that are ready. If none is in any open partition, those that should be.
func pods(shares []share) (count []int, some bool) {
	count = make([]int, len(shares))
	for i, s := range shares {
		count[i] = s.ready
		some = some || s.ready > 0 && !s.closed
	}
	for i, s := range shares {
		if !some {
			count[i] = s.wanted
		}
	}
	return count, some
}

// weights shares the requests: as the Route says, and by ready pods where it says nothing. Where no pod is ready, or was ever
// seen, nothing is sent as long as one is ready elsewhere: the answer could only be an error. A pod of a partition without
// a weight gets as much as one of those with a weight gets on the average.
func weights(shares []share) []int {
	count, some := pods(shares)
	given, givenPods := 0, 0
	for i, s := range shares {
		if s.weight != nil {
			given, givenPods = given+int(*s.weight), givenPods+count[i]
		}
	}
	perPod := 1.0
	if given > 0 && givenPods > 0 {
		perPod = float64(given) / float64(givenPods)
	}
	exact, most := make([]float64, len(shares)), 0.0
	for i, s := range shares {
		exact[i] = float64(count[i]) * perPod
		if s.weight != nil {
			exact[i] = float64(*s.weight)
		}
		if some && s.ready == 0 {
			exact[i] = 0
		}
		most = max(most, exact[i])
	}
	scale := 1.0
	if most > mostWeight {
		scale = mostWeight / most
	}
	out := make([]int, len(shares))
	for i := range exact {
		if exact[i] > 0 {
			out[i] = max(1, int(math.Round(exact[i]*scale)))
		}
	}
	return out
}
