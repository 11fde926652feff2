package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"slices"
	"syscall"
	"time"
)

const (
	// DefaultTimeout of a whole request, the reading of its answer included.
	DefaultTimeout = 30 * time.Second
	// DefaultMaxBody is how much of an answer is read, in bytes, unpacked.
	DefaultMaxBody = 1 << 20
	// maxHeader of an answer, in bytes.
	maxHeader = 64 << 10
	// maxRedirects are followed where any are.
	maxRedirects = 3
	// connectTimeout bounds the looking up and reaching of an address, and then again the TLS handshake.
	connectTimeout = 5 * time.Second
)

// Options of a Client. The zero value is usable.
type Options struct {
	// Timeout of a whole request; DefaultTimeout if zero. HeaderTimeout is how much of it may pass until the head of the
	// answer is there; all of it if zero.
	Timeout, HeaderTimeout time.Duration
	// MaxBody is how much of an answer can be read; DefaultMaxBody if zero. Reading on is an error.
	MaxBody int64
	// FollowRedirects follows up to three. Otherwise the redirect is the answer.
	FollowRedirects bool
	// Roots are trusted instead of the system's.
	Roots *x509.CertPool
	// Resolver of names; the system's if nil.
	Resolver *net.Resolver
}

// Client makes requests over HTTP, only to addresses that a policy allows, with a bound on everything that the other
// side could make last or grow. It uses each connection once and no proxy, whatever the environment says.
type Client struct {
	http    http.Client
	maxBody int64
}

// NewClient makes a client.
func NewClient(policy Policy, options Options) *Client {
	timeout, maxBody := options.Timeout, options.MaxBody
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	if maxBody <= 0 {
		maxBody = DefaultMaxBody
	}
	transport := &http.Transport{
		DialContext:            policy.dialer(options.Resolver).DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: options.Roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    connectTimeout,
		ResponseHeaderTimeout:  options.HeaderTimeout,
		MaxResponseHeaderBytes: maxHeader,
		// A request that fails on a connection that was used before is sent again by net/http if it carries an
		// Idempotency-Key: whether it is repeated must be ours to say.
		DisableKeepAlives: true,
	}
	c := &Client{maxBody: maxBody, http: http.Client{Transport: transport, Timeout: timeout}}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if options.FollowRedirects {
		c.http.CheckRedirect = redirect
	}
	return c
}

// Do sends the request. Its errors tell the host, and no other part of the URL: there may be passwords in all of them.
func (c *Client) Do(r *http.Request) (*http.Response, error) {
	response, err := c.http.Do(r)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		return nil, fmt.Errorf("asking %s://%s: %w", r.URL.Scheme, r.URL.Host, timely(err, c.http.Timeout))
	}
	response.Body = &bounded{response.Body, c.maxBody, c.maxBody}
	return response, nil
}

// timely says which time has passed in place of net/http's words for it.
func timely(err error, timeout time.Duration) error {
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() && errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no whole answer came within %s: %w", timeout, err)
	}
	return err
}

// Dial connects by TCP to host:port, for protocols other than HTTP. The connection has no deadline yet: set one.
func (p Policy) Dial(ctx context.Context, address string) (net.Conn, error) {
	connection, err := p.dialer(nil).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", address, err)
	}
	return connection, nil
}

// dialer checks each address right before it is reached, when names have been looked up already: a name that means
// something else a moment later, and an address in an unusual spelling, get nowhere.
func (p Policy) dialer(resolver *net.Resolver) *net.Dialer {
	return &net.Dialer{
		Timeout: connectTimeout, Resolver: resolver,
		ControlContext: func(_ context.Context, network, address string, _ syscall.RawConn) error {
			if network != "tcp4" && network != "tcp6" {
				return fmt.Errorf("connections by %s are refused", network)
			}
			target, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("reading the address: %w", err)
			}
			return p.Check(target.Addr())
		},
	}
}

// harmless are the headers that go to another host with a redirect. Any other may be a credential.
var harmless = []string{"Accept", "Accept-Language", "Content-Type", "Idempotency-Key", "User-Agent"}

// redirect decides whether one is followed, and what of the request goes on. Its address is checked when it is reached.
func redirect(next *http.Request, before []*http.Request) error {
	last := before[len(before)-1]
	switch {
	case len(before) > maxRedirects:
		return fmt.Errorf("more than %d redirects", maxRedirects)
	case last.URL.Scheme == "https" && next.URL.Scheme != "https":
		return fmt.Errorf("the redirect from https to %s is refused", next.URL.Scheme)
	}
	next.Header.Del("Referer") // it has the query of the address before
	elsewhere := func(r *http.Request) bool { return r.URL.Scheme != next.URL.Scheme || r.URL.Host != next.URL.Host }
	if !slices.ContainsFunc(before, elsewhere) {
		return nil
	}
	if next.Body != nil && next.Body != http.NoBody {
		return fmt.Errorf("the redirect to %s is refused: it would take what is sent to another host", next.URL.Host)
	}
	for name := range next.Header {
		if !slices.Contains(harmless, textproto.CanonicalMIMEHeaderKey(name)) {
			delete(next.Header, name)
		}
	}
	return nil
}

// bounded is an answer of which no more than a limit can be read.
type bounded struct {
	io.ReadCloser
	left, limit int64
}

// Read fails once more than the limit was there to be read.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, fmt.Errorf("the answer has more than %d bytes", b.limit)
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return n - 1, fmt.Errorf("the answer has more than %d bytes", b.limit)
	}
	return n, err //nolint:wrapcheck // io.EOF must stay what it is
}
