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

	Beside        *manifest.Beside                `json:"beside"`
	RollingUpdate *v1alpha1.RollingUpdateStrategy `json:"rollingUpdate"`
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
		Beside: in.Beside, RollingUpdate: in.RollingUpdate,
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
		"TwoTracksOneName": {
			reason: "the candidate's web would overwrite a component that has just that name",
			file:   "REL-05-candidate",
			change: func(in *manifest.Input) {
				component := in.Revision.Spec.Components[0].DeepCopy()
				component.Name = "web-1b44e0c9"
				in.Revision.Spec.Components = append(in.Revision.Spec.Components, *component)
			},
			want: "components web and web-1b44e0c9 would both make the Service web-1b44e0c9",
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

// TestPromotion proves that what a candidate has is the same object by object once it is the stable track: nothing restarts,
// and nothing of it goes.
func TestPromotion(t *testing.T) {
	candidate := read(t, "testdata/REL-05-candidate/input.yaml")
	promoted := candidate
	promoted.Beside, promoted.Track.Role = nil, v1alpha1.TrackStable
	before, after := objects(t, candidate), objects(t, promoted)
	for name, hash := range before {
		if name != "Service db-service-1b44e0c9" && after[name] != hash {
			t.Errorf("%s is another after the promotion", name)
		}
	}
	for _, name := range []string{"Deployment web-1b44e0c9", "Service web-1b44e0c9", "ReplicationController api-1b44e0c9"} {
		if before[name] == "" {
			t.Errorf("the candidate has no %s", name)
		}
	}
	for _, name := range []string{"StatefulSet db-service", "DaemonSet agent", "Job migrate-1b44e0c9", "Service web"} {
		if before[name] != "" || after[name] == "" {
			t.Errorf("%s belongs to the stable track, but the candidate has it: %v, the promoted one: %v", name, before[name] != "", after[name] != "")
		}
	}
}

// TestInPlace proves that a change in place keeps the names of a track with a suffix, and touches no pods of what is the same.
func TestInPlace(t *testing.T) {
	in := read(t, "testdata/REL-04-stable-with-suffix/input.yaml")
	next := in
	next.Revision = in.Revision.DeepCopy()
	next.Revision.Name = "score-0123456789"
	next.Revision.Spec.Components[0].Template.Spec.Containers[0].Image = "web:v3"
	template := func(in manifest.Input, component int) string {
		m, err := manifest.Render(in)
		if err != nil {
			t.Fatal(err)
		}
		u, err := manifest.Unstructured(m.Components[component].Workload)
		if err != nil {
			t.Fatal(err)
		}
		text, err := yaml.Marshal(u.Object["spec"])
		if err != nil {
			t.Fatal(err)
		}
		return u.GetName() + "\n" + string(text)
	}
	if template(in, 0) == template(next, 0) {
		t.Error("the component that has changed is the same")
	}
	if diff := cmp.Diff(template(in, 1), template(next, 1)); diff != "" {
		t.Errorf("a component that has not changed is another: %s", diff)
	}
	before, after := objects(t, in), objects(t, next)
	if len(before) != len(after) {
		t.Errorf("other objects: %v, were %v", after, before)
	}
	for name := range before {
		if after[name] == "" && !strings.HasPrefix(name, "Job ") { // each revision has its own
			t.Errorf("%s is gone", name)
		}
	}
}

func objects(t *testing.T, in manifest.Input) map[string]string {
	t.Helper()
	m, err := manifest.Render(in)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, o := range m.All() {
		u, err := manifest.Unstructured(o)
		if err != nil {
			t.Fatal(err)
		}
		if out[u.GetKind()+" "+u.GetName()], err = manifest.Hash(u); err != nil {
			t.Fatal(err)
		}
	}
	return out
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
