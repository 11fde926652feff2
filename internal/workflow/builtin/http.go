package builtin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/outbound"
)

const (
	defaultRequestTimeout = 30 * time.Second
	// maxRequestTimeout keeps a call within a minute.
	maxRequestTimeout = 50 * time.Second
	maxRequestBody    = 64 << 10
	maxRequestHeaders = 50
	// maxAnswer is how much of an answer is kept, maxRead how much is looked at for secrets before, in bytes.
	maxAnswer, maxRead = 8 << 10, 1 << 20
	maxAnswerHeader    = 500
)

// request is the action http.
type request struct {
	policy  outbound.Policy
	secrets Secrets
	may     May
	// options of tests
	options outbound.Options
}

var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
}

// Describe tells what can be asked of another server.
func (*request) Describe() action.Description {
	return action.Description{
		Name: "http", Summary: "Sends one request over HTTP and waits for the answer.", Timeout: time.Minute,
		Inputs: []action.Field{
			{Name: "url", Type: v1alpha1.TypeString, Required: true, Doc: "An address that begins with https:// or http://. The operator of the platform says which can be reached."},
			{Name: "method", Type: v1alpha1.TypeString, Default: http.MethodGet, Enum: methods, Doc: "The request's method."},
			{Name: "headers", Type: v1alpha1.TypeObject, Doc: "Headers, texts by their names. Credentials belong in secretRef."},
			{Name: "body", Doc: "A text is sent as it is, anything else as JSON. At most 64 KiB."},
			{Name: "secretRef", Type: v1alpha1.TypeObject, Doc: "A secret of the tenant for the header Authorization: name, key (the only one if left out), scheme (Bearer; Basic for a secret with username and password; None)."},
			{Name: "expect", Type: v1alpha1.TypeList, Default: "200 to 299", Doc: "Status codes that are a success."},
			{Name: "timeout", Type: v1alpha1.TypeString, Default: "30s", Doc: "How long the whole request may take, at most 50s."},
			{Name: "followRedirects", Type: v1alpha1.TypeBoolean, Default: "false", Doc: "Follows up to three redirects, never from https to http. Nothing secret goes to another host."},
			{Name: "repeatable", Type: v1alpha1.TypeBoolean, Default: "true, but false for POST and PATCH", Doc: "Whether the request may be sent again when nobody knows whether it arrived. The other side can recognise it by its header Idempotency-Key."},
		},
		Outputs: []action.Field{
			{Name: "status", Type: v1alpha1.TypeInteger, Doc: "Status code of the answer."},
			{Name: "body", Doc: "The answer: parsed if it is JSON, else a text of its first 8 KiB."},
			{Name: "headers", Type: v1alpha1.TypeObject, Doc: "Some headers of the answer by their names in small letters: content-type, location, etag, last-modified, retry-after, x-request-id."},
		},
	}
}

var answerHeaders = []string{"Content-Type", "Location", "Etag", "Last-Modified", "Retry-After", "X-Request-Id"}

type requestInputs struct {
	URL             string            `json:"url"`
	Method          string            `json:"method"`
	Headers         map[string]string `json:"headers"`
	Body            json.RawMessage   `json:"body"`
	SecretRef       *secretRef        `json:"secretRef"`
	Expect          []int             `json:"expect"`
	Timeout         string            `json:"timeout"`
	FollowRedirects bool              `json:"followRedirects"`
	Repeatable      *bool             `json:"repeatable"`

	url     *url.URL
	timeout time.Duration
}

// reserved are headers that are not a workflow's to set.
var reserved = []string{
	"Host", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Te", "Trailer", "Keep-Alive", "Expect", "Idempotency-Key",
	"Proxy-Authorization", "Proxy-Connection", "Accept-Encoding",
}

var headerName = regexp.MustCompile("^[-!#$%&'*+.^_`|~0-9A-Za-z]{1,100}$")

