package gateway

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/route/table"
)

const oneBackend = `{hosts: [shop.example.com], rules: [{name: all, backends: [{application: shop, component: web}]}]}`

// split counts which backend answers how many of the requests.
func (s *scene) split(tr *traefik, requests int, headers ...string) map[string]int {
	s.t.Helper()
	out := map[string]int{}
	for range requests {
		a := tr.ask(s.t, s.ns, "/", append([]string{"Host: shop.example.com"}, headers...)...)
		if a.Status != 200 {
			s.t.Fatalf("status %d of a request by weight", a.Status)
		}
		out[a.Backend]++
	}
	return out
}

// TestMSH02_WeightsOfBackendsAndTracks proves that weights of backends and of tracks are multiplied.
func TestMSH02_WeightsOfBackendsAndTracks(t *testing.T) {
	tr := startTraefik(t)
	cases := map[string]struct {
		reason string
		rule   string
		weight int32
		want   map[string]int // of 1000
	}{
		"one track":       {"30/70 as the sample of the page", `[{application: shop, component: web, weight: 30}, {application: shop, component: pay, weight: 70}]`, -1, map[string]int{"web": 300, "pay": 700}},
		"two tracks":      {"a canary of a tenth", `[{application: shop, component: web}]`, 10, map[string]int{"web": 900, "web-abc": 100}},
		"both":            {"90/10 of 30/70", `[{application: shop, component: web, weight: 30}, {application: shop, component: pay, weight: 70}]`, 10, map[string]int{"web": 270, "pay": 630, "web-abc": 30, "pay-abc": 70}},
		"all to the next": {"blue and green", `[{application: shop, component: web}]`, 100, map[string]int{"web-abc": 1000}},
		"none":            {"only testers reach it", `[{application: shop, component: web}]`, 0, map[string]int{"web": 1000}},
	}
	for name, tt := range cases {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			for _, service := range []string{"web", "pay", "web-abc", "pay-abc"} {
				serve(t, s.ns, service, 1)
			}
			a := s.application("shop", "web", "pay")
			if tt.weight >= 0 {
				a.beside("abc", v1alpha1.Traffic{Weight: tt.weight})
			}
			s.route("shop", `{hosts: [shop.example.com], rules: [{name: all, backends: `+tt.rule+`}]}`)
			s.apply(tr)
			got := s.split(tr, 1000)
			for backend := range got {
				if _, ok := tt.want[backend]; !ok {
					t.Errorf("%s answered, should not: %s", backend, tt.reason)
				}
			}
			for backend, want := range tt.want {
				if diff := got[backend] - want; diff < -10 || diff > 10 {
					t.Errorf("%s answered %d of 1000, want %d: %s", backend, got[backend], want, tt.reason)
				}
			}
			if tt.weight >= 0 {
				if asked := tr.ask(t, s.ns, "/", "Host: shop.example.com", "Yunfan-Track: Candidate"); asked.Backend != "web-abc" && asked.Backend != "pay-abc" {
					t.Errorf("a tester got %s", asked.Backend)
				}
			}
		})
	}
}

// TestMSH03_WeightAndCookie is the sample of reviews: half and half, and jason always the second.
func TestMSH03_WeightAndCookie(t *testing.T) {
	tr := startTraefik(t)
	s := newScene(t)
	for _, service := range []string{"v2", "v3"} {
		serve(t, s.ns, service, 1)
	}
	s.application("reviews", "v2", "v3")
	s.route("reviews", `{hosts: [shop.example.com], rules: [
		{name: jason, matches: [{cookies: [{name: user, value: jason}]}], backends: [{application: reviews, component: v2}]},
		{name: rest, backends: [{application: reviews, component: v2, weight: 50}, {application: reviews, component: v3, weight: 50}]}]}`)
	s.apply(tr)
	if got := s.split(tr, 1000); got["v2"] < 470 || got["v2"] > 530 {
		t.Errorf("got %v, want half and half", got)
	}
	if got := s.split(tr, 50, "Cookie: a=b; user=jason; c=d"); got["v2"] != 50 {
		t.Errorf("jason got %v", got)
	}
	if got := s.split(tr, 50, "Cookie: a=b; user=jasonx; xuser=jason"); got["v3"] == 0 {
		t.Errorf("somebody else got %v", got)
	}
}

