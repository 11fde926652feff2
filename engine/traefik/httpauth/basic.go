// Package auth is HTTP authentication as Traefik's middleware BasicAuth calls it. The middleware DigestAuth is in
// Traefik's build, too, but is not part of ours: it refuses everybody.
package auth

import (
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// SecretProvider gives what is kept of a user's password; empty if there is no such user.
type SecretProvider func(user, realm string) string

// BasicAuth asks for name and password.
type BasicAuth struct {
	Realm   string
	Secrets SecretProvider
}

// RequireAuth answers that they are missing.
func (a *BasicAuth) RequireAuth(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("WWW-Authenticate", `Basic realm="`+a.Realm+`"`)
	http.Error(w, "401 Unauthorized", http.StatusUnauthorized)
}

// CheckSecret compares a password with what htpasswd keeps of it: bcrypt or {SHA}. Others, clear text among them, are
// refused.
func CheckSecret(password, secret string) bool {
	if sum, ok := strings.CutPrefix(secret, "{SHA}"); ok {
		digest := sha1.Sum([]byte(password))
		return subtle.ConstantTimeCompare([]byte(sum), []byte(base64.StdEncoding.EncodeToString(digest[:]))) == 1
	}
	return strings.HasPrefix(secret, "$2") && bcrypt.CompareHashAndPassword([]byte(secret), []byte(password)) == nil
}
