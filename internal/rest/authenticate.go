package rest

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	// rootsRefresh is how often the hub's client CA is read again: it may be exchanged while we run.
	rootsRefresh = time.Minute
	// tokenMemory is how long the hub's word on a token is believed, as in Kubernetes' own servers.
	tokenMemory   = 10 * time.Second
	maxTokens     = 1024
	maxTokenBytes = 16 << 10
)

// User is who asks, as the hub knows him.
type User struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
}

// OfPlatform says whether a user is the platform's own, not one of the hub's, and gives the name of his User object. The
// name of another is given as it is.
func (u User) OfPlatform() (name string, yes bool) {
	return strings.CutPrefix(u.Name, v1alpha1.UserPrefix)
}

type userKey struct{}

// UserOf gives the user of a request; the frame lets no request through without one.
func UserOf(ctx context.Context) User {
	user, _ := ctx.Value(userKey{}).(User)
	return user
}

// WithUser sets the user of a request.
func WithUser(ctx context.Context, user User) context.Context {
	return context.WithValue(ctx, userKey{}, user)
}

// Authenticator asks the hub who a user is, so that there is one set of users: client certificates by the hub's own
// client CA, bearer tokens by TokenReview.
type Authenticator struct {
	hub    kubernetes.Interface
	tokens *cache.LRUExpireCache

	mu    sync.RWMutex
	roots *x509.CertPool
}

// NewAuthenticator makes an authenticator that knows no certificate until Start.
func NewAuthenticator(hub kubernetes.Interface) *Authenticator {
	return &Authenticator{hub: hub, tokens: cache.NewLRUExpireCache(maxTokens)}
}

