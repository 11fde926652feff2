// Package lego would be the client of an authority.
package lego

import (
	"crypto/x509"
	"net/http"
	"time"

	"github.com/go-acme/lego/v5/acme"
	"github.com/go-acme/lego/v5/certificate"
	"github.com/go-acme/lego/v5/challenge"
	"github.com/go-acme/lego/v5/challenge/dns01"
	"github.com/go-acme/lego/v5/challenge/http01"
	"github.com/go-acme/lego/v5/challenge/tlsalpn01"
	"github.com/go-acme/lego/v5/registration"
)

// DirectoryURLLetsEncrypt is the default authority.
const DirectoryURLLetsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

// CertificateConfig says how long a certificate may take.
type CertificateConfig struct{ Timeout time.Duration }

// Config of a Client.
type Config struct {
	CADirURL, UserAgent string
	HTTPClient          *http.Client
	Certificate         CertificateConfig
}

// Resolver takes no way to show whose a domain is.
type Resolver struct{}

// SetDNS01Provider gives ErrNotBuilt.
func (*Resolver) SetDNS01Provider(challenge.Provider, ...dns01.ChallengeOption) error {
	return acme.ErrNotBuilt
}

// SetHTTP01Provider gives ErrNotBuilt.
func (*Resolver) SetHTTP01Provider(challenge.Provider, ...http01.ChallengeOption) error {
	return acme.ErrNotBuilt
}

// SetTLSALPN01Provider gives ErrNotBuilt.
func (*Resolver) SetTLSALPN01Provider(challenge.Provider, ...tlsalpn01.ChallengeOption) error {
	return acme.ErrNotBuilt
}

// Client of an authority. There is none.
type Client struct {
	Challenge    *Resolver
	Registration *registration.Registrar
	Certificate  *certificate.Certifier
}

// NewConfig makes an empty Config.
func NewConfig(any) *Config { return &Config{} }

// NewClient gives ErrNotBuilt.
func NewClient(*Config) (*Client, error) { return nil, acme.ErrNotBuilt }

// CreateCertPool gives ErrNotBuilt.
func CreateCertPool([]string, bool) (*x509.CertPool, error) { return nil, acme.ErrNotBuilt }
