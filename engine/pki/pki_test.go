package pki

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// TestHandshake lets a server and a client of one authority meet by way of a kubeconfig, and refuses the client of
// another authority.
func TestHandshake(t *testing.T) {
	s, other := Store{Dir: filepath.Join(t.TempDir(), "pki")}, Store{Dir: t.TempDir()}
	must(t, s.CA("ca", "test"))
	must(t, s.Sign(Request{Name: "server", CA: "ca", CommonName: "server", IPs: []string{"127.0.0.1"}, ServerOnly: true}))
	must(t, s.Sign(Request{Name: "admin", CA: "ca", CommonName: "li", Organization: []string{"staff"}}))
	must(t, other.CA("ca", "test"))
	must(t, other.Sign(Request{Name: "admin", CA: "ca", CommonName: "li", Organization: []string{"staff"}}))

	pair, err := tls.LoadX509KeyPair(s.Cert("server"), s.Key("server"))
	must(t, err)
	ca, err := os.ReadFile(s.Cert("ca"))
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		subject := r.TLS.PeerCertificates[0].Subject
		_, _ = io.WriteString(w, subject.CommonName+" "+subject.Organization[0])
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	server.StartTLS()
	defer server.Close()

	get := func(file string) (string, error) {
		config, err := clientcmd.BuildConfigFromFlags("", file)
		must(t, err)
		client, err := rest.HTTPClientFor(config)
		must(t, err)
		resp, err := client.Get(config.Host)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	own := filepath.Join(t.TempDir(), "own.kubeconfig")
	must(t, s.Kubeconfig(own, "c", server.URL, "admin"))
	if got, err := get(own); err != nil || got != "li staff" {
		t.Errorf("own client: got %q, %v", got, err)
	}
	foreign := filepath.Join(t.TempDir(), "foreign.kubeconfig")
	must(t, other.Kubeconfig(foreign, "c", server.URL, "admin"))
	if got, err := get(foreign); err == nil {
		t.Errorf("a client of another authority was let in as %q", got)
	}
}

func TestFilesAreKeptAndPrivate(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "pki")}
	makeAll := func() {
		must(t, s.CA("ca", "test"))
		must(t, s.KeyPair("sa"))
		must(t, s.Sign(Request{Name: "x", CA: "ca", CommonName: "x"}))
		must(t, s.Kubeconfig(filepath.Join(s.Dir, "x.kubeconfig"), "c", "https://127.0.0.1", "x"))
	}
	makeAll()
	before := map[string]string{}
	for _, file := range []string{s.Cert("ca"), s.Key("ca"), s.Key("sa"), s.Cert("x"), s.Key("x")} {
		data, err := os.ReadFile(file)
		must(t, err)
		before[file] = string(data)
	}
	makeAll()
	for file, want := range before {
		if data, err := os.ReadFile(file); err != nil || string(data) != want {
			t.Errorf("%s was made anew: %v", file, err)
		}
	}
	for _, file := range []string{s.Key("ca"), s.Key("sa"), s.Key("x"), filepath.Join(s.Dir, "x.kubeconfig")} {
		info, err := os.Stat(file)
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %s, want 0600", file, info.Mode())
		}
	}
	cert, _, err := s.load("ca")
	must(t, err)
	if left := time.Until(cert.NotAfter); left < 9*365*24*time.Hour {
		t.Errorf("the authority ends in %s: a cluster may sleep for years", left)
	}
	if err := s.Sign(Request{Name: "y", CA: "missing", CommonName: "y"}); err == nil {
		t.Error("signed by an authority that does not exist")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
