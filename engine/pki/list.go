package pki

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Certificate tells of one certificate in a store.
type Certificate struct {
	Name      string    `json:"name"` // file name without extension
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	Authority bool      `json:"authority,omitempty"`
}

// Due tells whether a certificate has used up two thirds of its time.
func Due(c *x509.Certificate, now time.Time) bool {
	return now.After(c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3))
}

// List tells of every certificate in the store, sorted by name.
func (s Store) List() ([]Certificate, error) {
	files, err := filepath.Glob(s.Cert("*"))
	if err != nil {
		return nil, fmt.Errorf("listing certificates: %w", err)
	}
	slices.Sort(files)
	var out []Certificate
	for _, file := range files {
		c, err := read(file)
		if err != nil {
			return nil, err
		}
		out = append(out, Certificate{Name: strings.TrimSuffix(filepath.Base(file), ".crt"), Subject: c.Subject.String(), Issuer: c.Issuer.String(),
			NotBefore: c.NotBefore, NotAfter: c.NotAfter, Authority: c.IsCA})
	}
	return out, nil
}

// Due names the certificates that signing again renews. Authorities are not among them.
func (s Store) Due(now time.Time) ([]string, error) {
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	ends := map[string]time.Time{} // of authorities, by subject
	for _, c := range all {
		if c.Authority {
			ends[c.Subject] = c.NotAfter
		}
	}
	var out []string
	for _, c := range all {
		end, known := ends[c.Issuer]
		if !c.Authority && known && c.NotAfter.Before(end) && Due(&x509.Certificate{NotBefore: c.NotBefore, NotAfter: c.NotAfter}, now) {
			out = append(out, c.Name)
		}
	}
	return out, nil
}

func read(file string) (*x509.Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading certificate: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("reading certificate %s: it is not PEM", file)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading certificate %s: %w", file, err)
	}
	return c, nil
}
