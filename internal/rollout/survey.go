package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// survey tells how far each partition is, from its Delivery.
func (r *Rollouts) survey(ctx context.Context, o *v1alpha1.Rollout, run *v1alpha1.WorkflowRun) error {
	s := &stage{Rollouts: r, rollout: o}
	ending := run == nil || run.Status.Ending != "" || run.Status.Phase == v1alpha1.RunAborted || run.Status.Phase == v1alpha1.RunFailed
	begun := touched(run)
	o.Status.Weight = 0
	for i := range o.Status.Partitions {
		p := &o.Status.Partitions[i]
		d, err := s.delivery(ctx, p.Partition, r.client)
		if err != nil {
			return err
		}
		p.Message = ""
		switch {
		case d == nil:
			p.Message = "the application is not delivered here any more"
		case aside(d):
			p.Phase, p.Message = v1alpha1.RolloutPartitionUnreachable, "cluster "+p.Cluster+" does not answer: it is out of the traffic until it is healthy"
		default:
			p.Phase = phaseOf(d, o, ending, begun[p.Partition])
			if len(d.Spec.Tracks) > 1 && d.Spec.Traffic != nil {
				o.Status.Weight = max(o.Status.Weight, d.Spec.Traffic.Weight)
			}
		}
	}
	if o.Status.Phase == v1alpha1.RolloutRunning && run != nil && run.Status.Phase == v1alpha1.RunSucceeded {
		o.Status.Weight = all
	}
	return nil
}

// phaseOf says where a rollout is in a partition that answers.
func phaseOf(d *v1alpha1.Delivery, o *v1alpha1.Rollout, ending, begun bool) v1alpha1.RolloutPartitionPhase {
	lacks, _ := unhealthy(d)
	led := d.Spec.Traffic != nil && !equality.Semantic.DeepEqual(*d.Spec.Traffic, v1alpha1.Traffic{})
	busy := lacks != "" || d.Spec.Stopped || led
	switch {
	case is(&d.Spec, o.Spec.To) && !busy:
		return v1alpha1.RolloutPartitionMoved
	case !begun:
		return v1alpha1.RolloutPartitionWaiting
	case !is(&d.Spec, o.Spec.To) && len(d.Spec.Tracks) == 1 && ending && !busy:
		return v1alpha1.RolloutPartitionReturned
	}
	return v1alpha1.RolloutPartitionMoving
}

// touched are the partitions that a run has begun to change: those of its steps that have begun and change something.
func touched(run *v1alpha1.WorkflowRun) map[string]bool {
	out := map[string]bool{}
	if run == nil || run.Spec.Definition == nil {
		return out
	}
	var waves [][]string
	if json.Unmarshal(run.Spec.Inputs["waves"], &waves) != nil {
		return out
	}
	for i := range run.Status.Steps {
		st := &run.Status.Steps[i]
		at := slices.IndexFunc(run.Spec.Definition.Steps, func(s v1alpha1.WorkflowStep) bool { return s.Name == st.Name })
		if st.StartTime == nil || at < 0 {
			continue
		}
		step, text, number := &run.Spec.Definition.Steps[at], "", 0
		if !slices.Contains([]string{"rollout.close", "rollout.upgrade", "rollout.candidate"}, step.Action) || json.Unmarshal(step.With["partitions"], &text) != nil {
			continue
		}
		if _, err := fmt.Sscanf(text, partitionsOf, &number); err == nil && number < len(waves) {
			for _, partition := range waves[number] {
				out[partition] = true
			}
		}
	}
	return out
}

// recover looks after partitions that could not be reached when the rollout ended: they are opened when they are healthy
// with the revision that has won.
func (r *Rollouts) recover(ctx context.Context, o *v1alpha1.Rollout) error {
	s := &stage{Rollouts: r, rollout: o}
	phase := v1alpha1.RolloutPartitionReturned
	if o.Status.Phase == v1alpha1.RolloutSucceeded {
		phase = v1alpha1.RolloutPartitionMoved
	}
	others, err := r.of(ctx, o.Namespace, o.Spec.Application, func(other *v1alpha1.Rollout) bool {
		return other.UID != o.UID && (open(other) || o.CreationTimestamp.Before(&other.CreationTimestamp))
	})
	if err != nil {
		return err
	}
	var errs []error
	for i := range o.Status.Partitions {
		p := &o.Status.Partitions[i]
		if p.Phase != v1alpha1.RolloutPartitionUnreachable {
			continue
		}
		d, err := s.delivery(ctx, p.Partition, r.client)
		switch {
		case err != nil:
			errs = append(errs, err)
			continue
		case d == nil || len(others) > 0 || o.Status.Phase == v1alpha1.RolloutSucceeded && !is(&d.Spec, o.Spec.To):
			p.Phase, p.Message = phase, "a later change has taken its place"
			continue
		}
		if lacks, _ := unhealthy(d); lacks != "" || unreachable(d) {
			continue
		}
		after := d.DeepCopy()
		opened(&after.Spec)
		if err := r.client.Update(ctx, after, client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
			errs = append(errs, fmt.Errorf("opening partition %s: %w", p.Partition, err))
			continue
		}
		p.Phase, p.Message = phase, "its cluster answers again"
	}
	return errors.Join(errs...)
}
