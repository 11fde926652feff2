package delivery

import (
	"context"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/csaupgrade"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// applyOver applies a target over the object that is there. Server-side apply sets the fields of the manifest, but what
// somebody has added, such as a container or a port, stays, for it is theirs. So their fields are made ours first: what
// the manifest does not have then goes.
func applyOver(ctx context.Context, c client.Client, t *target) (*unstructured.Unstructured, error) {
	answer := t.object.DeepCopy()
	err := serverSideApply(ctx, c, answer, true)
	state := answer
	if err != nil {
		if refusalOf(t, err) == nil {
			return nil, err
		}
		// What somebody has added may be what the member objects to.
		state = &unstructured.Unstructured{}
		state.SetGroupVersionKind(gvkOfEntry(t.entry))
		if gerr := c.Get(ctx, client.ObjectKey{Namespace: t.key.Namespace, Name: t.key.Name}, state); gerr != nil {
			return nil, err
		}
	}
	editors := editorsOf(state)
	if len(editors) == 0 {
		return answer, err
	}
	patch, perr := csaupgrade.UpgradeManagedFieldsPatch(state, editors, v1alpha1.FieldOwner)
	if perr != nil {
		return nil, fmt.Errorf("taking over fields of %s %s: %w", t.entry.Kind, t.entry.Name, perr)
	}
	if perr := c.Patch(ctx, state, client.RawPatch(types.JSONPatchType, patch)); perr != nil {
		return nil, fmt.Errorf("taking over fields of %s %s: %w", t.entry.Kind, t.entry.Name, perr)
	}
	answer = t.object.DeepCopy()
	return answer, serverSideApply(ctx, c, answer, true)
}

// editorsOf names those who have changed more than metadata and status of an object, and not through a sub-resource, as
// autoscalers do.
func editorsOf(o *unstructured.Unstructured) sets.Set[string] {
	accessor, err := meta.Accessor(o)
	if err != nil {
		return nil
	}
	editors := sets.New[string]()
	for _, entry := range accessor.GetManagedFields() {
		if entry.Operation != metav1.ManagedFieldsOperationUpdate || entry.Subresource != "" || entry.FieldsV1 == nil {
			continue
		}
		fields := map[string]json.RawMessage{}
		if err := json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields); err != nil {
			continue
		}
		delete(fields, "f:metadata")
		delete(fields, "f:status")
		if len(fields) > 0 {
			editors.Insert(entry.Manager)
		}
	}
	return editors
}
