package rollout

import (
	"context"
	"fmt"
	"time"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// step is an action that does the same with each of its partitions.
type step struct {
	*Rollouts

	description action.Description
	do          does
	// all says that partitions that were put aside are worked on, too.
	all bool
	// done gives the outputs of a step that waits for nothing more.
	done func(ctx context.Context, s *stage) (map[string]any, error)
}

// Describe tells what the step takes.
func (t *step) Describe() action.Description { return t.description }

// Run does what is to be done now, and says what it waits for. Errors other than final ones go away by themselves: the
// hub or a cluster does not answer.
func (t *step) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	s, err := t.open(ctx, call, false)
	if err != nil {
		return later(err)
	}
	s.all = t.all
	waiting, err := s.each(ctx, s.in.Partitions, t.do)
	if err != nil {
		return later(err)
	}
	if err := s.patient(waiting); err != nil {
		return action.Outcome{}, err
	}
	out := s.answer(waiting)
	if out.Done && t.done != nil {
		if out.Outputs, err = t.done(ctx, s); err != nil {
			return later(err)
		}
	}
	return out, nil
}

// later has a call made again after an error that is not final.
func later(err error) (action.Outcome, error) {
	if action.IsFailed(err) {
		return action.Outcome{}, err
	}
	const soon = time.Second
	return action.Again(soon, "is tried again: "+err.Error()), nil
}

var (
	fieldRollout    = action.Field{Name: "rollout", Type: v1alpha1.TypeString, Required: true, Doc: "The Rollout."}
	fieldUID        = action.Field{Name: "uid", Type: v1alpha1.TypeString, Required: true, Doc: "UID of the Rollout."}
	fieldPartitions = action.Field{Name: "partitions", Type: v1alpha1.TypeList, Required: true, Doc: "The partitions of the step."}
	fieldTime       = action.Field{Name: "time", Type: v1alpha1.TypeString, Doc: "When it was done, in RFC 3339."}
)

func (r *Rollouts) step(name, summary string, timeout time.Duration, do does, inputs ...action.Field) *step {
	return &step{Rollouts: r, do: do, description: action.Description{
		Name: "rollout." + name, Summary: summary, Internal: true, Timeout: timeout,
		Inputs: append([]action.Field{fieldRollout, fieldUID, fieldPartitions}, inputs...),
	}}
}

func (r *Rollouts) actions() []action.Action {
	begin := r.step("begin", "Begins a rollout. When that is undone, every partition is brought back.", action.DefaultTimeout, begin,
		action.Field{Name: "moves", Type: v1alpha1.TypeBoolean, Doc: "Partitions get the new revision in place at once; the next step waits for it."},
		action.Field{Name: "from", Type: v1alpha1.TypeString, Doc: "The revision that ran before."})
	finish := r.step("finish", "Gives partitions that could not be reached the revision that has won.", action.DefaultTimeout, catchUp)
	begin.all, finish.all = true, true
	shut := r.step("close", "Brings partitions no new requests, and waits until no edge and no gateway does.", action.DefaultTimeout, shut)
	shut.description.Outputs = []action.Field{fieldTime}
	shut.done = func(context.Context, *stage) (map[string]any, error) {
		return map[string]any{"time": time.Now().UTC().Format(time.RFC3339Nano)}, nil
	}
	reopen := r.step("open", "Brings partitions requests again, and waits until every edge does.", action.DefaultTimeout, reopen,
		action.Field{Name: "closed", Type: v1alpha1.TypeString, Doc: "When they were closed, in RFC 3339."})
	reopen.description.Outputs = []action.Field{{Name: "interrupted", Type: v1alpha1.TypeString, Doc: "How long they had no requests."}}
	reopen.done = interrupted
	divide := r.step("traffic", "Gives the new revision a share of the requests, and waits until every gateway does.", action.DefaultTimeout, divide,
		action.Field{Name: "weight", Type: v1alpha1.TypeInteger, Doc: "Percent of the requests."},
		action.Field{Name: "matches", Type: v1alpha1.TypeList, Doc: "The requests that it gets in any case."},
		action.Field{Name: "mirror", Type: v1alpha1.TypeInteger, Doc: "Percent of the requests of which it gets a copy."})
	rise := r.step("upgrade", "Brings the new revision into partitions in place, and waits until it is healthy and is reached.", upgradeTime, upgrade)
	rise.done = func(ctx context.Context, s *stage) (map[string]any, error) {
		s.all = true // those that do not answer get it when they do
		_, err := s.each(ctx, s.in.Partitions, catchUp)
		return nil, err
	}
	count := r.step("count", "Counts what the new revision has answered until now.", action.DefaultTimeout, nothing)
	count.description.Outputs = []action.Field{{Name: "before", Type: v1alpha1.TypeObject, Doc: "The counters."}}
	count.done = func(ctx context.Context, s *stage) (map[string]any, error) {
		before, err := s.count(ctx)
		return map[string]any{"before": before}, err
	}
	return []action.Action{
		&beginning{begin}, shut, reopen, divide, finish, count,
		r.step("drain", "Waits until no request is under way in partitions, or the strategy's time for that has passed.", longestDrain, drain),
		r.step("stop", "Waits until no request is under way in partitions, or the strategy's time for that has passed, and ends their pods.", longestDrain, stop),
		rise,
		r.step("candidate", "Lets the new revision run beside the old one, and waits until it is healthy and is reached.", upgradeTime, candidate),
		r.step("promote", "Makes the new revision that which runs, and ends the old one once no request is under way to it.", longestDrain, promote),
		&gate{r}, &number{r}, &giveBack{r},
	}
}

