package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Unstructured gives an object as it is applied: with the fields that the manifest has an opinion on, and no others.
// Empty structs of Go types would otherwise claim fields that belong to somebody else.
func Unstructured(o client.Object) (*unstructured.Unstructured, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, fmt.Errorf("converting %s %s: %w", o.GetObjectKind().GroupVersionKind().Kind, o.GetName(), err)
	}
	delete(content, "status")
	dropEmpty(content)
	return &unstructured.Unstructured{Object: content}, nil
}

// meaningless are the fields of Go types that are written even when empty. An emptyDir, for example, is not: there the
// empty struct has a meaning.
var meaningless = map[string]bool{"resources": true, "strategy": true, "updateStrategy": true, "status": true, "metadata": true, "conditions": true}

func dropEmpty(node any) {
	switch node := node.(type) {
	case []any:
		for _, item := range node {
			dropEmpty(item)
		}
	case map[string]any:
		for key, value := range node {
			dropEmpty(value)
			child, isMap := value.(map[string]any)
			if value == nil || isMap && len(child) == 0 && meaningless[key] {
				delete(node, key)
			}
		}
	}
}

// Hash of an object as it is applied: the same for the same manifest.
func Hash(o *unstructured.Unstructured) (string, error) {
	text, err := json.Marshal(o.Object)
	if err != nil {
		return "", fmt.Errorf("hashing %s %s: %w", o.GetKind(), o.GetName(), err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}
