package access

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// Days that an access token lives: by default, and at most.
const (
	defaultTokenDays, maxTokenDays = 90, 366
)

// NewToken is the body that asks for an access token.
type NewToken struct {
	Description string              `json:"description,omitempty"`
	Scope       v1alpha1.TokenScope `json:"scope,omitzero"`
	// Days until it ends; 90 if 0.
	Days int `json:"days,omitempty"`
}

// Token is an access token in a list. The secret is only in the answer that made it.
type Token struct {
	Name        string              `json:"name"`
	Description string              `json:"description,omitempty"`
	Scope       v1alpha1.TokenScope `json:"scope,omitzero"`
	Created     time.Time           `json:"created"`
	Expires     time.Time           `json:"expires"`
	Secret      string              `json:"secret,omitempty"`
}

func tokenRow(t *v1alpha1.AccessToken) Token {
	return Token{Name: t.Name, Description: t.Spec.Description, Scope: t.Spec.Scope, Created: t.CreationTimestamp.UTC(), Expires: t.Spec.ExpirationTime.UTC()}
}

// createToken makes one for the user who asks.
func (s *Service) createToken(w http.ResponseWriter, r *http.Request) error {
	var asked NewToken
	if err := readJSON(w, r, &asked); err != nil {
		return err
	}
	ctx := r.Context()
	user, err := s.myself(ctx)
	if err != nil {
		return err
	}
	days := cmp.Or(asked.Days, defaultTokenDays)
	if days < 1 || days > maxTokenDays {
		return apierrors.NewBadRequest(fmt.Sprintf("days: give a number from 1 to %d", maxTokenDays))
	}
	own := &v1alpha1.AccessTokenList{}
	if err := s.hub.List(ctx, own, client.MatchingFields{userField: user.Name}); err != nil {
		return fmt.Errorf("counting access tokens: %w", err)
	}
	if len(own.Items) >= maxTokens {
		return refused("you have %d access tokens, and no user has more: delete one first", len(own.Items))
	}
	secret := newSecret()
	const day = 24 * time.Hour
	token := &v1alpha1.AccessToken{
		ObjectMeta: metav1.ObjectMeta{Name: newName(), OwnerReferences: ownedBy(user)},
		Spec: v1alpha1.AccessTokenSpec{
			User: user.Name, UserUID: string(user.UID), Description: asked.Description, Scope: asked.Scope,
			ExpirationTime: metav1.NewTime(s.now().Add(time.Duration(days) * day)), Hash: hashOf(secret),
		},
	}
	facts := rest.FactsOf(ctx)
	facts.Resource, facts.Name, facts.Tenant = tokensResource, token.Name, asked.Scope.Tenant
	if err := s.hub.Create(ctx, token); err != nil {
		return fmt.Errorf("making an access token: %w", err)
	}
	answer := tokenRow(token)
	answer.Secret = accessPrefix + token.Name + "_" + secret
	return rest.WriteJSON(w, http.StatusCreated, answer)
}

// listTokens gives one's own.
func (s *Service) listTokens(r *http.Request) ([]Token, error) {
	user, err := s.myself(r.Context())
	if err != nil {
		return nil, err
	}
	own := &v1alpha1.AccessTokenList{}
	if err := s.hub.List(r.Context(), own, client.MatchingFields{userField: user.Name}); err != nil {
		return nil, fmt.Errorf("listing access tokens: %w", err)
	}
	rows := make([]Token, 0, len(own.Items))
	for i := range own.Items {
		if own.Items[i].Spec.UserUID == string(user.UID) {
			rows = append(rows, tokenRow(&own.Items[i]))
		}
	}
	slices.SortFunc(rows, func(a, b Token) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name)) })
	return rows, nil
}

// deleteToken revokes one of one's own.
func (s *Service) deleteToken(w http.ResponseWriter, r *http.Request) error {
	ctx, name := r.Context(), r.PathValue("name")
	user, err := s.myself(ctx)
	if err != nil {
		return err
	}
	facts := rest.FactsOf(ctx)
	facts.Resource, facts.Name = tokensResource, name
	token := &v1alpha1.AccessToken{}
	if !validName(name) {
		return rest.NotFound(tokensResource, name)
	}
	err = s.live.Get(ctx, client.ObjectKey{Name: name}, token)
	if apierrors.IsNotFound(err) || err == nil && token.Spec.UserUID != string(user.UID) {
		return rest.NotFound(tokensResource, name)
	}
	if err != nil {
		return fmt.Errorf("looking up the access token: %w", err)
	}
	s.gone.Add(name, true, goneMemory)
	if err := s.hub.Delete(ctx, token); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("revoking the access token: %w", err)
	}
	return rest.WriteJSON(w, http.StatusOK, map[string]string{"status": "revoked"})
}
