//go:build e2e

package right_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

// TestSEC01_Hostile is what somebody tries who wants more than he has. Nothing crosses, and the server stays up.
func TestSEC01_Hostile(t *testing.T) {
	c := begin(t)
	c.Ready(c.Application("web", journey.In("whole"), journey.Echo("web")))
	t.Run("Names", func(t *testing.T) { c.names(t) })
	t.Run("Tokens", func(t *testing.T) { c.tokens(t) })
	t.Run("Headers", func(t *testing.T) { c.headers(t) })
	t.Run("Paths", func(t *testing.T) { c.paths(t) })
	t.Run("Large", func(t *testing.T) { c.large(t) })
	t.Run("Slow", func(t *testing.T) { c.slow(t) })
	t.Run("Tenants", func(t *testing.T) { c.reserved(t) })
	t.Run("WaysOut", func(t *testing.T) { c.waysOut(t) })
	if code, text := c.ask(admin, http.MethodGet, "/api/v1/applications", nil); code != http.StatusOK || !strings.Contains(text, `"web"`) {
		t.Errorf("the server does not answer any more as it should: %d %.300s", code, text)
	}
}

// names are those of others, guessed: whether they exist must make no difference.
func (c *cast) names(t *testing.T) {
	root := "/apis/yunfan.io/v1alpha1/"
	for there, invented := range map[string]string{
		root + "namespaces/" + c.Tenant + "/applications/web":                         root + "namespaces/" + c.Tenant + "/applications/nothing",
		root + "namespaces/" + c.Tenant + "/partitions/part":                          root + "namespaces/nowhere/partitions/part",
		root + "tenants/" + c.Tenant:                                                  root + "tenants/nowhere",
		root + "clusters/beijing":                                                     root + "clusters/nowhere",
		"/clusters/beijing/api/v1/namespaces/" + c.whole + "/pods":                    "/clusters/nowhere/api/v1/namespaces/" + c.whole + "/pods",
		"/api/v1/tenants/" + c.Tenant + "/applications":                               "/api/v1/tenants/nowhere/applications",
		"/api/v1/tenants/" + c.Tenant + "/applications/web":                           "/api/v1/tenants/nowhere/applications/web",
		"/api/v1/tenants/" + c.Tenant + "/applications/web/logs":                      "/api/v1/tenants/nowhere/applications/web/logs",
		root + "users/" + c.people[admin].Name:                                        root + "users/nobody-at-all",
		"/clusters/shanghai/api/v1/namespaces/kube-system/pods":                       "/clusters/shanghai/api/v1/namespaces/nowhere/pods",
		"/clusters/shanghai/api/v1/namespaces/" + c.other.Tenant + "-whole/secrets/x": "/clusters/shanghai/api/v1/namespaces/nowhere/secrets/x",
	} {
		for _, path := range []string{there, invented} {
			if code, text := c.ask(stranger, http.MethodGet, path, nil); code != http.StatusForbidden {
				t.Errorf("%s: want 403 whether it is there or not, got %d %.300s", path, code, text)
			}
		}
	}
	for _, list := range []string{"clusters", "tenants", "partitions", "applications"} {
		code, text := c.ask(stranger, http.MethodGet, "/api/v1/"+list, nil)
		if code != http.StatusOK || strings.Contains(text, c.Tenant) || strings.Contains(text, "beijing") {
			t.Errorf("the list of %s shows what is of others: %d %.500s", list, code, text)
		}
		if _, text := c.ask(nobody, http.MethodGet, "/api/v1/"+list, nil); !strings.Contains(text, `"items":[]`) {
			t.Errorf("somebody who is in no tenant sees %s: %.300s", list, text)
		}
	}
}