// TestMSH04_Mirror proves that copies arrive, in full, and that clients get only one answer.
func TestMSH04_Mirror(t *testing.T) {
	tr := startTraefik(t)
	s := newScene(t)
	v2, v3, next := serve(t, s.ns, "v2", 1), serve(t, s.ns, "v3", 1), serve(t, s.ns, "v2-abc", 1)
	s.application("reviews", "v2", "v3")
	s.route("reviews", `{hosts: [shop.example.com], rules: [{name: all, mirror: {component: v3, percent: 100}, backends: [{application: reviews, component: v2}]}]}`)
	s.apply(tr)
	if got := s.split(tr, 100); got["v2"] != 100 {
		t.Errorf("clients got %v", got)
	}
	NewWithT(t).Eventually(func() int { return len(v3.requests()) }).WithTimeout(patience).Should(Equal(100))

	// Shadow: the candidate gets a share of the stable track's.
	s.input.Applications["reviews"].beside("abc", v1alpha1.Traffic{Mirror: 30})
	s.apply(tr)
	before := len(v2.requests())
	if got := s.split(tr, 100); got["v2"] != 100 {
		t.Errorf("clients got %v", got)
	}
	if got := len(v2.requests()) - before; got != 100 {
		t.Errorf("v2 got %d of 100", got)
	}
	NewWithT(t).Eventually(func() int { return len(next.requests()) }).WithTimeout(patience).Should(BeNumerically("~", 30, 2))
	NewWithT(t).Eventually(func() int { return len(v3.requests()) }).WithTimeout(patience).Should(Equal(200))
}

// TestREL06_Conditions proves that requests of each kind, and no others, reach the candidate.
func TestREL06_Conditions(t *testing.T) {
	tr := startTraefik(t)
	office := table.NetworkName([]string{"10.1.0.0/16"})
	cases := map[string]struct {
		match  v1alpha1.RouteMatch
		path   string
		yes    [][]string
		no     [][]string
		noPath string
	}{
		"cookie": {
			match: v1alpha1.RouteMatch{Cookies: []v1alpha1.ValueMatch{{Name: "beta", Value: "yes"}}},
			yes:   [][]string{{"Cookie: beta=yes"}, {"Cookie: a=1; beta=yes; b=2"}, {`Cookie: beta="yes"`}},
			no:    [][]string{{}, {"Cookie: beta=yesterday"}, {"Cookie: xbeta=yes"}, {"Cookie: a=beta=yes"}},
		},
		"two cookies": {
			match: v1alpha1.RouteMatch{Cookies: []v1alpha1.ValueMatch{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}, {Name: "c", Value: "3"}}},
			yes:   [][]string{{"Cookie: a=1; b=2; c=3"}, {"Cookie: c=3; b=2; a=1"}},
			no:    [][]string{{"Cookie: a=1"}, {"Cookie: a=1; b=2"}},
		},
		"cookie expression": {
			match: v1alpha1.RouteMatch{Cookies: []v1alpha1.ValueMatch{{Name: "user", Type: v1alpha1.MatchRegularExpression, Value: "^1.*7$"}}},
			yes:   [][]string{{"Cookie: user=17"}, {"Cookie: z=0; user=1xx7; b=2"}},
			no:    [][]string{{"Cookie: user=1; other=7"}, {"Cookie: user=18"}, {"Cookie: user=217"}},
		},
		"request parameter": {
			match: v1alpha1.RouteMatch{Query: []v1alpha1.ValueMatch{{Name: "version", Value: "2"}}}, path: "/?version=2", noPath: "/?version=3",
			yes: [][]string{{}}, no: [][]string{{}},
		},
		"request parameter expression": {
			match: v1alpha1.RouteMatch{Query: []v1alpha1.ValueMatch{{Name: "id", Type: v1alpha1.MatchRegularExpression, Value: "[02468]$"}}}, path: "/?id=124", noPath: "/?id=123",
			yes: [][]string{{}}, no: [][]string{{}},
		},
		"client address": {
			match: v1alpha1.RouteMatch{Clients: []string{"10.1.0.0/16"}},
			yes:   [][]string{{"Yunfan-Client: " + office}, {"Yunfan-Client: n0", "Yunfan-Client: " + office}},
			no:    [][]string{{}, {"Yunfan-Client: n0"}},
		},
		"browser": {
			match: v1alpha1.RouteMatch{Headers: []v1alpha1.ValueMatch{{Name: "User-Agent", Type: v1alpha1.MatchRegularExpression, Value: `Firefox/1[0-9]{2}`}}},
			yes:   [][]string{{"User-Agent: Mozilla/5.0 (X11) Gecko Firefox/144.0"}},
			no:    [][]string{{"User-Agent: Mozilla/5.0 Firefox/99.0"}, {"User-Agent: Chrome/130"}},
		},
		"screen": {
			match: v1alpha1.RouteMatch{Headers: []v1alpha1.ValueMatch{{Name: "Sec-CH-Viewport-Width", Value: "1920"}}},
			yes:   [][]string{{"Sec-CH-Viewport-Width: 1920"}}, no: [][]string{{"Sec-CH-Viewport-Width: 800"}, {}},
		},
		"operating system": {
			match: v1alpha1.RouteMatch{Headers: []v1alpha1.ValueMatch{{Name: "sec-ch-ua-platform", Value: `"Windows"`}}},
			yes:   [][]string{{`Sec-CH-UA-Platform: "Windows"`}}, no: [][]string{{`Sec-CH-UA-Platform: "Linux"`}},
		},
		"language": {
			match: v1alpha1.RouteMatch{Languages: []string{"zh", "en-GB"}},
			yes:   [][]string{{"Accept-Language: zh-CN,zh;q=0.9,en;q=0.8"}, {"Accept-Language: en-gb"}, {"Accept-Language: fr, zh;q=0.5"}},
			no:    [][]string{{"Accept-Language: en-US,en;q=0.5"}, {"Accept-Language: zh;q=0, fr"}, {"Accept-Language: xzh"}, {}},
		},
		"method": {
			match: v1alpha1.RouteMatch{Method: "POST"},
			yes:   [][]string{{"Method: POST"}}, no: [][]string{{}, {"Method: PUT"}},
		},
		"path": {
			match: v1alpha1.RouteMatch{Path: &v1alpha1.PathMatch{Type: v1alpha1.MatchPrefix, Value: "/new"}}, path: "/new/x", noPath: "/newer",
			yes: [][]string{{}}, no: [][]string{{}},
		},
	}
	for name, tt := range cases {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			serve(t, s.ns, "web", 1)
			serve(t, s.ns, "web-abc", 1)
			s.application("shop", "web").beside("abc", v1alpha1.Traffic{Matches: []v1alpha1.RouteMatch{tt.match}})
			s.route("shop", oneBackend)
			s.apply(tr)
			check := func(path, want string, all [][]string) {
				for _, headers := range all {
					if got := tr.ask(t, s.ns, "/"+trimSlash(path), append(headers, "Host: shop.example.com")...); got.Backend != want {
						t.Errorf("%q %q got %s (%d), want %s", path, headers, got.Backend, got.Status, want)
					}
				}
			}
			check(tt.path, "web-abc", tt.yes)
			check(tt.noPath, "web", tt.no)
		})
	}
}

