package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

const (
	// parallel bounds how many partitions are worked on at once in one call.
	parallel = 16
	// quiet is how long a step waits before it says what for: each change of words is a write.
	quiet = 2 * time.Second
	// askTime is how long the traffic of one partition may be asked about in one call.
	askTime = 20 * time.Second
)

// input is what the steps of a rollout are told.
type input struct {
	// Rollout and UID of it.
	Rollout string `json:"rollout"`
	UID     string `json:"uid"`
	// Partitions of the step.
	Partitions []string `json:"partitions"`
	// Weight and Mirror of the candidate in percent, and Matches that lead to it.
	Weight  int32                 `json:"weight"`
	Mirror  int32                 `json:"mirror"`
	Matches []v1alpha1.RouteMatch `json:"matches"`
	// Waves in the order in which they move.
	Waves [][]string `json:"waves"`
	// Rolling says that what is changed in place may go on with its requests.
	Rolling bool `json:"rolling"`
	// Moves says that the first step moves partitions, too.
	Moves bool `json:"moves"`
	// From is the revision that ran before.
	From string `json:"from"`
	// Closed is when the partitions were closed.
	Closed string `json:"closed"`
	// Gate is the number of the gate in the strategy, and Before what was counted when the step before it ended.
	Gate   int    `json:"gate"`
	Before *tally `json:"before"`
	// Body is what a Prometheus answered.
	Body any `json:"body"`
}

// memory is what a step keeps between two calls.
type memory struct {
	// Failing is since when pods of the step fail.
	Failing *time.Time `json:"failing,omitempty"`
	// Unit is the number of partitions that are brought back already, from the last that moved, and Since when the others
	// were begun with.
	Unit  int        `json:"unit,omitempty"`
	Since *time.Time `json:"since,omitempty"`
	// Draining is since when requests in flight are waited for, by partition, in seconds since 1970.
	Draining map[string]int64 `json:"draining,omitempty"`
	// Before is what was counted when a gate began anew.
	Before *tally `json:"before,omitempty"`
}

// stage is one call of one step.
type stage struct {
	*Rollouts

	call    *action.Call
	in      input
	rollout *v1alpha1.Rollout
	memory  memory
	// lost are the clusters that do not answer.
	lost map[string]bool

	// resting says that people have stopped the application.
	resting bool
	// all says that partitions that were put aside are worked on, too.
	all bool

	mu      sync.Mutex
	failing bool
}

// open reads what a call is about. A rollout that is gone, has ended, or is another of the same name is not gone on with.
func (r *Rollouts) open(ctx context.Context, call *action.Call, back bool) (*stage, error) {
	s := &stage{Rollouts: r, call: call, rollout: &v1alpha1.Rollout{}, lost: map[string]bool{}}
	if err := call.Decode(&s.in); err != nil {
		return nil, err
	}
	if _, err := call.Remembered(&s.memory); err != nil {
		return nil, err
	}
	key := client.ObjectKey{Namespace: call.Run.Namespace, Name: s.in.Rollout}
	err := r.client.Get(ctx, key, s.rollout)
	if apierrors.IsNotFound(err) {
		err = r.reader.Get(ctx, key, s.rollout)
	}
	switch {
	case apierrors.IsNotFound(err):
		return nil, action.Failed(fmt.Errorf("reading rollout %s: %w", s.in.Rollout, err))
	case err != nil:
		return nil, fmt.Errorf("reading rollout %s: %w", s.in.Rollout, err)
	case string(s.rollout.UID) != s.in.UID:
		return nil, action.Failed(fmt.Errorf("rollout %s is another one than this run was made for", s.in.Rollout))
	case s.rollout.Status.Phase.Ended() && !back:
		return nil, action.Failed(fmt.Errorf("the rollout is %s, which is its end: change the application, or ask for it again with yunfan rollout again %s",
			s.rollout.Status.Phase, s.rollout.Spec.Application))
	}
	app := &v1alpha1.Application{}
	if err := r.client.Get(ctx, client.ObjectKey{Namespace: s.rollout.Namespace, Name: s.rollout.Spec.Application}, app); client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("reading application %s: %w", s.rollout.Spec.Application, err)
	}
	s.resting = app.Spec.Stopped
	var clusters v1alpha1.ClusterList
	if err := r.client.List(ctx, &clusters, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing clusters: %w", err)
	}
	for i := range clusters.Items {
		if c := &clusters.Items[i]; meta.IsStatusConditionFalse(c.Status.Conditions, v1alpha1.ConditionReady) {
			s.lost[c.Name] = true
		}
	}
	return s, nil
}

