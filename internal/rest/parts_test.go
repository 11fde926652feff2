package rest

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// seen is what a wrapper saw of a request.
type seen struct {
	User, Fact string
	Code       int32
}

func TestParts(t *testing.T) {
	var last seen
	parts := Parts{
		Routes: []Route{
			{Pattern: "GET /who", Handler: Get(func(r *http.Request) (User, error) { return UserOf(r.Context()), nil })},
			{Pattern: "POST /sign-in", Public: true, Handler: Get(func(r *http.Request) (string, error) {
				FactsOf(r.Context()).User = "li"
				return "welcome", nil
			})},
		},
		Wrappers: []Wrapper{func(next Handler) Handler {
			return func(w http.ResponseWriter, r *http.Request) error {
				err := next(w, r)
				last = seen{User: UserOf(r.Context()).Name, Fact: FactsOf(r.Context()).User}
				if err != nil {
					last.Code = StatusOf(err).Code
				}
				return err
			}
		}},
	}
	parts.Add(Parts{Identities: []Identity{func(r *http.Request) (User, bool, error) {
		switch r.Header.Get("Authorization") {
		case "Bearer good":
			return User{Name: "yunfan:li", Groups: []string{"yunfan:tenant:edu:admin"}}, true, nil
		case "Bearer expired":
			return User{}, false, apierrors.NewUnauthorized("the token has expired")
		}
		return User{}, false, nil
	}}})
	handler := Routes(NewAuthenticator(clientset(t)), parts)

	for name, tc := range map[string]struct {
		reason, method, path string
		header               [2]string
		code                 int
		says                 string
		want                 seen
	}{
		"Known":       {"an identity says who asks", "GET", "/who", [2]string{"Authorization", "Bearer good"}, 200, "yunfan:tenant:edu:admin", seen{User: "yunfan:li"}},
		"Expired":     {"what an identity refuses is asked nobody else", "GET", "/who", [2]string{"Authorization", "Bearer expired"}, 401, "has expired", seen{Code: 401}},
		"Unknown":     {"the hub is asked about other tokens", "GET", "/who", [2]string{"Authorization", "Bearer other"}, 401, "hub does not know", seen{Code: 401}},
		"Public":      {"signing in needs nobody, and says who tried", "POST", "/sign-in", [2]string{}, 200, "welcome", seen{Fact: "li"}},
		"Missing":     {"what is not there is seen, too", "GET", "/nothing", [2]string{"Authorization", "Bearer good"}, 404, "docs/api.md", seen{User: "yunfan:li", Code: 404}},
		"Impersonate": {"nobody says himself who he is", "GET", "/who", [2]string{"Impersonate-User", "admin"}, 403, "Impersonate-User", seen{Code: 403}},
		"RemoteUser":  {"nor in the way of proxies", "POST", "/sign-in", [2]string{"X-Remote-Group", "system:masters"}, 403, "X-Remote-Group", seen{Code: 403}},
		"Extra":       {"nor a part of it", "GET", "/who", [2]string{"impersonate-extra-scopes", "x"}, 403, "refused", seen{Code: 403}},
	} {
		t.Run(name, func(t *testing.T) {
			last = seen{}
			request := httptest.NewRequestWithContext(t.Context(), tc.method, tc.path, nil)
			if tc.header[0] != "" {
				request.Header.Set(tc.header[0], tc.header[1])
			}
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, request)
			if answer.Code != tc.code || !strings.Contains(answer.Body.String(), tc.says) {
				t.Errorf("%s: got %d %s", tc.reason, answer.Code, answer.Body)
			}
			if diff := cmp.Diff(tc.want, last); diff != "" {
				t.Errorf("%s: the wrapper saw: -want +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestForeignUsersHaveNoRoleOfOurs(t *testing.T) {
	got, err := ofHub(User{Name: "admin", Groups: []string{"yunfan:platform-admin", "system:masters", "yunfan:tenant:edu:admin"}})
	if diff := cmp.Diff([]string{"system:masters", "system:authenticated"}, got.Groups); diff != "" || err != nil {
		t.Errorf("-want +got:\n%s %v", diff, err)
	}
	if _, err := ofHub(User{Name: "yunfan:li"}); !apierrors.IsUnauthorized(err) {
		t.Errorf("a user of the hub by a name of the platform's: got %v, want a refusal", err)
	}
}

func TestDecideFirst(t *testing.T) {
	authorizer := NewAuthorizer(clientset(t))
	authorizer.DecideFirst(func(user User, a authorizationv1.ResourceAttributes) (bool, bool) {
		return a.Namespace == "edu", user.Name == "yunfan:li"
	})
	ctx := WithUser(t.Context(), User{Name: "yunfan:li", Groups: []string{"system:masters"}})
	if err := authorizer.Require(ctx, authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods", Namespace: "edu"}); err != nil {
		t.Error(err)
	}
	err := authorizer.Require(ctx, authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods", Namespace: "hr"})
	if _, refused := errors.AsType[*apierrors.StatusError](err); !refused {
		t.Errorf("got %v, want a refusal without asking the hub, which would allow it", err)
	}
}
