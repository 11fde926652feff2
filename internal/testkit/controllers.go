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

func startControllers(t testing.TB, m *Member, names []string) {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, m.Kubeconfig(t, ""), 0o600); err != nil {
		t.Fatalf("writing the kubeconfig of the controllers: %v", err)
	}
	cmd := exec.Command(filepath.Join(assets(root), "kube-controller-manager"),
		"--kubeconfig="+kubeconfig, "--controllers="+strings.Join(names, ","), "--leader-elect=false", "--secure-port=0",
		"--kube-api-qps=200", "--kube-api-burst=400")
	log := &tail{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting kube-controller-manager, run make engine: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("kube-controller-manager: …%s", log.data)
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
