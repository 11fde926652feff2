package v1alpha1_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"yunfan.io/yunfan/internal/testkit"
)

const partition = `
kind: Partition
metadata: {namespace: default}
spec: {cluster: beijing}
`

func TestRES01_PartitionRules(t *testing.T) {
	reserved := "belong to the system"
	cases := map[string]struct {
		change  string
		refused string
	}{
		"plain": {"", ""},
		"with everything": {`spec: {namespace: edu-prod, environment: Production, nodes: {selector: {pool: edu}, exclusive: true},
			quota: {pods: "50"}, limits: [{type: Container, default: {cpu: 300m}}], isolation: {ingress: None, egress: Partition},
			podSecurity: Restricted, deletionPolicy: Delete}`, ""},
		"no cluster":             {"spec: {cluster: null}", "spec.cluster"},
		"empty cluster":          {"spec: {cluster: ''}", "spec.cluster"},
		"long cluster":           {"spec: {cluster: " + strings.Repeat("a", 41) + "}", "spec.cluster"},
		"namespace default":      {"spec: {namespace: default}", reserved},
		"namespace kube-":        {"spec: {namespace: kube-public}", reserved},
		"namespace yunfan":       {"spec: {namespace: yunfan-x}", reserved},
		"namespace with capital": {"spec: {namespace: Edu}", "spec.namespace"},
		"long namespace":         {"spec: {namespace: " + strings.Repeat("a", 64) + "}", "spec.namespace"},
		"unknown environment":    {"spec: {environment: Moon}", "spec.environment"},
		"exclusive without pool": {"spec: {nodes: {exclusive: true}}", "exclusive needs a selector"},
		"exclusive, empty pool":  {"spec: {nodes: {exclusive: true, selector: {}}}", "exclusive needs a selector"},
		"shared without pool":    {"spec: {nodes: {exclusive: false}}", ""},
		"eleven labels": {"spec: {nodes: {selector: {a: a, b: b, c: c, d: d, e: e, f: f, g: g, h: h, i: i, j: j, k: k}}}",
			"spec.nodes.selector"},
		"unknown isolation":    {"spec: {isolation: {ingress: Some}}", "spec.isolation.ingress"},
		"unknown egress":       {"spec: {isolation: {egress: Some}}", "spec.isolation.egress"},
		"unknown level":        {"spec: {podSecurity: Lax}", "spec.podSecurity"},
		"unknown policy":       {"spec: {deletionPolicy: Maybe}", "spec.deletionPolicy"},
		"eleven limits":        {"spec: {limits: [" + strings.Repeat("{type: Pod},", 11) + "]}", "spec.limits"},
		"dots in the name":     {"metadata: {name: prod.bj}", "has no dots"},
		"name of 40":           {"metadata: {name: " + strings.Repeat("a", 40) + "}", ""},
		"name of 41":           {"metadata: {name: " + strings.Repeat("a", 41) + "}", "at most 40 characters"},
		"quota is no quantity": {"spec: {quota: {pods: many}}", "spec.quota"},
		"part of another":      {"spec: {parent: prod}", ""},
		"part of itself":       {"{metadata: {name: prod}, spec: {parent: prod}}", "not a part of itself"},
		"part of nothing":      {"spec: {parent: ''}", "spec.parent"},
		"part that adopts":     {"spec: {parent: prod, namespace: edu-x, adopt: true}", "leave adopt out"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := hub.Client.Create(t.Context(), object(t, partition, tc.change))
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestRES01_PartitionDefaults(t *testing.T) {
	u := object(t, partition, "spec: {isolation: {}}")
	testkit.Create(t, hub.Client, u)
	expectField(t, u, "Baseline", "spec", "podSecurity")
	expectField(t, u, "Refuse", "spec", "deletionPolicy")
	expectField(t, u, "Tenant", "spec", "isolation", "ingress")
	expectField(t, u, "All", "spec", "isolation", "egress")
	expectField(t, u, nil, "spec", "namespace")
}

func TestRES01_PartitionStaysWhereItIs(t *testing.T) {
	cases := map[string]struct {
		before  string
		field   string
		to      string
		refused string
	}{
		"cluster":           {"", "cluster", "shanghai", "cluster cannot be changed"},
		"namespace":         {"spec: {namespace: edu-a}", "namespace", "edu-b", "namespace cannot be changed"},
		"namespace added":   {"", "namespace", "edu-b", "namespace cannot be changed"},
		"namespace removed": {"spec: {namespace: edu-a}", "namespace", "", "namespace cannot be changed"},
		"parent":            {"spec: {parent: prod}", "parent", "test", "parent cannot be changed"},
		"parent added":      {"", "parent", "prod", "parent cannot be changed"},
		"parent removed":    {"spec: {parent: prod}", "parent", "", "parent cannot be changed"},
		"environment":       {"", "environment", "Test", ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			u := object(t, partition, tc.before)
			testkit.Create(t, hub.Client, u)
			if tc.to == "" {
				unstructured.RemoveNestedField(u.Object, "spec", tc.field)
			} else if err := unstructured.SetNestedField(u.Object, tc.to, "spec", tc.field); err != nil {
				t.Fatal(err)
			}
			err := hub.Client.Update(t.Context(), u)
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}
