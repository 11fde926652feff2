package access

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

const (
	// defaultFailureTime is longer than a hash takes.
	defaultFailureTime = 500 * time.Millisecond
	maxUserName        = 63
	maxGroups          = 500
)

// errWrong is all that is told of an attempt that failed.
var errWrong = apierrors.NewUnauthorized("user name or password is wrong")

// SignIn is the body of a sign-in.
type SignIn struct {
	User     string `json:"user,omitempty"`
	Password string `json:"password,omitempty"`
	// Directory that knows the user; empty or "local" for the platform's own accounts.
	Directory string `json:"directory,omitempty"`
	// Cookie asks for a browser's session.
	Cookie bool `json:"cookie,omitempty"`
	// Code and Verifier are of a sign-in at an OpenID Connect issuer, for the command line.
	Code     string `json:"code,omitempty"`
	Verifier string `json:"verifier,omitempty"`
}

// signIn opens a session for somebody with a password.
func (s *Service) signIn(w http.ResponseWriter, r *http.Request) error {
	var asked SignIn
	if err := readJSON(w, r, &asked); err != nil {
		return err
	}
	if asked.Code != "" {
		return s.redeem(w, r, asked)
	}
	facts := rest.FactsOf(r.Context())
	facts.Resource, facts.Action = "sessions", "signIn"
	name := strings.ToLower(strings.TrimSpace(asked.User))
	if len(name) > maxUserName || len(asked.Password) > maxPassword || name == "" || asked.Password == "" {
		return apierrors.NewBadRequest("give a user name and a password")
	}
	facts.User = name
	if wait := s.locks.source(source(r)); wait > 0 {
		return locked(wait)
	}
	began := s.now()
	user, err := s.prove(r.Context(), name, asked)
	if err != nil {
		if errors.Is(err, errWrong) {
			s.locks.failed(source(r))
			s.pause(r.Context(), began)
		}
		return err
	}
	facts.User = user.Name
	kind := v1alpha1.SessionCLI
	if asked.Cookie {
		kind = v1alpha1.SessionBrowser
	}
	session, credential, err := s.open(r.Context(), r, user, kind, "")
	if err != nil {
		return err
	}
	return s.answer(w, r, user, session, credential)
}

// pause makes failures take the same time, whatever they failed of.
func (s *Service) pause(ctx context.Context, began time.Time) {
	if s.failureTime <= 0 {
		return
	}
	timer := time.NewTimer(s.failureTime - s.now().Sub(began)%s.failureTime)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// prove gives the user if the password is his. What failed is not told, but errWrong.
func (s *Service) prove(ctx context.Context, name string, asked SignIn) (*v1alpha1.User, error) {
	directory := &v1alpha1.Directory{}
	if asked.Directory != "" && asked.Directory != Local {
		if err := s.directory(ctx, asked.Directory, v1alpha1.DirectoryLDAP, directory); err != nil {
			return nil, err
		}
	}
	user := &v1alpha1.User{}
	err := s.live.Get(ctx, client.ObjectKey{Name: name}, user)
	exists := err == nil && user.Spec.Directory == directory.Name
	if err != nil && !apierrors.IsNotFound(err) && len(validation.IsDNS1123Subdomain(name)) == 0 {
		return nil, fmt.Errorf("looking up user %s: %w", name, err)
	}
	before := user.Status.DeepCopy()
	key := directory.Name + "/" + name
	if exists {
		err = s.attempt(ctx, user)
	} else if wait := s.locks.attempt(key); wait > 0 {
		err = locked(wait)
	} else {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	proved := user
	if directory.Name == "" {
		err = s.proveLocal(ctx, user, exists, asked.Password)
	} else {
		proved, err = s.proveLDAP(ctx, directory, name, asked.Password)
	}
	switch {
	case err == nil:
		s.locks.forget(key)
		return proved, s.succeeded(ctx, proved)
	case !errors.Is(err, errWrong) && exists:
		// Nobody said that the password was wrong: it does not count.
		user.Status.FailedAttempts, user.Status.LockedUntil = before.FailedAttempts, before.LockedUntil
		return nil, errors.Join(err, client.IgnoreNotFound(s.hub.Status().Update(ctx, user)))
	case !errors.Is(err, errWrong):
		s.locks.forget(key)
	}
	return nil, err
}

// proveLocal checks the password of an account of the platform's own. For one that is not there it takes as long.
func (s *Service) proveLocal(ctx context.Context, user *v1alpha1.User, exists bool, password string) error {
	hash := ""
	if exists {
		var err error
		if hash, err = s.passwordHash(ctx, user); err != nil {
			return err
		}
	}
	matches, err := s.hasher.matches(ctx, hash, password)
	if err != nil {
		return err
	}
	if !matches || user.Spec.Disabled || !user.DeletionTimestamp.IsZero() {
		return errWrong
	}
	return nil
}

// succeeded writes down that a user signed in; user holds what else his status is to be.
func (s *Service) succeeded(ctx context.Context, user *v1alpha1.User) error {
	groups := user.Status.DirectoryGroups
	for range attemptTries {
		now := metav1.NewTime(s.now())
		user.Status.LastSignInTime, user.Status.FailedAttempts, user.Status.LockedUntil = &now, 0, nil
		user.Status.DirectoryGroups = groups
		err := s.hub.Status().Update(ctx, user)
		if err == nil {
			return nil
		}
		if !apierrors.IsConflict(err) {
			return fmt.Errorf("writing down the sign-in of user %s: %w", user.Name, err)
		}
		if err := s.live.Get(ctx, client.ObjectKeyFromObject(user), user); err != nil {
			return fmt.Errorf("writing down the sign-in of user %s: %w", user.Name, err)
		}
	}
	return apierrors.NewServiceUnavailable("too much changes the user at once: try again")
}

// passwordHash reads a user's; empty if he has none.
func (s *Service) passwordHash(ctx context.Context, user *v1alpha1.User) (string, error) {
	secret := &corev1.Secret{}
	err := s.hub.Get(ctx, client.ObjectKey{Namespace: s.namespace, Name: passwordSecret(user.Name)}, secret)
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the password of user %s: %w", user.Name, err)
	}
	// Somebody of the same name may have been deleted a moment ago, and his Secret not yet.
	if !slices.ContainsFunc(secret.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == user.UID }) {
		return "", nil
	}
	return string(secret.Data[passwordEntry]), nil
}

