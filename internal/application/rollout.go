package application

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// journey is what is to be moved by a rollout.
type journey struct {
	// from is the revision that runs there now; partitions that have another follow later.
	from       string
	partitions []string
}

// active is the newest rollout if it has not ended, else another that has not; nil if all have.
func (w *world) active() *v1alpha1.Rollout {
	if w.rollout != nil && !w.rollout.Status.Phase.Ended() {
		return w.rollout
	}
	for _, o := range w.rollouts {
		if !o.Status.Phase.Ended() {
			return o
		}
	}
	return nil
}

// failed is the newest rollout if it should have brought this revision, has not, and nothing has changed since that lets
// it be tried again; nil else.
func (w *world) failed(revision string) *v1alpha1.Rollout {
	last := w.rollout
	if last == nil || last.Spec.To != revision || !last.Status.Phase.Ended() || last.Status.Phase == v1alpha1.RolloutSucceeded {
		return nil
	}
	again := w.app.Annotations[v1alpha1.AnnotationRolloutAgain]
	switch {
	case again != "" && again != last.Annotations[v1alpha1.AnnotationRolloutAgain],
		!equality.Semantic.DeepEqual(last.Spec.Strategy, strategyOf(w.app)),
		// What was refused was so for what was asked, such as too many pods.
		last.Status.Phase == v1alpha1.RolloutRefused && last.Annotations[v1alpha1.AnnotationGeneration] != generationOf(w.app):
		return nil
	}
	return last
}

// strategyOf is an application's strategy with the defaults that the hub fills in only where the spec has a strategy.
func strategyOf(app *v1alpha1.Application) v1alpha1.Strategy {
	s := *app.Spec.Strategy.DeepCopy()
	s.Type = cmp.Or(s.Type, v1alpha1.StrategyRollingUpdate)
	s.WhileRunning = cmp.Or(s.WhileRunning, v1alpha1.WhileRunningReplace)
	return s
}

func generationOf(app *v1alpha1.Application) string { return strconv.FormatInt(app.Generation, 10) }

// announced is the revision of the newest rollout, whether it is there already or not; empty if there was none.
func announced(app *v1alpha1.Application) string {
	if i := strings.LastIndex(app.Status.Rollout, "-"); i > 0 {
		return app.Status.Rollout[:i]
	}
	return ""
}

// newest reads the newest rollout, past the cache if that does not have it: one that is there must not be taken for gone.
func (r *Reconciler) newest(ctx context.Context, w *world) error {
	if w.rollout != nil || w.app.Status.Rollout == "" {
		return nil
	}
	o := &v1alpha1.Rollout{}
	err := r.live.Get(ctx, client.ObjectKey{Namespace: w.app.Namespace, Name: w.app.Status.Rollout}, o)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("reading rollout %s: %w", w.app.Status.Rollout, err)
	}
	if metav1.IsControlledBy(o, w.app) {
		w.rollout = o
	}
	return nil
}

// stay leaves in the plan's deliveries what a rollout moves, and says what it is to move. Numbers of replicas, being
// stopped, and where the application runs are not its matter. Who is new begins with what the others have.
func (w *world) stay(p *Plan) *journey {
	var moves []journey
	for i := range p.Deliveries {
		wanted := &p.Deliveries[i]
		d := w.there(wanted)
		if d == nil {
			continue
		}
		from, to := stableTrack(d).Revision, stableTrack(wanted).Revision
		// What rests moves at once, but not to what has failed: it would run when it is started.
		resting := (wanted.Spec.Stopped || d.Spec.Stopped) && w.failed(to) == nil
		if w.active() == nil && (from == to || resting) {
			w.keepCandidate(d, wanted)
			continue
		}
		if from != to && !resting && !w.outOfReach(wanted.Spec.Partition, to) {
			moves = join(moves, from, wanted.Spec.Partition)
		}
		wanted.Spec = w.kept(d, wanted)
	}
	var next *journey
	if len(moves) > 0 {
		next = &moves[0]
	}
	w.begin(p, next)
	return w.next(p, next)
}

// join adds a partition to those that move from one revision.
func join(moves []journey, from, partition string) []journey {
	i := slices.IndexFunc(moves, func(j journey) bool { return j.from == from })
	if i < 0 {
		return append(moves, journey{from, []string{partition}})
	}
	moves[i].partitions = append(moves[i].partitions, partition)
	return moves
}

// outOfReach says whether the newest rollout brings a revision to a partition as soon as its cluster answers again.
func (w *world) outOfReach(partition, revision string) bool {
	if w.rollout == nil || w.rollout.Spec.To != revision || w.rollout.Status.Phase != v1alpha1.RolloutSucceeded {
		return false
	}
	return slices.ContainsFunc(w.rollout.Status.Partitions, func(s v1alpha1.RolloutPartition) bool {
		return s.Partition == partition && s.Phase == v1alpha1.RolloutPartitionUnreachable
	})
}

