package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSEC07_Renew signs again before, at and after two thirds of a certificate's life.
func TestSEC07_Renew(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	must(t, s.CA("ca", "test"))
	r := Request{Name: "x", CA: "ca", CommonName: "x", Organization: []string{"staff"}, DNS: []string{"x.example"}, IPs: []string{"127.0.0.1"}, Server: true}
	sign := func(life time.Duration) (first, second *x509.Certificate, due []string) {
		must(t, os.RemoveAll(s.Cert("x")))
		must(t, Store{Dir: s.Dir, Lifetime: life}.Sign(r))
		first, err := read(s.Cert("x"))
		must(t, err)
		due, err = s.Due(time.Now())
		must(t, err)
		must(t, s.Sign(r))
		second, err = read(s.Cert("x"))
		must(t, err)
		return first, second, due
	}
	first, second, due := sign(time.Hour)
	if !first.Equal(second) || len(due) > 0 {
		t.Errorf("one with time left is kept; due: %v", due)
	}
	first, second, due = sign(-time.Minute)
	if first.Equal(second) || !cmp.Equal(due, []string{"x"}) {
		t.Errorf("one that has ended is renewed; due: %v", due)
	}
	if !first.PublicKey.(*ecdsa.PublicKey).Equal(second.PublicKey) {
		t.Error("the key changed: programs could read halves that do not belong together")
	}
	if left := time.Until(second.NotAfter); left < year-time.Hour || left > year {
		t.Errorf("a new one has a year: %s", left)
	}
	for _, c := range []*x509.Certificate{first, second} {
		if c.Subject.CommonName != "x" || !cmp.Equal(c.Subject.Organization, []string{"staff"}) || !cmp.Equal(c.DNSNames, []string{"x.example"}) || len(c.IPAddresses) != 1 || len(c.ExtKeyUsage) != 2 {
			t.Errorf("it says something else: %v", c.Subject)
		}
	}
	for _, tc := range []struct {
		reason string
		at     time.Duration
		want   bool
	}{{"Young", 0, false}, {"Just before two thirds", 59 * time.Minute, false}, {"Just after", 61 * time.Minute, true}, {"Ended", 4 * time.Hour, true}} {
		start := time.Now()
		c := &x509.Certificate{NotBefore: start, NotAfter: start.Add(90 * time.Minute)}
		if got := Due(c, start.Add(tc.at)); got != tc.want {
			t.Errorf("%s: due is %v", tc.reason, got)
		}
	}
}

// TestSEC07_EnterpriseAuthority signs by an authority that was given, in every form of key it may come.
func TestSEC07_EnterpriseAuthority(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	sec1, err := x509.MarshalECPrivateKey(ec)
	must(t, err)
	cases := map[string]struct {
		reason   string
		template x509.Certificate
		key      any
		public   any
		pem      pem.Block
		refused  string
	}{
		"EC":     {"As openssl ecparam makes it", x509.Certificate{IsCA: true}, ec, ec.Public(), pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}, ""},
		"RSA":    {"As openssl genrsa -traditional makes it", x509.Certificate{IsCA: true}, private, private.Public(), pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}, ""},
		"PKCS8":  {"As openssl genpkey makes it", x509.Certificate{IsCA: true, MaxPathLen: 1}, private, private.Public(), pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}, ""},
		"Leaf":   {"One for a server cannot sign", x509.Certificate{}, ec, ec.Public(), pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}, "no certificate authority"},
		"Path":   {"One that may sign no authorities", x509.Certificate{IsCA: true, MaxPathLenZero: true}, ec, ec.Public(), pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}, "path length"},
		"Ended":  {"One that has ended", x509.Certificate{IsCA: true, NotAfter: time.Now().Add(-time.Hour)}, ec, ec.Public(), pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}, "ended"},
		"Others": {"The key of another one", x509.Certificate{IsCA: true}, ec, ec.Public(), pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}, "does not belong"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			c := tc.template
			c.SerialNumber, c.Subject, c.BasicConstraintsValid = big.NewInt(1), pkix.Name{CommonName: "Enterprise Root"}, true
			c.NotBefore = time.Now().Add(-time.Hour)
			if c.NotAfter.IsZero() {
				c.NotAfter = time.Now().Add(year)
			}
			der, err := x509.CreateCertificate(rand.Reader, &c, &c, tc.public, tc.key)
			must(t, err)
			rootPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
			must(t, os.WriteFile(filepath.Join(parent, "ca.crt"), rootPEM, 0o600))
			must(t, os.WriteFile(filepath.Join(parent, "ca.key"), pem.EncodeToMemory(&tc.pem), 0o600))

			s := Store{Dir: t.TempDir(), Parent: parent}
			err = s.CA("ca", "kubernetes-a")
			if tc.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tc.refused) {
					t.Fatalf("%s: got %v, want it to say %q", tc.reason, err, tc.refused)
				}
				return
			}
			must(t, err)
			must(t, s.Sign(Request{Name: "server", CA: "ca", CommonName: "server", DNS: []string{"a.example"}, ServerOnly: true}))
			text, err := os.ReadFile(s.Cert("server"))
			must(t, err)
			leaf, rest := pem.Decode(text)
			cert, err := x509.ParseCertificate(leaf.Bytes)
			must(t, err)
			own, err := os.ReadFile(s.Cert("ca"))
			must(t, err)
			for trusted, chain := range map[string][]byte{string(rootPEM): rest, string(own): nil} { // the enterprise's with what the server sends; the cluster's
				roots, between := x509.NewCertPool(), x509.NewCertPool()
				roots.AppendCertsFromPEM([]byte(trusted))
				between.AppendCertsFromPEM(chain)
				if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: "a.example"}); err != nil {
					t.Errorf("%s: %v", tc.reason, err)
				}
			}
			if cert.NotAfter.After(c.NotAfter) {
				t.Error("it lives longer than its authority")
			}
			if due, err := s.Due(time.Now()); err != nil || len(due) > 0 {
				t.Errorf("due: %v, %v", due, err)
			}
		})
	}
}