// delivery reads the Delivery to a partition; nil if it is gone or going.
func (s *stage) delivery(ctx context.Context, partition string, reader client.Reader) (*v1alpha1.Delivery, error) {
	d := &v1alpha1.Delivery{}
	key := client.ObjectKey{Namespace: s.rollout.Namespace, Name: v1alpha1.DeliveryName(s.rollout.Spec.Application, partition)}
	if err := reader.Get(ctx, key, d); apierrors.IsNotFound(err) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("reading delivery %s: %w", key.Name, err)
	}
	if !d.DeletionTimestamp.IsZero() {
		return nil, nil
	}
	return d, nil
}

// unreachable says whether a Delivery's cluster does not answer.
func (s *stage) unreachable(d *v1alpha1.Delivery) bool {
	return s.lost[d.Spec.Cluster] || unreachable(d)
}

func unreachable(d *v1alpha1.Delivery) bool {
	c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ConditionHealthy)
	return c != nil && c.Status == metav1.ConditionUnknown && c.Reason == v1alpha1.ReasonUnreachable
}

// aside says whether a partition was put aside, since its cluster did not answer: it comes to what has won in the end.
func aside(d *v1alpha1.Delivery) bool {
	return d.Spec.Traffic != nil && d.Spec.Traffic.UntilHealthy
}

// errBehind says that somebody else writes the same Delivery again and again.
var errBehind = errors.New("the delivery is being written by somebody else")

// write changes the spec of a Delivery, if the change is one, and leaves in d what the hub has then. What another has
// written in between is kept.
func (s *stage) write(ctx context.Context, d *v1alpha1.Delivery, change func(*v1alpha1.DeliverySpec)) error {
	const tries = 4
	for range tries {
		wanted := d.DeepCopy()
		change(&wanted.Spec)
		if equality.Semantic.DeepEqual(d.Spec, wanted.Spec) {
			return nil
		}
		if err := s.call.Fence(ctx); err != nil {
			return fmt.Errorf("before changing partition %s: %w", d.Spec.Partition, err)
		}
		err := s.client.Update(ctx, wanted, client.FieldOwner(v1alpha1.FieldOwner))
		if err == nil {
			*d = *wanted
			return nil
		}
		if !apierrors.IsConflict(err) {
			return fmt.Errorf("changing the delivery to partition %s: %w", d.Spec.Partition, err)
		}
		live, err := s.delivery(ctx, d.Spec.Partition, s.reader)
		if live == nil {
			return err
		}
		*d = *live
	}
	return errBehind
}

// does is what a step does with one partition, again and again until it waits for nothing more.
type does func(ctx context.Context, s *stage, d *v1alpha1.Delivery) (waiting string, err error)

// each does the same with several partitions, and says what is waited for, in the order of the partitions. One whose
// cluster does not answer is put aside, unless none does.
func (s *stage) each(ctx context.Context, partitions []string, do does) (waiting []string, err error) {
	elsewhere, err := s.reachable(ctx)
	if err != nil {
		return nil, err
	}
	said, errs := make([]string, len(partitions)), make([]error, len(partitions))
	var group errgroup.Group
	group.SetLimit(parallel)
	for i, partition := range partitions {
		group.Go(func() error {
			said[i], errs[i] = s.one(ctx, partition, elsewhere, do)
			return nil
		})
	}
	_ = group.Wait() // no function of the group gives an error
	for i, partition := range partitions {
		if said[i] != "" {
			waiting = append(waiting, partition+": "+said[i])
		}
	}
	return waiting, errors.Join(errs...)
}

