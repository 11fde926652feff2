package access

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	keysSecret = "yunfan-signing-keys"
	// keyPrefix begins the name of every key of ours.
	keyPrefix = "yunfan-"
	// sealEntry is the key under which what is given to browsers is sealed, 256 bits. It stays.
	sealEntry = "seal"
	sealBytes = 32
)

// Periods of signing keys.
type keyPeriods struct {
	rotate  time.Duration // a key signs for so long
	publish time.Duration // and is known so long before it does
	reload  time.Duration // servers read the keys so often; well below publish
}

var defaultPeriods = keyPeriods{rotate: 24 * time.Hour, publish: 2 * time.Minute, reload: 20 * time.Second}

// key is one signing key as it is kept in the Secret.
type key struct {
	Private   ed25519.PrivateKey `json:"private"`
	SignsFrom time.Time          `json:"signsFrom"`
}

// keys are the signing keys that all servers share. A new key is published before it signs, so that every server knows
// it by then; an old one is kept until the last token signed with it has ended.
type keys struct {
	namespace string
	hub       client.Client // must not cache Secrets
	periods   keyPeriods
	now       func() time.Time

	mu     sync.RWMutex
	known  map[string]key
	seal   []byte
	loaded time.Time
}

// NeedLeaderElection says that every server reads the keys.
func (k *keys) NeedLeaderElection() bool { return false }

// Start reads the keys again and again until ctx ends.
func (k *keys) Start(ctx context.Context) error {
	return every(ctx, k.periods.reload, func() {
		if err := k.load(ctx); err != nil && ctx.Err() == nil {
			ctrl.LoggerFrom(ctx).Error(err, "Tokens are checked by the signing keys that were read last")
		}
	})
}

// load reads the Secret, or makes it: of several servers that do so, the first wins.
func (k *keys) load(ctx context.Context) error {
	secret := &corev1.Secret{}
	name := client.ObjectKey{Namespace: k.namespace, Name: keysSecret}
	err := k.hub.Get(ctx, name, secret)
	if apierrors.IsNotFound(err) {
		if secret, err = k.first(); err != nil {
			return err
		}
		if err = k.hub.Create(ctx, secret); apierrors.IsAlreadyExists(err) {
			err = k.hub.Get(ctx, name, secret)
		}
	}
	if err != nil {
		return fmt.Errorf("reading the signing keys from Secret %s: %w", name, err)
	}
	return k.take(secret)
}

func (k *keys) first() (*corev1.Secret, error) {
	seal := make([]byte, sealBytes)
	_, _ = rand.Read(seal) // never fails
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: k.namespace, Name: keysSecret},
		Data:       map[string][]byte{sealEntry: seal},
	}
	return secret, addKey(secret, k.now())
}

// addKey adds a new key that signs from a time on.
func addKey(secret *corev1.Secret, signsFrom time.Time) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("making a signing key: %w", err)
	}
	text, err := json.Marshal(key{Private: private, SignsFrom: signsFrom})
	if err != nil {
		return fmt.Errorf("writing a signing key: %w", err)
	}
	secret.Data[keyPrefix+strings.ToLower(rand.Text())] = text
	return nil
}

