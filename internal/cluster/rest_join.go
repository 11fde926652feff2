package cluster

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// maxKubeconfig is the largest kubeconfig that is taken, in bytes: a Secret holds no more.
const maxKubeconfig = 1 << 20

// Joined is the answer to a kubeconfig.
type Joined struct {
	Name string `json:"name"`
	// Created says that the cluster was not known before.
	Created bool `json:"created"`
}

// join takes the kubeconfig of a cluster, of one that is new or of one that has new credentials. Nobody reads it back:
// it goes into a Secret of the platform's own.
func (a *API) join(r *http.Request) (Joined, error) {
	ctx, name := r.Context(), r.PathValue("cluster")
	may := authorizationv1.ResourceAttributes{Group: v1alpha1.GroupVersion.Group, Resource: "clusters", Name: name}
	for _, may.Verb = range []string{"create", "update"} {
		if err := a.Authorizer.Require(ctx, may); err != nil {
			return Joined{}, err
		}
	}
	var asked struct {
		Kubeconfig string `json:"kubeconfig"`
	}
	if err := rest.ReadBody(r, &asked); err != nil {
		return Joined{}, apierrors.NewBadRequest(`the body cannot be read: send {"kubeconfig": "…"}`) // the reader's words may quote it
	}
	text := []byte(asked.Kubeconfig)
	if len(text) > maxKubeconfig {
		return Joined{}, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("a kubeconfig has at most %d bytes", maxKubeconfig))
	}
	if _, err := parseKubeconfig(text); err != nil {
		return Joined{}, apierrors.NewBadRequest(fmt.Sprintf("the kubeconfig cannot be used: %v", err))
	}
	// The API server checks the name before the Secret is written under it.
	cluster := &v1alpha1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.ClusterSpec{Connection: v1alpha1.ClusterConnection{
			KubeconfigSecretRef: &v1alpha1.SecretReference{Name: name + "-kubeconfig"},
		}},
	}
	if err := a.Hub.Create(ctx, cluster.DeepCopy(), client.DryRunAll); client.IgnoreAlreadyExists(err) != nil {
		return Joined{}, fmt.Errorf("creating cluster %s: %w", name, err)
	}
	if err := a.keepKubeconfig(ctx, cluster.Spec.Connection.KubeconfigSecretRef.Name, text); err != nil {
		return Joined{}, err
	}
	err := a.Hub.Create(ctx, cluster)
	if apierrors.IsAlreadyExists(err) {
		return Joined{Name: name}, a.useKubeconfig(ctx, name)
	}
	if err != nil {
		return Joined{}, fmt.Errorf("creating cluster %s: %w", name, err)
	}
	return Joined{Name: name, Created: true}, nil
}

func (a *API) keepKubeconfig(ctx context.Context, name string, text []byte) error {
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: secretNamespace, Name: name}, Data: map[string][]byte{secretKey: text},
	}
	err := a.Hub.Create(ctx, secret.DeepCopy())
	if apierrors.IsAlreadyExists(err) {
		patch := fmt.Appendf(nil, `{"data":{%q:%q}}`, secretKey, base64.StdEncoding.EncodeToString(text))
		err = a.Hub.Patch(ctx, secret, client.RawPatch(types.MergePatchType, patch))
	}
	if err != nil { // the API server's words may quote what was sent
		return errors.Join(apierrors.NewServiceUnavailable("the kubeconfig could not be stored: try again"), fmt.Errorf("writing Secret %s: %s", name, apierrors.ReasonForError(err)))
	}
	return nil
}

// useKubeconfig has a cluster that was joined another way use what was stored.
func (a *API) useKubeconfig(ctx context.Context, name string) error {
	cluster := &v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: name}}
	patch := fmt.Appendf(nil, `{"spec":{"connection":{"kubeconfigSecretRef":{"name":%q}}}}`, name+"-kubeconfig")
	if err := a.Hub.Patch(ctx, cluster, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return fmt.Errorf("changing the credentials of cluster %s: %w", name, err)
	}
	return nil
}
