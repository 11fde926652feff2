package proxy

import (
	"slices"
	"strings"

	"yunfan.io/yunfan/internal/rest"
)

// core are the first segments below /api/v1 that are Kubernetes' own.
var core = []string{
	"bindings", "componentstatuses", "configmaps", "endpoints", "events", "limitranges", "namespaces", "nodes", "persistentvolumeclaims",
	"persistentvolumes", "pods", "podtemplates", "proxy", "replicationcontrollers", "resourcequotas", "secrets", "serviceaccounts", "services", "watch",
}

// Shadowing gives the routes that would answer in place of Kubernetes: views of the platform live below /api/v1, too,
// under other names.
func Shadowing(routes []rest.Route) []string {
	var all []string
	for _, route := range routes {
		_, below, ok := strings.Cut(route.Pattern, "/api/v1/")
		first, _, _ := strings.Cut(below, "/")
		if ok && (slices.Contains(core, first) || first == "" || strings.HasPrefix(first, "{") && first != "{path...}") {
			all = append(all, route.Pattern)
		}
	}
	return all
}
