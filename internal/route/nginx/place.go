package nginx

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"yunfan.io/yunfan/internal/route/table"
)

// place is one location of a host.
type place struct {
	location string
	rank     int
	pool     *table.Pool
}

// The ranks of locations: of two with the same words the first counts.
const (
	rankExact = iota
	rankPrefix
	rankRegex
	rankAny
)

// placesOf gives the locations of a pool. A prefix goes by whole segments, so it is two: itself, and what is below.
// Nginx takes the longest of the prefixes, and no expression after one of these; an expression only before "any path".
func placesOf(p *table.Pool) []place {
	if len(p.Paths) == 0 {
		return []place{{location: "/", rank: rankAny, pool: p}}
	}
	var all []place
	for _, path := range p.Paths {
		switch path.Type {
		case table.PathExact:
			all = append(all, place{location: "= " + quoted(path.Value), rank: rankExact, pool: p})
		case table.PathPrefix:
			below := strings.TrimRight(path.Value, "/")
			if below != "" {
				all = append(all, place{location: "= " + quoted(below), rank: rankPrefix, pool: p})
			}
			all = append(all, place{location: "^~ " + quoted(below+"/"), rank: rankPrefix, pool: p})
		default:
			all = append(all, place{location: "~ " + quoted(path.Value), rank: rankRegex, pool: p})
		}
	}
	return all
}

// inOrder leaves out locations that are there already, by a better rank or an earlier pool.
func inOrder(places []place) []place {
	sorted := slices.SortedStableFunc(slices.Values(places), func(a, b place) int { return cmp.Compare(a.rank, b.rank) })
	seen := map[string]bool{}
	return slices.DeleteFunc(sorted, func(p place) bool {
		// To Nginx a prefix with and one without precedence over expressions are the same place.
		name := strings.TrimPrefix(p.location, "^~ ")
		if name == `"/"` {
			name = "/"
		}
		before := seen[name]
		seen[name] = true
		return before
	})
}

// cookiePattern is an entry of a map over all cookies of a request: those that have this one.
func cookiePattern(name, value string) string {
	return quoted(`~(^|;\s*)` + regexp.QuoteMeta(name) + "=" + regexp.QuoteMeta(value) + `(;|$)`)
}

// perMinute is the rate of a limit in whole requests a minute, which is what Nginx knows.
func perMinute(l *table.RateLimit) int {
	return max(int(int64(l.Requests)*int64(time.Minute)/int64(max(l.Period, time.Millisecond))), 1)
}

// lacks says what Nginx does not do of a table, pool by pool.
func lacks(t *table.Table) []string {
	var said []string
	for i := range t.Pools {
		p := &t.Pools[i]
		if p.Fault != nil {
			said = append(said, fmt.Sprintf("pool %s: faults are not made: Nginx cannot delay requests", p.Name))
		}
		if p.Retries > 0 {
			said = append(said, fmt.Sprintf("pool %s: retries are for GET, HEAD and OPTIONS only", p.Name))
		}
		if l := p.RateLimit; l != nil && time.Duration(perMinute(l))*l.Period != time.Duration(l.Requests)*time.Minute {
			said = append(said, fmt.Sprintf("pool %s: the rate limit is rounded to %d requests a minute", p.Name, perMinute(l)))
		}
	}
	return said
}

// certificateFor names the files of the certificate for a host; those of nobody's if there is none.
func certificateFor(t *table.Table, host string) string {
	_, parent, _ := strings.Cut(host, ".")
	for _, wanted := range []string{host, "*." + parent} {
		for _, c := range t.Certificates {
			if host != "" && slices.Contains(c.Hosts, wanted) {
				return short(c.Name)
			}
		}
	}
	return "nobody"
}
