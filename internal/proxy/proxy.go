// Package proxy passes requests on to the Kubernetes APIs of the hub and of members, commands and watches included, as
// the user who asks. It adds who he is and in which groups; what he may there, the API server decides.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientrest "k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/rest"
)

const (
	// requestTimeout is how long a request may take that is neither a watch nor a connection: as long as with Kubernetes.
	requestTimeout = 60 * time.Second
	// bodyTimeout is how long a client may take to send its body.
	bodyTimeout = 30 * time.Second
)

// Rights is what the proxy asks about users of the platform.
type Rights interface {
	// Own says whether attributes describe reading one object of the hub, by name, that is the user's own.
	Own(ctx context.Context, user rest.User, attributes authorizationv1.ResourceAttributes) bool
	// Clusters gives the clusters that the user may know of.
	Clusters(ctx context.Context, user rest.User) (all bool, names map[string]bool)
	// Why says in words what is missing for what was refused on the hub, or on a cluster if it is given; empty if
	// nothing of the platform's rights is.
	Why(ctx context.Context, user rest.User, cluster string, attributes authorizationv1.ResourceAttributes) string
}

// Proxy passes requests on to the hub and to members.
type Proxy struct {
	// Hub is the cache.
	Hub client.Reader
	// HubConfig is the way to the hub's API as one who may act for others.
	HubConfig  *clientrest.Config
	Members    member.Lookup
	Authorizer *rest.Authorizer
	Rights     Rights

	mu         sync.Mutex
	hub        *transports
	transports map[*member.Member]*transports
}

// Routes are the proxy's. The platform's own views below /api/v1 have patterns of their own, which are more exact.
func (p *Proxy) Routes() []rest.Route {
	routes := []rest.Route{
		{Pattern: "/clusters/{cluster}/{path...}", Handler: p.toMember, Stream: true},
		{Pattern: "/clusters/{cluster}", Handler: p.toMember, Stream: true},
		{Pattern: "/version", Handler: p.toHub, Stream: true},
	}
	for _, root := range []string{"/api", "/apis", "/openapi"} {
		routes = append(routes, rest.Route{Pattern: root, Handler: p.toHub, Stream: true}, rest.Route{Pattern: root + "/{path...}", Handler: p.toHub, Stream: true})
	}
	return routes
}

func (p *Proxy) toHub(w http.ResponseWriter, r *http.Request) error {
	q, err := parse(r, r.URL.Path)
	if err != nil {
		return err
	}
	t, err := p.hubTransports()
	if err != nil {
		return err
	}
	user := rest.UserOf(r.Context())
	as := user
	if ours(user) {
		as.Groups = own(user.Groups)
		if q.attributes.Subresource == "proxy" || q.attributes.Verb == "proxy" {
			return q.tenantMay()
		}
		if q.resource && p.Rights.Own(r.Context(), user, q.attributes) {
			as.Groups = append(as.Groups, v1alpha1.GroupReader)
		}
	}
	return p.pass(w, r, q, t, as, "")
}

func (p *Proxy) toMember(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("cluster")
	facts := rest.FactsOf(r.Context())
	facts.Cluster = name
	q, err := parse(r, "/"+r.PathValue("path"))
	if err != nil {
		return err
	}
	if strings.HasPrefix(q.path, "/clusters/") || q.path == "/clusters" {
		return rest.NotFound("clusters", strings.TrimPrefix(r.URL.Path, "/clusters/"))
	}
	as, err := p.memberUser(r.Context(), name, q)
	if err != nil {
		return err
	}
	m, err := p.member(r.Context(), name)
	if err != nil {
		return err
	}
	t, err := p.transportsOf(m)
	if err != nil {
		return err
	}
	return p.pass(w, r, q, t, as, name)
}

