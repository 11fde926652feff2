package testkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// StartControllers runs Kubernetes' own controllers of the names given, such as namespace-controller, for the member
// until the test ends: an API server alone never removes a namespace and never counts a quota.
func (m *Member) StartControllers(t testing.TB, names ...string) {
	t.Helper()
	startControllers(t, m, names)
}

// StartControllers runs Kubernetes' own controllers for the hub, as for a member.
func (h *Hub) StartControllers(t testing.TB, names ...string) {
	t.Helper()
	startControllers(t, &Member{Config: h.Config}, names)
}

// StartScheduler runs Kubernetes' own scheduler for the member until the test ends: pods are bound to nodes, which need
// be no more than objects.
func (m *Member) StartScheduler(t testing.TB) {
	t.Helper()
	startProgram(t, m, "kube-scheduler")
}

func startControllers(t testing.TB, m *Member, names []string) {
	t.Helper()
	startProgram(t, m, "kube-controller-manager", "--controllers="+strings.Join(names, ","))
}

func startProgram(t testing.TB, m *Member, program string, args ...string) {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, m.Kubeconfig(t, ""), 0o600); err != nil {
		t.Fatalf("writing the kubeconfig of %s: %v", program, err)
	}
	args = append(args, "--kubeconfig="+kubeconfig, "--leader-elect=false", "--secure-port=0", "--kube-api-qps=200", "--kube-api-burst=400")
	cmd := exec.Command(filepath.Join(assets(root), program), args...)
	log := &tail{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s, run make engine: %v", program, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s: …%s", program, log.data)
		}
	})
}

// tail keeps the end of what is written to it.
type tail struct{ data []byte }

// Write never fails. Lines of mere information are left out.
func (w *tail) Write(p []byte) (int, error) {
	const limit = 2 << 10
	if len(p) > 0 && p[0] == 'I' {
		return len(p), nil
	}
	w.data = append(w.data, p...)
	if len(w.data) > limit {
		w.data = w.data[len(w.data)-limit:]
	}
	return len(p), nil
}
