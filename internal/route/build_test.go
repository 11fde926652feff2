package route

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/route/table"
)

// poolText writes who answers which requests.
func poolText(b *built) (out []string) {
	for _, p := range b.table.Pools {
		text := fmt.Sprintf("%s hosts=%v", p.Name, p.Hosts)
		for _, path := range p.Paths {
			text += fmt.Sprintf(" %s:%s", path.Type, path.Value)
		}
		out = append(out, text)
	}
	return out
}

func TestING01_WhichPoolAnswers(t *testing.T) {
	shop := []string{"shop.example.com"}
	redirect := v1alpha1.RouteRule{
		Name: "old", Matches: []v1alpha1.RouteMatch{{Path: &v1alpha1.PathMatch{Value: "/old"}}}, Redirect: &v1alpha1.RouteRedirect{Path: "/new"},
	}
	bad := v1alpha1.RouteRule{
		Name: "bad", Matches: []v1alpha1.RouteMatch{{Path: &v1alpha1.PathMatch{Type: v1alpha1.MatchRegularExpression, Value: "("}}},
		Backends: []v1alpha1.RouteBackend{{Application: "b", Component: "web"}},
	}
	cases := map[string]struct {
		reason string
		make   func(w *world)
		want   []string
	}{
		"OneBackend": {
			"everything of a host goes to one application: its paths are the gateway's business",
			func(w *world) { w.route("edu", "r", 0, shop, to("a", "/x")) },
			[]string{"edu.r.a hosts=[shop.example.com]"},
		},
		"Paths": {
			"paths of one host that go to different applications are told to the edge",
			func(w *world) { w.route("edu", "r", 0, shop, to("a", "/api"), to("b")) },
			[]string{"edu.r.a hosts=[shop.example.com] Prefix:/api", "edu.r.b hosts=[shop.example.com] Prefix:/"},
		},
		"Hosts": {
			"several hosts to different applications",
			func(w *world) {
				w.route("edu", "r1", 0, []string{"foo.example.com"}, to("a"))
				w.route("edu", "r2", 0, []string{"bar.example.com"}, to("b"))
			},
			[]string{"edu.r1.a hosts=[foo.example.com]", "edu.r2.b hosts=[bar.example.com]"},
		},
		"Hostless": {
			"a Route without hosts is for any",
			func(w *world) { w.route("edu", "r", 0, nil, to("a", "/demo")) },
			[]string{"edu.r.a hosts=[]"},
		},
		"TwoRoutes": {
			"two Routes of one host differ by path; the older keeps what both want",
			func(w *world) {
				w.route("edu", "young", 0, shop, to("b", "/", "/b"))
				w.route("edu", "old", time.Hour, shop, to("a"))
			},
			[]string{"edu.old.a hosts=[shop.example.com] Prefix:/", "edu.young.b hosts=[shop.example.com] Prefix:/b"},
		},
		"Foreign": {
			"a host that another tenant has is not served",
			func(w *world) {
				w.route("edu", "r", 0, shop, to("a"))
				w.route("bank", "r", 0, []string{"shop.example.com"}, to("a"))
				w.hosts = w.hosts[:1]
			},
			[]string{"edu.r.a hosts=[shop.example.com]"},
		},
		"Redirects": {
			"paths of redirects lead to the gateways of the first application",
			func(w *world) { w.route("edu", "r", 0, shop, redirect, to("a", "/a"), to("b", "/b")) },
			[]string{"edu.r.a hosts=[shop.example.com] Prefix:/a Prefix:/old", "edu.r.b hosts=[shop.example.com] Prefix:/b"},
		},
		"BadExpression": {
			"an expression that does not compile takes nothing else away",
			func(w *world) { w.route("edu", "r", 0, shop, to("a", "/a"), bad) },
			[]string{"edu.r.a hosts=[shop.example.com] Prefix:/a"},
		},
		"Shielded": {
			"what no path of an exact host takes does not go to the wildcard of another tenant",
			func(w *world) {
				w.route("edu", "r", time.Hour, shop, to("a", "/a"), to("b", "/b"))
				w.route("bank", "all", 0, []string{"*.example.com"}, to("c"))
			},
			[]string{
				"bank.all.c hosts=[*.example.com]", "edu.r.a hosts=[shop.example.com] Prefix:/a",
				"edu.r.a.rest hosts=[shop.example.com]", "edu.r.b hosts=[shop.example.com] Prefix:/b",
			},
		},
		"OwnWildcard": {
			"to the tenant's own wildcard it goes",
			func(w *world) {
				w.route("edu", "r", time.Hour, shop, to("a", "/a"), to("b", "/b"))
				w.route("edu", "all", 0, []string{"*.example.com"}, to("c"))
			},
			[]string{"edu.all.c hosts=[*.example.com]", "edu.r.a hosts=[shop.example.com] Prefix:/a", "edu.r.b hosts=[shop.example.com] Prefix:/b"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			tc.make(w)
			b, err := build(&w.facts)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, poolText(b)); diff != "" {
				t.Errorf("%s: %s", tc.reason, diff)
			}
		})
	}
}

