package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// Signed is the answer to a sign-in or a refresh.
type Signed struct {
	User string `json:"user"`
	// Token is a bearer token that is good until TokenExpires; RefreshToken gives the next pair, once. Browsers get a
	// cookie instead.
	Token        string     `json:"token,omitempty"`
	TokenExpires *time.Time `json:"tokenExpires,omitempty"`
	RefreshToken string     `json:"refreshToken,omitempty"`
	// CSRFToken is what a browser sends in the header X-Csrf-Token with every request that is no GET.
	CSRFToken string `json:"csrfToken,omitempty"`
	// SessionExpires is when it is time to sign in again.
	SessionExpires time.Time `json:"sessionExpires"`
	// PasswordChangeRequired says that nothing can be done before the password is changed.
	PasswordChangeRequired bool `json:"passwordChangeRequired,omitempty"`
}

// open makes a session for somebody who has proved who he is. It is always a new one, whatever the request brought
// along. Name is empty for one of chance.
func (s *Service) open(ctx context.Context, r *http.Request, user *v1alpha1.User, kind v1alpha1.SessionKind, name string) (*v1alpha1.Session, string, error) {
	if name == "" {
		name = newName()
	}
	secret := newSecret()
	session := &v1alpha1.Session{
		ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: ownedBy(user)},
		Spec: v1alpha1.SessionSpec{
			User: user.Name, UserUID: string(user.UID), Kind: kind, Source: source(r),
			ExpirationTime: metav1.NewTime(s.now().Add(sessionLife)), Hash: hashOf(secret),
		},
	}
	if err := s.hub.Create(ctx, session); err != nil {
		return nil, "", fmt.Errorf("opening a session: %w", err)
	}
	s.endOldest(ctx, user.Name)
	return session, session.Name + "." + secret, nil
}

// endOldest keeps a user below his number of sessions. What cannot be ended now expires.
func (s *Service) endOldest(ctx context.Context, user string) {
	list := &v1alpha1.SessionList{}
	if err := s.hub.List(ctx, list, client.MatchingFields{userField: user}); err != nil || len(list.Items) <= maxSessions {
		return
	}
	slices.SortFunc(list.Items, func(a, b v1alpha1.Session) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	for i := range list.Items[:len(list.Items)-maxSessions] {
		if err := s.end(ctx, &list.Items[i]); err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "An old session stays until it expires", "user", user)
		}
	}
}

// end ends a session. That it has ended already is no error.
func (s *Service) end(ctx context.Context, session *v1alpha1.Session) error {
	s.gone.Add(session.Name, true, goneMemory)
	if err := s.hub.Delete(ctx, session); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("ending a session of user %s: %w", session.Spec.User, err)
	}
	return nil
}

// endAll ends all sessions of a user but one.
func (s *Service) endAll(ctx context.Context, user, except string) error {
	list := &v1alpha1.SessionList{}
	if err := s.live.List(ctx, list); err != nil {
		return fmt.Errorf("listing the sessions of user %s: %w", user, err)
	}
	var failed error
	for i := range list.Items {
		if list.Items[i].Spec.User == user && list.Items[i].Name != except {
			failed = errors.Join(failed, s.end(ctx, &list.Items[i]))
		}
	}
	return failed
}

// session finds one that is alive. One that is not in the cache yet may just have been opened by another server.
func (s *Service) session(ctx context.Context, name string) (*v1alpha1.Session, error) {
	ended := apierrors.NewUnauthorized("the session has ended: sign in again")
	if _, gone := s.gone.Get(name); gone {
		return nil, ended
	}
	session := &v1alpha1.Session{}
	err := s.hub.Get(ctx, client.ObjectKey{Name: name}, session)
	if apierrors.IsNotFound(err) {
		err = s.live.Get(ctx, client.ObjectKey{Name: name}, session)
	}
	switch {
	case apierrors.IsNotFound(err):
		s.gone.Add(name, true, goneMemory)
		return nil, ended
	case err != nil:
		return nil, fmt.Errorf("looking up the session: %w", err)
	case !session.DeletionTimestamp.IsZero() || !session.Spec.ExpirationTime.After(s.now()):
		return nil, ended
	}
	return session, nil
}

