package member

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

const (
	dialTimeout    = 3 * time.Second
	requestTimeout = 10 * time.Second
)

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	return d.DialContext(ctx, network, address)
}

// NotAnsweringError is the error of every request made while the member does not answer its probes.
type NotAnsweringError struct {
	Cluster string
	Since   time.Time
	Message string
}

func (e *NotAnsweringError) Error() string {
	if e.Since.IsZero() {
		return fmt.Sprintf("cluster %s has not answered yet", e.Cluster)
	}
	return fmt.Sprintf("cluster %s does not answer since %s: %s", e.Cluster, e.Since.UTC().Format(time.RFC3339), e.Message)
}

// prompt fails requests at once while the member does not answer, so that no worker waits for it, and bounds the rest
// in time.
type prompt struct {
	next   http.RoundTripper
	member *Member
}

// RoundTrip sends one request.
func (p *prompt) RoundTrip(r *http.Request) (*http.Response, error) {
	if s := p.member.State(); !s.Answering {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, &NotAnsweringError{Cluster: p.member.Name, Since: s.LastSeen, Message: s.Message}
	}
	if endless(r) {
		return p.next.RoundTrip(r)
	}
	return bounded(p.next, r)
}

// WrappedRoundTripper lets client-go find the transport below.
func (p *prompt) WrappedRoundTripper() http.RoundTripper { return p.next }

// patient is for the cache: it holds requests back while the member does not answer and sends them the moment it does
// again. Without it the cache would try with growing pauses, and be late when the member is back.
type patient struct {
	next   http.RoundTripper
	member *Member
}

// RoundTrip sends one request, which has no body: the cache only reads.
func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	const tries = 3
	var after time.Time
	for try := 1; ; try++ {
		if err := p.member.health.wait(r.Context(), after); err != nil {
			return nil, err
		}
		response, err := p.next.RoundTrip(r)
		if err == nil || r.Context().Err() != nil || try == tries {
			return response, err
		}
		after = time.Now()
	}
}

// WrappedRoundTripper lets client-go find the transport below.
func (p *patient) WrappedRoundTripper() http.RoundTripper { return p.next }

// endless says whether a request is meant to take long: a watch, a log that is followed, a connection into a pod.
func endless(r *http.Request) bool {
	q := r.URL.Query()
	return q.Get("watch") == "true" || q.Get("watch") == "1" || q.Get("follow") == "true" || r.Header.Get("Upgrade") != ""
}

func bounded(next http.RoundTripper, r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	response, err := next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	response.Body = &boundedBody{ReadCloser: response.Body, cancel: cancel}
	return response, nil
}

// boundedBody keeps the time limit for reading the answer too.
type boundedBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close ends the request.
func (b *boundedBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
