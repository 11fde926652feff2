//go:build e2e

package secret_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

func member(j *journey.Journey, person *journey.Person, role v1alpha1.Role) {
	j.Helper()
	j.Create(&v1alpha1.Membership{
		ObjectMeta: journey.Named(j.Tenant, person.Name),
		Spec:       v1alpha1.MembershipSpec{Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectUser, Name: person.Name}, Role: role},
	})
}

// TestSEC09_EX17 is the book's sample: user name and password as files of a pod.
func TestSEC09_EX17(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	operator, viewer := j.Person("li"), j.Person("wang")
	member(j, operator, v1alpha1.RoleOperator)
	member(j, viewer, v1alpha1.RoleViewer)
	values := map[string]string{"username": "YWRtaW4=", "password": "MWYyZDFlMmU2N2Rm"}
	const user, password = "admin", "1f2d1e2e67df"
	told := ""
	j.Eventually(func() int { // a membership has its effect within a moment
		code, text, err := operator.Do(j.Context(), http.MethodPut, "/api/v1/tenants/"+j.Tenant+"/secrets/mysecret", map[string]any{"data": values})
		j.Expect(err).NotTo(HaveOccurred())
		told = string(text)
		return code
	}).Should(Equal(http.StatusOK))

	mypod := journey.Echo("mypod", func(c *v1alpha1.Component, _ *corev1.Container) {
		c.Configurations = []v1alpha1.ConfigurationUse{{Name: "mysecret", MountPath: "/etc/secret", Environment: true}}
	})
	a := j.Application("mypod", journey.In("bj"), mypod)
	j.Ready(a)
	namespace := j.Tenant + "-bj"
	pod := j.Pods(journey.Beijing, namespace, "mypod")[0]
	in := func(args ...string) string {
		return j.Kubectl(journey.Beijing, append([]string{"-n", namespace, "exec", pod.Name, "--"}, args...)...)
	}
	j.Expect(in("/bin/cat", "/etc/secret/username")).To(Equal(user))
	j.Expect(in("/bin/cat", "/etc/secret/password")).To(Equal(password))
	j.Expect(in("/bin/env")).To(ContainSubstring("password=" + password + "\n"))
	j.Expect(pod.Spec.Containers[0].VolumeMounts).To(ContainElement(And(HaveField("MountPath", "/etc/secret"), HaveField("ReadOnly", true))))

	everywhere := map[string]string{
		"the answer to writing": told,
		"the tenant's objects":  j.Kubectl(journey.Hub, "-n", j.Tenant, "get", "configurations,applications,applicationrevisions,deliveries,events", "-o", "yaml", "--show-managed-fields"),
		"the member's objects":  j.Kubectl(journey.Beijing, "-n", namespace, "get", "pods,deployments,replicasets,events", "-o", "yaml", "--show-managed-fields"),
		"the command line":      j.Yunfan("secret", "list", "-n", j.Tenant, "-o", "yaml"),
		"a preview":             preview(j, operator, a),
	}
	for where, text := range everywhere {
		for _, value := range []string{password, values["password"]} {
			j.Expect(text).NotTo(ContainSubstring(value), where)
		}
	}
	for _, who := range []*journey.Person{operator, viewer} {
		for _, path := range []string{"/api/v1/namespaces/" + j.Tenant + "/secrets", "/clusters/beijing/api/v1/namespaces/" + namespace + "/secrets"} {
			code, text, err := who.Do(j.Context(), http.MethodGet, path, nil)
			j.Expect(err).NotTo(HaveOccurred())
			j.Expect(code).To(Equal(http.StatusForbidden), "%s reads %s: %s", who.Name, path, text)
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
		code, text, err := viewer.Do(j.Context(), method, "/api/v1/tenants/"+j.Tenant+"/secrets/mysecret", map[string]any{"data": values})
		j.Expect(err).NotTo(HaveOccurred())
		j.Expect(code).To(Equal(http.StatusForbidden), "%s by a viewer: %s", method, text)
	}
}

func preview(j *journey.Journey, who *journey.Person, a *v1alpha1.Application) string {
	j.Helper()
	fresh := &v1alpha1.Application{TypeMeta: journey.Kind("Application"), ObjectMeta: journey.Named(j.Tenant, a.Name), Spec: a.Spec}
	code, text, err := who.Do(j.Context(), http.MethodPost, "/api/v1/tenants/"+j.Tenant+"/preview", fresh)
	j.Expect(err).NotTo(HaveOccurred())
	j.Expect(code).To(Equal(http.StatusOK), "%s", text)
	return string(text)
}

// TestSEC09_PullCredentials has kubelet pull an image from a registry that wants to know who asks.
func TestSEC09_PullCredentials(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("sh", journey.Shanghai)
	r := newRegistry(j)
	image := r.address + strings.TrimPrefix(journey.EchoImage, "registry.yunfan.internal")
	always := func(_ *v1alpha1.Component, c *corev1.Container) { c.ImagePullPolicy = corev1.PullAlways }
	with := func(c *v1alpha1.Component, _ *corev1.Container) {
		c.Template.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "myregistrykey"}}
	}
	j.Refused("early", journey.In("sh"), journey.Echo("early", journey.Image(image), always, with), "no configuration myregistrykey")

	a := j.Application("without", journey.In("sh"), journey.Echo("without", journey.Image(image), always))
	j.Eventually(r.refusals).Should(BeNumerically(">", 0), "without credentials the registry refuses")
	j.Expect(a.Name).To(Equal("without"))

	operator := j.Person("li")
	member(j, operator, v1alpha1.RoleOperator)
	j.Eventually(func() int {
		code, _, err := operator.Do(j.Context(), http.MethodPut, "/api/v1/tenants/"+j.Tenant+"/secrets/myregistrykey",
			map[string]any{"registry": map[string]string{"server": r.address, "username": "puller", "password": r.password}})
		j.Expect(err).NotTo(HaveOccurred())
		return code
	}).Should(Equal(http.StatusOK))
	j.Expect(j.Yunfan("secret", "list", "-n", j.Tenant, "-o", "yaml")).NotTo(ContainSubstring(r.password))
	private := j.Application("private", journey.In("sh"), journey.Echo("private", journey.Image(image), always, with))
	j.Ready(private)
	j.Expect(r.pulls()).To(BeNumerically(">", 0), "kubelet asked with the credentials")
	pod := j.Pods(journey.Shanghai, j.Tenant+"-sh", "private")[0]
	delivered := pod.Spec.ImagePullSecrets[0].Name
	j.Expect(delivered).To(HavePrefix("myregistrykey-"))
	secret := &corev1.Secret{}
	j.Expect(json.Unmarshal([]byte(j.Kubectl(journey.Shanghai, "-n", j.Tenant+"-sh", "get", "secret", delivered, "-o", "json")), secret)).To(Succeed())
	j.Expect(secret.Type).To(Equal(corev1.SecretTypeDockerConfigJson))
	j.Expect(string(secret.Data[corev1.DockerConfigJsonKey])).To(ContainSubstring(`"` + r.address + `"`))
}

