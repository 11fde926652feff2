package v1alpha1_test

import (
	"strings"
	"testing"
)

const tenant = `
kind: Tenant
spec: {displayName: 教务, quota: {requests.cpu: "8", requests.memory: 16Gi}}
`

func TestRES01_TenantRules(t *testing.T) {
	reserved := "belong to the system"
	cases := map[string]struct {
		change  string
		refused string
	}{
		"plain":             {"", ""},
		"without spec":      {"spec: null", ""},
		"default":           {"metadata: {name: default}", reserved},
		"kube-":             {"metadata: {name: kube-system}", reserved},
		"yunfan":            {"metadata: {name: yunfan}", reserved},
		"yunfan-":           {"metadata: {name: yunfan-system}", reserved},
		"contains kube-":    {"metadata: {name: my-kube-team}", ""},
		"dots":              {"metadata: {name: edu.cn}", "has no dots"},
		"name of 40":        {"metadata: {name: " + strings.Repeat("a", 40) + "}", ""},
		"name of 41":        {"metadata: {name: " + strings.Repeat("a", 41) + "}", "at most 40 characters"},
		"long display name": {"spec: {displayName: " + strings.Repeat("云", 101) + "}", "spec.displayName"},
		"no quantity":       {"spec: {quota: {requests.cpu: much}}", "spec.quota"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := hub.Client.Create(t.Context(), object(t, tenant, tc.change))
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}
