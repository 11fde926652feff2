package request

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// endRun aborts the run of a request that is being deleted, and waits until it has ended.
func (r *Requests) endRun(ctx context.Context, req *v1alpha1.ResourceRequest) error {
	run, err := r.run(ctx, req)
	if err != nil || run == nil || run.Status.Phase.Finished() || !run.DeletionTimestamp.IsZero() {
		return err
	}
	if !run.Spec.Aborted {
		after := run.DeepCopy()
		after.Spec.Aborted, after.Spec.Reason = true, "the request was deleted"
		if err := r.client.Patch(ctx, after, client.MergeFromWithOptions(run, client.MergeFromWithOptimisticLock{})); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("aborting run %s: %w", run.Name, err)
		}
	}
	return reconcile.Wait(v1alpha1.ReasonDeleting, soon, "waiting for run %s to end", run.Name)
}

// takeBackAll takes back what was given for a request that is deleted before it was active. What is active stays with the
// tenant, without anybody who waits for its end.
func (r *Requests) takeBackAll(ctx context.Context, req *v1alpha1.ResourceRequest) error {
	if wasActive(req) || req.Status.Phase.Finished() {
		return nil
	}
	gone, err := r.tenantGone(ctx, req.Namespace)
	if err != nil || gone {
		return err
	}
	done, message, err := r.takeBack(ctx, req)
	if err == nil && !done {
		err = reconcile.Wait(v1alpha1.ReasonDeleting, soon, "%s", message)
	}
	return err
}

// noteDeletion keeps in the ledger that the request was deleted.
func (r *Requests) noteDeletion(ctx context.Context, req *v1alpha1.ResourceRequest) error {
	row := r.row(req, eventDeleted, eventDeleted, "")
	row.Comment = "it was " + string(req.Status.Phase)
	return r.ledger.Add(ctx, row)
}
