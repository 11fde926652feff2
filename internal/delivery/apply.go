package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// parallel bounds the objects of one Delivery that are applied at the same time.
const parallel = 8

// run is one reconciliation of a Delivery that has a plan.
type run struct {
	*reconciler
	rec      *record
	delivery *v1alpha1.Delivery
	plan     *plan
	as       client.Client // the identity of the partition

	before   []v1alpha1.TrackStatus // what was last applied
	statuses map[part]v1alpha1.ComponentStatus
	waiting  map[part][]string // dependencies that hold a component up
	again    ctrl.Result
}

// deliver applies what is missing, removes what is too much, and puts the outcome into the Delivery's status.
func (r *reconciler) deliver(ctx context.Context, rec *record, d *v1alpha1.Delivery) (ctrl.Result, error) {
	p, err := r.planFor(ctx, rec, d)
	if err != nil {
		return markUnplanned(d, err)
	}
	as, err := r.member.As(p.namespace)
	if err != nil {
		return markUnplanned(d, err)
	}
	run := &run{
		reconciler: r, rec: rec, delivery: d, plan: p, as: as,
		statuses: map[part]v1alpha1.ComponentStatus{}, waiting: map[part][]string{},
	}
	status := d.Status.DeepCopy()
	run.before = status.Tracks
	if err := run.takeUp(ctx); err != nil {
		d.Status = *status // what could not be stored is not taken up
		return ctrl.Result{}, err
	}
	failure := run.applyAll(ctx)
	if failure == nil {
		failure = errors.Join(run.renew(ctx), run.prune(ctx), run.mark(ctx))
	}
	run.observeRest(ctx)
	run.conclude(failure)
	return run.again, failure
}

// last is the revision that was last applied for a component. What ran as a candidate and was promoted runs already: it
// is not held up by anything.
func (r *run) last(c *component) (revision string) {
	for _, track := range r.before {
		for _, s := range track.Components {
			switch {
			case s.Name != c.name:
			case s.Revision == c.revision && c.role == v1alpha1.TrackStable:
				return s.Revision
			case track.Role == c.role:
				revision = s.Revision
			}
		}
	}
	return revision
}

// applyAll applies component after component, those at the same time that depend on nothing that is not ready. What
// depends on something that is ready at once, such as an external service, follows in the same run.
func (r *run) applyAll(ctx context.Context) error {
	if err := r.applySome(ctx, sharedTargets(r.plan)); err != nil {
		return err
	}
	done := map[part]bool{}
	for {
		var wave []*component
		var targets []*target
		for i := range r.plan.components {
			c := &r.plan.components[i]
			if !done[c.part] && r.free(c) {
				done[c.part] = true
				wave = append(wave, c)
				targets = append(targets, c.targets...)
			}
		}
		if len(wave) == 0 {
			return nil
		}
		if err := r.applySome(ctx, targets); err != nil {
			return err
		}
		for _, c := range wave {
			r.observe(ctx, c)
		}
	}
}

func sharedTargets(p *plan) []*target {
	out := make([]*target, len(p.shared))
	for i := range p.shared {
		out[i] = &p.shared[i]
	}
	return out
}

// free says whether nothing holds a component up. One that is at this revision already is never held up: scaling and
// mending it must not wait.
func (r *run) free(c *component) bool {
	delete(r.waiting, c.part)
	if c.lent || r.last(c) == c.revision {
		return true
	}
	for _, name := range c.dependsOn {
		on := r.plan.component(part{c.role, name})
		if on != nil && on.lent {
			on = r.plan.component(part{v1alpha1.TrackStable, name}) // whichever revision it has
		}
		if on == nil {
			continue // a job that comes with the promotion
		}
		if s, observed := r.statuses[on.part]; !observed || s.Revision != on.revision || s.Reason != "" {
			r.waiting[c.part] = append(r.waiting[c.part], name)
		}
	}
	return len(r.waiting[c.part]) == 0
}

// applySome applies the targets that the member does not hold as they are meant to be.
func (r *run) applySome(ctx context.Context, targets []*target) error {
	// Each target is tried whatever becomes of the others: the context of the group is not used.
	var group errgroup.Group
	group.SetLimit(parallel)
	for _, t := range targets {
		live, err := r.cached(ctx, t.entry, r.plan.namespace)
		if err != nil {
			return err
		}
		current, wait := r.rec.current(t, live)
		r.lookAgain(wait)
		if current {
			continue
		}
		if left := r.rec.refusedFor(t, r.plan.key); left > 0 {
			r.lookAgain(left)
			continue
		}
		group.Go(func() error { return r.apply(ctx, t, live) })
	}
	err := group.Wait()
	for _, t := range targets {
		r.lookAgain(r.rec.refusedFor(t, r.plan.key))
	}
	return err
}

