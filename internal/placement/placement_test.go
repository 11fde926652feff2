package placement

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"yunfan.io/yunfan/api/v1alpha1"
)

const web = "score-record"

// spec of one component that is spread by policy.
func spec(policy v1alpha1.PlacementPolicy, replicas int32) *v1alpha1.ApplicationSpec {
	return &v1alpha1.ApplicationSpec{
		Components: []v1alpha1.Component{{Name: web, Workload: v1alpha1.WorkloadDeployment, Replicas: &replicas}},
		Placement:  v1alpha1.Placement{Policy: policy},
	}
}

func list(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

// candidate with pods of 100m each, room for cpu, and n replicas.
func candidate(name, cpu string, n int32) Candidate {
	c := Candidate{Partition: name, Ready: true, Weight: 1, Replicas: map[string]int32{web: n},
		Pod: map[string]corev1.ResourceList{web: list("requests.cpu", "100m", "pods", "1")}}
	if cpu != "" {
		c.Room = list("requests.cpu", cpu)
	}
	return c
}

func weigh(c Candidate, weight int32) Candidate { c.Weight = weight; return c }

func notReady(c Candidate) Candidate { c.Ready = false; return c }

// placed is what a placement of score-record comes to, by partition.
type placed struct {
	replicas    []int32
	explanation []string
}

var placements = map[string]struct {
	reason     string
	policy     v1alpha1.PlacementPolicy
	replicas   int32
	candidates []Candidate
	want       placed
}{
	"DEP-03 ratio 7:3": {
		reason: "ten replicas at 7:3 are 7 and 3, and say so",
		policy: v1alpha1.PlacementWeighted, replicas: 10,
		candidates: []Candidate{weigh(candidate("prod-bj", "", 0), 7), weigh(candidate("prod-sh", "", 0), 3)},
		want: placed{[]int32{7, 3}, []string{
			"score-record 7 of 10 by weight 7/10", "score-record 3 of 10 by weight 3/10"}},
	},
	"largest remainder": {
		reason: "4 at 1:1:1 leave one over, which the first gets",
		policy: v1alpha1.PlacementWeighted, replicas: 4,
		candidates: []Candidate{candidate("a", "", 0), candidate("b", "", 0), candidate("c", "", 0)},
		want: placed{[]int32{2, 1, 1}, []string{
			"score-record 2 of 4 by weight 1/3", "score-record 1 of 4 by weight 1/3", "score-record 1 of 4 by weight 1/3"}},
	},
	"largest remainder moves nothing": {
		reason: "the one left over stays where it is",
		policy: v1alpha1.PlacementWeighted, replicas: 4,
		candidates: []Candidate{candidate("a", "", 1), candidate("b", "", 1), candidate("c", "", 2)},
		want: placed{[]int32{1, 1, 2}, []string{
			"score-record 1 of 4 by weight 1/3", "score-record 1 of 4 by weight 1/3", "score-record 2 of 4 by weight 1/3"}},
	},
	"weight 0": {
		reason: "a weight of 0 takes a partition out of the spreading but keeps the application's services there",
		policy: v1alpha1.PlacementWeighted, replicas: 3,
		candidates: []Candidate{weigh(candidate("a", "", 0), 0), weigh(candidate("b", "", 0), 2)},
		want:       placed{[]int32{0, 3}, []string{"score-record 0 of 3 by weight 0/2", "score-record 3 of 3 by weight 2/2"}},
	},
	"all weights 0": {
		reason: "nobody is preferred",
		policy: v1alpha1.PlacementWeighted, replicas: 3,
		candidates: []Candidate{weigh(candidate("a", "", 0), 0), weigh(candidate("b", "", 0), 0)},
		want: placed{[]int32{2, 1}, []string{
			"score-record 2 of 3, spread evenly as all weights are 0", "score-record 1 of 3, spread evenly as all weights are 0"}},
	},
	"DEP-01 duplicated": {
		reason: "each partition gets all",
		policy: v1alpha1.PlacementDuplicated, replicas: 2,
		candidates: []Candidate{candidate("a", "", 0), candidate("b", "", 5)},
		want:       placed{[]int32{2, 2}, []string{"score-record 2 in each partition", "score-record 2 in each partition"}},
	},
	"DEP-03 by utilisation": {
		reason: "the idle cluster gets more",
		policy: v1alpha1.PlacementAvailable, replicas: 8,
		candidates: []Candidate{candidate("busy", "1", 0), candidate("idle", "3", 0)},
		want: placed{[]int32{2, 6}, []string{
			"score-record 2 of 8 by free capacity", "score-record 6 of 8 by free capacity"}},
	},
	"available is sticky": {
		reason: "what runs stays although the other partition is emptier; only the two new ones are spread",
		policy: v1alpha1.PlacementAvailable, replicas: 10,
		candidates: []Candidate{candidate("a", "0", 8), candidate("b", "10", 0)},
		want: placed{[]int32{8, 2}, []string{
			"score-record 8 of 10 by free capacity", "score-record 2 of 10 by free capacity"}},
	},
	"available gives up in proportion": {
		reason: "no partition is emptied while others keep theirs",
		policy: v1alpha1.PlacementAvailable, replicas: 5,
		candidates: []Candidate{candidate("a", "0", 8), candidate("b", "10", 2)},
		want: placed{[]int32{4, 1}, []string{
			"score-record 4 of 5 by free capacity", "score-record 1 of 5 by free capacity"}},
	},
	"available beyond capacity": {
		reason: "the two that fit nowhere are spread evenly, and it is said",
		policy: v1alpha1.PlacementAvailable, replicas: 6,
		candidates: []Candidate{candidate("a", "300m", 0), candidate("b", "100m", 0)},
		want: placed{[]int32{4, 2}, []string{
			"score-record 4 of 6 by free capacity, 1 more than fit", "score-record 2 of 6 by free capacity, 1 more than fit"}},
	},
	"available without a known room": {
		reason: "nothing is known yet: evenly",
		policy: v1alpha1.PlacementAvailable, replicas: 4,
		candidates: []Candidate{notReady(candidate("a", "", 0)), notReady(candidate("b", "", 0))},
		want: placed{[]int32{2, 2}, []string{
			"score-record 2 of 4 by free capacity, 2 more than fit", "score-record 2 of 4 by free capacity, 2 more than fit"}},
	},
	"available avoids what is not ready": {
		reason: "a partition that does not answer gets no new pods and keeps its own",
		policy: v1alpha1.PlacementAvailable, replicas: 4,
		candidates: []Candidate{notReady(candidate("a", "10", 1)), candidate("b", "1", 0)},
		want: placed{[]int32{1, 3}, []string{
			"score-record 1 of 4 by free capacity", "score-record 3 of 4 by free capacity"}},
	},
	"priority fills in order": {
		reason: "the first holds 3, the rest goes to the second",
		policy: v1alpha1.PlacementPriority, replicas: 5,
		candidates: []Candidate{candidate("a", "350m", 0), candidate("b", "1", 0)},
		want: placed{[]int32{3, 2}, []string{
			"score-record 3 of 5 by priority 1", "score-record 2 of 5 by priority 2"}},
	},
	"priority beyond capacity": {
		reason: "what fits nowhere goes to the first, and it is said",
		policy: v1alpha1.PlacementPriority, replicas: 5,
		candidates: []Candidate{candidate("a", "200m", 0), candidate("b", "100m", 0)},
		want: placed{[]int32{4, 1}, []string{
			"score-record 4 of 5 by priority 1, 2 of them fit nowhere", "score-record 1 of 5 by priority 2"}},
	},
	"priority gives up from the last": {
		reason: "the preferred partition keeps its pods",
		policy: v1alpha1.PlacementPriority, replicas: 4,
		candidates: []Candidate{candidate("a", "1", 3), candidate("b", "1", 2)},
		want: placed{[]int32{3, 1}, []string{
			"score-record 3 of 4 by priority 1", "score-record 1 of 4 by priority 2"}},
	},
	"priority moves nothing back": {
		reason: "room that appears later does not restart pods elsewhere",
		policy: v1alpha1.PlacementPriority, replicas: 5,
		candidates: []Candidate{candidate("a", "10", 3), candidate("b", "1", 2)},
		want: placed{[]int32{3, 2}, []string{
			"score-record 3 of 5 by priority 1", "score-record 2 of 5 by priority 2"}},
	},
	"priority skips what is not ready": {
		reason: "new pods go where they can start",
		policy: v1alpha1.PlacementPriority, replicas: 2,
		candidates: []Candidate{notReady(candidate("a", "10", 0)), candidate("b", "1", 0)},
		want: placed{[]int32{0, 2}, []string{
			"score-record 0 of 2 by priority 1", "score-record 2 of 2 by priority 2"}},
	},
	"no partitions": {
		reason: "nothing to spread over is no reason to fail here",
		policy: v1alpha1.PlacementPriority, replicas: 2,
	},
}

func TestPlace(t *testing.T) {
	for name, tc := range placements {
		t.Run(name, func(t *testing.T) {
			var got placed
			for _, a := range Place(spec(tc.policy, tc.replicas), tc.candidates) {
				got.replicas = append(got.replicas, a.Replicas[web])
				got.explanation = append(got.explanation, a.Explanation...)
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(placed{})); diff != "" {
				t.Errorf("%s\n%s", tc.reason, diff)
			}
		})
	}
}

func TestPlaceKeepsTheNoteOfWhatIsKept(t *testing.T) {
	note := "score-record 4 of 4 by priority 1, 2 of them fit nowhere"
	c := candidate("a", "0", 4)
	c.Explanation = []string{"other 1 in each partition", note}
	got := Place(spec(v1alpha1.PlacementPriority, 4), []Candidate{c})
	if diff := cmp.Diff([]string{note}, got[0].Explanation); diff != "" {
		t.Errorf("the second look, with all in place, must not forget what the first said\n%s", diff)
	}
	c.Replicas[web] = 3
	c.Room = list("requests.cpu", "1")
	got = Place(spec(v1alpha1.PlacementPriority, 4), []Candidate{c})
	if diff := cmp.Diff([]string{"score-record 4 of 4 by priority 1"}, got[0].Explanation); diff != "" {
		t.Errorf("a new placement is explained anew\n%s", diff)
	}
}

func TestPlaceComponentsShareTheRoom(t *testing.T) {
	n := int32(2)
	s := &v1alpha1.ApplicationSpec{Placement: v1alpha1.Placement{Policy: v1alpha1.PlacementPriority}, Components: []v1alpha1.Component{
		{Name: "one", Replicas: &n}, {Name: "two", Replicas: &n},
		{Name: "db", Workload: v1alpha1.WorkloadStatefulSet},
		{Name: "agent", Workload: v1alpha1.WorkloadDaemonSet},
		{Name: "ldap", Workload: v1alpha1.WorkloadExternal},
	}}
	pod := map[string]corev1.ResourceList{"one": list("requests.cpu", "1"), "two": list("requests.cpu", "1")}
	candidates := []Candidate{
		{Partition: "a", Cluster: "beijing", Ready: true, Room: list("requests.cpu", "3"), Pod: pod},
		{Partition: "b", Cluster: "shanghai", Ready: true, Room: list("requests.cpu", "8"), Pod: pod},
	}
	want := []Assignment{
		{Partition: "a", Cluster: "beijing", Replicas: map[string]int32{"one": 2, "two": 1, "db": 1}, Explanation: []string{
			"one 2 of 2 by priority 1", "two 1 of 2 by priority 1", "db 1 in each partition", "agent on every node of the partition", "ldap is outside Kubernetes"}},
		{Partition: "b", Cluster: "shanghai", Replicas: map[string]int32{"one": 0, "two": 1, "db": 1}, Explanation: []string{
			"one 0 of 2 by priority 2", "two 1 of 2 by priority 2", "db 1 in each partition", "agent on every node of the partition", "ldap is outside Kubernetes"}},
	}
	if diff := cmp.Diff(want, Place(s, candidates)); diff != "" {
		t.Errorf("the second component finds only what the first left\n%s", diff)
	}
	if diff := cmp.Diff(list("requests.cpu", "3"), candidates[0].Room); diff != "" {
		t.Errorf("the input is not changed\n%s", diff)
	}
}

// randomCandidates gives 1 to 20 partitions in any state.
func randomCandidates(r *rand.Rand) []Candidate {
	candidates := make([]Candidate, 1+r.IntN(20))
	for i := range candidates {
		c := candidate(fmt.Sprintf("p%02d", i), "", r.Int32N(12))
		if r.IntN(5) > 0 {
			c.Room = list("requests.cpu", fmt.Sprintf("%dm", r.IntN(3000)-200), "pods", fmt.Sprint(r.IntN(40)))
		}
		c.Ready, c.Weight = r.IntN(4) > 0, r.Int32N(10)
		candidates[i] = c
	}
	return candidates
}

func TestPlaceProperties(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		candidates, total := randomCandidates(r), r.Int32N(60)
		for _, policy := range []v1alpha1.PlacementPolicy{v1alpha1.PlacementWeighted, v1alpha1.PlacementAvailable, v1alpha1.PlacementPriority} {
			checkProperties(t, fmt.Sprintf("seed %d %s", seed, policy), policy, total, candidates)
		}
		if t.Failed() {
			return
		}
	}
}

