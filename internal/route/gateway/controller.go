package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
)

const (
	// workers work on as many partitions of one member at the same time.
	workers = 8
	// firstRetry and lastRetry bound the pauses after errors.
	firstRetry, lastRetry = 50 * time.Millisecond, 30 * time.Second
	// definedInterval is how often is looked whether a member has the kinds of a gateway.
	definedInterval = 2 * time.Second
	// confirmFirst and confirmLast bound the pauses between questions whether gateways serve what they should.
	confirmFirst, confirmLast = 100 * time.Millisecond, 5 * time.Second
)

// Controller brings the objects of Routes to each member that has a gateway.
type Controller struct{ gateways *Gateways }

// NewController makes the controller. Gateways asks them whether they serve what it has brought.
func NewController(gateways *Gateways) *Controller { return &Controller{gateways: gateways} }

// StartForMember starts the member's controller once the member has the kinds of a gateway; it ends with ctx.
func (c *Controller) StartForMember(ctx context.Context, hub manager.Manager, m *member.Member) error {
	r := &reconciler{hub: hub.GetClient(), member: m, gateways: c.gateways, records: map[types.NamespacedName]*record{}}
	go func() {
		for !r.defined(ctx) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(definedInterval):
			}
		}
		err := member.StartController(ctx, hub, m, "gateway-routes", controller.Options{
			Reconciler: r, MaxConcurrentReconciles: workers,
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[ctrl.Request](firstRetry, lastRetry),
		}, r.sources(hub.GetCache()))
		if err != nil && ctx.Err() == nil {
			hub.GetLogger().Error(err, "The controller of gateways' routes could not be started", "cluster", m.Name)
		}
	}()
	return nil
}

// reconciler works for one member, partition by partition.
type reconciler struct {
	hub      client.Client
	member   *member.Member
	gateways *Gateways

	mu      sync.Mutex
	records map[types.NamespacedName]*record
}

// defined says whether the member should have a gateway, and has its kinds.
func (r *reconciler) defined(ctx context.Context) bool {
	if cluster, err := r.cluster(ctx); err != nil || cluster.Spec.Gateway.Mode != v1alpha1.GatewayManaged {
		return false
	}
	if answering, _ := r.member.Answering(); !answering {
		return false
	}
	for _, kind := range Kinds() {
		if _, err := r.member.Client.RESTMapper().RESTMapping(kind.GroupKind(), kind.Version); err != nil {
			return false
		}
	}
	return true
}

func (r *reconciler) cluster(ctx context.Context) (*v1alpha1.Cluster, error) {
	cluster := &v1alpha1.Cluster{}
	if err := r.hub.Get(ctx, client.ObjectKey{Name: r.member.Name}, cluster); err != nil {
		return nil, fmt.Errorf("reading cluster %s: %w", r.member.Name, err)
	}
	return cluster, nil
}

func (r *reconciler) sources(hub cache.Cache) []source.Source {
	all := handler.EnqueueRequestsFromMapFunc(r.all)
	sources := []source.Source{
		member.OnHub(hub, &v1alpha1.Route{}, member.GenerationChanged, r.ofTenant),
		member.OnHub(hub, &v1alpha1.Delivery{}, member.GenerationChanged, r.ofDelivery),
		member.OnHub(hub, &v1alpha1.Partition{}, partitionChanged, r.self),
		member.OnHub(hub, &v1alpha1.ApplicationRevision{}, member.NeverChanged, r.ofTenant),
		member.OnHub(hub, &v1alpha1.Cluster{}, gatewayChanged, r.ofCluster),
		source.Channel(r.member.Subscribe(), all),
	}
	for _, kind := range Kinds() {
		object := &metav1.PartialObjectMetadata{}
		object.SetGroupVersionKind(kind)
		sources = append(sources, source.Kind[client.Object](r.member.Cache, object, handler.EnqueueRequestsFromMapFunc(r.ofObject), predicate.GenerationChangedPredicate{}))
	}
	return sources
}

func partitionChanged(before, after client.Object) bool {
	was, is := before.(*v1alpha1.Partition), after.(*v1alpha1.Partition)
	return was.Generation != is.Generation || partitionReady(was) != partitionReady(is)
}

