package partition

import (
	"context"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/internal/reconcile"
)

// apply applies an object as the platform and gives the essence of what the member has of it then.
func apply(ctx context.Context, c client.Client, o client.Object) (string, error) {
	applied, err := reconcile.Apply(ctx, c, o)
	if err != nil {
		return "", err
	}
	return essence(applied)
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
