package pki

import (
	"fmt"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	api "k8s.io/client-go/tools/clientcmd/api"

	"yunfan.io/engine/topology"
)

// Kubeconfig writes a kubeconfig (mode 0600) that reaches server with the named client certificate, everything inline.
func (s Store) Kubeconfig(path, cluster, server, client string) error {
	var content [3][]byte
	for i, file := range []string{s.Cert("ca"), s.Cert(client), s.Key(client)} {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("writing kubeconfig %s: %w", path, err)
		}
		content[i] = data
	}
	return write(path, cluster, client, api.Cluster{Server: server, CertificateAuthorityData: content[0]},
		api.AuthInfo{ClientCertificateData: content[1], ClientKeyData: content[2]})
}

// KubeconfigOfFiles is Kubeconfig for programs of this machine that run for long: it names the files, and clients take
// notice when they change.
func (s Store) KubeconfigOfFiles(path, cluster, server, client string) error {
	return write(path, cluster, client, api.Cluster{Server: server, CertificateAuthority: s.Cert("ca")},
		api.AuthInfo{ClientCertificate: s.Cert(client), ClientKey: s.Key(client)})
}

func write(path, name, client string, cluster api.Cluster, user api.AuthInfo) error {
	who := name + "-" + client
	data, err := clientcmd.Write(api.Config{
		Clusters:       map[string]*api.Cluster{name: &cluster},
		AuthInfos:      map[string]*api.AuthInfo{who: &user},
		Contexts:       map[string]*api.Context{name: {Cluster: name, AuthInfo: who}},
		CurrentContext: name,
	})
	if err != nil {
		return fmt.Errorf("writing kubeconfig %s: %w", path, err)
	}
	return topology.WriteFile(path, data, 0o600)
}
