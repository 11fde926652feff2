package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	authoritySecret   = "yunfan-server-ca"
	authorityLife     = 10 * 365 * 24 * time.Hour
	certificateLife   = 90 * 24 * time.Hour
	certificateRenew  = certificateLife / 3 // before its end
	authorityKeyEntry = "ca.key"
	authorityCrtEntry = "ca.crt"
)

// authority is the platform's own CA. All replicas share it through a Secret, so that users and the hub trust one.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

// loadAuthority reads the CA from the hub, or makes it: of several replicas that do so, the first wins.
func loadAuthority(ctx context.Context, c client.Client) (*authority, error) {
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: Namespace, Name: authoritySecret}
	err := c.Get(ctx, key, secret)
	if apierrors.IsNotFound(err) {
		if secret, err = newAuthoritySecret(); err != nil {
			return nil, err
		}
		if err = c.Create(ctx, secret); apierrors.IsAlreadyExists(err) {
			err = c.Get(ctx, key, secret)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("keeping the server's CA in Secret %s: %w", key, err)
	}
	pair, err := tls.X509KeyPair(secret.Data[authorityCrtEntry], secret.Data[authorityKeyEntry])
	if err != nil {
		return nil, fmt.Errorf("reading the server's CA from Secret %s (delete the Secret to have a new one made): %w", key, err)
	}
	private, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("reading the server's CA from Secret %s: the key is not ECDSA: delete the Secret to have a new one made", key)
	}
	return &authority{pair.Leaf, private, secret.Data[authorityCrtEntry]}, nil
}

func newAuthoritySecret() (*corev1.Secret, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the server's CA: %w", err)
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "yunfan-server-ca"}, NotAfter: time.Now().Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := sign(template, template, key, key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("making the server's CA: %w", err)
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: authoritySecret},
		Data: map[string][]byte{
			authorityCrtEntry: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			authorityKeyEntry: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		},
	}, nil
}

func sign(template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) ([]byte, error) {
	const serialBits, clockSkew = 120, 10 * time.Minute
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	template.SerialNumber, template.NotBefore = serial, time.Now().Add(-clockSkew)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	return der, nil
}

// issue makes a serving certificate for hosts; its key is never stored.
func (a *authority) issue(hosts []string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the serving certificate: %w", err)
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "yunfan-server"}, NotAfter: time.Now().Add(certificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := sign(template, a.certificate, key, a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making the serving certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// serving gives a certificate for the advertised host, the address listened on and this machine, and renews it in time.
func (a *authority) serving(advertised string, listen net.Addr) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	hosts := []string{advertised, "localhost", "127.0.0.1", "::1"}
	if host, _, err := net.SplitHostPort(listen.String()); err == nil {
		hosts = append(hosts, host)
	}
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	slices.Sort(hosts)
	hosts = slices.DeleteFunc(slices.Compact(hosts), func(host string) bool {
		return host == "" || net.ParseIP(host).IsUnspecified()
	})
	var mu sync.Mutex
	var current *tls.Certificate
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if current != nil && time.Until(current.Leaf.NotAfter) > certificateRenew {
			return current, nil
		}
		renewed, err := a.issue(hosts)
		if err != nil {
			return nil, err
		}
		current = renewed
		return current, nil
	}
}