// tokens that are none, in every way.
func (c *cast) tokens(t *testing.T) {
	good := c.people[admin].Config.BearerToken
	parts := strings.Split(good, ".")
	encode := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	bad := map[string]string{"empty": "", "random": "abcdefgh", "dots": "..", "long": strings.Repeat("a", 60<<10)}
	if len(parts) == 3 {
		bad["without signature"] = parts[0] + "." + parts[1] + "."
		bad["alg none"] = encode(`{"alg":"none","typ":"JWT"}`) + "." + parts[1] + "."
		bad["alg none, signed"] = encode(`{"alg":"none","typ":"JWT"}`) + "." + parts[1] + "." + parts[2]
		bad["another body"] = parts[0] + "." + encode(`{"sub":"root","exp":9999999999}`) + "." + parts[2]
		bad["a flipped letter"] = parts[0] + "." + parts[1] + "." + flip(parts[2])
	}
	for name, token := range bad {
		config := rest.CopyConfig(c.people[admin].Config)
		config.BearerToken = token
		if code, text := send(t, config, http.MethodGet, "/apis/yunfan.io/v1alpha1/namespaces/"+c.Tenant+"/applications", nil); code != http.StatusUnauthorized {
			t.Errorf("token %s: want 401, got %d %.300s", name, code, text)
		}
	}
}

func flip(text string) string {
	last := byte('A')
	if text[10] == last {
		last = 'B'
	}
	return text[:10] + string(last) + text[11:]
}

// headers that say that somebody is somebody else.
func (c *cast) headers(t *testing.T) {
	for name, value := range map[string]string{
		"Impersonate-User": "system:admin", "Impersonate-Group": "system:masters", "impersonate-uid": "0", "Impersonate-Extra-Scopes": "all",
		"X-Remote-User": "root", "X-Remote-Group": "system:masters", "X-Remote-Extra-A": "b",
	} {
		for _, path := range []string{"/api/v1/namespaces", "/clusters/beijing/api/v1/nodes", "/api/v1/applications", "/version"} {
			for _, letter := range []string{viewer, platform} {
				code, text := send(t, c.people[letter].Config, http.MethodGet, path, nil, name, value)
				if code != http.StatusForbidden && code != http.StatusBadRequest {
					t.Errorf("%s %s with the header %s: want a refusal, got %d %.200s", letter, path, name, code, text)
				}
			}
		}
	}
	// A connection that may drop headers of ours on the way.
	code := c.raw(t, "GET /api/v1/secrets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+c.people[viewer].Config.BearerToken+
		"\r\nConnection: Impersonate-User, Impersonate-Group, Upgrade, close\r\nUpgrade: websocket\r\n\r\n")
	if code != http.StatusForbidden && code != http.StatusBadRequest {
		t.Errorf("headers dropped by Connection: got %d", code)
	}
}

// paths that two readers may read differently.
func (c *cast) paths(t *testing.T) {
	for _, path := range []string{
		"/clusters/beijing/../../api/v1/secrets", "/clusters/beijing/%2e%2e/%2e%2e/api/v1/secrets", "/clusters/beijing%2f..%2fshanghai/api",
		"/clusters/..%2f..%2fapi/v1/secrets", "/clusters/beijing//api/v1/secrets", "//api/v1/secrets", "/apis/../api/v1/secrets",
		"/clusters/beijing/clusters/shanghai/api/v1/pods", "/clusters/beijing/api/v1/namespaces/" + c.whole + "/../kube-system/pods",
		"/clusters/beijing/api/v1/namespaces/" + c.whole + "%2f..%2fkube-system/pods", "/clusters/beijing/api/v1/namespaces/%252e%252e/secrets",
		"/clusters//api/v1/nodes", "/clusters/beijing/api/v1/nodes/x/proxy/run", "/clusters/beijing/api/v1/proxy/nodes/x/run",
		"/clusters/beijing/api/v1/namespaces/" + c.whole + "/services/https:web:8080/proxy/", "/clusters/beijing/logs/", "/clusters/beijing/debug/pprof/",
		"/clusters/beijing/api/v1/watch/secrets", "/api/v1/watch/namespaces/yunfan-system/secrets", "/clusters/beijing\\..\\shanghai",
	} {
		code := c.raw(t, "GET "+path+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+c.people[operator].Config.BearerToken+"\r\nConnection: close\r\n\r\n")
		if code != http.StatusForbidden && code != http.StatusBadRequest && code != http.StatusNotFound {
			t.Errorf("%s: got %d", path, code)
		}
	}
}

