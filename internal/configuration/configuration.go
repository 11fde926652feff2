// Package configuration keeps the versions of Configurations: each change becomes one more immutable ConfigMap or
// Secret in the tenant's hub namespace, from which deliveries are made. Those of Secrets are written by others, past the
// Configuration, which only names them.
package configuration

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// Finalizer keeps a configuration while applications use it, and until its versions are deleted.
const Finalizer = "yunfan.io/configuration"

// inUseCheck is how often a configuration that cannot be deleted yet is looked at, besides when a delivery changes.
const inUseCheck = 30 * time.Second

// Reconciler stores and prunes versions.
type Reconciler struct {
	client client.Client
	// live reads past the cache: a version must never be forgotten or overwritten because the cache lags.
	live client.Reader
}

// New gives a Reconciler.
func New(mgr manager.Manager) *Reconciler {
	return &Reconciler{client: mgr.GetClient(), live: mgr.GetAPIReader()}
}

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr manager.Manager) error {
	err := ctrl.NewControllerManagedBy(mgr).Named("configuration").
		For(&v1alpha1.Configuration{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.Delivery{}, handler.EnqueueRequestsFromMapFunc(r.underDeletion)).
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("registering the configuration controller: %w", err)
	}
	return nil
}

// Reconcile stores the content of one configuration as a version.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	c := &v1alpha1.Configuration{}
	if err := r.live.Get(ctx, req.NamespacedName, c); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if c.DeletionTimestamp != nil {
		return r.delete(ctx, c)
	}
	if err := reconcile.AddFinalizer(ctx, r.client, c, Finalizer); err != nil {
		return ctrl.Result{}, err
	}
	return reconcile.Run(ctx, r.client, c, v1alpha1.ConditionReady, v1alpha1.ReasonReady, r.store, r.prune)
}

// delete removes the versions and lets the object go once no application runs with it.
func (r *Reconciler) delete(ctx context.Context, c *v1alpha1.Configuration) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(c, Finalizer) {
		return ctrl.Result{}, nil
	}
	gone := false
	result, err := reconcile.Run(ctx, r.client, c, v1alpha1.ConditionReady, v1alpha1.ReasonDeleting,
		r.refuseWhileUsed,
		r.deleteVersions,
		func(context.Context, *v1alpha1.Configuration) error { gone = true; return nil },
	)
	if err != nil || !gone {
		return result, err
	}
	return ctrl.Result{}, reconcile.RemoveFinalizer(ctx, r.client, c, Finalizer)
}

func (r *Reconciler) refuseWhileUsed(ctx context.Context, c *v1alpha1.Configuration) error {
	users, err := r.usedBy(ctx, c)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return reconcile.Wait(v1alpha1.ReasonInUse, inUseCheck,
			"deletion waits: in use by application %s: take it out of components[].configurations there, or delete the application",
			strings.Join(users, ", "))
	}
	return nil
}

func (r *Reconciler) deleteVersions(ctx context.Context, c *v1alpha1.Configuration) error {
	err := r.client.DeleteAllOf(ctx, newVersionObject(c.Spec.Type), client.InNamespace(c.Namespace),
		client.MatchingLabels{v1alpha1.LabelConfiguration: c.Name})
	if err != nil {
		return fmt.Errorf("deleting versions: %w", err)
	}
	return nil
}

// usedBy names the applications whose deliveries run a revision with this configuration.
func (r *Reconciler) usedBy(ctx context.Context, c *v1alpha1.Configuration) ([]string, error) {
	var revisions v1alpha1.ApplicationRevisionList
	var deliveries v1alpha1.DeliveryList
	var applications v1alpha1.ApplicationList
	for _, list := range []client.ObjectList{&revisions, &deliveries, &applications} {
		if err := r.live.List(ctx, list, client.InNamespace(c.Namespace)); err != nil {
			return nil, fmt.Errorf("looking for users of the configuration: %w", err)
		}
	}
	using := map[string]bool{}
	for i := range revisions.Items {
		if versionIn(&revisions.Items[i], c.Name) != "" {
			using[revisions.Items[i].Name] = true
		}
	}
	users := map[string]bool{}
	for i := range deliveries.Items {
		for _, track := range deliveries.Items[i].Spec.Tracks {
			if using[track.Revision] {
				users[deliveries.Items[i].Spec.Application] = true
			}
		}
	}
	for i := range applications.Items {
		if using[applications.Items[i].Status.Revision] {
			users[applications.Items[i].Name] = true
		}
	}
	return slices.Sorted(maps.Keys(users)), nil
}

// underDeletion gives the configurations of a delivery's namespace that wait to be deleted.
func (r *Reconciler) underDeletion(ctx context.Context, o client.Object) []ctrl.Request {
	var list v1alpha1.ConfigurationList
	if err := r.client.List(ctx, &list, client.InNamespace(o.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
		return nil // Only a cache that is shutting down fails; the regular check looks again.
	}
	var requests []ctrl.Request
	for i := range list.Items {
		if list.Items[i].DeletionTimestamp != nil {
			requests = append(requests, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return requests
}

// versionIn is the version of a configuration that a revision uses; empty if none.
func versionIn(revision *v1alpha1.ApplicationRevision, configuration string) string {
	for _, pin := range revision.Spec.Configurations {
		if pin.Name == configuration {
			return pin.Version
		}
	}
	return ""
}

func newVersionObject(kind v1alpha1.ConfigurationType) client.Object {
	if kind == v1alpha1.ConfigurationSecret {
		return &corev1.Secret{}
	}
	return &corev1.ConfigMap{}
}

func ownerOf(c *v1alpha1.Configuration) []metav1.OwnerReference {
	return []metav1.OwnerReference{*metav1.NewControllerRef(c, v1alpha1.GroupVersion.WithKind("Configuration"))}
}
