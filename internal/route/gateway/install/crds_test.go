package install

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the definitions anew from the modules")

// licences say where the definitions come from.
const (
	ofGatewayAPI = "# Definitions of the Gateway API (sigs.k8s.io/gateway-api, Copyright The Kubernetes Authors, Apache License 2.0), without\n" +
		"# descriptions. Made by: go test ./internal/route/gateway/install -run TestDefinitions -update\n"
	ofTraefik = "# Definitions of Traefik (github.com/traefik/traefik, Copyright Containous SAS and Traefik Labs, MIT License), without\n" +
		"# descriptions. Made by: go test ./internal/route/gateway/install -run TestDefinitions -update\n"
)

// TestDefinitions compares the definitions with those in the modules that Traefik is built with.
func TestDefinitions(t *testing.T) {
	gatewayAPI, traefik := module(t, "sigs.k8s.io/gateway-api"), module(t, "github.com/traefik/traefik/v3")
	if want := "traefik-" + traefik.Version; bundle != want {
		t.Errorf("the bundle is %s, but Traefik is built as %s", bundle, want)
	}
	if want := "registry.yunfan.internal/system/gateway:" + traefik.Version; defaultImage != want {
		t.Errorf("the image is %s, but Traefik is built as %s", defaultImage, want)
	}
	var standard []string
	for _, kind := range []string{"backendtlspolicies", "gatewayclasses", "gateways", "grpcroutes", "httproutes", "referencegrants", "tlsroutes"} {
		standard = append(standard, filepath.Join(gatewayAPI.Dir, "config/crd/standard/gateway.networking.k8s.io_"+kind+".yaml"))
	}
	for name, made := range map[string][]byte{
		"crds/gateway-api.yaml": made(t, ofGatewayAPI, standard...),
		"crds/traefik.yaml":     made(t, ofTraefik, filepath.Join(traefik.Dir, "docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml")),
	} {
		if *update {
			if err := os.WriteFile(name, made, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(have, made) {
			t.Errorf("%s is not what the module has: run this test with -update\n%s", name, cmp.Diff(string(have), string(made)))
		}
	}
}

// pinned is a module in the module cache.
type pinned struct{ Dir, Version string }

// module finds a module as Traefik is built with it, and fetches it if it is not there.
func module(t *testing.T, path string) pinned {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", path)
	cmd.Dir = "../../../../engine/traefik"
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("finding the module %s: %v", path, err)
	}
	var m pinned
	if err := json.Unmarshal(out, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// made puts definitions into one file, without descriptions.
func made(t *testing.T, heading string, files ...string) []byte {
	t.Helper()
	out := bytes.NewBufferString(heading)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all, err := parse(data)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			undescribed(o.Object)
			delete(o.Object, "status")
			text, err := yaml.Marshal(o.Object)
			if err != nil {
				t.Fatal(err)
			}
			out.WriteString("---\n")
			out.Write(text)
		}
	}
	return out.Bytes()
}

// undescribed takes the descriptions out of schemas: text, where a property of that name is an object.
func undescribed(in any) {
	switch in := in.(type) {
	case map[string]any:
		if _, text := in["description"].(string); text {
			delete(in, "description")
		}
		for _, child := range in {
			undescribed(child)
		}
	case []any:
		for _, child := range in {
			undescribed(child)
		}
	}
}
