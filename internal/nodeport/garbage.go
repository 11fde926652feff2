package nodeport

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	crreconcile "sigs.k8s.io/controller-runtime/pkg/reconcile"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	// grace is how long a reservation is kept that nothing uses yet: it is made before the Delivery that uses it.
	grace = time.Minute
	// again is how often a member is asked whether its service is gone.
	again = 2 * time.Second
	// later is how often one is asked that does not answer.
	later = 30 * time.Second

	ownerIndex = "nodeport.delivery"
)

// Garbage releases reservations that no delivery uses any more, after the member has let go of the port.
type Garbage struct {
	*Ports
	// Grace for reservations that nothing uses yet; a minute if zero.
	Grace time.Duration
}

// SetupWithManager registers the controller.
func (g *Garbage) SetupWithManager(mgr ctrl.Manager) error {
	if g.Grace == 0 {
		g.Grace = grace
	}
	byDelivery := func(o client.Object) []string { return []string{deliveryKey(o.(*v1alpha1.NodePort)).String()} }
	if err := mgr.GetFieldIndexer().IndexField(context.Background(), &v1alpha1.NodePort{}, ownerIndex, byDelivery); err != nil {
		return fmt.Errorf("indexing node ports: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).Named("nodeport").
		For(&v1alpha1.NodePort{}).
		Watches(&v1alpha1.Delivery{}, handler.EnqueueRequestsFromMapFunc(g.ofDelivery), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Complete(g)
}

func deliveryKey(n *v1alpha1.NodePort) client.ObjectKey {
	o := n.Spec.Owner
	return client.ObjectKey{Namespace: o.Tenant, Name: v1alpha1.DeliveryName(o.Application, o.Partition)}
}

func (g *Garbage) ofDelivery(ctx context.Context, delivery client.Object) []crreconcile.Request {
	list := &v1alpha1.NodePortList{}
	key := client.ObjectKeyFromObject(delivery).String()
	if err := g.Hub.List(ctx, list, client.MatchingFields{ownerIndex: key}); err != nil {
		return nil // a cache that ends with the process
	}
	out := make([]crreconcile.Request, 0, len(list.Items))
	for i := range list.Items {
		out = append(out, crreconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return out
}

// Reconcile releases one reservation if nothing uses it.
func (g *Garbage) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	reservation := &v1alpha1.NodePort{}
	if err := g.Hub.Get(ctx, req.NamespacedName, reservation); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if wait := g.Grace - time.Since(reservation.CreationTimestamp.Time); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	used, err := g.delivered(ctx, reservation)
	if err != nil || used {
		return ctrl.Result{}, err
	}
	wait, err := g.held(ctx, reservation)
	if err != nil || wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, err
	}
	return ctrl.Result{}, g.delete(ctx, reservation)
}

// delivered says whether the owner's delivery runs a revision that uses the port.
func (g *Garbage) delivered(ctx context.Context, reservation *v1alpha1.NodePort) (bool, error) {
	key := deliveryKey(reservation)
	delivery := &v1alpha1.Delivery{}
	if err := g.Hub.Get(ctx, key, delivery); apierrors.IsNotFound(err) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("reading delivery %s: %w", key, err)
	}
	for _, track := range delivery.Spec.Tracks {
		revision := &v1alpha1.ApplicationRevision{}
		if err := g.Hub.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: track.Revision}, revision); err != nil {
			return true, fmt.Errorf("reading revision %s: %w", track.Revision, err)
		}
		if uses(&revision.Spec, reservation.Spec) {
			return true, nil
		}
	}
	return false, nil
}

// uses says whether a revision has the port in the partition of the reservation's owner.
func uses(revision *v1alpha1.ApplicationRevisionSpec, reservation v1alpha1.NodePortSpec) bool {
	owner := reservation.Owner
	for i := range revision.Components {
		c := &revision.Components[i]
		if c.Name != owner.Component || c.Service == nil {
			continue
		}
		for _, port := range c.Service.Ports {
			if port.Name == owner.PortName && nodePort(revision, owner.Partition, c.Name, port) == reservation.Port {
				return true
			}
		}
	}
	return false
}

func nodePort(revision *v1alpha1.ApplicationRevisionSpec, partition, component string, port v1alpha1.ServicePort) int32 {
	for _, p := range revision.Overrides {
		if p.Partition != partition {
			continue
		}
		for _, o := range p.Overrides {
			if own, ok := o.NodePorts[port.Name]; ok && o.Component == component {
				return own
			}
		}
	}
	return port.NodePort
}

// held says how long to wait for the member to let go of the port; 0 if it has.
func (g *Garbage) held(ctx context.Context, reservation *v1alpha1.NodePort) (time.Duration, error) {
	cluster := reservation.Spec.Cluster
	m, ok := g.Members.Member(cluster)
	if !ok {
		err := g.Hub.Get(ctx, client.ObjectKey{Name: cluster}, &v1alpha1.Cluster{})
		if apierrors.IsNotFound(err) {
			return 0, nil // a cluster that was removed has no ports
		}
		return later, err
	}
	if answering, _ := m.Answering(); !answering {
		return later, nil
	}
	services, err := g.services(ctx, cluster)
	if err != nil {
		return 0, err
	}
	for i := range services {
		if !belongs(&services[i], reservation.Spec.Owner) || services[i].Labels[v1alpha1.LabelPartition] != reservation.Spec.Owner.Partition {
			continue
		}
		for _, port := range services[i].Spec.Ports {
			if port.NodePort == reservation.Spec.Port {
				return again, nil
			}
		}
	}
	return 0, nil
}
