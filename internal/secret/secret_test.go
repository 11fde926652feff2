package secret

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

const wait = 20 * time.Second

// tenant is a namespace with an operator and a viewer.
type tenant struct {
	t                *testing.T
	name             string
	routes           map[string]rest.Handler
	operator, viewer rest.User
}

func newTenant(t *testing.T) *tenant {
	t.Helper()
	namespace := testkit.Namespace(t, hub.Client)
	set, err := kubernetes.NewForConfig(hub.Config)
	if err != nil {
		t.Fatal(err)
	}
	api := &API{Live: hub.Client, HubConfig: hub.Config, Scheme: hub.Scheme, Mapper: hub.Client.RESTMapper(), Authorizer: rest.NewAuthorizer(set)}
	routes := map[string]rest.Handler{}
	for _, route := range api.Routes() {
		routes[route.Pattern] = route.Handler
	}
	group := v1alpha1.GroupVersion.Group
	write := rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{"secrets", "configurations"}, Verbs: []string{"get", "list", "watch", "create", "update", "delete"}}
	look := rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{"configurations"}, Verbs: []string{"get", "list", "watch"}}
	for user, rule := range map[string]rbacv1.PolicyRule{"yunfan:li": write, "yunfan:viewer": look} {
		name := strings.ReplaceAll(user, ":", "-")
		testkit.Create(t, hub.Client,
			&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Rules: []rbacv1.PolicyRule{rule}},
			&rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
				Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
			})
	}
	return &tenant{t: t, name: namespace, routes: routes, operator: rest.User{Name: "yunfan:li"}, viewer: rest.User{Name: "yunfan:viewer"}}
}

// ask sends a request and gives code and body of the answer.
func (n *tenant) ask(user rest.User, method, name, body string) (code int, answer string) {
	n.t.Helper()
	pattern := method + " /api/v1/tenants/{tenant}/secrets"
	if name != "" {
		pattern += "/{name}"
	}
	r := httptest.NewRequestWithContext(rest.WithUser(n.t.Context(), user), method, "/", strings.NewReader(body))
	r.SetPathValue("tenant", n.name)
	r.SetPathValue("name", name)
	w := httptest.NewRecorder()
	if err := n.routes[pattern](w, r); err != nil {
		s := rest.StatusOf(err)
		return int(s.Code), s.Message
	}
	return w.Code, w.Body.String()
}

func (n *tenant) must(method, name, body string) Row {
	n.t.Helper()
	code, answer := n.ask(n.operator, method, name, body)
	var row Row
	if code != http.StatusOK || json.Unmarshal([]byte(answer), &row) != nil {
		n.t.Fatalf("%s %s: %d %s", method, name, code, answer)
	}
	return row
}

// stored are the values that a version has on the hub.
func (n *tenant) stored(name string) map[string][]byte {
	n.t.Helper()
	g := NewWithT(n.t)
	c, s := &v1alpha1.Configuration{}, &corev1.Secret{}
	g.Expect(hub.Client.Get(n.t.Context(), client.ObjectKey{Namespace: n.name, Name: name}, c)).To(Succeed())
	g.Expect(hub.Client.Get(n.t.Context(), client.ObjectKey{Namespace: n.name, Name: v1alpha1.VersionObjectName(name, c.Spec.Stored)}, s)).To(Succeed())
	g.Expect(s.Immutable).To(HaveValue(BeTrue()))
	return s.Data
}

// take does what the configuration's controller does once it has taken up a version.
func (n *tenant) take(name string) {
	n.t.Helper()
	c := &v1alpha1.Configuration{}
	g := NewWithT(n.t)
	g.Expect(hub.Client.Get(n.t.Context(), client.ObjectKey{Namespace: n.name, Name: name}, c)).To(Succeed())
	c.Status.Version, c.Status.Stored = c.Spec.Stored, c.Spec.Stored
	c.Status.Versions = append([]v1alpha1.ConfigurationVersion{{Name: c.Spec.Stored, CreatedAt: metav1.Now()}}, c.Status.Versions...)
	c.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Ready", LastTransitionTime: metav1.Now()}}
	g.Expect(hub.Client.Status().Update(n.t.Context(), c)).To(Succeed())
}