func TestConflictsAreTold(t *testing.T) {
	w := newWorld()
	w.route("edu", "young", 0, []string{"shop.example.com"}, to("b"))
	w.route("edu", "old", time.Hour, []string{"shop.example.com"}, to("a"))
	b, err := build(&w.facts)
	if err != nil {
		t.Fatal(err)
	}
	want := []problem{{v1alpha1.ReasonConflict, "requests for shop.example.com/ to application b are taken by an earlier route old to application a"}}
	if diff := cmp.Diff(want, b.routes[client.ObjectKey{Namespace: "edu", Name: "young"}].problems, cmp.AllowUnexported(problem{})); diff != "" {
		t.Error(diff)
	}
	if got := b.routes[client.ObjectKey{Namespace: "edu", Name: "old"}].problems; got != nil {
		t.Errorf("the older Route has problems: %v", got)
	}
}

func TestWeights(t *testing.T) {
	given := func(n int32) *int32 { return &n }
	ready := func(n int) share { return share{ready: n, wanted: n} }
	cases := map[string]struct {
		reason string
		shares []share
		want   []int
	}{
		"ByPods":      {"in proportion to ready pods", []share{ready(7), ready(3)}, []int{7, 3}},
		"Given":       {"as the Route says", []share{{weight: given(70), ready: 1}, {weight: given(30), ready: 9}}, []int{70, 30}},
		"Mixed":       {"a pod of a partition without weight gets as much as one with", []share{{weight: given(70), ready: 7}, ready(3)}, []int{70, 30}},
		"NothingHere": {"one where nothing is ready gets nothing while another is", []share{ready(4), {wanted: 2}}, []int{4, 0}},
		"GivenInVain": {"also if the Route gives it a weight", []share{{weight: given(50), ready: 4}, {weight: given(50), wanted: 2}}, []int{50, 0}},
		"GivenToAll":  {"the Route's weights stand where none is ready anywhere", []share{{weight: given(70), wanted: 4}, {weight: given(30), wanted: 2}}, []int{70, 30}},
		"NoneReady":   {"if none is ready anywhere those that should be count", []share{{wanted: 2}, {wanted: 1}}, []int{2, 1}},
		"OpenOnly":    {"pods of closed partitions keep none alive", []share{{ready: 4, wanted: 4, closed: true}, {wanted: 2}}, []int{4, 2}},
		"Zero":        {"a weight of 0 sends nothing", []share{{weight: given(0), ready: 5}, ready(2)}, []int{0, 2}},
		"Large":       {"weights stay in their bounds, and none becomes 0", []share{ready(50_000), ready(1)}, []int{1000, 1}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, weights(tc.shares)); diff != "" {
				t.Errorf("%s: %s", tc.reason, diff)
			}
		})
	}
}

func TestWhoIsClosed(t *testing.T) {
	until := &v1alpha1.Traffic{Closed: true, UntilHealthy: true}
	healthy := func(d *v1alpha1.Delivery, generation int64) {
		d.Status.ObservedGeneration = generation
		d.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionHealthy, Status: metav1.ConditionTrue, ObservedGeneration: generation}}
	}
	cases := map[string]struct {
		reason string
		change func(w *world, d *v1alpha1.Delivery)
		closed bool
	}{
		"Open":    {"nothing is said", func(*world, *v1alpha1.Delivery) {}, false},
		"Closed":  {"a rollout closes it", func(_ *world, d *v1alpha1.Delivery) { d.Spec.Traffic = &v1alpha1.Traffic{Closed: true} }, true},
		"Stopped": {"a stopped one gets nothing", func(_ *world, d *v1alpha1.Delivery) { d.Spec.Stopped = true }, true},
		"ByPerson": {"a person closes it in the Route", func(w *world, _ *v1alpha1.Delivery) {
			w.routes[0].Spec.Partitions = []v1alpha1.RoutePartition{{Name: "bj", Closed: true}}
		}, true},
		"OtherPartition": {"another is closed in the Route", func(w *world, _ *v1alpha1.Delivery) {
			w.routes[0].Spec.Partitions = []v1alpha1.RoutePartition{{Name: "sh", Closed: true}}
		}, false},
		"UntilHealthy": {"it is not healthy yet", func(_ *world, d *v1alpha1.Delivery) { d.Spec.Traffic = until }, true},
		"UntilNewest":  {"it is healthy at an older spec", func(_ *world, d *v1alpha1.Delivery) { d.Spec.Traffic = until; d.Generation = 2; healthy(d, 1) }, true},
		"HealthyAgain": {"it is healthy at the newest", func(_ *world, d *v1alpha1.Delivery) { d.Spec.Traffic = until; healthy(d, 1) }, false},
		"Silent": {"its cluster does not answer, so what is known is old", func(w *world, d *v1alpha1.Delivery) {
			d.Spec.Traffic = until
			healthy(d, 1)
			w.clusters[0].Status.Conditions = nil
		}, true},
		"Going": {"it is being taken away", func(_ *world, d *v1alpha1.Delivery) { now := metav1.Now(); d.DeletionTimestamp = &now }, true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.cluster("beijing", "192.0.2.2:30080", "192.0.2.1:30080")
			w.partition("edu", "bj", "beijing")
			w.route("edu", "r", 0, []string{"a.example.com"}, to("a"))
			tc.change(w, w.delivery("edu", "a", "bj", "beijing", 2))
			b, err := build(&w.facts)
			if err != nil {
				t.Fatal(err)
			}
			want := []table.Target{{
				Name: "edu-bj.beijing", Label: "edu/bj", Weight: 2, Closed: tc.closed, Servers: []string{"192.0.2.1:30080", "192.0.2.2:30080"},
			}}
			if diff := cmp.Diff(want, b.table.Pools[0].Targets); diff != "" {
				t.Errorf("%s: %s", tc.reason, diff)
			}
		})
	}
}