// memberUser gives who the request's user is on a member. Users of the platform get through to clusters in which they
// have a partition. The hub's own users are not the members', and a service account of the hub would be another one
// with the same name there: of them only those get through who may do everything on the hub.
func (p *Proxy) memberUser(ctx context.Context, cluster string, q request) (rest.User, error) {
	user := rest.UserOf(ctx)
	as := rest.User{Name: user.Name, Groups: own(user.Groups)}
	if !ours(user) {
		as.Groups = slices.DeleteFunc(slices.Clone(user.Groups), func(g string) bool { return strings.HasPrefix(g, v1alpha1.UserPrefix) })
		as.Groups = append(as.Groups, v1alpha1.GroupPlatformAdmin)
		return as, p.Authorizer.Require(ctx, authorizationv1.ResourceAttributes{Verb: "*", Group: "*", Resource: "*"})
	}
	all, names := p.Rights.Clusters(ctx, user)
	if all {
		return as, nil
	}
	if !names[cluster] {
		return as, apierrors.NewForbidden(schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "clusters"}, cluster,
			fmt.Errorf("no partition of yours is in a cluster of this name: GET /api/v1/clusters lists those that have one"))
	}
	return as, q.tenantMay()
}

func ours(user rest.User) bool {
	_, yes := user.OfPlatform()
	return yes
}

// own gives the groups that the platform has given.
func own(groups []string) []string {
	return slices.DeleteFunc(slices.Clone(groups), func(g string) bool { return !strings.HasPrefix(g, v1alpha1.UserPrefix) })
}

// pass sends the request on and the answer back.
func (p *Proxy) pass(w http.ResponseWriter, r *http.Request, q request, t *transports, as rest.User, cluster string) error {
	transport := t.shared
	if q.upgraded(r) {
		transport = t.single
	} else {
		r.Header.Del("Upgrade")
		if r.ContentLength != 0 {
			// A client that sends its body byte by byte is cut off. Without a body there is nothing to wait for, and a
			// deadline would end a watch.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
		}
		// An upgraded connection has no body, and could not be taken over through this reader.
		r.Body = http.MaxBytesReader(w, r.Body, rest.MaxBody)
	}
	if !q.endless(r) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		r = r.WithContext(ctx)
	}
	var failure error
	proxy := &httputil.ReverseProxy{
		Transport:      transport,
		FlushInterval:  -1, // watches and logs are passed on at once
		BufferPool:     buffers{},
		Rewrite:        func(out *httputil.ProxyRequest) { rewrite(out, t, q.path, as) },
		ModifyResponse: func(response *http.Response) error { return p.answer(r.Context(), response, q, cluster) },
		ErrorHandler:   func(_ http.ResponseWriter, _ *http.Request, err error) { failure = err },
		ErrorLog:       stdlog.New(io.Discard, "", 0),
	}
	proxy.ServeHTTP(w, r)
	return explain(cluster, failure)
}

// rewrite turns a request to us into one to an API server, in the name of the user. Whatever the user says of who he is
// does not get through.
func rewrite(out *httputil.ProxyRequest, t *transports, path string, as rest.User) {
	out.Out.URL.Scheme, out.Out.URL.Host = t.target.Scheme, t.target.Host
	out.Out.URL.Path, out.Out.URL.RawPath = strings.TrimSuffix(t.target.Path, "/")+path, ""
	out.Out.Host = t.target.Host
	for name := range out.Out.Header {
		lower := strings.ToLower(name)
		if strings.HasPrefix(lower, "impersonate-") || strings.HasPrefix(lower, "x-remote-") || lower == "authorization" || lower == "cookie" {
			delete(out.Out.Header, name)
		}
	}
	out.SetXForwarded()
	out.Out.Header.Set(authenticationv1.ImpersonateUserHeader, as.Name)
	for _, group := range as.Groups {
		out.Out.Header.Add(authenticationv1.ImpersonateGroupHeader, group)
	}
}

// explain makes an error for the user of one in reaching an API server.
func explain(cluster string, err error) error {
	var lost *member.NotAnsweringError
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &tooLarge), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &lost):
		return apierrors.NewServiceUnavailable(lost.Error())
	case cluster == "":
		return errors.Join(err, apierrors.NewServiceUnavailable("the hub cannot be reached: try again"))
	}
	return errors.Join(err, apierrors.NewServiceUnavailable(fmt.Sprintf("cluster %s cannot be reached: its condition Ready says why", cluster)))
}