// dial connects to the server as anybody can.
func (c *cast) dial(t *testing.T) net.Conn {
	t.Helper()
	config := c.people[viewer].Config
	u, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(config.CAData)
	connection, err := tls.Dial("tcp", u.Host, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

// raw sends bytes as they are and gives the code of the answer; 0 if the connection is closed without one.
func (c *cast) raw(t *testing.T, text string) int {
	t.Helper()
	connection := c.dial(t)
	_ = connection.SetDeadline(time.Now().Add(time.Minute))
	if _, err := connection.Write([]byte(text)); err != nil {
		return 0
	}
	answer, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	return answer.StatusCode
}

// large bodies and headers are refused, whatever they pretend to be.
func (c *cast) large(t *testing.T) {
	body := `{"a":"` + strings.Repeat("x", 5<<20) + `"}`
	path := "/apis/yunfan.io/v1alpha1/namespaces/" + c.Tenant + "/configurations"
	if code, text := send(t, c.people[operator].Config, http.MethodPost, path, body); code != http.StatusRequestEntityTooLarge {
		t.Errorf("a body of 5 MiB: got %d %.300s", code, text)
	}
	for _, protocol := range []string{"websocket", "SPDY/3.1"} {
		code := c.raw(t, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
			path, c.people[operator].Config.BearerToken, protocol, len(body), body))
		if code != http.StatusRequestEntityTooLarge && code != http.StatusBadRequest && code != 0 {
			t.Errorf("a body of 5 MiB that pretends to be %s: got %d", protocol, code)
		}
	}
	head := "GET /version HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Fill: "+strings.Repeat("y", 1000)+"\r\n", 400) + "\r\n"
	if code := c.raw(t, head); code != http.StatusRequestHeaderFieldsTooLarge && code != 0 {
		t.Errorf("headers of 400 KiB: got %d", code)
	}
}

// slow clients send a byte now and then, to keep connections: they are cut off, and others are served meanwhile.
func (c *cast) slow(t *testing.T) {
	const clients = 50
	var connections []net.Conn
	for range clients {
		connection := c.dial(t)
		_, _ = connection.Write([]byte("POST /apis/yunfan.io/v1alpha1/namespaces/x/applications HTTP/1.1\r\nHost: x\r\nX-"))
		connections = append(connections, connection)
	}
	began := time.Now()
	if code, _ := c.ask(admin, http.MethodGet, "/api/v1/applications", nil); code != http.StatusOK || time.Since(began) > 15*time.Second {
		t.Errorf("beside %d slow clients: %d after %s", clients, code, time.Since(began))
	}
	deadline := time.Now().Add(time.Minute)
	for _, connection := range connections {
		_ = connection.SetReadDeadline(deadline)
		buffer := make([]byte, 1<<10)
		for {
			if _, err := connection.Read(buffer); err != nil {
				if timeout, ok := err.(net.Error); ok && timeout.Timeout() { //nolint:errorlint // as net gives it
					t.Fatal("a client that never ends its headers is still connected after a minute")
				}
				break
			}
		}
	}
}

