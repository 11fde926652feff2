package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Kubeconfig makes a kubeconfig with everything inside: for the hub, or for a member through the server, as the same
// user.
func (a *Access) Kubeconfig(ctx context.Context, cluster string) ([]byte, error) {
	path, err := a.path()
	if err != nil {
		return nil, err
	}
	if err := missing(path); err != nil {
		return nil, err
	}
	config, err := (&clientcmd.ClientConfigLoadingRules{Precedence: filepath.SplitList(path)}).Load()
	if err == nil {
		err = errors.Join(clientcmdapi.MinifyConfig(config), clientcmdapi.FlattenConfig(config))
	}
	if err != nil {
		return nil, Usagef("reading the kubeconfig %s: %w", path, err)
	}
	if cluster != "" {
		if err := a.through(ctx, config, cluster); err != nil {
			return nil, err
		}
	}
	text, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("writing the kubeconfig: %w", err)
	}
	return text, nil
}

// through makes the kubeconfig of the hub one of a member.
func (a *Access) through(ctx context.Context, config *clientcmdapi.Config, cluster string) error {
	hub, err := a.Client()
	if err != nil {
		return err
	}
	if err := hub.Get(ctx, client.ObjectKey{Name: cluster}, &v1alpha1.Cluster{}); err != nil {
		return fmt.Errorf("looking for cluster %s: %w", cluster, err)
	}
	server, err := a.Server(ctx)
	if err != nil {
		return err
	}
	current := config.Contexts[config.CurrentContext]
	config.Clusters = map[string]*clientcmdapi.Cluster{cluster: {
		Server: server.URL.JoinPath("clusters", cluster).String(), CertificateAuthorityData: server.Config.CAData,
	}}
	config.Contexts = map[string]*clientcmdapi.Context{cluster: {Cluster: cluster, AuthInfo: current.AuthInfo}}
	config.CurrentContext = cluster
	return nil
}
