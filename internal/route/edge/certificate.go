package edge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
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
	"slices"
	"time"
)

const (
	certificateFile = "tls.crt"
	keyFile         = "tls.key"
	selfMade        = "yunfan-edge"
	certificateLife = 10 * 365 * 24 * time.Hour
	clockSkew       = time.Hour
)

// serving is the certificate of the interface: the one in the folder, or one that is made there, which signs itself. The
// hub trusts exactly it. One that was made is made anew when it has run out or is not for the address; one that somebody
// put there stays.
func serving(dir, listen string) (*tls.Certificate, error) {
	crt, key := filepath.Join(dir, certificateFile), filepath.Join(dir, keyFile)
	hosts, err := hostsOf(listen)
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(crt, key)
	if err == nil && (pair.Leaf.Subject.CommonName != selfMade || fits(pair.Leaf, hosts)) {
		return &pair, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the edge's certificate (remove %s and %s to have them made anew): %w", crt, key, err)
	}
	certificate, private, err := makeCertificate(hosts)
	if err != nil {
		return nil, fmt.Errorf("making the edge's certificate: %w", err)
	}
	if err := errors.Join(replace(key, private), replace(crt, certificate)); err != nil {
		return nil, fmt.Errorf("keeping the edge's certificate: %w", err)
	}
	if pair, err = tls.X509KeyPair(certificate, private); err != nil {
		return nil, fmt.Errorf("making the edge's certificate: %w", err)
	}
	return &pair, nil
}

func fits(leaf *x509.Certificate, hosts []string) bool {
	return time.Now().Before(leaf.NotAfter) && !slices.ContainsFunc(hosts, func(host string) bool { return leaf.VerifyHostname(host) != nil })
}

// hostsOf are the names and addresses at which an address to listen at is reached.
func hostsOf(listen string) ([]string, error) {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, fmt.Errorf("reading the address of the interface: %w", err)
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return []string{host}, nil
	}
	hosts := []string{"localhost"}
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing this machine's addresses: %w", err)
	}
	for _, address := range addresses {
		if network, ok := address.(*net.IPNet); ok && !network.IP.IsLinkLocalUnicast() {
			hosts = append(hosts, network.IP.String())
		}
	}
	return hosts, nil
}

func makeCertificate(hosts []string) (certificate, private []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	const serialBits = 120
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: selfMade}, NotBefore: time.Now().Add(-clockSkew), NotAfter: time.Now().Add(certificateLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), nil
}
