// Package proxy passes requests on to the Kubernetes API of a member: every kind of object there is created, changed,
// deleted and read through the platform, commands and watches included, as the user who asks.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	clientrest "k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/rest"
)

// groupPlatformAdmin is a group that everybody is in whom the proxy lets through, so that members can bind a role to
// it. Groups with our prefix that a user brings along are dropped: they would be his own word.
const (
	groupPlatformAdmin = "yunfan:platform-admin"
	ownPrefix          = "yunfan:"
)

// Proxy passes requests on to members.
type Proxy struct {
	Hub        client.Reader
	Members    member.Lookup
	Authorizer *rest.Authorizer

	mu         sync.Mutex
	transports map[*member.Member]*transports
}

// transports are the connections to one member: those for upgraded requests (exec, attach, port-forward) must be
// HTTP/1.1, and are not shared.
type transports struct {
	target         *url.URL
	shared, single http.RoundTripper
}

// Routes are the proxy's.
func (p *Proxy) Routes() []rest.Route {
	return []rest.Route{
		{Pattern: "/clusters/{cluster}/{path...}", Handler: p.serve, Stream: true},
		{Pattern: "/clusters/{cluster}", Handler: p.serve, Stream: true},
	}
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("cluster")
	if err := p.authorize(r.Context(), name); err != nil {
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
	transport := t.shared
	if r.Header.Get("Upgrade") != "" {
		transport = t.single
	}
	// MaxBytesReader would hide that an upgraded connection can be taken over; exec sends its data after the upgrade.
	if r.Header.Get("Upgrade") == "" {
		r.Body = http.MaxBytesReader(w, r.Body, rest.MaxBody)
	}
	var failure error
	proxy := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // watches and logs are passed on at once
		Rewrite:       func(out *httputil.ProxyRequest) { rewrite(out, t.target, r.PathValue("path")) },
		ErrorHandler:  func(_ http.ResponseWriter, _ *http.Request, err error) { failure = err },
		ErrorLog:      stdlog.New(io.Discard, "", 0),
	}
	proxy.ServeHTTP(w, r)
	return explain(name, failure)
}

// authorize lets platform administrators through: until users sign in to the platform, the hub's users are not the
// members', and a service account of the hub would be another one with the same name there.
func (p *Proxy) authorize(ctx context.Context, cluster string) error {
	if err := p.Authorizer.Require(ctx, authorizationv1.ResourceAttributes{
		Verb: "proxy", Group: v1alpha1.GroupVersion.Group, Resource: "clusters", Name: cluster,
	}); err != nil {
		return err
	}
	return p.Authorizer.Require(ctx, authorizationv1.ResourceAttributes{Verb: "*", Group: "*", Resource: "*"})
}

func (p *Proxy) member(ctx context.Context, name string) (*member.Member, error) {
	if m, ok := p.Members.Member(name); ok {
		return m, nil
	}
	if err := p.Hub.Get(ctx, client.ObjectKey{Name: name}, &v1alpha1.Cluster{}); err != nil {
		return nil, fmt.Errorf("looking for cluster %s: %w", name, err)
	}
	return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("cluster %s is not connected: its condition Ready says why", name))
}

// transportsOf gives the connections to a member, and forgets those to members that are gone.
func (p *Proxy) transportsOf(m *member.Member) (*transports, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t, ok := p.transports[m]; ok {
		return t, nil
	}
	t, err := newTransports(m.Config)
	if err != nil {
		return nil, fmt.Errorf("connecting to cluster %s: %w", m.Name, err)
	}
	if p.transports == nil {
		p.transports = map[*member.Member]*transports{}
	}
	for other := range p.transports {
		if current, ok := p.Members.Member(other.Name); !ok || current != other {
			delete(p.transports, other)
		}
	}
	p.transports[m] = t
	return t, nil
}

func newTransports(config *clientrest.Config) (*transports, error) {
	target, _, err := clientrest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("reading the API server's address: %w", err)
	}
	shared, err := clientrest.TransportFor(config)
	if err != nil {
		return nil, fmt.Errorf("making connections: %w", err)
	}
	single := clientrest.CopyConfig(config)
	single.NextProtos = []string{"http/1.1"}
	upgraded, err := clientrest.TransportFor(single)
	if err != nil {
		return nil, fmt.Errorf("making connections: %w", err)
	}
	return &transports{target, shared, upgraded}, nil
}

// rewrite turns a request to us into one to the member, in the name of the user. Whatever the user says of who he is
// does not get through.
func rewrite(out *httputil.ProxyRequest, target *url.URL, path string) {
	out.Out.URL.Scheme, out.Out.URL.Host = target.Scheme, target.Host
	// The path as it was sent: a name with an encoded slash stays one name.
	prefix := len("/clusters/") + len(strings.SplitN(strings.TrimPrefix(out.In.URL.EscapedPath(), "/clusters/"), "/", 2)[0])
	out.Out.URL.Path = strings.TrimSuffix(target.Path, "/") + "/" + path
	out.Out.URL.RawPath = strings.TrimSuffix(target.EscapedPath(), "/") + "/" + strings.TrimPrefix(out.In.URL.EscapedPath()[prefix:], "/")
	out.Out.Host = target.Host
	for name := range out.Out.Header {
		lower := strings.ToLower(name)
		if strings.HasPrefix(lower, "impersonate-") || strings.HasPrefix(lower, "x-remote-") || lower == "authorization" || lower == "cookie" {
			delete(out.Out.Header, name)
		}
	}
	user := rest.UserOf(out.In.Context())
	out.Out.Header.Set(authenticationv1.ImpersonateUserHeader, user.Name)
	for _, group := range groups(user) {
		out.Out.Header.Add(authenticationv1.ImpersonateGroupHeader, group)
	}
}

func groups(user rest.User) []string {
	own := slices.DeleteFunc(slices.Clone(user.Groups), func(group string) bool { return strings.HasPrefix(group, ownPrefix) })
	return append(own, groupPlatformAdmin)
}

// explain makes an error for the user of one in reaching the member.
func explain(cluster string, err error) error {
	var lost *member.NotAnsweringError
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &tooLarge), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &lost):
		return apierrors.NewServiceUnavailable(lost.Error())
	}
	return errors.Join(err, apierrors.NewServiceUnavailable(fmt.Sprintf("cluster %s cannot be reached: its condition Ready says why", cluster)))
}
