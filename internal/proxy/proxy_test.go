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
	user := rest.User{Name: "li", Groups: []string{"teachers", "yunfan:tenant:edu:admin", "system:authenticated"}}
	mux := http.NewServeMux()
	mux.HandleFunc("/clusters/{cluster}/{path...}", func(w http.ResponseWriter, r *http.Request) {
		r = r.WithContext(rest.WithUser(r.Context(), user))
		(&httputil.ReverseProxy{Rewrite: func(out *httputil.ProxyRequest) { rewrite(out, target, r.PathValue("path")) }}).ServeHTTP(w, r)
	})
	front := httptest.NewServer(mux)
	defer front.Close()

	for name, tc := range map[string]struct{ reason, path, wantPath, wantQuery string }{
		"Plain":   {"the path behind the cluster's name", "/clusters/beijing/api/v1/pods", "/api/v1/pods", ""},
		"Query":   {"the query stays", "/clusters/beijing/api/v1/pods?watch=true&limit=5", "/api/v1/pods", "watch=true&limit=5"},
		"Encoded": {"an encoded slash stays part of a name", "/clusters/beijing/apis/x/y/a%2Fb", "/apis/x/y/a%2Fb", ""},
		"Same":    {"a path that looks like ours again", "/clusters/beijing/clusters/beijing/x", "/clusters/beijing/x", ""},
		"Root":    {"the root", "/clusters/beijing/", "/", ""},
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
			if got.Header.Get("Impersonate-User") != "li" || got.Header.Get("Accept") != "application/json" {
				t.Errorf("got headers %v", got.Header)
			}
			if diff := cmp.Diff([]string{"teachers", "system:authenticated", "yunfan:platform-admin"}, got.Header["Impersonate-Group"]); diff != "" {
				t.Errorf("groups with our prefix are not the user's to bring along: -want +got:\n%s", diff)
			}
		})
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
