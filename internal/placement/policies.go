package placement

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// unlimited is the number of pods that fit where nothing bounds them: more than any component can ask for, and small
// enough to be summed and multiplied without overflow.
const unlimited = 1_000_000

// nominal is what a pod without requests counts for in the policy Available, as in Kubernetes' own scheduler: without
// it every partition would look equally free.
var nominal = corev1.ResourceList{
	"requests.cpu":    resource.MustParse("100m"),
	"requests.memory": resource.MustParse("200Mi"),
}

// weighted splits total by the candidates' weights.
func weighted(component string, total int32, candidates []Candidate) []share {
	weights, current := make([]int64, len(candidates)), replicasOf(component, candidates)
	var sum int64
	for i, c := range candidates {
		weights[i] = int64(max(c.Weight, 0))
		sum += weights[i]
	}
	shares := make([]share, len(candidates))
	for i, n := range split(total, weights, current) {
		shares[i] = share{replicas: n, why: fmt.Sprintf("%d of %d by weight %d/%d", n, total, weights[i], sum)}
		if sum == 0 {
			shares[i].why = fmt.Sprintf("%d of %d, spread evenly as all weights are 0", n, total)
		}
	}
	return shares
}

// available leaves existing replicas where they are and spreads only the difference: new ones in proportion to what
// still fits, surplus ones in proportion to what is there.
func available(component string, total int32, candidates []Candidate) []share {
	current := replicasOf(component, candidates)
	missing := total - sumOf(current)
	result := slices.Clone(current)
	var overflow []int32
	switch {
	case missing < 0:
		subtract(result, split(-missing, widen(current), nil))
	case missing > 0:
		fits := make([]int64, len(candidates))
		for i := range candidates {
			fits[i] = scoreOf(&candidates[i], component)
		}
		onlyReady(fits, candidates)
		fitting := int32(min(int64(missing), sumOf(fits)))
		added := split(fitting, fits, nil)
		overflow = split(missing-fitting, readiness(candidates), nil)
		add(result, added)
		add(result, overflow)
		take(component, candidates, added)
	}
	return explained(result, current, func(i int, n int32) (string, string) {
		note := ""
		if overflow != nil && overflow[i] > 0 {
			note = fmt.Sprintf("%d more than fit", overflow[i])
		}
		return fmt.Sprintf("%d of %d by free capacity", n, total), note
	})
}

// priority leaves existing replicas where they are, fills partitions in order with new ones and takes surplus ones
// from the last.
func priority(component string, total int32, candidates []Candidate) []share {
	current := replicasOf(component, candidates)
	missing := total - sumOf(current)
	result := slices.Clone(current)
	for i := len(result) - 1; i >= 0 && missing < 0; i-- {
		n := min(result[i], -missing)
		result[i] -= n
		missing += n
	}
	added := make([]int32, len(candidates))
	anyReady := slices.ContainsFunc(candidates, func(c Candidate) bool { return c.Ready })
	first := -1
	for i := range candidates {
		if missing <= 0 || (anyReady && !candidates[i].Ready) {
			continue
		}
		if first < 0 {
			first = i
		}
		added[i] = int32(min(int64(missing), fitting(candidates[i].Room, candidates[i].Pod[component])))
		missing -= added[i]
	}
	take(component, candidates, added)
	add(result, added)
	if missing > 0 && first >= 0 {
		result[first] += missing
	}
	return explained(result, current, func(i int, n int32) (string, string) {
		note := ""
		if missing > 0 && i == first {
			note = fmt.Sprintf("%d of them fit nowhere", missing)
		}
		return fmt.Sprintf("%d of %d by priority %d", n, total, i+1), note
	})
}

func explained(result, current []int32, explain func(i int, n int32) (why, note string)) []share {
	kept := slices.Equal(result, current)
	shares := make([]share, len(result))
	for i, n := range result {
		why, note := explain(i, n)
		shares[i] = share{replicas: n, why: why, note: note, kept: kept}
	}
	return shares
}

// split divides total in proportion to weights by largest remainder; evenly if all weights are 0. Among equal
// remainders those win that have more than their floor already, so that nothing moves without need, then the earlier.
func split(total int32, weights []int64, current []int32) []int32 {
	result := make([]int32, len(weights))
	if len(weights) == 0 || total <= 0 {
		return result
	}
	sum := sumOf(weights)
	if sum == 0 {
		weights = slices.Repeat([]int64{1}, len(weights))
		sum = int64(len(weights))
	}
	remainders, order, rest := make([]int64, len(weights)), make([]int, len(weights)), total
	for i, w := range weights {
		product := int64(total) * w
		result[i], remainders[i], order[i] = int32(product/sum), product%sum, i
		rest -= result[i]
	}
	holds := func(i int) int {
		if current != nil && current[i] > result[i] {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(remainders[b], remainders[a]), cmp.Compare(holds(a), holds(b)))
	})
	for _, i := range order[:rest] {
		result[i]++
	}
	return result
}

// scoreOf is the number of pods that still fit, with nominal requests where there are none; 0 if nothing is known.
func scoreOf(c *Candidate, component string) int64 {
	if c.Room == nil {
		return 0
	}
	pod := maps.Clone(nominal)
	maps.Copy(pod, c.Pod[component])
	return fitting(c.Room, pod)
}

// fitting is the number of pods for which there is room, by the scarcest resource; unlimited if nothing bounds it.
func fitting(room, pod corev1.ResourceList) int64 {
	var n int64 = unlimited
	for name, need := range pod {
		free, bounded := room[name]
		if !bounded || need.Sign() <= 0 {
			continue
		}
		if free.Sign() <= 0 {
			return 0
		}
		if need.Value() > math.MaxInt64/1000 || free.Value() > math.MaxInt64/1000 {
			n = min(n, free.Value()/need.Value())
		} else {
			n = min(n, free.MilliValue()/need.MilliValue())
		}
	}
	return n
}

// take counts the rooms down for pods that were just placed.
func take(component string, candidates []Candidate, added []int32) {
	for i, n := range added {
		for name, need := range candidates[i].Pod[component] {
			if free, bounded := candidates[i].Room[name]; bounded {
				free = free.DeepCopy()
				need = need.DeepCopy()
				need.Mul(int64(n))
				free.Sub(need)
				candidates[i].Room[name] = free
			}
		}
	}
}

// onlyReady takes the weights of partitions that take no new pods, unless none does.
func onlyReady(weights []int64, candidates []Candidate) {
	for i, ready := range readiness(candidates) {
		weights[i] *= ready
	}
}

// readiness is 1 for partitions that take new pods; 1 for all if none does.
func readiness(candidates []Candidate) []int64 {
	weights := make([]int64, len(candidates))
	for i, c := range candidates {
		if c.Ready {
			weights[i] = 1
		}
	}
	if sumOf(weights) == 0 {
		return slices.Repeat([]int64{1}, len(candidates))
	}
	return weights
}

func replicasOf(component string, candidates []Candidate) []int32 {
	replicas := make([]int32, len(candidates))
	for i, c := range candidates {
		replicas[i] = max(c.Replicas[component], 0)
	}
	return replicas
}

func sumOf[T int32 | int64](values []T) (sum T) {
	for _, v := range values {
		sum += v
	}
	return sum
}

func add(to, values []int32) {
	for i, v := range values {
		to[i] += v
	}
}

func subtract(from, values []int32) {
	for i, v := range values {
		from[i] -= v
	}
}

func widen(values []int32) []int64 {
	wide := make([]int64, len(values))
	for i, v := range values {
		wide[i] = int64(v)
	}
	return wide
}