// TestSEC09_WriteOnly goes through the life of a secret while somebody watches all that the tenant may watch.
func TestSEC09_WriteOnly(t *testing.T) {
	g := NewWithT(t)
	n := newTenant(t)
	values := []string{"1f2d1e2e67df", "second-one", "third-one"}
	leaks := func(what, text string) {
		t.Helper()
		for _, v := range values {
			if strings.Contains(text, v) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(v))) {
				t.Errorf("%s tells a value: %s", what, text)
			}
		}
	}
	seen := n.watch()

	row := n.must("PUT", "mysecret", `{"data": {"username": "YWRtaW4=", "password": "MWYyZDFlMmU2N2Rm"}}`)
	g.Expect(row.Type).To(Equal(corev1.SecretTypeOpaque))
	g.Expect(row.Keys).To(Equal([]string{"password", "username"}))
	g.Expect(row.WrittenBy).To(Equal("li"))
	g.Expect(row.WrittenAt).NotTo(BeNil())
	g.Expect(n.stored("mysecret")).To(Equal(map[string][]byte{"username": []byte("admin"), "password": []byte("1f2d1e2e67df")}), "EX-17")
	n.take("mysecret")

	n.must("PATCH", "mysecret", `{"stringData": {"password": "second-one", "username": null, "token": "third-one"}}`)
	g.Expect(n.stored("mysecret")).To(Equal(map[string][]byte{"password": []byte("second-one"), "token": []byte("third-one")}), "one is changed, one removed, one added")
	n.must("PATCH", "mysecret", `{"stringData": {"password": "third-one"}}`)
	g.Expect(n.stored("mysecret")).To(HaveKeyWithValue("token", []byte("third-one")), "also before the last one was taken up")
	n.take("mysecret")
	n.must("PUT", "mysecret", `{"stringData": {"password": "1f2d1e2e67df"}}`)
	g.Expect(n.stored("mysecret")).To(Equal(map[string][]byte{"password": []byte("1f2d1e2e67df")}), "PUT replaces all")
	n.take("mysecret")

	code, answer := n.ask(n.operator, "GET", "mysecret", "")
	g.Expect(code).To(Equal(http.StatusOK))
	leaks("GET", answer)
	var got Row
	g.Expect(json.Unmarshal([]byte(answer), &got)).To(Succeed())
	g.Expect(got.Versions).To(HaveLen(3))
	g.Expect(got.Versions[2].WrittenBy).To(Equal("li"))
	g.Expect(got.Ready).To(Equal("True"))
	_, answer = n.ask(n.operator, "GET", "", "")
	g.Expect(answer).To(ContainSubstring("mysecret"))
	leaks("the list", answer)
	code, answer = n.ask(n.operator, "POST", "", `{"name": "mysecret", "stringData": {"a": "second-one"}}`)
	g.Expect(code).To(Equal(http.StatusConflict), answer)
	leaks("a refusal", answer)
	for _, body := range []string{`{"data": {"password": "second-one"}}`, `{"stringData": "second-one"}`, `{"second-one": 1}`, `second-one`, `{"stringData": {"a": "second-one"`} {
		code, answer = n.ask(n.operator, "PUT", "mysecret", body)
		g.Expect(code).To(Equal(http.StatusBadRequest), body)
		leaks("a refusal", answer)
	}

	var all v1alpha1.ConfigurationList
	g.Expect(hub.Client.List(t.Context(), &all, client.InNamespace(n.name))).To(Succeed())
	text, err := json.Marshal(all)
	g.Expect(err).NotTo(HaveOccurred())
	leaks("what the tenant can read", string(text))
	g.Expect(n.must("DELETE", "mysecret", "").Name).To(Equal("mysecret"))
	g.Eventually(func() string { return seen(false) }, wait).Should(ContainSubstring(`"DELETED"`))
	leaks("what the tenant can watch", seen(true))
}

