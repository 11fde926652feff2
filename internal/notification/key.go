package notification

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	// labelReceiver on a Secret is the UID of the receiver whose keys it has.
	labelReceiver = "yunfan.io/notification-receiver"
	secretEntry   = "secret"
	keysEntry     = "keys"
	// keyPrefix marks a key of webhooks, as Standard Webhooks has it.
	keyPrefix = "whsec_"
	keyBytes  = 32
	// overlap is how long webhooks are signed with the former key, too, after a new one was made.
	overlap = 24 * time.Hour
)

// signingKey signs webhooks.
type signingKey struct {
	Key     []byte    `json:"key"`
	Created time.Time `json:"created"`
	// Until is when it is no longer used; zero for the newest.
	Until time.Time `json:"until,omitzero"`
}

func providerSecret(name string) string { return "notification-provider-" + name }

// receiverSecret is in the platform's namespace: nobody in the tenant reads it.
func receiverSecret(r *v1alpha1.NotificationReceiver) string {
	const length = 16
	sum := sha256.Sum256([]byte(r.Namespace + "/" + r.Name))
	return "notification-receiver-" + hex.EncodeToString(sum[:length])
}

// keysOf are the keys that a receiver's webhooks are signed with now, the newest first; none if none was made.
func (s *Service) keysOf(ctx context.Context, r *v1alpha1.NotificationReceiver) ([]signingKey, error) {
	secret := &corev1.Secret{}
	err := s.live.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: receiverSecret(r)}, secret)
	if apierrors.IsNotFound(err) || err == nil && secret.Labels[labelReceiver] != string(r.UID) { // of another with that name before
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the signing key: %w", err)
	}
	keys, err := readKeys(secret)
	return slices.DeleteFunc(keys, func(k signingKey) bool { return !k.Until.IsZero() && !s.Now().Before(k.Until) }), err
}

func readKeys(secret *corev1.Secret) ([]signingKey, error) {
	var keys []signingKey
	if err := json.Unmarshal(secret.Data[keysEntry], &keys); err != nil {
		return nil, fmt.Errorf("reading the signing key: Secret %s is damaged: make a new key", secret.Name)
	}
	return keys, nil
}

// rotate makes a new key, which is told here and never again. The one before is used beside it for a while.
func (s *Service) rotate(ctx context.Context, r *v1alpha1.NotificationReceiver) (key string, former time.Time, err error) {
	made := make([]byte, keyBytes)
	_, _ = rand.Read(made) // never fails
	now := s.Now().UTC()
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		secret := &corev1.Secret{}
		err := s.live.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: receiverSecret(r)}, secret)
		there := err == nil
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		keys := []signingKey{{Key: made, Created: now}}
		former = time.Time{}
		if there && secret.Labels[labelReceiver] == string(r.UID) {
			if before, err := readKeys(secret); err == nil && len(before) > 0 {
				former = now.Add(overlap)
				keys = append(keys, signingKey{Key: before[0].Key, Created: before[0].Created, Until: former})
			}
		}
		text, err := json.Marshal(keys)
		if err != nil {
			return err
		}
		secret.Namespace, secret.Name = s.Namespace, receiverSecret(r)
		secret.Labels = map[string]string{labelReceiver: string(r.UID)}
		secret.Data = map[string][]byte{keysEntry: text}
		if there {
			return s.hub.Update(ctx, secret)
		}
		return s.hub.Create(ctx, secret)
	})
	if err != nil {
		return "", former, fmt.Errorf("keeping the signing key: %w", err)
	}
	return keyPrefix + base64.StdEncoding.EncodeToString(made), former, nil
}

// secretOf is a provider's password or token; empty if none was written.
func (s *Service) secretOf(ctx context.Context, p *v1alpha1.NotificationProvider) (string, error) {
	secret := &corev1.Secret{}
	err := s.live.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: providerSecret(p.Name)}, secret)
	if apierrors.IsNotFound(err) || err == nil && !metav1.IsControlledBy(secret, p) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the secret of provider %s: %w", p.Name, err)
	}
	return string(secret.Data[secretEntry]), nil
}

// keepSecret writes a provider's password or token, which goes with the provider.
func (s *Service) keepSecret(ctx context.Context, p *v1alpha1.NotificationProvider, value string) error {
	owner := *metav1.NewControllerRef(p, v1alpha1.GroupVersion.WithKind("NotificationProvider"))
	owner.BlockOwnerDeletion = nil
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		secret := &corev1.Secret{}
		err := s.live.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: providerSecret(p.Name)}, secret)
		there := err == nil
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		secret.Namespace, secret.Name = s.Namespace, providerSecret(p.Name)
		secret.OwnerReferences = []metav1.OwnerReference{owner}
		secret.Data = map[string][]byte{secretEntry: []byte(value)}
		if there {
			return s.hub.Update(ctx, secret)
		}
		return s.hub.Create(ctx, secret)
	})
	if err != nil {
		return fmt.Errorf("keeping the secret of provider %s: %w", p.Name, err)
	}
	return nil
}

// dropKeys removes the keys of receivers that are no more.
func (s *Service) dropKeys(ctx context.Context) error {
	var secrets metav1.PartialObjectMetadataList
	secrets.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	if err := s.live.List(ctx, &secrets, client.InNamespace(s.Namespace), client.HasLabels{labelReceiver}); err != nil {
		return fmt.Errorf("listing signing keys: %w", err)
	}
	var receivers v1alpha1.NotificationReceiverList
	if err := s.hub.List(ctx, &receivers, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing receivers: %w", err)
	}
	living := map[string]bool{}
	for i := range receivers.Items {
		living[string(receivers.Items[i].UID)] = true
	}
	for _, item := range secrets.Items {
		if living[item.Labels[labelReceiver]] || s.Now().Sub(item.CreationTimestamp.Time) < time.Minute { // the cache may be behind
			continue
		}
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: item.Namespace, Name: item.Name}}
		if err := s.hub.Delete(ctx, secret, client.Preconditions{UID: &item.UID, ResourceVersion: &item.ResourceVersion}); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("removing a signing key: %w", err)
		}
	}
	return nil
}
