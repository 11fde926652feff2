package partition

import (
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/reconcile"
)

// workers reconcile as many Partitions of one member at the same time.
const workers = 4

// reconciler reconciles the Partitions of one member.
type reconciler struct {
	hubSide
	member  *member.Member
	members member.Lookup
	roles   []client.Object // of the whole member

	taints sync.Mutex // nodes are shared by all partitions of the member

	policy   sync.Mutex // and so is the admission policy
	enforced time.Time  // when it was last applied
	// parameterText is what was applied with it
	parameterText string
	unsupported   bool // the member has no admission policies

	network network // so are the addresses of all clusters

	mu      sync.Mutex
	records map[types.NamespacedName]*record
}

// StartForMember starts the member's controller; it ends with ctx.
func (c *Controller) StartForMember(ctx context.Context, hub manager.Manager, m *member.Member) error {
	r := &reconciler{hubSide: c.hubSide, member: m, members: c.members, roles: c.roles, records: map[types.NamespacedName]*record{}}
	options := controller.Options{Reconciler: r, MaxConcurrentReconciles: workers}
	return member.StartController(ctx, hub, m, "partition", options, r.sources(hub.GetCache()))
}

// Reconcile brings one Partition of the member to what it should be.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	p := &v1alpha1.Partition{}
	if err := r.client.Get(ctx, req.NamespacedName, p); err != nil {
		r.forget(req.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if p.Spec.Cluster != r.member.Name || !r.inUse() {
		return ctrl.Result{}, nil
	}
	if !p.DeletionTimestamp.IsZero() {
		return reconcile.Finalize(ctx, r.client, p, v1alpha1.ConditionReady, finalizer,
			r.partsGone, r.withdraw, r.reached(r.removeNamespace), r.reached(r.reserveNodes), r.release)
	}
	return reconcile.Run(ctx, r.client, p, v1alpha1.ConditionReady, v1alpha1.ReasonReady,
		r.hold, traffic, r.reclaim, r.allocate, r.reached(r.enforce), r.reached(r.setUp), r.reached(r.isolate), r.settle, r.reached(r.reserveNodes), r.reached(r.observe), r.inherits)
}

// hold keeps the object until what was made of it is gone.
func (r *reconciler) hold(ctx context.Context, p *v1alpha1.Partition) error {
	return reconcile.AddFinalizer(ctx, r.client, p, finalizer)
}

// inUse says whether this is still the connection through which the member is worked with.
func (r *reconciler) inUse() bool {
	m, ok := r.members.Member(r.member.Name)
	return ok && m == r.member
}

// reached makes a step wait while the member does not answer. Its event comes when it does again.
func (r *reconciler) reached(step reconcile.Step[*v1alpha1.Partition]) reconcile.Step[*v1alpha1.Partition] {
	return func(ctx context.Context, p *v1alpha1.Partition) error {
		if answering, _ := r.member.Answering(); answering {
			err := step(ctx, p)
			if _, silent := errors.AsType[*member.NotAnsweringError](err); !silent {
				return err
			}
		}
		s := r.member.State()
		return reconcile.Wait(s.Reason, 0, "cluster %s does not answer, shown is what was last seen at %s: %s",
			r.member.Name, s.LastSeen.UTC().Format(time.RFC3339), s.Message)
	}
}

// record is what the member had of a partition when it was last applied.
type record struct {
	adopted bool
	wanted  string   // what was applied
	applied []string // what the member made of it, object by object
	// policies are its NetworkPolicies, by name
	policies map[string]appliedPolicy
}

func (r *reconciler) record(key types.NamespacedName) *record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.records[key]
}

func (r *reconciler) remember(key types.NamespacedName, rec *record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records[key] = rec
}

func (r *reconciler) forget(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.records, key)
}