// watch collects every event on configurations, as bytes.
func (n *tenant) watch() func(end bool) string {
	n.t.Helper()
	set, err := kubernetes.NewForConfig(hub.Config)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(n.t.Context())
	n.t.Cleanup(cancel)
	stream, err := set.RESTClient().Get().AbsPath("/apis/yunfan.io/v1alpha1/namespaces/"+n.name+"/configurations").Param("watch", "true").Stream(ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	lines := make(chan []byte, 1000)
	go func() {
		defer close(lines)
		for decoder := json.NewDecoder(stream); ; {
			var event json.RawMessage
			if decoder.Decode(&event) != nil {
				return
			}
			lines <- event
		}
	}()
	var all bytes.Buffer
	return func(end bool) string {
		if end {
			cancel()
		}
		for {
			select {
			case line, ok := <-lines:
				if !ok {
					return all.String()
				}
				all.Write(line)
			default:
				if !end {
					return all.String()
				}
				<-ctx.Done()
			}
		}
	}
}

func TestSEC09_WhoMay(t *testing.T) {
	n := newTenant(t)
	n.must("PUT", "database", `{"stringData": {"password": "x"}}`)
	other := newTenant(t)
	testkit.Create(t, hub.Client, &v1alpha1.Configuration{ObjectMeta: metav1.ObjectMeta{Namespace: n.name, Name: "files"}, Spec: v1alpha1.ConfigurationSpec{Files: map[string]string{"a": "b"}}})
	const body = `{"name": "new", "stringData": {"password": "y"}}`
	cases := map[string]struct {
		reason       string
		in           *tenant
		user         rest.User
		method, name string
		want         int
	}{
		"Viewer lists":      {"A viewer sees nothing of secrets", n, n.viewer, "GET", "", http.StatusForbidden},
		"Viewer reads":      {"Not even names of values", n, n.viewer, "GET", "database", http.StatusForbidden},
		"Viewer writes":     {"", n, n.viewer, "PUT", "new", http.StatusForbidden},
		"Viewer changes":    {"", n, n.viewer, "PATCH", "database", http.StatusForbidden},
		"Viewer deletes":    {"", n, n.viewer, "DELETE", "database", http.StatusForbidden},
		"Stranger writes":   {"The operator of another tenant", n, rest.User{Name: "yunfan:wang"}, "PUT", "new", http.StatusForbidden},
		"Missing":           {"", n, n.operator, "GET", "none", http.StatusNotFound},
		"Missing changed":   {"", n, n.operator, "PATCH", "new", http.StatusNotFound},
		"Missing deleted":   {"", n, n.operator, "DELETE", "none", http.StatusNotFound},
		"Files are none":    {"A configuration with files is no secret", n, n.operator, "GET", "files", http.StatusNotFound},
		"Files stay":        {"It is not overwritten either", n, n.operator, "PUT", "files", http.StatusBadRequest},
		"Create":            {"", other, other.operator, "POST", "", http.StatusOK},
		"Name in two":       {"Path and body disagree", n, n.operator, "PUT", "other", http.StatusBadRequest},
		"Hub's own refusal": {"What the hub refuses leaves nothing behind", n, n.operator, "PUT", strings.Repeat("x", 50), http.StatusUnprocessableEntity},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			send := body
			if tc.method == "PUT" && tc.name != "other" {
				send = strings.ReplaceAll(body, `"new"`, `"`+tc.name+`"`)
			} else if tc.method == "PATCH" {
				send = strings.ReplaceAll(body, `"name": "new", `, "")
			}
			if code, answer := tc.in.ask(tc.user, tc.method, tc.name, send); code != tc.want {
				t.Errorf("%s: got %d (%s), want %d", tc.reason, code, answer, tc.want)
			}
		})
	}
	var left corev1.SecretList
	if err := hub.Client.List(t.Context(), &left, client.InNamespace(n.name)); err != nil {
		t.Fatal(err)
	}
	for _, s := range left.Items {
		if s.Labels[v1alpha1.LabelConfiguration] != "database" {
			t.Errorf("a refused write left Secret %s", s.Name)
		}
	}
}

// TestSEC09_ValuesForThePlatform is how a part of the platform uses what nobody is shown.
func TestSEC09_ValuesForThePlatform(t *testing.T) {
	g := NewWithT(t)
	n := newTenant(t)
	api := &API{Live: hub.Client}
	n.must("PUT", "token", `{"data": {"token": "b25l"}}`)
	g.Expect(api.Values(t.Context(), n.name, "token")).To(Equal(map[string][]byte{"token": []byte("one")}), "before the controller has taken it up")
	n.take("token")
	n.must("PUT", "token", `{"data": {"token": "dHdv"}}`)
	g.Expect(api.Values(t.Context(), n.name, "token")).To(Equal(map[string][]byte{"token": []byte("two")}), "the newest")
	testkit.Create(t, hub.Client, &v1alpha1.Configuration{
		ObjectMeta: metav1.ObjectMeta{Namespace: n.name, Name: "files"},
		Spec:       v1alpha1.ConfigurationSpec{Type: v1alpha1.ConfigurationConfigMap, Files: map[string]string{"a": "b"}},
	})
	for _, name := range []string{"files", "none"} {
		_, err := api.Values(t.Context(), n.name, name)
		g.Expect(err).To(MatchError(ContainSubstring("not found")), name)
	}
}
