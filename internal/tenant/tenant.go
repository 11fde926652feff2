// Package tenant gives each tenant its hub namespace, and takes it away when nothing is left in it.
package tenant

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

const (
	finalizer = "yunfan.io/tenant"
	// foreignInterval is how often a namespace that is somebody else's is looked at: its events are not watched.
	foreignInterval = 30 * time.Second
	goneInterval    = time.Second
)

// Controller reconciles Tenants.
type Controller struct {
	client client.Client
	reader client.Reader // past the cache, for what must not be decided on an old view
}

// New makes the controller.
func New() *Controller { return &Controller{} }

// SetupWithManager registers the controller with the hub's manager.
func (c *Controller) SetupWithManager(mgr manager.Manager) error {
	c.client, c.reader = mgr.GetClient(), mgr.GetAPIReader()
	inside := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []ctrl.Request {
		return []ctrl.Request{{NamespacedName: client.ObjectKey{Name: o.GetNamespace()}}}
	})
	ofNamespace := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []ctrl.Request {
		return []ctrl.Request{{NamespacedName: client.ObjectKey{Name: o.GetLabels()[v1alpha1.LabelTenant]}}}
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("tenant").
		For(&v1alpha1.Tenant{}, builder.WithPredicates(tenantChanged)).
		WatchesMetadata(&corev1.Namespace{}, ofNamespace, builder.WithPredicates(predicate.NewPredicateFuncs(isTenants))).
		Watches(&v1alpha1.Partition{}, inside, builder.WithPredicates(onlyDeleted)).
		Watches(&v1alpha1.Application{}, inside, builder.WithPredicates(onlyDeleted)).
		Complete(c)
}

func isTenants(namespace client.Object) bool {
	return namespace.GetLabels()[v1alpha1.LabelTenant] != ""
}

// tenantChanged looks at the spec and at what was given of the quota.
var tenantChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	was, is := e.ObjectOld.(*v1alpha1.Tenant), e.ObjectNew.(*v1alpha1.Tenant)
	return was.Generation != is.Generation || !was.DeletionTimestamp.Equal(is.DeletionTimestamp) ||
		!equality.Semantic.DeepEqual(was.Status.Allocated, is.Status.Allocated)
}}

var onlyDeleted = predicate.Funcs{
	CreateFunc: func(event.CreateEvent) bool { return false },
	UpdateFunc: func(event.UpdateEvent) bool { return false },
}

// Reconcile brings one Tenant to what it should be.
func (c *Controller) Reconcile(ctx context.Context, r ctrl.Request) (ctrl.Result, error) {
	tenant := &v1alpha1.Tenant{}
	if err := c.client.Get(ctx, r.NamespacedName, tenant); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !tenant.DeletionTimestamp.IsZero() {
		return reconcile.Finalize(ctx, c.client, tenant, v1alpha1.ConditionReady, finalizer, c.unused, c.removeNamespace)
	}
	return reconcile.Run(ctx, c.client, tenant, v1alpha1.ConditionReady, v1alpha1.ReasonReady, c.hold, c.namespace, c.reclaim, within, sound)
}

// hold keeps the object until its namespace is gone.
func (c *Controller) hold(ctx context.Context, tenant *v1alpha1.Tenant) error {
	return reconcile.AddFinalizer(ctx, c.client, tenant, finalizer)
}

// namespace makes sure that the tenant's hub namespace is there. One that exists already is not taken over: what is in
// it is somebody's.
func (c *Controller) namespace(ctx context.Context, tenant *v1alpha1.Tenant) error {
	ns := &corev1.Namespace{}
	err := c.reader.Get(ctx, client.ObjectKey{Name: tenant.Name}, ns)
	if apierrors.IsNotFound(err) {
		ns = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: tenant.Name, Labels: map[string]string{v1alpha1.LabelTenant: tenant.Name},
		}}
		if err := c.client.Create(ctx, ns, client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
			return fmt.Errorf("creating namespace %s: %w", ns.Name, err)
		}
		return nil
	}
	switch {
	case err != nil:
		return fmt.Errorf("reading namespace %s: %w", tenant.Name, err)
	case ns.Labels[v1alpha1.LabelTenant] != tenant.Name:
		return reconcile.Wait(v1alpha1.ReasonNamespaceTaken, foreignInterval,
			"namespace %s exists on the hub and is not a tenant's: delete this tenant and choose another name", ns.Name)
	case !ns.DeletionTimestamp.IsZero():
		return reconcile.Wait(v1alpha1.ReasonReconciling, goneInterval, "namespace %s is being deleted and will be made anew", ns.Name)
	}
	return nil
}

// unused waits until the tenant has neither partitions nor applications.
func (c *Controller) unused(ctx context.Context, tenant *v1alpha1.Tenant) error {
	ns := &corev1.Namespace{}
	if err := c.reader.Get(ctx, client.ObjectKey{Name: tenant.Name}, ns); apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("reading namespace %s: %w", tenant.Name, err)
	}
	if ns.Labels[v1alpha1.LabelTenant] != tenant.Name {
		return nil // It never was this tenant's.
	}
	var applications v1alpha1.ApplicationList
	var partitions v1alpha1.PartitionList
	if err := c.reader.List(ctx, &applications, client.InNamespace(tenant.Name)); err != nil {
		return fmt.Errorf("listing applications: %w", err)
	}
	if err := c.reader.List(ctx, &partitions, client.InNamespace(tenant.Name)); err != nil {
		return fmt.Errorf("listing partitions: %w", err)
	}
	var left []string
	for i := range applications.Items {
		left = append(left, "application "+applications.Items[i].Name)
	}
	for i := range partitions.Items {
		left = append(left, "partition "+partitions.Items[i].Name)
	}
	if len(left) > 0 {
		return reconcile.Wait(v1alpha1.ReasonInUse, 0, "delete these first: %s", strings.Join(left, ", "))
	}
	return nil
}

// removeNamespace deletes the tenant's namespace, if it is the tenant's, and waits until it is gone.
func (c *Controller) removeNamespace(ctx context.Context, tenant *v1alpha1.Tenant) error {
	ns := &corev1.Namespace{}
	err := c.reader.Get(ctx, client.ObjectKey{Name: tenant.Name}, ns)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading namespace %s: %w", tenant.Name, err)
	}
	if ns.Labels[v1alpha1.LabelTenant] != tenant.Name {
		return nil
	}
	if ns.DeletionTimestamp.IsZero() {
		if err := c.client.Delete(ctx, ns, client.Preconditions{UID: &ns.UID}); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting namespace %s: %w", ns.Name, err)
		}
	}
	return reconcile.Wait(v1alpha1.ReasonDeleting, goneInterval, "waiting until namespace %s is gone", ns.Name)
}
