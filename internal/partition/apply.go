package partition

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"yunfan.io/yunfan/api/v1alpha1"
)

// apply applies an object as the platform and gives the essence of what the member has of it then.
func apply(ctx context.Context, c client.Client, o client.Object) (string, error) {
	kind, err := apiutil.GVKForObject(o, scheme.Scheme)
	if err != nil {
		return "", fmt.Errorf("finding the kind of %T: %w", o, err)
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return "", fmt.Errorf("converting %s %s: %w", kind.Kind, o.GetName(), err)
	}
	u := &unstructured.Unstructured{Object: content}
	u.SetGroupVersionKind(kind)
	unstructured.RemoveNestedField(u.Object, "status")
	unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
	send := func() error {
		return c.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(v1alpha1.FieldOwner), client.ForceOwnership)
	}
	err = send()
	if apierrors.IsInvalid(err) && strings.HasSuffix(kind.Kind, "RoleBinding") {
		// Its role cannot be changed: the binding is somebody else's work, or an earlier version's.
		if err = c.Delete(ctx, o.DeepCopyObject().(client.Object)); client.IgnoreNotFound(err) == nil {
			err = send()
		}
	}
	if err != nil {
		return "", fmt.Errorf("applying %s %s: %w", kind.Kind, o.GetName(), err)
	}
	return essence(u.Object)
}

// cachedEssence is the essence of what the member's cache has under the name of o; empty if there is nothing.
func cachedEssence(ctx context.Context, cache client.Reader, o client.Object) (string, error) {
	live := o.DeepCopyObject().(client.Object)
	if err := cache.Get(ctx, client.ObjectKeyFromObject(o), live); err != nil {
		return "", client.IgnoreNotFound(err)
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(live)
	if err != nil {
		return "", fmt.Errorf("converting %T: %w", o, err)
	}
	return essence(content)
}

// essence is all of an object that only somebody's decision changes: not its status, nor what the API server counts.
func essence(content map[string]any) (string, error) {
	metadata, _, _ := unstructured.NestedMap(content, "metadata")
	kept := map[string]any{"labels": metadata["labels"], "annotations": metadata["annotations"], "deleted": metadata["deletionTimestamp"]}
	for name, value := range content {
		switch name {
		case "apiVersion", "kind", "metadata", "status":
		default:
			kept[name] = value
		}
	}
	data, err := json.Marshal(kept)
	return string(data), err
}
