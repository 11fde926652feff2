package secret

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// pair makes a certificate with its key, both PEM.
func pair(t *testing.T, names []string, end time.Time) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: end.Add(-time.Hour), NotAfter: end, DNSNames: names}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
}

func TestSEC09_Types(t *testing.T) {
	soon := time.Now().Add(30 * 24 * time.Hour)
	certificate, key := pair(t, []string{"a.example", "b.example"}, soon)
	_, foreign := pair(t, []string{"a.example"}, soon)
	ended, endedKey := pair(t, []string{"a.example"}, time.Now().Add(-time.Hour))
	nameless, namelessKey := pair(t, nil, soon)
	tls := func(c, k string) string {
		text, err := json.Marshal(Input{TLS: &TLS{c, k}})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	var many strings.Builder
	for i := range 101 {
		many.WriteString(strings.Repeat("k", i+1) + ": x, ")
	}
	cases := map[string]struct {
		reason, body string
		there        corev1.SecretType
		kind         corev1.SecretType
		refused      string
	}{
		"Opaque":         {"Nothing else is said", `{stringData: {a: b}}`, "", corev1.SecretTypeOpaque, ""},
		"Registry":       {"", `{registry: {server: r.example, username: u, password: p}}`, "", corev1.SecretTypeDockerConfigJson, ""},
		"Docker":         {"As docker login writes it", `{type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: '{"auths": {"r.example": {"auth": "dTpw"}}}'}}`, "", corev1.SecretTypeDockerConfigJson, ""},
		"Docker empty":   {"", `{type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: '{}'}}`, "", "", "as 'docker login' writes it"},
		"Docker broken":  {"", `{type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: 'hidden'}}`, "", "", "as 'docker login' writes it"},
		"Registry half":  {"", `{registry: {server: r.example, username: u}}`, "", "", "needs server, username"},
		"Registry as":    {"Types that disagree", `{type: Opaque, registry: {server: r.example, username: u, password: p}}`, "", "", "leave type out"},
		"TLS":            {"", tls(certificate, key), "", corev1.SecretTypeTLS, ""},
		"TLS foreign":    {"The key of another certificate", tls(certificate, foreign), "", "", "do not go together"},
		"TLS ended":      {"", tls(ended, endedKey), "", "", "has ended"},
		"TLS nameless":   {"", tls(nameless, namelessKey), "", "", "names no host"},
		"TLS broken":     {"", tls("hidden", "hidden"), "", "", "do not go together"},
		"TLS half":       {"", `{type: kubernetes.io/tls, stringData: {tls.crt: x}}`, "", "", "two values"},
		"Account":        {"It would be worth nothing", `{type: kubernetes.io/service-account-token, stringData: {token: hidden}}`, "", "", "cannot be delivered"},
		"Unknown":        {"", `{type: example.com/own, stringData: {a: hidden}}`, "", "", "is not known"},
		"Changed":        {"The type stays", `{registry: {server: r.example, username: u, password: hidden}}`, corev1.SecretTypeOpaque, "", "cannot become"},
		"Kept":           {"The type need not be repeated", `{data: {.dockerconfigjson: eyJhdXRocyI6eyJyIjp7fX19}}`, corev1.SecretTypeDockerConfigJson, corev1.SecretTypeDockerConfigJson, ""},
		"Nothing":        {"", `{}`, "", "", "1 to 100 values"},
		"Many":           {"", `{stringData: {` + many.String() + `}}`, "", "", "1 to 100 values"},
		"Large":          {"", `{stringData: {a: ` + strings.Repeat("x", 1<<20) + `}}`, "", "", "1024 KiB"},
		"Name":           {"", `{stringData: {a/b: hidden}}`, "", "", "consists of letters"},
		"Name of folder": {"", `{stringData: {..data: hidden}}`, "", "", "does not begin with '..'"},
		"Not base64":     {"", `{data: {a: "hidden!"}}`, "", "", "is not base64"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			in := &Input{}
			if err := yaml.UnmarshalStrict([]byte(tc.body), in); err != nil {
				t.Fatal(err)
			}
			c, err := in.content(tc.there, nil)
			switch {
			case tc.refused != "" && (err == nil || !strings.Contains(err.Error(), tc.refused)):
				t.Errorf("%s: got %v, want it to say %q", tc.reason, err, tc.refused)
			case tc.refused != "" && strings.Contains(err.Error(), "hidden"):
				t.Errorf("the refusal tells a value: %v", err)
			case tc.refused == "" && err != nil:
				t.Errorf("%s: %v", tc.reason, err)
			case tc.refused == "" && c.kind != tc.kind:
				t.Errorf("%s: type %s, want %s", tc.reason, c.kind, tc.kind)
			}
		})
	}
	in := &Input{TLS: &TLS{certificate, key}}
	c, err := in.content("", nil)
	if err != nil || c.says[annotationHosts] != "a.example,b.example" || c.says[annotationEnd] != soon.UTC().Format(time.RFC3339) {
		t.Errorf("its names and end are shown: %v, %v", c.says, err)
	}
}
