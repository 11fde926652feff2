package route

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"yunfan.io/yunfan/api/v1alpha1"
)

// gathering is how long changes are gathered before a table is made of them.
const gathering = 20 * time.Millisecond

// tables makes one table of everything whenever something changes. Its queue holds one request only, so what changes
// while a table is made is in the next one.
type tables struct{ *Routes }

// SetupWithManager registers the controller. It begins when all that it looks at has been read.
func (t *tables) SetupWithManager(mgr ctrl.Manager) error {
	again := soon()
	err := ctrl.NewControllerManagedBy(mgr).Named("routetable").
		Watches(&v1alpha1.Route{}, again, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.RouteHost{}, again).
		Watches(&v1alpha1.Edge{}, again, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.Delivery{}, again, builder.WithPredicates(changedBy(deliveryChanged))).
		Watches(&v1alpha1.Partition{}, again, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.Cluster{}, again, builder.WithPredicates(changedBy(clusterChanged))).
		Watches(&v1alpha1.Configuration{}, again, builder.WithPredicates(changedBy(configurationChanged))).
		Complete(t)
	if err != nil {
		return fmt.Errorf("registering the controller of the routes' table: %w", err)
	}
	return nil
}

// soon enqueues the one request.
func soon() handler.EventHandler {
	add := func(q queue) {
		q.AddAfter(ctrl.Request{NamespacedName: client.ObjectKey{Name: "table"}}, gathering)
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, _ event.CreateEvent, q queue) { add(q) },
		UpdateFunc: func(_ context.Context, _ event.UpdateEvent, q queue) { add(q) },
		DeleteFunc: func(_ context.Context, _ event.DeleteEvent, q queue) { add(q) },
	}
}

func changedBy(changed func(was, is client.Object) bool) predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool { return changed(e.ObjectOld, e.ObjectNew) }}
}

// deliveryChanged leaves out what neither closes it nor changes its share.
func deliveryChanged(was, is client.Object) bool {
	before, after := was.(*v1alpha1.Delivery), is.(*v1alpha1.Delivery)
	return before.Generation != after.Generation || !before.DeletionTimestamp.Equal(after.DeletionTimestamp) ||
		before.Status.ObservedGeneration != after.Status.ObservedGeneration ||
		!equality.Semantic.DeepEqual(before.Status.Tracks, after.Status.Tracks) ||
		!equality.Semantic.DeepEqual(before.Status.Conditions, after.Status.Conditions)
}

func clusterChanged(was, is client.Object) bool {
	before, after := was.(*v1alpha1.Cluster), is.(*v1alpha1.Cluster)
	return !equality.Semantic.DeepEqual(before.Status.Gateways, after.Status.Gateways) || ready(before) != ready(after)
}

func configurationChanged(was, is client.Object) bool {
	before, after := was.(*v1alpha1.Configuration), is.(*v1alpha1.Configuration)
	return after.Spec.Type == v1alpha1.ConfigurationSecret && !equality.Semantic.DeepEqual(before.Status.Versions, after.Status.Versions)
}

// Reconcile makes the newest table and hands it to the edges.
func (t *tables) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	f, err := t.gather(ctx)
	if err != nil {
		return ctrl.Result{}, err
	}
	b, err := build(f)
	if err != nil {
		return ctrl.Result{}, err
	}
	before := t.edges.current()
	t.edges.publish(b)
	t.forget(f.routes)
	t.routeKick.add(differing(before, b)...)
	if before == nil || !equality.Semantic.DeepEqual(before.partitions, b.partitions) || len(before.edges) != len(b.edges) {
		for i := range f.partitions {
			t.partitionKick.add(client.ObjectKeyFromObject(&f.partitions[i]))
		}
	}
	return ctrl.Result{}, t.open(ctx, f)
}

// gather reads what a table is made of. What cannot be read now keeps the former table: nothing is taken from it only
// because the hub does not answer.
func (t *tables) gather(ctx context.Context) (*facts, error) {
	var (
		routes     v1alpha1.RouteList
		hosts      v1alpha1.RouteHostList
		deliveries v1alpha1.DeliveryList
		partitions v1alpha1.PartitionList
		clusters   v1alpha1.ClusterList
		edges      v1alpha1.EdgeList
	)
	for _, list := range []client.ObjectList{&routes, &hosts, &deliveries, &partitions, &clusters, &edges} {
		if err := t.client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("reading what the routes' table is made of: %w", err)
		}
	}
	f := &facts{
		routes: routes.Items, hosts: hosts.Items, deliveries: deliveries.Items, partitions: partitions.Items, clusters: clusters.Items, edges: edges.Items,
		certificates: map[client.ObjectKey]*certificate{},
	}
	for i := range f.routes {
		c, err := t.certificateOf(ctx, &f.routes[i])
		if err != nil {
			return nil, err
		}
		if c != nil {
			f.certificates[client.ObjectKeyFromObject(&f.routes[i])] = c
		}
	}
	return f, nil
}

// differing gives the Routes of which something is other than it was.
func differing(before, after *built) (changed []client.ObjectKey) {
	for key, o := range after.routes {
		same := false
		if before != nil && before.routes[key] != nil && slices.Equal(before.edges, after.edges) {
			was := before.routes[key]
			same = was.generation == o.generation && was.certificate == o.certificate && slices.Equal(was.pools, o.pools) && slices.Equal(was.problems, o.problems) &&
				!slices.ContainsFunc(o.pools, func(pool string) bool { return before.contents[pool] != after.contents[pool] })
		}
		if !same {
			changed = append(changed, key)
		}
	}
	return changed
}

// open ends, in their specs, what Deliveries were closed for until they are healthy.
func (t *tables) open(ctx context.Context, f *facts) error {
	clusters := map[string]*v1alpha1.Cluster{}
	for i := range f.clusters {
		clusters[f.clusters[i].Name] = &f.clusters[i]
	}
	for i := range f.deliveries {
		d := &f.deliveries[i]
		if d.Spec.Traffic == nil || !d.Spec.Traffic.Closed || !d.Spec.Traffic.UntilHealthy || !healthyAgain(d, clusters[d.Spec.Cluster]) {
			continue
		}
		opened := d.DeepCopy()
		opened.Spec.Traffic.Closed, opened.Spec.Traffic.UntilHealthy = false, false
		patch := client.MergeFromWithOptions(d.DeepCopy(), client.MergeFromWithOptimisticLock{})
		if err := t.client.Patch(ctx, opened, patch); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("opening delivery %s/%s, which is healthy again: %w", d.Namespace, d.Name, err)
		}
	}
	return nil
}
