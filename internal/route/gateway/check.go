package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Check says what of a Route no gateway can do, for people: wherever its applications are. Rules with such a problem
// answer 500, and matches with one nothing.
func Check(route *v1alpha1.Route) []string {
	var out []string
	for i := range route.Spec.Rules {
		rule := &route.Spec.Rules[i]
		for j := range rule.Matches {
			m, err := newMatch(&rule.Matches[j])
			if err == nil {
				_, err = m.gateway()
			}
			if err != nil {
				out = append(out, fmt.Sprintf("rule %s: %v", rule.Name, err))
			}
		}
		for _, text := range checkRule(rule) {
			out = append(out, fmt.Sprintf("rule %s: %s", rule.Name, text))
		}
	}
	return out
}

// CheckMatches says what no gateway can do of the matches by which a new version is tried.
func CheckMatches(matches []v1alpha1.RouteMatch) []string {
	var out []string
	for i := range matches {
		m, err := newMatch(&matches[i])
		if err == nil {
			_, err = m.gateway()
		}
		if err != nil {
			out = append(out, err.Error())
		}
	}
	return out
}

// checkRule says what of a rule cannot be done, besides its matches.
func checkRule(rule *v1alpha1.RouteRule) []string {
	out := slices.Concat(checkHeaders("requestHeaders", rule.RequestHeaders), checkHeaders("responseHeaders", rule.ResponseHeaders))
	if rule.Rewrite != nil && rule.Rewrite.Prefix != "" {
		for _, m := range rule.Matches {
			if m.Path != nil && m.Path.Type != v1alpha1.MatchPrefix && m.Path.Type != "" {
				out = append(out, "rewrite.prefix is for rules that match by prefixes: use rewrite.path, or matches of the type Prefix")
				break
			}
		}
	}
	return out
}

func checkHeaders(field string, change *v1alpha1.HeaderChange) []string {
	if change == nil {
		return nil
	}
	var out []string
	names := slices.Concat(slices.Sorted(maps.Keys(change.Set)), change.Remove)
	for i, name := range names {
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name) || len(name) > 256:
			out = append(out, fmt.Sprintf("%s: %q is no name of a header", field, name))
		case canonical == "Host" || strings.HasPrefix(canonical, "Yunfan-"):
			out = append(out, fmt.Sprintf("%s: header %s is the platform's: use rewrite.host for the host", field, name))
		case slices.ContainsFunc(names[:i], func(other string) bool { return http.CanonicalHeaderKey(other) == canonical }):
			out = append(out, fmt.Sprintf("%s: header %s is named twice", field, name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(change.Set)) {
		if value := change.Set[name]; !httpguts.ValidHeaderFieldValue(value) || len(value) > 4096 || value == "" {
			out = append(out, fmt.Sprintf("%s: the value of header %s is empty, too long or has control characters", field, name))
		}
	}
	return out
}
