package application

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// world is everything that planning an application looks at, as read at one time. The objects are shared with the
// cache: nobody changes them.
type world struct {
	app        *v1alpha1.Application
	partitions []v1alpha1.Partition
	// clusters are the labels of the tenant's clusters.
	clusters map[string]map[string]string
	// configurations are those that the application names, as far as they exist.
	configurations map[string]*v1alpha1.Configuration
	// revisions of the application, by name.
	revisions map[string]*v1alpha1.ApplicationRevision
	// deliveries of the application, by partition.
	deliveries map[string]*v1alpha1.Delivery
	// others are the deliveries of the tenant's other applications.
	others []*v1alpha1.Delivery
	// rollouts of the application that have not ended, and the newest.
	rollouts []*v1alpha1.Rollout
	// rollout is the newest, which the application's status names; nil if there is none.
	rollout *v1alpha1.Rollout
	// later are the partitions that get nothing before the rollout has ended.
	later []string
	// nodePorts are the reservations of all clusters, by name.
	nodePorts map[string]*v1alpha1.NodePort
}

// load reads the world of an application. From a cache this costs no request.
func load(ctx context.Context, reader client.Reader, app *v1alpha1.Application) (*world, error) {
	w := &world{
		app: app, clusters: map[string]map[string]string{}, configurations: map[string]*v1alpha1.Configuration{},
		revisions: map[string]*v1alpha1.ApplicationRevision{}, deliveries: map[string]*v1alpha1.Delivery{},
		nodePorts: map[string]*v1alpha1.NodePort{},
	}
	var partitions v1alpha1.PartitionList
	var revisions v1alpha1.ApplicationRevisionList
	var deliveries v1alpha1.DeliveryList
	var nodePorts v1alpha1.NodePortList
	var rollouts v1alpha1.RolloutList
	here, mine := client.InNamespace(app.Namespace), client.MatchingLabels{v1alpha1.LabelApplication: app.Name}
	for _, read := range []struct {
		list    client.ObjectList
		options []client.ListOption
	}{
		{&partitions, []client.ListOption{here}},
		{&revisions, []client.ListOption{here, mine}},
		{&deliveries, []client.ListOption{here}},
		{&nodePorts, nil},
		{&rollouts, []client.ListOption{here, mine}},
	} {
		if err := reader.List(ctx, read.list, append(read.options, client.UnsafeDisableDeepCopy)...); err != nil {
			return nil, fmt.Errorf("reading what the application depends on: %w", err)
		}
	}
	w.partitions = partitions.Items // in no order: placement.Choose brings them into one
	for i := range revisions.Items {
		// Those of an application of the same name that was deleted are on their way out.
		if metav1.IsControlledBy(&revisions.Items[i], app) {
			w.revisions[revisions.Items[i].Name] = &revisions.Items[i]
		}
	}
	for i := range deliveries.Items {
		if d := &deliveries.Items[i]; d.Spec.Application == app.Name {
			w.deliveries[d.Spec.Partition] = d
		} else {
			w.others = append(w.others, d)
		}
	}
	for i := range nodePorts.Items {
		w.nodePorts[nodePorts.Items[i].Name] = &nodePorts.Items[i]
	}
	for i := range rollouts.Items {
		o := &rollouts.Items[i]
		if !metav1.IsControlledBy(o, app) {
			continue
		}
		newest := o.Name == app.Status.Rollout
		if newest {
			w.rollout = o
		}
		if newest || !o.Status.Phase.Ended() {
			w.rollouts = append(w.rollouts, o)
		}
	}
	slices.SortFunc(w.rollouts, func(a, b *v1alpha1.Rollout) int { return strings.Compare(a.Name, b.Name) })
	if err := w.loadConfigurations(ctx, reader); err != nil {
		return nil, err
	}
	return w, w.loadClusters(ctx, reader)
}

func (w *world) loadConfigurations(ctx context.Context, reader client.Reader) error {
	for _, name := range sortedKeys(configurationsOf(w.app.Spec.Components)) {
		c := &v1alpha1.Configuration{}
		err := reader.Get(ctx, types.NamespacedName{Namespace: w.app.Namespace, Name: name}, c)
		switch {
		case err == nil:
			w.configurations[name] = c
		case !apierrors.IsNotFound(err):
			return fmt.Errorf("reading configuration %s: %w", name, err)
		}
	}
	return nil
}

func (w *world) loadClusters(ctx context.Context, reader client.Reader) error {
	for i := range w.partitions {
		name := w.partitions[i].Spec.Cluster
		if _, done := w.clusters[name]; done {
			continue
		}
		c := &v1alpha1.Cluster{}
		if err := reader.Get(ctx, types.NamespacedName{Name: name}, c); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("reading cluster %s: %w", name, err)
		}
		w.clusters[name] = c.Labels
	}
	return nil
}

// current is the revision that the application runs or moves to; nil before the first.
func (w *world) current() *v1alpha1.ApplicationRevision {
	if r := w.revisions[w.app.Status.Revision]; r != nil {
		return r
	}
	// The status may not have been written yet.
	for _, d := range inOrder(w.deliveries) {
		if r := w.revisions[stableTrack(d).Revision]; r != nil {
			return r
		}
	}
	return nil
}

// stableTrack is the track that users get.
func stableTrack(d *v1alpha1.Delivery) *v1alpha1.Track {
	if stable := d.Spec.Track(v1alpha1.TrackStable); stable != nil {
		return stable
	}
	return &d.Spec.Tracks[0]
}

// configurationsOf are the names of the configurations that components use.
func configurationsOf(components []v1alpha1.Component) map[string]bool {
	names := map[string]bool{}
	for i := range components {
		for _, name := range components[i].ConfigurationNames() {
			names[name] = true
		}
	}
	return names
}
