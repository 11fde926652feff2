package access

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

const (
	// sessionCookie is only sent over TLS, to this host, by its own pages: the prefix makes browsers see to that.
	sessionCookie = "__Host-yunfan-session"
	csrfHeader    = "X-Csrf-Token"
	// accessPrefix begins every access token.
	accessPrefix = "yunfan_"
	nameBytes    = 16

	// Where the name of the session or access token stands among the extra fields of a user.
	extraSession = "yunfan.io/session"
	extraToken   = "yunfan.io/access-token"
)

// Identify knows who asks by signed token, access token or cookie. It is a rest.Identity.
func (s *Service) Identify(r *http.Request) (rest.User, bool, error) {
	if header := r.Header.Get("Authorization"); header != "" {
		kind, text, _ := strings.Cut(header, " ")
		text = strings.TrimSpace(text)
		switch {
		case !strings.EqualFold(kind, "bearer"):
			return rest.User{}, false, nil
		case strings.HasPrefix(text, accessPrefix):
			user, err := s.byAccessToken(r, text)
			return user, err == nil, err
		case len(text) <= maxToken && ours(text):
			user, err := s.bySigned(r, text)
			return user, err == nil, err
		}
		return rest.User{}, false, nil
	}
	cookie := cookieOf(r)
	if cookie == "" {
		return rest.User{}, false, nil
	}
	user, err := s.byCookie(r, cookie)
	return user, err == nil, err
}

func (s *Service) bySigned(r *http.Request, text string) (rest.User, error) {
	c, err := s.tokens.check(r.Context(), text)
	if err != nil {
		return rest.User{}, err
	}
	session, err := s.session(r.Context(), c.Session)
	if err != nil {
		return rest.User{}, err
	}
	if session.Spec.User != c.Subject || session.Spec.Kind != v1alpha1.SessionCLI {
		return rest.User{}, apierrors.NewUnauthorized("the token is not its session's: sign in again")
	}
	return s.inSession(r, session)
}

func (s *Service) byCookie(r *http.Request, cookie string) (rest.User, error) {
	name, secret, ok := strings.Cut(cookie, ".")
	unknown := apierrors.NewUnauthorized("the session is not known: sign in again")
	if !ok || len(cookie) > maxToken || !validName(name) {
		return rest.User{}, unknown
	}
	session, err := s.session(r.Context(), name)
	if err != nil {
		return rest.User{}, err
	}
	if session.Spec.Kind != v1alpha1.SessionBrowser || !same(hashOf(secret), session.Spec.Hash) {
		return rest.User{}, unknown
	}
	if err := fromOwnPage(r, cookie); err != nil {
		return rest.User{}, err
	}
	return s.inSession(r, session)
}

func (s *Service) inSession(r *http.Request, session *v1alpha1.Session) (rest.User, error) {
	user, err := s.user(r.Context(), session.Spec.User, session.Spec.UserUID)
	if err != nil {
		return rest.User{}, err
	}
	if err := s.passwordFirst(r, user); err != nil {
		return rest.User{}, err
	}
	groups, err := s.groups(r.Context(), cleanGroups(user))
	if err != nil {
		return rest.User{}, err
	}
	return known(user, groups, extraSession, session.Name), nil
}