// user finds the user of a session or token; uid makes sure that he is the same.
func (s *Service) user(ctx context.Context, name, uid string) (*v1alpha1.User, error) {
	user := &v1alpha1.User{}
	err := s.hub.Get(ctx, client.ObjectKey{Name: name}, user)
	if apierrors.IsNotFound(err) || err == nil && string(user.UID) != uid {
		err = s.live.Get(ctx, client.ObjectKey{Name: name}, user)
	}
	switch {
	case apierrors.IsNotFound(err), err == nil && (string(user.UID) != uid || !user.DeletionTimestamp.IsZero()):
		return nil, apierrors.NewUnauthorized("the user does not exist any more")
	case err != nil:
		return nil, fmt.Errorf("looking up user %s: %w", name, err)
	case user.Spec.Disabled:
		return nil, apierrors.NewUnauthorized("the user is disabled: ask an administrator")
	}
	return user, nil
}

// answer tells a client that somebody is signed in.
func (s *Service) answer(w http.ResponseWriter, r *http.Request, user *v1alpha1.User, session *v1alpha1.Session, credential string) error {
	signed := Signed{User: user.Name, SessionExpires: session.Spec.ExpirationTime.UTC(), PasswordChangeRequired: user.Status.PasswordChangeRequired}
	if session.Spec.Kind == v1alpha1.SessionBrowser {
		setCookie(w, sessionCookie, credential, int(session.Spec.ExpirationTime.Sub(s.now()).Seconds()), http.SameSiteStrictMode)
		signed.CSRFToken = csrfToken(credential)
		return rest.WriteJSON(w, http.StatusOK, signed)
	}
	token, expires, err := s.tokens.issue(r.Context(), user.Name, session.Name, session.Spec.ExpirationTime.Time)
	if err != nil {
		return err
	}
	expires = expires.UTC()
	signed.Token, signed.TokenExpires, signed.RefreshToken = token, &expires, credential
	return rest.WriteJSON(w, http.StatusOK, signed)
}

// refresh gives the next pair of tokens for a refresh token, which is good once. One that was used before was stolen
// from or by whoever shows it: nobody can tell which, so the session ends for both.
func (s *Service) refresh(w http.ResponseWriter, r *http.Request) error {
	var asked struct {
		RefreshToken string `json:"refreshToken"`
	}
	if err := readJSON(w, r, &asked); err != nil {
		return err
	}
	unknown := apierrors.NewUnauthorized("the refresh token is not known: sign in again")
	name, secret, ok := strings.Cut(asked.RefreshToken, ".")
	if !ok || len(asked.RefreshToken) > maxToken || !validName(name) {
		return unknown
	}
	ctx := r.Context()
	session := &v1alpha1.Session{}
	// Past the cache: what counts is who is first.
	err := s.live.Get(ctx, client.ObjectKey{Name: name}, session)
	if apierrors.IsNotFound(err) {
		return unknown
	} else if err != nil {
		return fmt.Errorf("looking up the session: %w", err)
	}
	if session.Spec.Kind != v1alpha1.SessionCLI || !session.Spec.ExpirationTime.After(s.now()) {
		return unknown
	}
	rest.FactsOf(ctx).User = session.Spec.User
	hash := hashOf(secret)
	if !same(hash, session.Spec.Hash) {
		if session.Spec.PreviousHash != "" && same(hash, session.Spec.PreviousHash) {
			return errors.Join(apierrors.NewUnauthorized("the refresh token was used before, so somebody else has it: the session is ended, sign in again"), s.end(ctx, session))
		}
		return unknown
	}
	user, err := s.user(ctx, session.Spec.User, session.Spec.UserUID)
	if err != nil {
		return err
	}
	next := newSecret()
	session.Spec.PreviousHash, session.Spec.Hash = session.Spec.Hash, hashOf(next)
	// The version that was read goes along: of two that show the same token at once, one is refused.
	if err := s.hub.Update(ctx, session); apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return errors.Join(apierrors.NewUnauthorized("the refresh token was used twice at once, so somebody else has it: the session is ended, sign in again"), s.end(ctx, session))
	} else if err != nil {
		return fmt.Errorf("renewing the session: %w", err)
	}
	return s.answer(w, r, user, session, session.Name+"."+next)
}

