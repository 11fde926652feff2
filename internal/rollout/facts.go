package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// facts are what a strategy is compiled with.
type facts struct {
	from, to *v1alpha1.ApplicationRevision
	// partitions of the rollout that have the application, in the order of their names.
	partitions []place
	// routed says that a Route brings requests to the application.
	routed bool
}

// place is what is known of one partition.
type place struct {
	name, cluster string
	environment   string
	// reachable says that its cluster answers.
	reachable bool
	// revision that runs there.
	revision string
	// replicas of a second track, by component.
	replicas map[string]int32
}

// revision reads a revision; one that was made a moment ago may not be in the cache yet.
func (r *Rollouts) revisionOf(ctx context.Context, namespace, name string) (*v1alpha1.ApplicationRevision, error) {
	revision := &v1alpha1.ApplicationRevision{}
	key := client.ObjectKey{Namespace: namespace, Name: name}
	err := r.client.Get(ctx, key, revision)
	if apierrors.IsNotFound(err) {
		err = r.reader.Get(ctx, key, revision)
	}
	if err != nil {
		return nil, fmt.Errorf("reading revision %s: %w", name, err)
	}
	return revision, nil
}

func (s *stage) revision(ctx context.Context, name string) (*v1alpha1.ApplicationRevision, error) {
	return s.revisionOf(ctx, s.rollout.Namespace, name)
}

// facts reads what the rollout's strategy is compiled with, and puts into o what it really comes from. That this revision
// is gone is no error.
func (r *Rollouts) facts(ctx context.Context, o *v1alpha1.Rollout) (*facts, error) {
	f := &facts{}
	var err error
	if f.to, err = r.revisionOf(ctx, o.Namespace, o.Spec.To); err != nil {
		return nil, err
	}
	if f.from, err = r.revisionOf(ctx, o.Namespace, o.Spec.From); client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(slices.Values(o.Spec.Partitions)) {
		p, err := r.place(ctx, o, name, f.to)
		if err != nil {
			return nil, err
		}
		if p != nil {
			f.partitions = append(f.partitions, *p)
		}
	}
	if f.routed, err = r.routed(ctx, o); err != nil {
		return nil, err
	}
	if origin := f.origin(); origin != "" && origin != o.Spec.From && origin != o.Spec.To {
		o.Spec.From = origin
		if f.from, err = r.revisionOf(ctx, o.Namespace, origin); client.IgnoreNotFound(err) != nil {
			return nil, err
		}
	}
	return f, nil
}

// origin is the revision that runs in all partitions; empty if they have several. It is another than the rollout says if
// that waited for one that has come to nothing.
func (f *facts) origin() string {
	var all []string
	for i := range f.partitions {
		all = append(all, f.partitions[i].revision)
	}
	slices.Sort(all)
	if all = slices.Compact(all); len(all) != 1 {
		return ""
	}
	return all[0]
}

// place reads what is known of one partition; nil if the application is not delivered there any more.
func (r *Rollouts) place(ctx context.Context, o *v1alpha1.Rollout, name string, to *v1alpha1.ApplicationRevision) (*place, error) {
	s := &stage{Rollouts: r, rollout: o}
	d, err := s.delivery(ctx, name, r.client)
	if err != nil || d == nil {
		return nil, err
	}
	p := &place{name: name, cluster: d.Spec.Cluster, reachable: !unreachable(d), replicas: green(to, d)}
	if stable := d.Spec.Track(v1alpha1.TrackStable); stable != nil {
		p.revision = stable.Revision
	}
	partition := &v1alpha1.Partition{}
	if err := r.client.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: name}, partition); client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("reading partition %s: %w", name, err)
	}
	p.environment = partition.Spec.Environment
	cluster := &v1alpha1.Cluster{}
	if err := r.client.Get(ctx, client.ObjectKey{Name: d.Spec.Cluster}, cluster); client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("reading cluster %s: %w", d.Spec.Cluster, err)
	}
	if meta.IsStatusConditionFalse(cluster.Status.Conditions, v1alpha1.ConditionReady) {
		p.reachable = false
	}
	return p, nil
}

