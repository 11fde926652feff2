package rollout

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// backAtOnce is how many partitions are brought back at the same time: what is kept of each must fit into the step's state.
const backAtOnce = 40

// giveBack brings every partition back to the revision that ran before, those that moved last first. It looks at what each
// Delivery is, not at what was done: so it is right after any step, at any moment of it.
type giveBack struct {
	*Rollouts
}

// Describe tells what the step takes.
func (*giveBack) Describe() action.Description {
	return action.Description{
		Name: "rollout.return", Summary: "Brings every partition back to the revision that ran before, without losing a request.",
		Internal: true, Timeout: action.NoTimeout,
		Inputs: []action.Field{
			fieldRollout, fieldUID,
			{Name: "waves", Type: v1alpha1.TypeList, Required: true, Doc: "The partitions in the order in which they move, those that move together in one list."},
			{Name: "from", Type: v1alpha1.TypeString, Doc: "The revision that ran before."},
			{Name: "rolling", Type: v1alpha1.TypeBoolean, Doc: "Partitions are changed in place without being closed."},
		},
	}
}

// Run brings one wave back after the other, the last first.
func (b *giveBack) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	s, err := b.open(ctx, call, true)
	if err != nil {
		return later(err)
	}
	s.all = true
	for _, unit := range backwards(s.in.Waves)[s.memory.Unit:] {
		if s.memory.Since == nil {
			now := time.Now()
			s.memory.Since = &now
		}
		waiting, err := s.each(ctx, unit, bring)
		if err != nil {
			return later(err)
		}
		if len(waiting) > 0 {
			if s.mayGiveUp(); s.memory.Draining == nil {
				s.memory.Draining = map[string]int64{}
			}
			out := s.answer(waiting)
			out.State = s.memory
			return out, nil
		}
		s.memory = memory{Unit: s.memory.Unit + 1}
		call.Log("back at %s: %v", s.from(), unit)
	}
	return action.Done(nil), nil
}

// mayGiveUp notes since when pods fail.
func (s *stage) mayGiveUp() {
	if s.failing && s.memory.Failing == nil {
		now := time.Now()
		s.memory.Failing = &now
	}
}

// gaveUp says whether it is of no use to wait until the old revision is healthy: it was not before, either.
func (s *stage) gaveUp() bool {
	since := s.memory.Failing
	return since != nil && time.Since(*since) > s.Patience || s.memory.Since != nil && time.Since(*s.memory.Since) > upgradeTime
}

// backwards are the waves from the last to the first, none of more than backAtOnce partitions.
func backwards(waves [][]string) (units [][]string) {
	for _, wave := range slices.Backward(waves) {
		units = slices.AppendSeq(units, slices.Chunk(wave, backAtOnce))
	}
	return units
}

// bring does the next thing that brings one partition back.
func bring(ctx context.Context, s *stage, d *v1alpha1.Delivery) (string, error) {
	from := s.from()
	if aside(d) || s.unreachable(d) {
		err := s.write(ctx, d, func(spec *v1alpha1.DeliverySpec) {
			putAside(spec)
			won(from, s.resting)(spec)
		})
		return "", err
	}
	if len(d.Spec.Tracks) > 1 && d.Spec.Tracks[0].Revision == from {
		if waiting, err := s.withdraw(ctx, d); err != nil || waiting != "" {
			return waiting, err
		}
	}
	if !is(&d.Spec, from) {
		if waiting, err := s.retreat(ctx, d); err != nil || waiting != "" {
			return waiting, err
		}
	}
	if err := s.write(ctx, d, inPlace(from, s.resting)); err != nil {
		return "", err
	}
	return s.restore(ctx, d)
}

// withdraw takes the requests from the candidate, waits until it has answered, and takes it away.
func (s *stage) withdraw(ctx context.Context, d *v1alpha1.Delivery) (string, error) {
	if err := s.write(ctx, d, shared(0, 0, nil)); err != nil {
		return "", err
	}
	if waiting, err := s.Traffic.Settled(ctx, d); err != nil || waiting != "" {
		return waiting, err
	}
	if waiting, err := s.drained(ctx, d, v1alpha1.TrackCandidate, s.draining(d)); err != nil || waiting != "" {
		return waiting, err
	}
	err := s.write(ctx, d, dropped)
	return "", err
}

// retreat ends the pods of a revision in place, once they have answered, unless they can be exchanged one by one.
func (s *stage) retreat(ctx context.Context, d *v1alpha1.Delivery) (string, error) {
	if s.in.Rolling {
		return "", nil
	}
	if waiting, err := shut(ctx, s, d); err != nil || waiting != "" {
		return waiting, err
	}
	if !d.Spec.Stopped {
		if waiting, err := s.drained(ctx, d, "", s.draining(d)); err != nil || waiting != "" {
			return waiting, err
		}
		if err := s.write(ctx, d, stopped); err != nil {
			return "", err
		}
	}
	lacks, _ := unhealthy(d)
	return lacks, nil
}

// restore waits until the old revision is healthy and brings requests to it again.
func (s *stage) restore(ctx context.Context, d *v1alpha1.Delivery) (string, error) {
	waiting := s.unhealthy(d)
	if waiting == "" {
		var err error
		if waiting, err = s.Traffic.Reaches(ctx, d, v1alpha1.TrackStable); err != nil {
			return "", err
		}
	}
	closed := d.Spec.Traffic != nil && d.Spec.Traffic.Closed
	switch {
	case waiting != "" && !s.gaveUp():
		return waiting, nil
	case waiting != "" && closed:
		s.call.Log("partition %s is not healthy with %s either, and stays closed until it is: %s", d.Spec.Partition, s.from(), waiting)
		err := s.write(ctx, d, putAside)
		return "", err
	case waiting != "":
		s.call.Log("partition %s is not healthy with %s either: %s", d.Spec.Partition, s.from(), waiting)
		return "", nil
	}
	return reopen(ctx, s, d)
}

// from is the revision that ran before: what the rollout says, unless another that was waited for has come to nothing.
func (s *stage) from() string { return cmp.Or(s.in.From, s.rollout.Spec.From) }

// draining is since when requests in flight are waited for in a partition that is brought back.
func (s *stage) draining(d *v1alpha1.Delivery) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.memory.Draining == nil {
		s.memory.Draining = map[string]int64{}
	}
	if s.memory.Draining[d.Spec.Partition] == 0 {
		s.memory.Draining[d.Spec.Partition] = time.Now().Unix()
	}
	return time.Unix(s.memory.Draining[d.Spec.Partition], 0)
}

// describe names partitions for people.
func describe(partitions []string) string {
	const most = 5
	if len(partitions) > most {
		return fmt.Sprintf("%d partitions", len(partitions))
	}
	return fmt.Sprint(partitions)
}
