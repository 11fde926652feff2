package v1alpha1_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"yunfan.io/yunfan/internal/testkit"
)

const delivery = `
kind: Delivery
spec:
  application: score
  partition: prod-bj
  cluster: beijing
  tracks: [{role: Stable, revision: score-7f9c, replicas: {web: 7}}]
`

func TestDeliveryRules(t *testing.T) {
	cases := map[string]struct {
		change  string
		refused string
	}{
		"plain":              {"", ""},
		"two tracks":         {"spec: {tracks: [{role: Stable, revision: a}, {role: Candidate, revision: b}]}", ""},
		"no track":           {"spec: {tracks: []}", "spec.tracks"},
		"one role twice":     {"spec: {tracks: [{role: Stable, revision: a}, {role: Stable, revision: b}]}", "Duplicate value"},
		"three tracks":       {"spec: {tracks: [{role: Stable, revision: a}, {role: Candidate, revision: b}, {role: Third, revision: c}]}", "spec.tracks"},
		"unknown role":       {"spec: {tracks: [{role: Canary, revision: a}]}", "spec.tracks[0].role"},
		"track of nothing":   {"spec: {tracks: [{role: Stable}]}", "spec.tracks[0].revision"},
		"no application":     {"spec: {application: null}", "spec.application"},
		"no partition":       {"spec: {partition: null}", "spec.partition"},
		"no cluster":         {"spec: {cluster: null}", "spec.cluster"},
		"stopped is a value": {"spec: {stopped: maybe}", "spec.stopped"},
	}
	namespace := testkit.Namespace(t, hub.Client)
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := hub.Client.Create(t.Context(), object(t, delivery, "metadata: {namespace: "+namespace+"}", tc.change))
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestDeliveryStaysWhereItIs(t *testing.T) {
	u := object(t, delivery, "metadata: {namespace: "+testkit.Namespace(t, hub.Client)+"}")
	testkit.Create(t, hub.Client, u)
	for _, field := range []string{"application", "partition", "cluster"} {
		changed := u.DeepCopy()
		if err := unstructured.SetNestedField(changed.Object, "other", "spec", field); err != nil {
			t.Fatal(err)
		}
		expectRefused(t, hub.Client.Update(t.Context(), changed), field+" cannot be changed")
	}
	if err := unstructured.SetNestedField(u.Object, true, "spec", "stopped"); err != nil {
		t.Fatal(err)
	}
	if err := hub.Client.Update(t.Context(), u); err != nil {
		t.Errorf("stopping was refused: %v", err)
	}
}
