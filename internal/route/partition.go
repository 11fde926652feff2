package route

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// partitions tells of each Partition whether its data plane answers the edges.
type partitions struct{ *Routes }

// SetupWithManager registers the controller. It looks at the conditions, too: who writes the others may write an older
// one of this.
func (c *partitions) SetupWithManager(mgr ctrl.Manager) error {
	conditionsChanged := changedBy(func(was, is client.Object) bool {
		return !equality.Semantic.DeepEqual(was.(*v1alpha1.Partition).Status.Conditions, is.(*v1alpha1.Partition).Status.Conditions)
	})
	err := ctrl.NewControllerManagedBy(mgr).Named("trafficready").
		For(&v1alpha1.Partition{}, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, conditionsChanged))).
		WatchesRawSource(c.partitionKick.source()).
		Complete(c)
	if err != nil {
		return fmt.Errorf("registering the controller of the partitions' traffic: %w", err)
	}
	return nil
}

// Reconcile sets the condition TrafficReady of one Partition.
func (c *partitions) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	p := &v1alpha1.Partition{}
	if err := c.client.Get(ctx, req.NamespacedName, p); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := p.DeepCopy()
	status, reason, message := c.edges.trafficReady(req.NamespacedName)
	reconcile.SetCondition(p, v1alpha1.ConditionTrafficReady, status, reason, message)
	if equality.Semantic.DeepEqual(before.Status, p.Status) {
		return ctrl.Result{}, nil
	}
	// The list of conditions is written as a whole: only if nobody has changed it since.
	err := c.client.Status().Patch(ctx, p, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, fmt.Errorf("telling of the partition's traffic: %w", err)
	}
	return ctrl.Result{}, nil
}

// trafficReady says what edges see of a partition. One target that answers is enough: then it is not the data plane
// that fails, but an application.
func (e *Edges) trafficReady(partition client.ObjectKey) (status metav1.ConditionStatus, reason, message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.newest == nil || len(e.newest.edges) == 0 {
		return metav1.ConditionUnknown, v1alpha1.ReasonNoEdge, "no edge is connected, so nothing is known of the traffic"
	}
	seen := map[client.ObjectKey]*sight{}
	for _, r := range e.sorted() {
		if r.failure != "" {
			continue
		}
		for i := range r.state.Targets {
			t := &r.state.Targets[i]
			key, known := e.newest.partitions[t.Target]
			if !known {
				continue
			}
			if seen[key] == nil {
				seen[key] = &sight{}
			}
			seen[key].add(parsePool(t.Pool).application, t.Up, t.Probe)
		}
	}
	own := seen[partition]
	switch {
	case own == nil:
		return metav1.ConditionUnknown, v1alpha1.ReasonNoEdge, "no edge tells of it: no route leads here, or no edge answers"
	case own.up && len(own.failing) > 0:
		return metav1.ConditionTrue, v1alpha1.ReasonReady, "some applications do not answer: " + own.text()
	case own.up:
		return metav1.ConditionTrue, v1alpha1.ReasonReady, ""
	}
	message = own.text()
	if alone := len(seen) == 1; !alone && allDown(seen) {
		message = "all partitions fail at once, so the edge itself may be sick: " + message
	}
	return metav1.ConditionFalse, v1alpha1.ReasonProbeFailed, message
}

// sight is what edges see of one partition.
type sight struct {
	up      bool
	failing []string
}

func (s *sight) add(application string, up bool, probe string) {
	if up {
		s.up = true
		return
	}
	text := application + ": " + cmp.Or(probe, "no good answer to the probe")
	if !slices.Contains(s.failing, text) {
		s.failing = append(s.failing, text)
	}
}

func (s *sight) text() string {
	slices.Sort(s.failing)
	return strings.Join(s.failing, "; ")
}

func allDown(seen map[client.ObjectKey]*sight) bool {
	for _, s := range seen {
		if s.up {
			return false
		}
	}
	return true
}
