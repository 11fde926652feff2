package workflow

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/reconcile"
	"yunfan.io/yunfan/internal/workflow/graph"
)

// longestVerdict is how much of what is wrong with a workflow its condition tells, in bytes; an API server takes 32 KiB.
const longestVerdict = 16 << 10

// Descriptions are those of all actions of a catalogue, by name.
func Descriptions(c action.Catalogue) map[string]action.Description {
	all := make(map[string]action.Description, len(c))
	for name, a := range c {
		all[name] = a.Describe()
	}
	return all
}

// Validity is the controller that says of each Workflow whether it can be run: its condition Valid. Runs are checked
// for themselves when they begin.
type Validity struct {
	client   client.Client
	actions  map[string]action.Description
	platform string
}

// NewValidity makes the controller. Actions are all that steps may name; platform is the platform's own namespace,
// yunfan-system if empty, whose workflows may have internal ones.
func NewValidity(mgr manager.Manager, actions map[string]action.Description, platform string) *Validity {
	if platform == "" {
		platform = platformNamespace
	}
	return &Validity{mgr.GetClient(), actions, platform}
}

// SetupWithManager registers the controller. It looks at all workflows after each start, whatever their generation: the
// catalogue may be another.
func (v *Validity) SetupWithManager(mgr manager.Manager) error {
	if err := ctrl.NewControllerManagedBy(mgr).Named("workflow").For(&v1alpha1.Workflow{}).Complete(v); err != nil {
		return fmt.Errorf("registering the workflow controller: %w", err)
	}
	return nil
}

// Reconcile checks one workflow. Its status is written if it says something new only.
func (v *Validity) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	w := &v1alpha1.Workflow{}
	if err := v.client.Get(ctx, req.NamespacedName, w); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if w.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	before := w.DeepCopy()
	condition := metav1.Condition{Type: v1alpha1.ConditionValid, Status: metav1.ConditionTrue, Reason: v1alpha1.ConditionValid, ObservedGeneration: w.Generation}
	if _, problems := graph.Check(&w.Spec, v.actions, w.Namespace == v.platform); len(problems) > 0 {
		condition.Status, condition.Reason = metav1.ConditionFalse, v1alpha1.ReasonInvalid
		condition.Message = short(places(problems), longestVerdict)
	}
	meta.SetStatusCondition(w.StatusConditions(), condition)
	w.SetObservedGeneration(w.Generation)
	return ctrl.Result{}, reconcile.PatchStatus(ctx, v.client, before, w)
}