func (s *Service) byAccessToken(r *http.Request, text string) (rest.User, error) {
	unknown := apierrors.NewUnauthorized("the access token is not known, or was revoked or has expired: make another with 'yunfan tokens create'")
	name, secret, ok := strings.Cut(strings.TrimPrefix(text, accessPrefix), "_")
	if !ok || len(text) > maxToken || !validName(name) {
		return rest.User{}, unknown
	}
	ctx := r.Context()
	if _, gone := s.gone.Get(name); gone {
		return rest.User{}, unknown
	}
	token := &v1alpha1.AccessToken{}
	err := s.hub.Get(ctx, client.ObjectKey{Name: name}, token)
	if apierrors.IsNotFound(err) {
		err = s.live.Get(ctx, client.ObjectKey{Name: name}, token)
	}
	switch {
	case apierrors.IsNotFound(err):
		s.gone.Add(name, true, goneMemory)
		return rest.User{}, unknown
	case err != nil:
		return rest.User{}, fmt.Errorf("looking up the access token: %w", err)
	case !same(hashOf(secret), token.Spec.Hash) || !token.DeletionTimestamp.IsZero() || !token.Spec.ExpirationTime.After(s.now()):
		return rest.User{}, unknown
	}
	user, err := s.user(ctx, token.Spec.User, token.Spec.UserUID)
	if err != nil {
		return rest.User{}, err
	}
	if err := s.passwordFirst(r, user); err != nil {
		return rest.User{}, err
	}
	groups, err := s.groups(ctx, cleanGroups(user))
	if err != nil {
		return rest.User{}, err
	}
	return known(user, narrow(groups, token.Spec.Scope), extraToken, token.Name), nil
}

func known(user *v1alpha1.User, groups []string, extra, name string) rest.User {
	return rest.User{Name: v1alpha1.UserPrefix + user.Name, UID: string(user.UID), Groups: groups, Extra: map[string][]string{extra: {name}}}
}

// sessionOf is the name of the session in which a user asks; empty if he does so otherwise.
func sessionOf(user rest.User) string {
	if names := user.Extra[extraSession]; len(names) == 1 {
		if _, ours := user.OfPlatform(); ours {
			return names[0]
		}
	}
	return ""
}

// passwordFirst lets somebody who must change his password do nothing else.
func (s *Service) passwordFirst(r *http.Request, user *v1alpha1.User) error {
	if !user.Status.PasswordChangeRequired || r.URL.Path == "/api/v1/password" || r.URL.Path == "/api/v1/session" {
		return nil
	}
	// He may just have done so.
	fresh := &v1alpha1.User{}
	if err := s.live.Get(r.Context(), client.ObjectKeyFromObject(user), fresh); err == nil && !fresh.Status.PasswordChangeRequired {
		return nil
	}
	return apierrors.NewForbidden(schema.GroupResource{}, "", fmt.Errorf("change your password first: POST /api/v1/password, or 'yunfan password'"))
}

// cleanGroups gives the user without groups that his directory has no business to give.
func cleanGroups(user *v1alpha1.User) *v1alpha1.User {
	foreign := func(group string) bool {
		name, ok := strings.CutPrefix(group, user.Spec.Directory+":")
		return user.Spec.Directory == "" || !ok || !allowedGroup(name)
	}
	if !slices.ContainsFunc(user.Status.DirectoryGroups, foreign) {
		return user
	}
	user = user.DeepCopy()
	user.Status.DirectoryGroups = slices.DeleteFunc(user.Status.DirectoryGroups, foreign)
	return user
}

// allowedGroup says whether a directory's group may be taken over: names of the platform and of Kubernetes may not.
func allowedGroup(name string) bool {
	const longest = 255
	lower := strings.ToLower(strings.TrimSpace(name))
	return lower != "" && len(name) <= longest && !strings.HasPrefix(lower, "system:") && !strings.HasPrefix(lower, "yunfan:")
}

