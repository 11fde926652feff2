package rest

import (
	"net/http"
	"strings"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CleanPaths refuses paths that two readers may read differently: with dots for folders, empty segments, encoded slashes
// or what is encoded twice. What decides about a path and what answers it then see the same.
func CleanPaths(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if why := unclean(r.URL.Path, r.URL.RawPath); why != "" {
			s := status(http.StatusBadRequest, metav1.StatusReasonBadRequest, "the path "+why+": write it plainly")
			_ = WriteJSON(w, int(s.Code), s) // the client is gone if this fails
			return
		}
		next.ServeHTTP(w, r)
	})
}

// unclean says what is wrong with a path; empty if nothing is. Raw is the path as it was sent, if it can be written in
// several ways.
func unclean(path, raw string) string {
	raw = strings.ToLower(raw)
	switch {
	case !strings.HasPrefix(path, "/"):
		return "does not begin with a slash"
	case strings.Contains(path, "//"):
		return "has an empty segment"
	case strings.Contains(raw, "%2f"), strings.Contains(raw, "%5c"), strings.Contains(path, `\`):
		return "has an encoded slash or a backslash"
	case strings.Contains(path, "%"):
		return "is encoded twice"
	case strings.ContainsFunc(path, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return "has control characters"
	case !utf8.ValidString(path):
		return "is not UTF-8"
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return "has the segment " + segment
		}
	}
	return ""
}
