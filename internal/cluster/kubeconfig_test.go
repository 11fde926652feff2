package cluster_test

import "k8s.io/client-go/rest"

func copyWith(config *rest.Config, ca, certificate, key []byte) *rest.Config {
	out := rest.CopyConfig(config)
	out.CAData, out.CertData, out.KeyData = ca, certificate, key
	return out
}
