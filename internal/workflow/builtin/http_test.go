package builtin

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/outbound"
)

type secrets map[string]map[string][]byte

func (s secrets) Values(_ context.Context, tenant, name string) (map[string][]byte, error) {
	if values, ok := s[tenant+"/"+name]; ok {
		return values, nil
	}
	return nil, errors.New("there is no such secret")
}

const value = "pa\"ss+wörd/42"

// requester is the action http that may reach the tests' own servers.
func requester(t *testing.T) *request {
	t.Helper()
	r := &request{may: everybody("viewer"), secrets: secrets{
		"edu/hook":  {"token": []byte(value + "\n")},
		"edu/basic": {"username": []byte("me"), "password": []byte(value)},
		"edu/two":   {"a": []byte("aaaa"), "b": []byte("bbbb")},
		"edu/lines": {"token": []byte("a\nb")},
	}}
	if err := r.policy.Allow.Set("127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	return r
}

func server(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func outputsOf(t *testing.T, out action.Outcome) string {
	t.Helper()
	text, err := json.Marshal(out.Outputs)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > action.MaxOutputs {
		t.Errorf("the outputs have %d bytes", len(text))
	}
	return string(text)
}

func TestOPS10_HTTPSendsWhatTheStepSays(t *testing.T) {
	var got string
	at := server(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = strings.Join([]string{r.Method, r.URL.String(), r.Header.Get("Content-Type"), r.Header.Get("X-A"), r.Header.Get("Idempotency-Key"), r.Header.Get("Authorization"), string(body)}, "|")
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("ETag", "1")
		w.Header().Set("X-Other", "left out")
		fmt.Fprint(w, `{"id":12345678901234567890,"ok":true}`)
	})
	for name, tc := range map[string]struct {
		inputs map[string]any
		want   string
		fences int
	}{
		"only a url": {map[string]any{"url": at + "/a?b=c"}, "GET|/a?b=c|||key-of-the-attempt||", 0},
		"an object":  {map[string]any{"url": at, "method": "POST", "body": map[string]any{"a": 1}}, `POST|/|application/json||key-of-the-attempt||{"a":1}`, 1},
		"a text":     {map[string]any{"url": at, "method": "PUT", "body": "a text", "headers": map[string]string{"x-a": "1"}}, "PUT|/|text/plain; charset=utf-8|1|key-of-the-attempt||a text", 0},
		"its type":   {map[string]any{"url": at, "method": "PATCH", "body": "<a/>", "headers": map[string]string{"Content-Type": "text/xml"}, "repeatable": true}, "PATCH|/|text/xml||key-of-the-attempt||<a/>", 0},
		"a token":    {map[string]any{"url": at, "secretRef": map[string]string{"name": "two", "key": "b"}}, "GET|/|||key-of-the-attempt|Bearer bbbb|", 0},
		"as it is":   {map[string]any{"url": at, "secretRef": map[string]string{"name": "two", "key": "b", "scheme": "None"}}, "GET|/|||key-of-the-attempt|bbbb|", 0},
		"a password": {map[string]any{"url": at, "secretRef": map[string]string{"name": "basic"}}, "GET|/|||key-of-the-attempt|Basic " + base64.StdEncoding.EncodeToString([]byte("me:"+value)) + "|", 0},
	} {
		t.Run(name, func(t *testing.T) {
			j := &journal{}
			out, err := requester(t).Run(t.Context(), callOf(j, tc.inputs))
			if err != nil || !out.Done {
				t.Fatalf("got %+v and %v", out, err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(`{"body":{"id":12345678901234567890,"ok":true},"headers":{"content-type":"application/json","etag":"1"},"status":200}`, outputsOf(t, out)); diff != "" {
				t.Error(diff)
			}
			if j.fences != tc.fences {
				t.Errorf("the fence was asked %d times, want %d", j.fences, tc.fences)
			}
		})
	}
}

func TestOPS10_HTTPAnswers(t *testing.T) {
	at := server(t, func(w http.ResponseWriter, r *http.Request) {
		code := http.StatusOK
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &code)
		if r.URL.Path == "/long" {
			fmt.Fprint(w, strings.Repeat("é", maxRead))
			return
		}
		w.WriteHeader(code)
		fmt.Fprint(w, "said")
	})
	for name, tc := range map[string]struct {
		path   string
		expect []int
		want   string // the error
		final  bool
	}{
		"a success":                 {path: "/201"},
		"one that is expected":      {path: "/404", expect: []int{404}},
		"a success that is not":     {path: "/200", expect: []int{204}, want: "the answer is 200 OK: said", final: true},
		"a mistake":                 {path: "/404", want: "the answer is 404 Not Found: said", final: true},
		"a redirect is not a good":  {path: "/302", want: "the answer is 302 Found: said", final: true},
		"too many":                  {path: "/429", want: "the answer is 429 Too Many Requests: said"},
		"the server's mistake":      {path: "/503", want: "the answer is 503 Service Unavailable: said"},
		"an expected mistake of it": {path: "/503", expect: []int{503}},
		"a long answer":             {path: "/long"},
	} {
		t.Run(name, func(t *testing.T) {
			inputs := map[string]any{"url": at + tc.path}
			if tc.expect != nil {
				inputs["expect"] = tc.expect
			}
			out, err := requester(t).Run(t.Context(), callOf(&journal{}, inputs))
			if tc.want == "" {
				if err != nil || !out.Done {
					t.Fatalf("got %+v and %v", out, err)
				}
				outputsOf(t, out)
				return
			}
			if err == nil || !strings.HasSuffix(err.Error(), tc.want) || action.IsFailed(err) != tc.final {
				t.Errorf("got %v (final: %v), want %q (final: %v)", err, action.IsFailed(err), tc.want, tc.final)
			}
		})
	}
}

func TestOPS10_HTTPIsNotRepeatedWhereThatMatters(t *testing.T) {
	var served atomic.Int32
	at := server(t, func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		if r.URL.Path == "/cut" {
			panic(http.ErrAbortHandler)
		}
	})
	for name, tc := range map[string]struct {
		inputs   map[string]any
		repeated bool
		taken    error
		want     string // the error
		final    bool
		served   int32
	}{
		"a POST of which nobody knows":             {inputs: map[string]any{"url": at, "method": "POST"}, repeated: true, want: "it may have been done, and is not repeatable", final: true},
		"a GET of which nobody knows":              {inputs: map[string]any{"url": at}, repeated: true, served: 1},
		"a POST that may be":                       {inputs: map[string]any{"url": at, "method": "POST", "repeatable": true}, repeated: true, served: 1},
		"a GET that may not be":                    {inputs: map[string]any{"url": at, "repeatable": false}, repeated: true, want: "it may have been done", final: true},
		"a POST of a server that has lost the run": {inputs: map[string]any{"url": at, "method": "POST"}, taken: errors.New("another server carries the run"), want: "another server carries the run"},
		"a POST without an answer":                 {inputs: map[string]any{"url": at + "/cut", "method": "POST"}, want: "it may have been done, and is not repeatable", final: true, served: 1},
		"a GET without an answer":                  {inputs: map[string]any{"url": at + "/cut"}, want: "EOF", served: 1},
		"a POST that nobody has taken":             {inputs: map[string]any{"url": "http://127.0.0.1:1", "method": "POST"}, want: "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			served.Store(0)
			j := &journal{taken: tc.taken}
			call := callOf(j, tc.inputs)
			call.Repeated = tc.repeated
			_, err := requester(t).Run(t.Context(), call)
			switch {
			case tc.want == "":
				if err != nil {
					t.Error(err)
				}
			case err == nil || !strings.Contains(err.Error(), tc.want) || action.IsFailed(err) != tc.final:
				t.Errorf("got %v (final: %v), want %q (final: %v)", err, action.IsFailed(err), tc.want, tc.final)
			}
			if served.Load() != tc.served {
				t.Errorf("the server was asked %d times, want %d", served.Load(), tc.served)
			}
		})
	}
}