func (r *run) lookAgain(after time.Duration) {
	if after > 0 {
		r.again = soonest(r.again, ctrl.Result{RequeueAfter: after})
	}
}

// apply applies one target. That the member refuses it is no error but remembered: it concerns this object only.
func (r *run) apply(ctx context.Context, t *target, live client.Object) error {
	mine, owner := ours(live, t.object.GetLabels())
	if live != nil && !mine && !(r.plan.adopted && owner == "") && !wasOurs(ctx, r.as, t.entry, t.object) {
		r.rec.refuse(t, r.plan.key, refuseForeign(t, owner))
		return nil
	}
	answer, err := r.put(ctx, t, live)
	if err == nil {
		r.rec.done(t, answer)
		return nil
	}
	if refusal := refusalOf(t, err); refusal != nil {
		r.rec.refuse(t, r.plan.key, refusal)
		return nil
	}
	return fmt.Errorf("applying %s %s: %w", t.entry.Kind, t.entry.Name, err)
}

// put applies a target, in one request if nobody else has touched the object.
func (r *run) put(ctx context.Context, t *target, live client.Object) (*unstructured.Unstructured, error) {
	if live != nil || r.plan.adopted {
		return applyOver(ctx, r.as, t)
	}
	// What may be somebody else's is not forced: a conflict then says so, without a look beforehand.
	answer := t.object.DeepCopy()
	err := serverSideApply(ctx, r.as, answer, false)
	if apierrors.IsConflict(err) && wasOurs(ctx, r.as, t.entry, t.object) {
		return applyOver(ctx, r.as, t)
	}
	return answer, err
}

func serverSideApply(ctx context.Context, c client.Client, o *unstructured.Unstructured, force bool, more ...client.ApplyOption) error {
	options := append([]client.ApplyOption{client.FieldOwner(v1alpha1.FieldOwner)}, more...)
	if force {
		options = append(options, client.ForceOwnership)
	}
	return c.Apply(ctx, client.ApplyConfigurationFromUnstructured(o), options...)
}

// identity are the labels that say whose an object is.
var identity = []string{v1alpha1.LabelTenant, v1alpha1.LabelPartition, v1alpha1.LabelApplication}

// ours says whether an object of the member is the one that these labels are meant for, and else whose it is: the
// application's name, or empty if Yunfan did not make it.
func ours(live client.Object, labels map[string]string) (mine bool, owner string) {
	if live == nil {
		return false, ""
	}
	have := live.GetLabels()
	for _, label := range identity {
		if have[label] != labels[label] {
			return false, have[v1alpha1.LabelApplication]
		}
	}
	return true, ""
}

// wasOurs asks the member whether an object that has not our labels, or that the cache does not show because it has
// lost them, is one that we applied and somebody has edited.
func wasOurs(ctx context.Context, as client.Reader, e v1alpha1.InventoryEntry, meant client.Object) bool {
	live := &metav1.PartialObjectMetadata{}
	live.SetGroupVersionKind(gvkOfEntry(e))
	return as.Get(ctx, client.ObjectKeyFromObject(meant), live) == nil && edited(live, meant.GetLabels())
}

// edited says whether we applied an object whose labels are not those that are meant. A label whose field is still ours
// is as we wrote it: if it has another value, the object is another application's.
func edited(live client.Object, meant map[string]string) bool {
	for _, m := range live.GetManagedFields() {
		if m.Manager != v1alpha1.FieldOwner || m.Operation != metav1.ManagedFieldsOperationApply || m.FieldsV1 == nil {
			continue
		}
		var fields struct {
			Metadata struct {
				Labels map[string]any `json:"f:labels"`
			} `json:"f:metadata"`
		}
		if err := json.Unmarshal(m.FieldsV1.GetRawBytes(), &fields); err != nil {
			return false
		}
		for _, label := range identity {
			if _, owned := fields.Metadata.Labels["f:"+label]; owned && live.GetLabels()[label] != meant[label] {
				return false
			}
		}
		return true
	}
	return false
}

// noMatch says whether the member does not know the kind.
func noMatch(err error) bool {
	return meta.IsNoMatchError(errors.Unwrap(err)) || meta.IsNoMatchError(err)
}