func trimSlash(path string) string {
	if path != "" && path[0] == '/' {
		return path[1:]
	}
	return path
}

// TestRequestsOnTheirWay proves redirect, rewrite, headers, timeout, retries, circuit breaker and affinity.
func TestRequestsOnTheirWay(t *testing.T) {
	tr := startTraefik(t)
	s := newScene(t)
	web := serve(t, s.ns, "web", 1)
	// Its pod takes no connections.
	serve(t, s.ns, "dead", 0)
	endpoint(t, s.ns, "dead", hostAddress(t), unusedPort(t), 1)
	s.application("shop", "web", "dead")
	s.route("shop", `{hosts: [shop.example.com], rules: [
		{name: moved, matches: [{path: {type: Exact, value: /old}}], redirect: {scheme: https, host: new.example.com, path: /here, status: 308}},
		{name: prefix, matches: [{path: {type: Prefix, value: /api}}], rewrite: {prefix: /v1, host: inner.example.com}, backends: [{application: shop, component: web}]},
		{name: prefixes, matches: [{path: {type: Prefix, value: /a}}, {path: {type: Prefix, value: /a/b}}], rewrite: {prefix: /c}, backends: [{application: shop, component: web}]},
		{name: whole, matches: [{path: {type: Prefix, value: /whole}}], rewrite: {path: /one}, requestHeaders: {set: {X-In: "a b"}, remove: [X-Out]}, responseHeaders: {set: {X-Answer: "c"}}, backends: [{application: shop, component: web}]},
		{name: slow, matches: [{path: {type: Prefix, value: /slow}}], timeout: 300ms, backends: [{application: shop, component: web}]},
		{name: retried, matches: [{path: {type: Prefix, value: /retried}}], retries: 2, backends: [{application: shop, component: web, weight: 50}, {application: shop, component: dead, weight: 50}]},
		{name: unsure, matches: [{path: {type: Prefix, value: /unsure}}], backends: [{application: shop, component: web, weight: 50}, {application: shop, component: dead, weight: 50}]},
		{name: fuse, matches: [{path: {type: Prefix, value: /fuse}}], circuitBreaker: {errorPercent: 30, openFor: 2s}, backends: [{application: shop, component: web}]}]}`)
	s.apply(tr)
	ask := func(path string, headers ...string) answer {
		return tr.ask(t, s.ns, path, append(headers, "Host: shop.example.com")...)
	}

	if a := ask("/old"); a.Status != 308 || a.Header.Get("Location") != "https://new.example.com/here" {
		t.Errorf("redirect: %d %s", a.Status, a.Header.Get("Location"))
	}
	for path, want := range map[string]string{"/api": "/v1", "/api/x?y=1": "/v1/x?y=1", "/a/z": "/c/z", "/a/b/z": "/c/z", "/whole/x": "/one"} {
		if a := ask(path); a.Path != want {
			t.Errorf("%s came as %q (%d), want %s", path, a.Path, a.Status, want)
		}
	}
	if a := ask("/api"); a.Host != "inner.example.com" {
		t.Errorf("the host came as %s", a.Host)
	}
	if a := ask("/whole", "X-Out: 1"); a.seen.Header.Get("X-In") != "a b" || a.seen.Header.Get("X-Out") != "" || a.Header.Get("X-Answer") != "c" {
		t.Errorf("headers: %v, %v", a.seen.Header, a.Header)
	}
	if a := ask("/slow", "X-Wait: 5s"); a.Status != 504 {
		t.Errorf("a slow answer gave %d", a.Status)
	}
	if a := ask("/slow"); a.Status != 200 {
		t.Errorf("a fast answer gave %d", a.Status)
	}
	failed := 0
	for range 20 {
		if a := ask("/retried", "Method: POST"); a.Status != 200 {
			t.Errorf("a connection that failed was not tried again: %d", a.Status)
		}
		if ask("/unsure").Status != 200 {
			failed++
		}
	}
	if failed == 0 {
		t.Error("without retries nothing failed: the pod that takes no connections was not asked")
	}
	before := len(web.requests())
	if a := ask("/retried", "X-Status: 503"); a.Status != 503 || len(web.requests()) != before+1 {
		t.Errorf("an answer was tried again: %d, %d requests", a.Status, len(web.requests())-before)
	}
	t.Run("circuit breaker", func(t *testing.T) { fuse(t, ask) })
}