// Start reads the hub's client CA again and again until ctx ends. A hub without one has no client certificates.
func (a *Authenticator) Start(ctx context.Context) error {
	ticker := time.NewTicker(rootsRefresh)
	defer ticker.Stop()
	for {
		if err := a.Refresh(ctx); err != nil && ctx.Err() == nil {
			ctrl.LoggerFrom(ctx).Error(err, "Client certificates are checked by the CA that was read last")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// NeedLeaderElection says that every replica does this.
func (a *Authenticator) NeedLeaderElection() bool { return false }

// Refresh reads the hub's client CA.
func (a *Authenticator) Refresh(ctx context.Context) error {
	const namespace, name, key = metav1.NamespaceSystem, "extension-apiserver-authentication", "client-ca-file"
	config, err := a.hub.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading the hub's client CA from ConfigMap %s/%s: %w", namespace, name, err)
	}
	roots := x509.NewCertPool()
	if text := config.Data[key]; text != "" && !roots.AppendCertsFromPEM([]byte(text)) {
		return fmt.Errorf("reading the hub's client CA: ConfigMap %s/%s has no certificate in %s", namespace, name, key)
	}
	a.mu.Lock()
	a.roots = roots
	a.mu.Unlock()
	return nil
}

// Authenticate says whose request it is. The error is a Kubernetes Unauthorized unless the hub could not be asked.
func (a *Authenticator) Authenticate(r *http.Request) (User, error) {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		user, err := a.byCertificate(r.TLS.PeerCertificates)
		if err == nil || r.Header.Get("Authorization") == "" {
			return user, err
		}
	}
	kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(kind, "bearer") || token == "" || len(token) > maxTokenBytes {
		return User{}, apierrors.NewUnauthorized("show a client certificate or a bearer token of the hub")
	}
	return a.byToken(r.Context(), token)
}

func (a *Authenticator) byCertificate(chain []*x509.Certificate) (User, error) {
	a.mu.RLock()
	roots := a.roots
	a.mu.RUnlock()
	if roots == nil {
		return User{}, apierrors.NewUnauthorized("the hub's client CA is not known yet: try again in a second")
	}
	options := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, certificate := range chain[1:] {
		options.Intermediates.AddCert(certificate)
	}
	if _, err := chain[0].Verify(options); err != nil {
		return User{}, apierrors.NewUnauthorized(fmt.Sprintf("the client certificate is not one of the hub's: %v", err))
	}
	subject := chain[0].Subject
	if subject.CommonName == "" {
		return User{}, apierrors.NewUnauthorized("the client certificate names nobody: its common name is empty")
	}
	return ofHub(User{Name: subject.CommonName, Groups: slices.Clone(subject.Organization)})
}

func (a *Authenticator) byToken(ctx context.Context, token string) (User, error) {
	key := sha256.Sum256([]byte(token)) // the memory holds no token
	if known, ok := a.tokens.Get(key); ok {
		return known.(User), nil
	}
	review, err := a.hub.AuthenticationV1().TokenReviews().Create(ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return User{}, fmt.Errorf("asking the hub whose token it is: %w", errors.Join(err, apierrors.NewServiceUnavailable("the hub cannot be asked whose token this is: try again")))
	}
	if !review.Status.Authenticated {
		return User{}, apierrors.NewUnauthorized("the hub does not know the token: it may have expired")
	}
	info := review.Status.User
	user := User{Name: info.Username, UID: info.UID, Groups: info.Groups, Extra: make(map[string][]string, len(info.Extra))}
	for key, values := range info.Extra {
		user.Extra[key] = values
	}
	if user, err = ofHub(user); err != nil {
		return User{}, err
	}
	a.tokens.Add(key, user, tokenMemory)
	return user, nil
}

// ofHub refuses a user of the hub who has the name of one of the platform's, and takes from him the groups that only the
// platform gives.
func ofHub(user User) (User, error) {
	if _, ours := user.OfPlatform(); ours {
		return User{}, apierrors.NewUnauthorized("names that begin with " + v1alpha1.UserPrefix + " are the platform's: sign in there")
	}
	user.Groups = slices.DeleteFunc(user.Groups, func(group string) bool { return strings.HasPrefix(group, v1alpha1.UserPrefix) })
	return authenticated(user), nil
}

// authenticated adds the group that every known user is in.
func authenticated(user User) User {
	const all = "system:authenticated"
	if !slices.Contains(user.Groups, all) {
		user.Groups = append(user.Groups, all)
	}
	return user
}

// Identity knows users of its own. It gives false for a request that shows nothing of its kind, and an error for one
// that shows something wrong: nobody else is asked then.
type Identity func(r *http.Request) (user User, known bool, err error)

// identify finds out who asks. A refusal goes along with the request, so that whoever surrounds the handler sees it.
func (a *Authenticator) identify(identities []Identity, public bool, next Handler) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		user, err := a.who(r, identities)
		ctx := context.WithValue(WithUser(r.Context(), user), factsKey{}, &Facts{})
		if public {
			err = nil
		}
		if named := ownName(r); named != nil {
			err = named
		}
		if err != nil {
			ctx = context.WithValue(ctx, refusalKey{}, err)
		}
		return next(w, r.WithContext(ctx))
	}
}

func (a *Authenticator) who(r *http.Request, identities []Identity) (User, error) {
	for _, identity := range identities {
		user, known, err := identity(r)
		if err != nil {
			return User{}, err
		}
		if known {
			return authenticated(user), nil
		}
	}
	return a.Authenticate(r)
}

type refusalKey struct{}

// refusalOf is why nobody is known for a request; nil if somebody is, or need not be.
func refusalOf(ctx context.Context) error {
	err, _ := ctx.Value(refusalKey{}).(error)
	return err
}

// Facts are what a handler tells those who surround it, beyond what request and answer say: a sign-in, for example,
// says who tried. Empty fields say nothing.
type Facts struct {
	User, Tenant, Cluster, Resource, Name, Action string
}

type factsKey struct{}

// FactsOf gives the facts of a request, to be filled in by its handler.
func FactsOf(ctx context.Context) *Facts {
	if facts, ok := ctx.Value(factsKey{}).(*Facts); ok {
		return facts
	}
	return &Facts{}
}
