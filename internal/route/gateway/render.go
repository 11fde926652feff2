package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/route/table"
)

const (
	// maxRules and maxMatches are what one HTTPRoute can have, all its rules together.
	maxRules, maxMatches = 16, 128
	// maxEntries bounds what one partition can ask of the gateways of its cluster, all of which look at all of it.
	maxEntries = 3000
)

// renderer makes the objects of one partition.
type renderer struct {
	in         *Input
	namespace  string
	referenced map[string]*unstructured.Unstructured
	problems   map[string][]string
	entries    int
}

// rule is one rule of an HTTPRoute in the making.
type rule struct {
	source  *v1alpha1.RouteRule
	route   *v1alpha1.Route
	matches []*entry
	shares  []share
	// broken rules answer 500: were they left out, others would answer what is theirs.
	broken bool
}

// chunk is one HTTPRoute in the making.
type chunk struct {
	route *v1alpha1.Route
	rules []*rule
}

// Render makes the objects of one partition. It is the same for the same input.
func Render(in *Input) (*Objects, error) {
	r := &renderer{
		in: in, namespace: in.Partition.MemberNamespace(),
		referenced: map[string]*unstructured.Unstructured{}, problems: map[string][]string{},
	}
	var chunks []*chunk
	var entries [][]*entry
	for _, route := range in.Routes {
		if !r.concerns(route) {
			continue
		}
		own := r.chunks(route)
		chunks = append(chunks, own...)
		entries = append(entries, entriesOf(own))
	}
	failures := arrange(entries)
	for _, c := range chunks {
		for _, e := range entriesOf([]*chunk{c}) {
			if err := failures[e]; err != nil {
				r.problem(c.route, "%s", err.Error())
			}
		}
	}
	out := &Objects{Problems: r.problems}
	for _, c := range chunks {
		o, err := r.httpRoute(c)
		if err != nil {
			return nil, err
		}
		out.Routes = append(out.Routes, o)
	}
	if len(out.Routes) == 0 {
		return out, nil
	}
	probes, err := r.probes()
	if err != nil {
		return nil, err
	}
	out.Routes = append(out.Routes, probes...)
	slices.SortFunc(out.Routes, func(a, b *unstructured.Unstructured) int { return cmp.Compare(a.GetName(), b.GetName()) })
	for _, list := range out.Problems {
		slices.Sort(list)
	}
	return out, r.seal(out)
}

// concerns says whether the partition has something of the Route: an application, or a redirect that needs none.
func (r *renderer) concerns(route *v1alpha1.Route) bool {
	redirects := true
	for i := range route.Spec.Rules {
		for _, b := range route.Spec.Rules[i].Backends {
			redirects = false
			if r.in.Applications[b.Application] != nil {
				return true
			}
		}
	}
	return redirects
}

func (r *renderer) problem(route *v1alpha1.Route, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(r.problems[route.Name], text) {
		r.problems[route.Name] = append(r.problems[route.Name], text)
	}
}

// chunks makes the rules of a Route and packs them into as few HTTPRoutes as may be.
func (r *renderer) chunks(route *v1alpha1.Route) []*chunk {
	var out []*chunk
	var rules, matches int
	for i := range route.Spec.Rules {
		own := r.rules(route, i)
		n := len(entriesOf([]*chunk{{rules: own}}))
		if n == 0 {
			continue
		}
		if r.entries+n > maxEntries {
			r.problem(route, "rule %s is left out: the Routes of a partition have at most %d matches together", route.Spec.Rules[i].Name, maxEntries)
			continue
		}
		r.entries += n
		if len(out) == 0 || rules+len(own) > maxRules || matches+n > maxMatches {
			out = append(out, &chunk{route: route})
			rules, matches = 0, 0
		}
		last := out[len(out)-1]
		last.rules = append(last.rules, own...)
		rules, matches = rules+len(own), matches+n
	}
	for _, c := range out {
		for position, one := range c.rules {
			for _, e := range one.matches {
				e.position = len(c.rules) - position
				e.count()
			}
		}
	}
	return out
}

func entriesOf(chunks []*chunk) []*entry {
	var out []*entry
	for _, c := range chunks {
		for _, one := range c.rules {
			out = append(out, one.matches...)
		}
	}
	return out
}

