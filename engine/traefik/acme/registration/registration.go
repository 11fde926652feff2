// Package registration would make accounts of authorities.
package registration

import (
	"context"

	"github.com/go-acme/lego/v5/acme"
)

// RegisterOptions say what is agreed to.
type RegisterOptions struct{ TermsOfServiceAgreed bool }

// RegisterEABOptions bind to an account that is there.
type RegisterEABOptions struct {
	TermsOfServiceAgreed bool
	Kid, HmacEncoded     string
}

// Registrar registers nothing.
type Registrar struct{}

// Register gives ErrNotBuilt.
func (*Registrar) Register(context.Context, RegisterOptions) (*acme.ExtendedAccount, error) {
	return nil, acme.ErrNotBuilt
}

// RegisterWithExternalAccountBinding gives ErrNotBuilt.
func (*Registrar) RegisterWithExternalAccountBinding(context.Context, RegisterEABOptions) (*acme.ExtendedAccount, error) {
	return nil, acme.ErrNotBuilt
}
