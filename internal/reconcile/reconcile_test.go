package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

func TestRun(t *testing.T) {
	cases := map[string]struct {
		reason  string
		err     error
		result  ctrl.Result
		failure bool
		status  metav1.ConditionStatus
		why     string
	}{
		"Done":    {"all steps went well", nil, ctrl.Result{}, false, metav1.ConditionTrue, "Ready"},
		"Stalled": {"it is not tried again", reconcile.Stall("Invalid", "no"), ctrl.Result{}, false, metav1.ConditionFalse, "Invalid"},
		"Waiting": {"it is looked at later", reconcile.Wait("NotYet", time.Minute, "soon"), ctrl.Result{RequeueAfter: time.Minute}, false, metav1.ConditionFalse, "NotYet"},
		"Wrapped": {"a wrapped error keeps its kind", fmt.Errorf("placing: %w", reconcile.Stall("Invalid", "no")), ctrl.Result{}, false, metav1.ConditionFalse, "Invalid"},
		"Plain":   {"it is tried again with backoff", errors.New("broken"), ctrl.Result{}, true, metav1.ConditionFalse, "Failed"},
		"Remark":  {"it is done, with a word to people", reconcile.Remark("mind"), ctrl.Result{}, false, metav1.ConditionTrue, "Ready"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tenant := &v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: testkit.Name(t)}}
			testkit.Create(t, hub.Client, tenant)
			later := false
			result, err := reconcile.Run(t.Context(), hub.Client, tenant, v1alpha1.ConditionReady, v1alpha1.ReasonReady,
				func(context.Context, *v1alpha1.Tenant) error { return tc.err },
				func(context.Context, *v1alpha1.Tenant) error { later = true; return nil })
			if (err != nil) != tc.failure {
				t.Errorf("%s: got error %v", tc.reason, err)
			}
			if diff := cmp.Diff(tc.result, result); diff != "" {
				t.Errorf("%s: result: %s", tc.reason, diff)
			}
			if later != (tc.status == metav1.ConditionTrue) {
				t.Errorf("%s: the step after it ran: %v", tc.reason, later)
			}
			stored := &v1alpha1.Tenant{}
			if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(tenant), stored); err != nil {
				t.Fatal(err)
			}
			got := meta.FindStatusCondition(stored.Status.Conditions, v1alpha1.ConditionReady)
			if got == nil || got.Status != tc.status || got.Reason != tc.why || stored.Status.ObservedGeneration != 1 {
				t.Errorf("%s: stored status: %+v", tc.reason, stored.Status)
			}
		})
	}
}

func TestRunAfterConflict(t *testing.T) {
	tenant := &v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: testkit.Name(t)}}
	testkit.Create(t, hub.Client, tenant)
	conflict := apierrors.NewConflict(schema.GroupResource{}, "x", errors.New("changed"))
	result, err := reconcile.Run(t.Context(), hub.Client, tenant, v1alpha1.ConditionReady, v1alpha1.ReasonReady,
		func(context.Context, *v1alpha1.Tenant) error { return fmt.Errorf("writing: %w", conflict) })
	if err != nil || result.RequeueAfter == 0 || len(tenant.Status.Conditions) != 0 {
		t.Errorf("want a silent new try, got %v, %v, %v", result, err, tenant.Status.Conditions)
	}
}

func TestRunWritesNothingWithoutChange(t *testing.T) {
	tenant := &v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: testkit.Name(t)}}
	testkit.Create(t, hub.Client, tenant)
	versions := map[string]bool{}
	for range 3 {
		if _, err := reconcile.Run(t.Context(), hub.Client, tenant, v1alpha1.ConditionReady, v1alpha1.ReasonReady); err != nil {
			t.Fatal(err)
		}
		versions[tenant.ResourceVersion] = true
	}
	if len(versions) != 1 {
		t.Errorf("three runs with the same outcome made %d versions, want 1", len(versions))
	}
}

func TestFinalizers(t *testing.T) {
	tenant := &v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: testkit.Name(t)}}
	testkit.Create(t, hub.Client, tenant)
	stale := tenant.DeepCopy()
	if err := reconcile.AddFinalizer(t.Context(), hub.Client, tenant, "yunfan.io/test"); err != nil {
		t.Fatal(err)
	}
	if err := reconcile.AddFinalizer(t.Context(), hub.Client, stale, "yunfan.io/test"); !apierrors.IsConflict(err) {
		t.Errorf("a stale object: want a conflict, got %v", err)
	}
	if err := hub.Client.Delete(t.Context(), tenant); err != nil {
		t.Fatal(err)
	}
	if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(tenant), tenant); err != nil {
		t.Fatalf("the finalizer should hold it: %v", err)
	}
	for range 2 {
		again := tenant.DeepCopy()
		if err := reconcile.RemoveFinalizer(t.Context(), hub.Client, again, "yunfan.io/test"); err != nil {
			t.Errorf("removing: %v", err)
		}
	}
}

func TestSetConditionCutsMessages(t *testing.T) {
	tenant := &v1alpha1.Tenant{}
	reconcile.SetCondition(tenant, v1alpha1.ConditionReady, metav1.ConditionFalse, "Failed", strings.Repeat("云", 2000))
	message := tenant.Status.Conditions[0].Message
	if len(message) > 2051 || strings.ContainsRune(message, '\uFFFD') {
		t.Errorf("message of %d bytes, cut within a character: %v", len(message), strings.ContainsRune(message, '\uFFFD'))
	}
}
