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
	user := cluster + "-" + client
	config := api.Config{
		Clusters:       map[string]*api.Cluster{cluster: {Server: server, CertificateAuthorityData: content[0]}},
		AuthInfos:      map[string]*api.AuthInfo{user: {ClientCertificateData: content[1], ClientKeyData: content[2]}},
		Contexts:       map[string]*api.Context{cluster: {Cluster: cluster, AuthInfo: user}},
		CurrentContext: cluster,
	}
	data, err := clientcmd.Write(config)
	if err != nil {
		return fmt.Errorf("writing kubeconfig %s: %w", path, err)
	}
	return topology.WriteFile(path, data, 0o600)
}
