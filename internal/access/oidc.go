package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

const (
	// issuerTimeout is how long one answer of an issuer may take.
	issuerTimeout = 10 * time.Second
	// issuerMemory is how long an issuer's endpoints are believed; its keys are read again when one is not known.
	issuerMemory = 10 * time.Minute
	// maxIssuerAnswer bounds what is read of one, in bytes.
	maxIssuerAnswer = 1 << 20
)

// signatures that issuers may use: all with a public key.
var issuerAlgorithms = []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA}

// issuers are the OpenID Connect issuers that were asked for their endpoints.
type issuers struct {
	secret func(ctx context.Context, ref *v1alpha1.SecretReference, entry string) (string, error)
	mu     sync.Mutex
	known  map[string]*provider
}

// provider is an issuer and the way to it.
type provider struct {
	*oidc.Provider
	generation int64
	uid        string
	read       time.Time
	client     *http.Client
}

func newIssuers(secret func(context.Context, *v1alpha1.SecretReference, string) (string, error)) *issuers {
	return &issuers{secret: secret, known: map[string]*provider{}}
}

// provider gives a directory's issuer, and asks it for its endpoints if they are not known.
func (i *issuers) provider(ctx context.Context, d *v1alpha1.Directory) (*provider, error) {
	i.mu.Lock()
	known := i.known[d.Name]
	i.mu.Unlock()
	if known != nil && known.uid == string(d.UID) && known.generation == d.Generation && time.Since(known.read) < issuerMemory {
		return known, nil
	}
	httpClient, err := issuerClient(d.Spec.OIDC.CA)
	if err != nil {
		return nil, err
	}
	// The issuer's keys are read later, when this request is long over.
	p, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), httpClient), d.Spec.OIDC.Issuer)
	if err != nil {
		return nil, unreachable(d.Name, err)
	}
	known = &provider{Provider: p, generation: d.Generation, uid: string(d.UID), read: time.Now(), client: httpClient}
	i.mu.Lock()
	defer i.mu.Unlock()
	const most = 100
	if len(i.known) >= most {
		clear(i.known)
	}
	i.known[d.Name] = known
	return known, nil
}

// issuerClient speaks to an issuer over TLS only, within limits of time and size.
func issuerClient(ca string) (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(ca)) {
			return nil, reconcile.Stall(v1alpha1.ReasonInvalid, "the directory's ca holds no certificate in PEM: put it right")
		}
	}
	transport := &http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConns: 4, IdleConnTimeout: time.Minute}
	return &http.Client{Timeout: issuerTimeout, Transport: &bounded{transport}}, nil
}

// bounded cuts answers that are too long, and refuses to ask anything in the clear.
type bounded struct{ next http.RoundTripper }

func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, fmt.Errorf("asking %s: an issuer is asked by https only", r.URL.Redacted())
	}
	response, err := b.next.RoundTrip(r)
	if err == nil {
		response.Body = http.MaxBytesReader(nil, response.Body, maxIssuerAnswer)
	}
	return response, err
}

// config is what the issuer is told of us.
func (i *issuers) config(ctx context.Context, d *v1alpha1.Directory, p *provider, callback string) (*oauth2.Config, error) {
	secret, err := i.secret(ctx, d.Spec.OIDC.ClientSecretRef, "clientSecret")
	if err != nil {
		return nil, reconcile.Wait(v1alpha1.ReasonCredentialsInvalid, time.Minute, "the client secret of directory %s: %w", d.Name, err)
	}
	return &oauth2.Config{
		ClientID: d.Spec.OIDC.ClientID, ClientSecret: secret, Endpoint: p.Endpoint(), RedirectURL: callback,
		Scopes: append([]string{oidc.ScopeOpenID}, slices.DeleteFunc(slices.Clone(d.Spec.OIDC.Scopes), func(s string) bool { return s == oidc.ScopeOpenID })...),
	}, nil
}

// exchange gives the person for whom an issuer gave a code.
func (i *issuers) exchange(ctx context.Context, d *v1alpha1.Directory, callback, code string, state oidcState) (person, error) {
	p, err := i.provider(ctx, d)
	if err != nil {
		return person{}, err
	}
	config, err := i.config(ctx, d, p, callback)
	if err != nil {
		return person{}, err
	}
	ctx = oidc.ClientContext(ctx, p.client)
	token, err := config.Exchange(ctx, code, oauth2.VerifierOption(state.Verifier))
	if err != nil {
		return person{}, distrusted(ctx, d.Name, "gave no token for the code", err)
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return person{}, distrusted(ctx, d.Name, "gave no ID token", nil)
	}
	verified, err := p.VerifierContext(ctx, &oidc.Config{ClientID: d.Spec.OIDC.ClientID, SupportedSigningAlgs: issuerAlgorithms}).Verify(ctx, raw)
	if err != nil {
		return person{}, distrusted(ctx, d.Name, "gave an ID token that is not good", err)
	}
	if verified.Nonce == "" || !same(verified.Nonce, state.Nonce) {
		return person{}, distrusted(ctx, d.Name, "gave an ID token for another sign-in", nil)
	}
	return personOf(ctx, d, verified)
}

// personOf reads an ID token. Nobody is known by his mail: issuers let people choose it.
func personOf(ctx context.Context, d *v1alpha1.Directory, token *oidc.IDToken) (person, error) {
	claims := map[string]any{}
	if err := token.Claims(&claims); err != nil {
		return person{}, distrusted(ctx, d.Name, "gave an ID token that cannot be read", err)
	}
	text := func(name string) string { value, _ := claims[name].(string); return strings.TrimSpace(value) }
	usernameClaim, groupsClaim := d.Spec.OIDC.UsernameClaim, d.Spec.OIDC.GroupsClaim
	if usernameClaim == "" {
		usernameClaim = "preferred_username"
	}
	if groupsClaim == "" {
		groupsClaim = "groups"
	}
	p := person{name: text(usernameClaim), id: token.Subject, fullName: text("name"), mail: text("email")}
	if p.name == "" {
		return person{}, distrusted(ctx, d.Name, "gave an ID token without the claim "+usernameClaim, nil)
	}
	groups, _ := claims[groupsClaim].([]any)
	for _, group := range groups {
		if name, ok := group.(string); ok {
			p.groups = append(p.groups, name)
		}
	}
	return p, nil
}

// distrusted is what somebody is told whose issuer's answer is not believed; the log has the rest.
func distrusted(ctx context.Context, directory, what string, err error) error {
	ctrl.LoggerFrom(ctx).Info("A sign-in at an issuer failed", "directory", directory, "what", what, "error", fmt.Sprint(err))
	return apierrors.NewUnauthorized(fmt.Sprintf("the issuer of directory %s %s: start again, or ask an administrator", directory, what))
}
