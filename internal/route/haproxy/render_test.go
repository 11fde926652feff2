package haproxy

import (
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"yunfan.io/yunfan/internal/route/table"
)

var update = flag.Bool("update", false, "write the golden files anew")

// requireHAProxy gives the program. Without it nothing is proven: make test installs it.
func requireHAProxy(t *testing.T) string {
	t.Helper()
	program, err := find("")
	if err != nil {
		t.Fatal(err)
	}
	return program
}

var health = table.Health{Path: "/healthz", Interval: 2 * time.Second, Failures: 2}

func targets(weights ...int) []table.Target {
	var all []table.Target
	for i, weight := range weights {
		all = append(all, table.Target{
			Name: fmt.Sprintf("edu-p%d.beijing", i), Label: fmt.Sprintf("edu/p%d", i), Weight: weight,
			Servers: []string{fmt.Sprintf("192.0.2.%d:30080", 2*i+1), fmt.Sprintf("192.0.2.%d:30080", 2*i+2)},
		})
	}
	return all
}

func hostile() *table.Table {
	evil := "a'b\"c\\d #e\n  http-request deny\n{ } $HOME %[src] ,) "
	return &table.Table{Pools: []table.Pool{
		{Name: evil, Targets: targets(1), Health: health},
		{Name: "hosts", Hosts: []string{evil, "a b", "good.example.com"}, Targets: targets(1), Health: health},
		{Name: "paths", Hosts: []string{"paths.example.com"}, Targets: targets(1), Health: health, Paths: []table.Path{
			{Type: table.PathExact, Value: "/x" + evil}, {Type: table.PathPrefix, Value: "/#'\"$HOME{}%[src]\\"},
			{Type: table.PathRegex, Value: `^/a b'"#$HOME\s{1,2}(x|y)%[src] if { always_true }$`}, {Type: table.PathRegex, Value: "("}, {Type: table.PathRegex, Value: "a\nb"},
		}},
		{Name: "lists", Hosts: []string{"lists.example.com"}, Allow: []string{"10.0.0.0/8\n0.0.0.0/0"}, Deny: []string{evil}, Targets: targets(1), Health: health},
		{Name: "networks", Hosts: []string{"networks.example.com"}, Networks: []table.Network{{Name: evil, CIDRs: []string{"10.0.0.0/8"}}, {Name: "n1", CIDRs: []string{"10.1.2.3/8"}}}, Targets: targets(1), Health: health},
		{Name: "health", Hosts: []string{"*.example.org"}, Health: table.Health{Path: "/a b" + evil}, Targets: targets(1)},
		{Name: "quoted", Hosts: []string{"quoted.example.org"}, Health: table.Health{Path: `/'"#$HOME\%[src]`}, Targets: targets(1)},
		{Name: "cookie", Hosts: []string{"cookie.example.org"}, Affinity: &table.Affinity{Cookie: evil}, Health: health, Targets: targets(1)},
		{Name: "target", Hosts: []string{"target.example.org"}, Health: health, Targets: []table.Target{{Name: evil, Weight: 1}, {Name: "t", Weight: 1, Servers: []string{evil, "host:1", "192.0.2.1:0", "[fd00::1]:80"}}}},
		{Name: "faults", Hosts: []string{"faults.example.org"}, Health: health, Targets: targets(1), Fault: &table.Fault{
			AbortPercent: 100, AbortStatus: 503, Matches: []table.Match{
				{Headers: []table.ValueMatch{{Name: "X'#$&%", Value: "a'b\"c\\d #e $HOME %[src] ,) }"}, {Name: "X-R", Value: `^[ '"#]+(a)$`, Regex: true}}},
				{Headers: []table.ValueMatch{{Name: "a b", Value: "x"}}},
				{Query: []table.ValueMatch{{Name: "q'#", Value: "-f /etc/passwd"}}, Cookies: []table.ValueMatch{{Name: "c", Value: "-i"}}, Method: "GET } { x", Clients: []string{"10.0.0.0/8"}},
			},
		}},
	}, Certificates: []table.Certificate{{Name: evil, Hosts: []string{evil}, Chain: evil, Key: evil}}}
}

