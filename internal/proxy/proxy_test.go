package proxy

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"

	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/rest"
)

// TestRewrite sends requests through a real reverse proxy to a real server, which tells what it got.
func TestRewrite(t *testing.T) {
	var got *http.Request
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r }))
	defer upstream.Close()
	target, err := url.Parse(upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	as := rest.User{Name: "yunfan:li", Groups: []string{"yunfan:authenticated", "yunfan:tenant:edu:admin"}}
	front := httptest.NewServer(http.StripPrefix("/clusters/beijing", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(&httputil.ReverseProxy{Rewrite: func(out *httputil.ProxyRequest) { rewrite(out, &transports{target: target}, r.URL.Path, as) }}).ServeHTTP(w, r)
	})))
	defer front.Close()

	for name, tc := range map[string]struct{ reason, path, wantPath, wantQuery string }{
		"Plain": {"the path behind the cluster's name", "/clusters/beijing/api/v1/pods", "/api/v1/pods", ""},
		"Query": {"the query stays", "/clusters/beijing/api/v1/pods?watch=true&limit=5", "/api/v1/pods", "watch=true&limit=5"},
		"Colon": {"names of roles have colons", "/clusters/beijing/apis/x/system:node", "/apis/x/system:node", ""},
		"Root":  {"the root", "/clusters/beijing/", "/", ""},
	} {
		t.Run(name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, front.URL+tc.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			for header, value := range map[string]string{
				"Authorization": "Bearer secret", "Cookie": "session=secret", "Impersonate-User": "root", "Impersonate-Group": "system:masters",
				"Impersonate-Uid": "0", "Impersonate-Extra-Scopes": "all", "X-Remote-User": "root", "X-Remote-Group": "system:masters", "Accept": "application/json",
			} {
				request.Header.Set(header, value)
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if got.URL.EscapedPath() != tc.wantPath || got.URL.RawQuery != tc.wantQuery {
				t.Errorf("%s: got %s?%s", tc.reason, got.URL.EscapedPath(), got.URL.RawQuery)
			}
			for header, values := range got.Header {
				if text := strings.Join(values, " "); strings.Contains(text, "secret") || strings.Contains(text, "root") || strings.Contains(text, "masters") {
					t.Errorf("header %s: %s came through: a request does not say who its user is", header, text)
				}
			}
			if got.Header.Get("Impersonate-User") != "yunfan:li" || got.Header.Get("Accept") != "application/json" {
				t.Errorf("got headers %v", got.Header)
			}
			if diff := cmp.Diff(as.Groups, got.Header["Impersonate-Group"]); diff != "" {
				t.Errorf("groups: -want +got:\n%s", diff)
			}
		})
	}
}

