package testkit

import (
	"errors"
	"fmt"
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
	untilEnd(t, func(root string) (func(), *tail, error) { return runProgram(root, m, "kube-scheduler") })
}

func startControllers(t testing.TB, m *Member, names []string) {
	t.Helper()
	untilEnd(t, func(root string) (func(), *tail, error) {
		return runProgram(root, m, "kube-controller-manager", "--controllers="+strings.Join(names, ","))
	})
}

func runControllers(root string, m *Member, names []string) (stop func(), err error) {
	stop, _, err = runProgram(root, m, "kube-controller-manager", "--controllers="+strings.Join(names, ","))
	return stop, err
}

// untilEnd runs a program until the test ends, and shows the end of its log if the test has failed.
func untilEnd(t testing.TB, start func(root string) (stop func(), log *tail, err error)) {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	stop, log, err := start(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("…%s", log.data)
		}
	})
}

func runProgram(root string, m *Member, program string, args ...string) (stop func(), log *tail, err error) {
	text, err := m.kubeconfig("")
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "yunfan-"+program)
	if err != nil {
		return nil, nil, fmt.Errorf("making a folder for %s: %w", program, err)
	}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, text, 0o600); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("writing the kubeconfig of %s: %w", program, err), os.RemoveAll(dir))
	}
	args = append(args, "--kubeconfig="+kubeconfig, "--leader-elect=false", "--secure-port=0", "--kube-api-qps=200", "--kube-api-burst=400")
	cmd := exec.Command(filepath.Join(assets(root), program), args...)
	log = &tail{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("starting %s, run make engine: %w", program, err), os.RemoveAll(dir))
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	}, log, nil
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
