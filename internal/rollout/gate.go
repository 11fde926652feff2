package rollout

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/traffic"
)

// tally is what the new revision has answered, over all partitions of a step.
type tally struct {
	Requests  uint64    `json:"requests"`
	Failures  uint64    `json:"failures"`
	Bounds    []float64 `json:"bounds,omitempty"`
	Slower    []uint64  `json:"slower,omitempty"`
	Restarted string    `json:"restarted,omitempty"`
}

// plus adds the counters of one partition. Bounds are the same everywhere: one kind of gateway counts.
func (t *tally) plus(s *traffic.Sample) {
	t.Requests += s.Requests
	t.Failures += s.Failures
	if t.Bounds == nil {
		t.Bounds, t.Slower = s.Bounds, make([]uint64, len(s.Bounds))
	}
	for i := range min(len(t.Slower), len(s.Slower)) {
		t.Slower[i] += s.Slower[i]
	}
	t.Restarted += s.Restarted + "|"
}

// count adds up what the new revision has answered in the partitions of the step. Where it runs beside another that is the
// candidate.
func (s *stage) count(ctx context.Context) (*tally, error) {
	sum := &tally{}
	for _, partition := range s.in.Partitions {
		d, err := s.delivery(ctx, partition, s.client)
		if err != nil {
			return nil, err
		}
		if d == nil || aside(d) || s.unreachable(d) {
			continue
		}
		role := v1alpha1.TrackStable
		if len(d.Spec.Tracks) > 1 {
			role = v1alpha1.TrackCandidate
		}
		sample, err := s.Traffic.Sample(ctx, d, role)
		if err != nil {
			return nil, fmt.Errorf("counting requests in partition %s: %w", partition, err)
		}
		sum.plus(&sample)
	}
	const longest = 32
	if len(sum.Restarted) > longest {
		sum.Restarted = digest(sum.Restarted)
	}
	return sum, nil
}

// gate compares what was answered since the step before it began.
type gate struct {
	*Rollouts
}

// Describe tells what the gate takes.
func (*gate) Describe() action.Description {
	return action.Description{
		Name: "rollout.gate", Summary: "Looks at the requests that the new revision has answered.", Internal: true, Timeout: action.NoTimeout,
		Inputs: []action.Field{
			fieldRollout, fieldUID, fieldPartitions,
			{Name: "gate", Type: v1alpha1.TypeInteger, Doc: "Number of the gate in the strategy."},
			{Name: "before", Type: v1alpha1.TypeObject, Doc: "What had been answered before."},
		},
		Outputs: []action.Field{
			{Name: "requests", Type: v1alpha1.TypeInteger, Doc: "Requests since then."},
			{Name: "success", Type: v1alpha1.TypeNumber, Doc: "Percent of them with an answer below 500."},
		},
	}
}

// Run is done when enough requests were answered well, and fails when they were not.
func (g *gate) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	s, err := g.open(ctx, call, false)
	if err != nil {
		return later(err)
	}
	gates := s.rollout.Spec.Strategy.Gates
	if s.in.Gate >= len(gates) || gates[s.in.Gate].Requests == nil {
		return action.Outcome{}, action.Failed(errors.New("the strategy has no such gate"))
	}
	now, err := s.count(ctx)
	if err != nil {
		return later(err)
	}
	before := s.in.Before
	if s.memory.Before != nil {
		before = s.memory.Before
	}
	if before == nil || before.Restarted != now.Restarted { // its counters began anew
		s.memory.Before = now
		before = now
	}
	out, err := judge(gates[s.in.Gate].Requests, before, now, time.Since(call.Started))
	if !out.Done {
		out.State = s.memory
	}
	return out, err
}

// judge says what comes of a gate after so long.
func judge(g *v1alpha1.RequestsGate, before, now *tally, waited time.Duration) (action.Outcome, error) {
	const defaultSuccess, defaultTimeout, again = 99, 10 * time.Minute, 2 * time.Second
	requests, failures := less(now.Requests, before.Requests), less(now.Failures, before.Failures)
	if requests < uint64(g.Minimum) {
		timeout := defaultTimeout
		if g.Timeout != nil {
			timeout = g.Timeout.Duration
		}
		if waited >= timeout {
			return action.Outcome{}, action.Failed(fmt.Errorf("%d requests came in %s, and %d are needed to decide", requests, timeout, g.Minimum))
		}
		return action.Outcome{Again: again, Waiting: true, Message: fmt.Sprintf("waits for %d requests", g.Minimum)}, nil
	}
	wanted, success := int32(defaultSuccess), float64(all)
	if g.SuccessPercent != nil {
		wanted = *g.SuccessPercent
	}
	if requests > 0 {
		success = float64(all) * float64(requests-min(failures, requests)) / float64(requests)
	}
	if success < float64(wanted) {
		return action.Outcome{}, action.Failed(fmt.Errorf("%.2f%% of %d requests were answered well, and at least %d%% must be", success, requests, wanted))
	}
	if g.Latency != nil && requests > 0 {
		if slow := slower(before, now, g.Latency.Seconds()); slow*20 > requests {
			return action.Outcome{}, action.Failed(fmt.Errorf("%d of %d requests took longer than %s, and at most 5 of 100 may", slow, requests, g.Latency.Duration))
		}
	}
	return action.Outcome{
		Done: true, Outputs: map[string]any{"requests": requests, "success": success},
		Message: fmt.Sprintf("%d requests, %.2f%% answered well", requests, success),
	}, nil
}