// signOut ends the request's session.
func (s *Service) signOut(w http.ResponseWriter, r *http.Request) error {
	name := sessionOf(rest.UserOf(r.Context()))
	if name == "" {
		return apierrors.NewBadRequest("there is no session to end: certificates and access tokens have none")
	}
	if err := s.end(r.Context(), &v1alpha1.Session{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
		return err
	}
	setCookie(w, sessionCookie, "", -1, http.SameSiteStrictMode)
	return rest.WriteJSON(w, http.StatusOK, map[string]string{"status": "signed out"})
}

// Who is who somebody is.
type Who struct {
	User string `json:"user"`
	// Kubernetes is the name that Kubernetes APIs see.
	Kubernetes             string     `json:"kubernetesUser"`
	Groups                 []string   `json:"groups"`
	DisplayName            string     `json:"displayName,omitempty"`
	Email                  string     `json:"email,omitempty"`
	Directory              string     `json:"directory,omitempty"`
	DirectoryGroups        []string   `json:"directoryGroups,omitempty"`
	PlatformAdministrator  bool       `json:"platformAdministrator,omitempty"`
	PasswordChangeRequired bool       `json:"passwordChangeRequired,omitempty"`
	SessionExpires         *time.Time `json:"sessionExpires,omitempty"`
	CSRFToken              string     `json:"csrfToken,omitempty"`
}

// whoAmI says as whom the request acts. Users of the hub, who come with certificates, are known by name and groups only.
func (s *Service) whoAmI(r *http.Request) (Who, error) {
	asking := rest.UserOf(r.Context())
	name, own := asking.OfPlatform()
	who := Who{User: name, Kubernetes: asking.Name, Groups: asking.Groups}
	if !own {
		return who, nil
	}
	user, err := s.user(r.Context(), name, asking.UID)
	if err != nil {
		return Who{}, err
	}
	who.DisplayName, who.Email = user.Spec.DisplayName, user.Spec.Email
	who.Directory, who.DirectoryGroups = user.Spec.Directory, cleanGroups(user).Status.DirectoryGroups
	who.PlatformAdministrator = slices.Contains(asking.Groups, v1alpha1.GroupPlatformAdmin)
	who.PasswordChangeRequired = user.Status.PasswordChangeRequired
	if name := sessionOf(asking); name != "" {
		session, err := s.session(r.Context(), name)
		if err != nil {
			return Who{}, err
		}
		ends := session.Spec.ExpirationTime.UTC()
		who.SessionExpires = &ends
		if cookie := cookieOf(r); cookie != "" && session.Spec.Kind == v1alpha1.SessionBrowser {
			who.CSRFToken = csrfToken(cookie)
		}
	}
	return who, nil
}

// readJSON reads a body that a page of somebody else cannot make a browser send: only JSON, and from no other origin.
func readJSON(w http.ResponseWriter, r *http.Request, into any) error {
	const most = 16 << 10
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.TrimSpace(kind) != "application/json" {
		return apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, r.Method, v1alpha1.GroupVersion.WithResource("sessions").GroupResource(), "",
			"send the request with Content-Type: application/json", 0, false)
	}
	if err := ownOrigin(r); err != nil {
		return err
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, most))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return fmt.Errorf("reading the request: %w", err)
		}
		// The decoder's own message may quote what was sent, such as a password.
		return apierrors.NewBadRequest("the body is not the JSON that is asked for: see docs/sign-in.md")
	}
	return nil
}

// ownedBy lets the hub remove what is a user's after him.
func ownedBy(user *v1alpha1.User) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "User", Name: user.Name, UID: user.UID}}
}