func (k *keys) take(secret *corev1.Secret) error {
	known, err := readKeys(secret)
	if err != nil {
		return err
	}
	if len(secret.Data[sealEntry]) != sealBytes {
		return fmt.Errorf("reading the signing keys: Secret %s/%s has no entry %s of %d bytes: delete the Secret to have a new one made", secret.Namespace, secret.Name, sealEntry, sealBytes)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.known, k.seal, k.loaded = known, secret.Data[sealEntry], k.now()
	return nil
}

func readKeys(secret *corev1.Secret) (map[string]key, error) {
	known := map[string]key{}
	for _, id := range slices.Sorted(maps.Keys(secret.Data)) {
		if !strings.HasPrefix(id, keyPrefix) {
			continue
		}
		one := key{}
		if err := json.Unmarshal(secret.Data[id], &one); err != nil || len(one.Private) != ed25519.PrivateKeySize {
			return nil, fmt.Errorf("reading the signing keys: entry %s of Secret %s/%s is no key: delete it", id, secret.Namespace, secret.Name)
		}
		known[id] = one
	}
	return known, nil
}

// signing gives the newest key whose time has come.
func (k *keys) signing(ctx context.Context) (string, ed25519.PrivateKey, error) {
	if err := k.ensure(ctx); err != nil {
		return "", nil, err
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	id := current(k.known, k.now())
	if id == "" {
		return "", nil, errors.New("signing a token: no key signs yet: compare the clocks of the servers")
	}
	return id, k.known[id].Private, nil
}

// current is the key that signs at a time.
func current(known map[string]key, now time.Time) string {
	best := ""
	for _, id := range slices.Sorted(maps.Keys(known)) {
		if !known[id].SignsFrom.After(now) && (best == "" || known[id].SignsFrom.After(known[best].SignsFrom)) {
			best = id
		}
	}
	return best
}

// public gives the key of a name. A name that is not known is looked for once more, at most once a second: another
// server may just have made it.
func (k *keys) public(ctx context.Context, id string) (ed25519.PublicKey, error) {
	if err := k.ensure(ctx); err != nil {
		return nil, err
	}
	one, ok := k.get(id)
	if !ok && k.claimReload() {
		if err := k.load(ctx); err != nil {
			return nil, err
		}
		one, ok = k.get(id)
	}
	if !ok {
		return nil, nil
	}
	return one.Private.Public().(ed25519.PublicKey), nil
}

// ensure reads the keys if nobody did: a server may be asked before its manager runs.
func (k *keys) ensure(ctx context.Context) error {
	k.mu.RLock()
	known := k.known != nil
	k.mu.RUnlock()
	if known {
		return nil
	}
	return k.load(ctx)
}

func (k *keys) get(id string) (key, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	one, ok := k.known[id]
	return one, ok
}

func (k *keys) claimReload() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.now().Sub(k.loaded) < time.Second {
		return false
	}
	k.loaded = k.now()
	return true
}

// sealing gives the key under which what is given to browsers is sealed.
func (k *keys) sealing(ctx context.Context) ([]byte, error) {
	if err := k.ensure(ctx); err != nil {
		return nil, err
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.seal, nil
}

// rotation makes new keys and removes old ones. Only the leader does that.
type rotation struct{ *keys }

// NeedLeaderElection says that one server does this.
func (rotation) NeedLeaderElection() bool { return true }

// Start rotates until ctx ends.
func (r rotation) Start(ctx context.Context) error {
	return every(ctx, min(r.periods.rotate, r.periods.publish)/4, func() {
		if err := r.rotate(ctx); err != nil && ctx.Err() == nil {
			ctrl.LoggerFrom(ctx).Error(err, "The signing keys stay as they are")
		}
	})
}

// rotate does what is due.
func (r rotation) rotate(ctx context.Context) error {
	if err := r.load(ctx); err != nil {
		return err
	}
	secret := &corev1.Secret{}
	if err := r.hub.Get(ctx, client.ObjectKey{Namespace: r.namespace, Name: keysSecret}, secret); err != nil {
		return fmt.Errorf("reading the signing keys: %w", err)
	}
	known, err := readKeys(secret)
	if err != nil {
		return err
	}
	now := r.now()
	changed := false
	newest := time.Time{}
	for _, one := range known {
		if one.SignsFrom.After(newest) {
			newest = one.SignsFrom
		}
	}
	// A newer key signed for long enough that no token of the ones before is left.
	signing := current(known, now)
	for id, one := range known {
		if signing != "" && one.SignsFrom.Before(known[signing].SignsFrom) && now.Sub(known[signing].SignsFrom) > tokenLife+clockLeeway {
			delete(secret.Data, id)
			changed = true
		}
	}
	if now.Sub(newest)+r.periods.publish >= r.periods.rotate {
		if err := addKey(secret, now.Add(r.periods.publish)); err != nil {
			return err
		}
		changed = true
	}
	if !changed {
		return nil
	}
	if err := r.hub.Update(ctx, secret); err != nil {
		return fmt.Errorf("rotating the signing keys: %w", err)
	}
	return r.take(secret)
}

// every calls do at once and then once a period, until ctx ends.
func every(ctx context.Context, period time.Duration, do func()) error {
	ticker := time.NewTicker(max(period, time.Millisecond))
	defer ticker.Stop()
	for {
		do()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// newSecret gives 256 random bits as text.
func newSecret() string {
	secret := make([]byte, hashBytes)
	_, _ = rand.Read(secret) // never fails
	return base64.RawURLEncoding.EncodeToString(secret)
}