func checkProperties(t *testing.T, name string, policy v1alpha1.PlacementPolicy, total int32, candidates []Candidate) {
	t.Helper()
	first := Place(spec(policy, total), candidates)
	if diff := cmp.Diff(first, Place(spec(policy, total), candidates)); diff != "" {
		t.Errorf("%s: the same input gives another output\n%s", name, diff)
	}
	var sum, before, moved int32
	for i, a := range first {
		n, had := a.Replicas[web], candidates[i].Replicas[web]
		if n < 0 {
			t.Errorf("%s: %s gets %d", name, a.Partition, n)
		}
		sum, before = sum+n, before+had
		moved += max(n-had, had-n)
	}
	if sum != total {
		t.Errorf("%s: placed %d of %d", name, sum, total)
	}
	if difference := max(total-before, before-total); policy != v1alpha1.PlacementWeighted && moved != difference {
		t.Errorf("%s: %d replicas were added or taken where %d would do", name, moved, difference)
	}
	settled := make([]Candidate, len(candidates))
	for i, c := range candidates {
		c.Replicas, c.Explanation = first[i].Replicas, first[i].Explanation
		settled[i] = c
	}
	if diff := cmp.Diff(first, Place(spec(policy, total), settled)); diff != "" {
		t.Errorf("%s: placing what is placed changes it\n%s", name, diff)
	}
}

