package v1alpha1_test

import (
	"strings"
	"testing"

	"yunfan.io/yunfan/internal/testkit"
)

const cluster = `
kind: Cluster
spec:
  connection: {kubeconfigSecretRef: {name: beijing-kubeconfig}}
`

func TestCLU01_ClusterRules(t *testing.T) {
	cases := map[string]struct {
		change  string
		refused string
	}{
		"plain":                 {"", ""},
		"with everything":       {"spec: {displayName: 北京, remarks: x, onRemoval: Delete, connection: {mode: Direct}}", ""},
		"dots in the name":      {"metadata: {name: bj.north}", ""},
		"no secret":             {"spec: {connection: {kubeconfigSecretRef: null}}", "mode Direct needs kubeconfigSecretRef"},
		"no connection":         {"spec: {connection: null}", "spec.connection"},
		"secret without name":   {"spec: {connection: {kubeconfigSecretRef: {name: ''}}}", "spec.connection.kubeconfigSecretRef.name"},
		"unknown mode":          {"spec: {connection: {mode: Carrier}}", "spec.connection.mode"},
		"unknown policy":        {"spec: {onRemoval: Maybe}", "spec.onRemoval"},
		"name of 40":            {"metadata: {name: " + strings.Repeat("a", 40) + "}", ""},
		"name of 41":            {"metadata: {name: " + strings.Repeat("a", 41) + "}", "at most 40 characters"},
		"long display name":     {"spec: {displayName: " + strings.Repeat("云", 101) + "}", "spec.displayName"},
		"display name of 100":   {"spec: {displayName: " + strings.Repeat("云", 100) + "}", ""},
		"remarks of 1001":       {"spec: {remarks: " + strings.Repeat("a", 1001) + "}", "spec.remarks"},
		"name of a long Secret": {"spec: {connection: {kubeconfigSecretRef: {name: " + strings.Repeat("a", 254) + "}}}", "kubeconfigSecretRef.name"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := hub.Client.Create(t.Context(), object(t, cluster, tc.change))
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestCLU01_ClusterDefaults(t *testing.T) {
	u := object(t, cluster)
	testkit.Create(t, hub.Client, u)
	expectField(t, u, "Direct", "spec", "connection", "mode")
	expectField(t, u, "Keep", "spec", "onRemoval")
}