// TestHTTPTellsNoSecrets has a server that repeats what it was sent, in every way that one can think of.
func TestHTTPTellsNoSecrets(t *testing.T) {
	quoted, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", maxAnswer-len(value)/2) + value
	forms := map[string]string{
		"as it is": value, "as a header": "Bearer " + value, "in JSON": string(quoted), "in a query": url.QueryEscape(value), "in a path": url.PathEscape(value),
		"in base64": base64.StdEncoding.EncodeToString([]byte(value)), "in base64 for URLs": base64.RawURLEncoding.EncodeToString([]byte(value)),
		"in hexadecimal": hex.EncodeToString([]byte(value)), "of which the end is cut": long, "of which the end is not read": strings.Repeat(value, maxRead/len(value)+1),
		"with escapes of JSON": `{"a":"pa\u0022ss\u002bw\u00f6rd\u002f42"}`, "as a key of JSON": `{` + string(quoted) + `:[` + string(quoted) + `]}`,
	}
	for name, text := range forms {
		for _, code := range []int{http.StatusOK, http.StatusBadRequest, http.StatusBadGateway} {
			for _, kind := range []string{"application/json", "text/plain"} {
				t.Run(fmt.Sprintf("%s, %d, %s", name, code, kind), func(t *testing.T) {
					at := server(t, func(w http.ResponseWriter, r *http.Request) {
						if r.Header.Get("Authorization") != "Bearer "+value {
							t.Errorf("the server got %q", r.Header.Get("Authorization"))
						}
						w.Header().Set("Content-Type", kind)
						w.Header().Set("Location", "/?"+url.QueryEscape(value))
						w.Header().Set("X-Request-ID", value)
						w.WriteHeader(code)
						fmt.Fprint(w, text)
					})
					j := &journal{}
					out, err := requester(t).Run(t.Context(), callOf(j, map[string]any{"url": at, "secretRef": map[string]string{"name": "hook"}}))
					everything := fmt.Sprint(outputsOf(t, out), err, j.text(), out.Message)
					for _, form := range []string{value, string(quoted[1 : len(quoted)-1]), url.QueryEscape(value), url.PathEscape(value), forms["in base64"], forms["in base64 for URLs"], forms["in hexadecimal"], "ss+wörd", `ss\u002b`} {
						if strings.Contains(everything, form) {
							t.Errorf("%q is told: %s", form, cut(everything, 500))
						}
					}
				})
			}
		}
	}
}