// TestWeightedMovesLeast tries every way to hand out what is left over and finds none that moves less.
func TestWeightedMovesLeast(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 2))
		n, total := 1+r.IntN(6), r.Int32N(20)
		weights, current := make([]int64, n), make([]int32, n)
		for i := range weights {
			weights[i], current[i] = int64(1+r.IntN(2)), r.Int32N(8)
		}
		got := split(total, weights, current)
		plain := split(total, weights, nil)
		if distance(got, current) > distance(plain, current) {
			t.Fatalf("seed %d: %v is farther from %v than %v", seed, got, current, plain)
		}
		for i := range got {
			for j := range got {
				swapped := append([]int32(nil), got...)
				swapped[i]--
				swapped[j]++
				legal := weights[i] == weights[j] && got[i] > got[j]
				if legal && distance(swapped, current) < distance(got, current) {
					t.Fatalf("seed %d: weights %v current %v: %v moves more than %v", seed, weights, current, got, swapped)
				}
			}
		}
	}
}

func distance(a, b []int32) (d int32) {
	for i := range a {
		d += max(a[i]-b[i], b[i]-a[i])
	}
	return d
}

func TestDEP03_TwentyPartitions(t *testing.T) {
	candidates := make([]Candidate, 20)
	for i := range candidates {
		candidates[i] = weigh(candidate(fmt.Sprintf("p%02d", i), "1", 0), int32(i%3))
	}
	for policy, want := range map[v1alpha1.PlacementPolicy]int32{
		v1alpha1.PlacementDuplicated: 2000, v1alpha1.PlacementWeighted: 100, v1alpha1.PlacementAvailable: 100, v1alpha1.PlacementPriority: 100,
	} {
		var sum int32
		for _, a := range Place(spec(policy, 100), candidates) {
			sum += a.Replicas[web]
		}
		if sum != want {
			t.Errorf("%s places %d replicas, want %d", policy, sum, want)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add(int32(10), int64(7), int64(3), int64(0), int32(0), int32(10), int32(0))
	f.Fuzz(func(t *testing.T, total int32, w1, w2, w3 int64, c1, c2, c3 int32) {
		if total < 0 || total > 10000 || min(w1, w2, w3) < 0 || max(w1, w2, w3) > unlimited {
			t.Skip("outside of what the schema lets through")
		}
		var sum int32
		for _, n := range split(total, []int64{w1, w2, w3}, []int32{c1, c2, c3}) {
			if n < 0 {
				t.Errorf("negative: %d", n)
			}
			sum += n
		}
		if sum != total {
			t.Errorf("placed %d of %d", sum, total)
		}
	})
}

func TestFitting(t *testing.T) {
	cases := map[string]struct {
		reason    string
		room, pod corev1.ResourceList
		want      int64
	}{
		"scarcest":     {"memory bounds here", list("requests.cpu", "4", "requests.memory", "1Gi"), list("requests.cpu", "100m", "requests.memory", "300Mi"), 3},
		"exact":        {"no floating point: 0.3 holds three times 0.1", list("requests.cpu", "300m"), list("requests.cpu", "100m"), 3},
		"used up":      {"less than nothing is nothing", list("requests.cpu", "-1"), list("requests.cpu", "100m"), 0},
		"not bounded":  {"a resource without a bound does not count", list("pods", "5"), list("requests.cpu", "100m"), unlimited},
		"asks nothing": {"a pod that asks for nothing fits", list("requests.cpu", "0"), list("requests.cpu", "0"), unlimited},
		"large":        {"petabytes do not overflow", list("requests.memory", "16Pi"), list("requests.memory", "8Pi"), 2},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := fitting(tc.room, tc.pod); got != tc.want {
				t.Errorf("%s: got %d, want %d", tc.reason, got, tc.want)
			}
		})
	}
}
