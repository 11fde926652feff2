package delivery

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/delivery/manifest"
	"yunfan.io/yunfan/internal/reconcile"
)

// look is the time after which something is looked for again that should be there and is not.
const look = 2 * time.Second

// plan is what a Delivery comes to in its partition. It is made again only when what it was made from has changed.
type plan struct {
	key        string
	namespace  string
	adopted    bool
	stopped    bool
	tracks     []v1alpha1.Track
	shared     []target
	components []component // those of the stable track first
}

// part names a component of a plan: two tracks have components of the same names.
type part struct {
	role v1alpha1.TrackRole
	name string
}

// component of a plan.
type component struct {
	part

	revision  string
	dependsOn []string
	kind      v1alpha1.WorkloadKind
	lent      bool    // the stable track's pods serve this one
	workload  *target // nil if there are no pods
	targets   []*target
}

// target is one object to be applied.
type target struct {
	key    objectKey
	entry  v1alpha1.InventoryEntry
	object *unstructured.Unstructured
	hash   string
}

// planFor gives the plan of a Delivery. An error says what is missing for it.
func (r *reconciler) planFor(ctx context.Context, rec *record, d *v1alpha1.Delivery) (*plan, error) {
	partition := &v1alpha1.Partition{}
	if err := r.hub.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: d.Spec.Partition}, partition); apierrors.IsNotFound(err) {
		return nil, reconcile.Stall(v1alpha1.ReasonPartitionNotFound, "partition %s does not exist: create it, or take it out of the application's placement", d.Spec.Partition)
	} else if err != nil {
		return nil, fmt.Errorf("reading partition %s: %w", d.Spec.Partition, err)
	}
	if !partitionReady(partition) {
		return nil, reconcile.Stall(v1alpha1.ReasonPartitionNotReady, "partition %s is not ready, see its conditions: delivery goes on when it is", d.Spec.Partition)
	}
	key := fmt.Sprintf("%d %s %d %s", d.Generation, partition.UID, partition.Generation, partition.MemberNamespace())
	if rec.plan != nil && rec.plan.key == key {
		return rec.plan, nil
	}
	revisions, err := r.revisions(ctx, d)
	if err != nil {
		return nil, err
	}
	p, err := newPlan(ctx, r.live, partition, revisions, d.Spec)
	if err != nil {
		return nil, err
	}
	p.key = key
	rec.plan = p
	return p, nil
}

// revisions reads those of a Delivery's tracks, by name.
func (r *reconciler) revisions(ctx context.Context, d *v1alpha1.Delivery) (map[string]*v1alpha1.ApplicationRevision, error) {
	out := map[string]*v1alpha1.ApplicationRevision{}
	for _, track := range d.Spec.Tracks {
		revision := &v1alpha1.ApplicationRevision{}
		if err := r.hub.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: track.Revision}, revision); apierrors.IsNotFound(err) {
			return nil, reconcile.Wait(v1alpha1.ReasonReconciling, look, "revision %s is not there yet", track.Revision)
		} else if err != nil {
			return nil, fmt.Errorf("reading revision %s: %w", track.Revision, err)
		}
		out[track.Revision] = revision
	}
	return out, nil
}

// newPlan renders the tracks of a Delivery for a partition. Hub is read for the contents of configurations.
func newPlan(ctx context.Context, hub client.Reader, partition *v1alpha1.Partition,
	revisions map[string]*v1alpha1.ApplicationRevision, spec v1alpha1.DeliverySpec,
) (*plan, error) {
	p := &plan{namespace: partition.MemberNamespace(), adopted: partition.Spec.Adopt, stopped: spec.Stopped}
	stable, candidate := spec.Track(v1alpha1.TrackStable), spec.Track(v1alpha1.TrackCandidate)
	if stable == nil {
		return nil, reconcile.Stall(v1alpha1.ReasonInvalid, "there is no stable track: whoever writes the delivery leaves it there")
	}
	p.tracks = append(p.tracks, *stable)
	if candidate != nil {
		if candidate.Suffix == stable.Suffix {
			return nil, reconcile.Stall(v1alpha1.ReasonInvalid, "the candidate's suffix %q is the stable track's: two revisions cannot have the same names", candidate.Suffix)
		}
		p.tracks = append(p.tracks, *candidate)
	}
	var rendered []*manifest.Manifests
	for i := range p.tracks {
		track := &p.tracks[i]
		revision := revisions[track.Revision]
		if revision.Spec.Chart != nil {
			return nil, reconcile.Stall(v1alpha1.ReasonChartNotSupported, "charts cannot be delivered yet: write the application as components")
		}
		configurations, err := contents(ctx, hub, revision)
		if err != nil {
			return nil, err
		}
		in := manifest.Input{
			Partition: partition, Revision: revision, Track: *track, Stopped: spec.Stopped, RollingUpdate: spec.RollingUpdate, Configurations: configurations,
		}
		if track.Role == v1alpha1.TrackCandidate {
			in.Beside = &manifest.Beside{Track: *stable, Revision: revisions[stable.Revision]}
		}
		manifests, err := manifest.Render(in)
		if err != nil {
			return nil, reconcile.Stall(v1alpha1.ReasonInvalid, "revision %s cannot be delivered: %w", revision.Name, err)
		}
		if err := p.add(track, revision, manifests); err != nil {
			return nil, err
		}
		rendered = append(rendered, manifests)
	}
	if err := manifest.Unique(rendered...); err != nil {
		return nil, reconcile.Stall(v1alpha1.ReasonInvalid, "the two revisions cannot run side by side: %w", err)
	}
	return p, nil
}

