package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

const clientID, clientSecret = "yunfan-client", "secret-of-the-client"

// realIssuer is a small OpenID Connect issuer: discovery, keys, authorization and tokens over TLS.
type realIssuer struct {
	*httptest.Server
	mu     sync.Mutex
	key    *ecdsa.PrivateKey
	kid    string
	grants map[string]url.Values // by code: what was asked
	claims map[string]any        // of whoever signs in next
	// spoil changes the next ID token's claims or key before it is signed.
	spoil func(claims map[string]any, key *jose.SigningKey)
}

func startIssuer(t *testing.T) *realIssuer {
	t.Helper()
	i := &realIssuer{grants: map[string]url.Values{}}
	i.rotate(t)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": i.URL, "authorization_endpoint": i.URL + "/authorize", "token_endpoint": i.URL + "/token", "jwks_uri": i.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"ES256", "HS256", "none"}, // it promises more than is good
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: i.kid, Algorithm: "ES256", Use: "sig"}}})
	})
	mux.HandleFunc("GET /authorize", func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		code := rand.Text()
		i.grants[code] = r.URL.Query()
		back, _ := url.Parse(r.URL.Query().Get("redirect_uri"))
		back.RawQuery = url.Values{"code": {code}, "state": {r.URL.Query().Get("state")}}.Encode()
		http.Redirect(w, r, back.String(), http.StatusFound)
	})
	mux.HandleFunc("POST /token", i.token)
	i.Server = httptest.NewUnstartedServer(mux)
	i.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	i.StartTLS()
	t.Cleanup(i.Close)
	return i
}

func (i *realIssuer) rotate(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i.mu.Lock()
	i.key, i.kid = key, rand.Text()
	i.mu.Unlock()
}

// token gives an ID token for a code, once, to who has the client's secret and the code's verifier.
func (i *realIssuer) token(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	id, secret, _ := r.BasicAuth()
	asked, ok := i.grants[r.FormValue("code")]
	delete(i.grants, r.FormValue("code"))
	sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	if !ok || id != clientID || secret != clientSecret || asked.Get("code_challenge_method") != "S256" ||
		asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) || asked.Get("redirect_uri") != r.FormValue("redirect_uri") {
		http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
		return
	}
	claims := map[string]any{
		"iss": i.URL, "aud": clientID, "exp": time.Now().Add(time.Minute).Unix(), "iat": time.Now().Unix(), "nonce": asked.Get("nonce"),
	}
	maps.Copy(claims, i.claims)
	key := jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: i.kid}}
	if i.spoil != nil {
		i.spoil(claims, &key)
	}
	signer, err := jose.NewSigner(key, nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(map[string]string{"access_token": "unused", "token_type": "Bearer", "id_token": text}); err != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
}

func (s *server) issuerDirectory(t *testing.T, i *realIssuer, change ...func(*v1alpha1.DirectorySpec)) *v1alpha1.Directory {
	t.Helper()
	name := testkit.Name(t)
	testkit.Create(t, hub.Client, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name}, Data: map[string][]byte{"clientSecret": []byte(clientSecret)},
	})
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw})
	d := &v1alpha1.Directory{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.DirectorySpec{Type: v1alpha1.DirectoryOIDC, OIDC: &v1alpha1.OIDCDirectory{
		Issuer: i.URL, ClientID: clientID, ClientSecretRef: &v1alpha1.SecretReference{Name: name}, CA: string(ca),
	}}}
	for _, c := range change {
		c(&d.Spec)
	}
	testkit.Create(t, hub.Client, d)
	t.Cleanup(func() { _ = hub.Client.Delete(t.Context(), d) })
	s.seen(t, d)
	return d
}

// follow walks a browser through a sign-in and gives our last answer and the callback's address.
func (b *browser) follow(t *testing.T, d *v1alpha1.Directory, query string) (answer, string) {
	t.Helper()
	started := b.do(t, "GET", "/api/v1/oidc/"+d.Name+"/start"+query, nil)
	if started.code != http.StatusFound {
		return started, ""
	}
	back := b.atIssuer(t, started.header.Get("Location"))
	return b.do(t, "GET", back, nil), back
}

func (b *browser) atIssuer(t *testing.T, address string) string {
	t.Helper()
	trusting := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := trusting.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return response.Header.Get("Location")
}

