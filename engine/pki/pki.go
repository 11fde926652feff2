// Package pki makes the certificates of a cluster: three certificate authorities (cluster, etcd, front proxy), the
// certificates they sign, the key for service account tokens, and kubeconfigs with everything inline.
//
// Certificates are valid for ten years because nothing renews them: a cluster that was asleep for a year must wake up.
package pki

import (
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

const validity = 10 * 365 * 24 * time.Hour

// Store is a directory of certificates and keys, mode 0700.
type Store struct{ Dir string }

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

// CA makes a certificate authority unless it is there already.
func (s Store) CA(name, commonName string) error {
	return s.make(name, func(key *ecdsa.PrivateKey) ([]byte, error) {
		t, err := template(pkix.Name{CommonName: commonName})
		if err != nil {
			return nil, err
		}
		t.IsCA, t.BasicConstraintsValid = true, true
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign
		return x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	})
}

// Sign makes a certificate unless it is there already.
func (s Store) Sign(r Request) error {
	return s.make(r.Name, func(key *ecdsa.PrivateKey) ([]byte, error) {
		ca, caKey, err := s.load(r.CA)
		if err != nil {
			return nil, err
		}
		t, err := template(pkix.Name{CommonName: r.CommonName, Organization: r.Organization})
		if err != nil {
			return nil, err
		}
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
		return x509.CreateCertificate(rand.Reader, t, ca, key.Public(), caKey)
	})
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
	if err := s.write(s.Cert(name), "CERTIFICATE", der, 0o644); err != nil {
		return err
	}
	return s.writeKey(name, key)
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
		return nil, nil, fmt.Errorf("reading authority %s: %w", name, err)
	}
	keyPEM, err := os.ReadFile(s.Key(name))
	if err != nil {
		return nil, nil, fmt.Errorf("reading authority %s: %w", name, err)
	}
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return nil, nil, fmt.Errorf("reading authority %s: no PEM block in its files", name)
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("reading authority %s: %w", name, err)
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("reading authority %s: %w", name, err)
	}
	return cert, key, nil
}

func template(subject pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("choosing a serial number: %w", err)
	}
	// An hour back, for clocks that are a little behind.
	start := time.Now().Add(-time.Hour)
	return &x509.Certificate{Subject: subject, SerialNumber: serial, NotBefore: start, NotAfter: start.Add(validity)}, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