// keepCandidate leaves a candidate where it is, unless it is what a rollout that has ended has left behind.
func (w *world) keepCandidate(d, wanted *v1alpha1.Delivery) {
	candidate := d.Spec.Track(v1alpha1.TrackCandidate)
	if candidate == nil || w.rollout != nil && w.rollout.Spec.To == candidate.Revision || stableTrack(wanted).Revision == candidate.Revision {
		return
	}
	wanted.Spec.Tracks = append(wanted.Spec.Tracks[:1:1], *candidate)
}

// kept is what a partition has, with what is not a rollout's matter as it is wanted.
func (w *world) kept(d, wanted *v1alpha1.Delivery) v1alpha1.DeliverySpec {
	spec := *d.Spec.DeepCopy()
	spec.RollingUpdate = wanted.Spec.RollingUpdate
	stable := spec.Track(v1alpha1.TrackStable)
	if w.active() == nil {
		spec.Stopped = wanted.Spec.Stopped
	}
	spec.Stopped = spec.Stopped || wanted.Spec.Stopped
	if stable != nil {
		stable.Replicas = maps.Clone(stable.Replicas)
		if stable.Replicas == nil {
			stable.Replicas = map[string]int32{}
		}
		maps.Copy(stable.Replicas, stableTrack(wanted).Replicas)
	}
	return spec
}

// begin lets partitions that are new begin with the revision from which the others move, or at which they stay. Where
// that one cannot be they wait until the rollout has ended.
func (w *world) begin(p *Plan, next *journey) {
	origin := ""
	switch last := w.failed(p.Revision.Name); {
	case w.active() != nil:
		origin = w.active().Spec.From
	case last != nil:
		origin = last.Spec.From
	case next != nil:
		origin = next.from
	}
	revision := w.revisions[origin]
	if revision == nil || origin == p.Revision.Name {
		return
	}
	p.Deliveries = slices.DeleteFunc(p.Deliveries, func(wanted v1alpha1.Delivery) bool {
		if w.there(&wanted) != nil || w.fits(p, revision, &wanted) {
			return false
		}
		w.later = append(w.later, wanted.Spec.Partition)
		return true
	})
	for i := range p.Deliveries {
		wanted := &p.Deliveries[i]
		if w.there(wanted) != nil {
			continue
		}
		replicas := map[string]int32{}
		for _, other := range inOrder(w.deliveries) { // of components that the new revision does not have
			maps.Copy(replicas, stableTrack(other).Replicas)
		}
		maps.Copy(replicas, stableTrack(wanted).Replicas)
		stableTrack(wanted).Revision, stableTrack(wanted).Replicas = origin, replicas
	}
}

// fits says whether a former revision may begin in a partition: it was written for it, its node ports are reserved, and
// it was approved if the partition asks for that.
func (w *world) fits(p *Plan, revision *v1alpha1.ApplicationRevision, wanted *v1alpha1.Delivery) bool {
	partition := wanted.Spec.Partition
	for _, port := range nodePortsOf(w.app.Namespace, revision, partition, wanted.Spec.Cluster) {
		if !slices.Contains(p.NodePorts, port) {
			return false
		}
	}
	return equality.Semantic.DeepEqual(revision.OverridesFor(partition), p.Revision.OverridesFor(partition)) &&
		(!w.asksForApproval(partition) || w.approved(revision))
}

// next says what the next rollout moves; nil if none is to be made.
func (w *world) next(p *Plan, moves *journey) *journey {
	active := w.active()
	switch {
	case w.failed(p.Revision.Name) != nil, active != nil && active.Spec.To == p.Revision.Name:
		return nil
	case active != nil:
		return w.instead(p, active)
	case moves == nil:
		return nil
	}
	slices.Sort(moves.partitions)
	return moves
}

// instead is what moves when the application has changed while a rollout is under way: all that this one moves, from where
// it will be then.
func (w *world) instead(p *Plan, active *v1alpha1.Rollout) *journey {
	j := &journey{from: active.Spec.From}
	if w.app.Spec.Strategy.WhileRunning == v1alpha1.WhileRunningWait {
		j.from = active.Spec.To
	}
	for i := range p.Deliveries {
		wanted := &p.Deliveries[i]
		name := wanted.Spec.Partition
		d := w.there(wanted)
		if d == nil || wanted.Spec.Stopped || slices.Contains(p.Approval, name) {
			continue
		}
		if slices.Contains(active.Spec.Partitions, name) || stableTrack(d).Revision != p.Revision.Name {
			j.partitions = append(j.partitions, name)
		}
	}
	if len(j.partitions) == 0 {
		return nil
	}
	slices.Sort(j.partitions)
	return j
}

