package route

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// claim takes the Route's hosts for its tenant. Those that it gets stay its own also if it does not get all.
func (r *Routes) claim(ctx context.Context, route *v1alpha1.Route) error {
	var taken []string
	for _, host := range hostsOf(route) {
		why, err := r.claimHost(ctx, host, route.Namespace)
		if err != nil {
			return err
		}
		if why != "" {
			taken = append(taken, why)
		}
	}
	return stallTaken(taken)
}

// claimHost gives why a tenant cannot have a host; empty if it has it now.
func (r *Routes) claimHost(ctx context.Context, host, tenant string) (taken string, err error) {
	if owner, err := ownerOf(ctx, r.client, host); err != nil || owner == tenant {
		return "", err
	}
	const attempts = 3 // between creating and reading the reservation may go
	for range attempts {
		if taken, err = blocked(ctx, r.live, host, tenant); err != nil || taken != "" {
			return taken, err
		}
		err = r.client.Create(ctx, &v1alpha1.RouteHost{
			ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.RouteHostName(host)}, Spec: v1alpha1.RouteHostSpec{Host: host, Tenant: tenant},
		})
		if err == nil {
			return "", nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return "", fmt.Errorf("reserving host %s: %w", host, err)
		}
		if owner, err := ownerOf(ctx, r.live, host); err != nil || owner == tenant {
			return "", err
		}
	}
	return describeTaken(host), nil
}

// blocked says why a tenant cannot have a host that is not its own: another has it, or a wildcard that it is in.
func blocked(ctx context.Context, reader client.Reader, host, tenant string) (taken string, err error) {
	owner, err := ownerOf(ctx, reader, host)
	if err != nil || owner == tenant {
		return "", err
	}
	if owner != "" {
		return describeTaken(host), nil
	}
	if host == v1alpha1.AnyHost {
		return "", nil
	}
	for _, wildcard := range wildcardsOver(host) {
		owner, err := ownerOf(ctx, reader, wildcard)
		if err != nil {
			return "", err
		}
		if owner != "" && owner != tenant {
			return fmt.Sprintf("host %s is in %s, which another tenant has", host, wildcard), nil
		}
	}
	return "", nil
}

// ownerOf is the tenant that has a host; empty if none.
func ownerOf(ctx context.Context, reader client.Reader, host string) (tenant string, err error) {
	reservation := &v1alpha1.RouteHost{}
	err = reader.Get(ctx, client.ObjectKey{Name: v1alpha1.RouteHostName(host)}, reservation)
	if client.IgnoreNotFound(err) != nil {
		return "", fmt.Errorf("reading the reservation of host %s: %w", host, err)
	}
	return reservation.Spec.Tenant, nil
}

// describeTaken does not name the other tenant.
func describeTaken(host string) string {
	if host == v1alpha1.AnyHost {
		return "requests for any host are taken by another tenant: name hosts"
	}
	return fmt.Sprintf("host %s is taken by another tenant", host)
}

func stallTaken(taken []string) error {
	if len(taken) == 0 {
		return nil
	}
	return reconcile.Stall(v1alpha1.ReasonHostTaken, "%s: choose another host, or ask the platform's administrators who has it", strings.Join(taken, "; "))
}

// hosts releases the reservations of hosts that no Route of their tenant names any more.
type hosts struct{ *Routes }

// SetupWithManager registers the controller.
func (h *hosts) SetupWithManager(mgr ctrl.Manager) error {
	err := ctrl.NewControllerManagedBy(mgr).Named("routehost").
		For(&v1alpha1.RouteHost{}).
		Watches(&v1alpha1.Route{}, handler.Funcs{
			UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) {
				for _, host := range hostsOf(e.ObjectOld.(*v1alpha1.Route)) {
					if !slices.Contains(hostsOf(e.ObjectNew.(*v1alpha1.Route)), host) {
						q.Add(requestFor(host))
					}
				}
			},
			DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) {
				for _, host := range hostsOf(e.Object.(*v1alpha1.Route)) {
					q.Add(requestFor(host))
				}
			},
		}).
		Complete(h)
	if err != nil {
		return fmt.Errorf("registering the controller of hosts: %w", err)
	}
	return nil
}

func requestFor(host string) ctrl.Request {
	return ctrl.Request{NamespacedName: client.ObjectKey{Name: v1alpha1.RouteHostName(host)}}
}

// Reconcile releases one reservation if no Route needs it: as the cache has it, and as the hub itself does.
func (h *hosts) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	reservation := &v1alpha1.RouteHost{}
	if err := h.client.Get(ctx, req.NamespacedName, reservation); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	for _, reader := range []client.Reader{h.client, h.live} {
		used, err := inUse(ctx, reader, reservation)
		if err != nil || used {
			return ctrl.Result{}, err
		}
	}
	err := h.client.Delete(ctx, reservation, client.Preconditions{UID: &reservation.UID})
	if client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
		return ctrl.Result{}, fmt.Errorf("releasing host %s: %w", reservation.Spec.Host, err)
	}
	return ctrl.Result{}, nil
}

func inUse(ctx context.Context, reader client.Reader, reservation *v1alpha1.RouteHost) (bool, error) {
	list := &v1alpha1.RouteList{}
	if err := reader.List(ctx, list, client.InNamespace(reservation.Spec.Tenant)); err != nil {
		return false, fmt.Errorf("looking for routes of host %s: %w", reservation.Spec.Host, err)
	}
	return slices.ContainsFunc(list.Items, func(route v1alpha1.Route) bool {
		return slices.Contains(hostsOf(&route), reservation.Spec.Host)
	}), nil
}
