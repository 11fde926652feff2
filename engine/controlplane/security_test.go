package controlplane

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"yunfan.io/engine/topology"
)

// TestSEC09_KeysOfSecrets follows the key of a cluster from its first start over a rotation.
func TestSEC09_KeysOfSecrets(t *testing.T) {
	c := Config{Paths: topology.Paths{Data: t.TempDir()}, Programs: topology.Programs{Dir: "/bin"}, Cluster: &topology.ClusterState{Name: "a", Slot: 1}}
	must(t, c.Prepare())
	first := keyNames(t, c)
	if stale, err := c.Stale(); len(first) != 1 || stale != "" || err != nil {
		t.Fatalf("a new cluster has one key and nothing to encrypt anew: %v, %q, %v", first, stale, err)
	}
	if info, err := os.Stat(c.encryption()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the keys are for nobody else: %v, %v", info.Mode(), err)
	}
	args := c.apiServer()
	for _, want := range []string{"--encryption-provider-config=" + c.encryption(), "--audit-log-path=" + c.AuditLog(), "--audit-log-maxbackup=4"} {
		if !slices.Contains(args, want) {
			t.Errorf("the API server is not told %s", want)
		}
	}

	must(t, c.Prepare())
	if again := keyNames(t, c); !slices.Equal(again, first) {
		t.Errorf("a later start keeps the key: %v became %v", first, again)
	}
	must(t, c.RotateKey())
	must(t, c.Prepare())
	both := keyNames(t, c)
	if stale, _ := c.Stale(); len(both) != 2 || both[1] != first[0] || stale != both[0] {
		t.Fatalf("both keys stay, and all is stale, until everything is encrypted with the new one: %v, %q", both, stale)
	}
	must(t, c.KeyInUse(both[0]))
	must(t, c.Prepare())
	if left := keyNames(t, c); len(left) != 1 || left[0] != both[0] {
		t.Errorf("the old key is forgotten at the next start: %v", left)
	}

	must(t, os.Remove(c.encryption()))
	if err := c.Prepare(); err == nil || !strings.Contains(err.Error(), "backup") {
		t.Errorf("keys that were lost are not replaced silently: %v", err)
	}
}

// TestSEC09_OlderData upgrades a cluster whose data is there and was never encrypted.
func TestSEC09_OlderData(t *testing.T) {
	c := Config{Paths: topology.Paths{Data: t.TempDir()}, Cluster: &topology.ClusterState{Name: "a", Slot: 1}}
	must(t, os.MkdirAll(filepath.Join(c.Paths.ControlPlane("a"), "etcd", "member"), 0o700))
	must(t, c.Prepare())
	if stale, err := c.Stale(); err != nil || stale != keyNames(t, c)[0] {
		t.Errorf("what is there is encrypted once the API server runs: %q, %v", stale, err)
	}
}

func keyNames(t *testing.T, c Config) []string {
	t.Helper()
	keys, err := c.loadKeys()
	must(t, err)
	var out []string
	for _, k := range keys {
		out = append(out, k.Name)
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
