package gateway

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/route/table"
)

const (
	// idleTimeout closes connections to pods that carry nothing: what is counted of them is then what is under way.
	idleTimeout = "2s"
	// dialTimeout is how long a pod may take to take a connection.
	dialTimeout = "2s"
	// maxMirrorBody is the largest body of which a copy is sent, for copies are kept in memory: 1 MiB.
	maxMirrorBody = 1 << 20
)

// server is one Service that requests can go to.
type server struct {
	service string
	port    int32
}

// share is a server with its weight among the shares of a rule.
type share struct {
	server
	weight int32
	// mirrors get copies.
	mirrors []mirror
}

// mirror gets copies of so many percent of the requests.
type mirror struct {
	server
	percent int32
}

// tracks of an application, for the shares of its backends.
func (a *Application) candidate() *v1alpha1.Track {
	return a.Delivery.Spec.Track(v1alpha1.TrackCandidate)
}

// server finds the Service of a component in a track. False if the track does not have it.
func (a *Application) server(role v1alpha1.TrackRole, component, port string) (server, bool) {
	track, c := a.Delivery.Spec.Track(role), a.Components[role][component]
	if track == nil || c == nil || c.Service == nil {
		return server{}, false
	}
	for _, p := range c.Service.Ports {
		if port == "" || p.Name == port {
			return server{service: track.ServiceName(component), port: p.Port}, true
		}
	}
	return server{}, false
}

// traffic is what the Delivery wants of the requests; never nil.
func (a *Application) traffic() v1alpha1.Traffic {
	if a.Delivery.Spec.Traffic == nil || a.candidate() == nil {
		return v1alpha1.Traffic{}
	}
	return *a.Delivery.Spec.Traffic
}

// shares are the servers of a rule's backends with their weights, for requests of which the candidate gets so many
// percent. Missing are the backends that no track has.
func (a *Application) shares(rule *v1alpha1.RouteRule, candidate int32) (shares []share, missing []string) {
	for _, b := range rule.Backends {
		weight := int32(100)
		if b.Weight != nil {
			weight = *b.Weight
		}
		stable, inStable := a.server(v1alpha1.TrackStable, b.Component, b.Port)
		next, inCandidate := a.server(v1alpha1.TrackCandidate, b.Component, b.Port)
		part := candidate
		switch {
		case !inStable && !inCandidate:
			missing = append(missing, b.Component)
			continue
		case !inCandidate:
			part = 0
		case !inStable:
			part = 100
		}
		if of := weight * (100 - part); of > 0 {
			s := share{server: stable, weight: of, mirrors: a.mirrors(rule, v1alpha1.TrackStable)}
			if percent := a.traffic().Mirror; percent > 0 && inCandidate {
				s.mirrors = append(s.mirrors, mirror{server: next, percent: percent})
			}
			shares = append(shares, s)
		}
		if of := weight * part; of > 0 {
			shares = append(shares, share{server: next, weight: of, mirrors: a.mirrors(rule, v1alpha1.TrackCandidate)})
		}
	}
	reduce(shares)
	return shares, missing
}

// reduce makes the weights as small as they can be in proportion: people read them.
func reduce(shares []share) {
	divisor := int32(0)
	for _, s := range shares {
		a, b := divisor, s.weight
		for b != 0 {
			a, b = b, a%b
		}
		divisor = a
	}
	for i := range shares {
		shares[i].weight /= divisor
	}
}

// mirrors are who gets copies by the rule: of the same track, or else of the stable one.
func (a *Application) mirrors(rule *v1alpha1.RouteRule, role v1alpha1.TrackRole) []mirror {
	if rule.Mirror == nil {
		return nil
	}
	percent := rule.Mirror.Percent
	if percent == 0 {
		percent = 100
	}
	for _, role := range []v1alpha1.TrackRole{role, v1alpha1.TrackStable} {
		if s, ok := a.server(role, rule.Mirror.Component, rule.Mirror.Port); ok {
			return []mirror{{server: s, percent: percent}}
		}
	}
	return nil
}

// backends writes the shares of a rule. What the standard cannot say, or Traefik does not do of it, becomes a service of
// Traefik's own.
func (r *renderer) backends(route *v1alpha1.Route, rule *v1alpha1.RouteRule, shares []share) ([]gatewayv1.HTTPBackendRef, error) {
	transport, err := r.transport(rule)
	if err != nil {
		return nil, err
	}
	if route.Spec.Affinity != nil && len(shares) > 0 {
		return r.sticky(route, rule, shares, transport)
	}
	var out []gatewayv1.HTTPBackendRef
	for _, s := range shares {
		ref := serviceRef(s.server)
		if len(s.mirrors) > 0 || transport != "" {
			name, err := r.service(s, transport, "")
			if err != nil {
				return nil, err
			}
			ref = traefikRef(name)
		}
		weight := s.weight
		ref.Weight = &weight
		out = append(out, ref)
	}
	return out, nil
}

