package access

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// myself gives the user who asks, in person: not by an access token, which must not make itself more than it is.
func (s *Service) myself(ctx context.Context) (*v1alpha1.User, error) {
	asking := rest.UserOf(ctx)
	name, own := asking.OfPlatform()
	if !own || sessionOf(asking) == "" {
		return nil, refused("this needs a user who has signed in himself: neither certificates nor access tokens will do")
	}
	return s.user(ctx, name, asking.UID)
}

// changePassword changes one's own.
func (s *Service) changePassword(w http.ResponseWriter, r *http.Request) error {
	var asked struct {
		Current string `json:"current"`
		New     string `json:"new"`
	}
	if err := readJSON(w, r, &asked); err != nil {
		return err
	}
	ctx := r.Context()
	user, err := s.myself(ctx)
	if err != nil {
		return err
	}
	if user.Spec.Directory != "" {
		return refused("your password is that of directory %s: change it there", user.Spec.Directory)
	}
	if err := s.live.Get(ctx, client.ObjectKeyFromObject(user), user); err != nil {
		return fmt.Errorf("looking up user %s: %w", user.Name, err)
	}
	// Whoever has only the session must not guess the password by it.
	if err := s.attempt(ctx, user); err != nil {
		return err
	}
	began := s.now()
	if err := s.proveLocal(ctx, user, true, asked.Current); errors.Is(err, errWrong) {
		s.locks.failed(source(r))
		s.pause(ctx, began)
		return refused("the current password is wrong")
	} else if err != nil {
		return err
	}
	if asked.New == asked.Current {
		return apierrors.NewBadRequest("the new password is the old one: choose another")
	}
	if err := checkPassword(user.Name, asked.New); err != nil {
		return err
	}
	if err := s.keepPassword(ctx, user, asked.New); err != nil {
		return err
	}
	user.Status.PasswordChangeRequired = false
	if err := s.unlocked(ctx, user); err != nil {
		return err
	}
	if err := s.endAll(ctx, user.Name, sessionOf(rest.UserOf(ctx))); err != nil {
		return err
	}
	return rest.WriteJSON(w, http.StatusOK, map[string]string{"status": "changed; other sessions are ended"})
}

// setPassword gives a user a new password, which he must change, and ends his sessions. Without one in the request it is
// generated and told once.
func (s *Service) setPassword(w http.ResponseWriter, r *http.Request) error {
	var asked struct {
		Password string `json:"password"`
	}
	if err := readJSON(w, r, &asked); err != nil {
		return err
	}
	ctx := r.Context()
	user, err := s.administered(ctx, r.PathValue("name"))
	if err != nil {
		return err
	}
	if user.Spec.Directory != "" {
		return apierrors.NewBadRequest(fmt.Sprintf("user %s is of directory %s: his password is there", user.Name, user.Spec.Directory))
	}
	answer := map[string]string{"user": user.Name, "status": "set; the user must change it"}
	if asked.Password == "" {
		asked.Password = rand.Text()
		answer["password"] = asked.Password
	} else if err := checkPassword(user.Name, asked.Password); err != nil {
		return err
	}
	user.Status.PasswordChangeRequired = true
	if err := s.unlocked(ctx, user); err != nil {
		return err
	}
	if err := s.keepPassword(ctx, user, asked.Password); err != nil {
		return err
	}
	if err := s.endAll(ctx, user.Name, ""); err != nil {
		return err
	}
	return rest.WriteJSON(w, http.StatusOK, answer)
}

// unlock lets a user try again at once.
func (s *Service) unlock(w http.ResponseWriter, r *http.Request) error {
	user, err := s.administered(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	if err := s.unlocked(r.Context(), user); err != nil {
		return err
	}
	return rest.WriteJSON(w, http.StatusOK, map[string]string{"user": user.Name, "status": "unlocked"})
}

// administered gives a user to somebody who may change users.
func (s *Service) administered(ctx context.Context, name string) (*v1alpha1.User, error) {
	facts := rest.FactsOf(ctx)
	facts.Resource, facts.Name = usersResource, name
	err := s.authorizer.Require(ctx, authorizationv1.ResourceAttributes{
		Verb: "update", Group: v1alpha1.GroupVersion.Group, Version: v1alpha1.GroupVersion.Version, Resource: usersResource, Name: name,
	})
	if err != nil {
		return nil, err
	}
	user := &v1alpha1.User{}
	if err := s.live.Get(ctx, client.ObjectKey{Name: name}, user); err != nil {
		return nil, fmt.Errorf("looking up user %s: %w", name, err)
	}
	return user, nil
}

// unlocked writes a user's status with his failures taken away.
func (s *Service) unlocked(ctx context.Context, user *v1alpha1.User) error {
	mustChange := user.Status.PasswordChangeRequired
	for range attemptTries {
		user.Status.FailedAttempts, user.Status.LockedUntil, user.Status.PasswordChangeRequired = 0, nil, mustChange
		err := s.hub.Status().Update(ctx, user)
		if err == nil {
			return nil
		}
		if !apierrors.IsConflict(err) {
			return fmt.Errorf("updating user %s: %w", user.Name, err)
		}
		if err := s.live.Get(ctx, client.ObjectKeyFromObject(user), user); err != nil {
			return fmt.Errorf("updating user %s: %w", user.Name, err)
		}
	}
	return apierrors.NewServiceUnavailable("too much changes the user at once: try again")
}

// keepPassword keeps the hash of a password in a Secret that goes with its user.
func (s *Service) keepPassword(ctx context.Context, user *v1alpha1.User, password string) error {
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return err
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Namespace: s.namespace, Name: passwordSecret(user.Name), OwnerReferences: ownedBy(user),
	}, Data: map[string][]byte{passwordEntry: []byte(hash)}}
	err = s.hub.Create(ctx, secret)
	if apierrors.IsAlreadyExists(err) {
		err = s.hub.Update(ctx, secret)
	}
	if err != nil {
		return fmt.Errorf("keeping the password of user %s: %w", user.Name, err)
	}
	return nil
}
