package rest

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestSEC01_CleanPaths(t *testing.T) {
	reached := ""
	handler := CleanPaths(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { reached = r.URL.Path }))
	for path, reason := range map[string]string{
		"/clusters/a/../b/api":       "a folder up",
		"/clusters/a/..":             "a folder up at the end",
		"/clusters/a/./api":          "a folder that is this one",
		"/clusters/a/%2e%2e/api":     "the same, encoded",
		"/clusters/a/%2E./api":       "half encoded",
		"/clusters/a%2Fb/api":        "an encoded slash in a name",
		"/clusters/a%5Cb":            "an encoded backslash",
		"/clusters/a/%252e%252e/api": "encoded twice",
		"//apis":                     "an empty segment at the beginning",
		"/apis//yunfan.io":           "an empty segment",
		"/apis/yunfan.io/%00":        "a null byte",
		"/apis/yunfan.io/a%0d%0ab":   "a line break",
		"/api/v1/%c0%ae%c0%ae/x":     "dots in a wrong encoding",
		"/api/v1/users/li":           "",
		"/":                          "",
		"/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node": "",
	} {
		reached = ""
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "https://x"+path, nil))
		if refused := answer.Code == http.StatusBadRequest && reached == ""; refused != (reason != "") {
			t.Errorf("%s (%s): %d, reached %q", path, reason, answer.Code, reached)
		}
	}
}
