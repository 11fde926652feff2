package gateway

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

// probed is a component that some Route leads to.
type probed struct {
	application, component, port string
	path, host                   string
}

// probes make the ways by which the platform asks whether a gateway reaches the pods of a track. Only the platform can go
// them: edges let no client send the header.
func (r *renderer) probes() ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	var rules []gatewayv1.HTTPRouteRule
	all := r.probed()
	for i, p := range all {
		application := r.in.Applications[p.application]
		for _, role := range []v1alpha1.TrackRole{v1alpha1.TrackStable, v1alpha1.TrackCandidate} {
			if s, ok := application.server(role, p.component, p.port); ok {
				rules = append(rules, r.probe(p, role, s))
			}
		}
		if len(rules) == 0 || i < len(all)-1 && len(rules)+2 <= maxRules {
			continue
		}
		name := fmt.Sprintf("yunfan-probe-%d", len(out))
		o, err := unstructuredRoute(&gatewayv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: gatewayv1.HTTPRouteSpec{
			CommonRouteSpec: parent(), Rules: rules,
		}})
		if err != nil {
			return nil, err
		}
		r.label(o, "")
		out, rules = append(out, o), nil
	}
	return out, nil
}

// probed are the components that Routes lead to, each once, in the order of their names.
func (r *renderer) probed() []probed {
	found := map[string]probed{}
	for _, route := range r.in.Routes {
		p := probed{path: "/"}
		if h := route.Spec.Health; h != nil && h.Path != "" {
			p.path = h.Path
		}
		for _, host := range route.Spec.Hosts {
			if !strings.HasPrefix(host, "*") {
				p.host = host
				break
			}
		}
		for i := range route.Spec.Rules {
			for _, b := range route.Spec.Rules[i].Backends {
				p.application, p.component, p.port = b.Application, b.Component, b.Port
				key := b.Application + "/" + b.Component
				if _, known := found[key]; !known && r.in.Applications[b.Application] != nil {
					found[key] = p
				}
			}
		}
	}
	var out []probed
	for _, key := range slices.Sorted(maps.Keys(found)) {
		out = append(out, found[key])
	}
	return out
}

func (r *renderer) probe(p probed, role v1alpha1.TrackRole, s server) gatewayv1.HTTPRouteRule {
	exact, sameHeader := gatewayv1.PathMatchExact, gatewayv1.HeaderMatchExact
	path, whole := ProbePath(r.namespace, p.application, p.component, role), p.path
	rewrite := &gatewayv1.HTTPURLRewriteFilter{Path: &gatewayv1.HTTPPathModifier{Type: gatewayv1.FullPathHTTPPathModifier, ReplaceFullPath: &whole}}
	if p.host != "" {
		host := gatewayv1.PreciseHostname(p.host)
		rewrite.Hostname = &host
	}
	// It belongs to the backend: a gateway that does not know the Service yet answers without it.
	backend := serviceRef(s)
	backend.Filters = []gatewayv1.HTTPRouteFilter{{Type: gatewayv1.HTTPRouteFilterResponseHeaderModifier, ResponseHeaderModifier: &gatewayv1.HTTPHeaderFilter{
		Set: []gatewayv1.HTTPHeader{{Name: HeaderReached, Value: r.namespace}},
	}}}
	return gatewayv1.HTTPRouteRule{
		Matches: []gatewayv1.HTTPRouteMatch{{
			Path:    &gatewayv1.HTTPPathMatch{Type: &exact, Value: &path},
			Headers: []gatewayv1.HTTPHeaderMatch{{Type: &sameHeader, Name: HeaderProbe, Value: r.namespace}},
		}},
		Filters: []gatewayv1.HTTPRouteFilter{
			{Type: gatewayv1.HTTPRouteFilterRequestHeaderModifier, RequestHeaderModifier: &gatewayv1.HTTPHeaderFilter{Remove: []string{HeaderProbe}}},
			{Type: gatewayv1.HTTPRouteFilterURLRewrite, URLRewrite: rewrite},
		},
		BackendRefs: []gatewayv1.HTTPBackendRef{backend},
	}
}
