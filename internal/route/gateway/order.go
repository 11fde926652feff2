package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Traefik sorts all matches of all HTTPRoutes by one number, which it makes from the parts of a match: an exact path
// counts 100000, a prefix or expression 10000 and 100 for each letter, a method 1000, a header 100, a query parameter 10,
// the longest host one for each letter, and the position in the HTTPRoute a little. So a short prefix with many conditions
// is looked at before a longer prefix, and a path of a Route without hosts before that of a Route with one: neither is
// what Routes promise, nor the standard. Where two matches that can meet would come out in the wrong order, the one that
// must be first is lifted: its path is written as an expression that is long enough. Expressions themselves are taken by
// their length, as prefixes are.
const (
	weightExact, weightPath, weightLetter       = 100000, 10000, 100
	weightMethod, weightHeader, weightParameter = 1000, 100, 10
	// maxPathLength is what an HTTPRoute allows.
	maxPathLength = 1024
	// passes bounds how often all matches are looked at: each lifts some above others.
	passes = 8
)

// entry is one match with its place in the order.
type entry struct {
	// base is what the rule of the Route says, and match that together with what leads to a track.
	base, match match
	// special entries are those of the candidate: they are looked at before the others of the same match.
	special bool
	hosts   []string
	// rule is the position of the rule in the Route, and position what that in the HTTPRoute adds to the number.
	rule, position int
	// lifted is the length of the path's expression, if it had to be lifted.
	lifted int
	// order is what wanted compares, the most important first, and sum what Traefik sorts by: both are asked for often.
	order [5]int
	sum   int
}

// count fills in what is compared, once everything else is known.
func (e *entry) count() {
	class, length := e.base.path.rank()
	e.order = [5]int{class, length, e.base.conditions(), -e.rule, 0}
	if e.special {
		e.order[4] = 1
	}
	e.sum = e.number()
}

// rank is larger for paths that are looked at first.
func (p path) rank() (class, length int) {
	switch {
	case p.kind == v1alpha1.MatchExact:
		return 3, 0
	case p == anyPath:
		return 1, 0
	default:
		return 2, len(p.value)
	}
}

// conditions counts what is compared besides the path.
func (m *match) conditions() int {
	n := len(m.headers) + len(m.query)
	if m.method != "" {
		n++
	}
	return n
}

// wanted compares two entries by the order that Routes promise: a positive answer says that a is looked at first, and 0
// that it does not matter.
func wanted(a, b *entry) int {
	for i := range a.order {
		if a.order[i] != b.order[i] {
			return cmp.Compare(a.order[i], b.order[i])
		}
	}
	return 0
}

// hostRank is larger for hosts that are looked at first: names, then longer wildcards, then any.
func hostRank(host string) int {
	const names = 1000
	if rest, wildcard := strings.CutPrefix(host, "*."); wildcard {
		return len(rest)
	} else if host != "" {
		return names
	}
	return 0
}

// meetHosts says whether requests for one host can be for both lists, and whose hosts are more exact for them; 0 where
// they are alike, or some are and others not.
func meetHosts(a, b []string) (meet bool, first int) {
	mixed := false
	for _, x := range orAny(a) {
		for _, y := range orAny(b) {
			if !meetHost(x, y) {
				continue
			}
			rank := cmp.Compare(hostRank(x), hostRank(y))
			mixed = mixed || meet && rank != first
			meet, first = true, rank
		}
	}
	if mixed {
		first = 0
	}
	return meet, first
}

func orAny(hosts []string) []string {
	if len(hosts) == 0 {
		return []string{""}
	}
	return hosts
}

func meetHost(x, y string) bool {
	if x == y || x == "" || y == "" {
		return true
	}
	in := func(host, wildcard string) bool {
		rest, ok := strings.CutPrefix(wildcard, "*")
		return ok && strings.HasSuffix(host, rest)
	}
	return in(x, y) || in(y, x)
}

// meet says whether a request can be both.
func meet(a, b *entry) bool {
	if a.match.method != "" && b.match.method != "" && a.match.method != b.match.method {
		return false
	}
	_, err := a.match.path.and(b.match.path)
	return !errors.Is(err, errNever)
}

// number is what Traefik sorts the entry by.
func (e *entry) number() int {
	n := e.position + weightHeader*len(e.match.headers) + weightParameter*len(e.match.query)
	n += longest(e.hosts)
	if e.match.method != "" {
		n += weightMethod
	}
	if e.lifted > 0 {
		return n + weightPath + weightLetter*e.lifted
	}
	written := e.match.path.gateway()
	switch {
	case *written.Type == gatewayv1.PathMatchExact:
		return n + weightExact
	case *written.Type == gatewayv1.PathMatchPathPrefix && *written.Value == "/":
		return n + 1
	default:
		return n + weightPath + weightLetter*len(*written.Value)
	}
}

func longest(hosts []string) int {
	n := 0
	for _, host := range hosts {
		n = max(n, len(host))
	}
	return n
}

// lift makes the entry's number larger than that of another.
func (e *entry) lift(above int) error {
	before := e.lifted
	e.lifted = max(before, len(e.match.path.expression())+len(padding("")))
	if missing := above - e.number(); missing >= 0 {
		e.lifted += missing/weightLetter + 1
	}
	if e.lifted > maxPathLength {
		e.lifted = before
		return fmt.Errorf("path %s cannot be put before all others that match the same requests: use fewer conditions, or shorter expressions", e.match.path.value)
	}
	e.sum = e.number()
	return nil
}

// padding is an expression that matches nothing at all, everywhere.
func padding(bars string) string { return "(?:" + bars + ")" }

// written is the entry's path as an HTTPRoute has it.
func (e *entry) written() *gatewayv1.HTTPPathMatch {
	if e.lifted == 0 {
		return e.match.path.gateway()
	}
	kind, value := gatewayv1.PathMatchRegularExpression, e.match.path.expression()
	value += padding(strings.Repeat("|", e.lifted-len(value)-len(padding(""))))
	return &gatewayv1.HTTPPathMatch{Type: &kind, Value: &value}
}

// arrange lifts entries until those that can meet are in the order that is wanted. What cannot be arranged is told by the
// entry.
func arrange(routes [][]*entry) map[*entry]error {
	failures := map[*entry]error{}
	for range passes {
		lifted := false
		for i := range routes {
			for j := i; j < len(routes); j++ {
				lifted = arrangePair(routes[i], routes[j], i == j, failures) || lifted
			}
		}
		if !lifted {
			break
		}
	}
	return failures
}

// arrangePair lifts entries of two Routes, all of which have the same hosts, above each other.
func arrangePair(a, b []*entry, same bool, failures map[*entry]error) (lifted bool) {
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	met, first := meetHosts(a[0].hosts, b[0].hosts)
	if !met {
		return false
	}
	// The lowest first, so that most are lifted once.
	a = slices.SortedStableFunc(slices.Values(a), wanted)
	for _, x := range a {
		for _, y := range b {
			order := first
			if order == 0 {
				order = wanted(x, y)
			}
			if order > 0 {
				lifted = liftAbove(x, y, failures) || lifted
			} else if order < 0 && !same {
				lifted = liftAbove(y, x, failures) || lifted
			}
		}
	}
	return lifted
}

func liftAbove(high, low *entry, failures map[*entry]error) bool {
	if high.sum > low.sum || !meet(high, low) || failures[high] != nil {
		return false
	}
	if err := high.lift(low.sum); err != nil {
		failures[high] = err
		return false
	}
	return true
}