func TestNetworksOfRulesAndRollouts(t *testing.T) {
	w := newWorld()
	w.cluster("beijing", "192.0.2.1:30080")
	w.partition("edu", "bj", "beijing")
	rule := to("a")
	rule.Matches = []v1alpha1.RouteMatch{{Clients: []string{"10.2.0.0/16", "10.1.0.0/16"}}}
	w.route("edu", "r", 0, []string{"a.example.com"}, rule)
	d := w.delivery("edu", "a", "bj", "beijing", 1)
	d.Spec.Traffic = &v1alpha1.Traffic{Matches: []v1alpha1.RouteMatch{{Clients: []string{"192.168.0.0/16"}}, {Clients: []string{"10.1.0.0/16", "10.2.0.0/16"}}}}
	b, err := build(&w.facts)
	if err != nil {
		t.Fatal(err)
	}
	want := []table.Network{
		{Name: table.NetworkName([]string{"10.1.0.0/16", "10.2.0.0/16"}), CIDRs: []string{"10.1.0.0/16", "10.2.0.0/16"}},
		{Name: table.NetworkName([]string{"192.168.0.0/16"}), CIDRs: []string{"192.168.0.0/16"}},
	}
	slices.SortFunc(want, func(x, y table.Network) int { return cmpText(x.Name, y.Name) })
	if diff := cmp.Diff(want, b.table.Pools[0].Networks); diff != "" {
		t.Errorf("the same ranges in another order are one network: %s", diff)
	}
}

func cmpText(x, y string) int {
	if x < y {
		return -1
	}
	return 1
}

// manyRoutes makes applications in three partitions of two clusters, each with a Route.
func manyRoutes(applications int) *world {
	w := newWorld()
	w.cluster("beijing", "192.0.2.1:30080", "192.0.2.2:30080")
	w.cluster("shanghai", "192.0.2.3:30080")
	partitions := map[string]string{"bj1": "beijing", "bj2": "beijing", "sh": "shanghai"}
	for _, name := range []string{"bj1", "bj2", "sh"} {
		w.partition("edu", name, partitions[name])
	}
	for i := range applications {
		app := fmt.Sprintf("app%03d", i)
		for _, name := range []string{"bj1", "bj2", "sh"} {
			w.delivery("edu", app, name, partitions[name], int32(i%5+1))
		}
		rules := []v1alpha1.RouteRule{to(app)}
		if i%3 == 0 {
			rules = []v1alpha1.RouteRule{to(app, "/a", "/b"), to(fmt.Sprintf("app%03d", (i+1)%applications), "/c")}
		}
		w.route("edu", "route"+app, time.Duration(i%7)*time.Hour, []string{app + ".example.com", "shared.example.com"}, rules...)
	}
	w.route("edu", "any", 0, nil, to("app000"))
	return w
}

func TestTheSameTableFromObjectsInAnyOrder(t *testing.T) {
	w := manyRoutes(40)
	first, err := build(&w.facts)
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	for range 20 {
		shuffle(random, w.routes)
		shuffle(random, w.hosts)
		shuffle(random, w.deliveries)
		shuffle(random, w.partitions)
		shuffle(random, w.clusters)
		again, err := build(&w.facts)
		if err != nil {
			t.Fatal(err)
		}
		if again.generation != first.generation {
			t.Fatalf("seed %d: another table of the same objects: %s", seed, cmp.Diff(first.table, again.table))
		}
		if diff := cmp.Diff(first.routes, again.routes, cmp.AllowUnexported(outcome{}, problem{})); diff != "" {
			t.Fatalf("seed %d: other outcomes of the same objects: %s", seed, diff)
		}
	}
}

func shuffle[T any](random *rand.Rand, list []T) {
	random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}

func BenchmarkBuild(b *testing.B) {
	w := manyRoutes(200)
	for b.Loop() {
		if _, err := build(&w.facts); err != nil {
			b.Fatal(err)
		}
	}
}
