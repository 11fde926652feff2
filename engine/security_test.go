//go:build e2e

package engine_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"yunfan.io/engine/pki"
	"yunfan.io/engine/topology"
)

const clearText = "in-clear-nobody-may-find-me"

// TestSEC09_EncryptionAtRest reads what etcd holds, around the API server.
func TestSEC09_EncryptionAtRest(t *testing.T) {
	i := start(t, "{name: e2e-secret, clusters: [{name: hub, nodes: 0}]}")
	i.step("Secrets are encrypted, the rest is not touched", func() {
		g := NewWithT(i.t)
		i.kubectl("hub", "", "create", "secret", "generic", "first", "--from-literal=word="+clearText)
		g.Expect(i.inEtcd("/registry/secrets/default/first")).To(HavePrefix("k8s:enc:secretbox:v1:key-"))
		files, err := filepath.Glob(filepath.Join(i.data, "clusters/hub/control-plane/etcd/member/*/*"))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(len(files)).To(BeNumerically(">=", 2), "the database and the log of what comes in")
		for _, file := range files {
			content, err := os.ReadFile(file)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(bytes.Contains(content, []byte(clearText))).To(BeFalse(), "%s has it in clear", file)
		}
		g.Expect(i.inEtcd("/registry/namespaces/default")).To(HavePrefix("k8s\x00"))
	})
	i.step("the API server tells who wrote what, without the content", i.testAuditLog)
	i.step("a new key", func() {
		g := NewWithT(i.t)
		before := i.inEtcd("/registry/secrets/default/first")[:50]
		i.run("rotate-key", "hub")
		g.Eventually(func() string { return i.inEtcd("/registry/secrets/default/first")[:50] }).WithTimeout(patience).ShouldNot(Equal(before))
		g.Expect(i.secret("first")).To(Equal(clearText))
	})
	i.step("data from before there was a key is taken over", i.testUpgrade)
}

func (i *instance) testAuditLog() {
	g := NewWithT(i.t)
	log := filepath.Join(i.data, "clusters/hub/control-plane/log/audit.log")
	content, err := os.ReadFile(log)
	g.Expect(err).NotTo(HaveOccurred())
	info, err := os.Stat(log)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o600)))
	g.Expect(bytes.Contains(content, []byte(clearText))).To(BeFalse(), "content is not part of it")
	found := false
	for line := range bytes.Lines(content) {
		var e struct {
			Verb string
			User struct{ Username string }
			// The object of the request.
			ObjectRef struct{ Resource, Name string }
		}
		g.Expect(json.Unmarshal(line, &e)).To(Succeed())
		g.Expect(e.Verb).To(BeElementOf("create", "update", "patch", "delete", "deletecollection", "connect"), "%s", line)
		g.Expect(e.ObjectRef.Resource).NotTo(Equal("leases"))
		found = found || e.Verb == "create" && e.ObjectRef.Resource == "secrets" && e.ObjectRef.Name == "first" && e.User.Username == "yunfan-admin"
	}
	g.Expect(found).To(BeTrue(), "who created the Secret")
}

// testUpgrade writes a Secret with an API server that does not encrypt, then starts the engine as it is.
func (i *instance) testUpgrade() {
	g := NewWithT(i.t)
	i.run("up") // forgets the key that is in use no more
	i.run("down")
	file := filepath.Join(i.data, "clusters/hub/pki/encryption.yaml")
	encrypting, err := os.ReadFile(file)
	g.Expect(err).NotTo(HaveOccurred())
	const identity = "  - identity: {}\n"
	g.Expect(string(encrypting)).To(ContainSubstring(identity))
	plain := strings.Replace(strings.Replace(string(encrypting), identity, "", 1), "  - secretbox:", identity+"  - secretbox:", 1)
	g.Expect(os.WriteFile(file, []byte(plain), 0o600)).To(Succeed())
	i.run("up")
	i.kubectl("hub", "", "create", "secret", "generic", "old", "--from-literal=word="+clearText)
	g.Expect(i.inEtcd("/registry/secrets/default/old")).To(HavePrefix("k8s\x00"), "as an older engine wrote it")

	i.run("down")
	g.Expect(os.WriteFile(file, encrypting, 0o600)).To(Succeed())
	g.Expect(os.Remove(filepath.Join(i.data, "clusters/hub/pki/encryption-key-in-use"))).To(Succeed())
	i.run("up")
	g.Eventually(func() string { return i.inEtcd("/registry/secrets/default/old") }).WithTimeout(patience).Should(HavePrefix("k8s:enc:secretbox:v1:key-"))
	g.Expect(i.secret("old")).To(Equal(clearText))
	g.Expect(i.secret("first")).To(Equal(clearText))
}

func (i *instance) secret(name string) string {
	i.t.Helper()
	var value string
	NewWithT(i.t).Eventually(func() error { // the API server may be starting anew
		text, err := i.tryKubectl("hub", "", "get", "secret", name, "-o", "jsonpath={.data.word}")
		if err != nil {
			return err
		}
		raw, err := base64.StdEncoding.DecodeString(text)
		value = string(raw)
		return err
	}).WithTimeout(patience).Should(Succeed())
	return value
}

// inEtcd reads a key of the hub's etcd, which listens inside its unit's network only.
func (i *instance) inEtcd(key string) string {
	i.t.Helper()
	g := NewWithT(i.t)
	s := pki.Store{Dir: topology.Paths{Data: i.data}.PKI("hub")}
	pair, err := tls.LoadX509KeyPair(s.Cert("etcd-client"), s.Key("etcd-client"))
	g.Expect(err).NotTo(HaveOccurred())
	ca, err := os.ReadFile(s.Cert("etcd-ca"))
	g.Expect(err).NotTo(HaveOccurred())
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	pid := i.process("hub/etcd").PID
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialInside(ctx, pid, network, address)
		},
	}}
	ask, err := json.Marshal(map[string][]byte{"key": []byte(key)})
	g.Expect(err).NotTo(HaveOccurred())
	resp, err := client.Post("https://127.0.0.1:2379/v3/kv/range", "application/json", bytes.NewReader(ask))
	g.Expect(err).NotTo(HaveOccurred())
	defer resp.Body.Close()
	var answer struct{ Kvs []struct{ Value []byte } }
	g.Expect(json.NewDecoder(resp.Body).Decode(&answer)).To(Succeed())
	g.Expect(answer.Kvs).To(HaveLen(1), key)
	return string(answer.Kvs[0].Value)
}

// dialInside connects within the network of a process. The thread is given up afterwards, having changed sides.
func dialInside(ctx context.Context, pid int, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			err = unix.Setns(fd, unix.CLONE_NEWNET)
		}
		if err != nil {
			done <- result{nil, err}
			return
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
