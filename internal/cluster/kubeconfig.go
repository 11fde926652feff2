package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// parseKubeconfig reads a kubeconfig that is to be used by the server: everything must be inside it, and nothing in it
// may make the server run a program, read its own files or skip a check. Errors never hold any of its content but names.
func parseKubeconfig(data []byte) (*rest.Config, error) {
	kubeconfig, err := clientcmd.Load(data)
	if err != nil {
		// The parser's own message may quote the content.
		return nil, errors.New("it is not a kubeconfig: it cannot be parsed as YAML of kind Config")
	}
	current, ok := kubeconfig.Contexts[kubeconfig.CurrentContext]
	if !ok {
		return nil, fmt.Errorf("its current-context %q does not exist in it: set current-context to one of its contexts", kubeconfig.CurrentContext)
	}
	server, ok := kubeconfig.Clusters[current.Cluster]
	if !ok {
		return nil, fmt.Errorf("the cluster %q of its current context is missing", current.Cluster)
	}
	user, ok := kubeconfig.AuthInfos[current.AuthInfo]
	if !ok {
		return nil, fmt.Errorf("the user %q of its current context is missing", current.AuthInfo)
	}
	if err := errors.Join(checkServer(server), checkUser(user)); err != nil {
		return nil, err
	}
	config, err := clientcmd.NewDefaultClientConfig(*kubeconfig, nil).ClientConfig()
	if err != nil {
		return nil, errors.New("it cannot be used: check server, certificate-authority-data and the user's credentials")
	}
	if _, err := rest.TLSConfigFor(config); err != nil {
		return nil, errors.New("its certificates or key cannot be read: certificate-authority-data, client-certificate-data " +
			"and client-key-data must be base64 of PEM, and the key must belong to the certificate")
	}
	return config, nil
}

func checkServer(c *clientcmdapi.Cluster) error {
	address, err := url.Parse(c.Server)
	switch {
	case err != nil || address.Scheme != "https" || address.Host == "":
		return errors.New("server must be an https:// address")
	case c.InsecureSkipTLSVerify:
		return errors.New("insecure-skip-tls-verify is refused: give certificate-authority-data instead")
	case c.CertificateAuthority != "":
		return errors.New("certificate-authority names a file: put its content into certificate-authority-data")
	case c.ProxyURL != "":
		return errors.New("proxy-url is refused: the server must reach the cluster directly")
	}
	return nil
}

func checkUser(u *clientcmdapi.AuthInfo) error {
	switch {
	case u.Exec != nil:
		return errors.New("the user's exec names a program to run: use a token or client-certificate-data and client-key-data")
	case u.AuthProvider != nil:
		return errors.New("the user's auth-provider is refused: use a token or client-certificate-data and client-key-data")
	case u.ClientCertificate != "":
		return errors.New("client-certificate names a file: put its content into client-certificate-data")
	case u.ClientKey != "":
		return errors.New("client-key names a file: put its content into client-key-data")
	case u.TokenFile != "":
		return errors.New("tokenFile names a file: put its content into token")
	case u.Username != "" || u.Password != "":
		return errors.New("username and password are refused, Kubernetes no longer takes them: use a token or a certificate")
	case u.Impersonate != "" || u.ImpersonateUID != "" || len(u.ImpersonateGroups) > 0 || len(u.ImpersonateUserExtra) > 0:
		return errors.New("impersonation (as, as-groups) is refused: the platform impersonates itself")
	case u.Token == "" && (len(u.ClientCertificateData) == 0 || len(u.ClientKeyData) == 0):
		return errors.New("the user has no credentials: give a token or client-certificate-data and client-key-data")
	}
	return nil
}

// fingerprint stands for the part of a kubeconfig that makes the connection.
func fingerprint(config *rest.Config) string {
	h := sha256.New()
	for _, part := range [][]byte{
		[]byte(config.Host), []byte(config.BearerToken), []byte(config.TLSClientConfig.ServerName),
		config.CAData, config.CertData, config.KeyData,
	} {
		fmt.Fprintf(h, "%d:", len(part))
		h.Write(part)
	}
	return hex.EncodeToString(h.Sum(nil))
}
