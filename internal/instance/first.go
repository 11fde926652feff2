package instance

import (
	"context"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cli"
)

// firstTimeout is how long the server may take to make the first administrator.
const firstTimeout = time.Minute

// firstAdministrator is who signs in first, and where.
type firstAdministrator struct {
	url string
	// secret holds the generated password; nil if it was shown before.
	secret *corev1.Secret
}

// firstAdministrator waits until the server has made him.
func (i *Instance) firstAdministrator(ctx context.Context, hub client.Client) (*firstAdministrator, error) {
	const namespace = "yunfan-system"
	first := &firstAdministrator{}
	err := cli.Until(ctx, firstTimeout, i.Progress, func(ctx context.Context) (bool, string, error) {
		// In this order: the server writes the password down before it makes the user.
		secret, users := &corev1.Secret{}, &v1alpha1.UserList{}
		if err := hub.List(ctx, users, client.Limit(1)); err != nil {
			return false, "", fmt.Errorf("looking for users: %w", err)
		}
		err := hub.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "yunfan-first-administrator"}, secret)
		if apierrors.IsNotFound(err) {
			return len(users.Items) > 0, "waiting for the first administrator", nil
		}
		if err != nil {
			return false, "", fmt.Errorf("reading the first administrator's password: %w", err)
		}
		first.secret = secret
		return len(secret.Data["ready"]) > 0, "waiting for the first administrator", nil
	})
	if err != nil {
		return nil, fmt.Errorf("waiting for the first administrator: %w", err)
	}
	where := &corev1.ConfigMap{}
	if err := hub.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "yunfan-server"}, where); err != nil {
		return nil, fmt.Errorf("asking the hub where the server is: %w", err)
	}
	first.url = where.Data["url"]
	return first, nil
}

// tell prints where to sign in and, once, the generated password.
func (f *firstAdministrator) tell(ctx context.Context, hub client.Client, out io.Writer) error {
	fmt.Fprintf(out, "\nSign in at %s\n", f.url)
	if f.secret == nil {
		return nil
	}
	fmt.Fprintf(out, "  user      %s\n  password  %s\nThe password was generated, is shown this once, and must be changed at the first sign-in.\n",
		f.secret.Data["user"], f.secret.Data["password"])
	if err := client.IgnoreNotFound(hub.Delete(ctx, f.secret)); err != nil {
		return fmt.Errorf("deleting the password that was shown: %w", err)
	}
	return nil
}
