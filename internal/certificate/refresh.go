package certificate

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// refreshInterval is how often kubeconfigs of embedded clusters are compared: certificates are renewed months before
// their end.
const refreshInterval = time.Minute

// Refresh keeps the hub's copies of the embedded members' kubeconfigs as the engine writes them: with a client
// certificate that was renewed. Of several servers the leader does it.
type Refresh struct {
	// Hub reads past any cache.
	Hub         client.Client
	Namespace   string
	InstanceDir string
}

// Start compares again and again until ctx ends.
func (r *Refresh) Start(ctx context.Context) error {
	ticker := time.NewTicker(refreshInterval)
	defer ticker.Stop()
	for {
		if err := r.once(ctx); err != nil && ctx.Err() == nil {
			ctrl.LoggerFrom(ctx).Error(err, "Kubeconfigs of embedded clusters are compared again in a minute")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (r *Refresh) once(ctx context.Context) error {
	files, err := filepath.Glob(filepath.Join(r.InstanceDir, "kubeconfig", "*.kubeconfig"))
	if err != nil {
		return fmt.Errorf("looking for kubeconfigs: %w", err)
	}
	for _, file := range files {
		fresh, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("reading a kubeconfig: %w", err)
		}
		secret := &corev1.Secret{}
		key := client.ObjectKey{Namespace: r.Namespace, Name: strings.TrimSuffix(filepath.Base(file), ".kubeconfig") + "-kubeconfig"}
		if err := r.Hub.Get(ctx, key, secret); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("reading Secret %s: %w", key.Name, err)
		} else if err != nil || bytes.Equal(secret.Data["kubeconfig"], fresh) || !sameServer(secret.Data["kubeconfig"], fresh) {
			continue
		}
		secret.Data["kubeconfig"] = fresh
		if err := r.Hub.Update(ctx, secret); err != nil {
			return fmt.Errorf("renewing Secret %s: %w", key.Name, err)
		}
	}
	return nil
}

// sameServer tells whether both lead to the same API server, known by the same authority: a user may have joined another
// cluster under the name.
func sameServer(a, b []byte) bool {
	one, err1 := clientcmd.RESTConfigFromKubeConfig(a)
	other, err2 := clientcmd.RESTConfigFromKubeConfig(b)
	return err1 == nil && err2 == nil && one.Host == other.Host && bytes.Equal(one.CAData, other.CAData)
}
