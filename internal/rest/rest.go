// Package rest is the HTTP frame: who asks, whether he may, how big and how long a request may be, and how an error
// becomes a Kubernetes Status. It knows no capability.
package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// Limits of every request that is not a stream.
const (
	// RequestTimeout is how long a request may take.
	RequestTimeout = 30 * time.Second
	// MaxBody is the largest body that is read, in bytes.
	MaxBody = 4 << 20
	// maxInFlight requests are answered at once, and maxStreams streams; more are refused with 429. What is passed on to
	// Kubernetes counts as a stream.
	maxInFlight = 256
	maxStreams  = 2048
)

// Handler answers one request. Its error, if nothing was written yet, becomes a Kubernetes Status.
type Handler func(w http.ResponseWriter, r *http.Request) error

// Route is a handler with the pattern, in the syntax of http.ServeMux, under which it is found.
type Route struct {
	Pattern string
	Handler Handler
	// Stream says that the answer has no end of its own: no timeout is set.
	Stream bool
	// Public says that nobody needs to be known for it, as for signing in.
	Public bool
}

// Wrapper surrounds every route. It runs when it is known who asks, and also when that was refused: then the handler
// it surrounds gives the refusal.
type Wrapper func(next Handler) Handler

// Parts are what capabilities add to the server.
type Parts struct {
	Routes []Route
	// Identities are asked who a user is before the hub is, in this order.
	Identities []Identity
	// Wrappers surround every route, the first one outermost.
	Wrappers []Wrapper
}

// Add takes what another capability adds.
func (p *Parts) Add(more Parts) {
	p.Routes = append(p.Routes, more.Routes...)
	p.Identities = append(p.Identities, more.Identities...)
	p.Wrappers = append(p.Wrappers, more.Wrappers...)
}

// Routes answers requests of users whom auth or an identity knows. Which of them may do what is each handler's to ask.
func Routes(auth *Authenticator, parts Parts) http.Handler {
	mux := http.NewServeMux()
	short, streams := make(chan struct{}, maxInFlight), make(chan struct{}, maxStreams)
	everything := append(slices.Clone(parts.Routes), Route{Pattern: "/", Handler: missing})
	for _, route := range everything {
		slots := short
		if route.Stream {
			slots = streams
		}
		handler := bound(route)
		for _, wrapper := range slices.Backward(parts.Wrappers) {
			handler = wrapper(handler)
		}
		handler = auth.identify(parts.Identities, route.Public, handler)
		mux.Handle(route.Pattern, observe(route.Pattern, limit(slots, handler)))
	}
	return mux
}

// missing answers for everything that is not there.
func missing(_ http.ResponseWriter, r *http.Request) error {
	return &apierrors.StatusError{ErrStatus: status(http.StatusNotFound, "NotFound",
		fmt.Sprintf("there is no %s %s: the API is described in docs/api.md", r.Method, r.URL.Path))}
}

// ownName refuses requests in somebody else's name: only the platform itself says to Kubernetes who asks.
func ownName(r *http.Request) error {
	// In order, so that the same request is refused in the same words.
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		lower := strings.ToLower(name)
		if strings.HasPrefix(lower, "impersonate-") || strings.HasPrefix(lower, "x-remote-") {
			return apierrors.NewForbidden(schema.GroupResource{}, "", fmt.Errorf("the header %s is refused: sign in as the user in whose name you want to act", name))
		}
	}
	return nil
}

// bound sets a route's limits on time and size. Whoever may not ask gets the refusal instead of the handler's answer.
func bound(route Route) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := refusalOf(r.Context()); err != nil {
			return err
		}
		if route.Stream {
			return route.Handler(w, r)
		}
		ctx, cancel := context.WithTimeout(r.Context(), RequestTimeout)
		defer cancel()
		// A client that sends its body byte by byte is cut off, too. Where the connection cannot do that, the
		// context still ends the request.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(RequestTimeout))
		r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
		return route.Handler(w, r.WithContext(ctx))
	}
}

// limit refuses what there is no slot for: a queue would only hide the overload.
func limit(slots chan struct{}, next Handler) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			return next(w, r)
		default:
			return apierrors.NewTooManyRequests("too many requests are being answered: try again in a second", 1)
		}
	}
}

// plain makes a standard handler of ours: errors and panics are answered, and nothing of a panic leaves the server.
func plain(next Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tracked := &tracker{ResponseWriter: w}
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler { //nolint:errorlint // a panic value, compared as net/http does
					panic(p)
				}
				log(r).Error(fmt.Errorf("panic: %v", p), "answering a request", "stack", string(debug.Stack()))
				tracked.fail(r, errors.New("the server failed: its log has the reason"))
			}
		}()
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		if err := next(tracked, r); err != nil {
			tracked.fail(r, err)
		}
	})
}

// tracker remembers whether an answer was begun, and its code.
type tracker struct {
	http.ResponseWriter
	code int
}

func (t *tracker) WriteHeader(code int) {
	if t.code == 0 {
		t.code = code
	}
	t.ResponseWriter.WriteHeader(code)
}

func (t *tracker) Write(b []byte) (int, error) {
	if t.code == 0 {
		t.code = http.StatusOK
	}
	return t.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (t *tracker) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// fail answers with the error unless an answer was begun: then the connection is cut, so that the client does not take
// half an answer for a whole one.
func (t *tracker) fail(r *http.Request, err error) {
	if t.code == http.StatusSwitchingProtocols || r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return
	}
	if t.code != 0 {
		log(r).Error(err, "Answer cut short", "path", r.URL.Path)
		panic(http.ErrAbortHandler)
	}
	s := StatusOf(err)
	if s.Code >= http.StatusInternalServerError {
		log(r).Error(err, "Request failed", "method", r.Method, "path", r.URL.Path)
	}
	if s.Details != nil && s.Details.RetryAfterSeconds > 0 {
		t.Header().Set("Retry-After", fmt.Sprint(s.Details.RetryAfterSeconds))
	}
	_ = WriteJSON(t, int(s.Code), s) // the client is gone if this fails: nobody is left to tell
}

// Get makes a handler of a function that answers with JSON.
func Get[T any](do func(r *http.Request) (T, error)) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		out, err := do(r)
		if err != nil {
			return err
		}
		return WriteJSON(w, http.StatusOK, out)
	}
}

// WriteJSON writes v with a status code.
func WriteJSON(w http.ResponseWriter, code int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}

// ReadBody reads a body of JSON or YAML into v. Unknown fields are refused: a misspelt one would be lost in silence.
func ReadBody(r *http.Request, v any) error {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	if len(strings.TrimSpace(string(data))) == 0 {
		return apierrors.NewBadRequest("the request has no body: send the object as JSON or YAML")
	}
	if err := yaml.UnmarshalStrict(data, v); err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("the body cannot be read: %v", err))
	}
	return nil
}

// NotFound is the error for something that does not exist, or that the user may not know of.
func NotFound(resource, name string) error {
	return apierrors.NewNotFound(schema.GroupResource{Group: "yunfan.io", Resource: resource}, name)
}