// add takes the objects of one track into the plan. Versions of configurations are the same objects for both.
func (p *plan) add(track *v1alpha1.Track, revision *v1alpha1.ApplicationRevision, manifests *manifest.Manifests) error {
	for _, o := range manifests.Shared {
		t, err := newTarget(o, "")
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(p.shared, func(have target) bool { return have.key == t.key }) {
			p.shared = append(p.shared, *t)
		}
	}
	for i, m := range manifests.Components {
		c := component{
			part: part{track.Role, m.Name}, revision: revision.Name, dependsOn: m.DependsOn, kind: revision.Spec.Components[i].Workload, lent: m.Lent,
		}
		for _, o := range m.Objects {
			t, err := newTarget(o, m.Name)
			if err != nil {
				return err
			}
			c.targets = append(c.targets, t)
			if o == m.Workload {
				c.workload = t
			}
		}
		p.components = append(p.components, c)
	}
	return nil
}

// contents reads the pinned versions of the configurations from the hub.
func contents(ctx context.Context, hub client.Reader, revision *v1alpha1.ApplicationRevision) (map[string]client.Object, error) {
	out := map[string]client.Object{}
	for _, pin := range revision.Spec.Configurations {
		var object client.Object = &corev1.ConfigMap{}
		if pin.Type == v1alpha1.ConfigurationSecret {
			object = &corev1.Secret{}
		}
		key := client.ObjectKey{Namespace: revision.Namespace, Name: v1alpha1.VersionObjectName(pin.Name, pin.Version)}
		if err := hub.Get(ctx, key, object); apierrors.IsNotFound(err) {
			return nil, reconcile.Wait(v1alpha1.ReasonConfigurationNotFound, lastRetry,
				"version %s of configuration %s is not on the hub any more: change the application to use the newest", pin.Version, pin.Name)
		} else if err != nil {
			return nil, fmt.Errorf("reading configuration %s: %w", pin.Name, err)
		}
		out[pin.Name] = object
	}
	return out, nil
}

func newTarget(o client.Object, component string) (*target, error) {
	u, err := manifest.Unstructured(o)
	if err != nil {
		return nil, err
	}
	hash, err := manifest.Hash(u)
	if err != nil {
		return nil, err
	}
	gvk := u.GroupVersionKind()
	return &target{
		key: keyOf(u, gvk), object: u, hash: hash,
		entry: v1alpha1.InventoryEntry{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Name: u.GetName(), Component: component},
	}, nil
}

// inventory lists every object of the plan.
func (p *plan) inventory() []v1alpha1.InventoryEntry {
	var out []v1alpha1.InventoryEntry
	for i := range p.shared {
		out = append(out, p.shared[i].entry)
	}
	for _, c := range p.components {
		for _, t := range c.targets {
			out = append(out, t.entry)
		}
	}
	return out
}

func (p *plan) component(which part) *component {
	i := slices.IndexFunc(p.components, func(c component) bool { return c.part == which })
	if i < 0 {
		return nil
	}
	return &p.components[i]
}

// cached gives an object from the member's cache; nil if it is not there.
func (r *reconciler) cached(ctx context.Context, e v1alpha1.InventoryEntry, namespace string) (client.Object, error) {
	return cachedObject(ctx, r.member.Cache, e, namespace)
}

func cachedObject(ctx context.Context, c client.Reader, e v1alpha1.InventoryEntry, namespace string) (client.Object, error) {
	o, err := scheme.Scheme.New(gvkOfEntry(e))
	if err != nil {
		return nil, fmt.Errorf("reading %s %s: %w", e.Kind, e.Name, err)
	}
	object := o.(client.Object)
	if err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: e.Name}, object); apierrors.IsNotFound(err) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("reading %s %s: %w", e.Kind, e.Name, err)
	}
	return object, nil
}