// rules makes the rules of one rule of a Route: those of the candidate first, then that by weight.
func (r *renderer) rules(route *v1alpha1.Route, index int) []*rule {
	source := &route.Spec.Rules[index]
	var application *Application
	if len(source.Backends) > 0 {
		if application = r.in.Applications[source.Backends[0].Application]; application == nil {
			return nil
		}
	}
	bases := r.bases(route, source)
	broken := false
	for _, text := range checkRule(source) {
		r.problem(route, "rule %s: %s", source.Name, text)
		broken = true
	}
	one := func(matches []*entry, candidate int32) *rule {
		out := &rule{source: source, route: route, matches: matches, broken: broken}
		if application != nil && !broken {
			var missing []string
			out.shares, missing = application.shares(source, candidate)
			for _, component := range missing {
				r.problem(route, "rule %s: component %s of application %s has no such service in partition %s", source.Name, component, source.Backends[0].Application, r.in.Partition.Name)
			}
		}
		return out
	}
	var out []*rule
	if application != nil && application.candidate() != nil && len(bases) > 0 {
		if special := r.special(route, index, bases, application.traffic().Matches); len(special) > 0 {
			out = append(out, one(special, 100))
		}
		asked := condition{name: v1alpha1.HeaderTrack, value: string(v1alpha1.TrackCandidate)}
		out = append(out, one(r.entriesFor(route, index, bases, match{path: anyPath, headers: []condition{asked}}, true), 100))
		return append(out, one(r.entriesFor(route, index, bases, match{path: anyPath}, false), application.traffic().Weight))
	}
	return append(out, one(r.entriesFor(route, index, bases, match{path: anyPath}, false), 0))
}

// bases are the matches of a rule.
func (r *renderer) bases(route *v1alpha1.Route, source *v1alpha1.RouteRule) []match {
	if len(source.Matches) == 0 {
		return []match{{path: anyPath}}
	}
	var out []match
	for i := range source.Matches {
		m, err := newMatch(&source.Matches[i])
		if err != nil {
			r.problem(route, "rule %s: %s", source.Name, err.Error())
			continue
		}
		out = append(out, m)
	}
	return out
}

// special are the matches of the requests that the candidate gets whatever its weight.
func (r *renderer) special(route *v1alpha1.Route, index int, bases []match, chosen []v1alpha1.RouteMatch) []*entry {
	var out []*entry
	for i := range chosen {
		m, err := newMatch(&chosen[i])
		if err != nil {
			r.problem(route, "requests for the new version: %s", err.Error())
			continue
		}
		out = append(out, r.entriesFor(route, index, bases, m, true)...)
	}
	return out
}

// entriesFor are the matches of a rule, each together with what leads to a track.
func (r *renderer) entriesFor(route *v1alpha1.Route, index int, bases []match, more match, special bool) []*entry {
	var out []*entry
	for _, base := range bases {
		both, err := base.and(more)
		if err == nil {
			both.headers = append([]condition{r.here()}, both.headers...)
			_, err = both.gateway()
		}
		if err != nil {
			if !errors.Is(err, errNever) {
				r.problem(route, "rule %s: %s", route.Spec.Rules[index].Name, err.Error())
			}
			continue
		}
		out = append(out, &entry{base: base, match: both, special: special, hosts: route.Spec.Hosts, rule: index})
	}
	return out
}

// here is what the edge says of the partition it has chosen.
func (r *renderer) here() condition {
	return condition{name: table.HeaderPartition, value: `^` + r.namespace + `(\..*)?$`, regex: true}
}

// httpRoute writes one HTTPRoute. Its name tells which rules it has: when rules move from one to another, those with the
// new names are there before the old ones go.
func (r *renderer) httpRoute(c *chunk) (*unstructured.Unstructured, error) {
	var names []string
	spec := gatewayv1.HTTPRouteSpec{CommonRouteSpec: parent()}
	for _, host := range c.route.Spec.Hosts {
		spec.Hostnames = append(spec.Hostnames, gatewayv1.Hostname(host))
	}
	for _, one := range c.rules {
		written, err := r.write(one)
		if err != nil {
			return nil, err
		}
		spec.Rules = append(spec.Rules, written)
		names = append(names, one.source.Name)
	}
	hash, err := hashOf(slices.Compact(names))
	if err != nil {
		return nil, err
	}
	o, err := unstructuredRoute(&gatewayv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Name: c.route.Name + "-" + hash}, Spec: spec})
	if err != nil {
		return nil, err
	}
	r.label(o, c.route.Name)
	return o, nil
}

