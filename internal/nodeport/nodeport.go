// Package nodeport decides which application has which node port of which cluster. A reservation is an object named
// after cluster and port, so that of two who want the same port only one can create it.
package nodeport

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/reconcile"
)

// Ports reserves and lists node ports.
type Ports struct {
	// Hub is where reservations are written; it may read from a cache.
	Hub client.Client
	// Live reads the hub without a cache: who was first is not decided on what was true a moment ago.
	Live client.Reader
	// Members know the services that are there already.
	Members member.Lookup

	reports reports
}

// Reserve takes all the ports for one application, or none of them. If somebody else has one of them the error is
// Stalled with the reason NodePortTaken, and names every owner. Ports that the application has already are kept; those
// that it no longer wants are released by Garbage, once the member has let go of them.
func (p *Ports) Reserve(ctx context.Context, wants []v1alpha1.NodePortSpec) error {
	if err := p.refuseForeign(ctx, wants); err != nil {
		return err
	}
	var made []*v1alpha1.NodePort
	var taken []string
	for _, want := range wants {
		reservation, owner, err := p.take(ctx, want)
		if err != nil {
			return errors.Join(err, p.giveBack(ctx, made))
		}
		if owner != "" {
			taken = append(taken, describe(want.Cluster, want.Port, owner))
		}
		if reservation != nil {
			made = append(made, reservation)
		}
	}
	if len(taken) > 0 {
		return errors.Join(stall(taken), p.giveBack(ctx, made))
	}
	return nil
}

// Check says what Reserve would, as far as the cache knows, and writes nothing.
func (p *Ports) Check(ctx context.Context, wants []v1alpha1.NodePortSpec) error {
	if err := p.refuseForeign(ctx, wants); err != nil {
		return err
	}
	var taken []string
	for _, want := range wants {
		have := &v1alpha1.NodePort{}
		err := p.Hub.Get(ctx, client.ObjectKey{Name: v1alpha1.NodePortName(want.Cluster, want.Port)}, have)
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return fmt.Errorf("looking for the reservation of port %d: %w", want.Port, err)
		case !sameApplication(have.Spec.Owner, want.Owner):
			taken = append(taken, describe(want.Cluster, want.Port, ownerFor(have.Spec.Owner, want.Owner)))
		}
	}
	if len(taken) > 0 {
		return stall(taken)
	}
	return nil
}

// take gives the reservation if it was made, or the owner if it is somebody else's.
func (p *Ports) take(ctx context.Context, want v1alpha1.NodePortSpec) (made *v1alpha1.NodePort, owner string, err error) {
	const attempts = 3 // between reading and writing the reservation may go, once or twice
	for range attempts {
		reservation := &v1alpha1.NodePort{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.NodePortName(want.Cluster, want.Port)}, Spec: want}
		err = p.Hub.Create(ctx, reservation)
		if err == nil {
			return reservation, "", nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, "", fmt.Errorf("reserving port %d of cluster %s: %w", want.Port, want.Cluster, err)
		}
		have := &v1alpha1.NodePort{}
		if err = p.Live.Get(ctx, client.ObjectKeyFromObject(reservation), have); apierrors.IsNotFound(err) {
			continue
		} else if err != nil {
			return nil, "", fmt.Errorf("reading the reservation of port %d of cluster %s: %w", want.Port, want.Cluster, err)
		}
		if have.Spec.Owner == want.Owner {
			return nil, "", nil
		}
		if !sameApplication(have.Spec.Owner, want.Owner) {
			return nil, ownerFor(have.Spec.Owner, want.Owner), nil
		}
		// The application moves its port to another component or partition of its own.
		if err = p.delete(ctx, have); err != nil {
			return nil, "", err
		}
	}
	return nil, "", fmt.Errorf("reserving port %d of cluster %s: others keep taking and releasing it", want.Port, want.Cluster)
}

func (p *Ports) giveBack(ctx context.Context, made []*v1alpha1.NodePort) error {
	var errs []error
	for _, reservation := range made {
		errs = append(errs, p.delete(ctx, reservation))
	}
	return errors.Join(errs...)
}