func TestOPS11_OpenIDConnect(t *testing.T) {
	i := startIssuer(t)
	s := serve(t, "")
	d := s.issuerDirectory(t, i, func(d *v1alpha1.DirectorySpec) {
		d.PlatformAdministratorGroups = []string{"admins", "yunfan:platform-admin"}
	})
	name := testkit.Name(t)
	i.claims = map[string]any{"sub": "4711", "preferred_username": strings.ToUpper(name), "name": "李雷", "email": "admin@example.com", "groups": []string{"ops", "system:masters", "yunfan:platform-admin"}}

	b := s.browser(t)
	a, callback := b.follow(t, d, "?return=/applications?tenant=edu")
	if a.code != http.StatusSeeOther || a.header.Get("Location") != "/applications?tenant=edu" {
		t.Fatalf("got %d %s %s", a.code, a.body, a.header)
	}
	who := Who{}
	b.do(t, "GET", "/api/v1/session", nil).read(t, &who)
	if who.User != name || who.PlatformAdministrator || !slices.Equal(who.DirectoryGroups, []string{d.Name + ":ops"}) || who.CSRFToken == "" {
		t.Errorf("got %+v", who)
	}
	user := &v1alpha1.User{}
	if err := hub.Client.Get(t.Context(), client.ObjectKey{Name: name}, user); err != nil || user.Spec.ExternalID != "4711" || user.Spec.Email != "admin@example.com" {
		t.Errorf("the user is %+v: %v", user.Spec, err)
	}
	expect(t, b.do(t, "GET", callback, nil), 401, "not begun in this browser") // the same answer once more
	expect(t, s.browser(t).do(t, "GET", callback, nil), 401, "not begun in this browser")

	t.Run("the issuer's keys change", func(t *testing.T) {
		i.rotate(t)
		if a, _ := s.browser(t).follow(t, d, ""); a.code != http.StatusSeeOther || a.header.Get("Location") != "/" {
			t.Errorf("got %d %s", a.code, a.body)
		}
	})
	t.Run("somebody else's state", func(t *testing.T) {
		attacker, victim := s.browser(t), s.browser(t)
		started := attacker.do(t, "GET", "/api/v1/oidc/"+d.Name+"/start", nil)
		planted := attacker.atIssuer(t, started.header.Get("Location"))
		victim.do(t, "GET", "/api/v1/oidc/"+d.Name+"/start", nil)
		expect(t, victim.do(t, "GET", planted, nil), 401, "not begun in this browser")
	})
	t.Run("the name is another's now", func(t *testing.T) {
		i.claims["sub"] = "4712"
		a, _ := s.browser(t).follow(t, d, "")
		expect(t, a, 403, "belonged to somebody else")
		i.claims["sub"] = "4711"
	})
	t.Run("nobody is known by his mail", func(t *testing.T) {
		delete(i.claims, "preferred_username")
		a, _ := s.browser(t).follow(t, d, "")
		expect(t, a, 401, "without the claim preferred_username")
		i.claims["preferred_username"] = name
	})
	t.Run("what the issuer says", func(t *testing.T) {
		b := s.browser(t)
		started := b.do(t, "GET", "/api/v1/oidc/"+d.Name+"/start", nil)
		state := queryOf(t, started.header.Get("Location")).Get("state")
		expect(t, b.do(t, "GET", "/api/v1/oidc/"+d.Name+"/callback?error=access_denied&state="+state, nil), 401, "access_denied")
	})
	for returned, reason := range map[string]string{
		"https://evil.example.com": "another host", "//evil.example.com": "another host, shorter", `/\evil.example.com`: "as some browsers read it",
		"javascript:alert(1)": "a script", "/a%0d%0aSet-Cookie:x": "", "/%09/evil.example.com": "",
	} {
		a := s.browser(t).do(t, "GET", "/api/v1/oidc/"+d.Name+"/start?return="+url.QueryEscape(returned), nil)
		if reason != "" && a.code != 400 {
			t.Errorf("%s (%s): got %d %s", returned, reason, a.code, a.header)
		}
	}
	expect(t, s.browser(t).do(t, "GET", "/api/v1/oidc/"+d.Name+"/start?return=/a%0d%0aSet-Cookie:x", nil), 400, "path of this server")
	expect(t, s.browser(t).do(t, "GET", "/api/v1/oidc/nothing/start", nil), 400, "no directory")
}

