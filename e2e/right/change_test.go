//go:build e2e

package right_test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

// kubectl is plain kubectl with a person's token, as he has it at home.
func (c *cast) kubectl(ctx context.Context, config *rest.Config, args ...string) *exec.Cmd {
	c.Helper()
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters["yunfan"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	kubeconfig.AuthInfos["me"] = &clientcmdapi.AuthInfo{Token: config.BearerToken}
	kubeconfig.Contexts["yunfan"] = &clientcmdapi.Context{Cluster: "yunfan", AuthInfo: "me"}
	kubeconfig.CurrentContext = "yunfan"
	file := filepath.Join(c.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*kubeconfig, file); err != nil {
		c.Fatal(err)
	}
	cmd := c.plain(ctx, file, args...)
	return cmd
}

// plain is kubectl with a kubeconfig of its own.
func (c *cast) plain(ctx context.Context, kubeconfig string, args ...string) *exec.Cmd {
	program := c.Instance.Kubectl(ctx, journey.Hub).Path
	cmd := exec.CommandContext(ctx, program, append([]string{"--kubeconfig", kubeconfig, "--cache-dir", filepath.Join(c.TempDir(), "cache")}, args...)...)
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "HOME="+c.TempDir())
	return cmd
}

// TestSEC03_RightsChange takes rights away from people who have something open.
func TestSEC03_RightsChange(t *testing.T) {
	c := begin(t)
	c.Ready(c.Application("web", journey.In("part"), journey.Echo("web")))
	pod := c.Pods(journey.Beijing, c.part, "web")[0].Name
	member := c.people[limitedOperator].Member(journey.Beijing)
	ctx, cancel := context.WithTimeout(c.Context(), 3*time.Minute)
	defer cancel()

	t.Run("plain kubectl works", func(t *testing.T) {
		for want, args := range map[string][]string{
			pod:       {"-n", c.part, "get", "pods", "-o", "name"},
			"serving": {"-n", c.part, "logs", pod},
			"ls":      {"-n", c.part, "exec", pod, "--", "/bin/ls", "/bin"},
		} {
			out, err := c.kubectl(ctx, member, args...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("kubectl %v: %v %s", args, err, out)
			}
		}
	})

	open := map[string]*exec.Cmd{
		"watch":        c.kubectl(ctx, member, "-n", c.part, "get", "pods", "--watch-only"),
		"logs":         c.kubectl(ctx, member, "-n", c.part, "logs", "-f", pod),
		"exec":         c.kubectl(ctx, member, "-n", c.part, "exec", pod, "--", "/bin/sleep", "100"),
		"port-forward": c.kubectl(ctx, member, "-n", c.part, "port-forward", pod, ":8080"),
	}
	ended := map[string]chan struct{}{}
	for name, cmd := range open {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended[name] = make(chan struct{})
		go func() { defer close(ended[name]); _ = cmd.Wait() }()
	}
	c.Consistently(func(g Gomega) {
		for name, done := range ended {
			g.Expect(done).NotTo(BeClosed(), name)
		}
	}, "5s").Should(Succeed())

	group := &v1alpha1.UserGroup{ObjectMeta: metav1.ObjectMeta{Namespace: c.Tenant, Name: "g1"}}
	c.Update(group, func() { group.Spec.Users = []string{"somebody-else"} })
	began := time.Now()
	c.Eventually(func() int {
		code, _ := c.ask(limitedOperator, http.MethodGet, "/clusters/beijing/api/v1/namespaces/"+c.part+"/pods", nil)
		return code
	}, "5s", "50ms").Should(Equal(http.StatusForbidden), "the next request")
	t.Logf("requests are refused %s after the change", time.Since(began))
	for _, name := range []string{"watch", "logs", "exec"} {
		c.Eventually(ended[name], "10s").Should(BeClosed(), name)
	}
	t.Logf("what was open has ended %s after the change", time.Since(began))
	// kubectl keeps its own port open: what counts is that nothing comes through any more.
	_ = open["port-forward"].Process.Kill()
}

