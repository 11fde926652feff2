//go:build e2e

// Package access_test signs people in with the programs that users have, on a hub that 'yunfan up' did not make.
package access_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/internal/testkit"
)

const patience = 2 * time.Minute

// house is a hub, the server's program on it, and somebody at a terminal.
type house struct {
	hub           *testkit.Member
	hubKubeconfig string
	program       string
	url, ca       string
	home          string
	server        *exec.Cmd
	log           bytes.Buffer
}

func begin(t *testing.T) *house {
	t.Helper()
	h := &house{hub: testkit.StartMember(t), hubKubeconfig: filepath.Join(t.TempDir(), "hub.kubeconfig"), home: t.TempDir()}
	var err error
	if h.program, err = filepath.Abs("../../bin/yunfan"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(h.program); err != nil {
		t.Fatalf("the program is missing, run make build: %v", err)
	}
	if err := os.WriteFile(h.hubKubeconfig, h.hub.Kubeconfig(t, ""), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := listener.Addr().String()
	listener.Close()
	h.server = exec.Command(h.program, "server", "--kubeconfig", h.hubKubeconfig, "--listen", listen, "--records", "sqlite://"+filepath.Join(t.TempDir(), "records.db"))
	h.server.Stderr = &h.log
	if err := h.server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- h.server.Wait() }()
	t.Cleanup(func() {
		_ = h.server.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(patience):
			_ = h.server.Process.Kill()
		}
		if t.Failed() {
			t.Logf("log of the server:\n%s", h.log.String())
		}
	})
	where := &corev1.ConfigMap{}
	NewWithT(t).Eventually(func() error {
		return h.hub.Client.Get(t.Context(), client.ObjectKey{Namespace: "yunfan-system", Name: "yunfan-server"}, where)
	}).WithTimeout(patience).Should(Succeed(), "the server says where it is")
	h.url, h.ca = where.Data["url"], filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(h.ca, []byte(where.Data["ca"]), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

// yunfan runs the command line; input is what is typed.
func (h *house) yunfan(t *testing.T, input string, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.program, args...)
	cmd.Env = append(os.Environ(), "YUNFAN_CONFIG="+h.home, "KUBECONFIG="+filepath.Join(h.home, "kubeconfig"))
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("running yunfan: %v", err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// login signs in, again until the server answers.
func (h *house) login(t *testing.T, user, password string) {
	t.Helper()
	NewWithT(t).Eventually(func() string {
		out, _ := h.yunfan(t, password+"\n", "login", "--server", h.url, "--ca", h.ca, "--user", user)
		return out
	}).WithTimeout(patience).WithPolling(time.Second).Should(ContainSubstring("Signed in to " + h.url + " as " + user))
}

// TestOPS11_SignInAtATerminal walks the way of the first administrator: from the generated password to kubectl.
func TestOPS11_SignInAtATerminal(t *testing.T) {
	h, g := begin(t), NewWithT(t)
	var first string
	g.Eventually(func() int {
		var code int
		first, code = h.yunfan(t, "", "first-password", "--kubeconfig", h.hubKubeconfig)
		return code
	}).WithTimeout(patience).WithPolling(time.Second).Should(BeZero(), "whoever administers the hub is told the password")
	user, generated, _ := strings.Cut(strings.TrimSpace(first), " ")
	g.Expect(user).To(Equal("admin"))
	g.Expect(h.log.String()).NotTo(ContainSubstring(generated), "it stands in no log")
	out, code := h.yunfan(t, "", "first-password", "--kubeconfig", h.hubKubeconfig)
	g.Expect(code).To(Equal(4), "it is shown once: %s", out)

	h.login(t, "admin", generated)
	out, code = h.yunfan(t, "", "get", "users")
	g.Expect(code).To(Equal(5), "nothing before the password is changed: %s", out)
	const own = "a password of my own"
	out, code = h.yunfan(t, generated+"\n"+own+"\n", "password")
	g.Expect(code).To(BeZero(), out)
	out, code = h.yunfan(t, "", "get", "users")
	g.Expect(code).To(BeZero(), out)
	g.Expect(out).To(ContainSubstring("Administrator"))
	out, _ = h.yunfan(t, "", "whoami")
	g.Expect(out).To(ContainSubstring("yunfan:platform-admin"))

	t.Run("files are one's own", func(t *testing.T) {
		g := NewWithT(t)
		for _, file := range []string{"sessions.json", "kubeconfig"} {
			info, err := os.Stat(filepath.Join(h.home, file))
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(info.Mode().Perm()).To(BeEquivalentTo(0o600), file)
		}
		text, err := os.ReadFile(filepath.Join(h.home, "kubeconfig"))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(string(text)).NotTo(MatchRegexp("token: .|client-key"), "the kubeconfig holds no secret")
	})
	t.Run("every program of Kubernetes, through the platform", func(t *testing.T) {
		g := NewWithT(t)
		config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(h.home, "kubeconfig"))
		g.Expect(err).NotTo(HaveOccurred())
		c, err := kubernetes.NewForConfig(config)
		g.Expect(err).NotTo(HaveOccurred())
		_, err = c.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
		g.Expect(err).NotTo(HaveOccurred(), "the plug-in gives the token")
		_, err = c.CoreV1().Secrets("yunfan-system").List(t.Context(), metav1.ListOptions{})
		g.Expect(err).To(HaveOccurred(), "nobody reads the platform's secrets")
	})
	t.Run("access tokens", func(t *testing.T) {
		g := NewWithT(t)
		out, code := h.yunfan(t, "", "tokens", "create", "--description", "ci", "--role", "Viewer")
		g.Expect(code).To(BeZero(), out)
		g.Expect(out).To(HavePrefix("yunfan_"))
		name := strings.Split(out, "_")[1]
		g.Eventually(func() string { out, _ := h.yunfan(t, "", "tokens", "list"); return out }).WithTimeout(patience).Should(ContainSubstring(name))
		out, code = h.yunfan(t, "", "tokens", "delete", name)
		g.Expect(code).To(BeZero(), out)
	})
	out, code = h.yunfan(t, "", "logout")
	g.Expect(code).To(BeZero(), out)
	_, code = h.yunfan(t, "", "whoami")
	g.Expect(code).To(Equal(2), "nobody is signed in any more")
	h.login(t, "admin", own)
}
