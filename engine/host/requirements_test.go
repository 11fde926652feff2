package host

import (
	"errors"
	"strings"
	"testing"
)

func TestCLU06_Requirements(t *testing.T) {
	good := Facts{OS: "linux", Kernel: "6.1.0-18-amd64", FreeDisk: 10 << 30}
	with := func(change func(*Facts)) Facts {
		f := good
		change(&f)
		return f
	}
	cases := map[string]struct {
		reason string
		facts  Facts
		want   []string // parts of the error; none: accepted
	}{
		"Good":       {"A current machine is accepted", good, nil},
		"Oldest":     {"3.10 is the oldest kernel accepted", with(func(f *Facts) { f.Kernel = "3.10.0-1160.el7.x86_64" }), nil},
		"Old":        {"An older kernel is refused with the reason", with(func(f *Facts) { f.Kernel = "3.9.11" }), []string{"kernel 3.9.11 is too old", "3.10"}},
		"Ancient":    {"Numbers are compared as numbers", with(func(f *Facts) { f.Kernel = "2.6.32" }), []string{"too old"}},
		"Unreadable": {"A release that cannot be read is refused", with(func(f *Facts) { f.Kernel = "custom" }), []string{"not understood"}},
		"Network":    {"A failed network probe is refused with the reason", with(func(f *Facts) { f.Network = errors.New("no NAT") }), []string{"network probe failed", "no NAT"}},
		"NotRoot":    {"Root is needed", with(func(f *Facts) { f.UID = 1000 }), []string{"needs root"}},
		"NotLinux":   {"Linux is needed", with(func(f *Facts) { f.OS = "darwin" }), []string{"Linux only"}},
		"Disk":       {"A full disk is refused", with(func(f *Facts) { f.FreeDisk = 1 << 20 }), []string{"1 MiB of disk"}},
		"All":        {"Every reason is given at once", Facts{OS: "linux", Kernel: "2.4", Missing: []string{"nft", "runc"}}, []string{"too old", "nft, runc", "disk"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := tc.facts.Check()
			if (err != nil) != (tc.want != nil) {
				t.Fatalf("%s: got error %v, want %q", tc.reason, err, tc.want)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s: got error %v, want %q", tc.reason, err, want)
				}
			}
		})
	}
}