// headerValue says whether a text can be the value of a header.
func headerValue(text string) bool {
	const most = 8 << 10
	return len(text) <= most && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// read checks the inputs beyond their types and fills in what they leave out. Its errors quote no value: some may be secret.
func (in *requestInputs) read(call *action.Call) error {
	if err := call.Decode(in); err != nil {
		return err //nolint:wrapcheck // it says what is read
	}
	if in.Method == "" {
		in.Method = http.MethodGet
	}
	if in.Repeatable == nil {
		in.Repeatable = new(in.Method != http.MethodPost && in.Method != http.MethodPatch)
	}
	var err error
	in.url, err = url.Parse(in.URL)
	switch {
	case err != nil || in.url.Hostname() == "" || in.url.Scheme != "https" && in.url.Scheme != "http":
		return errors.New("url: write an address such as https://example.org/path")
	case in.url.User != nil:
		return errors.New("url: a user and password do not belong in it: write them into a secret and name that in secretRef")
	case !slices.Contains(methods, in.Method):
		return fmt.Errorf("method: %q is none of %s", cut(in.Method, 20), strings.Join(methods, ", "))
	case len(in.Body) > maxRequestBody:
		return fmt.Errorf("body: more than %d bytes", maxRequestBody)
	case len(in.Headers) > maxRequestHeaders:
		return fmt.Errorf("headers: more than %d", maxRequestHeaders)
	}
	for _, name := range slices.Sorted(maps.Keys(in.Headers)) {
		switch canonical := textproto.CanonicalMIMEHeaderKey(name); {
		case canonical == "Authorization":
			return errors.New("headers: Authorization does not belong in a workflow: write it into a secret and name that in secretRef")
		case slices.Contains(reserved, canonical):
			return fmt.Errorf("headers: %s is not for workflows to set", canonical)
		case !headerName.MatchString(name) || !headerValue(in.Headers[name]):
			return fmt.Errorf("headers: %q or its value has characters that no header has", cut(name, 100))
		}
	}
	for _, code := range in.Expect {
		if code < 200 || code > 599 {
			return fmt.Errorf("expect: %d is no status code of an answer", code)
		}
	}
	in.timeout = defaultRequestTimeout
	if in.Timeout != "" {
		if in.timeout, err = time.ParseDuration(in.Timeout); err != nil || in.timeout <= 0 || in.timeout > maxRequestTimeout {
			return fmt.Errorf("timeout: write a duration of at most %s, such as 10s", maxRequestTimeout)
		}
	}
	return nil
}

// Run sends the request and waits for the answer.
func (h *request) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	in := &requestInputs{}
	if err := in.read(call); err != nil {
		return action.Outcome{}, action.Failed(err)
	}
	where := in.Method + " " + in.url.Scheme + "://" + in.url.Host
	if call.Repeated && !*in.Repeatable {
		return action.Outcome{}, action.Failed(fmt.Errorf(
			"the server ended while %s was under way: it may have been done, and is not repeatable; look there, then retry the step if it was not", where))
	}
	secret, err := h.secret(ctx, call, in.SecretRef)
	if err != nil {
		return action.Outcome{}, err
	}
	if !*in.Repeatable {
		if err := call.Fence(ctx); err != nil {
			return action.Outcome{}, fmt.Errorf("before %s: %w", where, err)
		}
	}
	began := time.Now()
	answer, err := h.ask(ctx, call, in, secret)
	if err != nil {
		err = secret.hideIn(err)
		call.Log("%s: %v", where, err)
		return action.Outcome{}, err
	}
	call.Log("%s: %d after %s", where, answer.status, time.Since(began).Round(time.Millisecond))
	return in.judge(where, answer)
}

// judge says whether the answer is a success. What may be another the next time is tried again, where the step says so.
func (in *requestInputs) judge(where string, got *answer) (action.Outcome, error) {
	expected := slices.Contains(in.Expect, got.status)
	if len(in.Expect) == 0 {
		expected = got.status >= http.StatusOK && got.status < http.StatusMultipleChoices
	}
	if expected {
		return action.Done(map[string]any{"status": got.status, "body": got.body, "headers": got.headers}), nil
	}
	text, _ := got.body.(string)
	if text == "" {
		if raw, err := json.Marshal(got.body); err == nil && got.body != nil {
			text = string(raw)
		}
	}
	const most = 300
	err := fmt.Errorf("%s: the answer is %d %s: %s", where, got.status, http.StatusText(got.status), cut(strings.ToValidUTF8(text, "�"), most))
	if got.status == http.StatusTooManyRequests || got.status >= http.StatusInternalServerError {
		return action.Outcome{}, err
	}
	return action.Outcome{}, action.Failed(err)
}

// answer is what is kept of one.
type answer struct {
	status  int
	body    any
	headers map[string]string
}

// ask sends the request, once.
func (h *request) ask(ctx context.Context, call *action.Call, in *requestInputs, secret *credential) (*answer, error) {
	sent := false
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent = true }})
	r, err := in.request(ctx, call, secret)
	if err != nil {
		return nil, action.Failed(err)
	}
	options := h.options
	options.Timeout, options.FollowRedirects, options.MaxBody = in.timeout, in.FollowRedirects, maxRead
	response, err := outbound.NewClient(h.policy, options).Do(r)
	switch {
	case outbound.IsRefused(err):
		return nil, action.Failed(err)
	case err != nil && ctx.Err() == nil && sent && !*in.Repeatable:
		return nil, action.Failed(fmt.Errorf("%w: it may have been done, and is not repeatable; look there, then retry the step if it was not", err))
	case err != nil:
		return nil, err //nolint:wrapcheck // it says what was asked
	}
	defer response.Body.Close()
	// That the answer is too long, or ends too early, changes nothing: its status is there.
	text, readErr := io.ReadAll(response.Body)
	if readErr != nil {
		text = text[:max(0, len(text)-secret.longest())] // a secret may have been cut in two
	}
	a := &answer{status: response.StatusCode, headers: map[string]string{}, body: secret.hideInBody(text, response.Header.Get("Content-Type"))}
	for _, name := range answerHeaders {
		if value := response.Header.Get(name); value != "" {
			a.headers[strings.ToLower(name)] = cut(strings.ToValidUTF8(secret.hide(value), "�"), maxAnswerHeader)
		}
	}
	return a, nil
}

func (in *requestInputs) request(ctx context.Context, call *action.Call, secret *credential) (*http.Request, error) {
	var body io.Reader = http.NoBody
	contentType := ""
	if raw := bytes.TrimSpace(in.Body); len(raw) > 0 && !bytes.Equal(raw, []byte("null")) {
		text, kind := "", "text/plain; charset=utf-8"
		if json.Unmarshal(raw, &text) != nil {
			text, kind = string(raw), "application/json"
		}
		body, contentType = strings.NewReader(text), kind
	}
	r, err := http.NewRequestWithContext(ctx, in.Method, in.url.String(), body)
	if err != nil {
		return nil, errors.New("the request cannot be made of these inputs: check url and method")
	}
	r.Header.Set("User-Agent", "yunfan")
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	for name, value := range in.Headers {
		r.Header.Set(name, value)
	}
	if secret != nil {
		r.Header.Set("Authorization", secret.header)
	}
	r.Header.Set("Idempotency-Key", call.Key)
	return r, nil
}
