package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
)

func TestCommands(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a", "b.txt")
	server := httptest.NewServer(handler(slog.New(slog.DiscardHandler)))
	defer server.Close()
	for reason, c := range map[string]struct {
		words []string
		want  string
		code  int
		err   string
	}{
		"write and read":                {[]string{"sh", "-c", "write " + file + " 你好 world && cat " + file}, "你好 world\n", 0, ""},
		"quotes":                        {[]string{"sh", "-c", `print "a  b"'c' "" d`}, "a  bc  d\n", 0, ""},
		"and stops after a failure":     {[]string{"sh", "-c", "exit 3 && print no"}, "", 3, ""},
		"a semicolon does not":          {[]string{"sh", "-c", "exit 3; print yes"}, "yes\n", 0, ""},
		"a skipped command skips on":    {[]string{"sh", "-c", "exit 3 && print no && print no"}, "", 3, ""},
		"a quote that stays open":       {[]string{"sh", "-c", "print 'a"}, "", 0, "is not closed"},
		"exit with a last word":         {[]string{"exit", "7", "no", "space"}, "no space\n", 7, ""},
		"exit with a code that is none": {[]string{"exit", "x"}, "", 0, "a code is 0 to 255"},
		"a page":                        {[]string{"get", server.URL + "/healthz"}, "200 OK\nok\n", 0, ""},
		"a page that is not well":       {[]string{"get", server.URL + "/status/503"}, "503 Service Unavailable\nService Unavailable\n", 1, ""},
		"a name":                        {[]string{"nslookup", "127.0.0.1"}, "127.0.0.1\n", 0, ""},
		"a file that is not there":      {[]string{"cat", "/none"}, "", 0, "no such file"},
		"sleep for no time":             {[]string{"sleep", "0"}, "", 0, ""},
		"an unknown command":            {[]string{"reboot"}, "", 0, "unknown command"},
	} {
		t.Run(reason, func(t *testing.T) {
			var out bytes.Buffer
			err := run(t.Context(), c.words, &out)
			if diff := cmp.Diff(c.want, out.String()); diff != "" {
				t.Error(diff)
			}
			var code exitCode
			switch {
			case errors.As(err, &code):
				if int(code) != c.code {
					t.Errorf("exit code %d, want %d", code, c.code)
				}
			case (err == nil) != (c.err == "" && c.code == 0), err != nil && !strings.Contains(err.Error(), c.err):
				t.Errorf("got error %v, want %q", err, c.err)
			}
		})
	}
}

func TestServe(t *testing.T) {
	g := NewWithT(t)
	t.Setenv("ECHO_VERSION", "v9")
	t.Setenv("DB_PASSWORD", "hunter2")
	server := httptest.NewServer(handler(slog.New(slog.DiscardHandler)))
	defer server.Close()

	var out bytes.Buffer
	g.Expect(run(t.Context(), []string{"get", server.URL + "/a/b?c=d", "X-Test: yes", "Host: shop.example"}, &out)).To(Succeed())
	_, body, _ := strings.Cut(out.String(), "\n")
	answer := map[string]any{}
	g.Expect(json.Unmarshal([]byte(body), &answer)).To(Succeed())
	g.Expect(answer).To(And(HaveKeyWithValue("path", "/a/b"), HaveKeyWithValue("query", "c=d"), HaveKeyWithValue("host", "shop.example"), HaveKeyWithValue("version", "v9")))

	out.Reset()
	g.Expect(run(t.Context(), []string{"get", server.URL + "/env"}, &out)).To(Succeed())
	g.Expect(out.String()).To(ContainSubstring(`"DB_PASSWORD": "(hidden)"`))
	g.Expect(out.String()).NotTo(ContainSubstring("hunter2"))
}

func TestServeStopsAndEchoes(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			g := NewWithT(t)
			log := &lockedBuffer{}
			go run(t.Context(), []string{"serve", "--http", "", "--" + network, "127.0.0.1:0"}, log) // ends with the test
			address := ""
			g.Eventually(func() string {
				line := map[string]string{}
				if json.Unmarshal([]byte(log.String()), &line) == nil {
					address = line[network]
				}
				return address
			}).ShouldNot(BeEmpty())
			var out bytes.Buffer
			g.Expect(run(t.Context(), []string{"dial", network, address, "hello", "there"}, &out)).To(Succeed())
			g.Expect(out.String()).To(Equal(hostname() + " hello there\n"))

			out.Reset()
			nobody := network + "://127.0.0.1:1"
			g.Expect(run(t.Context(), []string{"reach", "--timeout", "200ms", network + "://" + address, nobody}, &out)).To(Succeed())
			g.Expect(strings.Split(strings.TrimSpace(out.String()), "\n")).To(ConsistOf(network+"://"+address+" "+hostname(), nobody+" -"))
			out.Reset()
			g.Expect(run(t.Context(), []string{"reach", "--every", "10ms", "--for", "200ms", "--keep", network + "://" + address}, &out)).To(Succeed())
			g.Expect(out.String()).To(HaveSuffix(" "+network+"://"+address+" "+hostname()+"\n"), "what does not change is said once, with its time")
		})
	}
}

// lockedBuffer is written by a server while a test reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