// reserved names of tenants would own namespaces of the system.
func (c *cast) reserved(t *testing.T) {
	for _, name := range []string{"default", "kube-system", "kube-public", "yunfan-system", "yunfan"} {
		code, text := c.ask(platform, http.MethodPost, "/apis/yunfan.io/v1alpha1/tenants", kindNamed("Tenant", name, map[string]any{}))
		if code != http.StatusUnprocessableEntity {
			t.Errorf("a tenant named %s: got %d %.300s", name, code, text)
		}
		code, text = c.ask(admin, http.MethodPost, "/apis/yunfan.io/v1alpha1/namespaces/"+name+"/memberships",
			kindNamed("Membership", "x", map[string]any{"role": "Admin", "subject": map[string]any{"kind": "User", "name": c.people[admin].Name}}))
		if code != http.StatusForbidden {
			t.Errorf("a membership in %s: got %d %.300s", name, code, text)
		}
	}
	// A membership in another tenant for oneself, a sub-partition elsewhere, a partition of the whole.
	for path, object := range map[string]map[string]any{
		c.other.Tenant + "/memberships": kindNamed("Membership", "x", map[string]any{"role": "Admin", "subject": map[string]any{"kind": "User", "name": c.people[admin].Name}}),
		c.Tenant + "/partitions":        kindNamed("Partition", "x", map[string]any{"cluster": "shanghai", "namespace": c.other.Tenant + "-whole", "adopt": true}),
	} {
		if code, text := c.ask(admin, http.MethodPost, "/apis/yunfan.io/v1alpha1/namespaces/"+path, object); code != http.StatusForbidden {
			t.Errorf("%s: got %d %.300s", path, code, text)
		}
	}
}

func kindNamed(name, object string, spec map[string]any) map[string]any {
	o := kind(name, spec)
	o["metadata"] = map[string]any{"name": object}
	return o
}

// waysOut are pod templates that try to leave their partition: none of their pods ever runs.
func (c *cast) waysOut(t *testing.T) {
	yes := true
	root := int64(0)
	for name, change := range map[string]func(*corev1.PodSpec){
		"host-network": func(s *corev1.PodSpec) { s.HostNetwork = true },
		"host-pid":     func(s *corev1.PodSpec) { s.HostPID = true },
		"host-ipc":     func(s *corev1.PodSpec) { s.HostIPC = true },
		"privileged":   func(s *corev1.PodSpec) { s.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes} },
		"host-path": func(s *corev1.PodSpec) {
			s.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
		},
		"host-port": func(s *corev1.PodSpec) { s.Containers[0].Ports[0].HostPort = 22 },
		"capability": func(s *corev1.PodSpec) {
			s.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsUser: &root, Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"SYS_ADMIN"}}}
		},
		"node-name":       func(s *corev1.PodSpec) { s.NodeName = c.node() },
		"every-taint":     func(s *corev1.PodSpec) { s.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} },
		"priority":        func(s *corev1.PodSpec) { s.PriorityClassName = "system-node-critical" },
		"service-account": func(s *corev1.PodSpec) { s.ServiceAccountName = v1alpha1.DeliveryServiceAccount },
	} {
		component := journey.Echo(name)
		change(&component.Template.Spec)
		app := &v1alpha1.Application{
			ObjectMeta: metav1.ObjectMeta{Namespace: c.Tenant, Name: name},
			TypeMeta:   metav1.TypeMeta{APIVersion: "yunfan.io/v1alpha1", Kind: "Application"},
			Spec:       v1alpha1.ApplicationSpec{Placement: journey.In("whole"), Components: []v1alpha1.Component{component}},
		}
		code, text := c.ask(operator, http.MethodPost, "/apis/yunfan.io/v1alpha1/namespaces/"+c.Tenant+"/applications", app)
		if code >= 400 && code < 500 {
			continue // refused at once
		}
		if code != http.StatusCreated {
			t.Errorf("%s: got %d %.300s", name, code, text)
			continue
		}
		c.Eventually(c.Condition(app, v1alpha1.ConditionReady)).Should(HavePrefix("False"), name)
		c.Consistently(func() string {
			for _, pod := range c.Pods(journey.Beijing, c.whole, name) {
				if pod.Status.Phase == corev1.PodRunning {
					return fmt.Sprintf("pod %s of %s runs", pod.Name, name)
				}
			}
			return ""
		}, "2s").Should(BeEmpty())
	}
}
