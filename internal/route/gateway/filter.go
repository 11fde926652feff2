package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

// breakerOpen is how long a circuit breaker is open at first where the rule does not say.
const breakerOpen = 10 * time.Second

// filters are what happens to requests and answers on their way, outermost first.
func (r *renderer) filters(route *v1alpha1.Route, rule *v1alpha1.RouteRule, matches []*entry) ([]gatewayv1.HTTPRouteFilter, error) {
	var out []gatewayv1.HTTPRouteFilter
	if change := headerFilter(rule.RequestHeaders); change != nil {
		out = append(out, gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterRequestHeaderModifier, RequestHeaderModifier: change})
	}
	if change := headerFilter(rule.ResponseHeaders); change != nil {
		out = append(out, gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterResponseHeaderModifier, ResponseHeaderModifier: change})
	}
	if rule.Redirect != nil {
		return append(out, redirectFilter(route, rule.Redirect)), nil
	}
	more, err := r.extensions(rule, matches)
	if err != nil {
		return nil, err
	}
	return append(out, more...), nil
}

func headerFilter(change *v1alpha1.HeaderChange) *gatewayv1.HTTPHeaderFilter {
	if change == nil || len(change.Set) == 0 && len(change.Remove) == 0 {
		return nil
	}
	out := &gatewayv1.HTTPHeaderFilter{Remove: change.Remove}
	for _, name := range slices.Sorted(maps.Keys(change.Set)) {
		out.Set = append(out.Set, gatewayv1.HTTPHeader{Name: gatewayv1.HTTPHeaderName(name), Value: change.Set[name]})
	}
	return out
}

// redirectFilter answers with another address. Gateways do not see whether the client came with TLS: where all requests
// do, or are sent to, the address has https.
func redirectFilter(route *v1alpha1.Route, to *v1alpha1.RouteRedirect) gatewayv1.HTTPRouteFilter {
	filter := &gatewayv1.HTTPRequestRedirectFilter{}
	scheme := to.Scheme
	if scheme == "" && secured(&route.Spec) {
		scheme = "https"
	}
	if scheme != "" {
		filter.Scheme = &scheme
	}
	if to.Host != "" {
		host := gatewayv1.PreciseHostname(to.Host)
		filter.Hostname = &host
	}
	if to.Port != 0 {
		port := to.Port
		filter.Port = &port
	}
	if to.Path != "" {
		whole := to.Path
		filter.Path = &gatewayv1.HTTPPathModifier{Type: gatewayv1.FullPathHTTPPathModifier, ReplaceFullPath: &whole}
	}
	status := int(to.Status)
	if status == 0 {
		status = http.StatusFound
	}
	filter.StatusCode = &status
	return gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterRequestRedirect, RequestRedirect: filter}
}

// secured says whether requests without TLS are sent to https.
func secured(spec *v1alpha1.RouteSpec) bool {
	if spec.PlainHTTP != "" {
		return spec.PlainHTTP == v1alpha1.PlainHTTPRedirect
	}
	return spec.TLS != nil || len(spec.Hosts) == 0
}

// extensions are what rewrites, breaks circuits and retries.
func (r *renderer) extensions(rule *v1alpha1.RouteRule, matches []*entry) ([]gatewayv1.HTTPRouteFilter, error) {
	var out []gatewayv1.HTTPRouteFilter
	if rule.Rewrite != nil {
		rewrites, err := r.rewrite(rule.Rewrite, matches)
		if err != nil {
			return nil, err
		}
		out = append(out, rewrites...)
	}
	if rule.CircuitBreaker != nil {
		breaker, err := r.middleware("breaker", map[string]any{"circuitBreaker": breaker(rule.CircuitBreaker)})
		if err != nil {
			return nil, err
		}
		out = append(out, breaker)
	}
	if rule.Retries > 0 {
		// Traefik tries again only while nothing of the request has been sent.
		retry, err := r.middleware("retry", map[string]any{"retry": map[string]any{"attempts": int64(rule.Retries) + 1, "initialInterval": "20ms"}})
		if err != nil {
			return nil, err
		}
		out = append(out, retry)
	}
	return out, nil
}

func breaker(b *v1alpha1.CircuitBreaker) map[string]any {
	open := breakerOpen
	if b.OpenFor != nil && b.OpenFor.Duration > 0 {
		open = b.OpenFor.Duration
	}
	ratio := fmt.Sprintf("%.2f", float64(b.ErrorPercent)/100-0.001)
	return map[string]any{
		"expression":       "ResponseCodeRatio(500, 600, 0, 600) > " + ratio + " || NetworkErrorRatio() > " + ratio,
		"fallbackDuration": milliseconds(open),
		"recoveryDuration": milliseconds(open),
	}
}

// rewrite changes host and path. A prefix is replaced as the standard says where it can be said so: for one match by a
// prefix.
func (r *renderer) rewrite(to *v1alpha1.RouteRewrite, matches []*entry) ([]gatewayv1.HTTPRouteFilter, error) {
	var out []gatewayv1.HTTPRouteFilter
	filter := &gatewayv1.HTTPURLRewriteFilter{}
	if to.Host != "" {
		host := gatewayv1.PreciseHostname(to.Host)
		filter.Hostname = &host
	}
	switch {
	case to.Path != "":
		whole := to.Path
		filter.Path = &gatewayv1.HTTPPathModifier{Type: gatewayv1.FullPathHTTPPathModifier, ReplaceFullPath: &whole}
	case to.Prefix != "" && len(matches) == 1 && *matches[0].written().Type == gatewayv1.PathMatchPathPrefix:
		prefix := to.Prefix
		filter.Path = &gatewayv1.HTTPPathModifier{Type: gatewayv1.PrefixMatchHTTPPathModifier, ReplacePrefixMatch: &prefix}
	case to.Prefix != "":
		replace, err := r.middleware("prefix", map[string]any{"replacePathRegex": replacement(to.Prefix, matches)})
		if err != nil {
			return nil, err
		}
		out = append(out, replace)
	}
	if filter.Hostname != nil || filter.Path != nil {
		out = append(out, gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterURLRewrite, URLRewrite: filter})
	}
	return out, nil
}

// replacement puts another prefix in the place of any of those that the rule matches: the longest one.
func replacement(prefix string, matches []*entry) map[string]any {
	var prefixes []string
	for _, e := range matches {
		prefixes = append(prefixes, regexp.QuoteMeta(e.base.path.value))
	}
	slices.SortFunc(prefixes, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	prefixes = slices.Compact(prefixes)
	return map[string]any{
		"regex":       "^(?:" + strings.Join(prefixes, "|") + ")(/.*)?$",
		"replacement": strings.ReplaceAll(strings.TrimRight(prefix, "/"), "$", "$$") + "$1",
	}
}

// middleware takes up a middleware of Traefik's own and gives the filter that refers to it.
func (r *renderer) middleware(what string, spec map[string]any) (gatewayv1.HTTPRouteFilter, error) {
	name, err := r.refer(kindMiddleware, what, spec)
	if err != nil {
		return gatewayv1.HTTPRouteFilter{}, err
	}
	return middlewareRef(name), nil
}

func middlewareRef(name string) gatewayv1.HTTPRouteFilter {
	return gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterExtensionRef, ExtensionRef: &gatewayv1.LocalObjectReference{
		Group: traefikGroup, Kind: gatewayv1.Kind(kindMiddleware.Kind), Name: gatewayv1.ObjectName(name),
	}}
}