func fuse(t *testing.T, ask func(string, ...string) answer) {
	NewWithT(t).Eventually(func() string { return ask("/fuse", "X-Status: 500").Backend }).WithTimeout(patience).WithPolling(quick).Should(BeEmpty())
	if a := ask("/fuse"); a.Status != 503 || a.Backend != "" {
		t.Errorf("an open breaker gave %d of %s", a.Status, a.Backend)
	}
	NewWithT(t).Eventually(func() int { return ask("/fuse").Status }).WithTimeout(patience).WithPolling(100 * time.Millisecond).Should(Equal(200))
}

func unusedPort(t testing.TB) int32 {
	t.Helper()
	var port int32
	if _, err := fmt.Sscanf(freePort(t), "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	return port
}

// TestNET11_AffinityAtTheGateway proves that a client stays at its version and at its pod.
func TestNET11_AffinityAtTheGateway(t *testing.T) {
	tr := startTraefik(t)
	s := newScene(t)
	serve(t, s.ns, "web", 1)
	serve(t, s.ns, "web-abc", 1)
	s.application("shop", "web").beside("abc", v1alpha1.Traffic{Weight: 50})
	s.route("shop", `{hosts: [shop.example.com], affinity: {type: Cookie}, rules: [{name: all, backends: [{application: shop, component: web}]}]}`)
	s.apply(tr)
	pods := map[string]bool{}
	for range 20 {
		first := tr.ask(t, s.ns, "/", "Host: shop.example.com")
		set := (&http.Response{Header: first.Header}).Cookies()
		if len(set) != 2 {
			t.Fatalf("cookies %v, want one for the version and one for the pod", set)
		}
		cookies := set[0].Name + "=" + set[0].Value + "; " + set[1].Name + "=" + set[1].Value
		pods[first.Pod] = true
		for range 10 {
			if again := tr.ask(t, s.ns, "/", "Host: shop.example.com", "Cookie: "+cookies); again.Pod != first.Pod {
				t.Fatalf("a client of %s came to %s with %s", first.Pod, again.Pod, cookies)
			}
		}
	}
	if len(pods) != 2 {
		t.Errorf("all clients came to %v", pods)
	}
}
