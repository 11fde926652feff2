package cluster

import (
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const secret = "s3cr3t-token"

func kubeconfig(t *testing.T, change func(*clientcmdapi.Cluster, *clientcmdapi.AuthInfo, *clientcmdapi.Config)) []byte {
	t.Helper()
	server, user := &clientcmdapi.Cluster{Server: "https://c:6443"}, &clientcmdapi.AuthInfo{Token: secret}
	config := &clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"c": server}, AuthInfos: map[string]*clientcmdapi.AuthInfo{"u": user},
		Contexts: map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}}, CurrentContext: "x",
	}
	change(server, user, config)
	data, err := clientcmd.Write(*config)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestCLU01_ParseKubeconfig(t *testing.T) {
	type (
		server = clientcmdapi.Cluster
		user   = clientcmdapi.AuthInfo
		config = clientcmdapi.Config
	)
	cases := map[string]struct {
		change func(*server, *user, *config)
		want   string // of the error; empty if it is accepted
	}{
		"Token": {func(*server, *user, *config) {}, ""},
		"Exec": {func(_ *server, u *user, _ *config) {
			u.Exec = &clientcmdapi.ExecConfig{Command: "/bin/sh", APIVersion: "v1"}
		}, "names a program to run"},
		"AuthProvider": {func(_ *server, u *user, _ *config) { u.AuthProvider = &clientcmdapi.AuthProviderConfig{Name: "gcp"} }, "auth-provider is refused"},
		"Certificate":  {func(_ *server, u *user, _ *config) { u.ClientCertificate = "/etc/a" }, "client-certificate names a file"},
		"Key":          {func(_ *server, u *user, _ *config) { u.ClientKey = "/etc/a" }, "client-key names a file"},
		"TokenFile":    {func(_ *server, u *user, _ *config) { u.TokenFile = "/etc/a" }, "tokenFile names a file"},
		"Password":     {func(_ *server, u *user, _ *config) { u.Username, u.Password = "admin", secret }, "username and password are refused"},
		"Impersonate":  {func(_ *server, u *user, _ *config) { u.Impersonate = "root" }, "impersonation"},
		"NoUser":       {func(_ *server, u *user, _ *config) { u.Token = "" }, "no credentials"},
		"CA":           {func(s *server, _ *user, _ *config) { s.CertificateAuthority = "/etc/a" }, "certificate-authority names a file"},
		"BadCA":        {func(s *server, _ *user, _ *config) { s.CertificateAuthorityData = []byte(secret) }, "cannot be read"},
		"BadPair": {func(_ *server, u *user, _ *config) {
			u.ClientCertificateData, u.ClientKeyData = []byte(secret), []byte(secret)
		}, "cannot be read"},
		"Insecure": {func(s *server, _ *user, _ *config) { s.InsecureSkipTLSVerify = true }, "insecure-skip-tls-verify is refused"},
		"Proxy":    {func(s *server, _ *user, _ *config) { s.ProxyURL = "http://proxy:3128" }, "proxy-url is refused"},
		"Plain":    {func(s *server, _ *user, _ *config) { s.Server = "http://c:8080" }, "must be an https:// address"},
		"Context":  {func(_ *server, _ *user, c *config) { c.CurrentContext = "y" }, "does not exist in it"},
		"Cluster":  {func(_ *server, _ *user, c *config) { c.Contexts["x"].Cluster = "d" }, `the cluster "d"`},
		"User":     {func(_ *server, _ *user, c *config) { c.Contexts["x"].AuthInfo = "v" }, `the user "v"`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := parseKubeconfig(kubeconfig(t, tc.change))
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("want an error with %q, got %v", tc.want, err)
			case err != nil && strings.Contains(err.Error(), secret):
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
	for _, data := range []string{"", "token: " + secret + "\n  x", "[" + secret, "kind: Config\nusers:\n- " + secret} {
		if _, err := parseKubeconfig([]byte(data)); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: want an error without the secret, got %v", data, err)
		}
	}
}
