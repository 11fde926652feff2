package access

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// Limits of passwords. Longer ones would only cost time.
	minPassword, maxPassword = 10, 256
	saltBytes, hashBytes     = 16, 32
	// hashing at once, and how long more may wait: one hash takes its memory, whoever asks.
	hashersAtOnce = 2
	hashPatience  = 5 * time.Second
)

// cost is what one hash takes.
type cost struct {
	memory  uint32 // KiB
	passes  uint32
	threads uint8
}

// defaultCost is what RFC 9106 and OWASP ask for, at a memory that a small server can give twice.
var defaultCost = cost{memory: 32 << 10, passes: 3, threads: 1}

// hasher makes and checks password hashes (argon2id), a few at a time.
type hasher struct {
	cost  cost
	slots chan struct{}
	dummy string
}

func newHasher(c cost) *hasher {
	h := &hasher{cost: c, slots: make(chan struct{}, hashersAtOnce)}
	h.dummy = h.encode(rand.Text())
	return h
}

// encode hashes without waiting for a slot.
func (h *hasher) encode(password string) string {
	salt := make([]byte, saltBytes)
	_, _ = rand.Read(salt) // never fails
	key := argon2.IDKey([]byte(password), salt, h.cost.passes, h.cost.memory, h.cost.threads, hashBytes)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.cost.memory, h.cost.passes, h.cost.threads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key))
}

// hash gives a password's hash in the PHC format.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	if err := h.take(ctx); err != nil {
		return "", err
	}
	defer h.give()
	return h.encode(password), nil
}

// matches says whether the password is the hash's. Without a hash it takes as long and says no.
func (h *hasher) matches(ctx context.Context, encoded, password string) (bool, error) {
	if err := h.take(ctx); err != nil {
		return false, err
	}
	defer h.give()
	known := encoded != ""
	if !known {
		encoded = h.dummy
	}
	var version int
	c := cost{}
	parts := strings.Split(encoded, "$")
	const fields = 6
	if len(parts) != fields || parts[1] != "argon2id" {
		return false, fmt.Errorf("reading a password hash: it is not one of argon2id")
	}
	if _, err := fmt.Sscanf(parts[2], "v=%d", &version); err != nil || version != argon2.Version {
		return false, fmt.Errorf("reading a password hash: version %q is not known", parts[2])
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &c.memory, &c.passes, &c.threads); err != nil {
		return false, fmt.Errorf("reading a password hash: %w", err)
	}
	const maxMemory, maxPasses = 1 << 20, 16
	if c.memory > maxMemory || c.passes > maxPasses || c.passes == 0 || c.threads == 0 {
		return false, fmt.Errorf("reading a password hash: its cost %q is out of bounds", parts[3])
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil {
		return false, fmt.Errorf("reading a password hash: %w", err)
	}
	want, err := base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil || len(want) != hashBytes {
		return false, fmt.Errorf("reading a password hash: it has no %d bytes", hashBytes)
	}
	got := argon2.IDKey([]byte(password), salt, c.passes, c.memory, c.threads, hashBytes)
	return known && subtle.ConstantTimeCompare(got, want) == 1, nil
}

func (h *hasher) take(ctx context.Context) error {
	timer := time.NewTimer(hashPatience)
	defer timer.Stop()
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-timer.C:
		return apierrors.NewTooManyRequests("too many sign-ins at once: try again in a few seconds", int(hashPatience.Seconds()))
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *hasher) give() { <-h.slots }

// checkPassword refuses passwords that are easily guessed.
func checkPassword(user, password string) error {
	switch {
	case !utf8.ValidString(password) || strings.ContainsAny(password, "\x00\r\n"):
		return apierrors.NewBadRequest("the password must be one line of text")
	case utf8.RuneCountInString(password) < minPassword:
		return apierrors.NewBadRequest(fmt.Sprintf("the password is too short: it needs at least %d characters", minPassword))
	case len(password) > maxPassword:
		return apierrors.NewBadRequest(fmt.Sprintf("the password is too long: it may have %d bytes", maxPassword))
	case strings.Contains(strings.ToLower(password), strings.ToLower(user)):
		return apierrors.NewBadRequest("the password must not contain the user's name")
	case strings.Count(password, password[:1]) == len(password):
		return apierrors.NewBadRequest("the password must not be one character only")
	}
	return nil
}