// slower is how many requests took longer than so many seconds: by the next lower bound that is counted, so never too few.
func slower(before, now *tally, seconds float64) uint64 {
	count := less(now.Requests, before.Requests)
	for i, bound := range now.Bounds {
		if bound > seconds || i >= len(now.Slower) {
			break
		}
		count = now.Slower[i]
		if i < len(before.Slower) {
			count = less(count, before.Slower[i])
		}
	}
	return count
}

func less(now, before uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

// number compares what a Prometheus has answered.
type number struct {
	*Rollouts
}

// Describe tells what is compared.
func (*number) Describe() action.Description {
	return action.Description{
		Name: "rollout.number", Summary: "Compares the number that a Prometheus has answered.", Internal: true,
		Inputs: []action.Field{
			fieldRollout, fieldUID, fieldPartitions,
			{Name: "gate", Type: v1alpha1.TypeInteger, Doc: "Number of the gate in the strategy."},
			{Name: "body", Doc: "What it has answered."},
		},
		Outputs: []action.Field{{Name: "value", Type: v1alpha1.TypeNumber, Doc: "The number."}},
	}
}

// Run is done if the number is within the gate's bounds.
func (n *number) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	s, err := n.open(ctx, call, false)
	if err != nil {
		return later(err)
	}
	gates := s.rollout.Spec.Strategy.Gates
	if s.in.Gate >= len(gates) || gates[s.in.Gate].Prometheus == nil {
		return action.Outcome{}, action.Failed(errors.New("the strategy has no such gate"))
	}
	g := gates[s.in.Gate].Prometheus
	value, err := numberIn(call.Inputs["body"])
	if err != nil {
		return action.Outcome{}, action.Failed(err)
	}
	if low, err := strconv.ParseFloat(cmp.Or(g.Min, "-Inf"), 64); err == nil && !(value >= low) {
		return action.Outcome{}, action.Failed(fmt.Errorf("the query gives %v, and at least %s is wanted", value, g.Min))
	}
	if high, err := strconv.ParseFloat(cmp.Or(g.Max, "Inf"), 64); err == nil && !(value <= high) {
		return action.Outcome{}, action.Failed(fmt.Errorf("the query gives %v, and at most %s is wanted", value, g.Max))
	}
	return action.Outcome{Done: true, Outputs: map[string]any{"value": value}, Message: fmt.Sprintf("the query gives %v", value)}, nil
}

// numberIn takes the one number out of the answer of a Prometheus: a vector of one element, or a scalar.
func numberIn(body json.RawMessage) (float64, error) {
	var answer struct {
		Status string `json:"status"`
		Error  string `json:"error"`
		Data   struct {
			Type   string          `json:"resultType"`
			Result json.RawMessage `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Status != "success" {
		return 0, fmt.Errorf("the answer is not one of a Prometheus: %s", cutText(cmp.Or(answer.Error, string(body)), 200))
	}
	var pair []any
	if answer.Data.Type == "scalar" {
		if err := json.Unmarshal(answer.Data.Result, &pair); err != nil {
			return 0, fmt.Errorf("reading the answer of the query: %w", err)
		}
	} else {
		var vector []struct {
			Value []any `json:"value"`
		}
		if err := json.Unmarshal(answer.Data.Result, &vector); err != nil || len(vector) != 1 {
			return 0, fmt.Errorf("the query gives %d values, and one is wanted: add them up in it", len(vector))
		}
		pair = vector[0].Value
	}
	const parts = 2
	if len(pair) != parts {
		return 0, errors.New("the query gives no number")
	}
	text, _ := pair[1].(string)
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, fmt.Errorf("the query gives %q, which is no number", cutText(text, 40))
	}
	return value, nil
}
