package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
)

// ask gives what the gauge answers.
func ask(t *testing.T, url string) (map[string]int, int) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/connections", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	counts := map[string]int{}
	if answer.StatusCode == http.StatusOK {
		if err := json.NewDecoder(answer.Body).Decode(&counts); err != nil {
			t.Fatal(err)
		}
	}
	return counts, answer.StatusCode
}

// TestConnections opens real ones, of both protocols, and asks for their number as they come and go. The server's end is
// not in it: its port is listened on.
func TestConnections(t *testing.T) {
	gauge := httptest.NewServer(handler(proc))
	t.Cleanup(gauge.Close)
	for name, listen := range map[string]string{"IPv4": "127.0.0.1:0", "IPv6": "[::1]:0"} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			server, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", listen)
			if err != nil {
				t.Skip("this machine has no " + name)
			}
			t.Cleanup(func() { _ = server.Close() })
			go func() {
				for {
					c, err := server.Accept()
					if err != nil {
						return
					}
					go func() { _, _ = io.Copy(io.Discard, c); _ = c.Close() }()
				}
			}()
			of := server.Addr().String()
			var open []net.Conn
			for range 3 {
				c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", of)
				g.Expect(err).NotTo(HaveOccurred())
				open = append(open, c)
			}
			counts, _ := ask(t, gauge.URL)
			g.Expect(counts).To(HaveKeyWithValue(of, 3))
			for remote := range counts {
				for _, c := range open {
					g.Expect(remote).NotTo(Equal(c.LocalAddr().String()), "the other end of a connection that was counted")
				}
			}
			g.Expect(open[0].Close()).To(Succeed())
			g.Eventually(func() int { counts, _ := ask(t, gauge.URL); return counts[of] }, "20s").Should(Equal(2))
			for _, c := range open[1:] {
				_ = c.Close()
			}
			g.Eventually(func() map[string]int { counts, _ := ask(t, gauge.URL); return counts }, "20s").ShouldNot(HaveKey(of))
		})
	}
}

func TestFiles(t *testing.T) {
	const heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	tests := map[string]struct {
		reason    string
		tcp, tcp6 string
		want      map[string]int
		status    int
	}{
		"Mapped":    {"A socket of IPv6 that talks IPv4 is counted as IPv4.", heading, heading + " 0: 0000000000000000FFFF00000501F40A:9C40 0000000000000000FFFF00000601F40A:1F90 01 x\n", map[string]int{"10.244.1.6:8080": 1}, http.StatusOK},
		"States":    {"One that is being opened or closed carries no request.", heading + " 0: 0501F40A:9C40 0601F40A:1F90 02 x\n 1: 0501F40A:9C41 0601F40A:1F90 06 x\n 2: 0501F40A:9C42 0601F40A:1F90 08 x\n", heading, map[string]int{}, http.StatusOK},
		"No IPv6":   {"Kernels without IPv6 have one file only.", heading + " 0: 0501F40A:9C40 0601F40A:1F90 01 x\n", "", map[string]int{"10.244.1.6:8080": 1}, http.StatusOK},
		"Not ours":  {"What came in is not what was sent on.", heading + " 0: 00000000:1F40 00000000:0000 0A x\n 1: 0501F40A:1F40 0601F40A:1F90 01 x\n", "", map[string]int{}, http.StatusOK},
		"Nonsense":  {"Half an answer would say that nothing is under way.", heading + " 0: 0501F40A:9C40 hello:1F90 01 x\n", "", map[string]int{}, http.StatusInternalServerError},
		"No digits": {"", heading + " 0: 0501F4:9C40 0601F40A:1F90 01 x\n", "", map[string]int{}, http.StatusInternalServerError},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			for file, content := range map[string]string{"tcp": tc.tcp, "tcp6": tc.tcp6} {
				if content == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(folder, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			gauge := httptest.NewServer(handler(folder))
			defer gauge.Close()
			got, status := ask(t, gauge.URL)
			if diff := cmp.Diff(tc.want, got); diff != "" || status != tc.status {
				t.Errorf("%s: status %d, want %d; -want +got:\n%s", tc.reason, status, tc.status, diff)
			}
		})
	}
}
