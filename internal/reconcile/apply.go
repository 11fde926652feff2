package reconcile

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Apply brings an object to an API server as the platform, by server-side apply, and gives what the server has of it
// then. A binding whose role somebody has changed is made anew: its role cannot be changed back.
func Apply(ctx context.Context, c client.Client, o client.Object) (map[string]any, error) {
	kind, err := apiutil.GVKForObject(o, c.Scheme())
	if err != nil {
		return nil, fmt.Errorf("finding the kind of %T: %w", o, err)
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, fmt.Errorf("converting %s %s: %w", kind.Kind, o.GetName(), err)
	}
	wanted := &unstructured.Unstructured{Object: content}
	wanted.SetGroupVersionKind(kind)
	unstructured.RemoveNestedField(wanted.Object, "status")
	unstructured.RemoveNestedField(wanted.Object, "metadata", "creationTimestamp")
	var applied *unstructured.Unstructured
	send := func() error {
		applied = wanted.DeepCopy()
		return c.Apply(ctx, client.ApplyConfigurationFromUnstructured(applied), client.FieldOwner(v1alpha1.FieldOwner), client.ForceOwnership)
	}
	err = send()
	if apierrors.IsInvalid(err) && strings.HasSuffix(kind.Kind, "RoleBinding") {
		if err = c.Delete(ctx, wanted.DeepCopy()); client.IgnoreNotFound(err) == nil {
			err = send()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("applying %s %s: %w", kind.Kind, o.GetName(), err)
	}
	return applied.Object, nil
}