func passwordSecret(user string) string { return "yunfan-user-" + user }

// secret reads an entry of a Secret in the platform's namespace.
func (s *Service) secret(ctx context.Context, ref *v1alpha1.SecretReference, entry string) (string, error) {
	if ref == nil {
		return "", nil
	}
	secret := &corev1.Secret{}
	if err := s.hub.Get(ctx, client.ObjectKey{Namespace: s.namespace, Name: ref.Name}, secret); err != nil {
		return "", fmt.Errorf("reading Secret %s/%s: %w", s.namespace, ref.Name, err)
	}
	if len(secret.Data[entry]) == 0 {
		return "", fmt.Errorf("reading Secret %s/%s: it has no entry %s", s.namespace, ref.Name, entry)
	}
	return string(secret.Data[entry]), nil
}

// person is somebody as a directory knows him.
type person struct {
	name, id, fullName, mail string
	groups                   []string
}

// admit gives the User of a person whom his directory has vouched for, and makes or updates him. A name that belongs to
// somebody else is refused: nobody inherits rights by a name.
func (s *Service) admit(ctx context.Context, directory *v1alpha1.Directory, p person) (*v1alpha1.User, error) {
	p.name = strings.ToLower(p.name)
	if problems := validation.IsDNS1123Subdomain(p.name); len(problems) > 0 || len(p.name) > maxUserName {
		return nil, refused("the directory calls you %q, which cannot be a name here: a name has at most %d lower case letters, digits, '-' and '.', and begins and ends with a letter or digit: ask an administrator", p.name, maxUserName)
	}
	const longestID = 255
	if p.id == "" || len(p.id) > longestID {
		return nil, refused("directory %s gives no lasting identifier of user %s: an administrator must name the attribute or claim that has it", directory.Name, p.name)
	}
	user := &v1alpha1.User{}
	err := s.live.Get(ctx, client.ObjectKey{Name: p.name}, user)
	if apierrors.IsNotFound(err) {
		if directory.Spec.CreateUsers != nil && !*directory.Spec.CreateUsers {
			return nil, refused("user %s has no account here: ask an administrator for one", p.name)
		}
		user = &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: p.name}, Spec: v1alpha1.UserSpec{Directory: directory.Name}}
		describe(user, directory, p)
		if err = s.hub.Create(ctx, user); apierrors.IsAlreadyExists(err) {
			err = s.live.Get(ctx, client.ObjectKey{Name: p.name}, user)
		}
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("making user %s: %w", p.name, err)
	case user.Spec.Directory != directory.Name:
		return nil, refused("the name %s belongs to an account that is not of directory %s: ask an administrator", p.name, directory.Name)
	case user.Spec.ExternalID != "" && user.Spec.ExternalID != p.id:
		return nil, refused("the name %s belonged to somebody else in directory %s: an administrator must delete the old user first", p.name, directory.Name)
	case user.Spec.Disabled || !user.DeletionTimestamp.IsZero():
		return nil, refused("user %s is disabled: ask an administrator", p.name)
	}
	before := user.DeepCopy()
	if describe(user, directory, p); !equality.Semantic.DeepEqual(user.Spec, before.Spec) {
		if err := s.hub.Patch(ctx, user, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
			return nil, fmt.Errorf("updating user %s: %w", p.name, err)
		}
	}
	user.Status.DirectoryGroups = directoryGroups(directory.Name, p.groups)
	return user, nil
}

// describe writes into a user what his directory says of him.
func describe(user *v1alpha1.User, directory *v1alpha1.Directory, p person) {
	const longestName, longestMail = 100, 254
	user.Spec.ExternalID = p.id
	if p.fullName != "" {
		user.Spec.DisplayName = cut(p.fullName, longestName)
	}
	if len(p.mail) <= longestMail {
		user.Spec.Email = p.mail
	}
	if len(directory.Spec.PlatformAdministratorGroups) > 0 {
		user.Spec.PlatformAdministrator = slices.ContainsFunc(p.groups, func(group string) bool {
			return allowedGroup(group) && slices.Contains(directory.Spec.PlatformAdministratorGroups, group)
		})
	}
}

// directoryGroups are a person's groups as they are kept: no more than fit, and none that looks like the platform's.
func directoryGroups(directory string, groups []string) []string {
	set := map[string]bool{}
	for _, group := range groups {
		if allowedGroup(group) && !strings.ContainsFunc(group, func(c rune) bool { return c < ' ' }) {
			set[directory+":"+group] = true
		}
	}
	all := sorted(set)
	return all[:min(len(all), maxGroups)]
}

func cut(text string, runes int) string {
	all := []rune(text)
	return string(all[:min(len(all), runes)])
}

// refused is for somebody who has proved who he is, and may know why he is not let in.
func refused(format string, args ...any) error {
	return apierrors.NewForbidden(schema.GroupResource{}, "", fmt.Errorf(format, args...))
}