func (r *renderer) write(one *rule) (gatewayv1.HTTPRouteRule, error) {
	var out gatewayv1.HTTPRouteRule
	for _, e := range one.matches {
		m, err := e.match.gateway()
		if err != nil {
			return out, err
		}
		m.Path = e.written()
		out.Matches = append(out.Matches, m)
	}
	if one.broken {
		return out, nil
	}
	var err error
	if out.Filters, err = r.filters(one.route, one.source, one.matches); err != nil {
		return out, err
	}
	out.BackendRefs, err = r.backends(one.route, one.source, one.shares)
	return out, err
}

func parent() gatewayv1.CommonRouteSpec {
	namespace := gatewayv1.Namespace(v1alpha1.GatewayNamespace)
	return gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{Namespace: &namespace, Name: v1alpha1.GatewayName}}}
}

// label says whose an object is.
func (r *renderer) label(o *unstructured.Unstructured, route string) {
	o.SetNamespace(r.namespace)
	o.SetLabels(map[string]string{
		v1alpha1.LabelTenant: r.in.Partition.Namespace, v1alpha1.LabelPartition: r.in.Partition.Name, LabelRoute: route,
	})
}

// seal adds what tells that all of it is served.
func (r *renderer) seal(out *Objects) error {
	contents := func(list []*unstructured.Unstructured) []any {
		var all []any
		for _, o := range list {
			all = append(all, []any{o.GetKind(), o.GetName(), o.Object["spec"]})
		}
		return all
	}
	var err error
	if len(r.referenced) > 0 {
		for _, key := range slices.Sorted(maps.Keys(r.referenced)) {
			out.Referenced = append(out.Referenced, r.referenced[key])
		}
		if out.ReferencedGeneration, err = hashOf(contents(out.Referenced)); err != nil {
			return err
		}
		if err := r.ready(out); err != nil {
			return err
		}
	}
	if out.Generation, err = hashOf([]any{contents(out.Routes), contents(out.Referenced), r.in.versions()}); err != nil {
		return err
	}
	host := gatewayv1.PreciseHostname("g-" + out.Generation + answerDomain)
	out.Marker, err = r.answer("yunfan-marker", MarkerPath(r.namespace), gatewayv1.HTTPRouteFilter{
		Type: gatewayv1.HTTPRouteFilterRequestRedirect, RequestRedirect: &gatewayv1.HTTPRequestRedirectFilter{Hostname: &host},
	})
	return err
}

// versions are those of all that the objects are made from. What is as it was before a moment ago is not the same: a
// gateway may be about to serve what was in between.
func (in *Input) versions() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(in.Applications)) {
		d := in.Applications[name].Delivery
		out = append(out, fmt.Sprintf("%s %s %d", name, d.UID, d.Generation))
	}
	for _, route := range in.Routes {
		out = append(out, fmt.Sprintf("%s %s %d", route.Name, route.UID, route.Generation))
	}
	return out
}

// ready adds what tells that a gateway knows the referenced objects: a Middleware, taken up after all of them, gives the
// answer, and a TraefikService stands behind it. Without either the gateway answers something else.
func (r *renderer) ready(out *Objects) error {
	name := "objects-" + out.ReferencedGeneration
	middleware := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"redirectRegex": map[string]any{
		"regex": ".*", "replacement": "http://o-" + out.ReferencedGeneration + answerDomain + "/",
	}}}}
	service := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"weighted": map[string]any{"services": []any{}}}}}
	middleware.SetGroupVersionKind(kindMiddleware)
	service.SetGroupVersionKind(kindTraefikService)
	for _, o := range []*unstructured.Unstructured{service, middleware} {
		o.SetName(name)
		r.label(o, "")
		out.Referenced = append(out.Referenced, o)
	}
	answer, err := r.answer("yunfan-objects", readyPath(r.namespace), middlewareRef(name), traefikRef(name))
	out.Ready = answer
	return err
}

// answer makes an HTTPRoute that answers one path by itself.
func (r *renderer) answer(name, path string, filter gatewayv1.HTTPRouteFilter, backends ...gatewayv1.HTTPBackendRef) (*unstructured.Unstructured, error) {
	exact := gatewayv1.PathMatchExact
	o, err := unstructuredRoute(&gatewayv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: gatewayv1.HTTPRouteSpec{
		CommonRouteSpec: parent(),
		Rules: []gatewayv1.HTTPRouteRule{{
			Matches:     []gatewayv1.HTTPRouteMatch{{Path: &gatewayv1.HTTPPathMatch{Type: &exact, Value: &path}}},
			Filters:     []gatewayv1.HTTPRouteFilter{filter},
			BackendRefs: backends,
		}},
	}})
	if err != nil {
		return nil, err
	}
	r.label(o, "")
	return o, nil
}