func queryOf(t *testing.T, address string) url.Values {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query()
}

func TestOIDCTokensThatAreNotGood(t *testing.T) {
	i := startIssuer(t)
	s := serve(t, "")
	d := s.issuerDirectory(t, i)
	i.claims = map[string]any{"sub": "1", "preferred_username": testkit.Name(t)}
	foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := i.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		reason string
		spoil  func(c map[string]any, key *jose.SigningKey)
	}{
		"Audience": {"for another client", func(c map[string]any, _ *jose.SigningKey) { c["aud"] = "other" }},
		"Issuer":   {"of another issuer", func(c map[string]any, _ *jose.SigningKey) { c["iss"] = "https://other.example.com" }},
		"Nonce":    {"for another sign-in", func(c map[string]any, _ *jose.SigningKey) { c["nonce"] = "other" }},
		"NoNonce":  {"for any sign-in", func(c map[string]any, _ *jose.SigningKey) { delete(c, "nonce") }},
		"Expired":  {"an old one", func(c map[string]any, _ *jose.SigningKey) { c["exp"] = time.Now().Add(-time.Hour).Unix() }},
		"Key":      {"by another key of the same name", func(_ map[string]any, key *jose.SigningKey) { key.Key = jose.JSONWebKey{Key: foreign, KeyID: i.kid} }},
		"Shared": {"the public key as a shared secret", func(_ map[string]any, key *jose.SigningKey) {
			*key = jose.SigningKey{Algorithm: jose.HS256, Key: public}
		}},
		"Secret": {"the client's secret as key", func(_ map[string]any, key *jose.SigningKey) {
			*key = jose.SigningKey{Algorithm: jose.HS256, Key: []byte(strings.Repeat(clientSecret, 2))}
		}},
		"NoSubject": {"of nobody", func(c map[string]any, _ *jose.SigningKey) { delete(c, "sub") }},
	} {
		t.Run(name, func(t *testing.T) {
			i.mu.Lock()
			i.spoil = tc.spoil
			i.mu.Unlock()
			if a, _ := s.browser(t).follow(t, d, ""); a.code != 401 && a.code != 403 || strings.Contains(a.header.Get("Set-Cookie"), sessionCookie) {
				t.Errorf("%s: got %d %s", tc.reason, a.code, a.body)
			}
		})
	}
	i.mu.Lock()
	i.spoil = nil
	i.mu.Unlock()
	if a, _ := s.browser(t).follow(t, d, ""); a.code != http.StatusSeeOther {
		t.Errorf("a good one is refused: %d %s", a.code, a.body)
	}
}

func TestOIDCForTheCommandLine(t *testing.T) {
	i := startIssuer(t)
	s := serve(t, "")
	d := s.issuerDirectory(t, i)
	name := testkit.Name(t)
	i.claims = map[string]any{"sub": "1", "preferred_username": name}
	verifier := newSecret()
	start := "?port=45454&challenge=" + challenge(verifier)
	a, _ := s.browser(t).follow(t, d, start)
	location := a.header.Get("Location")
	if a.code != http.StatusSeeOther || !strings.HasPrefix(location, "http://127.0.0.1:45454/?code=") || strings.Contains(a.header.Get("Set-Cookie"), sessionCookie) {
		t.Fatalf("got %d %s", a.code, location)
	}
	code := queryOf(t, location).Get("code")
	redeem := func(code, verifier string) answer {
		return s.browser(t).do(t, "POST", "/api/v1/session", SignIn{Code: code, Verifier: verifier})
	}
	expect(t, redeem(code, "a guess"), 401, "not good")
	expect(t, redeem("AAAA"+code[4:], verifier), 401, "not good")
	a = redeem(code, verifier)
	expect(t, a, 200, name)
	signed := Signed{}
	a.read(t, &signed)
	expect(t, s.browser(t).do(t, "GET", "/api/v1/anything", nil, "Authorization", "Bearer "+signed.Token), 200, name)
	expect(t, redeem(code, verifier), 401, "used before")
	for _, wrong := range []string{"?port=80&challenge=" + challenge("x"), "?port=45454", "?port=evil.example.com&challenge=" + challenge("x")} {
		expect(t, s.browser(t).do(t, "GET", "/api/v1/oidc/"+d.Name+"/start"+wrong, nil), 400, "port and challenge")
	}
}
