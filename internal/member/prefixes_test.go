package member

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAggregate(t *testing.T) {
	cases := map[string]struct {
		reason   string
		in, want []string
		most     int
	}{
		"None":     {"nothing", nil, nil, 4},
		"Apart":    {"two that have nothing in common", []string{"10.0.0.7/32", "10.0.0.1/32"}, []string{"10.0.0.1/32", "10.0.0.7/32"}, 4},
		"Halves":   {"four halves of halves", []string{"10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"}, []string{"10.0.0.0/22"}, 4},
		"NotOne":   {"neighbours that are not halves of one", []string{"10.0.1.0/24", "10.0.2.0/24"}, []string{"10.0.1.0/24", "10.0.2.0/24"}, 4},
		"Within":   {"one within another, and twice", []string{"10.0.0.5/32", "10.0.0.0/8", "10.0.0.5/32"}, []string{"10.0.0.0/8"}, 4},
		"TooMany":  {"more than are wanted", []string{"10.0.0.1/32", "10.0.0.3/32", "10.9.0.1/32"}, []string{"10.0.0.0/30", "10.9.0.0/31"}, 2},
		"TwoKinds": {"addresses of both kinds", []string{"fd00::1/128", "10.0.0.1/32"}, []string{"10.0.0.1/32", "fd00::1/128"}, 1},
		"Unmasked": {"a host's address with its network's length", []string{"10.0.0.5/24"}, []string{"10.0.0.0/24"}, 1},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range Aggregate(parse(tc.in), tc.most) {
				got = append(got, p.String())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
	t.Run("Random", func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		for range 100 {
			var in []netip.Prefix
			for range random.IntN(200) {
				in = append(in, netip.MustParsePrefix(fmt.Sprintf("10.0.%d.%d/%d", random.IntN(4), random.IntN(256), 24+random.IntN(9))))
			}
			most := 1 + random.IntN(20)
			out := Aggregate(slices.Clone(in), most)
			if len(out) > most {
				t.Fatalf("%d ranges instead of at most %d", len(out), most)
			}
			for _, p := range in {
				if !slices.ContainsFunc(out, func(o netip.Prefix) bool { return o.Bits() <= p.Bits() && o.Contains(p.Addr()) }) {
					t.Fatalf("%s is in none of %v", p, out)
				}
			}
		}
	})
}

func parse(texts []string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

func TestAddress(t *testing.T) {
	for host, want := range map[string]string{
		"https://198.18.0.10:6443": "198.18.0.10:6443", "https://198.18.0.10": "198.18.0.10:443", "https://[fd00::1]:6443/x": "[fd00::1]:6443",
		"https://127.0.0.1:6443": "", "https://api.example.com:6443": "", "198.18.0.10:6443": "", "": "",
	} {
		got, ok := Address(host)
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%q: want %q, got %v %v", host, want, got, ok)
		}
	}
}