func TestHTTPTellsNoSecretsInErrors(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() { // answers with something that is no HTTP, and what net/http quotes
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(connection))
			fmt.Fprintf(connection, "%s\r\n\r\n", value)
			connection.Close()
		}
	}()
	j := &journal{}
	_, err = requester(t).Run(t.Context(), callOf(j, map[string]any{"url": "http://" + listener.Addr().String(), "secretRef": map[string]string{"name": "hook"}}))
	if err == nil || strings.Contains(err.Error(), "wörd") || strings.Contains(j.text(), "wörd") {
		t.Errorf("got %v and %s", err, j.text())
	}
}

func TestHTTPRefuses(t *testing.T) {
	for want, inputs := range map[string]map[string]any{
		"url: write an address":                       {"url": "file:///etc/passwd"},
		"url: a user and password do not":             {"url": "http://me:s3cret@example.org"},
		"connections to 169.254.169.254 are refused":  {"url": "http://169.254.169.254/latest/meta-data"},
		"connections to 127.0.0.2 are refused":        {"url": "http://127.0.0.2"},
		"headers: Authorization does not":             {"url": "http://127.0.0.1", "headers": map[string]string{"authorization": "s3cret"}},
		"headers: Host is not":                        {"url": "http://127.0.0.1", "headers": map[string]string{"host": "a"}},
		`headers: "A" or its value`:                   {"url": "http://127.0.0.1", "headers": map[string]string{"A": "s3cret\r\nHost: b"}},
		"method:":                                     {"url": "http://127.0.0.1", "method": "TRACE"},
		"timeout:":                                    {"url": "http://127.0.0.1", "timeout": "1h"},
		"expect: 99":                                  {"url": "http://127.0.0.1", "expect": []int{99}},
		"body: more than":                             {"url": "http://127.0.0.1", "body": strings.Repeat("x", maxRequestBody)},
		"it has not the key that is asked for":        {"url": "http://127.0.0.1", "secretRef": map[string]string{"name": "two"}},
		"characters that no header has":               {"url": "http://127.0.0.1", "secretRef": map[string]string{"name": "lines"}},
		"secretRef: it needs a name":                  {"url": "http://127.0.0.1", "secretRef": map[string]string{"name": "two", "scheme": "Digest"}},
		"unknown field":                               {"url": "http://127.0.0.1", "verify": false},
		"viewer may not use secrets of tenant edu in": {"url": "http://127.0.0.1", "secretRef": map[string]string{"name": "two", "key": "a"}},
	} {
		j := &journal{}
		call := callOf(j, inputs)
		if strings.HasPrefix(want, "viewer") {
			call.User = actor("viewer")
		}
		_, err := requester(t).Run(t.Context(), call)
		if err == nil || !strings.Contains(err.Error(), want) || !action.IsFailed(err) {
			t.Errorf("got %v, want %q for good", err, want)
		}
		if strings.Contains(fmt.Sprint(err, j.text()), "s3cret") {
			t.Errorf("a secret is told: %v", err)
		}
	}
}

func TestOPS10_Notify(t *testing.T) {
	j := &journal{}
	n := &notify{send: j.send}
	call := callOf(j, map[string]any{"title": "发布完成", "text": "ok", "users": []string{"li", "li"}, "roles": []string{"Viewer", "PlatformAdministrator"}, "receivers": []string{"ops"}})
	for range 2 { // the second after a restart
		if out, err := n.Run(t.Context(), call); err != nil || !out.Done {
			t.Fatalf("got %+v and %v", out, err)
		}
	}
	want := []outbound.Message{{
		Key: call.Key, Tenant: "edu", Topic: topicNotice,
		To:   []outbound.Recipient{{Role: "Viewer"}, {PlatformAdministrators: true}, {User: "li"}, {Receiver: "ops"}},
		Data: map[string]string{"title": "发布完成", "text": "ok", "run": "release", "tenant": "edu", "step": "the-step"},
	}}
	if diff := cmp.Diff(want, j.sent); diff != "" {
		t.Error(diff)
	}
	j.broken = errors.New("full")
	if _, err := n.Run(t.Context(), call); err == nil || action.IsFailed(err) {
		t.Errorf("got %v, want an error that is tried again", err)
	}
	for want, inputs := range map[string]map[string]any{
		"name those who are told": {"title": "a"},
		"title: one line":         {"title": "a\r\nBcc: b", "users": []string{"li"}},
		"roles:":                  {"title": "a", "roles": []string{"Root"}},
		"a name is empty":         {"title": "a", "users": []string{""}},
		"text: more than":         {"title": "a", "users": []string{"li"}, "text": strings.Repeat("x", maxText+1)},
	} {
		if _, err := n.Run(t.Context(), callOf(j, inputs)); err == nil || !strings.Contains(err.Error(), want) || !action.IsFailed(err) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
