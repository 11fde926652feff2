package proxy

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// request is what a request to a Kubernetes API asks for.
type request struct {
	// path below the API server's root, as it was sent, beginning with a slash.
	path string
	// resource says that attributes are filled in: it is about objects, not about the API server itself.
	resource   bool
	attributes authorizationv1.ResourceAttributes
	query      url.Values
}

// verbs of methods; the others are refused.
var verbs = map[string]string{
	http.MethodGet: "get", http.MethodHead: "get", http.MethodPost: "create", http.MethodPut: "update",
	http.MethodPatch: "patch", http.MethodDelete: "delete",
}

// parse reads a path as Kubernetes' API server does. The path has been found clean by the frame.
func parse(r *http.Request, path string) (request, error) {
	verb, known := verbs[r.Method]
	if !known {
		return request{}, apierrors.NewMethodNotSupported(schema.GroupResource{}, r.Method)
	}
	q := request{path: path, query: r.URL.Query()}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	a := &q.attributes
	switch {
	case len(parts) > 2 && parts[0] == "api":
		a.Version, parts = parts[1], parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		a.Group, a.Version, parts = parts[1], parts[2], parts[3:]
	default:
		a.Verb = verb
		return q, nil
	}
	q.resource, a.Verb = true, verb
	if parts[0] == "watch" || parts[0] == "proxy" { // forms of long ago
		a.Verb, parts = parts[0], append(parts[1:], "")
	}
	if parts[0] == "namespaces" && len(parts) > 1 {
		a.Namespace = parts[1]
		if len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
			parts = parts[2:]
		}
	}
	a.Resource = parts[0]
	if len(parts) > 1 {
		a.Name = parts[1]
	}
	if len(parts) > 2 {
		a.Subresource = strings.Join(parts[2:min(len(parts), 3)], "/")
	}
	if a.Name == "" && a.Verb == "get" {
		a.Verb = "list"
		if watch := q.query.Get("watch"); watch == "true" || watch == "1" {
			a.Verb = "watch"
		}
	}
	if a.Name == "" && a.Verb == "delete" {
		a.Verb = "deletecollection"
	}
	return q, nil
}

// upgrades are the subresources whose connection is taken over.
var upgrades = []string{"exec", "attach", "portforward"}

// upgraded says whether the connection will be taken over. Only then is the body not bounded: what looks like an
// upgrade elsewhere is passed on as the plain request that it is.
func (q request) upgraded(r *http.Request) bool {
	return q.resource && slices.Contains(upgrades, q.attributes.Subresource) && r.Header.Get("Upgrade") != "" && r.ContentLength <= 0
}

// endless says whether the answer has no end of its own.
func (q request) endless(r *http.Request) bool {
	follow := q.query.Get("follow")
	return q.attributes.Verb == "watch" || q.query.Get("watch") != "" || q.upgraded(r) ||
		q.attributes.Subresource == "log" && follow != "" && follow != "false" && follow != "0" || q.attributes.Subresource == "proxy"
}

// discovery are the paths of an API server, besides those of objects, that everybody may ask: RBAC allows them too.
var discovery = []string{"api", "apis", "openapi", "version"}

// tenantMay refuses what a member's API server would do for nobody but administrators, whatever its own rules say: to
// reach the kubelet, nodes and services through it, or its own pages.
func (q request) tenantMay() error {
	refuse := func(why string) error {
		return apierrors.NewForbidden(schema.GroupResource{Group: q.attributes.Group, Resource: q.attributes.Resource}, q.attributes.Name,
			fmt.Errorf("%s, for platform administrators only", why))
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(q.path, "/"), "/")
	switch {
	case !slices.Contains(discovery, first):
		return refuse("the path " + q.path + " is the API server's own")
	case q.attributes.Verb == "proxy", q.attributes.Subresource == "proxy":
		return refuse("connections through the API server reach what is behind it: use port-forward to a pod of yours; this is")
	case q.attributes.Resource == "nodes" && q.attributes.Group == "":
		return refuse("nodes are the cluster's")
	}
	return nil
}
