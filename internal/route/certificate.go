package route

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// triedVersions is how many versions of a certificate are tried, the newest first.
const triedVersions = 5

// certificate is what a Route's Configuration holds.
type certificate struct {
	// chain and key in PEM; empty if there is none that can be used.
	chain, key string
	leaf       *x509.Certificate
	// problem says why the newest version is not used.
	problem string
}

// certificateOf reads the certificate of a Route: the newest version that can be used, so that a bad one takes nothing
// away. An error means that it could not be read now.
func (r *Routes) certificateOf(ctx context.Context, route *v1alpha1.Route) (*certificate, error) {
	if route.Spec.TLS == nil {
		return nil, nil
	}
	name := route.Spec.TLS.Configuration
	configuration := &v1alpha1.Configuration{}
	err := r.client.Get(ctx, client.ObjectKey{Namespace: route.Namespace, Name: name}, configuration)
	switch {
	case apierrors.IsNotFound(err):
		return &certificate{problem: fmt.Sprintf("there is no configuration %s: create it, of the type Secret with tls.crt and tls.key", name)}, nil
	case err != nil:
		return nil, fmt.Errorf("reading configuration %s: %w", name, err)
	case configuration.Spec.Type != v1alpha1.ConfigurationSecret:
		return &certificate{problem: fmt.Sprintf("configuration %s is not of the type Secret: keys are kept in Secrets only", name)}, nil
	case configuration.Status.Version == "":
		return &certificate{problem: fmt.Sprintf("configuration %s has no values yet: write them with 'yunfan secret set'", name)}, nil
	}
	problem := ""
	for i, version := range configuration.Status.Versions {
		if i == triedVersions {
			break
		}
		c, err := r.version(ctx, client.ObjectKey{Namespace: route.Namespace, Name: v1alpha1.VersionObjectName(name, version.Name)})
		if err != nil {
			return nil, err
		}
		if c.chain != "" {
			found := *c
			if problem != "" {
				found.problem = fmt.Sprintf("%s; version %s is served instead", problem, version.Name)
			}
			return &found, nil
		}
		if problem == "" {
			problem = fmt.Sprintf("version %s of configuration %s: %s", version.Name, name, c.problem)
		}
	}
	return &certificate{problem: problem}, nil
}

// version reads one version, once: it never changes.
func (r *Routes) version(ctx context.Context, key client.ObjectKey) (*certificate, error) {
	r.mu.Lock()
	c := r.certificates[key]
	r.mu.Unlock()
	if c != nil {
		return c, nil
	}
	secret := &corev1.Secret{}
	if err := r.live.Get(ctx, key, secret); apierrors.IsNotFound(err) {
		return &certificate{problem: "its values are gone"}, nil
	} else if err != nil {
		return nil, fmt.Errorf("reading the certificate %s: %w", key.Name, err)
	}
	c = parseCertificate(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	r.mu.Lock()
	defer r.mu.Unlock()
	r.certificates[key] = c
	return c, nil
}

// forget drops the certificates of Configurations that no Route names.
func (r *Routes) forget(routes []v1alpha1.Route) {
	used := map[client.ObjectKey]bool{}
	for i := range routes {
		if t := routes[i].Spec.TLS; t != nil {
			used[client.ObjectKey{Namespace: routes[i].Namespace, Name: t.Configuration}] = true
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range r.certificates {
		at := strings.LastIndex(key.Name, "-")
		if !used[client.ObjectKey{Namespace: key.Namespace, Name: key.Name[:max(at, 0)]}] {
			delete(r.certificates, key)
		}
	}
}

// parseCertificate reads a chain and its key. No error tells anything of the key.
func parseCertificate(chain, key []byte) *certificate {
	if len(chain) == 0 || len(key) == 0 {
		return &certificate{problem: "the files tls.crt and tls.key are not both there"}
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return &certificate{problem: "tls.crt and tls.key do not fit together, or are not PEM"}
	}
	leaf := pair.Leaf
	if leaf == nil {
		if leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return &certificate{problem: "tls.crt holds no certificate"}
		}
	}
	return &certificate{chain: string(chain), key: string(key), leaf: leaf}
}

// status tells of the certificate.
func (c *certificate) status() *v1alpha1.CertificateStatus {
	if c == nil || c.leaf == nil {
		return nil
	}
	sum, notAfter := sha256.Sum256(c.leaf.Raw), metav1.NewTime(c.leaf.NotAfter)
	return &v1alpha1.CertificateStatus{
		Subject: c.leaf.Subject.String(), Issuer: c.leaf.Issuer.String(), Hosts: slices.Clone(c.leaf.DNSNames),
		NotAfter: &notAfter, Fingerprint: hex.EncodeToString(sum[:]),
	}
}

// remark says what people should know of a certificate for the hosts; empty if nothing.
func (c *certificate) remark(hosts []string, now time.Time) string {
	if c == nil {
		return ""
	}
	var remarks []string
	if c.problem != "" {
		remarks = append(remarks, c.problem)
	}
	if c.leaf == nil {
		return c.problem
	}
	if now.After(c.leaf.NotAfter) {
		remarks = append(remarks, "the certificate has expired on "+c.leaf.NotAfter.UTC().Format(time.DateOnly)+": write a new one with 'yunfan secret set'")
	} else if now.Before(c.leaf.NotBefore) {
		remarks = append(remarks, "the certificate is not valid before "+c.leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	for _, host := range hosts {
		if !covers(c.leaf, host) {
			remarks = append(remarks, "the certificate is not for "+host)
		}
	}
	return strings.Join(remarks, "; ")
}

// covers says whether a certificate is for a host, or for a wildcard of the same text.
func covers(leaf *x509.Certificate, host string) bool {
	if strings.HasPrefix(host, "*.") {
		return slices.ContainsFunc(leaf.DNSNames, func(name string) bool { return strings.EqualFold(name, host) })
	}
	return leaf.VerifyHostname(host) == nil
}