// TestRES15_GroupOfASubPartition has a group that is bound to a part of a partition.
func TestRES15_GroupOfASubPartition(t *testing.T) {
	c := begin(t)
	_, text := c.ask(limitedOperator, http.MethodGet, "/api/v1/partitions", nil)
	var page struct {
		Items []struct{ Tenant, Partition string }
	}
	if err := json.Unmarshal([]byte(text), &page); err != nil || len(page.Items) != 1 || page.Items[0].Partition != "part" {
		t.Errorf("a member of g1 sees the sub-partition that is bound to it, and nothing else: %v %s", err, text)
	}
	for partition, want := range map[string]int{"part": http.StatusCreated, "whole": http.StatusForbidden} {
		app := &v1alpha1.Application{
			TypeMeta:   metav1.TypeMeta{APIVersion: "yunfan.io/v1alpha1", Kind: "Application"},
			ObjectMeta: metav1.ObjectMeta{Namespace: c.Tenant, Name: "in-" + partition},
			Spec:       v1alpha1.ApplicationSpec{Placement: journey.In(partition), Components: []v1alpha1.Component{journey.Echo("c-" + partition)}},
		}
		if code, text := c.ask(limitedOperator, http.MethodPost, "/apis/yunfan.io/v1alpha1/namespaces/"+c.Tenant+"/applications", app); code != want {
			t.Errorf("deploying to %s: want %d, got %d %.300s", partition, want, code, text)
		}
	}
	code, text := c.ask(limitedOperator, http.MethodPost, "/api/v1/access-review", map[string]string{"verb": "create", "resource": "pods/exec", "tenant": c.Tenant, "partition": "part"})
	if code != http.StatusOK || !strings.Contains(text, `"allowed":true`) || !strings.Contains(text, c.Tenant+"/g1") {
		t.Errorf("may I: %d %s", code, text)
	}
	code, text = c.ask(limitedOperator, http.MethodPost, "/api/v1/access-review", map[string]string{"verb": "create", "resource": "pods/exec", "tenant": c.Tenant, "partition": "whole"})
	if code != http.StatusOK || !strings.Contains(text, `"allowed":false`) || !strings.Contains(text, "not one of your partitions") {
		t.Errorf("why not: %d %s", code, text)
	}
}

// TestDEP02_DisjointLists has two people of different tenants.
func TestDEP02_DisjointLists(t *testing.T) {
	c := begin(t)
	for _, list := range []string{"clusters", "tenants", "partitions"} {
		_, mine := c.ask(viewer, http.MethodGet, "/api/v1/"+list, nil)
		_, theirs := c.ask(stranger, http.MethodGet, "/api/v1/"+list, nil)
		if strings.Contains(mine, c.other.Tenant) || strings.Contains(theirs, c.Tenant) {
			t.Errorf("the lists of %s overlap:\n%s\n%s", list, mine, theirs)
		}
		own := map[string]string{"clusters": "beijing", "tenants": c.Tenant, "partitions": c.Tenant}[list]
		if !strings.Contains(mine, own) {
			t.Errorf("the list of %s does not show one's own: %s", list, mine)
		}
	}
	if code, text := c.ask(stranger, http.MethodGet, "/apis/yunfan.io/v1alpha1/namespaces/"+c.Tenant+"/partitions/whole", nil); code != http.StatusForbidden || !strings.Contains(text, "you have no role in tenant") {
		t.Errorf("a foreign partition: want 403 with a reason, got %d %s", code, text)
	}
	t.Run("SEC-02 people and applications of another tenant are not seen", func(t *testing.T) {
		for _, path := range []string{"users", "namespaces/" + c.Tenant + "/memberships", "namespaces/" + c.Tenant + "/usergroups", "namespaces/" + c.Tenant + "/applications"} {
			if code, text := c.ask(stranger, http.MethodGet, "/apis/yunfan.io/v1alpha1/"+path, nil); code != http.StatusForbidden {
				t.Errorf("%s: want 403, got %d %s", path, code, text)
			}
		}
	})
}
