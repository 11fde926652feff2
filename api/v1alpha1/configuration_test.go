package v1alpha1_test

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"yunfan.io/yunfan/internal/testkit"
)

const tomcatConf = `
kind: Configuration
spec: {files: {server.xml: "<Server/>"}}
`

func TestConfigurationRules(t *testing.T) {
	many := &strings.Builder{}
	for i := range 101 {
		fmt.Fprintf(many, "f%d: x, ", i)
	}
	cases := map[string]struct {
		change  string
		refused string
	}{
		"plain":                  {"", ""},
		"name of 41":             {"metadata: {name: " + strings.Repeat("a", 41) + "}", "at most 40 characters"},
		"name with dots":         {"metadata: {name: a.b}", "a configuration's name has no dots"},
		"other type":             {"spec: {type: File}", "spec.type"},
		"SEC-09 secret in clear": {"spec: {type: Secret}", "values of a Secret never pass through an object that others may read"},
		"SEC-09 names only":      {"spec: {type: Secret, secretType: kubernetes.io/tls, stored: abc123, files: {server.xml: '', tls.crt: '', tls.key: ''}}", ""},
		"SEC-09 account token":   {"spec: {type: Secret, secretType: kubernetes.io/service-account-token, files: {server.xml: ''}}", "spec.secretType"},
		"SEC-09 type of a map":   {"spec: {secretType: Opaque}", "secretType and stored are for type Secret only"},
		"SEC-09 version":         {"spec: {type: Secret, stored: ../x, files: {server.xml: ''}}", "spec.stored"},
		"CFG-02 no files":        {"spec: {files: null}", "spec.files"},
		"CFG-02 empty":           {"spec: {files: {server.xml: null}}", "spec.files"},
		"CFG-02 101 files":       {"spec: {files: {" + many.String() + "}}", "spec.files"},
		"CFG-02 name of file":    {"spec: {files: {conf/server.xml: x}}", "a file's name consists of letters"},
		"CFG-02 folder":          {"spec: {files: {..: x}}", "does not begin with '..'"},
		"CFG-02 kubelet's":       {"spec: {files: {..data: x}}", "does not begin with '..'"},
		"CFG-02 several files":   {"spec: {files: {web.xml: x, JAVA_OPTS: z, .hidden: ''}}", ""},
		"CFG-04 publication":     {"spec: {publication: Some}", "spec.publication"},
		"CFG-04 selected":        {"spec: {publication: Selected, partitions: [a, b]}", ""},
		"CFG-04 twice":           {"spec: {publication: Selected, partitions: [a, a]}", "Duplicate value"},
	}
	namespace := testkit.Namespace(t, hub.Client)
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := hub.Client.Create(t.Context(), object(t, tomcatConf, "metadata: {namespace: "+namespace+"}", tc.change))
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestConfigurationDefaultsAndType(t *testing.T) {
	u := object(t, tomcatConf, "metadata: {namespace: "+testkit.Namespace(t, hub.Client)+"}")
	testkit.Create(t, hub.Client, u)
	expectField(t, u, "ConfigMap", "spec", "type")
	expectField(t, u, "All", "spec", "publication")
	if err := unstructured.SetNestedField(u.Object, "Secret", "spec", "type"); err != nil {
		t.Fatal(err)
	}
	expectRefused(t, hub.Client.Update(t.Context(), u), "type cannot be changed: make a new configuration")
}