// roll makes the rollout that moves partitions to the plan's revision. Its name is in the application's status before it
// is made, so that never are there two for one change; a status that was made from a cache that is behind is refused.
func (r *Reconciler) roll(ctx context.Context, w *world, p *Plan, j *journey) error {
	if err := r.certain(ctx, w); err != nil {
		return err
	}
	name, err := r.rolloutName(ctx, w, p.Revision.Name)
	if err != nil {
		return err
	}
	if w.app.Status.Rollout != name {
		live := w.app.DeepCopy()
		before := live.DeepCopy()
		live.Status.Rollout = name
		if err := r.client.Status().Patch(ctx, live, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
			return fmt.Errorf("announcing rollout %s: %w", name, err)
		}
		w.app.Status.Rollout = name
	}
	o := &v1alpha1.Rollout{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.app.Namespace, Name: name, Labels: map[string]string{v1alpha1.LabelApplication: w.app.Name},
			Annotations:     map[string]string{v1alpha1.AnnotationGeneration: generationOf(w.app)},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(w.app, v1alpha1.GroupVersion.WithKind("Application"))},
		},
		Spec: v1alpha1.RolloutSpec{
			Application: w.app.Name, From: j.from, To: p.Revision.Name, Strategy: strategyOf(w.app),
			Partitions: j.partitions, User: w.app.Annotations[v1alpha1.AnnotationChangedBy],
		},
	}
	if again := w.app.Annotations[v1alpha1.AnnotationRolloutAgain]; again != "" {
		o.Annotations[v1alpha1.AnnotationRolloutAgain] = again
	}
	if err := r.client.Create(ctx, o); err != nil {
		return fmt.Errorf("creating rollout %s: %w", name, err)
	}
	w.rollout = o
	return nil
}

// certain makes sure that the cache knows what the deliveries are: a rollout that has just ended has written them.
func (r *Reconciler) certain(ctx context.Context, w *world) error {
	var live v1alpha1.DeliveryList
	if err := r.live.List(ctx, &live, client.InNamespace(w.app.Namespace), client.MatchingLabels{v1alpha1.LabelApplication: w.app.Name}); err != nil {
		return fmt.Errorf("reading the deliveries: %w", err)
	}
	for i := range live.Items {
		d := &live.Items[i]
		if known := w.deliveries[d.Spec.Partition]; known == nil || known.UID != d.UID || known.Generation != d.Generation {
			return apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("deliveries").GroupResource(), d.Name, errCacheBehind)
		}
	}
	return nil
}

// errCacheBehind is a reason to look again in a moment.
var errCacheBehind = fmt.Errorf("the cache is behind")

// rolloutName is the first that is free.
func (r *Reconciler) rolloutName(ctx context.Context, w *world, revision string) (string, error) {
	for number := 1; ; number++ {
		name := fmt.Sprintf("%s-%d", revision, number)
		if w.rollout != nil && w.rollout.Name == name {
			continue // the cache may not have it
		}
		err := r.client.Get(ctx, client.ObjectKey{Namespace: w.app.Namespace, Name: name}, &v1alpha1.Rollout{})
		if apierrors.IsNotFound(err) {
			return name, nil
		} else if err != nil {
			return "", fmt.Errorf("naming the rollout: %w", err)
		}
	}
}

// rolling says in the conditions what the newest rollout does, or why it has not brought the revision. False if there is
// nothing to say.
func (w *world) rolling(p *Plan) (status metav1.ConditionStatus, reason, message string, ok bool) {
	if p == nil {
		return "", "", "", false
	}
	if o := w.active(); o != nil {
		text := fmt.Sprintf("rollout %s moves it from revision %s to %s", o.Name, o.Spec.From, o.Spec.To)
		if o.Status.Phase == v1alpha1.RolloutPending {
			text = fmt.Sprintf("rollout %s will move it to revision %s: %s", o.Name, o.Spec.To, o.Status.Message)
		}
		return metav1.ConditionTrue, v1alpha1.ReasonRolloutRunning, text, true
	}
	o := w.failed(p.Revision.Name)
	if o == nil {
		return "", "", "", false
	}
	reason = map[v1alpha1.RolloutPhase]string{
		v1alpha1.RolloutFailed: v1alpha1.ReasonRolloutFailed, v1alpha1.RolloutAborted: v1alpha1.ReasonRolloutAborted,
		v1alpha1.RolloutRefused: v1alpha1.ReasonRolloutRefused,
	}[o.Status.Phase]
	return metav1.ConditionFalse, reason, fmt.Sprintf("rollout %s has not brought revision %s, so %s runs: %s. Change the application, or set its annotation %s to the time now to try again",
		o.Name, o.Spec.To, o.Spec.From, cmp.Or(o.Status.Message, "no reason was given"), v1alpha1.AnnotationRolloutAgain), true
}