// narrow takes from a user's groups what is outside a token's scope. It never adds a right.
func narrow(groups []string, scope v1alpha1.TokenScope) []string {
	if scope.Tenant == "" && scope.Role == "" && len(scope.Partitions) == 0 {
		return groups
	}
	out := map[string]bool{v1alpha1.GroupAuthenticated: true}
	for _, group := range groups {
		grant, ok := v1alpha1.ParseGroup(group)
		if group == v1alpha1.GroupPlatformAdmin && scope.Tenant != "" {
			grant, ok = v1alpha1.Grant{Tenant: scope.Tenant, Role: v1alpha1.RoleAdmin}, true
		}
		if !ok || grant.Role == "" || scope.Tenant != "" && grant.Tenant != scope.Tenant {
			continue // what is not understood is not given; the groups of limited members come with their partitions'
		}
		grant.Role = lower(grant.Role, v1alpha1.Role(scope.Role))
		partitions := scope.Partitions
		switch {
		case grant.Partition != "" && len(partitions) > 0 && !slices.Contains(partitions, grant.Partition):
			continue
		case grant.Partition != "":
			partitions = []string{grant.Partition}
		case len(partitions) == 0:
			out[v1alpha1.TenantGroup(grant.Tenant, grant.Role)] = true
			continue
		}
		role := lower(grant.Role, v1alpha1.RoleOperator)
		out[v1alpha1.LimitedGroup(grant.Tenant)] = true
		if role == v1alpha1.RoleOperator {
			out[v1alpha1.LimitedOperatorGroup(grant.Tenant)] = true
		}
		for _, partition := range partitions {
			out[v1alpha1.PartitionGroup(grant.Tenant, partition, role)] = true
		}
	}
	return sorted(out)
}

// lower is the lesser of two roles; an empty limit is none.
func lower(role, limit v1alpha1.Role) v1alpha1.Role {
	order := []v1alpha1.Role{v1alpha1.RoleViewer, v1alpha1.RoleOperator, v1alpha1.RoleAdmin}
	if limit == "" {
		return role
	}
	return order[max(0, min(slices.Index(order, role), slices.Index(order, limit)))]
}

// fromOwnPage refuses requests that a page of somebody else made a browser send with our cookie.
func fromOwnPage(r *http.Request, cookie string) error {
	if err := ownOrigin(r); err != nil {
		return err
	}
	upgrade := r.Header.Get("Upgrade") != ""
	if upgrade && r.Header.Get("Origin") == "" {
		return apierrors.NewForbidden(schema.GroupResource{}, "", fmt.Errorf("a connection with a cookie must say from which page it comes"))
	}
	safe := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
	if !safe && !same(r.Header.Get(csrfHeader), csrfToken(cookie)) {
		return apierrors.NewForbidden(schema.GroupResource{}, "", fmt.Errorf("the header %s is missing or wrong: GET /api/v1/session tells it", csrfHeader))
	}
	return nil
}

// ownOrigin refuses requests that say that they come from a page of somebody else.
func ownOrigin(r *http.Request) error {
	origin := r.Header.Get("Origin")
	u, err := url.Parse(origin)
	if origin != "" && (err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) || u.Scheme != "https") || r.Header.Get("Sec-Fetch-Site") == "cross-site" {
		return apierrors.NewForbidden(schema.GroupResource{}, "", fmt.Errorf("requests from pages of others are refused"))
	}
	return nil
}

// csrfToken is bound to the cookie, and cannot be made without it.
func csrfToken(cookie string) string {
	mac := hmac.New(sha256.New, []byte(cookie))
	_, _ = mac.Write([]byte("yunfan csrf")) // never fails
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func cookieOf(r *http.Request) string {
	cookies := r.CookiesNamed(sessionCookie)
	if len(cookies) != 1 {
		return "" // two of them are somebody's attempt to put his own in
	}
	return cookies[0].Value
}

func setCookie(w http.ResponseWriter, name, value string, seconds int, site http.SameSite) {
	http.SetCookie(w, &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: seconds, HttpOnly: true, Secure: true, SameSite: site}) //nolint:gosec // the caller says Strict or Lax
}

// source is the address that a request comes from. Headers that anybody can send say nothing.
func source(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return ""
	}
	return address.Unmap().WithZone("").String()
}

const nameAlphabet = "0123456789abcdef"

// newName is a name of chance for an object.
func newName() string {
	raw := make([]byte, nameBytes)
	_, _ = rand.Read(raw) // never fails
	return fmt.Sprintf("%x", raw)
}

// validName says whether a name may be one of newName.
func validName(name string) bool {
	return len(name) == 2*nameBytes && strings.Trim(name, nameAlphabet) == ""
}

func sorted(set map[string]bool) []string {
	return slices.Sorted(maps.Keys(set))
}