func cases() map[string]*table.Table {
	all := table.Pool{
		Name: "shop.web", Hosts: []string{"shop.example.com", "*.shop.example.com"}, RedirectHTTP: true,
		Paths:   []table.Path{{Type: table.PathExact, Value: "/cart"}, {Type: table.PathPrefix, Value: "/api/"}, {Type: table.PathRegex, Value: "^/item/[0-9]+$"}},
		Targets: targets(70, 30), Affinity: &table.Affinity{}, RateLimit: &table.RateLimit{Requests: 10, Period: time.Second, PerClient: true},
		Allow: []string{"10.0.0.0/8", "127.0.0.1"}, Deny: []string{"10.9.0.0/16"}, Networks: []table.Network{{Name: "n123", CIDRs: []string{"10.1.0.0/16"}}},
		Retries: 2, Health: health,
		Fault: &table.Fault{
			DelayPercent: 100, Delay: 2 * time.Second, AbortPercent: 50, AbortStatus: 500,
			Matches: []table.Match{{Path: &table.Path{Type: table.PathPrefix, Value: "/api"}, Method: "GET", Headers: []table.ValueMatch{{Name: "User", Value: "jason"}}}},
		},
	}
	closed := table.Pool{Name: "closed", Affinity: &table.Affinity{}, Targets: targets(1, 1), Health: health}
	closed.Targets[0].Closed = true
	return map[string]*table.Table{
		"empty":   {},
		"all":     {Pools: []table.Pool{closed, all, {Name: "source", Hosts: []string{"*.example.com"}, Affinity: &table.Affinity{ClientIP: true}, Targets: targets(5, 1000), Health: health}}},
		"hostile": hostile(),
	}
}

func TestRender(t *testing.T) {
	for name, given := range cases() {
		t.Run(name, func(t *testing.T) {
			got, err := render(given, site{dir: "/var/lib/yunfan/edge", relay: "/run/relay", http: "192.0.2.9:80", https: "192.0.2.9:443", connections: 1000})
			if err != nil {
				t.Fatal(err)
			}
			files := strings.Builder{}
			files.WriteString(got.files[configFile])
			for _, file := range sortedNames(got.files) {
				if file != configFile && file != delayFile {
					fmt.Fprintf(&files, "\n=== %s\n%s", file, got.files[file])
				}
			}
			fmt.Fprintf(&files, "\n=== unsupported\n%s\n", strings.Join(got.unsupported, "\n"))
			path := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(files.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), files.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What is rendered is taken by HAProxy itself, without a word.
func TestRenderIsTaken(t *testing.T) {
	program := requireHAProxy(t)
	for name, given := range cases() {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			d := &Driver{site: site{dir: dir, relay: dir, http: "127.0.0.1:80", https: "127.0.0.1:443", connections: 1000}}
			for _, folder := range []string{"maps", "certificates"} {
				if err := os.Mkdir(filepath.Join(d.site.dir, folder), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := writeDefaultCertificate(d.path(defaultCertificate)); err != nil {
				t.Fatal(err)
			}
			p, err := render(given, d.site)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.write(p); err != nil {
				t.Fatal(err)
			}
			output, err := exec.CommandContext(t.Context(), program, "-c", "-f", d.path(configFile)).CombinedOutput()
			if err != nil || strings.Contains(string(output), "WARNING") {
				t.Errorf("%v: %s", err, output)
			}
		})
	}
}

func TestWeights(t *testing.T) {
	tests := map[string]struct {
		reason  string
		targets []table.Target
		want    []int
	}{
		"equal":        {"small numbers where they do", targets(50, 50), []int{1, 1}},
		"canary":       {"one percent is one percent", targets(99, 1), []int{99, 1}},
		"closed":       {"weight 0 gets nothing", targets(5, 0), []int{1, 0}},
		"nothing":      {"nobody open", targets(0, 0), []int{0, 0}},
		"large":        {"more than HAProxy has: the smallest is kept open", targets(1000, 1), []int{256, 1}},
		"servers":      {"targets share, not servers", []table.Target{{Weight: 50, Servers: []string{"a", "b"}}, {Weight: 50, Servers: []string{"c"}}}, []int{1, 2}},
		"no servers":   {"a target without servers takes part in nothing", []table.Target{{Weight: 50}, {Weight: 1, Servers: []string{"c"}}}, []int{0, 1}},
		"closed is 0":  {"closed before weight", []table.Target{{Weight: 50, Closed: true, Servers: []string{"a"}}, {Weight: 7, Servers: []string{"c"}}}, []int{0, 1}},
		"three thirds": {"primes", targets(333, 333, 334), nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := weights(test.targets)
			if test.want != nil && !cmp.Equal(got, test.want) {
				t.Errorf("%s: got %v, want %v", test.reason, got, test.want)
			}
		})
	}
	for a := 0; a <= 1000; a += 7 {
		for b := 1; b <= 1000; b += 13 {
			given := targets(a, b, 100)
			given[1].Servers = given[1].Servers[:1]
			wanted := []float64{float64(a) / 2, float64(b), 50}
			if off := deviation(given, wanted, weights(given)); off > 0.01 || math.IsNaN(off) {
				t.Fatalf("%d, %d and 100 are off by %v", a, b, off)
			}
		}
	}
}

// shortDir is a folder whose path is short enough for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ha") //nolint:usetesting // the path of t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func sortedNames(files map[string]string) []string { return slices.Sorted(maps.Keys(files)) }
