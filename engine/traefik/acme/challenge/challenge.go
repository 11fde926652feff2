// Package challenge is how an authority would be shown whose a domain is.
package challenge

import "context"

// Provider shows it.
type Provider interface {
	Present(ctx context.Context, domain, token, keyAuth string) error
	CleanUp(ctx context.Context, domain, token, keyAuth string) error
}
