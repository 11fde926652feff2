package instance

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/internal/cli"
)

func topologyOf(t *testing.T, i *Instance) map[string]any {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(i.DataDir, "engine.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var topology map[string]any
	if err := yaml.Unmarshal(text, &topology); err != nil {
		t.Fatal(err)
	}
	return topology
}

func TestWriteTopology(t *testing.T) {
	t.Run("New", func(t *testing.T) {
		i := &Instance{DataDir: filepath.Join(t.TempDir(), "data"), Name: "mine"}
		if err := i.writeTopology(); err != nil {
			t.Fatal(err)
		}
		topology := topologyOf(t, i)
		if topology["name"] != "mine" || len(topology["clusters"].([]any)) != 3 || len(topology["services"].([]any)) != 2 {
			t.Errorf("got %v", topology)
		}
	})
	t.Run("UsersChangesStay", func(t *testing.T) {
		i := &Instance{DataDir: t.TempDir()}
		mine := "name: other\nclusters: [{name: hub, nodes: 0}, {name: far, nodes: 3}]\nservices:\n" +
			"- {name: server, command: [/old/yunfan]}\n- {name: mine, command: [sleep]}\n"
		if err := os.WriteFile(filepath.Join(i.DataDir, "engine.yaml"), []byte(mine), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 { // a second time changes nothing more
			if err := i.writeTopology(); err != nil {
				t.Fatal(err)
			}
		}
		topology := topologyOf(t, i)
		var names []string
		for _, service := range topology["services"].([]any) {
			names = append(names, service.(map[string]any)["name"].(string))
			if command := service.(map[string]any)["command"].([]any); command[0] == "/old/yunfan" {
				t.Error("the command of a program that moved must be brought up to date")
			}
		}
		if diff := cmp.Diff([]string{"server", "mine", "registry"}, names); diff != "" {
			t.Errorf("services: -want +got:\n%s", diff)
		}
		if len(topology["clusters"].([]any)) != 2 || topology["name"] != "other" {
			t.Errorf("what the user wrote must stay, got %v", topology)
		}
	})
	t.Run("Edge", func(t *testing.T) {
		missing := error(nil)
		i := &Instance{DataDir: t.TempDir(), Edge: func() error { return missing }}
		for _, test := range []struct {
			reason error
			want   int
		}{{nil, 3}, {errors.New("install haproxy"), 2}} {
			missing = test.reason
			if err := i.writeTopology(); err != nil {
				t.Fatal(err)
			}
			if got := len(topologyOf(t, i)["services"].([]any)); got != test.want {
				t.Errorf("%d services where this is missing: %v", got, test.reason)
			}
		}
		if text := i.tryEdge(t.Context(), nil, "192.0.2.1"); !strings.Contains(text, "install haproxy") {
			t.Errorf("up says %q", text)
		}
	})
	t.Run("Broken", func(t *testing.T) {
		i := &Instance{DataDir: t.TempDir()}
		if err := os.WriteFile(filepath.Join(i.DataDir, "engine.yaml"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := i.writeTopology(); err == nil || !strings.Contains(err.Error(), "engine.yaml") {
			t.Errorf("got %v, want an error that names the file", err)
		}
	})
}

func TestMembers(t *testing.T) {
	status := &Status{Clusters: []Cluster{{Name: "hub"}, {Name: "beijing"}, {Name: "shanghai"}}}
	if members := status.Members(); len(members) != 2 || members[0].Name != "beijing" {
		t.Errorf("the hub is no member: got %v", members)
	}
}

func TestExplain(t *testing.T) {
	out := &bytes.Buffer{}
	(&Instance{DataDir: "/tmp/x"}).explain(out, map[string]string{"prod-sh": "http://b:30002/", "prod-bj": "http://a:30001/"})
	bj, sh := strings.Index(out.String(), "http://a:30001/"), strings.Index(out.String(), "http://b:30002/")
	if bj < 0 || sh < bj || !strings.Contains(out.String(), "--data-dir /tmp/x") {
		t.Errorf("got\n%s", out)
	}
	if flag := (&Instance{DataDir: cli.DefaultDataDir}).dataDirFlag(); flag != "" {
		t.Errorf("the default instance needs no flag, got %q", flag)
	}
}
