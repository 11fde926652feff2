package proxy

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	clientrest "k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
)

// transports are the connections to one API server: those for upgraded requests (exec, attach, port-forward) must be
// HTTP/1.1, and are not shared.
type transports struct {
	target         *url.URL
	shared, single http.RoundTripper
}

func newTransports(config *clientrest.Config) (*transports, error) {
	target, _, err := clientrest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("reading the API server's address: %w", err)
	}
	plain := clientrest.CopyConfig(config)
	plain.DisableCompression = true // what the client asks for is what it gets
	shared, err := clientrest.TransportFor(plain)
	if err != nil {
		return nil, fmt.Errorf("making connections: %w", err)
	}
	plain = clientrest.CopyConfig(plain)
	plain.NextProtos = []string{"http/1.1"}
	single, err := clientrest.TransportFor(plain)
	if err != nil {
		return nil, fmt.Errorf("making connections: %w", err)
	}
	return &transports{target, shared, single}, nil
}

func (p *Proxy) hubTransports() (*transports, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hub == nil {
		t, err := newTransports(p.HubConfig)
		if err != nil {
			return nil, fmt.Errorf("connecting to the hub: %w", err)
		}
		p.hub = t
	}
	return p.hub, nil
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

// buffers are shared by all requests, so that answers make no garbage.
type buffers struct{}

const bufferSize = 32 << 10

var pool = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// Get gives a buffer.
func (buffers) Get() []byte { return pool.Get().(*[bufferSize]byte)[:] }

// Put takes it back.
func (buffers) Put(b []byte) {
	if cap(b) >= bufferSize {
		pool.Put((*[bufferSize]byte)(b[:bufferSize]))
	}
}
