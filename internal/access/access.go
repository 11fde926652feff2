// Package access lets people and machines in: local accounts, directories (LDAP, OpenID Connect), sessions with
// short-lived signed tokens or cookies, and access tokens for machines. It says who somebody is; what he may do is
// decided elsewhere.
package access

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"k8s.io/apimachinery/pkg/util/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// Groups gives the groups as which a user acts, as of now.
type Groups func(ctx context.Context, user *v1alpha1.User) ([]string, error)

// Local is what stands for the platform's own accounts where a directory is named.
const Local = "local"

const (
	// passwordEntry of a user's Secret is the hash of his password; of a directory's, the password of its account.
	passwordEntry = "password"
	// resources of the API group.
	usersResource, tokensResource = "users", "accesstokens"
	// sessionLife is how long somebody stays signed in at most.
	sessionLife = 12 * time.Hour
	// maxSessions and maxTokens are how many of them one user has.
	maxSessions, maxTokens = 30, 50
	// goneMemory is how long it is remembered that a session is gone, so that a client that goes on asking costs
	// nothing.
	goneMemory, maxGone = 2 * time.Second, 1024
)

// Service lets users in. Every server runs it.
type Service struct {
	hub        client.Client // reads from the cache, but Secrets
	live       client.Reader
	groups     Groups
	authorizer *rest.Authorizer
	namespace  string
	url        *url.URL

	keys   *keys
	tokens *tokens
	hasher *hasher
	locks  *locks
	gone   *cache.LRUExpireCache
	oidc   *issuers
	now    func() time.Time
	// failureTime is how long an attempt to sign in that fails takes, at least: it tells nobody why it failed.
	failureTime time.Duration
}

// Options are what the service is told.
type Options struct {
	// Groups of a user.
	Groups Groups
	// Authorizer is asked who may administer users.
	Authorizer *rest.Authorizer
	// Namespace is where the platform keeps its own objects on the hub.
	Namespace string
	// URL is where users reach the server.
	URL *url.URL
}

// New makes the service on the hub of mgr. The manager's client must not cache Secrets.
func New(mgr manager.Manager, o Options) *Service {
	s := &Service{
		hub: mgr.GetClient(), live: mgr.GetAPIReader(), groups: o.Groups, authorizer: o.Authorizer, namespace: o.Namespace, url: o.URL,
		hasher: newHasher(defaultCost), locks: newLocks(time.Now), gone: cache.NewLRUExpireCache(maxGone), now: time.Now,
		failureTime: defaultFailureTime,
	}
	s.keys = &keys{namespace: o.Namespace, hub: s.hub, periods: defaultPeriods, now: time.Now}
	s.tokens = &tokens{keys: s.keys, now: time.Now, life: tokenLife}
	s.oidc = newIssuers(s.secret)
	return s
}

// SetupWithManager registers what runs beside the requests: keys, the first administrator, and the removal of what has
// expired.
func (s *Service) SetupWithManager(mgr manager.Manager) error {
	for _, indexed := range []struct {
		object client.Object
		user   func(client.Object) string
	}{
		{&v1alpha1.Session{}, func(o client.Object) string { return o.(*v1alpha1.Session).Spec.User }},
		{&v1alpha1.AccessToken{}, func(o client.Object) string { return o.(*v1alpha1.AccessToken).Spec.User }},
	} {
		index := func(o client.Object) []string { return []string{indexed.user(o)} }
		if err := mgr.GetFieldIndexer().IndexField(context.Background(), indexed.object, userField, index); err != nil {
			return fmt.Errorf("indexing %T: %w", indexed.object, err)
		}
	}
	// Requests find sessions and users in the cache: it is filled before the first of them.
	for _, kind := range []client.Object{&v1alpha1.User{}, &v1alpha1.Session{}, &v1alpha1.AccessToken{}, &v1alpha1.Directory{}} {
		if _, err := mgr.GetCache().GetInformer(context.Background(), kind); err != nil {
			return fmt.Errorf("watching %T: %w", kind, err)
		}
	}
	for _, runnable := range []manager.Runnable{s.keys, rotation{s.keys}, garbage{s}, &first{s}} {
		if err := mgr.Add(runnable); err != nil {
			return fmt.Errorf("adding to the manager: %w", err)
		}
	}
	return (&directoryController{service: s}).SetupWithManager(mgr)
}

// userField is the index of sessions and access tokens by user.
const userField = "spec.user"

// Parts are the routes, and the way users are known on every other.
func (s *Service) Parts() rest.Parts {
	return rest.Parts{
		Identities: []rest.Identity{s.Identify},
		Routes: []rest.Route{
			{Pattern: "POST /api/v1/session", Handler: s.signIn, Public: true},
			{Pattern: "POST /api/v1/session/refresh", Handler: s.refresh, Public: true},
			{Pattern: "DELETE /api/v1/session", Handler: s.signOut},
			{Pattern: "GET /api/v1/session", Handler: rest.Get(s.whoAmI)},
			{Pattern: "GET /api/v1/directories", Handler: rest.Get(s.listDirectories), Public: true},
			{Pattern: "GET /api/v1/oidc/{directory}/start", Handler: s.startOIDC, Public: true},
			{Pattern: "GET /api/v1/oidc/{directory}/callback", Handler: s.finishOIDC, Public: true},
			{Pattern: "POST /api/v1/password", Handler: s.changePassword},
			{Pattern: "POST /api/v1/users/{name}/password", Handler: s.setPassword},
			{Pattern: "POST /api/v1/users/{name}/unlock", Handler: s.unlock},
			{Pattern: "POST /api/v1/tokens", Handler: s.createToken},
			{Pattern: "GET /api/v1/tokens", Handler: rest.Get(s.listTokens)},
			{Pattern: "DELETE /api/v1/tokens/{name}", Handler: s.deleteToken},
		},
	}
}
