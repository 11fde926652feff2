package v1alpha1_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"yunfan.io/yunfan/internal/testkit"
)

const nodePort = `
kind: NodePort
spec:
  cluster: beijing
  port: 30001
  owner: {tenant: edu, application: score, partition: prod-bj, component: web, portName: http}
`

func TestNodePortRules(t *testing.T) {
	cases := map[string]struct {
		change  string
		refused string
	}{
		"plain":        {"", ""},
		"port 0":       {"spec: {port: 0}", "spec.port"},
		"port 65536":   {"spec: {port: 65536}", "spec.port"},
		"no cluster":   {"spec: {cluster: null}", "spec.cluster"},
		"no owner":     {"spec: {owner: null}", "spec.owner"},
		"no component": {"spec: {owner: {component: null}}", "spec.owner.component"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := hub.Client.Create(t.Context(), object(t, nodePort, tc.change))
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestNodePortIsNeverChanged(t *testing.T) {
	u := object(t, nodePort)
	testkit.Create(t, hub.Client, u)
	if err := unstructured.SetNestedField(u.Object, "shop", "spec", "owner", "application"); err != nil {
		t.Fatal(err)
	}
	expectRefused(t, hub.Client.Update(t.Context(), u), "a reservation is never changed")
}
