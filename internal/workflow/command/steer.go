package command

import (
	"context"
	"fmt"

	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Pause lets the running steps of a run finish and begins no others.
func (c *Command) Pause(ctx context.Context, name, reason string) error {
	_, _, err := c.change(ctx, name, "pausing: running steps finish, no others begin", func(run *v1alpha1.WorkflowRun) error {
		if run.Status.Phase.Finished() {
			return invalid("run %s has finished: %s", name, run.Status.Phase)
		}
		run.Spec.Paused, run.Spec.Reason = true, reason
		return nil
	})
	return err
}

// Resume lets a paused run go on.
func (c *Command) Resume(ctx context.Context, name, reason string) error {
	_, _, err := c.change(ctx, name, "going on", func(run *v1alpha1.WorkflowRun) error {
		if !run.Spec.Paused {
			return invalid("run %s is not paused: it is %s", name, run.Status.Phase)
		}
		run.Spec.Paused, run.Spec.Reason = false, reason
		return nil
	})
	return err
}

// Abort ends a run and undoes what can be undone.
func (c *Command) Abort(ctx context.Context, name, reason string) error {
	_, _, err := c.change(ctx, name, "being aborted: running steps are ended, and what has a compensation is undone", func(run *v1alpha1.WorkflowRun) error {
		if run.Status.Phase.Finished() {
			return invalid("run %s has finished: %s", name, run.Status.Phase)
		}
		run.Spec.Aborted, run.Spec.Reason = true, reason
		return nil
	})
	return err
}

// Retry runs a part of a run again: from a step on, or all that failed or was aborted.
func (c *Command) Retry(ctx context.Context, name, from, reason string) error {
	hub, run, err := c.change(ctx, name, "being retried", func(run *v1alpha1.WorkflowRun) error {
		switch {
		case !run.Status.Phase.Finished():
			return invalid("run %s has not finished: it is %s", name, run.Status.Phase)
		case run.Status.Phase == v1alpha1.RunSucceeded && from == "":
			return invalid("run %s has succeeded: say with --from which step is to be run again", name)
		}
		number := run.Status.Retries
		if run.Spec.Retry != nil {
			number = max(number, run.Spec.Retry.Number)
		}
		run.Spec.Retry, run.Spec.Aborted, run.Spec.Paused = &v1alpha1.RunRetry{Number: number + 1, From: from}, false, false
		run.Spec.Reason = reason
		return nil
	})
	if err != nil {
		return err
	}
	return c.finish(ctx, hub, run, run.Spec.Retry.Number)
}

// change reads a run, changes what steers it and writes that, again if somebody else wrote in between.
func (c *Command) change(ctx context.Context, name, done string, mutate func(*v1alpha1.WorkflowRun) error) (client.Client, *v1alpha1.WorkflowRun, error) {
	hub, tenant, err := c.hub()
	if err != nil {
		return nil, nil, err
	}
	run := &v1alpha1.WorkflowRun{}
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if err := hub.Get(ctx, client.ObjectKey{Namespace: tenant, Name: name}, run); err != nil {
			return fmt.Errorf("reading it: %w", err)
		}
		before := run.DeepCopy()
		if err := mutate(run); err != nil {
			return err
		}
		return hub.Patch(ctx, run, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), client.FieldOwner(fieldOwner))
	})
	if err != nil {
		return nil, nil, fmt.Errorf("changing run %s of tenant %s: %w", name, tenant, err)
	}
	fmt.Fprintf(c.Out, "run %s: %s\n", name, done)
	return hub, run, nil
}
