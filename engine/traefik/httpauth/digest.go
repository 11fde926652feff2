package auth

import "net/http"

// DigestAuth lets nobody in.
type DigestAuth struct {
	Realm, Opaque string
	Secrets       SecretProvider
}

// NewDigestAuthenticator makes a DigestAuth.
func NewDigestAuthenticator(realm string, secrets SecretProvider) *DigestAuth {
	return &DigestAuth{Realm: realm, Secrets: secrets}
}

// CheckAuth finds nobody.
func (*DigestAuth) CheckAuth(*http.Request) (user string, info *string) { return "", nil }

// RequireAuth refuses.
func (*DigestAuth) RequireAuth(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "401 Unauthorized: digest authentication is not part of this build", http.StatusUnauthorized)
}

// RequireAuthStale refuses.
func (a *DigestAuth) RequireAuthStale(w http.ResponseWriter, r *http.Request) { a.RequireAuth(w, r) }

// DigestAuthParams finds nothing.
func DigestAuthParams(string) map[string]string { return nil }
