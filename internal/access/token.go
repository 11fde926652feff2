package access

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// issuer and audience of our tokens.
	issuer = "yunfan"
	// tokenLife is how long a signed token is good; it is renewed by its session's refresh token.
	tokenLife = 5 * time.Minute
	// clockLeeway is how much the clocks of servers may differ.
	clockLeeway = 30 * time.Second
	// maxToken is the longest text that is looked at as a token, in bytes.
	maxToken = 4 << 10
)

// tokens issues and checks signed tokens.
type tokens struct {
	keys *keys
	now  func() time.Time
	life time.Duration
}

// claims are what a token says.
type claims struct {
	jwt.Claims
	Session string `json:"sid"`
}

// issue gives a token for a session of a user, and when it ends.
func (t *tokens) issue(ctx context.Context, user, session string, sessionEnd time.Time) (string, time.Time, error) {
	id, private, err := t.keys.signing(ctx)
	if err != nil {
		return "", time.Time{}, err
	}
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", id)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: private}, options)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("signing a token: %w", err)
	}
	now := t.now()
	end := now.Add(t.life)
	if sessionEnd.Before(end) {
		end = sessionEnd
	}
	text, err := jwt.Signed(signer).Claims(claims{
		Claims: jwt.Claims{
			Issuer: issuer, Audience: jwt.Audience{issuer}, Subject: user,
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(end),
		},
		Session: session,
	}).Serialize()
	if err != nil {
		return "", time.Time{}, fmt.Errorf("signing a token: %w", err)
	}
	return text, end.Truncate(time.Second), nil
}

// ours says whether a text claims to be a signed token of the platform, so that nobody else need be asked about it. It
// decides nothing else.
func ours(text string) bool {
	parts := strings.Split(text, ".")
	const jwtParts = 3
	if len(parts) != jwtParts {
		return false
	}
	var header struct {
		KeyID string `json:"kid"`
	}
	var payload struct {
		Issuer string `json:"iss"`
	}
	return decode(parts[0], &header) && strings.HasPrefix(header.KeyID, keyPrefix) || decode(parts[1], &payload) && payload.Issuer == issuer
}

func decode(part string, into any) bool {
	text, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(text, into) == nil
}

// errTokenExpired says that a token was good once.
var errTokenExpired = apierrors.NewUnauthorized("the token has expired: refresh it, or sign in again")

// check gives what a token says if it is ours and good now.
func (t *tokens) check(ctx context.Context, text string) (*claims, error) {
	forged := apierrors.NewUnauthorized("the token is not one of the platform's: sign in again")
	if len(text) > maxToken {
		return nil, forged
	}
	// The one algorithm that we sign with: neither "none" nor the public key as a shared secret.
	parsed, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil || len(parsed.Headers) != 1 {
		return nil, forged
	}
	public, err := t.keys.public(ctx, parsed.Headers[0].KeyID)
	if err != nil {
		return nil, err
	}
	c := &claims{}
	if public == nil || parsed.Claims(public, c) != nil {
		return nil, forged
	}
	err = c.ValidateWithLeeway(jwt.Expected{Issuer: issuer, AnyAudience: jwt.Audience{issuer}, Time: t.now()}, 0)
	if errors.Is(err, jwt.ErrNotValidYet) || errors.Is(err, jwt.ErrIssuedInTheFuture) {
		err = c.ValidateWithLeeway(jwt.Expected{Issuer: issuer, AnyAudience: jwt.Audience{issuer}, Time: t.now()}, clockLeeway)
	}
	switch {
	case errors.Is(err, jwt.ErrExpired):
		return nil, errTokenExpired
	case err != nil, c.Expiry == nil, c.NotBefore == nil, c.Subject == "", c.Session == "":
		return nil, forged
	}
	return c, nil
}

// hashOf is how secrets of 256 random bits are kept: nobody finds them from it, so no slow hash is needed.
func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// same compares two hashes without telling by its time how much of them is the same.
func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
