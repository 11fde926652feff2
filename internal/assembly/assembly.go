// Package assembly is the one list of every capability: what the server consists of, one constructor per line, in the
// order in which they are made.
package assembly

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/internal/rest"
)

// Uncached keeps Secrets and ConfigMaps of the hub out of the cache: it would hold those of every namespace.
var Uncached = []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}}

// Add registers every capability's controllers and webhooks with the manager and gives their routes.
func Add(mgr manager.Manager, authorizer *rest.Authorizer) ([]rest.Route, error) {
	for _, add := range []func() error{} {
		if err := add(); err != nil {
			return nil, fmt.Errorf("assembling: %w", err)
		}
	}
	return nil, nil
}
