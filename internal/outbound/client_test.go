package outbound

import (
	"compress/gzip"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const here = "127.0.0.1/32"

// ask sends one request and reads the answer.
func ask(t *testing.T, c *Client, address string, change ...func(*http.Request)) (*http.Response, string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(r)
	}
	response, err := c.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response, string(body), err
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// names is a resolver that asks a DNS server of the test: it answers each question about an IPv4 address with the next
// of the addresses, and the last for ever.
func names(t *testing.T, addresses ...string) *net.Resolver {
	t.Helper()
	server, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	go func() {
		const header, typeA = 12, 1
		for packet := make([]byte, 512); ; {
			n, from, err := server.ReadFrom(packet)
			if err != nil {
				return
			}
			end := header
			for end < n && packet[end] != 0 {
				end += int(packet[end]) + 1
			}
			end += 5 // the end of the name, type and class
			answer := slices.Clone(packet[:end])
			answer[2], answer[3] = 0x81, 0x80 // an answer, and all is well
			copy(answer[6:header], []byte{0, 0, 0, 0, 0, 0})
			if answer[end-3] == typeA {
				answer[7] = 1
				a := netip.MustParseAddr(addresses[0]).As4()
				answer = append(answer, 0xc0, header, 0, typeA, 0, 1, 0, 0, 0, 0, 0, 4, a[0], a[1], a[2], a[3])
				if len(addresses) > 1 {
					addresses = addresses[1:]
				}
			}
			_, _ = server.WriteTo(answer, from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp4", server.LocalAddr().String())
	}}
}

func TestClientReachesOnlyWhatIsAllowed(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "reached") })
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())

	if _, body, err := ask(t, NewClient(policy(t, here, ""), Options{}), s.URL); err != nil || body != "reached" {
		t.Errorf("what is allowed was not reached: %v", err)
	}
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "169.254.169.254"} {
		_, _, err := ask(t, NewClient(Policy{}, Options{Timeout: 10 * time.Second}), "http://"+host+":"+port)
		if err == nil {
			t.Errorf("%s was reached", host)
		}
		if netipHost := strings.Trim(host, "[]"); err != nil && !IsRefused(err) {
			if _, perr := netip.ParseAddr(netipHost); perr == nil || host == "localhost" {
				t.Errorf("%s was tried: %v", host, err)
			}
		}
	}
}

func TestClientChecksTheAddressItConnectsTo(t *testing.T) {
	var served atomic.Int32
	s := serve(t, func(http.ResponseWriter, *http.Request) { served.Add(1) })
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	c := NewClient(policy(t, here, ""), Options{Resolver: names(t, "127.0.0.1", "169.254.169.254", "127.0.0.1")})
	address := "http://rebinding.test:" + port

	if _, _, err := ask(t, c, address); err != nil {
		t.Fatalf("the first answer of the resolver is allowed: %v", err)
	}
	_, _, err := ask(t, c, address)
	if !IsRefused(err) || !strings.Contains(err.Error(), "169.254.169.254") {
		t.Errorf("the second answer of the resolver was not refused: %v", err)
	}
	if _, _, err := ask(t, c, address); err != nil || served.Load() != 2 {
		t.Errorf("got %v and %d requests, want the third answer to be reached again", err, served.Load())
	}
}

