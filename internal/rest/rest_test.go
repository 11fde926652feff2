package rest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

// serve starts the frame with routes and gives its address.
func serve(t *testing.T, routes ...Route) string {
	t.Helper()
	auth := NewAuthenticator(clientset(t))
	if err := auth.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(Routes(auth, Parts{Routes: routes}))
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

func clientset(t *testing.T) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(hub.Config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// call sends a request with what proves who asks, and gives the answer's code and body.
func call(t *testing.T, method, url, token string, certificate *tls.Certificate, body string) (int, string) {
	t.Helper()
	config := &tls.Config{InsecureSkipVerify: true}
	if certificate != nil {
		config.Certificates = []tls.Certificate{*certificate}
	}
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text := &bytes.Buffer{}
	if _, err := text.ReadFrom(response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, text.String()
}

func adminCertificate(t *testing.T) *tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(hub.Config.CertData, hub.Config.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

// foreignCertificate names an administrator, by an authority that is not the hub's.
func foreignCertificate(t *testing.T) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// account makes a service account of the hub with a token, as an ordinary user.
func account(t *testing.T, namespace string) (name, token string) {
	t.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: testkit.Name(t)}}
	testkit.Create(t, hub.Client, sa)
	request, err := clientset(t).CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), sa.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return "system:serviceaccount:" + namespace + ":" + sa.Name, request.Status.Token
}

func TestAuthentication(t *testing.T) {
	url := serve(t, Route{Pattern: "GET /who", Handler: Get(func(r *http.Request) (User, error) { return UserOf(r.Context()), nil })})
	sa, token := account(t, testkit.Namespace(t, hub.Client))
	for name, tc := range map[string]struct {
		reason      string
		token       string
		certificate *tls.Certificate
		code        int
		user        string
	}{
		"Nobody":             {"who shows nothing is nobody", "", nil, 401, ""},
		"Certificate":        {"the hub's own certificates are known", "", adminCertificate(t), 200, "admin"},
		"ForeignCertificate": {"a name alone proves nothing", "", foreignCertificate(t), 401, ""},
		"Token":              {"the hub's tokens are known", token, nil, 200, sa},
		"WrongToken":         {"a token the hub does not know", "nonsense", nil, 401, ""},
		"ForeignAndToken":    {"a certificate from elsewhere does not spoil a good token", token, foreignCertificate(t), 200, sa},
		"HugeToken":          {"the hub is not asked about megabytes", strings.Repeat("x", 20<<10), nil, 401, ""},
	} {
		t.Run(name, func(t *testing.T) {
			code, body := call(t, http.MethodGet, url+"/who", tc.token, tc.certificate, "")
			user := User{}
			if err := json.Unmarshal([]byte(body), &user); err != nil {
				t.Fatal(err)
			}
			if code != tc.code || user.Name != tc.user {
				t.Errorf("%s: got %d %s", tc.reason, code, body)
			}
		})
	}
}

func TestAuthorization(t *testing.T) {
	mine, others := testkit.Namespace(t, hub.Client), testkit.Namespace(t, hub.Client)
	_, token := account(t, mine)
	user, err := NewAuthenticator(clientset(t)).byToken(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Create(t, hub.Client,
		&rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Namespace: mine, Name: "reader"},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"yunfan.io"}, Resources: []string{"applications"}, Verbs: []string{"list"}}},
		},
		&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: mine, Name: "reader"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user.Name}},
		})
	authorizer := NewAuthorizer(clientset(t))
	list := authorizationv1.ResourceAttributes{Verb: "list", Group: "yunfan.io", Resource: "applications"}
	for name, tc := range map[string]struct {
		reason string
		user   User
		want   []string
	}{
		"Tenant":  {"rows of other tenants are left out", user, []string{mine}},
		"Admin":   {"who may see all sees all", User{Name: "admin", Groups: []string{"system:masters"}}, []string{mine, others}},
		"Nobody":  {"a context without user may nothing", User{}, []string{}},
		"Unknown": {"who has no role sees nothing", User{Name: "li", Groups: []string{"system:authenticated"}}, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := authorizer.Namespaces(WithUser(t.Context(), tc.user), list, []string{mine, others})
			if tc.user.Name == "" {
				if err == nil {
					t.Errorf("%s: got %v without an error", tc.reason, got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
		})
	}
	t.Run("Require", func(t *testing.T) {
		list.Namespace = others
		err := authorizer.Require(WithUser(t.Context(), user), list)
		if s := StatusOf(err); s.Code != http.StatusForbidden || !strings.Contains(s.Message, user.Name) || !strings.Contains(s.Message, others) {
			t.Errorf("got %v, want a 403 that names user and namespace", err)
		}
	})
}

func TestLimits(t *testing.T) {
	blocked, release := make(chan struct{}, 2*maxInFlight), make(chan struct{})
	url := serve(t,
		Route{Pattern: "POST /echo", Handler: func(w http.ResponseWriter, r *http.Request) error {
			var v map[string]any
			if err := ReadBody(r, &v); err != nil {
				return err
			}
			return WriteJSON(w, http.StatusOK, v)
		}},
		Route{Pattern: "GET /panic", Handler: func(http.ResponseWriter, *http.Request) error { panic("secret word") }},
		Route{Pattern: "GET /slow", Handler: func(http.ResponseWriter, *http.Request) error { return context.DeadlineExceeded }},
		Route{Pattern: "GET /block", Handler: func(http.ResponseWriter, *http.Request) error {
			blocked <- struct{}{}
			<-release
			return nil
		}},
	)
	admin := adminCertificate(t)
	for name, tc := range map[string]struct {
		reason, method, path, body string
		code                       int
		says                       string
	}{
		"JSON":      {"a body of JSON", "POST", "/echo", `{"a":1}`, 200, `"a":1`},
		"YAML":      {"a body of YAML", "POST", "/echo", "a: 1\n", 200, `"a":1`},
		"Empty":     {"no body", "POST", "/echo", "", 400, "no body"},
		"Broken":    {"a body that is neither", "POST", "/echo", "{", 400, "cannot be read"},
		"TooLarge":  {"more than is read", "POST", "/echo", strings.Repeat(" ", MaxBody) + "{}", 413, fmt.Sprint(MaxBody)},
		"Unknown":   {"a path that is not there", "GET", "/nothing", "", 404, "docs/api.md"},
		"Panic":     {"nothing of a panic leaves the server", "GET", "/panic", "", 500, "its log has the reason"},
		"Slow":      {"a request out of time", "GET", "/slow", "", 504, "too long"},
		"Traversal": {"dots do not climb", "GET", "/a/../../echo", "", 404, "there is no"},
	} {
		t.Run(name, func(t *testing.T) {
			code, body := call(t, tc.method, url+tc.path, "", admin, tc.body)
			if code != tc.code || !strings.Contains(body, tc.says) || strings.Contains(body, "secret word") {
				t.Errorf("%s: got %d %s", tc.reason, code, body)
			}
		})
	}
	t.Run("TooMany", func(t *testing.T) {
		done := make(chan struct{}, maxInFlight)
		for range maxInFlight {
			go func() {
				call(t, http.MethodGet, url+"/block", "", admin, "")
				done <- struct{}{}
			}()
		}
		for range maxInFlight {
			<-blocked
		}
		if code, body := call(t, http.MethodGet, url+"/block", "", admin, ""); code != http.StatusTooManyRequests {
			t.Errorf("one request more than the limit: got %d %s, want 429", code, body)
		}
		close(release)
		for range maxInFlight {
			<-done
		}
	})
}