// longestDrain is longer than any strategy's time for requests in flight, so that the strategy's counts.
const longestDrain = 90 * time.Minute

func nothing(context.Context, *stage, *v1alpha1.Delivery) (string, error) { return "", nil }

// beginning is the first step. It ends well once it has been called, so that it is undone.
type beginning struct {
	*step
}

// Run begins. Nobody can stop it in the middle: half of it would never be undone.
func (b *beginning) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
	defer cancel()
	return b.step.Run(ctx, call)
}

// Stop takes back what a server has begun that ended in the middle of it.
func (b *beginning) Stop(ctx context.Context, call *action.Call) (action.Outcome, error) {
	s, err := b.open(ctx, call, true)
	if err != nil {
		return later(err)
	}
	s.all = true
	_, err = s.each(ctx, s.in.Partitions, func(ctx context.Context, s *stage, d *v1alpha1.Delivery) (string, error) {
		if !s.in.Moves || !is(&d.Spec, s.rollout.Spec.To) {
			return "", nil
		}
		return "", s.write(ctx, d, inPlace(s.from(), s.resting))
	})
	if err != nil {
		return later(err)
	}
	return action.Done(nil), nil
}

// begin opens partitions that an earlier rollout has put aside and that answer by now, and moves them if that is all there
// is to do.
func begin(ctx context.Context, s *stage, d *v1alpha1.Delivery) (string, error) {
	lacks, _ := unhealthy(d)
	return "", s.write(ctx, d, func(spec *v1alpha1.DeliverySpec) {
		if aside(d) && !s.unreachable(d) && lacks == "" {
			opened(spec)
		}
		if s.in.Moves && !aside(d) && !s.unreachable(d) {
			inPlace(s.rollout.Spec.To, s.resting)(spec)
		}
	})
}

// catchUp gives a partition that was put aside, or that came back when the others had moved already, what has won.
func catchUp(ctx context.Context, s *stage, d *v1alpha1.Delivery) (string, error) {
	if !aside(d) && is(&d.Spec, s.rollout.Spec.To) {
		return "", nil
	}
	err := s.write(ctx, d, func(spec *v1alpha1.DeliverySpec) {
		putAside(spec)
		won(s.rollout.Spec.To, s.resting)(spec)
	})
	return "", err
}

// shut closes a partition and waits until nothing new comes.
func shut(ctx context.Context, s *stage, d *v1alpha1.Delivery) (string, error) {
	if err := s.write(ctx, d, closed); err != nil {
		return "", err
	}
	return s.Traffic.Settled(ctx, d)
}

// reopen opens a partition that is healthy.
func reopen(ctx context.Context, s *stage, d *v1alpha1.Delivery) (string, error) {
	if err := s.write(ctx, d, opened); err != nil {
		return "", err
	}
	return s.Traffic.Settled(ctx, d)
}

// interrupted tells how long partitions had no requests.
func interrupted(_ context.Context, s *stage) (map[string]any, error) {
	at, err := time.Parse(time.RFC3339Nano, s.in.Closed)
	if err != nil {
		return nil, nil //nolint:nilerr // nobody closed them
	}
	took := time.Since(at).Round(10 * time.Millisecond)
	s.call.Log("these partitions had no requests for %s", took)
	return map[string]any{"interrupted": took.String()}, nil
}

