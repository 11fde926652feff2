package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	ctrl "sigs.k8s.io/controller-runtime"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// cleanInterval is how often a member is asked whether what is being deleted there is gone.
const cleanInterval = 2 * time.Second

// remove lets a cluster go: at once if its workloads are to stay, else when they are gone.
func (c *Controller) remove(ctx context.Context, cluster *v1alpha1.Cluster) (ctrl.Result, error) {
	var steps []reconcile.Step[*v1alpha1.Cluster]
	if cleaningWanted(cluster) {
		steps = append(steps, c.clean)
	}
	steps = append(steps, func(context.Context, *v1alpha1.Cluster) error {
		c.disconnect(cluster.Name)
		return nil
	})
	return reconcile.Finalize(ctx, c.client, cluster, v1alpha1.ConditionReady, finalizer, steps...)
}

// cleaningWanted says whether the cluster's workloads are to be deleted. Those of one that is joined under another name
// belong to that one.
func cleaningWanted(cluster *v1alpha1.Cluster) bool {
	joined := meta.FindStatusCondition(cluster.Status.Conditions, v1alpha1.ConditionReady)
	return cluster.Spec.OnRemoval == v1alpha1.RemovalDelete &&
		cluster.Annotations[v1alpha1.AnnotationForceRemoval] != "true" &&
		(joined == nil || joined.Reason != v1alpha1.ReasonAlreadyJoined)
}

// clean deletes the workloads. Until the cluster can be reached it says what else can be done.
func (c *Controller) clean(ctx context.Context, cluster *v1alpha1.Cluster) error {
	for _, step := range []reconcile.Step[*v1alpha1.Cluster]{c.connect, c.seen, c.identify} {
		if err := step(ctx, cluster); err != nil {
			return stuck(err)
		}
	}
	// The controllers would put back what is deleted.
	c.members.Retire(cluster.Name)
	m, ok := c.members.Connection(cluster.Name)
	if !ok {
		return reconcile.Wait(v1alpha1.ReasonDeleting, cleanInterval, "connecting")
	}
	var left []string
	for _, cleaner := range c.cleaners {
		rest, err := cleaner.CleanMember(ctx, m)
		if err != nil {
			return fmt.Errorf("deleting the workloads: %w", err)
		}
		if rest != "" {
			left = append(left, rest)
		}
	}
	if len(left) > 0 {
		return reconcile.Wait(v1alpha1.ReasonDeleting, cleanInterval, "waiting until these are gone: %s", strings.Join(left, ", "))
	}
	return nil
}

// stuck adds the way out to the reason why a cluster's workloads cannot be deleted.
func stuck(err error) error {
	hint := fmt.Sprintf("or set the annotation %s=true on the cluster to remove it and leave everything there as it is", v1alpha1.AnnotationForceRemoval)
	if waiting, ok := errors.AsType[*reconcile.Waiting](err); ok {
		return reconcile.Wait(waiting.Reason, waiting.After, "its workloads cannot be deleted: %w; %s", waiting.Err, hint)
	}
	if stalled, ok := errors.AsType[*reconcile.Stalled](err); ok {
		return reconcile.Stall(stalled.Reason, "its workloads cannot be deleted: %w; %s", stalled.Err, hint)
	}
	return err
}
