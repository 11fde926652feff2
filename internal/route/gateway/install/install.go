// Package install runs the gateway of each member: Traefik on every node, behind a node port, with what counts its
// connections beside it.
package install

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/reconcile"
)

const (
	// again is how often is looked whether everything is still as it should be.
	again = 5 * time.Minute
	// soon is when is tried again what was not possible at that moment: objects of a kind that was just defined, a status
	// that somebody else wrote.
	soon = 500 * time.Millisecond
)

// Members are the joined clusters.
type Members interface {
	member.Lookup
	Register(...member.Controller)
}

// Installer runs the gateway on the members whose spec wants it.
type Installer struct{ members Members }

// New makes the controller.
func New(members Members) *Installer { return &Installer{members: members} }

// SetupWithManager has a controller started for each member.
func (i *Installer) SetupWithManager(manager.Manager) error {
	i.members.Register(i)
	return nil
}

// StartForMember starts the member's controller; it ends with ctx.
func (i *Installer) StartForMember(ctx context.Context, hub manager.Manager, m *member.Member) error {
	r := &reconciler{hub: hub.GetClient(), member: m, members: i.members}
	return member.StartController(ctx, hub, m, "gateway", controller.Options{Reconciler: r}, r.sources(hub.GetCache()))
}

// reconciler keeps the gateway of one member. One request is worked on at a time.
type reconciler struct {
	hub     client.Client
	member  *member.Member
	members member.Lookup

	applied time.Time // when everything was last applied
	wanted  wanted    // for which spec
	absent  bool      // whether the member is known to have none
}

// wanted is all of a Cluster that the gateway is made from. It is compared by its exported fields.
type wanted struct {
	Spec    v1alpha1.Gateway
	Network v1alpha1.ClusterNetwork
}

func (r *reconciler) sources(hub cache.Cache) []source.Source {
	own := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []ctrl.Request { return r.request() })
	here := predicate.NewPredicateFuncs(func(o client.Object) bool { return o.GetNamespace() == v1alpha1.GatewayNamespace })
	return []source.Source{
		member.OnHub(hub, &v1alpha1.Cluster{}, clusterChanged, func(_ context.Context, o client.Object) []ctrl.Request {
			if o.GetName() != r.member.Name {
				return nil
			}
			return r.request()
		}),
		source.Channel(r.member.Subscribe(), own),
		source.Kind[client.Object](r.member.Cache, &corev1.Pod{}, own, here),
		source.Kind[client.Object](r.member.Cache, &corev1.Node{}, own, nodeChanged),
	}
}

func (r *reconciler) request() []ctrl.Request {
	return []ctrl.Request{{NamespacedName: client.ObjectKey{Name: r.member.Name}}}
}

func clusterChanged(was, is client.Object) bool {
	before, after := was.(*v1alpha1.Cluster), is.(*v1alpha1.Cluster)
	return before.Spec.Gateway != after.Spec.Gateway || !equality.Semantic.DeepEqual(before.Status.Network, after.Status.Network)
}

// nodeChanged leaves out all but addresses.
var nodeChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	was, is := e.ObjectOld.(*corev1.Node), e.ObjectNew.(*corev1.Node)
	return !equality.Semantic.DeepEqual(was.Status.Addresses, is.Status.Addresses)
}}

// Reconcile brings the member's gateway to what its Cluster wants, and tells in the Cluster's status how it is. Of a
// member that does not answer is told what was last seen.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	cluster := &v1alpha1.Cluster{}
	if err := r.hub.Get(ctx, req.NamespacedName, cluster); err != nil || !cluster.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	answering, _ := r.member.Answering()
	if m, ok := r.members.Member(r.member.Name); !ok || m != r.member || !answering {
		return ctrl.Result{}, nil // It is asked again when it answers.
	}
	if cluster.Spec.Gateway.Mode != v1alpha1.GatewayManaged {
		return ctrl.Result{}, errors.Join(r.remove(ctx), r.tell(ctx, cluster, nil))
	}
	failure := r.install(ctx, cluster)
	told := r.tell(ctx, cluster, failure)
	switch {
	case meta.IsNoMatchError(failure), apierrors.IsConflict(told):
		return ctrl.Result{RequeueAfter: soon}, nil
	case failure != nil || told != nil:
		return ctrl.Result{}, errors.Join(failure, told)
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// install applies everything, unless the same was applied a short time ago.
func (r *reconciler) install(ctx context.Context, cluster *v1alpha1.Cluster) error {
	w := wanted{Spec: cluster.Spec.Gateway, Network: *cluster.Status.Network.DeepCopy()}
	if time.Since(r.applied) < again && equality.Semantic.DeepEqual(w, r.wanted) {
		return nil
	}
	r.absent = false
	definitions := r.define(ctx)
	for _, o := range objects(cluster) {
		if _, err := reconcile.Apply(ctx, r.member.Client, o); err != nil {
			return err
		}
	}
	if definitions != nil {
		return definitions
	}
	for _, o := range resources() {
		if _, err := reconcile.Apply(ctx, r.member.Client, o); err != nil {
			return err
		}
	}
	r.applied, r.wanted = time.Now(), w
	return nil
}

// remove removes the gateway but not the definitions of its kinds: somebody else's objects would go with them.
func (r *reconciler) remove(ctx context.Context) error {
	if r.absent {
		return nil
	}
	r.applied = time.Time{}
	namespace := &corev1.Namespace{}
	err := r.member.Client.Get(ctx, client.ObjectKey{Name: v1alpha1.GatewayNamespace}, namespace)
	if apierrors.IsNotFound(err) {
		r.absent = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for the gateway: %w", err)
	}
	class := resources()[0]
	for _, o := range []client.Object{
		class, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: roleName}}, namespace,
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: roleName}},
	} {
		if err := r.member.Client.Delete(ctx, o); client.IgnoreNotFound(err) != nil && !meta.IsNoMatchError(err) {
			return fmt.Errorf("removing %T %s: %w", o, o.GetName(), err)
		}
	}
	r.absent = true
	return nil
}