// drainTime is how long requests in flight are waited for.
func (s *stage) drainTime() time.Duration {
	if t := s.rollout.Spec.Strategy.Drain.Timeout; t != nil {
		return t.Duration
	}
	return defaultDrain
}

// drained waits until nothing is under way to a track, or to any if role is empty, but not for longer than the strategy
// says, counted from since.
func (s *stage) drained(ctx context.Context, d *v1alpha1.Delivery, role v1alpha1.TrackRole, since time.Time) (string, error) {
	flight, err := s.Traffic.InFlight(ctx, d)
	if err != nil && time.Since(since) < s.drainTime() {
		return "", fmt.Errorf("counting requests in flight: %w", err)
	}
	count := flight.Tracks[role]
	if role == "" {
		count = flight.Edge
		for _, n := range flight.Tracks {
			count = max(count, n)
		}
	}
	if count == 0 && err == nil {
		return "", nil
	}
	if left := s.drainTime() - time.Since(since); left > 0 {
		return fmt.Sprintf("%d requests are under way", count), nil
	}
	s.call.Log("partition %s: %d requests are under way after %s and are cut off", d.Spec.Partition, count, s.drainTime())
	return "", nil
}

// drain waits until a closed partition has answered what it had accepted.
func drain(ctx context.Context, s *stage, d *v1alpha1.Delivery) (string, error) {
	return s.drained(ctx, d, "", s.call.Started)
}

// stop does as drain, and ends the pods.
func stop(ctx context.Context, s *stage, d *v1alpha1.Delivery) (string, error) {
	if !d.Spec.Stopped {
		if waiting, err := s.drained(ctx, d, "", s.call.Started); err != nil || waiting != "" {
			return waiting, err
		}
		if err := s.write(ctx, d, stopped); err != nil {
			return "", err
		}
	}
	return s.unhealthy(d), nil
}

// upgrade gives a partition the new revision in place.
func upgrade(ctx context.Context, s *stage, d *v1alpha1.Delivery) (string, error) {
	return s.become(ctx, d, s.rollout.Spec.To)
}

// become gives a partition a revision in place, and waits until requests can be brought to it.
func (s *stage) become(ctx context.Context, d *v1alpha1.Delivery, revision string) (string, error) {
	if err := s.write(ctx, d, inPlace(revision, s.resting)); err != nil {
		return "", err
	}
	if waiting := s.unhealthy(d); waiting != "" {
		return waiting, nil
	}
	return s.Traffic.Reaches(ctx, d, v1alpha1.TrackStable)
}

// candidate lets the new revision run beside the old one.
func candidate(ctx context.Context, s *stage, d *v1alpha1.Delivery) (string, error) {
	to, err := s.revision(ctx, s.rollout.Spec.To)
	if err != nil {
		return "", err
	}
	if err := s.write(ctx, d, beside(s.rollout.Spec.To, green(to, d))); err != nil {
		return "", err
	}
	if waiting := s.unhealthy(d); waiting != "" {
		return waiting, nil
	}
	if waiting, err := s.Traffic.Settled(ctx, d); err != nil || waiting != "" {
		return waiting, err
	}
	return s.Traffic.Reaches(ctx, d, v1alpha1.TrackCandidate)
}

// divide shares the requests between both revisions.
func divide(ctx context.Context, s *stage, d *v1alpha1.Delivery) (string, error) {
	if err := s.write(ctx, d, shared(s.in.Weight, s.in.Mirror, s.in.Matches)); err != nil {
		return "", err
	}
	return s.Traffic.Settled(ctx, d)
}

// promote ends the old revision once it has answered what it had accepted.
func promote(ctx context.Context, s *stage, d *v1alpha1.Delivery) (string, error) {
	if len(d.Spec.Tracks) > 1 {
		if waiting, err := s.Traffic.Settled(ctx, d); err != nil || waiting != "" {
			return waiting, err
		}
		if waiting, err := s.drained(ctx, d, v1alpha1.TrackStable, s.call.Started); err != nil || waiting != "" {
			return waiting, err
		}
		if err := s.write(ctx, d, promoted); err != nil {
			return "", err
		}
	}
	if waiting := s.unhealthy(d); waiting != "" {
		return waiting, nil
	}
	return s.Traffic.Settled(ctx, d)
}
