package access

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	// FirstUser is the name of the first administrator.
	FirstUser = "admin"
	// FirstSecret holds his password, entries "user" and "password", until somebody has read it. With the entry "ready"
	// he can sign in, and not before that may it be deleted.
	FirstSecret           = "yunfan-first-administrator"
	userEntry, readyEntry = "user", "ready"
	// cleanInterval is how often what has expired is removed.
	cleanInterval = time.Minute
	firstRetry    = 2 * time.Second
)

// first makes the first administrator on a hub that has no users. Only the leader does that.
type first struct{ service *Service }

// NeedLeaderElection says that one server does this.
func (*first) NeedLeaderElection() bool { return true }

// Start makes him and ends; what fails is tried again.
func (f *first) Start(ctx context.Context) error {
	for {
		err := f.service.firstAdministrator(ctx)
		if err == nil {
			return nil
		}
		ctrl.LoggerFrom(ctx).Error(err, "There is no first administrator yet")
		timer := time.NewTimer(firstRetry)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// firstAdministrator goes on wherever a server before it was stopped: the password is written down first, the User is
// made next, and only when all of it is there can he sign in.
func (s *Service) firstAdministrator(ctx context.Context) error {
	written := &corev1.Secret{}
	err := s.hub.Get(ctx, client.ObjectKey{Namespace: s.namespace, Name: FirstSecret}, written)
	if apierrors.IsNotFound(err) {
		users := &v1alpha1.UserList{}
		if err := s.live.List(ctx, users, client.Limit(1)); err != nil {
			return fmt.Errorf("looking for users: %w", err)
		}
		if len(users.Items) > 0 {
			return nil
		}
		written = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: FirstSecret},
			Data:       map[string][]byte{userEntry: []byte(FirstUser), passwordEntry: []byte(rand.Text())},
		}
		err = s.hub.Create(ctx, written)
	}
	if err != nil {
		return fmt.Errorf("writing down the first administrator's password: %w", err)
	}
	user := &v1alpha1.User{
		ObjectMeta: metav1.ObjectMeta{Name: FirstUser},
		Spec:       v1alpha1.UserSpec{DisplayName: "Administrator", PlatformAdministrator: true},
	}
	if err = s.hub.Create(ctx, user); apierrors.IsAlreadyExists(err) {
		err = s.live.Get(ctx, client.ObjectKey{Name: FirstUser}, user)
	}
	if err != nil {
		return fmt.Errorf("making the first administrator: %w", err)
	}
	hash, err := s.passwordHash(ctx, user)
	if err != nil {
		return err
	}
	if hash == "" {
		user.Status.PasswordChangeRequired = true
		if err := s.unlocked(ctx, user); err != nil {
			return err
		}
		if err := s.keepPassword(ctx, user, string(written.Data[passwordEntry])); err != nil {
			return err
		}
	}
	if len(written.Data[readyEntry]) > 0 {
		return nil
	}
	written.Data[readyEntry] = []byte("true")
	if err := s.hub.Update(ctx, written); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("saying that the first administrator can sign in: %w", err)
	}
	return nil
}

// garbage removes sessions and access tokens that have expired. Only the leader does that.
type garbage struct{ service *Service }

// NeedLeaderElection says that one server does this.
func (garbage) NeedLeaderElection() bool { return true }

// Start removes them again and again until ctx ends.
func (g garbage) Start(ctx context.Context) error {
	return every(ctx, cleanInterval, func() {
		if err := g.service.clean(ctx); err != nil && ctx.Err() == nil {
			ctrl.LoggerFrom(ctx).Error(err, "Expired sessions and access tokens stay for now")
		}
	})
}

func (s *Service) clean(ctx context.Context) error {
	sessions, tokens := &v1alpha1.SessionList{}, &v1alpha1.AccessTokenList{}
	if err := errors.Join(s.hub.List(ctx, sessions), s.hub.List(ctx, tokens)); err != nil {
		return fmt.Errorf("listing sessions and access tokens: %w", err)
	}
	var old []client.Object
	for i := range sessions.Items {
		if !sessions.Items[i].Spec.ExpirationTime.After(s.now()) {
			old = append(old, &sessions.Items[i])
		}
	}
	for i := range tokens.Items {
		if !tokens.Items[i].Spec.ExpirationTime.After(s.now()) {
			old = append(old, &tokens.Items[i])
		}
	}
	var failed error
	for _, o := range old {
		failed = errors.Join(failed, client.IgnoreNotFound(s.hub.Delete(ctx, o)))
	}
	return failed
}
