package application

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// parallelWrites bounds the writes to the hub for one application.
const parallelWrites = 8

// handOver writes the deliveries, but leaves the revision of those that are there and run to a rollout, which it makes.
// What it wrote is in the world afterwards.
func (r *Reconciler) handOver(ctx context.Context, w *world, p *Plan) error {
	if !r.rollouts {
		w.app.Status.Revision = p.Revision.Name
		return r.writeAll(ctx, w, p)
	}
	if err := r.newest(ctx, w); err != nil {
		return err
	}
	next := w.stay(p)
	w.app.Status.Revision = p.Revision.Name
	if last := w.failed(p.Revision.Name); last != nil {
		w.app.Status.Revision = last.Spec.From
	}
	if err := r.writeAll(ctx, w, p); err != nil || next == nil {
		return err
	}
	return r.roll(ctx, w, p, next)
}

// writeAll writes the plan's deliveries and withdraws all others.
func (r *Reconciler) writeAll(ctx context.Context, w *world, p *Plan) error {
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(parallelWrites)
	errs := make([]error, len(p.Deliveries)+1)
	unwanted := maps.Clone(w.deliveries)
	current := maps.Clone(w.deliveries)
	for i := range p.Deliveries {
		wanted := &p.Deliveries[i]
		delete(unwanted, wanted.Spec.Partition)
		group.Go(func() error {
			written, err := r.write(ctx, current[wanted.Spec.Partition], wanted)
			if err != nil {
				// One partition that fails does not keep the others from moving.
				errs[i] = fmt.Errorf("handing over partition %s: %w", wanted.Spec.Partition, err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			w.deliveries[wanted.Spec.Partition] = written
			return nil
		})
	}
	_ = group.Wait() // No function of the group gives an error.
	errs[len(p.Deliveries)] = r.withdraw(ctx, inOrder(unwanted))
	return errors.Join(errs...)
}

// write creates or updates one Delivery. If the cache is behind the hub refuses, and it is tried again.
func (r *Reconciler) write(ctx context.Context, current, wanted *v1alpha1.Delivery) (*v1alpha1.Delivery, error) {
	if current == nil {
		err := r.client.Create(ctx, wanted)
		return wanted, err
	}
	if current.Spec.Cluster != wanted.Spec.Cluster {
		// The partition was deleted and made anew in another cluster.
		return current, r.withdraw(ctx, []*v1alpha1.Delivery{current})
	}
	if current.DeletionTimestamp != nil {
		return current, nil // It is made anew when this one is gone.
	}
	changed := current.DeepCopy()
	changed.Spec = wanted.Spec
	changed.OwnerReferences = wanted.OwnerReferences
	if changed.Labels == nil {
		changed.Labels = map[string]string{}
	}
	maps.Copy(changed.Labels, wanted.Labels)
	if equality.Semantic.DeepEqual(current, changed) {
		return current, nil
	}
	return changed, r.client.Update(ctx, changed)
}

// withdraw deletes Deliveries; their partitions are cleaned before they are gone.
func (r *Reconciler) withdraw(ctx context.Context, deliveries []*v1alpha1.Delivery) error {
	var errs []error
	for _, d := range deliveries {
		if d.DeletionTimestamp != nil {
			continue
		}
		if err := r.client.Delete(ctx, d); client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("withdrawing from partition %s: %w", d.Spec.Partition, err))
		}
	}
	return errors.Join(errs...)
}
