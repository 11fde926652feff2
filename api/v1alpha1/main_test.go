package v1alpha1_test

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

// object reads manifests, each laid over those before it: maps are merged, null takes a field away, all else replaces.
func object(t *testing.T, manifests ...string) *unstructured.Unstructured {
	t.Helper()
	merged := map[string]any{}
	for _, manifest := range manifests {
		var over map[string]any
		if err := yaml.Unmarshal([]byte(manifest), &over); err != nil {
			t.Fatalf("reading %s: %v", manifest, err)
		}
		merge(merged, over)
	}
	u := &unstructured.Unstructured{Object: merged}
	u.SetAPIVersion("yunfan.io/v1alpha1")
	if u.GetName() == "" {
		u.SetName(testkit.Name(t))
	}
	return u
}

func merge(into, over map[string]any) {
	for key, value := range over {
		inner, isMap := value.(map[string]any)
		below, hasMap := into[key].(map[string]any)
		switch {
		case value == nil:
			delete(into, key)
		case isMap && hasMap:
			merge(below, inner)
		default:
			into[key] = value
		}
	}
}

// expectRefused checks that the API server refuses an error's object as invalid, with the words.
func expectRefused(t *testing.T, err error, words string) {
	t.Helper()
	if !apierrors.IsInvalid(err) {
		t.Errorf("want it refused as invalid, got: %v", err)
	} else if !strings.Contains(err.Error(), words) {
		t.Errorf("the message does not say %q: %v", words, err)
	}
}

// expectField checks one field of an object as the API server stored it; nil means that it is not there.
func expectField(t *testing.T, u *unstructured.Unstructured, want any, path ...string) {
	t.Helper()
	got, found, err := unstructured.NestedFieldNoCopy(u.Object, path...)
	if err != nil || found != (want != nil) || (found && got != want) {
		t.Errorf("%s is %v (%v), want %v", strings.Join(path, "."), got, err, want)
	}
}
