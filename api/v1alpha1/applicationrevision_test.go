package v1alpha1_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"yunfan.io/yunfan/internal/testkit"
)

const revision = `
kind: ApplicationRevision
spec:
  application: score
  number: 1
  version: v1
  components: [{name: web, workload: Deployment, template: {spec: {containers: [{name: web, image: i, resources: {requests: {cpu: 100m}}}]}}}]
  overrides: [{partition: prod-sh, overrides: [{component: web, images: {web: j}}]}]
  configurations: [{name: tomcat-conf, type: ConfigMap, version: abc}]
`

func TestRevisionRules(t *testing.T) {
	cases := map[string]struct {
		change  string
		refused string
	}{
		"plain":                   {"", ""},
		"no application":          {"spec: {application: ''}", "spec.application"},
		"number 0":                {"spec: {number: 0}", "spec.number"},
		"pin of another type":     {"spec: {configurations: [{name: c, type: File, version: abc}]}", "spec.configurations[0].type"},
		"pin without version":     {"spec: {configurations: [{name: c, type: Secret}]}", "spec.configurations[0].version"},
		"one configuration twice": {"spec: {configurations: [{name: c, type: Secret, version: a}, {name: c, type: Secret, version: b}]}", "Duplicate value"},
	}
	namespace := testkit.Namespace(t, hub.Client)
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := hub.Client.Create(t.Context(), object(t, revision, "metadata: {namespace: "+namespace+"}", tc.change))
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestTPL02_RevisionsAreNeverChangedAndKeptWhole(t *testing.T) {
	u := object(t, revision, "metadata: {namespace: "+testkit.Namespace(t, hub.Client)+"}")
	testkit.Create(t, hub.Client, u)
	components, _, err := unstructured.NestedSlice(u.Object, "spec", "components")
	if err != nil {
		t.Fatal(err)
	}
	containers, _, _ := unstructured.NestedSlice(components[0].(map[string]any), "template", "spec", "containers")
	expectField(t, &unstructured.Unstructured{Object: containers[0].(map[string]any)}, "100m", "resources", "requests", "cpu")
	overrides, _, _ := unstructured.NestedSlice(u.Object, "spec", "overrides")
	expectField(t, &unstructured.Unstructured{Object: overrides[0].(map[string]any)}, "prod-sh", "partition")

	for field, value := range map[string]any{"version": "v2", "number": int64(2), "components": []any{map[string]any{"name": "other"}}} {
		changed := u.DeepCopy()
		if err := unstructured.SetNestedField(changed.Object, value, "spec", field); err != nil {
			t.Fatal(err)
		}
		expectRefused(t, hub.Client.Update(t.Context(), changed), "a revision is never changed")
	}
	u.SetLabels(map[string]string{"a": "b"})
	if err := hub.Client.Update(t.Context(), u); err != nil {
		t.Errorf("its metadata may be: %v", err)
	}
}
