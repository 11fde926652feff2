package traefik

import (
	"regexp"
	"strconv"
	"strings"

	"yunfan.io/yunfan/internal/route/table"
)

// poolRule is one host and path of a pool in Traefik's words.
type poolRule struct {
	text     string
	priority int
}

// The ranks of hosts and paths: a host counts more than any path, and within a kind the longer counts more.
const (
	perHost      = 10_000_000
	rankExact    = 10_000
	rankWildcard = 1_000
	pathRegexps  = 100_000
	pathPrefixes = 200_000
	pathExacts   = 300_000
)

// rules are those of each host with each path.
func rules(p *table.Pool) []poolRule {
	hosts := p.Hosts
	if len(hosts) == 0 {
		hosts = []string{""}
	}
	paths := p.Paths
	if len(paths) == 0 {
		paths = []table.Path{{}}
	}
	var all []poolRule
	for _, host := range hosts {
		hostText, hostRank := hostRule(host)
		for i, path := range paths {
			pathText, pathRank := pathRule(path, i)
			text := pathText
			if hostText != "" {
				text = hostText + " && " + pathText
			}
			// Even numbers: the next one is for the same requests with more conditions.
			all = append(all, poolRule{text: text, priority: hostRank*perHost + 2*pathRank})
		}
	}
	return all
}

func hostRule(host string) (text string, rank int) {
	if host == "" {
		return "", 0
	}
	if rest, wildcard := strings.CutPrefix(host, "*."); wildcard {
		return "HostRegexp(" + strconv.Quote(`(?i)^.+\.`+regexp.QuoteMeta(rest)+"$") + ")", rankWildcard + len(rest)
	}
	return "Host(" + strconv.Quote(host) + ")", rankExact
}

func pathRule(path table.Path, i int) (text string, rank int) {
	switch path.Type {
	case "":
		return "PathPrefix(`/`)", 1
	case table.PathExact:
		return "Path(" + strconv.Quote(path.Value) + ")", pathExacts + len(path.Value)
	case table.PathPrefix:
		if strings.TrimRight(path.Value, "/") == "" {
			return "PathPrefix(`/`)", pathPrefixes
		}
		return "PathRegexp(" + strconv.Quote(pathRegex(path)) + ")", pathPrefixes + len(path.Value)
	default:
		return "PathRegexp(" + strconv.Quote(path.Value) + ")", pathRegexps - i
	}
}
