package login

import (
	"context"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// firstSecret is where the server writes the first administrator's password down, until somebody has read it.
var firstSecret = client.ObjectKey{Namespace: "yunfan-system", Name: "yunfan-first-administrator"}

// FirstPassword shows the first administrator's password to whoever administers the hub, and deletes it there.
func FirstPassword(ctx context.Context, hub client.Client, out io.Writer) error {
	secret := &corev1.Secret{}
	err := hub.Get(ctx, firstSecret, secret)
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("the first administrator's password was shown before, or the server has not run yet (docs/sign-in.md says how to give a new one): %w", err)
	}
	if err != nil {
		return fmt.Errorf("reading the first administrator's password: %w", err)
	}
	if len(secret.Data["ready"]) == 0 {
		return apierrors.NewServiceUnavailable("the server is just making the first administrator: try again in a few seconds")
	}
	if err := hub.Delete(ctx, secret, client.Preconditions{UID: &secret.UID}); err != nil {
		return fmt.Errorf("deleting the first administrator's password, so that it is shown once: %w", err)
	}
	fmt.Fprintf(out, "%s %s\n", secret.Data["user"], secret.Data["password"])
	return nil
}
