package outbound

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func policy(t *testing.T, allow, deny string) Policy {
	t.Helper()
	p := Policy{}
	if allow != "" {
		if err := p.Allow.Set(allow); err != nil {
			t.Fatal(err)
		}
	}
	if deny != "" {
		if err := p.Deny.Set(deny); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func TestCheck(t *testing.T) {
	for address, tc := range map[string]struct {
		reason, allow, deny string
		want                bool
	}{
		"192.0.2.1":                     {reason: "an address like any other", want: true},
		"10.1.2.3":                      {reason: "an address of the house", want: true},
		"2001:db8::1":                   {reason: "an IPv6 address like any other", want: true},
		"fd00::1":                       {reason: "an IPv6 address of the house", want: true},
		"10.1.2.4":                      {reason: "in a range that the operator denies", deny: "10.0.0.0/8"},
		"10.1.2.5":                      {reason: "what is allowed overrules what is denied", deny: "10.0.0.0/8", allow: "10.1.2.5", want: true},
		"127.0.0.1":                     {reason: "this machine"},
		"127.255.3.4":                   {reason: "all of 127.0.0.0/8 is this machine"},
		"127.0.0.2":                     {reason: "allowed by the operator", allow: "127.0.0.2/32", want: true},
		"127.0.0.3":                     {reason: "next to what is allowed", allow: "127.0.0.2/32"},
		"::1":                           {reason: "this machine"},
		"0.0.0.0":                       {reason: "connects to this machine"},
		"0.1.2.3":                       {reason: "of this network"},
		"::":                            {reason: "connects to this machine"},
		"169.254.169.254":               {reason: "metadata"},
		"100.100.100.200":               {reason: "metadata of Alibaba Cloud"},
		"168.63.129.16":                 {reason: "metadata of Azure"},
		"fd00:ec2::254":                 {reason: "metadata of AWS over IPv6"},
		"fe80::1":                       {reason: "link-local"},
		"fe80::1%eth0":                  {reason: "link-local with a zone"},
		"224.0.0.1":                     {reason: "multicast"},
		"ff02::1":                       {reason: "multicast"},
		"255.255.255.255":               {reason: "broadcast"},
		"::ffff:127.0.0.1":              {reason: "IPv4-mapped"},
		"::ffff:169.254.169.254":        {reason: "IPv4-mapped"},
		"::ffff:127.0.0.9":              {reason: "IPv4-mapped, and that IPv4 address is allowed", allow: "127.0.0.9", want: true},
		"::127.0.0.1":                   {reason: "IPv4-compatible"},
		"::ffff:0:169.254.169.254":      {reason: "translated"},
		"64:ff9b::169.254.169.254":      {reason: "NAT64"},
		"64:ff9b::c000:201":             {reason: "NAT64 of an address like any other", want: true},
		"64:ff9b::7f00:1":               {reason: "NAT64 of this machine: allowing the gateway does not allow that", allow: "64:ff9b::/96"},
		"64:ff9b:1::a9fe:a9fe":          {reason: "local NAT64 with a prefix of 96 bits"},
		"64:ff9b:1:a9fe:a9:fe00::":      {reason: "local NAT64 with a prefix of 48 bits"},
		"64:ff9b:1:0:a9:fea9:fe00::":    {reason: "local NAT64 with a prefix of 64 bits"},
		"2002:7f00:1::1":                {reason: "6to4 of this machine"},
		"2002:a9fe:a9fe::":              {reason: "6to4 of the metadata"},
		"2001:0:c000:201:0:0:5601:5601": {reason: "Teredo, whose client is 169.254.169.254"},
	} {
		a, err := netip.ParseAddr(address)
		if err != nil {
			t.Fatal(err)
		}
		err = policy(t, tc.allow, tc.deny).Check(a)
		if (err == nil) != tc.want {
			t.Errorf("%s (%s): got %v, want allowed %v", address, tc.reason, err, tc.want)
		}
		if err != nil && !IsRefused(err) {
			t.Errorf("%s: IsRefused does not know %v", address, err)
		}
	}
}

func TestRefusedErrorSaysWhatToDo(t *testing.T) {
	err := policy(t, "", "10.0.0.0/8").Check(netip.MustParseAddr("::ffff:10.1.2.3"))
	want := "connections to 10.1.2.3 are refused: it is in 10.0.0.0/8, which --outbound-deny names; an operator can allow it with the server's --outbound-allow=10.1.2.3/32"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestPrefixes(t *testing.T) {
	p := policy(t, "10.0.0.5/8, 192.0.2.1,2001:db8::/32,::ffff:192.0.2.0/120", "").Allow
	if diff := cmp.Diff("10.0.0.0/8,192.0.2.1/32,2001:db8::/32,192.0.2.0/24", p.String()); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "example.org", "10.0.0.0/33", "10.0.0.0/8,", "::ffff:0:0/90"} {
		if err := new(Prefixes).Set(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
