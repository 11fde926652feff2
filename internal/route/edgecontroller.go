package route

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// credentialsInterval is how often it is looked whether an edge's Secret was changed: Secrets are not watched.
const credentialsInterval = 30 * time.Second

// connector keeps a worker for each endpoint of each Edge, and tells what they see.
type connector struct {
	*Routes
	// known is what each worker was made of. One reconciliation runs at a time.
	known map[replicaKey]string
}

// SetupWithManager registers the controller.
func (c *connector) SetupWithManager(mgr ctrl.Manager) error {
	c.known = map[replicaKey]string{}
	err := ctrl.NewControllerManagedBy(mgr).Named("edge").
		For(&v1alpha1.Edge{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(c.edgeKick.source()).
		Complete(c)
	if err != nil {
		return fmt.Errorf("registering the edge controller: %w", err)
	}
	return nil
}

// Reconcile connects one Edge and tells what is seen of it.
func (c *connector) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	edge := &v1alpha1.Edge{}
	if err := c.client.Get(ctx, req.NamespacedName, edge); err != nil {
		if apierrors.IsNotFound(err) {
			c.keep(req.Name, nil)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	result, err := reconcile.Run(ctx, c.client, edge, v1alpha1.ConditionReady, v1alpha1.ReasonReady, c.connect, c.observe)
	if err == nil && result.RequeueAfter == 0 {
		result.RequeueAfter = credentialsInterval
	}
	return result, err
}

// connect begins to work with new endpoints, and ends it with those that are gone.
func (c *connector) connect(ctx context.Context, edge *v1alpha1.Edge) error {
	c.keep(edge.Name, edge.Spec.Endpoints)
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: c.o.Namespace, Name: edge.Spec.CredentialsSecretRef.Name}
	if err := c.live.Get(ctx, key, secret); apierrors.IsNotFound(err) {
		return reconcile.Wait(v1alpha1.ReasonCredentialsInvalid, credentialsInterval, "there is no Secret %s in namespace %s: create it", key.Name, key.Namespace)
	} else if err != nil {
		return fmt.Errorf("reading the credentials of the edge: %w", err)
	}
	newDriver, ok := c.o.Drivers[edge.Spec.Driver]
	if !ok {
		return reconcile.Stall(v1alpha1.ReasonInvalid, "this platform has no driver %s", edge.Spec.Driver)
	}
	for _, endpoint := range edge.Spec.Endpoints {
		key, made := replicaKey{edge.Name, endpoint}, fingerprint(edge, secret)
		if c.known[key] == made {
			continue
		}
		driver, err := newDriver(endpoint, secret.Data)
		if err != nil {
			return reconcile.Wait(v1alpha1.ReasonCredentialsInvalid, credentialsInterval, "endpoint %s: %w", endpoint, err)
		}
		c.known[key] = made
		c.edges.connect(key, driver)
	}
	return nil
}

// keep ends the work with all endpoints of an Edge but these.
func (c *connector) keep(edge string, endpoints []string) {
	for key := range c.known {
		if key.edge == edge && !slices.Contains(endpoints, key.endpoint) {
			delete(c.known, key)
			c.edges.disconnect(key)
			c.routesOfAll()
		}
	}
}

// fingerprint of what a worker is made of.
func fingerprint(edge *v1alpha1.Edge, secret *corev1.Secret) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s %s\n", edge.Spec.Driver, edge.UID)
	for _, name := range slices.Sorted(maps.Keys(secret.Data)) {
		fmt.Fprintf(sum, "%s %x\n", name, secret.Data[name])
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// observe tells what is seen of each replica.
func (c *connector) observe(_ context.Context, edge *v1alpha1.Edge) error {
	edge.Status.Replicas = nil
	var late, unsupported []string
	for _, endpoint := range edge.Spec.Endpoints {
		status, cannot := c.edges.replicaStatus(replicaKey{edge.Name, endpoint})
		edge.Status.Replicas = append(edge.Status.Replicas, status)
		if !status.Serving {
			late = append(late, endpoint+": "+status.Message)
		}
		for _, text := range cannot {
			if !slices.Contains(unsupported, text) {
				unsupported = append(unsupported, text)
			}
		}
	}
	if late != nil {
		return reconcile.Wait(v1alpha1.ReasonUpdating, credentialsInterval, "%s", strings.Join(late, "; "))
	}
	if unsupported != nil {
		return reconcile.Remark("it cannot do all that routes ask for: %s", strings.Join(unsupported, "; "))
	}
	return nil
}

// replicaStatus tells what is seen of a replica, and what of the table it cannot do.
func (e *Edges) replicaStatus(key replicaKey) (status v1alpha1.EdgeReplica, unsupported []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	status.Endpoint = key.endpoint
	r := e.replicas[key]
	if r == nil {
		status.Message = "it is not connected yet"
		return status, nil
	}
	status.Program = r.state.Program
	status.Serving = r.failure == "" && e.newest != nil && r.serves == e.sequence
	switch {
	case status.Serving:
	case r.failure != "":
		status.Message = r.failure
	case r.state.Problem != "":
		status.Message = "it refused the newest table: " + r.state.Problem
	default:
		status.Message = "it serves an older table"
	}
	return status, slices.Clone(r.state.Unsupported)
}
