package gateway

import (
	"strings"
	"testing"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

// TestOrderAtTheGateway proves with the real program that requests get the rule that Routes promise: also where the
// gateway by itself would choose another.
func TestOrderAtTheGateway(t *testing.T) {
	tr := startTraefik(t)
	s := newScene(t)
	components := []string{"any", "short", "long", "exact", "expression", "first", "wild", "wildexact", "nohost", "name"}
	for _, c := range components {
		serve(t, s.ns, c, 1)
	}
	serve(t, s.ns, "short-abc", 1)
	s.application("shop", components...)
	s.application("next", "short").beside("abc", v1alpha1.Traffic{Matches: []v1alpha1.RouteMatch{{Headers: []v1alpha1.ValueMatch{{Name: "X-Beta", Value: "1"}}}}})
	s.route("a", `{hosts: [shop.example.com], rules: [
		{name: short, matches: [{path: {value: /api}, method: POST, headers: [{name: A, value: "1"}, {name: B, value: "1"}, {name: C, value: "1"}]}], backends: [{application: shop, component: short}]},
		{name: long, matches: [{path: {value: /api/v1}}], backends: [{application: shop, component: long}]},
		{name: exact, matches: [{path: {type: Exact, value: /api/v1/x}}], backends: [{application: shop, component: exact}]},
		{name: first, matches: [{headers: [{name: A, value: "1"}]}], backends: [{application: shop, component: first}]},
		{name: second, matches: [{headers: [{name: B, value: "1"}]}], backends: [{application: shop, component: any}]},
		{name: expression, matches: [{path: {type: RegularExpression, value: "^/[0-9]+$"}}], backends: [{application: shop, component: expression}]},
		{name: next, matches: [{path: {value: /next}}], backends: [{application: next, component: short}]},
		{name: nextlong, matches: [{path: {value: /next/x}}], backends: [{application: shop, component: long}]},
		{name: any, backends: [{application: shop, component: any}]}]}`)
	s.route("b", `{hosts: ["*.example.com"], rules: [{name: x, matches: [{path: {type: Exact, value: /deep/path}}, {path: {value: /very/long/path/of/the/wildcard}}], backends: [{application: shop, component: wild}]}]}`)
	s.route("c", `{rules: [{name: x, matches: [{path: {type: Exact, value: /deep/path}}], backends: [{application: shop, component: nohost}]}, {name: y, backends: [{application: shop, component: nohost}]}]}`)
	out := s.apply(tr)
	if len(out.Problems) > 0 {
		t.Errorf("problems: %v", out.Problems)
	}
	all := []string{"A: 1", "B: 1", "C: 1", "Method: POST"}
	cases := map[string]struct {
		reason, host, path, want string
		headers                  []string
	}{
		"longer prefix":         {"before a shorter one with many conditions", "shop.example.com", "/api/v1/y", "long", all},
		"exact":                 {"before all prefixes", "shop.example.com", "/api/v1/x", "exact", all},
		"shorter prefix":        {"where it is the only one", "shop.example.com", "/api/z", "short", all},
		"first of equals":       {"both rules have one header", "shop.example.com", "/", "first", []string{"A: 1", "B: 1"}},
		"second":                {"only one of them matches", "shop.example.com", "/", "any", []string{"B: 1"}},
		"expression":            {"before all paths", "shop.example.com", "/123", "expression", nil},
		"segments":              {"a prefix goes by whole segments", "shop.example.com", "/apis", "any", nil},
		"candidate":             {"chosen users get it", "shop.example.com", "/next/y", "short-abc", []string{"X-Beta: 1"}},
		"candidate of a prefix": {"but a longer prefix is another application's", "shop.example.com", "/next/x/y", "long", []string{"X-Beta: 1", "Yunfan-Track: Candidate"}},
		"host before wildcard":  {"also where the wildcard's path is exact", "shop.example.com", "/deep/path", "any", nil},
		"host before its path":  {"also where the wildcard's path is longer", "shop.example.com", "/very/long/path/of/the/wildcard/x", "any", nil},
		"wildcard":              {"before any host", "other.example.com", "/deep/path", "wild", nil},
		"any host":              {"where no other has the path", "else.example.org", "/deep/path", "nohost", nil},
	}
	for name, tt := range cases {
		t.Run(name, func(t *testing.T) {
			if got := tr.ask(t, s.ns, tt.path, append(tt.headers, "Host: "+tt.host)...); got.Backend != tt.want {
				t.Errorf("%s %s got %q (%d), want %s: %s", tt.host, tt.path, got.Backend, got.Status, tt.want, tt.reason)
			}
		})
	}
}

// TestHostileRoute: texts that would break out of rules, expressions that are bombs, and very many rules are refused, or
// do no harm to others.
func TestHostileRoute(t *testing.T) {
	tr := startTraefik(t)
	s := newScene(t)
	serve(t, s.ns, "web", 1)
	s.application("shop", "web")
	odd := "a`) || PathPrefix(`/\") || Host(\"x\" \\"
	hostile := s.route("hostile", `{hosts: [bad.example.com], rules: [{name: all, backends: [{application: shop, component: web}]}]}`)
	hostile.Spec.Rules[0].Matches = []v1alpha1.RouteMatch{
		{Headers: []v1alpha1.ValueMatch{{Name: "X", Value: odd}}},
		{Query: []v1alpha1.ValueMatch{{Name: "q`'", Value: odd}}},
		{Cookies: []v1alpha1.ValueMatch{{Name: "c", Value: odd}}},
		{Path: &v1alpha1.PathMatch{Type: v1alpha1.MatchExact, Value: "/" + odd}},
		{Path: &v1alpha1.PathMatch{Type: v1alpha1.MatchPrefix, Value: "/a//b/../c"}},
	}
	s.route("good", oneBackend)
	out := s.apply(tr)
	if len(out.Problems) > 0 {
		t.Errorf("problems: %v", out.Problems)
	}
	if a := tr.ask(t, s.ns, "/", "Host: shop.example.com"); a.Backend != "web" {
		t.Errorf("another Route got %d", a.Status)
	}
	if a := tr.ask(t, s.ns, "/", "Host: bad.example.com"); a.Status != 404 {
		t.Errorf("a request that nothing matches got %d", a.Status)
	}
	if a := tr.ask(t, s.ns, "/", "Host: bad.example.com", "X: "+odd); a.Backend != "web" {
		t.Errorf("the header as it is written got %d", a.Status)
	}

	cases := map[string]struct{ spec, want string }{
		"no expression":      {`{rules: [{name: x, matches: [{path: {type: RegularExpression, value: "(("}}], backends: [{application: shop, component: web}]}]}`, "is no regular expression"},
		"bomb":               {`{rules: [{name: x, matches: [{headers: [{name: A, type: RegularExpression, value: "((a{20}){20}){20}"}]}], backends: [{application: shop, component: web}]}]}`, "regular expression"},
		"large":              {`{rules: [{name: x, matches: [{cookies: [{name: A, type: RegularExpression, value: "([a-z]{10}){90}([a-z]{10}){90}([a-z]{10}){90}"}]}], backends: [{application: shop, component: web}]}]}`, "too large"},
		"anchors in cookies": {`{rules: [{name: x, matches: [{cookies: [{name: A, type: RegularExpression, value: "^a$|^b$"}]}], backends: [{application: shop, component: web}]}]}`, "very beginning"},
		"platform's header":  {`{rules: [{name: x, matches: [{headers: [{name: yunfan-partition, value: other}]}], backends: [{application: shop, component: web}]}]}`, "the platform's"},
		"header's value":     {`{rules: [{name: x, requestHeaders: {set: {A: "b\r\nC: d"}}, backends: [{application: shop, component: web}]}]}`, "control characters"},
		"header's name":      {`{rules: [{name: x, responseHeaders: {set: {"A: b": c}}, backends: [{application: shop, component: web}]}]}`, "no name of a header"},
		"set partition":      {`{rules: [{name: x, requestHeaders: {set: {Yunfan-Partition: other}}, backends: [{application: shop, component: web}]}]}`, "the platform's"},
	}
	for name, tt := range cases {
		t.Run(name, func(t *testing.T) {
			route := readRoute(t, "r", tt.spec)
			got := strings.Join(Check(route), "; ")
			if !strings.Contains(got, tt.want) {
				t.Errorf("checked: %q, want %q", got, tt.want)
			}
			in := *s.input
			in.Routes = []*v1alpha1.Route{route}
			rendered, err := Render(&in)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(strings.Join(rendered.Problems["r"], "; "), tt.want) {
				t.Errorf("rendered with problems %v, want %q", rendered.Problems, tt.want)
			}
		})
	}
}

// TestLargestRoute packs 32 rules of 8 matches, with a candidate for 8 kinds of users, into what HTTPRoutes can have.
func TestLargestRoute(t *testing.T) {
	s := newScene(t)
	var chosen []v1alpha1.RouteMatch
	for value := range strings.SplitSeq("abcdefgh", "") {
		chosen = append(chosen, v1alpha1.RouteMatch{Cookies: []v1alpha1.ValueMatch{{Name: "kind", Value: value}}})
	}
	s.application("shop", "web").beside("abc", v1alpha1.Traffic{Weight: 10, Matches: chosen})
	route := s.route("large", `{hosts: [large.example.com], rules: []}`)
	for i := range 32 {
		rule := v1alpha1.RouteRule{Name: "r" + strings.Repeat("x", i/8) + string(rune('a'+i%8)), Backends: []v1alpha1.RouteBackend{{Application: "shop", Component: "web"}}}
		for j := range 8 {
			rule.Matches = append(rule.Matches, v1alpha1.RouteMatch{Path: &v1alpha1.PathMatch{Type: v1alpha1.MatchPrefix, Value: "/" + rule.Name + "/" + string(rune('a'+j))}})
		}
		route.Spec.Rules = append(route.Spec.Rules, rule)
	}
	begin := time.Now()
	out, err := Render(s.input)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("made in %d ms", time.Since(begin).Milliseconds())
	matches := 0
	for _, o := range out.Routes {
		if o.GetLabels()[LabelRoute] == "" {
			continue
		}
		rules := o.Object["spec"].(map[string]any)["rules"].([]any)
		n := 0
		for _, r := range rules {
			n += len(r.(map[string]any)["matches"].([]any))
		}
		if len(rules) > maxRules || n > maxMatches {
			t.Errorf("%s has %d rules and %d matches", o.GetName(), len(rules), n)
		}
		matches += n
	}
	if want := 32 * 8 * (8 + 1 + 1); matches != want {
		t.Errorf("%d matches, want %d; problems %v", matches, want, out.Problems)
	}
	// The member takes all of it.
	s.put(out.Routes...)
	again, err := Render(s.input)
	if err != nil || again.Generation != out.Generation {
		t.Errorf("made again it is another one: %s, %s, %v", out.Generation, again.Generation, err)
	}
}

// TestPlainRoutesStayPlain: nothing is lifted where the gateway's own order is right.
func TestPlainRoutesStayPlain(t *testing.T) {
	s := newScene(t)
	s.application("shop", "web").beside("abc", v1alpha1.Traffic{Weight: 10})
	s.route("shop", `{hosts: [shop.example.com], rules: [
		{name: api, matches: [{path: {value: /api}}], backends: [{application: shop, component: web}]},
		{name: beta, matches: [{headers: [{name: A, value: b}]}], backends: [{application: shop, component: web}]},
		{name: exact, matches: [{path: {type: Exact, value: /x}}], backends: [{application: shop, component: web}]},
		{name: all, backends: [{application: shop, component: web}]}]}`)
	out, err := Render(s.input)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range out.Routes {
		for _, r := range o.Object["spec"].(map[string]any)["rules"].([]any) {
			for _, m := range r.(map[string]any)["matches"].([]any) {
				if path := m.(map[string]any)["path"].(map[string]any); path["type"] == string(gatewayv1.PathMatchRegularExpression) {
					t.Errorf("%s has the path %v", o.GetName(), path)
				}
			}
		}
	}
}
