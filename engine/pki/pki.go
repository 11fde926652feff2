// Package pki makes the certificates of a cluster: three certificate authorities (cluster, etcd, front proxy), the
// certificates they sign, the key for service account tokens, and kubeconfigs with everything inline.
//
// Authorities are valid for ten years, the certificates they sign for one, or as long as is wished. Signing again renews
// what has used up two thirds of its time, so a cluster that was asleep for years wakes up with new ones.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"yunfan.io/engine/topology"
)

const (
	year          = 365 * 24 * time.Hour
	authorityLife = 10 * year
)

// Store is a directory of certificates and keys, mode 0700.
type Store struct {
	Dir string
	// Lifetime is how long certificates are valid that are made from now on; a year if 0. Authorities have ten years.
	Lifetime time.Duration
	// Parent holds ca.crt and ca.key of an authority that signs those made here, if it has them: the enterprise's own.
	Parent string
}

// Cert returns the path of a certificate, e.g. Cert("apiserver").
func (s Store) Cert(name string) string { return filepath.Join(s.Dir, name+".crt") }

// Key returns the path of a private key.
func (s Store) Key(name string) string { return filepath.Join(s.Dir, name+".key") }

// Request describes a certificate to be signed.
type Request struct {
	Name         string // file name without extension
	CA           string // file name of the authority
	CommonName   string
	Organization []string
	DNS          []string
	IPs          []string
	Server       bool // usable by a server; every certificate is usable by a client unless ServerOnly
	ServerOnly   bool
}

// CA makes a certificate authority unless it is there already: signed by the parent if there is one, by itself otherwise.
func (s Store) CA(name, commonName string) error {
	return s.make(name, func(key *ecdsa.PrivateKey) ([]byte, error) {
		t, err := template(pkix.Name{CommonName: commonName}, authorityLife)
		if err != nil {
			return nil, err
		}
		t.IsCA, t.BasicConstraintsValid = true, true
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign
		signer, signerKey := t, crypto.Signer(key)
		if parent := (Store{Dir: s.Parent}); s.Parent != "" && exists(parent.Cert("ca")) {
			if signer, signerKey, err = parent.load("ca"); err != nil {
				return nil, err
			}
			if err := maySignAuthorities(signer, parent.Cert("ca")); err != nil {
				return nil, err
			}
			t.MaxPathLen, t.MaxPathLenZero = 0, true
			t.NotAfter = earlier(t.NotAfter, signer.NotAfter)
		}
		return x509.CreateCertificate(rand.Reader, t, signer, key.Public(), signerKey)
	})
}

func maySignAuthorities(c *x509.Certificate, file string) error {
	switch {
	case !c.IsCA || c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("%s is no certificate authority: ask for one that may sign certificates", file)
	case c.MaxPathLenZero && c.MaxPathLen == 0:
		return fmt.Errorf("%s may sign no further authorities (path length 0): ask for one with a path length of 1 or more", file)
	case time.Now().After(c.NotAfter):
		return fmt.Errorf("%s has ended on %s: ask for a new one", file, c.NotAfter.Format(time.DateOnly))
	}
	return nil
}

// Sign makes a certificate unless it is there and has more than a third of its time left. A renewed one keeps its key:
// then only one file changes, and no program ever reads halves that do not belong together.
func (s Store) Sign(r Request) error {
	if exists(s.Cert(r.Name)) && exists(s.Key(r.Name)) {
		return s.renew(r)
	}
	return s.make(r.Name, func(key *ecdsa.PrivateKey) ([]byte, error) { return s.sign(r, key) })
}

func (s Store) renew(r Request) error {
	current, key, err := s.load(r.Name)
	if err != nil {
		return err
	}
	ca, _, err := s.load(r.CA)
	if err != nil {
		return err
	}
	if !Due(current, time.Now()) || !current.NotAfter.Before(ca.NotAfter) { // no longer than its authority
		return nil
	}
	der, err := s.sign(r, key)
	if err != nil {
		return err
	}
	return s.writeCert(r.Name, der)
}