func partitionReady(p *v1alpha1.Partition) bool {
	return p.DeletionTimestamp.IsZero() && meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionReady)
}

// gatewayChanged says whether a cluster has another gateway, or other replicas of it.
func gatewayChanged(before, after client.Object) bool {
	was, is := before.(*v1alpha1.Cluster), after.(*v1alpha1.Cluster)
	return was.Spec.Gateway != is.Spec.Gateway || !equality.Semantic.DeepEqual(was.Status.Gateways, is.Status.Gateways)
}

func (r *reconciler) self(_ context.Context, p client.Object) []ctrl.Request {
	if p.(*v1alpha1.Partition).Spec.Cluster != r.member.Name {
		return nil
	}
	return []ctrl.Request{{NamespacedName: client.ObjectKeyFromObject(p)}}
}

func (r *reconciler) ofTenant(ctx context.Context, o client.Object) []ctrl.Request {
	return r.list(ctx, client.InNamespace(o.GetNamespace()))
}

func (r *reconciler) ofDelivery(_ context.Context, o client.Object) []ctrl.Request {
	d := o.(*v1alpha1.Delivery)
	if d.Spec.Cluster != r.member.Name {
		return nil
	}
	return []ctrl.Request{{NamespacedName: types.NamespacedName{Namespace: d.Namespace, Name: d.Spec.Partition}}}
}

func (r *reconciler) ofCluster(ctx context.Context, o client.Object) []ctrl.Request {
	if o.GetName() != r.member.Name {
		return nil
	}
	return r.list(ctx)
}

func (r *reconciler) all(ctx context.Context, _ client.Object) []ctrl.Request { return r.list(ctx) }

// ofObject finds the partition of a member's object by its labels.
func (r *reconciler) ofObject(_ context.Context, o client.Object) []ctrl.Request {
	labels := o.GetLabels()
	if labels[v1alpha1.LabelTenant] == "" || labels[v1alpha1.LabelPartition] == "" {
		return nil
	}
	return []ctrl.Request{{NamespacedName: types.NamespacedName{Namespace: labels[v1alpha1.LabelTenant], Name: labels[v1alpha1.LabelPartition]}}}
}

func (r *reconciler) list(ctx context.Context, options ...client.ListOption) []ctrl.Request {
	partitions := &v1alpha1.PartitionList{}
	if err := r.hub.List(ctx, partitions, append(options, client.UnsafeDisableDeepCopy)...); err != nil {
		return nil // only when the cache ends
	}
	var out []ctrl.Request
	for i := range partitions.Items {
		out = append(out, r.self(ctx, &partitions.Items[i])...)
	}
	return out
}

// Reconcile brings the objects of one partition to the member, and looks whether the gateways serve them.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	p := &v1alpha1.Partition{}
	if err := r.hub.Get(ctx, req.NamespacedName, p); err != nil {
		r.forget(req.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if p.Spec.Cluster != r.member.Name || !partitionReady(p) {
		return ctrl.Result{}, nil // it is looked at again when it is ready
	}
	if answering, _ := r.member.Answering(); !answering {
		return ctrl.Result{}, nil // it is looked at again when the member answers
	}
	cluster, err := r.cluster(ctx)
	if err != nil {
		return ctrl.Result{}, err
	}
	objects := &Objects{}
	if cluster.Spec.Gateway.Mode == v1alpha1.GatewayManaged {
		in, err := ReadInput(ctx, r.hub, p)
		if err != nil {
			return ctrl.Result{}, err
		}
		if objects, err = Render(in); err != nil {
			return ctrl.Result{}, err
		}
	}
	again, err := r.converge(ctx, r.record(p), cluster, p, objects)
	if _, lost := errors.AsType[*member.NotAnsweringError](err); lost {
		return ctrl.Result{}, nil
	}
	return ctrl.Result{RequeueAfter: again}, err
}

func (r *reconciler) record(p *v1alpha1.Partition) *record {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := client.ObjectKeyFromObject(p)
	rec := r.records[key]
	if rec == nil || rec.uid != p.UID {
		rec = &record{uid: p.UID, applied: map[string]applied{}}
		r.records[key] = rec
	}
	return rec
}

func (r *reconciler) forget(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.records, key)
}
