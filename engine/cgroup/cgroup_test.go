package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	cases := map[string]struct {
		reason    string
		mountinfo string
		want      Hierarchies
	}{
		"V1": {"Every controller set has its own mount", `
30 24 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup none rw,cpu,cpuacct
31 24 0:27 / /sys/fs/cgroup/systemd rw - cgroup none rw,xattr,name=systemd
32 24 0:28 / /sys/fs/cgroup/cpuset rw - cgroup none rw,cpuset,clone_children`,
			Hierarchies{V1: map[string]string{"cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct", "name=systemd": "/sys/fs/cgroup/systemd", "cpuset": "/sys/fs/cgroup/cpuset"}}},
		"Hybrid": {"A unified mount beside v1 controllers has none itself", `
30 24 0:26 / /sys/fs/cgroup/memory rw - cgroup none rw,memory
31 24 0:27 / /sys/fs/cgroup/unified rw - cgroup2 none rw`,
			Hierarchies{V1: map[string]string{"memory": "/sys/fs/cgroup/memory"}}},
		"V2": {"A pure unified machine", `
30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 none rw,nsdelegate,memory_recursiveprot`,
			Hierarchies{V1: map[string]string{}, V2: "/sys/fs/cgroup"}},
		"Elsewhere": {"A bind of one group and a second mount are not the hierarchy", `
30 24 0:26 / /sys/fs/cgroup/pids rw - cgroup none rw,pids
31 24 0:26 /x /mnt/x rw - cgroup none rw,pids
32 24 0:26 / /mnt/y rw - cgroup none rw,pids`,
			Hierarchies{V1: map[string]string{"pids": "/sys/fs/cgroup/pids"}}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := parse(strings.NewReader(strings.TrimSpace(tc.mountinfo)))
			if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
				t.Errorf("%s: %v, -want +got:\n%s", tc.reason, err, diff)
			}
		})
	}
	if _, err := parse(strings.NewReader("1 0 0:1 / / rw - ext4 /dev/vda rw")); err == nil {
		t.Error("a machine without cgroups was accepted")
	}
}

// TestV2Paths checks which files are written, on an imitation of the v2 file system: the real one was not at hand.
func TestV2Paths(t *testing.T) {
	root := t.TempDir()
	leaf := filepath.Join(root, "yunfan/0/a.b")
	if err := os.MkdirAll(leaf, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir := leaf; ; dir = filepath.Dir(dir) {
		for file, content := range map[string]string{"cgroup.controllers": "cpu memory", "cgroup.subtree_control": "", "cgroup.procs": "", "cgroup.freeze": "0", "cgroup.events": "frozen 1", "cgroup.kill": ""} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if dir == root {
			break
		}
	}
	g := Group{Hierarchies{V2: root}, "yunfan/0/a.b"}
	if err := g.Join(42); err != nil {
		t.Fatal(err)
	}
	if err := g.Freeze(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	g.Kill()
	want := map[string]string{
		"cgroup.subtree_control":              "+memory", // the last of two writes; a real file takes both
		"yunfan/0/cgroup.subtree_control":     "+memory",
		"yunfan/0/a.b/cgroup.subtree_control": "", // its own processes forbid handing on: the unit's init makes a leaf first
		"yunfan/0/a.b/cgroup.procs":           "42",
		"yunfan/0/a.b/cgroup.freeze":          "1",
		"yunfan/0/a.b/cgroup.kill":            "1",
	}
	for file, content := range want {
		data, err := os.ReadFile(filepath.Join(root, file))
		if err != nil || !strings.HasSuffix(string(data), content) && string(data) != content {
			t.Errorf("%s holds %q (%v), want %q", file, data, err, content)
		}
	}
}
