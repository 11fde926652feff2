package instance

import (
	"context"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cli"
)

const (
	platformNamespace = "yunfan-system"
	// joinTimeout is how long members may take to become Ready.
	joinTimeout = 2 * time.Minute
)

// places are what is said of the members that the default topology has.
var places = map[string]struct{ displayName, region, zone string }{
	"beijing":  {"北京", "north", "bj-1"},
	"shanghai": {"上海", "east", "sh-1"},
}

// Join makes every member of the running instance a Cluster of its hub and waits until they are Ready.
func (i *Instance) Join(ctx context.Context, hub client.Client, members []Cluster) error {
	for _, member := range members {
		if err := join(ctx, hub, member); err != nil {
			return err
		}
	}
	for _, member := range members {
		err := cli.Until(ctx, joinTimeout, i.Progress, func(ctx context.Context) (bool, string, error) {
			return ready(ctx, hub, &v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: member.Name}})
		})
		if err != nil {
			return fmt.Errorf("joining cluster %s: %w", member.Name, err)
		}
	}
	return nil
}

func join(ctx context.Context, hub client.Client, member Cluster) error {
	kubeconfig, err := os.ReadFile(member.Kubeconfig)
	if err != nil {
		return fmt.Errorf("reading the kubeconfig of cluster %s: %w", member.Name, err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: platformNamespace, Name: member.Name + "-kubeconfig"}}
	if _, err := controllerutil.CreateOrUpdate(ctx, hub, secret, func() error {
		secret.Data = map[string][]byte{"kubeconfig": kubeconfig}
		return nil
	}); err != nil {
		return fmt.Errorf("keeping the kubeconfig of cluster %s on the hub: %w", member.Name, err)
	}
	place := places[member.Name]
	cluster := &v1alpha1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Name: member.Name, Labels: map[string]string{"yunfan.io/environment": "production"}},
		Spec: v1alpha1.ClusterSpec{
			DisplayName: place.displayName, Remarks: "embedded cluster of this machine",
			Connection: v1alpha1.ClusterConnection{Mode: v1alpha1.ConnectionDirect, KubeconfigSecretRef: &v1alpha1.SecretReference{Name: secret.Name}},
			PodCIDRs:   []string{member.PodCIDR},
			Gateway:    v1alpha1.Gateway{Mode: v1alpha1.GatewayManaged},
		},
	}
	if place.region != "" {
		cluster.Labels["yunfan.io/region"], cluster.Labels["yunfan.io/zone"] = place.region, place.zone
	}
	return createOnce(ctx, hub, cluster)
}

// createOnce creates an object; one that is there already stays as it is, with what users changed in it.
func createOnce(ctx context.Context, hub client.Client, object client.Object) error {
	if err := hub.Create(ctx, object); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating %T %s: %w", object, object.GetName(), err)
	}
	return nil
}

// conditioned is a kind of ours.
type conditioned interface {
	client.Object
	StatusConditions() *[]metav1.Condition
}

// ready says whether an object is Ready, and what it says of itself.
func ready(ctx context.Context, hub client.Reader, object conditioned) (bool, string, error) {
	if err := hub.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
		return false, "", fmt.Errorf("reading %s: %w", object.GetName(), err)
	}
	condition := meta.FindStatusCondition(*object.StatusConditions(), v1alpha1.ConditionReady)
	if condition == nil {
		return false, "", nil
	}
	if condition.Status == metav1.ConditionTrue {
		return true, object.GetName() + " is ready", nil
	}
	return false, fmt.Sprintf("%s: %s %s", object.GetName(), condition.Reason, condition.Message), nil
}
