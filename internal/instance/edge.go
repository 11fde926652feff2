package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cli"
)

const (
	edgeService = "edge"
	// edgeTimeout is how long the edge's program may take to write down its token and certificate.
	edgeTimeout = 30 * time.Second
)

// edgeProgram is the load balancer in front of the clusters. It is a process of its own: it serves while the server is
// away. Nothing waits for it to be ready: an edge whose ports are taken must not keep the rest from coming up.
func edgeProgram(self string) map[string]any {
	return map[string]any{
		"name": edgeService,
		"command": []any{
			self, "edge", "--dir", "${data}/edge", "--listen", "${gateway}:8444", "--http", "${gateway}:80", "--https", "${gateway}:443",
			"--drain", "1s", // the engine waits three
		},
	}
}

// noEdge says why this machine can run no edge; nil if it can.
func (i *Instance) noEdge() error {
	if i.Edge == nil {
		return errors.New("it was not asked for")
	}
	return i.Edge()
}

// services are our programs that run beside the clusters, among those that the user has.
func (i *Instance) services(present []any, self string) []any {
	ours := services(self)
	if i.noEdge() == nil {
		return mergeServices(present, append(ours, edgeProgram(self)))
	}
	// One that cannot run would only be started again and again.
	rest := slices.DeleteFunc(slices.Clone(present), func(service any) bool {
		s, ok := service.(map[string]any)
		return ok && s["name"] == edgeService
	})
	return mergeServices(rest, ours)
}

// joinEdge makes the edge of this machine an Edge of the hub. One that is there already stays, with what users changed;
// its credentials are those that the program has now.
func (i *Instance) joinEdge(ctx context.Context, hub client.Client, gateway string) (*v1alpha1.Edge, error) {
	credentials := map[string][]byte{}
	err := cli.Until(ctx, edgeTimeout, i.Progress, func(context.Context) (bool, string, error) {
		for entry, file := range map[string]string{"token": "token", "ca.crt": "tls.crt"} {
			content, err := os.ReadFile(filepath.Join(i.DataDir, "edge", file))
			if errors.Is(err, fs.ErrNotExist) {
				return false, "waiting for the edge", nil
			}
			if err != nil {
				return false, "", fmt.Errorf("reading the edge's credentials: %w", err)
			}
			credentials[entry] = content
		}
		return true, "the edge is up", nil
	})
	if err != nil {
		return nil, fmt.Errorf("joining the edge: %w", err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: platformNamespace, Name: "default-edge"}}
	if _, err := controllerutil.CreateOrUpdate(ctx, hub, secret, func() error {
		secret.Data = credentials
		return nil
	}); err != nil {
		return nil, fmt.Errorf("keeping the edge's credentials on the hub: %w", err)
	}
	edge := &v1alpha1.Edge{
		ObjectMeta: metav1.ObjectMeta{Name: "default"},
		Spec: v1alpha1.EdgeSpec{
			Driver: v1alpha1.EdgeDriverAgent, Endpoints: []string{"https://" + gateway + ":8444"},
			CredentialsSecretRef: v1alpha1.SecretReference{Name: secret.Name},
			Addresses:            []string{"http://" + gateway, "https://" + gateway},
		},
	}
	if err := createOnce(ctx, hub, edge); err != nil {
		return nil, err
	}
	if err := hub.Get(ctx, client.ObjectKeyFromObject(edge), edge); err != nil {
		return nil, fmt.Errorf("reading Edge %s: %w", edge.Name, err)
	}
	return edge, nil
}

// tryEdge joins the edge if there is one, and says where it is reached or why there is none. What is wrong with it keeps
// nothing else from working.
func (i *Instance) tryEdge(ctx context.Context, hub client.Client, gateway string) string {
	if err := i.noEdge(); err != nil {
		return fmt.Sprintf("Routes are not reached from outside, for there is no edge: %v", err)
	}
	edge, err := i.joinEdge(ctx, hub, gateway)
	if err != nil {
		return fmt.Sprintf("Routes are not reached from outside: %v; what the edge says is in %s", err, filepath.Join(i.DataDir, "services", edgeService, "log", "edge.log"))
	}
	return "Routes are reached at " + strings.Join(edge.Spec.Addresses, " and ")
}
