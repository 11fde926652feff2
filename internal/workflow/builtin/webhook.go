package builtin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"yunfan.io/yunfan/api/v1alpha1"
)

// ApprovalWebhookPath is where the hub's API server asks whether an Approval counts.
const ApprovalWebhookPath = "/validate-yunfan-io-v1alpha1-approval"

// NewApprovalWebhook gives the handler of admission reviews. It refuses early what would not be counted, with the same
// words; the action approve decides.
func NewApprovalWebhook(mgr manager.Manager) http.Handler {
	return admission.WithValidator[*v1alpha1.Approval](mgr.GetScheme(), &validator{mgr.GetAPIReader(), mgr.GetClient()})
}

type validator struct {
	live, cached client.Reader
}

// ValidateCreate refuses an approval that does not count.
func (v *validator) ValidateCreate(ctx context.Context, a *v1alpha1.Approval) (admission.Warnings, error) {
	// Whoever decides has read the digest in the hub, which the cache may not have yet.
	result, err := look(ctx, v.live, a)
	if err != nil {
		return nil, nil //nolint:nilerr // it is judged again before it counts
	}
	if result.counts() && a.Spec.Decision == v1alpha1.DecisionApproved && v.approvedBefore(ctx, a) {
		result = refuse(reasonAlreadyDecided, "%s has approved already: it takes different people", v1alpha1.PlainName(a.Spec.User.Name))
	}
	if !result.counts() {
		return nil, errors.New(result.reason + ": " + result.message)
	}
	return nil, nil
}

// approvedBefore says whether the same user's approval of the same thing counts already.
func (v *validator) approvedBefore(ctx context.Context, a *v1alpha1.Approval) bool {
	list := &v1alpha1.ApprovalList{}
	if err := v.cached.List(ctx, list, client.InNamespace(a.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return false // the action sees it
	}
	return slices.ContainsFunc(list.Items, func(other v1alpha1.Approval) bool {
		return other.Spec.RunUID == a.Spec.RunUID && other.Spec.Digest == a.Spec.Digest && other.Spec.Decision == v1alpha1.DecisionApproved && other.Spec.User != nil &&
			other.Spec.User.Name == a.Spec.User.Name && meta.IsStatusConditionTrue(other.Status.Conditions, v1alpha1.ConditionAccepted)
	})
}

// ValidateUpdate lets every change through: the schema lets the spec have none.
func (*validator) ValidateUpdate(context.Context, *v1alpha1.Approval, *v1alpha1.Approval) (admission.Warnings, error) {
	return nil, nil
}

// ValidateDelete lets every deletion through.
func (*validator) ValidateDelete(context.Context, *v1alpha1.Approval) (admission.Warnings, error) {
	return nil, nil
}

// look judges an approval by the run as the hub has it now.
func look(ctx context.Context, hub client.Reader, a *v1alpha1.Approval) (verdict, error) {
	run := &v1alpha1.WorkflowRun{}
	err := hub.Get(ctx, client.ObjectKey{Namespace: a.Namespace, Name: a.Spec.Run}, run)
	if apierrors.IsNotFound(err) {
		return refuse(reasonNotWaiting, "there is no run %s", a.Spec.Run), nil
	}
	if err != nil {
		return verdict{}, fmt.Errorf("reading run %s: %w", a.Spec.Run, err)
	}
	return judgeRun(run, a), nil
}

// Setup has those approvals marked that came when nothing waited for them any longer. What counts is marked by the
// action approve alone.
func Setup(mgr manager.Manager) error {
	open := predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool { return unmarked(e.Object) },
		UpdateFunc: func(event.UpdateEvent) bool { return false },
		DeleteFunc: func(event.DeleteEvent) bool { return false },
	}
	if err := ctrl.NewControllerManagedBy(mgr).Named("approval").For(&v1alpha1.Approval{}, builder.WithPredicates(open)).
		Complete(&marker{mgr.GetClient(), mgr.GetAPIReader()}); err != nil {
		return fmt.Errorf("watching approvals: %w", err)
	}
	return nil
}

func unmarked(o client.Object) bool {
	a, ok := o.(*v1alpha1.Approval)
	return ok && meta.FindStatusCondition(a.Status.Conditions, v1alpha1.ConditionAccepted) == nil
}

// marker writes why an approval does not count.
type marker struct {
	hub  client.Client
	live client.Reader
}

// Reconcile looks at one approval until somebody has said what becomes of it.
func (m *marker) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	a := &v1alpha1.Approval{}
	if err := m.live.Get(ctx, req.NamespacedName, a); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !unmarked(a) {
		return ctrl.Result{}, nil
	}
	result, err := look(ctx, m.live, a)
	if err != nil {
		return ctrl.Result{}, err
	}
	if result.counts() {
		return ctrl.Result{RequeueAfter: approvalPoll}, nil // it is the action's to count
	}
	// A conflict means that the action was first: it is looked at again.
	if err := accept(ctx, m.hub, a, result); apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: approvalPoll}, nil
	} else if err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, nil
}
