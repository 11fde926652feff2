// Package tlsalpn01 would show it by a certificate.
package tlsalpn01

import (
	"time"

	"github.com/go-acme/lego/v5/acme"
)

// ACMETLS1Protocol is what an authority would ask for.
const ACMETLS1Protocol = "acme-tls/1"

// ChallengeOption changes nothing.
type ChallengeOption func()

// SetDelay gives an option.
func SetDelay(time.Duration) ChallengeOption { return func() {} }

// ChallengeBlocks gives ErrNotBuilt.
func ChallengeBlocks(string, string) (certificate, key []byte, err error) {
	return nil, nil, acme.ErrNotBuilt
}
