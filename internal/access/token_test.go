package access

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/testkit"
)

// forge signs claims as the test wants.
func forge(t *testing.T, key jose.SigningKey, kid string, c any, extra ...func(*jose.SignerOptions)) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", kid)
	for _, e := range extra {
		e(options)
	}
	signer, err := jose.NewSigner(key, options)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(c).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestForgedTokens(t *testing.T) {
	s := serve(t, "")
	user := s.local(t)
	b := s.browser(t)
	genuine := b.signIn(t, SignIn{User: user.Name, Password: goodPass}).Token
	who := rest.User{}
	b.do(t, "GET", "/api/v1/anything", nil).read(t, &who)
	session := who.Extra[extraSession][0]
	kid, private, err := s.keys.signing(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	own := jose.SigningKey{Algorithm: jose.EdDSA, Key: private}
	_, foreign, _ := ed25519.GenerateKey(rand.Reader)
	shared := jose.SigningKey{Algorithm: jose.HS256, Key: append(make([]byte, 0), private.Public().(ed25519.PublicKey)...)}
	now := time.Now()
	good := func(change ...func(*claims)) claims {
		c := claims{Session: session, Claims: jwt.Claims{
			Issuer: issuer, Audience: jwt.Audience{issuer}, Subject: user.Name,
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(time.Minute)),
		}}
		for _, f := range change {
			f(&c)
		}
		return c
	}
	parts := strings.Split(genuine, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT","kid":"` + kid + `"}`))
	admin, err := json.Marshal(good(func(c *claims) { c.Subject = "admin" }))
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct{ reason, token, says string }{
		"AlgNone":        {"no signature, and it says so", none + "." + parts[1] + ".", "not one of the platform's"},
		"AlgNoneSigned":  {"alg none with a genuine signature", none + "." + parts[1] + "." + parts[2], "not one of the platform's"},
		"AlgNONE":        {"spelt otherwise", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"nOnE","kid":"`+kid+`"}`)) + "." + parts[1] + ".", "not one of the platform's"},
		"PublicAsShared": {"the public key as a shared secret", forge(t, shared, kid, good()), "not one of the platform's"},
		"OtherKey":       {"somebody else's key under our name", forge(t, jose.SigningKey{Algorithm: jose.EdDSA, Key: foreign}, kid, good()), "not one of the platform's"},
		"UnknownKey":     {"a key that never was", forge(t, own, keyPrefix+"nothing", good()), "not one of the platform's"},
		"KeyPath":        {"a path as the key's name", forge(t, own, keyPrefix+"../../etc/passwd", good()), "not one of the platform's"},
		"KeySeal":        {"another entry of the Secret as key", forge(t, own, sealEntry, good()), "not one of the platform's"},
		"EmptyKey":       {"no name of a key", forge(t, own, "", good()), "not one of the platform's"},
		"EmbeddedKey": {"it brings its own key along", forge(t, jose.SigningKey{Algorithm: jose.EdDSA, Key: foreign}, kid, good(), func(o *jose.SignerOptions) {
			o.EmbedJWK = true
		}), "not one of the platform's"},
		"Payload":     {"another payload under a genuine signature", parts[0] + "." + base64.RawURLEncoding.EncodeToString(admin) + "." + parts[2], "not one of the platform's"},
		"Truncated":   {"half a signature", genuine[:len(genuine)-20], "not one of the platform's"},
		"Expired":     {"an old one", forge(t, own, kid, good(func(c *claims) { c.Expiry = jwt.NewNumericDate(now.Add(-time.Second)) })), "has expired"},
		"NotYet":      {"one of tomorrow", forge(t, own, kid, good(func(c *claims) { c.NotBefore = jwt.NewNumericDate(now.Add(time.Hour)) })), "not one of the platform's"},
		"NoExpiry":    {"one that never ends", forge(t, own, kid, good(func(c *claims) { c.Expiry = nil })), "not one of the platform's"},
		"Audience":    {"for somebody else", forge(t, own, kid, good(func(c *claims) { c.Audience = jwt.Audience{"other"} })), "not one of the platform's"},
		"NoAudience":  {"for nobody", forge(t, own, kid, good(func(c *claims) { c.Audience = nil })), "not one of the platform's"},
		"Issuer":      {"of somebody else", forge(t, own, kid, good(func(c *claims) { c.Issuer = "other" })), "not one of the platform's"},
		"NoSession":   {"of no session", forge(t, own, kid, good(func(c *claims) { c.Session = "" })), "not one of the platform's"},
		"GoneSession": {"of a session that never was", forge(t, own, kid, good(func(c *claims) { c.Session = newName() })), "session has ended"},
		"OthersToken": {"of another user's session", forge(t, own, kid, good(func(c *claims) { c.Subject = "admin" })), "not its session's"},
		"Huge":        {"longer than any", genuine + strings.Repeat("A", 20<<10), ""},
		"HugePayload": {"longer than any of ours", forge(t, own, kid, good(func(c *claims) { c.ID = strings.Repeat("A", maxToken) })), ""},
		"Nonsense":    {"no token at all", "a.b.c", ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			a := s.browser(t).do(t, "GET", "/api/v1/anything", nil, "Authorization", "Bearer "+tc.token)
			if a.code != 401 || !strings.Contains(a.body, tc.says) {
				t.Errorf("%s: got %d %s", tc.reason, a.code, a.body)
			}
		})
	}
	expect(t, s.browser(t).do(t, "GET", "/api/v1/anything", nil, "Authorization", "Bearer "+forge(t, own, kid, good())), 200, user.Name) // so the others fail for what is wrong with them
	expect(t, b.do(t, "GET", "/api/v1/anything", nil), 200, user.Name)
}

// clock is a time that a test moves.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) forward(d time.Duration) { c.ahead.Add(int64(d)) }

func TestKeysRotateWithoutSigningAnybodyOut(t *testing.T) {
	moving := &clock{}
	slow := func(s *Service) {
		s.keys.now, s.tokens.now, s.now = moving.now, moving.now, moving.now
		// Only this test rotates.
		s.keys.periods = keyPeriods{rotate: time.Hour, publish: 2 * time.Minute, reload: time.Hour}
	}
	one := serve(t, "", slow)
	two := serve(t, one.namespace, slow)
	user := one.local(t)
	b := one.browser(t)
	signed := b.signIn(t, SignIn{User: user.Name, Password: goodPass})
	both := func(reason, token string) {
		t.Helper()
		for i, s := range []*server{one, two} {
			if a := s.browser(t).do(t, "GET", "/api/v1/anything", nil, "Authorization", "Bearer "+token); a.code != 200 {
				t.Errorf("%s: server %d: %d %s", reason, i+1, a.code, a.body)
			}
		}
	}
	both("at first", signed.Token)
	first, _, _ := one.keys.signing(t.Context())
	refresh := func(s *server) {
		t.Helper()
		a := s.browser(t).do(t, "POST", "/api/v1/session/refresh", map[string]string{"refreshToken": signed.RefreshToken})
		expect(t, a, 200, "")
		a.read(t, &signed)
	}
	leader := rotation{one.keys}
	rotate := func() {
		t.Helper()
		if err := leader.rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	moving.forward(time.Hour - time.Minute)
	refresh(two)
	rotate()
	if now, _, _ := one.keys.signing(t.Context()); now != first || len(one.keys.known) != 2 {
		t.Errorf("the new key signs before it is published, or is not there: %d keys", len(one.keys.known))
	}
	both("while the new key is published", signed.Token)
	old := signed.Token
	moving.forward(2*time.Minute + time.Second)
	refresh(one)
	if now, _, _ := one.keys.signing(t.Context()); now == first {
		t.Error("the new key does not sign")
	}
	both("signed by the new key, which the second server has not read yet", signed.Token)
	both("signed by the old key", old)
	rotate()
	if len(one.keys.known) != 2 {
		t.Error("the old key is removed while its tokens are good")
	}
	moving.forward(tokenLife + clockLeeway + time.Second)
	refresh(two)
	rotate()
	if _, ok := one.keys.known[first]; ok {
		t.Error("the old key is kept forever")
	}
	both("at the end", signed.Token)
}

func TestRotationRunsByItself(t *testing.T) {
	s := serve(t, "", func(s *Service) {
		s.keys.periods = keyPeriods{rotate: 400 * time.Millisecond, publish: 100 * time.Millisecond, reload: 20 * time.Millisecond}
	})
	b := s.browser(t)
	b.signIn(t, SignIn{User: s.local(t).Name, Password: goodPass})
	first, _, _ := s.keys.signing(t.Context())
	NewWithT(t).Eventually(func() string { id, _, _ := s.keys.signing(t.Context()); return id }).WithTimeout(patience).ShouldNot(Equal(first))
	expect(t, b.do(t, "GET", "/api/v1/anything", nil), 200, "")
	secret := &corev1.Secret{}
	if err := hub.Client.Get(t.Context(), client.ObjectKey{Namespace: s.namespace, Name: keysSecret}, secret); err != nil || len(secret.Data) < 3 {
		t.Errorf("the Secret holds %d entries: %v", len(secret.Data), err)
	}
}

func TestLockOut(t *testing.T) {
	moving := &clock{}
	s := serve(t, "", func(s *Service) { s.now, s.locks = moving.now, newLocks(moving.now) })
	user := s.local(t)
	b := s.browser(t)
	attempt := func(name, password string) answer {
		return b.do(t, "POST", "/api/v1/session", SignIn{User: name, Password: password})
	}
	unknown := testkit.Name(t)
	for range userBackoff.free {
		known, none := attempt(user.Name, "wrong password"), attempt(unknown, "wrong password")
		if diff := cmp.Diff(none.body, known.body); diff != "" || known.code != 401 || none.code != 401 {
			t.Errorf("who exists can be told from who does not: %d %d\n%s", known.code, none.code, diff)
		}
	}
	known, none := attempt(user.Name, goodPass), attempt(unknown, goodPass)
	expect(t, known, 429, "too many attempts")
	expect(t, none, 429, "too many attempts")
	if known.header.Get("Retry-After") == "" || none.header.Get("Retry-After") == "" {
		t.Error("nobody is told when to try again")
	}
	other := serve(t, s.namespace, func(s *Service) { s.now = moving.now }) // another server, or the same after a restart
	expect(t, other.browser(t).do(t, "POST", "/api/v1/session", SignIn{User: user.Name, Password: goodPass}), 429, "")
	moving.forward(userBackoff.first + time.Second)
	expect(t, attempt(user.Name, "wrong password"), 401, "")
	moving.forward(userBackoff.first + time.Second)
	expect(t, attempt(user.Name, goodPass), 429, "") // twice as long now

	t.Run("others at this address are not locked out", func(t *testing.T) {
		b := s.browser(t)
		b.signIn(t, SignIn{User: s.local(t).Name, Password: goodPass})
	})
	t.Run("an administrator unlocks", func(t *testing.T) {
		admin := s.browser(t)
		admin.signIn(t, SignIn{User: s.local(t, administrator).Name, Password: goodPass})
		expect(t, admin.do(t, "POST", "/api/v1/users/"+user.Name+"/unlock", nil), 200, "unlocked")
		expect(t, attempt(user.Name, goodPass), 200, user.Name)
	})
	t.Run("an address is locked, but not for long", func(t *testing.T) {
		for range sourceBackoff.free {
			attempt(testkit.Name(t), "wrong password")
		}
		expect(t, attempt(s.local(t).Name, goodPass), 429, "")
		moving.forward(sourceBackoff.most)
		expect(t, attempt(s.local(t).Name, goodPass), 200, "")
	})
	t.Run("attempts side by side are counted", func(t *testing.T) {
		victim := s.local(t)
		codes := make(chan int, 20)
		for range cap(codes) {
			go func() { codes <- attempt(victim.Name, "wrong password").code }()
		}
		tried := 0
		for range cap(codes) {
			if <-codes == 401 {
				tried++
			}
		}
		if tried > int(userBackoff.free) {
			t.Errorf("%d passwords were tried at once, want at most %d", tried, userBackoff.free)
		}
	})
}

func TestFailuresTakeTheSameTime(t *testing.T) {
	s := serve(t, "", func(s *Service) { s.failureTime = 300 * time.Millisecond })
	b := s.browser(t)
	withPassword := s.local(t)
	none := &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: testkit.Name(t)}}
	testkit.Create(t, hub.Client, none)
	for reason, name := range map[string]string{"wrong password": withPassword.Name, "no password": none.Name, "unknown": testkit.Name(t)} {
		began := time.Now()
		expect(t, b.do(t, "POST", "/api/v1/session", SignIn{User: name, Password: "wrong password"}), 401, errWrong.Error())
		if took := time.Since(began); took < s.failureTime {
			t.Errorf("%s: answered after %s", reason, took)
		}
	}
}

func TestAccessTokens(t *testing.T) {
	s := serve(t, "")
	user := s.local(t, administrator)
	s.groups[user.Name] = []string{"yunfan:tenant:edu:admin", "yunfan:tenant:hr:viewer"}
	b := s.browser(t)
	b.signIn(t, SignIn{User: user.Name, Password: goodPass})
	create := func(asked NewToken) Token {
		t.Helper()
		a := b.do(t, "POST", "/api/v1/tokens", asked)
		expect(t, a, 201, accessPrefix)
		made := Token{}
		a.read(t, &made)
		return made
	}
	with := func(secret string) *browser {
		c := s.browser(t)
		c.token = secret
		return c
	}
	wide := create(NewToken{Description: "all"})
	expect(t, with(wide.Secret).do(t, "GET", "/api/v1/anything", nil), 200, v1alpha1.GroupPlatformAdmin)
	narrowed := create(NewToken{Scope: v1alpha1.TokenScope{Tenant: "edu", Role: "Viewer"}})
	got := rest.User{}
	with(narrowed.Secret).do(t, "GET", "/api/v1/anything", nil).read(t, &got)
	if diff := cmp.Diff([]string{"yunfan:authenticated", "yunfan:tenant:edu:viewer", "system:authenticated"}, got.Groups); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	stored := &v1alpha1.AccessToken{}
	if err := hub.Client.Get(t.Context(), client.ObjectKey{Name: wide.Name}, stored); err != nil {
		t.Fatal(err)
	}
	if text, err := json.Marshal(stored); err != nil || strings.Contains(string(text), strings.TrimPrefix(wide.Secret, accessPrefix+wide.Name+"_")) {
		t.Error("the secret is kept")
	}
	for reason, a := range map[string]answer{
		"a token makes no token":          with(wide.Secret).do(t, "POST", "/api/v1/tokens", NewToken{}),
		"a token lists no tokens":         with(narrowed.Secret).do(t, "GET", "/api/v1/tokens", nil),
		"a token changes no password":     with(wide.Secret).do(t, "POST", "/api/v1/password", map[string]string{"current": goodPass, "new": "another good one"}),
		"a narrow token sets no password": with(narrowed.Secret).do(t, "POST", "/api/v1/users/"+user.Name+"/password", map[string]string{}),
	} {
		if a.code != 403 {
			t.Errorf("%s: got %d %s", reason, a.code, a.body)
		}
	}
	expect(t, with(wide.Secret[:len(wide.Secret)-1]+"x").do(t, "GET", "/api/v1/anything", nil), 401, "not known")
	expect(t, with(accessPrefix+narrowed.Name+"_"+strings.Split(wide.Secret, "_")[2]).do(t, "GET", "/api/v1/anything", nil), 401, "not known")
	expect(t, with(accessPrefix+"../../x_y").do(t, "GET", "/api/v1/anything", nil), 401, "not known")
	expect(t, b.do(t, "POST", "/api/v1/tokens", NewToken{Days: 1000}), 400, "days")
	expect(t, b.do(t, "POST", "/api/v1/tokens", NewToken{Scope: v1alpha1.TokenScope{Partitions: []string{"x"}}}), 422, "need tenant")

	other := s.browser(t)
	other.signIn(t, SignIn{User: s.local(t).Name, Password: goodPass})
	expect(t, other.do(t, "DELETE", "/api/v1/tokens/"+wide.Name, nil), 404, "")
	rows := []Token{}
	NewWithT(t).Eventually(func() int { b.do(t, "GET", "/api/v1/tokens", nil).read(t, &rows); return len(rows) }).Should(Equal(2))
	if rows[0].Secret != "" {
		t.Error("the list tells secrets")
	}
	expect(t, b.do(t, "DELETE", "/api/v1/tokens/"+wide.Name, nil), 200, "revoked")
	expect(t, with(wide.Secret).do(t, "GET", "/api/v1/anything", nil), 401, "revoked")
}

func TestNarrow(t *testing.T) {
	auth := "yunfan:authenticated"
	admin := []string{auth, "yunfan:platform-admin"}
	limited := []string{auth, "yunfan:tenant:edu:limited", "yunfan:tenant:edu:limited-operator", "yunfan:partition:edu:a:operator", "yunfan:partition:edu:b:viewer"}
	both := []string{auth, "yunfan:tenant:edu:admin", "yunfan:tenant:hr:operator"}
	for name, tc := range map[string]struct {
		reason string
		groups []string
		scope  v1alpha1.TokenScope
		want   []string
	}{
		"None":             {"without scope all stays", both, v1alpha1.TokenScope{}, both},
		"Tenant":           {"other tenants are gone", both, v1alpha1.TokenScope{Tenant: "hr"}, []string{auth, "yunfan:tenant:hr:operator"}},
		"OthersTenant":     {"a tenant that is not one's own gives nothing", both, v1alpha1.TokenScope{Tenant: "law"}, []string{auth}},
		"NoMore":           {"a role that one has not got is not given", both, v1alpha1.TokenScope{Tenant: "hr", Role: "Admin"}, []string{auth, "yunfan:tenant:hr:operator"}},
		"Less":             {"a lesser role is", both, v1alpha1.TokenScope{Role: "Viewer"}, []string{auth, "yunfan:tenant:edu:viewer", "yunfan:tenant:hr:viewer"}},
		"Partitions":       {"an Admin in some partitions is an Operator there", both, v1alpha1.TokenScope{Tenant: "edu", Partitions: []string{"a"}}, []string{auth, "yunfan:partition:edu:a:operator", "yunfan:tenant:edu:limited", "yunfan:tenant:edu:limited-operator"}},
		"PartitionsViewer": {"and a Viewer if so asked", both, v1alpha1.TokenScope{Tenant: "edu", Role: "Viewer", Partitions: []string{"a"}}, []string{auth, "yunfan:partition:edu:a:viewer", "yunfan:tenant:edu:limited"}},
		"Limited":          {"limited people keep what is in both", limited, v1alpha1.TokenScope{Tenant: "edu", Partitions: []string{"b", "c"}}, []string{auth, "yunfan:partition:edu:b:viewer", "yunfan:tenant:edu:limited"}},
		"LimitedTenant":    {"and all of it without partitions", limited, v1alpha1.TokenScope{Tenant: "edu"}, []string{auth, "yunfan:partition:edu:a:operator", "yunfan:partition:edu:b:viewer", "yunfan:tenant:edu:limited", "yunfan:tenant:edu:limited-operator"}},
		"LimitedViewer":    {"as Viewer", limited, v1alpha1.TokenScope{Tenant: "edu", Role: "Viewer"}, []string{auth, "yunfan:partition:edu:a:viewer", "yunfan:partition:edu:b:viewer", "yunfan:tenant:edu:limited"}},
		"PlatformTenant":   {"a platform administrator's token for one tenant is its Admin's", admin, v1alpha1.TokenScope{Tenant: "edu"}, []string{auth, "yunfan:tenant:edu:admin"}},
		"PlatformRole":     {"and a role takes the platform away", admin, v1alpha1.TokenScope{Role: "Admin"}, []string{auth}},
		"Unknown":          {"what is not understood is not given", []string{auth, "yunfan:reader", "system:masters", "yunfan:tenant:edu:owner"}, v1alpha1.TokenScope{Role: "Admin"}, []string{auth}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, narrow(tc.groups, tc.scope)); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestPasswordHashes(t *testing.T) {
	h := newHasher(cost{memory: 64, passes: 1, threads: 1})
	hash, err := h.hash(t.Context(), goodPass)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := h.hash(t.Context(), goodPass)
	if hash == again || !strings.HasPrefix(hash, "$argon2id$v=19$m=64,t=1,p=1$") {
		t.Errorf("got %s and %s", hash, again)
	}
	for encoded, want := range map[string]bool{hash: true, again: true, "": false} {
		if got, err := h.matches(t.Context(), encoded, goodPass); err != nil || got != want {
			t.Errorf("%q: got %v %v", encoded, got, err)
		}
	}
	if got, err := h.matches(t.Context(), hash, goodPass+" "); err != nil || got {
		t.Errorf("a wrong password: got %v %v", got, err)
	}
	for _, broken := range []string{"x", "$argon2id$v=19$m=4294967295,t=1,p=1$AAAA$AAAA", strings.Replace(hash, "argon2id", "argon2i", 1), strings.Replace(hash, "v=19", "v=16", 1), hash[:len(hash)-8], strings.Replace(hash, "t=1", "t=0", 1)} {
		if got, err := h.matches(t.Context(), broken, goodPass); err == nil || got {
			t.Errorf("%q: got %v %v", broken, got, err)
		}
	}
	// What the server takes: long enough that guesses cost, and short enough that people do not wait.
	began := time.Now()
	if _, err := newHasher(defaultCost).hash(t.Context(), goodPass); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < 5*time.Millisecond {
		t.Errorf("a hash takes %s: guessing is cheap", took)
	}
}