func serviceRef(s server) gatewayv1.HTTPBackendRef {
	port := s.port
	return gatewayv1.HTTPBackendRef{BackendRef: gatewayv1.BackendRef{
		BackendObjectReference: gatewayv1.BackendObjectReference{Name: gatewayv1.ObjectName(s.service), Port: &port},
	}}
}

func traefikRef(name string) gatewayv1.HTTPBackendRef {
	group, kind := gatewayv1.Group(traefikGroup), gatewayv1.Kind(kindTraefikService.Kind)
	return gatewayv1.HTTPBackendRef{BackendRef: gatewayv1.BackendRef{
		BackendObjectReference: gatewayv1.BackendObjectReference{Group: &group, Kind: &kind, Name: gatewayv1.ObjectName(name)},
	}}
}

// transport is how pods are talked to where a rule bounds the time for an answer; empty if it does not.
func (r *renderer) transport(rule *v1alpha1.RouteRule) (string, error) {
	if rule.Timeout == nil || rule.Timeout.Duration <= 0 {
		return "", nil
	}
	return r.refer(kindServersTransport, "timeout", map[string]any{"forwardingTimeouts": map[string]any{
		"responseHeaderTimeout": milliseconds(rule.Timeout.Duration), "dialTimeout": dialTimeout, "idleConnTimeout": idleTimeout,
	}})
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%dms", max(d.Milliseconds(), 1)) }

// service makes Traefik's own service of a share.
func (r *renderer) service(s share, transport, cookie string) (string, error) {
	main := loadBalancer(s.server, transport, cookie)
	if len(s.mirrors) == 0 {
		return r.refer(kindTraefikService, "service", map[string]any{"weighted": map[string]any{"services": []any{main}}})
	}
	var mirrors []any
	for _, m := range s.mirrors {
		mirrors = append(mirrors, map[string]any{"name": m.service, "port": int64(m.port), "percent": int64(m.percent)})
	}
	main["mirrors"], main["maxBodySize"] = mirrors, int64(maxMirrorBody)
	return r.refer(kindTraefikService, "mirror", map[string]any{"mirroring": main})
}

func loadBalancer(s server, transport, cookie string) map[string]any {
	out := map[string]any{"name": s.service, "port": int64(s.port)}
	if transport != "" {
		out["serversTransport"] = transport
	}
	if cookie != "" {
		out["sticky"] = stickyCookie(cookie)
	}
	return out
}

func stickyCookie(name string) map[string]any {
	return map[string]any{"cookie": map[string]any{"name": name, "httpOnly": true, "path": "/"}}
}

// sticky keeps clients at one share, and there at one pod: by cookies, also where the Route knows clients by their
// address, which a gateway behind an edge does not see.
func (r *renderer) sticky(route *v1alpha1.Route, rule *v1alpha1.RouteRule, shares []share, transport string) ([]gatewayv1.HTTPBackendRef, error) {
	base := route.Spec.Affinity.Cookie
	if base == "" {
		base = table.DefaultCookie
	}
	var services []any
	for _, s := range shares {
		hash, err := hashOf(s.service)
		if err != nil {
			return nil, err
		}
		cookie := base + "-" + hash[:6]
		one := loadBalancer(s.server, transport, cookie)
		if len(s.mirrors) > 0 {
			name, err := r.service(s, transport, cookie)
			if err != nil {
				return nil, err
			}
			one = map[string]any{"name": name, "kind": kindTraefikService.Kind}
		}
		one["weight"] = int64(s.weight)
		services = append(services, one)
	}
	weighted := map[string]any{"services": services}
	if len(services) > 1 {
		hash, err := hashOf(route.Name + "/" + rule.Name)
		if err != nil {
			return nil, err
		}
		weighted["sticky"] = stickyCookie(base + "-" + hash[:6])
	}
	name, err := r.refer(kindTraefikService, "sticky", map[string]any{"weighted": weighted})
	if err != nil {
		return nil, err
	}
	return []gatewayv1.HTTPBackendRef{traefikRef(name)}, nil
}

// refer takes up an object that Routes refer to, under a name made of its content, and gives the name.
func (r *renderer) refer(kind schema.GroupVersionKind, what string, spec map[string]any) (string, error) {
	hash, err := hashOf(spec)
	if err != nil {
		return "", err
	}
	name := what + "-" + hash
	key := kind.Kind + "/" + name
	if _, known := r.referenced[key]; !known {
		o := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
		o.SetGroupVersionKind(kind)
		o.SetName(name)
		r.label(o, "")
		r.referenced[key] = o
	}
	return name, nil
}
