//go:build e2e

// Package server_test runs the server's program against a hub that 'yunfan up' did not make.
package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

const patience = time.Minute

// program is bin/yunfan.
func program(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/yunfan")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the program is missing, run make build: %v", err)
	}
	return path
}

// foreign is a hub and a member that know nothing of each other, and the server's program on the hub.
type foreign struct {
	hub, member   *testkit.Member
	hubKubeconfig string
	listen        string
	server        *exec.Cmd
	log           *bytes.Buffer
}

func (f *foreign) start(t *testing.T) {
	t.Helper()
	f.log = &bytes.Buffer{}
	f.server = exec.Command(program(t), "server", "--kubeconfig", f.hubKubeconfig, "--listen", f.listen,
		"--records", "sqlite://"+filepath.Join(filepath.Dir(f.hubKubeconfig), "records.db"))
	f.server.Stderr = f.log
	if err := f.server.Start(); err != nil {
		t.Fatal(err)
	}
}

// stop asks the server to end, as systemd and kubelet do.
func (f *foreign) stop(g Gomega) {
	g.Expect(f.server.Process.Signal(syscall.SIGTERM)).To(Succeed())
	done := make(chan error, 1)
	go func() { done <- f.server.Wait() }()
	g.Eventually(done).WithTimeout(patience).Should(Receive(BeNil()), "a stop is no failure")
}

// yunfan runs the command line against the hub.
func (f *foreign) yunfan(t *testing.T, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t), append(args, "--kubeconfig", f.hubKubeconfig)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("running yunfan: %v", err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func begin(t *testing.T) *foreign {
	t.Helper()
	f := &foreign{hub: testkit.StartMember(t), member: testkit.StartMember(t), hubKubeconfig: filepath.Join(t.TempDir(), "hub.kubeconfig")}
	if err := os.WriteFile(f.hubKubeconfig, f.hub.Kubeconfig(t, ""), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.listen = listener.Addr().String()
	listener.Close()
	f.start(t)
	t.Cleanup(func() {
		_ = f.server.Process.Kill()
		if t.Failed() {
			t.Logf("log of the server:\n%s", f.log)
		}
	})
	return f
}

// join makes the member a Cluster of the hub.
func (f *foreign) join(t *testing.T, name string) {
	t.Helper()
	NewWithT(t).Eventually(func() error {
		return f.hub.Client.Get(t.Context(), client.ObjectKey{Name: "yunfan-system"}, &corev1.Namespace{})
	}).WithTimeout(patience).Should(Succeed(), "the server makes its namespace")
	testkit.Create(t, f.hub.Client, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "yunfan-system", Name: name},
		Data:       map[string][]byte{"kubeconfig": f.member.Kubeconfig(t, "")},
	})
	cluster := &v1alpha1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.ClusterSpec{Connection: v1alpha1.ClusterConnection{KubeconfigSecretRef: &v1alpha1.SecretReference{Name: name}}},
	}
	NewWithT(t).Eventually(func() error { return f.hub.Client.Create(t.Context(), cluster) }).WithTimeout(patience).Should(Succeed(), "the server installs its kinds")
}

