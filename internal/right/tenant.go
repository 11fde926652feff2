package right

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// Bindings keeps in each tenant's hub namespace one RoleBinding for each role, and the rules of the whole hub. Who is in
// a role changes no binding.
type Bindings struct {
	// Namespace is the platform's own.
	Namespace string

	hub client.Client
}

// SetupWithManager registers the controller with the hub's manager.
func (b *Bindings) SetupWithManager(mgr manager.Manager) error {
	b.hub = mgr.GetClient()
	if err := mgr.Add(&Installer{Hub: b.hub, Namespace: b.Namespace}); err != nil {
		return fmt.Errorf("adding to the manager: %w", err)
	}
	tenants := predicate.NewPredicateFuncs(func(o client.Object) bool {
		return o.GetLabels()[v1alpha1.LabelTenant] == o.GetName() && o.GetDeletionTimestamp().IsZero()
	})
	marked := predicate.NewPredicateFuncs(func(o client.Object) bool { return o.GetLabels()[v1alpha1.LabelTenant] == o.GetNamespace() })
	ofNamespace := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []ctrl.Request {
		return []ctrl.Request{{NamespacedName: client.ObjectKey{Name: o.GetNamespace()}}}
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("rights").
		For(&corev1.Namespace{}, builder.OnlyMetadata, builder.WithPredicates(tenants)).
		WatchesMetadata(&rbacv1.RoleBinding{}, ofNamespace, builder.WithPredicates(marked)).
		Complete(b)
}

// Reconcile brings the bindings of one tenant to what they should be.
func (b *Bindings) Reconcile(ctx context.Context, r ctrl.Request) (ctrl.Result, error) {
	ns := &metav1.PartialObjectMetadata{}
	ns.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err := b.hub.Get(ctx, r.NamespacedName, ns); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if ns.Labels[v1alpha1.LabelTenant] != ns.Name || !ns.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	wanted := tenantBindings(ns.Name)
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		_, err := reconcile.Apply(ctx, b.hub, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns.Name, Labels: map[string]string{v1alpha1.LabelTenant: ns.Name}},
			Subjects:   []rbacv1.Subject{groupSubject(wanted[name].group)},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: wanted[name].role},
		})
		if err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{}, nil
}