func TestClientRedirects(t *testing.T) {
	var target, got string
	other := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = fmt.Sprintf("%s %s|%s|%s|%s|%s|%s", r.Method, r.Header.Get("Authorization"), r.Header.Get("Cookie"), r.Header.Get("X-Api-Key"), r.Header.Get("Referer"), r.Header.Get("Accept"), body)
	})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/end":
			got = "end " + r.Header.Get("X-Api-Key")
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/keep":
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		default:
			http.Redirect(w, r, target, http.StatusFound)
		}
	})
	secret := func(r *http.Request) {
		r.Header.Set("Authorization", "Bearer s3cret")
		r.Header.Set("Cookie", "s3cret=s3cret")
		r.Header.Set("X-Api-Key", "s3cret")
		r.Header.Set("Accept", "text/plain")
	}
	post := func(r *http.Request) {
		r.Method, r.Body = http.MethodPost, io.NopCloser(strings.NewReader("s3cret"))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("s3cret")), nil }
	}
	follow := NewClient(policy(t, here, ""), Options{FollowRedirects: true, Resolver: names(t, "127.0.0.1", "127.0.0.2")})

	for name, tc := range map[string]struct {
		from, to string
		change   func(*http.Request)
		stay     bool
		want     string // what the last server got
		err      string
		refused  bool
	}{
		"not followed unless asked for":        {to: "/end", stay: true},
		"on the same host everything goes on":  {to: "/end", want: "end s3cret"},
		"on another nothing secret does":       {from: "/?key=s3cret", to: other.URL, want: "GET ||||text/plain|"},
		"the body goes to no other host":       {from: "/keep", change: post, err: "would take what is sent to another host"},
		"to the metadata of a cloud":           {to: "http://169.254.169.254/latest", refused: true},
		"to a name of this machine":            {to: "http://localhost.test/", from: "http://first.test:PORT/", refused: true},
		"to this machine over IPv6":            {to: "http://[::1]/", refused: true},
		"in a circle":                          {from: "/loop", err: "more than 3 redirects"},
		"to something that is not HTTP at all": {to: "file:///etc/passwd", err: "unsupported protocol scheme"},
	} {
		t.Run(name, func(t *testing.T) {
			target, got = tc.to, ""
			from := s.URL + tc.from
			if strings.HasPrefix(tc.from, "http") {
				_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
				from = strings.Replace(tc.from, "PORT", port, 1)
			}
			c := follow
			if tc.stay {
				c = NewClient(policy(t, here, ""), Options{})
			}
			change := secret
			if tc.change != nil {
				change = tc.change
			}
			response, _, err := ask(t, c, from, change)
			switch {
			case tc.refused:
				if !IsRefused(err) {
					t.Errorf("got %v, want the address refused", err)
				}
			case tc.err != "":
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("got %v, want %q", err, tc.err)
				}
			case err != nil:
				t.Error(err)
			case tc.stay && response.StatusCode != http.StatusFound:
				t.Errorf("got %s", response.Status)
			}
			if got != tc.want {
				t.Errorf("the last server got %q, want %q", got, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}

func TestClientNeverGoesFromHTTPSToHTTP(t *testing.T) {
	plain := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("reached without TLS") })
	s := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	_, _, err := ask(t, NewClient(policy(t, here, ""), Options{FollowRedirects: true, Roots: roots}), s.URL)
	if err == nil || !strings.Contains(err.Error(), "from https to http is refused") {
		t.Errorf("got %v", err)
	}
	if _, _, err := ask(t, NewClient(policy(t, here, ""), Options{}), s.URL); err == nil {
		t.Error("a certificate that nobody trusts was accepted")
	}
}

// TestClientEndsWhereverTheServerHangs has servers that stop at each stage of an answer.
func TestClientEndsWhereverTheServerHangs(t *testing.T) {
	ended := make(chan struct{})
	defer close(ended)
	hang := func(connection net.Conn, text string) {
		_, _ = io.WriteString(connection, text)
		<-ended
		connection.Close()
	}
	drip := func(connection net.Conn, _ string) {
		_, _ = io.WriteString(connection, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
		for {
			if _, err := io.WriteString(connection, "."); err != nil {
				return
			}
			select {
			case <-ended:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	for name, tc := range map[string]struct {
		scheme, text string
		serve        func(net.Conn, string)
	}{
		"before it accepts":          {"http", "", nil},
		"after it has accepted":      {"http", "", hang},
		"in the TLS handshake":       {"https", "", hang},
		"in the head of the answer":  {"http", "HTTP/1.1 200 OK\r\nX-Header:", hang},
		"after provisional answers":  {"http", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n", hang},
		"in the answer":              {"http", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", hang},
		"never, but takes its time":  {"http", "", drip},
		"in the middle of one chunk": {"http", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhalf", hang},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			if tc.serve != nil {
				go func() {
					for {
						connection, err := listener.Accept()
						if err != nil {
							return
						}
						go tc.serve(connection, tc.text)
					}
				}()
			}
			const timeout, patience = 500 * time.Millisecond, 30 * time.Second // the machine may be busy
			began := time.Now()
			_, _, err = ask(t, NewClient(policy(t, here, ""), Options{Timeout: timeout}), tc.scheme+"://"+listener.Addr().String())
			if err == nil {
				t.Error("there was an answer")
			}
			if took := time.Since(began); took > patience {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestClientBoundsAnswers(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/headers":
			w.Header().Set("X-Large", strings.Repeat("x", 2*maxHeader))
		case "/endless":
			for line := []byte(strings.Repeat("x", 1<<10)); ; {
				if _, err := w.Write(line); err != nil {
					return
				}
			}
		case "/packed":
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			defer z.Close()
			_, _ = io.Copy(z, io.LimitReader(zeros{}, 1<<20))
		default:
			fmt.Fprint(w, strings.Repeat("x", 1000))
		}
	})
	c := NewClient(policy(t, here, ""), Options{MaxBody: 1000})
	if _, body, err := ask(t, c, s.URL); err != nil || len(body) != 1000 {
		t.Errorf("got %d bytes and %v of an answer that is as large as it may be", len(body), err)
	}
	for _, path := range []string{"/endless", "/packed"} {
		if _, body, err := ask(t, c, s.URL+path); err == nil || !strings.Contains(err.Error(), "more than 1000 bytes") || len(body) != 1000 {
			t.Errorf("%s: got %d bytes and %v", path, len(body), err)
		}
	}
	if _, _, err := ask(t, c, s.URL+"/headers"); err == nil || !strings.Contains(err.Error(), "server response headers exceeded") {
		t.Errorf("got %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestClientErrorsTellNoSecrets(t *testing.T) {
	for _, address := range []string{
		"http://s3cret:s3cret@127.0.0.1/s3cret?key=s3cret#s3cret", "http://user:s3cret@unknown.invalid/?key=s3cret", "ftp://user:s3cret@192.0.2.1/?key=s3cret",
	} {
		_, _, err := ask(t, NewClient(Policy{}, Options{Timeout: 10 * time.Second}), address)
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("got %v", err)
		}
	}
}

func TestClientUsesNoProxyOfTheEnvironment(t *testing.T) {
	proxy := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the proxy was used") })
	t.Setenv("HTTP_PROXY", proxy.URL)
	_, _, err := ask(t, NewClient(policy(t, here, ""), Options{Timeout: 10 * time.Second}), "http://169.254.169.254/")
	if !IsRefused(err) {
		t.Errorf("got %v", err)
	}
}

func TestDial(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	connection, err := policy(t, here, "").Dial(t.Context(), listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	connection.Close()
	if _, err := (Policy{}).Dial(t.Context(), listener.Addr().String()); !IsRefused(err) {
		t.Errorf("got %v", err)
	}
}
