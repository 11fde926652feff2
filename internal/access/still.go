package access

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// Still says whether somebody who was let in would be let in now, and gives the groups in which he would be. Where that
// cannot be found out he is kept: the hub, which is what cannot be asked then, decides about everything he does.
func (s *Service) Still(ctx context.Context, was rest.User) (groups []string, still bool) {
	scope := v1alpha1.TokenScope{}
	name, uid := "", ""
	if sessions := was.Extra[extraSession]; len(sessions) == 1 {
		session, err := s.session(ctx, sessions[0])
		if err != nil {
			return was.Groups, !apierrors.IsUnauthorized(err)
		}
		name, uid = session.Spec.User, session.Spec.UserUID
	} else if tokens := was.Extra[extraToken]; len(tokens) == 1 {
		token := &v1alpha1.AccessToken{}
		if err := s.hub.Get(ctx, client.ObjectKey{Name: tokens[0]}, token); err != nil {
			return was.Groups, client.IgnoreNotFound(err) != nil
		}
		if !token.DeletionTimestamp.IsZero() || !token.Spec.ExpirationTime.After(s.now()) {
			return nil, false
		}
		name, uid, scope = token.Spec.User, token.Spec.UserUID, token.Spec.Scope
	}
	user, err := s.user(ctx, name, uid)
	if err != nil {
		return was.Groups, !apierrors.IsUnauthorized(err)
	}
	all, err := s.groups(ctx, cleanGroups(user))
	if err != nil {
		return was.Groups, true
	}
	return narrow(all, scope), true
}
