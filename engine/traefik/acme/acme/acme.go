// Package acme has the types of ACME that Traefik keeps in its files, and the error of everything that would ask an
// authority: this build has no ACME client.
package acme

import "errors"

// ErrNotBuilt is what every request to an authority gives.
var ErrNotBuilt = errors.New("ACME is not part of this build: bring certificates of your own")

// Account of an authority.
type Account struct {
	Status  string   `json:"status,omitempty"`
	Contact []string `json:"contact,omitempty"`
}

// ExtendedAccount is an Account and where it is kept.
type ExtendedAccount struct {
	Account
	Location string
}