// TestServerOnForeignHub walks the way of production: a hub that is there already, without engine and without root.
func TestServerOnForeignHub(t *testing.T) {
	f, g := begin(t), NewWithT(t)
	f.join(t, "far")
	g.Eventually(func() string { out, _ := f.yunfan(t, "get", "clusters"); return out }).WithTimeout(patience).
		Should(MatchRegexp(`far +True +Ready`), "the member is joined")

	t.Run("CLU-01 every kind of object through the platform", func(t *testing.T) {
		g := NewWithT(t)
		text, code := f.yunfan(t, "kubeconfig", "--cluster", "far")
		g.Expect(code).To(BeZero(), text)
		through, err := clientcmd.RESTConfigFromKubeConfig([]byte(text))
		g.Expect(err).NotTo(HaveOccurred())
		c, err := kubernetes.NewForConfig(through)
		g.Expect(err).NotTo(HaveOccurred())
		created := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "through"}, Data: map[string]string{"a": "1"}}
		_, err = c.CoreV1().ConfigMaps("default").Create(t.Context(), created, metav1.CreateOptions{})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(f.member.Client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "through"}, &corev1.ConfigMap{})).To(Succeed(), "it is in the member")

		watch, err := c.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=through"})
		g.Expect(err).NotTo(HaveOccurred())
		defer watch.Stop()
		g.Eventually(watch.ResultChan()).WithTimeout(patience).Should(Receive(), "watches pass")
		g.Expect(c.CoreV1().ConfigMaps("default").Delete(t.Context(), "through", metav1.DeleteOptions{})).To(Succeed())
		g.Eventually(watch.ResultChan()).WithTimeout(patience).Should(Receive(HaveField("Type", BeEquivalentTo("DELETED"))))
	})

	t.Run("nobody is who he says he is", func(t *testing.T) { f.checkIdentity(t) })

	t.Run("AUD-01 what was done is listed", func(t *testing.T) {
		g := NewWithT(t)
		out, code := f.yunfan(t, "audit", "list")
		g.Expect(code).To(BeZero(), out)
		g.Expect(out).To(And(ContainSubstring("create"), ContainSubstring("Succeeded"), ContainSubstring("Refused")), "every tenant's, unless one is named")
		out, code = f.yunfan(t, "audit", "list", "-n", "nobody-s")
		g.Expect(code).To(BeZero(), out)
		g.Expect(out).NotTo(ContainSubstring("Succeeded"))
	})

	t.Run("exit codes", func(t *testing.T) {
		g := NewWithT(t)
		for reason, tc := range map[string]struct {
			args []string
			code int
		}{
			"what is not there":       {[]string{"get", "cluster", "near"}, 4},
			"wrong arguments":         {[]string{"get"}, 2},
			"a member not there":      {[]string{"kubeconfig", "--cluster", "near"}, 4},
			"no such application":     {[]string{"status", "none", "-n", "edu"}, 4},
			"logs need a tenant":      {[]string{"logs", "score"}, 2},
			"a list from the server":  {[]string{"ports", "-o", "json"}, 0},
			"a field that is not one": {[]string{"ports", "--sort", "colour"}, 7},
		} {
			out, code := f.yunfan(t, tc.args...)
			g.Expect(code).To(Equal(tc.code), "%s: %s", reason, out)
		}
	})

	t.Run("CLU-03 the member goes on without the hub, and the server takes it up again", func(t *testing.T) {
		g := NewWithT(t)
		f.stop(g)
		_, code := f.yunfan(t, "ports")
		g.Expect(code).To(Equal(6), "a script sees that the server is not there")
		testkit.Create(t, f.member.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "alone"}})
		f.start(t)
		g.Eventually(func() int { _, code := f.yunfan(t, "ports"); return code }).WithTimeout(patience).Should(BeZero())
		g.Expect(f.log.String()).NotTo(ContainSubstring("PRIVATE KEY"))
		f.stop(g)
	})
}

// checkIdentity asks the member who it takes the user of the proxy for.
func (f *foreign) checkIdentity(t *testing.T) {
	t.Helper()
	g := NewWithT(t)
	text, code := f.yunfan(t, "kubeconfig", "--cluster", "far")
	g.Expect(code).To(BeZero(), text)
	admin, err := clientcmd.RESTConfigFromKubeConfig([]byte(text))
	g.Expect(err).NotTo(HaveOccurred())
	who := func(config *rest.Config) (*authenticationv1.SelfSubjectReview, error) {
		c, err := kubernetes.NewForConfig(config)
		if err != nil {
			return nil, err
		}
		return c.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	}
	me, err := who(admin)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(me.Status.UserInfo.Groups).To(ContainElement("yunfan:platform-admin"))

	other := rest.CopyConfig(admin)
	other.Impersonate = rest.ImpersonationConfig{UserName: "somebody-else", Groups: []string{"others"}}
	_, err = who(other)
	g.Expect(err).To(MatchError(ContainSubstring("Impersonate-Group is refused")), "nobody acts in another's name")

	hub, err := kubernetes.NewForConfig(f.hub.Config)
	g.Expect(err).NotTo(HaveOccurred())
	testkit.Create(t, f.hub.Client, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "visitor"}})
	token, err := hub.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "visitor", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	visitor := rest.AnonymousClientConfig(admin)
	visitor.BearerToken = token.Status.Token
	_, err = who(visitor)
	g.Expect(err).To(MatchError(ContainSubstring("visitor\" lacks the verb")), "an ordinary user of the hub is nobody in the member")
	encoded, err := json.Marshal(err)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(strings.Contains(string(encoded), token.Status.Token)).To(BeFalse())
}
