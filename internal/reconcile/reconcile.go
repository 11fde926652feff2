// Package reconcile is the frame of every controller: an ordered list of steps that change one object in memory, one
// place that turns their error into a condition, a requeue and one status patch. It knows no capability.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

// Object is a kind with conditions.
type Object interface {
	client.Object
	StatusConditions() *[]metav1.Condition
	SetObservedGeneration(int64)
}

// Step does one part of a reconciliation. It changes obj in memory only; what it does outside must be idempotent. An
// error ends the reconciliation: Stalled, Waiting, or any other, which is tried again with backoff.
type Step[T Object] func(ctx context.Context, obj T) error

// Stalled is an error that only a change by somebody can mend: it is not tried again.
type Stalled struct {
	Reason string
	Err    error
}

func (e *Stalled) Error() string { return e.Err.Error() }
func (e *Stalled) Unwrap() error { return e.Err }

// Stall makes a Stalled error with a message for people, which says what to do.
func Stall(reason, format string, args ...any) error {
	return &Stalled{Reason: reason, Err: fmt.Errorf(format, args...)}
}

// Waiting is an error that goes away by itself: it is looked at again after a while, or earlier when something changes.
type Waiting struct {
	Reason string
	After  time.Duration
	Err    error
}

func (e *Waiting) Error() string { return e.Err.Error() }
func (e *Waiting) Unwrap() error { return e.Err }

// Wait makes a Waiting error.
func Wait(reason string, after time.Duration, format string, args ...any) error {
	return &Waiting{Reason: reason, After: after, Err: fmt.Errorf(format, args...)}
}

// remarked is no failure: it goes on with the next step, and its text stands in the condition if that becomes True.
type remarked struct{ text string }

func (e *remarked) Error() string { return e.text }

// Remark makes an error that is none: the step is done, but people should know something.
func Remark(format string, args ...any) error { return &remarked{fmt.Sprintf(format, args...)} }

// conflictPause lets the cache catch up with a change that was not seen yet.
const conflictPause = 50 * time.Millisecond

// Run runs the steps in order, sets the condition named ready from their outcome and patches the status once if it
// changed. A conflict is no error: the object is reconciled again.
func Run[T Object](ctx context.Context, c client.Client, obj T, ready, readyReason string, steps ...Step[T]) (ctrl.Result, error) {
	before := obj.DeepCopyObject().(T)
	remarks, err := inOrder(ctx, obj, steps)
	if err == nil {
		SetCondition(obj, ready, metav1.ConditionTrue, readyReason, remarks)
	}
	return settle(ctx, c, before, obj, ready, err)
}

// Finalize runs the steps that must be done before an object goes, and lets it go when all are. Until then the
// condition named ready says what it waits for.
func Finalize[T Object](ctx context.Context, c client.Client, obj T, ready, finalizer string, steps ...Step[T]) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(obj, finalizer) {
		return ctrl.Result{}, nil
	}
	before := obj.DeepCopyObject().(T)
	if _, err := inOrder(ctx, obj, steps); err != nil {
		return settle(ctx, c, before, obj, ready, err)
	}
	return settle(ctx, c, obj, obj, ready, RemoveFinalizer(ctx, c, obj, finalizer))
}

func inOrder[T Object](ctx context.Context, obj T, steps []Step[T]) (remarks string, err error) {
	for _, step := range steps {
		err := step(ctx, obj)
		if remark, ok := errors.AsType[*remarked](err); ok {
			remarks = remark.text
		} else if err != nil {
			return "", err
		}
	}
	return remarks, nil
}

func settle[T Object](ctx context.Context, c client.Client, before, obj T, ready string, err error) (ctrl.Result, error) {
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: conflictPause}, nil
	}
	result, reason, failure := Outcome(err)
	if err != nil {
		SetCondition(obj, ready, metav1.ConditionFalse, reason, err.Error())
	}
	obj.SetObservedGeneration(obj.GetGeneration())
	if perr := PatchStatus(ctx, c, before, obj); perr != nil {
		return ctrl.Result{}, errors.Join(failure, perr)
	}
	return result, failure
}

// PatchStatus writes the status of obj if it differs from before. That the object is gone is no error.
func PatchStatus[T Object](ctx context.Context, c client.Client, before, obj T) error {
	if equality.Semantic.DeepEqual(before, obj) {
		return nil
	}
	before = before.DeepCopyObject().(T)
	before.SetFinalizers(obj.GetFinalizers()) // A step may have added one.
	before.SetResourceVersion(obj.GetResourceVersion())
	patch := client.MergeFrom(before)
	// Objects may differ in what is lost on the way, such as fractions of a second.
	if data, err := patch.Data(obj); err != nil || string(data) == "{}" {
		return err
	}
	if err := c.Status().Patch(ctx, obj, patch); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("patching status: %w", err)
	}
	return nil
}

// Outcome says what an error means: when to look again, the reason for the condition, and the error to hand to the
// queue for a retry with backoff, if any.
func Outcome(err error) (result ctrl.Result, reason string, failure error) {
	var stalled *Stalled
	var waiting *Waiting
	switch {
	case err == nil:
		return ctrl.Result{}, "", nil
	case errors.As(err, &stalled):
		return ctrl.Result{}, stalled.Reason, nil
	case errors.As(err, &waiting):
		return ctrl.Result{RequeueAfter: waiting.After}, waiting.Reason, nil
	}
	return ctrl.Result{}, "Failed", err
}

// SetCondition sets one condition for the object's current generation. Messages are cut at 2 KiB.
func SetCondition(obj Object, kind string, status metav1.ConditionStatus, reason, message string) {
	const limit = 2048
	if len(message) > limit {
		message = strings.ToValidUTF8(message[:limit], "") + "…"
	}
	meta.SetStatusCondition(obj.StatusConditions(), metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: obj.GetGeneration(),
	})
}

// AddFinalizer makes sure that the object is not gone before RemoveFinalizer.
func AddFinalizer[T Object](ctx context.Context, c client.Client, obj T, name string) error {
	return patchFinalizers(ctx, c, obj, name, controllerutil.AddFinalizer)
}

// RemoveFinalizer lets the object go. That it is gone is no error.
func RemoveFinalizer[T Object](ctx context.Context, c client.Client, obj T, name string) error {
	return client.IgnoreNotFound(patchFinalizers(ctx, c, obj, name, controllerutil.RemoveFinalizer))
}

// patchFinalizers patches a copy, so that what steps changed in obj's status is not overwritten by the answer.
func patchFinalizers[T Object](ctx context.Context, c client.Client, obj T, name string, change func(client.Object, string) bool) error {
	changed := obj.DeepCopyObject().(T)
	if !change(changed, name) {
		return nil
	}
	patch := client.MergeFromWithOptions(obj.DeepCopyObject().(T), client.MergeFromWithOptimisticLock{})
	if err := c.Patch(ctx, changed, patch); err != nil {
		return fmt.Errorf("patching finalizers: %w", err)
	}
	obj.SetFinalizers(changed.GetFinalizers())
	obj.SetResourceVersion(changed.GetResourceVersion())
	return nil
}