// TestParse compares what the proxy reads in a request with what Kubernetes' API server does.
func TestParse(t *testing.T) {
	type attributes = authorizationv1.ResourceAttributes
	const get, post, put, patch, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete
	for path, tc := range map[string]struct {
		method string
		want   attributes
	}{
		"/api/v1/namespaces":                                     {get, attributes{Verb: "list", Version: "v1", Resource: "namespaces"}},
		"/api/v1/namespaces/edu":                                 {get, attributes{Verb: "get", Version: "v1", Resource: "namespaces", Namespace: "edu", Name: "edu"}},
		"/api/v1/namespaces/edu/status":                          {put, attributes{Verb: "update", Version: "v1", Resource: "namespaces", Namespace: "edu", Name: "edu", Subresource: "status"}},
		"/api/v1/namespaces/edu/pods":                            {get, attributes{Verb: "list", Version: "v1", Resource: "pods", Namespace: "edu"}},
		"/api/v1/namespaces/edu/pods?watch=true":                 {get, attributes{Verb: "watch", Version: "v1", Resource: "pods", Namespace: "edu"}},
		"/api/v1/namespaces/edu/pods/a?watch=1":                  {get, attributes{Verb: "get", Version: "v1", Resource: "pods", Namespace: "edu", Name: "a"}},
		"/api/v1/watch/namespaces/edu/pods/a":                    {get, attributes{Verb: "watch", Version: "v1", Resource: "pods", Namespace: "edu", Name: "a"}},
		"/api/v1/namespaces/edu/pods/a/exec":                     {post, attributes{Verb: "create", Version: "v1", Resource: "pods", Namespace: "edu", Name: "a", Subresource: "exec"}},
		"/api/v1/namespaces/edu/services/a/proxy/admin/x":        {get, attributes{Verb: "get", Version: "v1", Resource: "services", Namespace: "edu", Name: "a", Subresource: "proxy"}},
		"/api/v1/nodes/n/proxy/run":                              {post, attributes{Verb: "create", Version: "v1", Resource: "nodes", Name: "n", Subresource: "proxy"}},
		"/api/v1/proxy/nodes/n":                                  {get, attributes{Verb: "proxy", Version: "v1", Resource: "nodes", Name: "n"}},
		"/apis/yunfan.io/v1alpha1/namespaces/edu/applications":   {del, attributes{Verb: "deletecollection", Group: "yunfan.io", Version: "v1alpha1", Resource: "applications", Namespace: "edu"}},
		"/apis/yunfan.io/v1alpha1/namespaces/edu/applications/a": {patch, attributes{Verb: "patch", Group: "yunfan.io", Version: "v1alpha1", Resource: "applications", Namespace: "edu", Name: "a"}},
		"/apis/yunfan.io/v1alpha1/clusters/beijing":              {get, attributes{Verb: "get", Group: "yunfan.io", Version: "v1alpha1", Resource: "clusters", Name: "beijing"}},
		"/apis/yunfan.io/v1alpha1":                               {get, attributes{Verb: "get"}},
		"/apis":                                                  {get, attributes{Verb: "get"}},
		"/version":                                               {get, attributes{Verb: "get"}},
	} {
		r := httptest.NewRequestWithContext(t.Context(), tc.method, path, nil)
		q, err := parse(r, r.URL.Path)
		if diff := cmp.Diff(tc.want, q.attributes); diff != "" || err != nil {
			t.Errorf("%s %s: %v -want +got:\n%s", tc.method, path, err, diff)
		}
	}
	for _, method := range []string{http.MethodConnect, http.MethodTrace, "BREW"} {
		if _, err := parse(httptest.NewRequestWithContext(t.Context(), method, "/version", nil), "/version"); err == nil {
			t.Errorf("%s is let through", method)
		}
	}
}

func TestShadowing(t *testing.T) {
	routes := []rest.Route{{Pattern: "GET /api/v1/nodes"}, {Pattern: "/api/v1/{kind}"}, {Pattern: "POST /api/v1/secrets/{name}"},
		{Pattern: "GET /api/v1/clusters/{cluster}/nodes/{node}"}, {Pattern: "/api/{path...}"}, {Pattern: "GET /metrics"}}
	if diff := cmp.Diff([]string{"GET /api/v1/nodes", "/api/v1/{kind}", "POST /api/v1/secrets/{name}"}, Shadowing(routes)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestExplain(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		err    error
		code   int32
		says   string
	}{
		"NotAnswering": {"a lost member says since when", &member.NotAnsweringError{Cluster: "beijing", Message: "no route"}, 503, "beijing"},
		"Broken":       {"of a broken connection only the cluster is told", errors.New("dial 10.0.0.7: refused"), 503, "its condition Ready says why"},
		"TooLarge":     {"a body that is too large is the user's mistake", &http.MaxBytesError{Limit: 1}, 413, "larger"},
	} {
		t.Run(name, func(t *testing.T) {
			s := rest.StatusOf(explain("beijing", tc.err))
			if s.Code != tc.code || !strings.Contains(s.Message, tc.says) || strings.Contains(s.Message, "10.0.0.7") {
				t.Errorf("%s: got %d %s", tc.reason, s.Code, s.Message)
			}
		})
	}
	if explain("beijing", nil) != nil {
		t.Error("no error is none")
	}
}