func (p *Ports) delete(ctx context.Context, reservation *v1alpha1.NodePort) error {
	err := p.Hub.Delete(ctx, reservation, client.Preconditions{UID: &reservation.UID})
	if client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
		return fmt.Errorf("releasing port %d of cluster %s: %w", reservation.Spec.Port, reservation.Spec.Cluster, err)
	}
	return nil
}

// refuseForeign refuses ports wanted twice, and ports that a member's service has that is no service of the application.
func (p *Ports) refuseForeign(ctx context.Context, wants []v1alpha1.NodePortSpec) error {
	var taken []string
	seen := map[string]v1alpha1.NodePortOwner{}
	clusters := map[string]bool{}
	for _, want := range wants {
		key := v1alpha1.NodePortName(want.Cluster, want.Port)
		if other, twice := seen[key]; twice {
			taken = append(taken, describe(want.Cluster, want.Port, OwnerName(other)))
		}
		seen[key] = want.Owner
		clusters[want.Cluster] = true
	}
	all := map[string][]corev1.Service{}
	for _, cluster := range slices.Sorted(maps.Keys(clusters)) {
		services, err := p.services(ctx, cluster)
		if err != nil {
			return err
		}
		all[cluster] = services
		for i := range services {
			for _, port := range services[i].Spec.Ports {
				want, wanted := seen[v1alpha1.NodePortName(cluster, port.NodePort)]
				if wanted && port.NodePort != 0 && !belongs(&services[i], want) {
					taken = append(taken, describe(cluster, port.NodePort, serviceFor(&services[i], want)))
				}
			}
		}
	}
	listened, err := p.refuseListened(ctx, wants, all)
	if err != nil {
		return err
	}
	taken = append(taken, listened...)
	if len(taken) > 0 {
		return stall(taken)
	}
	return nil
}

// services of a member as its cache has them; none if it was never reached.
func (p *Ports) services(ctx context.Context, cluster string) ([]corev1.Service, error) {
	m, ok := p.Members.Member(cluster)
	if !ok {
		return nil, nil
	}
	list := &corev1.ServiceList{}
	if err := m.Cache.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing services of cluster %s: %w", cluster, err)
	}
	return list.Items, nil
}

// belongs says whether a service is of the application that wants a port.
func belongs(service *corev1.Service, owner v1alpha1.NodePortOwner) bool {
	return service.Labels[v1alpha1.LabelTenant] == owner.Tenant && service.Labels[v1alpha1.LabelApplication] == owner.Application
}

func sameApplication(a, b v1alpha1.NodePortOwner) bool {
	return a.Tenant == b.Tenant && a.Application == b.Application
}

// OwnerName is how people read an owner: tenant/application component partition.
func OwnerName(o v1alpha1.NodePortOwner) string {
	return fmt.Sprintf("%s/%s %s %s", o.Tenant, o.Application, o.Component, o.Partition)
}

// ownerFor names an owner to somebody: of another tenant nothing is told.
func ownerFor(owner, asking v1alpha1.NodePortOwner) string {
	if owner.Tenant != asking.Tenant {
		return "another tenant"
	}
	return OwnerName(owner)
}

func serviceFor(s *corev1.Service, asking v1alpha1.NodePortOwner) string {
	if s.Labels[v1alpha1.LabelApplication] != "" {
		return ownerFor(v1alpha1.NodePortOwner{
			Tenant: s.Labels[v1alpha1.LabelTenant], Application: s.Labels[v1alpha1.LabelApplication],
			Component: s.Labels[v1alpha1.LabelComponent], Partition: s.Labels[v1alpha1.LabelPartition],
		}, asking)
	}
	return fmt.Sprintf("service %s/%s, which Yunfan did not make", s.Namespace, s.Name)
}

func describe(cluster string, port int32, owner string) string {
	return fmt.Sprintf("node port %d of cluster %s is taken by %s", port, cluster, owner)
}

func stall(taken []string) error {
	slices.Sort(taken)
	return reconcile.Stall(v1alpha1.ReasonNodePortTaken, "%s: choose another port, or none to let the cluster choose",
		strings.Join(slices.Compact(taken), "; "))
}
