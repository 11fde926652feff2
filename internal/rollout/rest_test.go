package rollout

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/testkit"
)

// asks makes a request to the views as a user: "all" may list rollouts everywhere, others get those whose names begin with
// theirs.
func asks(t *testing.T, r *Rollouts, user, path string) (*httptest.ResponseRecorder, error) {
	t.Helper()
	clients, err := kubernetes.NewForConfig(hub.Config)
	if err != nil {
		t.Fatal(err)
	}
	r.Authorizer = rest.NewAuthorizer(clients)
	r.Authorizer.DecideFirst(func(user rest.User, a authorizationv1.ResourceAttributes) (allowed, decided bool) {
		name := strings.TrimPrefix(user.Name, v1alpha1.UserPrefix)
		return name == "all" || a.Verb == "get" && strings.HasPrefix(a.Name, name), true
	})
	mux, w := http.NewServeMux(), httptest.NewRecorder()
	var failure error
	for _, route := range r.Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) { failure = route.Handler(w, r) })
	}
	ctx := rest.WithUser(t.Context(), rest.User{Name: v1alpha1.UserPrefix + user})
	mux.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
	return w, failure
}

func TestViewsAreNotEverybodys(t *testing.T) {
	g := NewWithT(t)
	tenant := testkit.Namespace(t, hub.Client)
	for _, name := range []string{"li-v1-1", "li-v2-1", "wang-v1-1"} {
		app, _, _ := strings.Cut(name, "-")
		o := &v1alpha1.Rollout{
			ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: name},
			Spec:       v1alpha1.RolloutSpec{Application: app, From: "a", To: "b", Partitions: []string{"p"}, User: "yunfan:li"},
		}
		testkit.Create(t, hub.Client, o)
		o.Status.Phase = v1alpha1.RolloutRunning
		g.Expect(hub.Client.Status().Update(t.Context(), o)).To(Succeed())
	}
	r := &Rollouts{client: hub.Client, reader: hub.Client}
	for _, tc := range []struct {
		reason, user, query string
		want                int
	}{
		{"who may list sees all of the tenant", "all", "", 3},
		{"others see those that they may get", "li", "", 2},
		{"a filter counts", "all", "&application=wang", 1},
		{"so does that by phase", "all", "&phase=Failed", 0},
		{"who may nothing sees nothing", "zhao", "", 0},
	} {
		w, err := asks(t, r, tc.user, "/api/v1/rollouts?tenant="+tenant+tc.query)
		g.Expect(err).NotTo(HaveOccurred())
		var page rest.Page[Row]
		g.Expect(json.Unmarshal(w.Body.Bytes(), &page)).To(Succeed())
		g.Expect(page.Items).To(HaveLen(tc.want), tc.reason)
	}
	w, err := asks(t, r, "li", "/api/v1/tenants/"+tenant+"/rollouts/li-v1-1")
	g.Expect(err).NotTo(HaveOccurred())
	d := &Detail{}
	g.Expect(json.Unmarshal(w.Body.Bytes(), d)).To(Succeed())
	g.Expect(d.Rollout.Spec.Application).To(Equal("li"))
	_, err = asks(t, r, "li", "/api/v1/tenants/"+tenant+"/rollouts/wang-v1-1")
	g.Expect(err).To(HaveOccurred(), "somebody else's")
}
