package cluster_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cluster"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/testkit"
)

// A kubeconfig goes in and never comes back: administrators cannot read the Secrets of the platform.
func TestCLU01_JoinThroughTheServer(t *testing.T) {
	run(t)
	beijing := testkit.StartMember(t)
	good, name := string(beijing.Kubeconfig(t, "")), testkit.Name(t)
	set, err := kubernetes.NewForConfig(hub.Config)
	if err != nil {
		t.Fatal(err)
	}
	api := &cluster.API{Hub: hub.Client, Authorizer: rest.NewAuthorizer(set)}
	administrator := rest.User{Name: "admin", Groups: []string{"system:masters"}}
	put := func(user rest.User, name string, body any) (int, string) {
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		identity := func(*http.Request) (rest.User, bool, error) { return user, true, nil }
		handler := rest.Routes(rest.NewAuthenticator(set), rest.Parts{Routes: api.Routes(), Identities: []rest.Identity{identity}})
		answer := httptest.NewRecorder()
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/api/v1/clusters/"+name+"/kubeconfig", strings.NewReader(string(text)))
		handler.ServeHTTP(answer, request)
		return answer.Code, answer.Body.String()
	}
	kubeconfig := func(text string) map[string]string { return map[string]string{"kubeconfig": text} }

	for title, tc := range map[string]struct {
		reason, name string
		user         rest.User
		body         any
		code         int
		says         string
	}{
		"Nobody":    {"who may not write clusters joins none", name, rest.User{Name: "li"}, kubeconfig(good), http.StatusForbidden, `lacks the verb \"create\"`},
		"Empty":     {"nothing is no kubeconfig", name, administrator, kubeconfig(""), http.StatusBadRequest, "cannot be used"},
		"Malformed": {"what was sent is not quoted", name, administrator, kubeconfig("token: c0ffee: ["), http.StatusBadRequest, "cannot be parsed"},
		"Field":     {"nor is a body of another form", name, administrator, map[string]string{"c0ffee": good}, http.StatusBadRequest, "cannot be read"},
		"Large":     {"a kubeconfig has bounds", name, administrator, kubeconfig(strings.Repeat(" ", 1<<20) + good), http.StatusRequestEntityTooLarge, "at most"},
		"Name":      {"the name is one of a cluster", strings.Repeat("n", 41), administrator, kubeconfig(good), http.StatusUnprocessableEntity, "at most 40 characters"},
	} {
		t.Run(title, func(t *testing.T) {
			code, body := put(tc.user, tc.name, tc.body)
			if code != tc.code || !strings.Contains(body, tc.says) || strings.Contains(body, "c0ffee") {
				t.Errorf("%s: got %d %s", tc.reason, code, body)
			}
			secret := &corev1.Secret{}
			if err := hub.Client.Get(t.Context(), client.ObjectKey{Namespace: testkit.PlatformNamespace, Name: tc.name + "-kubeconfig"}, secret); err == nil {
				t.Error("a refused kubeconfig was stored")
			}
		})
	}

	t.Run("Join", func(t *testing.T) {
		if code, body := put(administrator, name, kubeconfig(good)); code != http.StatusOK || !strings.Contains(body, `"created":true`) || strings.Contains(body, "certificate") {
			t.Fatalf("got %d %s", code, body)
		}
		eventually(t, name, "20s", v1alpha1.ReasonReady, "")
	})
	t.Run("NewCredentials", func(t *testing.T) {
		again := strings.Replace(good, "current-context", "preferences: {}\ncurrent-context", 1)
		if code, body := put(administrator, name, kubeconfig(again)); code != http.StatusOK || !strings.Contains(body, `"created":false`) {
			t.Fatalf("got %d %s", code, body)
		}
		secret := &corev1.Secret{}
		if err := hub.Client.Get(t.Context(), client.ObjectKey{Namespace: testkit.PlatformNamespace, Name: name + "-kubeconfig"}, secret); err != nil || string(secret.Data["kubeconfig"]) != again {
			t.Errorf("the new kubeconfig is not stored: %v", err)
		}
		eventually(t, name, "20s", v1alpha1.ReasonReady, "")
	})
}
