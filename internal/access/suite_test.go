package access

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

const (
	patience = 30 * time.Second
	goodPass = "correct horse battery"
)

// server is the service behind a real HTTPS server, on a namespace of its own.
type server struct {
	*Service
	*httptest.Server
	groups map[string][]string
}

// serve starts one. Servers given the same namespace share keys and passwords, as replicas do.
func serve(t *testing.T, namespace string, change ...func(*Service)) *server {
	t.Helper()
	if namespace == "" {
		namespace = testkit.Namespace(t, hub.Client)
	}
	clientset, err := kubernetes.NewForConfig(hub.Config)
	if err != nil {
		t.Fatal(err)
	}
	skip := true
	mgr, err := ctrl.NewManager(hub.Config, ctrl.Options{
		Scheme: hub.Scheme, Metrics: metricsserver.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: &skip},
		Client: client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}}, Cache: cache.Options{},
	})
	if err != nil {
		t.Fatal(err)
	}
	authenticator, authorizer := rest.NewAuthenticator(clientset), rest.NewAuthorizer(clientset)
	authorizer.DecideFirst(func(user rest.User, _ authorizationv1.ResourceAttributes) (bool, bool) {
		return strings.Contains(strings.Join(user.Groups, " "), v1alpha1.GroupPlatformAdmin), true
	})
	s := &server{Server: httptest.NewUnstartedServer(nil), groups: map[string][]string{}}
	address := &url.URL{Scheme: "https", Host: s.Listener.Addr().String()}
	s.Service = New(mgr, Options{Namespace: namespace, URL: address, Authorizer: authorizer, Groups: func(_ context.Context, user *v1alpha1.User) ([]string, error) {
		groups := append([]string{v1alpha1.GroupAuthenticated}, s.groups[user.Name]...)
		if user.Spec.PlatformAdministrator {
			groups = append(groups, v1alpha1.GroupPlatformAdmin)
		}
		return groups, nil
	}})
	s.hasher = newHasher(cost{memory: 64, passes: 1, threads: 1})
	s.failureTime = 20 * time.Millisecond
	for _, c := range change {
		c(s.Service)
	}
	if err := s.SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
	parts := rest.Parts{Routes: []rest.Route{
		{Pattern: "GET /api/v1/anything", Handler: rest.Get(func(r *http.Request) (rest.User, error) { return rest.UserOf(r.Context()), nil })},
		{Pattern: "POST /api/v1/anything", Handler: rest.Get(func(r *http.Request) (rest.User, error) { return rest.UserOf(r.Context()), nil })},
	}}
	parts.Add(s.Parts())
	s.Server.Config.Handler = rest.Routes(authenticator, parts)
	s.StartTLS()
	t.Cleanup(s.Close)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	if !mgr.GetCache().WaitForCacheSync(ctx) {
		t.Fatal("the cache was not filled")
	}
	return s
}

// local makes a user with a password, who need not change it, and gives his name.
func (s *server) local(t *testing.T, change ...func(*v1alpha1.User)) *v1alpha1.User {
	t.Helper()
	user := &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: testkit.Name(t)}}
	for _, c := range change {
		c(user)
	}
	testkit.Create(t, hub.Client, user)
	if err := s.keepPassword(t.Context(), user, goodPass); err != nil {
		t.Fatal(err)
	}
	return user
}

func administrator(user *v1alpha1.User) { user.Spec.PlatformAdministrator = true }

// answer is what came back.
type answer struct {
	code   int
	body   string
	header http.Header
}

func (a answer) read(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), into); err != nil {
		t.Fatalf("reading %s: %v", a.body, err)
	}
}

// browser is one client with cookies of its own.
type browser struct {
	*server
	http  *http.Client
	token string
}

func (s *server) browser(t *testing.T) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{server: s, http: &http.Client{
		Transport: s.Client().Transport, Jar: jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// do sends a request; headers come in pairs.
func (b *browser) do(t *testing.T, method, path string, body any, headers ...string) answer {
	t.Helper()
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		content = bytes.NewReader(text)
	}
	target := path
	if strings.HasPrefix(path, "/") {
		target = b.URL + path
	}
	request, err := http.NewRequestWithContext(t.Context(), method, target, content)
	if err != nil {
		t.Fatal(err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if b.token != "" {
		request.Header.Set("Authorization", "Bearer "+b.token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := b.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, string(text), response.Header}
}

// signIn signs in, which must succeed.
func (b *browser) signIn(t *testing.T, asked SignIn) Signed {
	t.Helper()
	a := b.do(t, http.MethodPost, "/api/v1/session", asked)
	if a.code != http.StatusOK {
		t.Fatalf("signing in as %s: %d %s", asked.User, a.code, a.body)
	}
	signed := Signed{}
	a.read(t, &signed)
	b.token = signed.Token
	return signed
}

func expect(t *testing.T, a answer, code int, says string) {
	t.Helper()
	if a.code != code || !strings.Contains(a.body, says) {
		t.Errorf("got %d %s, want %d with %q", a.code, a.body, code, says)
	}
}

// eventually waits until a request is answered with a code.
func (b *browser) eventually(t *testing.T, code int, within time.Duration) {
	t.Helper()
	NewWithT(t).Eventually(func() int { return b.do(t, http.MethodGet, "/api/v1/anything", nil).code }).
		WithTimeout(within).WithPolling(20 * time.Millisecond).Should(Equal(code))
}
