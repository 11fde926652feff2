package haproxy

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"yunfan.io/yunfan/internal/route/table"
)

// anyHost is the group of pools that are for any host.
const anyHost = "any"

// group is all that is said of one host, of one wildcard, or of any host. Its name is what lookups have as the first part
// of their keys.
type group struct {
	name    string
	suffix  string // of wildcards: .example.com
	exact   map[string]string
	prefix  map[string]string
	regexes []regexRule
	all     string // the pool for every path
}

type regexRule struct{ expression, pool string }

// lookup is how a request finds its pool: a chain of groups from its host to wildcards to any host, and in each of them
// exact paths, then longer prefixes, then regular expressions, then every path.
type lookup struct {
	groups map[string]*group
}

func groupName(host string) (name, suffix string) {
	if rest, wildcard := strings.CutPrefix(host, "*"); wildcard {
		return "w" + rest, rest
	}
	return "h." + host, ""
}

// add says that a pool is for some hosts and paths. What is no host or path is returned, for people; if nothing is left,
// the pool gets no requests.
func (l *lookup) add(pool *table.Pool, backend string) (problems []string) {
	for _, host := range hostsOf(pool, &problems) {
		name, suffix := anyHost, ""
		if host != "" {
			name, suffix = groupName(host)
		}
		g := l.groups[name]
		if g == nil {
			g = &group{name: name, suffix: suffix, exact: map[string]string{}, prefix: map[string]string{}}
			l.groups[name] = g
		}
		g.add(pool, backend, &problems)
	}
	return slices.Compact(problems)
}

func hostsOf(pool *table.Pool, problems *[]string) []string {
	if len(pool.Hosts) == 0 {
		return []string{""}
	}
	var usable []string
	for _, host := range pool.Hosts {
		host = strings.ToLower(host)
		if !hosts.MatchString(strings.TrimPrefix(host, "*.")) {
			*problems = append(*problems, fmt.Sprintf("%q is no host", host))
			continue
		}
		usable = append(usable, host)
	}
	return usable
}

func (g *group) add(pool *table.Pool, backend string, problems *[]string) {
	if len(pool.Paths) == 0 {
		g.all = cmp.Or(g.all, backend)
	}
	for _, path := range pool.Paths {
		if err := g.addPath(path, backend); err != nil {
			*problems = append(*problems, err.Error())
		}
	}
}

// addPath keeps who came first where two want the same.
func (g *group) addPath(path table.Path, backend string) error {
	set := func(in map[string]string, key string) error {
		if !strings.HasPrefix(key, "/") || control(key) || strings.Contains(key, " ") {
			return fmt.Errorf("%q is no path that a request can have", path.Value)
		}
		in[key] = cmp.Or(in[key], backend)
		return nil
	}
	switch path.Type {
	case table.PathExact:
		return set(g.exact, path.Value)
	case table.PathPrefix:
		return set(g.prefix, strings.TrimRight(path.Value, "/")+"/")
	case table.PathRegex:
		if _, err := regexp.Compile(path.Value); err != nil || control(path.Value) {
			return fmt.Errorf("%q is no regular expression that can be used", path.Value)
		}
		g.regexes = append(g.regexes, regexRule{expression: path.Value, pool: backend})
		return nil
	default:
		return fmt.Errorf("paths are not compared by %q", path.Type)
	}
}

// sorted are the groups by their names.
func (l *lookup) sorted() []*group {
	return slices.SortedFunc(maps.Values(l.groups), func(a, b *group) int { return cmp.Compare(a.name, b.name) })
}

// wildcards are sorted so that the first that fits is the most exact one.
func (l *lookup) wildcards() []*group {
	found := slices.DeleteFunc(l.sorted(), func(g *group) bool { return g.suffix == "" })
	slices.SortStableFunc(found, func(a, b *group) int { return cmp.Compare(len(b.suffix), len(a.suffix)) })
	return found
}

// parent is the group that is asked when a group has no answer.
func (l *lookup) parent(g *group) string {
	if g.name == anyHost {
		return ""
	}
	host := strings.TrimPrefix(g.name, "h")
	if g.suffix != "" {
		host = g.suffix
	}
	for _, wildcard := range l.wildcards() {
		if len(wildcard.suffix) < len(host) && strings.HasSuffix(host, wildcard.suffix) {
			return wildcard.name
		}
	}
	if l.groups[anyHost] == nil {
		return ""
	}
	return anyHost
}

// depth is the length of the longest chain.
func (l *lookup) depth() int {
	longest := 0
	for _, g := range l.groups {
		n := 0
		for at := g; at != nil; at = l.groups[l.parent(at)] {
			n++
		}
		longest = max(longest, n)
	}
	return longest
}

// rules writes the lookup: at its end txn.pool is the backend, if there is one. A key is a group's name, a bar, and the
// path.
func (l *lookup) rules(w *writer) {
	files := map[string]*strings.Builder{"hosts": {}, "parents": {}, "wildcards": {}, "exact": {}, "prefixes": {}, "all": {}}
	line := func(file, key, value string) { fmt.Fprintf(files[file], "%s %s\n", key, value) }
	for _, g := range l.sorted() {
		if g.suffix == "" && g.name != anyHost {
			line("hosts", strings.TrimPrefix(g.name, "h."), g.name)
		}
		if parent := l.parent(g); parent != "" {
			line("parents", g.name, parent)
		}
		for _, path := range slices.Sorted(maps.Keys(g.exact)) {
			line("exact", g.name+"|"+path, g.exact[path])
		}
		for _, path := range slices.Sorted(maps.Keys(g.prefix)) {
			line("prefixes", g.name+"|"+path, g.prefix[path])
		}
		if g.all != "" {
			line("all", g.name, g.all)
		}
	}
	for _, g := range l.wildcards() {
		line("wildcards", g.suffix, g.name)
	}
	file := func(name string) string { return w.file(name, files[name].String()) }
	const nobody = "!{ var(txn.pool) -m found }"
	w.line("http-request set-var(txn.path) path")
	w.line("http-request set-var(txn.group) var(txn.host),map_str(%s)", file("hosts"))
	w.line("http-request set-var(txn.group) var(txn.host),map_end(%s) if !{ var(txn.group) -m found }", file("wildcards"))
	w.line("http-request set-var(txn.group) str(%s) if !{ var(txn.group) -m found }", anyHost)
	for level := range l.depth() {
		if level > 0 {
			w.line("http-request set-var(txn.group) var(txn.group),map_str(%s) if %s", file("parents"), nobody)
		}
		w.line("http-request set-var(txn.pool) var(txn.group),concat(|,txn.path),map_str(%s) if %s", file("exact"), nobody)
		w.line("http-request set-var(txn.pool) var(txn.group),concat(|,txn.path,/),map_beg(%s) if %s", file("prefixes"), nobody)
		for _, g := range l.sorted() {
			for _, regex := range g.regexes {
				w.line("http-request set-var(txn.pool) str(%s) if %s { var(txn.group) -m str %s } { path -m reg -- %s }",
					regex.pool, nobody, g.name, word(regex.expression))
			}
		}
		w.line("http-request set-var(txn.pool) var(txn.group),map_str(%s) if %s", file("all"), nobody)
	}
}