func (s *stage) one(ctx context.Context, partition string, elsewhere bool, do does) (waiting string, err error) {
	d, err := s.delivery(ctx, partition, s.client)
	switch {
	case err != nil || d == nil:
		return "", err
	case s.all:
		return do(ctx, s, d)
	case aside(d):
		return "", nil
	case s.unreachable(d) && elsewhere:
		s.call.Log("cluster %s of partition %s does not answer: it is taken out of the traffic, and comes to the revision that has won when it answers", d.Spec.Cluster, partition)
		return "", s.write(ctx, d, putAside)
	case s.unreachable(d):
		return "its cluster " + d.Spec.Cluster + " does not answer", nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	waiting, err = do(ctx, s, d)
	if errors.Is(err, errBehind) {
		return errBehind.Error(), nil
	}
	if err != nil {
		return "", fmt.Errorf("partition %s: %w", partition, err)
	}
	return waiting, nil
}

// reachable says whether a partition of the rollout answers.
func (s *stage) reachable(ctx context.Context) (bool, error) {
	for _, partition := range s.rollout.Spec.Partitions {
		d, err := s.delivery(ctx, partition, s.client)
		if err != nil {
			return false, err
		}
		if d != nil && !aside(d) && !s.unreachable(d) {
			return true, nil
		}
	}
	return false, nil
}

// answer turns what is waited for into the answer of a call.
func (s *stage) answer(waiting []string) action.Outcome {
	if len(waiting) == 0 {
		return action.Done(nil)
	}
	age, message := time.Since(s.call.Started), ""
	if age > quiet {
		const most = 5
		message = "waits for " + strings.Join(waiting[:min(len(waiting), most)], "; ")
		if more := len(waiting) - most; more > 0 {
			message += fmt.Sprintf("; and %d more", more)
		}
	}
	out := action.Again(pause(age), message)
	if s.memory.Failing != nil || len(s.call.State) > 0 { // what was kept is kept until something else is
		out.State = s.memory
	}
	return out
}

// pause before a step looks again: at first often, for most take a moment only.
func pause(age time.Duration) time.Duration {
	switch {
	case age < 10*time.Second:
		return 200 * time.Millisecond
	case age < time.Minute:
		return 500 * time.Millisecond
	}
	return 2 * time.Second
}

// failingReasons are those of which pods do not recover without a change, as a rule.
var failingReasons = []string{
	v1alpha1.ReasonRefused, v1alpha1.ReasonQuotaExceeded, v1alpha1.ReasonImagePull, v1alpha1.ReasonConfigError,
	v1alpha1.ReasonOOMKilled, v1alpha1.ReasonCrashLoop, v1alpha1.ReasonInvalid,
	v1alpha1.ReasonChartNotSupported, v1alpha1.ReasonConfigurationNotFound,
}

// unhealthy says what a Delivery still lacks, by its status at its newest generation.
func (s *stage) unhealthy(d *v1alpha1.Delivery) string {
	why, failing := unhealthy(d)
	if failing {
		s.mu.Lock()
		s.failing = true
		s.mu.Unlock()
	}
	return why
}

func unhealthy(d *v1alpha1.Delivery) (why string, failing bool) {
	if d.Status.ObservedGeneration != d.Generation || len(d.Status.Conditions) == 0 {
		return "it is not applied yet", false
	}
	for _, kind := range []string{v1alpha1.ConditionApplied, v1alpha1.ConditionHealthy} {
		c := meta.FindStatusCondition(d.Status.Conditions, kind)
		if c == nil || c.Status != metav1.ConditionTrue {
			if c == nil {
				return "it is not applied yet", false
			}
			if c.Message == "" {
				return c.Reason, slices.Contains(failingReasons, c.Reason)
			}
			return c.Message, slices.Contains(failingReasons, c.Reason)
		}
	}
	return "", false
}

// patient fails a step whose pods fail, and did so first long ago. In between they may have been tried again.
func (s *stage) patient(waiting []string) error {
	if !s.failing || len(waiting) == 0 {
		return nil
	}
	now := time.Now()
	if s.memory.Failing == nil {
		s.memory.Failing = &now
	}
	if now.Sub(*s.memory.Failing) < s.Patience {
		return nil
	}
	return action.Failed(errors.New(strings.Join(waiting, "; ")))
}