// routed says whether a Route brings requests to the application.
func (r *Rollouts) routed(ctx context.Context, o *v1alpha1.Rollout) (bool, error) {
	var routes v1alpha1.RouteList
	if err := r.client.List(ctx, &routes, client.InNamespace(o.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("listing routes: %w", err)
	}
	for i := range routes.Items {
		if leadsTo(&routes.Items[i], o.Spec.Application) {
			return true, nil
		}
	}
	return false, nil
}

// green sizes a second track: as many pods as the stable one has now, of the components that can run side by side.
func green(to *v1alpha1.ApplicationRevision, d *v1alpha1.Delivery) map[string]int32 {
	out := map[string]int32{}
	stable := d.Spec.Track(v1alpha1.TrackStable)
	if stable == nil {
		return out
	}
	for i := range to.Spec.Components {
		c := &to.Spec.Components[i]
		if ok, _ := runsTwice(c); !ok {
			continue
		}
		n, wanted := stable.Replicas[c.Name]
		if !wanted {
			n = c.ReplicasOrDefault()
		}
		out[c.Name] = max(n, live(d, c.Name))
	}
	return out
}

// live is how many pods of a component an autoscaler may have made.
func live(d *v1alpha1.Delivery, component string) int32 {
	for i := range d.Status.Tracks {
		if d.Status.Tracks[i].Role != v1alpha1.TrackStable {
			continue
		}
		for _, c := range d.Status.Tracks[i].Components {
			if c.Name == component {
				return c.Desired
			}
		}
	}
	return 0
}

// runsTwice says whether two revisions of a component can run side by side, and if not why.
func runsTwice(c *v1alpha1.Component) (ok bool, why string) {
	if c.Template == nil {
		return false, "it has no pods"
	}
	return c.RunsBesideItself()
}

// ownPreStop says whether a component that is reached has a preStop hook of its own, so that the platform does not close
// the gap between its pods' leaving the service and their end.
func ownPreStop(c *v1alpha1.Component) bool {
	return c.Service != nil && c.Template != nil && slices.ContainsFunc(c.Template.Spec.Containers, func(container corev1.Container) bool {
		return container.Lifecycle != nil && container.Lifecycle.PreStop != nil
	})
}

// inPlaceOnly are the components that change and cannot run side by side, each with the reason, in the order of their
// names.
func (f *facts) inPlaceOnly() (names, reasons []string) {
	for i := range f.to.Spec.Components {
		c := &f.to.Spec.Components[i]
		if c.Workload == v1alpha1.WorkloadExternal || c.Workload == v1alpha1.WorkloadJob || c.Workload == v1alpha1.WorkloadCronJob || !f.changes(c.Name) {
			continue
		}
		if ok, why := runsTwice(c); !ok {
			names, reasons = append(names, c.Name), append(reasons, c.Name+": "+why)
		}
	}
	slices.Sort(names)
	slices.Sort(reasons)
	return names, reasons
}

// changes says whether the pods of a component are others in the new revision.
func (f *facts) changes(component string) bool {
	if f.from == nil {
		return true
	}
	before, after := podsIn(f.from, component), podsIn(f.to, component)
	return before == nil || after == nil || !equality.Semantic.DeepEqual(before, after)
}

// podsIn gives a part of a revision, all that the pods of a component are made from; nil if it does not have it.
func podsIn(r *v1alpha1.ApplicationRevision, component string) *v1alpha1.ApplicationRevisionSpec {
	at := slices.IndexFunc(r.Spec.Components, func(c v1alpha1.Component) bool { return c.Name == component })
	if at < 0 {
		return nil
	}
	p := &v1alpha1.ApplicationRevisionSpec{Components: r.Spec.Components[at : at+1], Overrides: r.Spec.Overrides}
	for _, pin := range r.Spec.Configurations {
		if slices.ContainsFunc(p.Components[0].Configurations, func(use v1alpha1.ConfigurationUse) bool { return use.Name == pin.Name }) {
			p.Configurations = append(p.Configurations, pin)
		}
	}
	return p
}

// leadsTo says whether a Route brings requests to an application.
func leadsTo(route *v1alpha1.Route, application string) bool {
	for i := range route.Spec.Rules {
		for _, backend := range route.Spec.Rules[i].Backends {
			if strings.EqualFold(backend.Application, application) {
				return true
			}
		}
	}
	return false
}
