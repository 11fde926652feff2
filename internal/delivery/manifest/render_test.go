package manifest_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/delivery/manifest"
)

var update = flag.Bool("update", false, "write what is rendered as what is wanted")

// input is the file testdata/<case>/input.yaml.
type input struct {
	Partition  v1alpha1.Partition           `json:"partition"`
	Revision   v1alpha1.ApplicationRevision `json:"revision"`
	Track      v1alpha1.Track               `json:"track"`
	Stopped    bool                         `json:"stopped"`
	ConfigMaps map[string]*corev1.ConfigMap `json:"configMaps"`
	Secrets    map[string]*corev1.Secret    `json:"secrets"`
}

// TestRender compares, for every folder of testdata, what is rendered with output.yaml; -update writes it. The folders'
// names begin with the requirement that they show.
func TestRender(t *testing.T) {
	cases, err := filepath.Glob("testdata/*/input.yaml")
	if err != nil || len(cases) == 0 {
		t.Fatalf("finding cases: %v", err)
	}
	for _, file := range cases {
		t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
			got := render(t, read(t, file))
			golden := filepath.Join(filepath.Dir(file), "output.yaml")
			if *update {
				if err := os.WriteFile(golden, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("rendered objects differ (-want +got):\n%s", diff)
			}
		})
	}
}

func read(t *testing.T, file string) manifest.Input {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var in input
	if err := yaml.UnmarshalStrict(text, &in); err != nil {
		t.Fatalf("reading %s: %v", file, err)
	}
	configurations := map[string]client.Object{}
	for name, o := range in.ConfigMaps {
		configurations[name] = o
	}
	for name, o := range in.Secrets {
		configurations[name] = o
	}
	return manifest.Input{
		Partition: &in.Partition, Revision: &in.Revision, Track: in.Track, Stopped: in.Stopped, Configurations: configurations,
	}
}

func render(t *testing.T, in manifest.Input) []byte {
	t.Helper()
	revision := in.Revision.DeepCopy()
	manifests, err := manifest.Render(in)
	if err != nil {
		t.Fatalf("rendering: %v", err)
	}
	if diff := cmp.Diff(revision, in.Revision); diff != "" {
		t.Errorf("rendering changed its input:\n%s", diff)
	}
	var out bytes.Buffer
	for _, o := range manifests.All() {
		u, err := manifest.Unstructured(o)
		if err != nil {
			t.Fatal(err)
		}
		text, err := yaml.Marshal(u.Object)
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString("---\n")
		out.Write(text)
	}
	return out.Bytes()
}

func TestRenderRefuses(t *testing.T) {
	cases := map[string]struct {
		reason string
		file   string
		change func(*manifest.Input)
		want   string
	}{
		"SameName": {
			reason: "two objects of one name would overwrite each other",
			file:   "TPL-03-statefulset",
			change: func(in *manifest.Input) {
				component := in.Revision.Spec.Components[0].DeepCopy()
				component.Name, component.Workload = "db-service-pods", v1alpha1.WorkloadDeployment
				component.Service = &v1alpha1.Service{Ports: []v1alpha1.ServicePort{{Name: "sql", Port: 3306}}}
				in.Revision.Spec.Components = append(in.Revision.Spec.Components, *component)
			},
			want: "components db-service and db-service-pods would both make the Service db-service-pods",
		},
		"ConfigurationGone": {
			reason: "pods must not start without a configuration they ask for",
			file:   "TPL-06-configurations",
			change: func(in *manifest.Input) { delete(in.Configurations, "tomcat-conf") },
			want:   "version 5d41402a of configuration tomcat-conf is not on the hub",
		},
		"NotPinned": {
			reason: "a revision that uses a configuration pins its version",
			file:   "TPL-06-configurations",
			change: func(in *manifest.Input) { in.Revision.Spec.Configurations = nil },
			want:   "component score-record: the revision pins no version of configuration tomcat-conf",
		},
		"NamedTargetPort": {
			reason: "an External component has no pods that could give a port a name",
			file:   "RES-11-external",
			change: func(in *manifest.Input) {
				in.Revision.Spec.Components[0].Service.Ports[0].TargetPort.Type = 1
			},
			want: "must be a number",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			in := read(t, filepath.Join("testdata", tc.file, "input.yaml"))
			tc.change(&in)
			_, err := manifest.Render(in)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: got error %v, want one with %q", tc.reason, err, tc.want)
			}
		})
	}
}

// TestHash proves that the order of a map changes nothing and a value does.
func TestHash(t *testing.T) {
	in := read(t, "testdata/TPL-03-deployment/input.yaml")
	first := hashes(t, in)
	if again := hashes(t, in); cmp.Diff(first, again) != "" {
		t.Errorf("the same manifests have different hashes: %v and %v", first, again)
	}
	in.Track.Replicas["web"]++
	if other := hashes(t, in); cmp.Diff(first, other) == "" {
		t.Error("other manifests have the same hashes")
	}
}

func hashes(t *testing.T, in manifest.Input) []string {
	t.Helper()
	manifests, err := manifest.Render(in)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, o := range manifests.All() {
		u, err := manifest.Unstructured(o)
		if err != nil {
			t.Fatal(err)
		}
		h, err := manifest.Hash(u)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h)
	}
	return out
}