// registry asks for a password before it passes pulls on to the instance's own.
type registry struct {
	address, password string

	mu              sync.Mutex
	refused, pulled int
}

func newRegistry(j *journey.Journey) *registry {
	j.Helper()
	gateway := j.Gateway()
	listener, err := net.Listen("tcp", net.JoinHostPort(gateway, "0"))
	j.Expect(err).NotTo(HaveOccurred())
	r := &registry{address: listener.Addr().String(), password: "Pull-" + fmt.Sprint(time.Now().UnixNano())}
	pass := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: net.JoinHostPort(gateway, "5000")})
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("puller:"+r.password))
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if q.Header.Get("Authorization") != want {
			r.refused++
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		if strings.Contains(q.URL.Path, "/manifests/") {
			r.pulled++
		}
		q.Header.Del("Authorization")
		pass.ServeHTTP(w, q)
	})}
	go func() { _ = server.Serve(listener) }()
	j.Cleanup(func() { _ = server.Close() })
	// The nodes are told of the registry as an administrator would do it; everything else leads to the instance's own.
	nodes, err := filepath.Glob(filepath.Join(j.DataDir, "clusters/shanghai/nodes/*/etc/certs.d"))
	j.Expect(err).NotTo(HaveOccurred())
	j.Expect(nodes).NotTo(BeEmpty())
	for _, folder := range nodes {
		own := filepath.Join(folder, r.address)
		j.Expect(os.MkdirAll(own, 0o755)).To(Succeed())
		j.Expect(os.WriteFile(filepath.Join(own, "hosts.toml"), fmt.Appendf(nil, "server = %q\n", "http://"+r.address), 0o644)).To(Succeed())
		j.Cleanup(func() { _ = os.RemoveAll(own) })
	}
	return r
}

func (r *registry) refusals() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused
}

func (r *registry) pulls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pulled
}