// sign gives the certificate, followed by its authority's if that is not known by itself: the other side may trust the
// enterprise's only.
func (s Store) sign(r Request, key crypto.Signer) ([]byte, error) {
	ca, caKey, err := s.load(r.CA)
	if err != nil {
		return nil, err
	}
	life := s.Lifetime
	if life == 0 {
		life = year
	}
	t, err := template(pkix.Name{CommonName: r.CommonName, Organization: r.Organization}, life)
	if err != nil {
		return nil, err
	}
	t.NotAfter = earlier(t.NotAfter, ca.NotAfter)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	if !r.ServerOnly {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if r.Server || r.ServerOnly {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	t.DNSNames = r.DNS
	for _, ip := range r.IPs {
		t.IPAddresses = append(t.IPAddresses, net.ParseIP(ip))
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca, key.Public(), caKey)
	if err == nil && !bytes.Equal(ca.RawIssuer, ca.RawSubject) {
		der = append(der, ca.Raw...)
	}
	return der, err
}

// KeyPair makes a bare key, <name>.key and its public half <name>.pub, unless it is there already.
func (s Store) KeyPair(name string) error {
	if exists(s.Key(name)) && exists(filepath.Join(s.Dir, name+".pub")) {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making key %s: %w", name, err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("making key %s: %w", name, err)
	}
	if err := s.write(filepath.Join(s.Dir, name+".pub"), "PUBLIC KEY", public, 0o644); err != nil {
		return err
	}
	return s.writeKey(name, key)
}

// make writes the key last: a pair is complete exactly when its key exists.
func (s Store) make(name string, create func(*ecdsa.PrivateKey) ([]byte, error)) error {
	if exists(s.Cert(name)) && exists(s.Key(name)) {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making certificate %s: %w", name, err)
	}
	der, err := create(key)
	if err != nil {
		return fmt.Errorf("making certificate %s: %w", name, err)
	}
	if err := s.writeCert(name, der); err != nil {
		return err
	}
	return s.writeKey(name, key)
}

// writeCert writes one or more certificates.
func (s Store) writeCert(name string, der []byte) error {
	all, err := x509.ParseCertificates(der)
	if err != nil {
		return fmt.Errorf("making certificate %s: %w", name, err)
	}
	var text []byte
	for _, c := range all {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("making certificate directory: %w", err)
	}
	return topology.WriteFile(s.Cert(name), text, 0o644)
}

func (s Store) writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("making key %s: %w", name, err)
	}
	return s.write(s.Key(name), "EC PRIVATE KEY", der, 0o600)
}

func (s Store) write(path, kind string, der []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("making certificate directory: %w", err)
	}
	return topology.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

func (s Store) load(name string) (*x509.Certificate, crypto.Signer, error) {
	certPEM, err := os.ReadFile(s.Cert(name))
	if err != nil {
		return nil, nil, fmt.Errorf("reading certificate %s: %w", name, err)
	}
	keyPEM, err := os.ReadFile(s.Key(name))
	if err != nil {
		return nil, nil, fmt.Errorf("reading certificate %s: %w", name, err)
	}
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return nil, nil, fmt.Errorf("reading certificate %s: no PEM block in its files", name)
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("reading certificate %s: %w", name, err)
	}
	key, err := parseKey(keyBlock.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("reading key %s: %w", s.Key(name), err)
	}
	if public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
		return nil, nil, fmt.Errorf("reading certificate %s: it does not belong to the key %s", s.Cert(name), s.Key(name))
	}
	return cert, key, nil
}

// parseKey reads the forms in which keys come: our own, and those of an enterprise's authority.
func parseKey(der []byte) (crypto.Signer, error) {
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
	}
	return nil, errors.New("it is neither an EC nor an RSA nor a PKCS #8 key without a password")
}

func template(subject pkix.Name, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("choosing a serial number: %w", err)
	}
	// An hour back, for clocks that are a little behind.
	now := time.Now()
	return &x509.Certificate{Subject: subject, SerialNumber: serial, NotBefore: now.Add(-min(time.Hour, life/10)), NotAfter: now.Add(life)}, nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
