package delivery

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// none stands for a field that is not there.
const none = "(none)"

// diff shows the fields that differ in two states of an object, without what the API server counts
// and stamps and without the values of Secrets.
func diff(before, after *unstructured.Unstructured) []string {
	was, is := fieldsOf(before), fieldsOf(after)
	for path := range was {
		if _, ok := is[path]; !ok {
			is[path] = none
		}
	}
	var out []string
	for _, path := range slices.Sorted(maps.Keys(is)) {
		old, ok := was[path]
		if !ok {
			old = none
		}
		if old != is[path] {
			out = append(out, fmt.Sprintf("%s: %s → %s", strings.TrimPrefix(path, "."), old, is[path]))
		}
	}
	return out
}

func fieldsOf(o *unstructured.Unstructured) map[string]string {
	o = o.DeepCopy()
	for _, field := range []string{"managedFields", "resourceVersion", "generation", "creationTimestamp", "uid"} {
		unstructured.RemoveNestedField(o.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(o.Object, "status")
	if o.GetKind() == "Secret" {
		unstructured.RemoveNestedField(o.Object, "data")
	}
	out := map[string]string{}
	collect("", o.Object, out)
	return out
}

// collect puts the leaves of a tree into out, by their paths. Items of lists go by their name where they have one, so
// that an item put in before others does not make all of them differ.
func collect(path string, node any, out map[string]string) {
	switch node := node.(type) {
	case map[string]any:
		for key, value := range node {
			collect(path+"."+key, value, out)
		}
	case []any:
		for i, item := range node {
			key := fmt.Sprint(i)
			if fields, ok := item.(map[string]any); ok && fields["name"] != nil {
				key = fmt.Sprint(fields["name"])
			}
			collect(path+"["+key+"]", item, out)
		}
	default:
		text, err := json.Marshal(node)
		if err != nil {
			text = []byte(err.Error())
		}
		out[path] = string(text)
	}
}
