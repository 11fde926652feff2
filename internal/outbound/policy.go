package outbound

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Policy says which addresses may be reached. What it does not name is allowed, except what never is the business of a
// user's text: this machine itself, the link's own addresses (the metadata of clouds is there), and those that are no
// single machine's. All ports are the same to it.
type Policy struct {
	// Allow is reached whatever else is said.
	Allow Prefixes
	// Deny is refused besides what always is.
	Deny Prefixes
}

// always are refused unless they are allowed by name.
var always = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("127.0.0.0/8"), "this machine"},
	{netip.MustParsePrefix("::1/128"), "this machine"},
	{netip.MustParsePrefix("0.0.0.0/8"), "this machine"},
	{netip.MustParsePrefix("::/128"), "this machine"},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address, as the metadata of clouds have"},
	{netip.MustParsePrefix("fe80::/10"), "a link-local address"},
	{netip.MustParsePrefix("fec0::/10"), "a site-local address"},
	{netip.MustParsePrefix("224.0.0.0/4"), "a multicast address"},
	{netip.MustParsePrefix("ff00::/8"), "a multicast address"},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved address"},
	// Metadata of clouds that are not at a link-local address: Alibaba Cloud, Azure, Oracle Cloud, AWS.
	{netip.MustParsePrefix("100.100.100.200/32"), "the metadata of a cloud"},
	{netip.MustParsePrefix("168.63.129.16/32"), "the metadata of a cloud"},
	{netip.MustParsePrefix("192.0.0.192/32"), "the metadata of a cloud"},
	{netip.MustParsePrefix("fd00:ec2::254/128"), "the metadata of a cloud"},
}

// RefusedError says which address may not be reached, and what lets it.
type RefusedError struct {
	// Address that was about to be reached.
	Address netip.Addr
	reason  string
}

// Error names the flag of the server with which an operator allows the address.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("connections to %s are refused: it is %s; an operator can allow it with the server's --outbound-allow=%s",
		e.Address, e.reason, netip.PrefixFrom(e.Address, e.Address.BitLen()))
}

// IsRefused says whether a connection was not even tried, because the policy does not allow it.
func IsRefused(err error) bool {
	_, refused := errors.AsType[*RefusedError](err)
	return refused
}

// Check refuses an address that may not be reached. An IPv6 address that stands for an IPv4 address is judged as both:
// each must be allowed.
func (p Policy) Check(address netip.Addr) error {
	for _, a := range meanings(address.WithZone("").Unmap()) {
		if p.Allow.contains(a) {
			continue
		}
		if i := slices.IndexFunc(p.Deny, func(d netip.Prefix) bool { return d.Contains(a) }); i >= 0 {
			return &RefusedError{a, fmt.Sprintf("in %s, which --outbound-deny names", p.Deny[i])}
		}
		for _, d := range always {
			if d.prefix.Contains(a) {
				return &RefusedError{a, d.what}
			}
		}
	}
	return nil
}

var (
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291, long given up
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380
)

// meanings are the address itself and every IPv4 address that a gateway on the way may make of it.
func meanings(a netip.Addr) []netip.Addr {
	out := []netip.Addr{a}
	if a.Is4() {
		return out
	}
	b := a.As16()
	from := func(i int) { out = append(out, netip.AddrFrom4([4]byte(b[i:i+4]))) }
	switch {
	case a.IsUnspecified() || a.IsLoopback(): // in the first range, but themselves
	case compatible.Contains(a), translated.Contains(a), nat64.Contains(a):
		from(12)
	case localNAT64.Contains(a): // a prefix of 96 bits, of 64 bits, or of 48 bits: bits 64 to 71 are left out
		from(12)
		from(9)
		out = append(out, netip.AddrFrom4([4]byte{b[6], b[7], b[9], b[10]}))
	case sixToFour.Contains(a):
		from(2)
	case teredo.Contains(a): // the server, and the client with all bits turned over
		from(4)
		var client [4]byte
		binary.BigEndian.PutUint32(client[:], ^binary.BigEndian.Uint32(b[12:]))
		out = append(out, netip.AddrFrom4(client))
	}
	return out
}

// Prefixes are ranges of addresses. They are the value of a flag: addresses and ranges with commas between, and the flag
// may be given more than once.
type Prefixes []netip.Prefix

func (p Prefixes) contains(a netip.Addr) bool {
	return slices.ContainsFunc(p, func(one netip.Prefix) bool { return one.Contains(a) })
}

// String writes the ranges as Set reads them.
func (p *Prefixes) String() string {
	texts := make([]string, 0, len(*p))
	for _, one := range *p {
		texts = append(texts, one.String())
	}
	return strings.Join(texts, ",")
}

// Set adds ranges.
func (p *Prefixes) Set(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		prefix, err := netip.ParsePrefix(part)
		if address, aerr := netip.ParseAddr(part); aerr == nil {
			prefix, err = netip.PrefixFrom(address.WithZone(""), address.BitLen()), nil
		}
		if err != nil {
			return fmt.Errorf("reading %q: write an address or a range such as 10.0.0.0/8: %w", part, err)
		}
		if a := prefix.Addr(); a.Is4In6() { // Check sees such addresses as IPv4, and so must the range be.
			const mapped = 96
			if prefix.Bits() < mapped {
				return fmt.Errorf("reading %q: write the IPv4 range itself", part)
			}
			prefix = netip.PrefixFrom(a.Unmap(), prefix.Bits()-mapped)
		}
		*p = append(*p, prefix.Masked())
	}
	return nil
}

// Type is what the help of a flag calls the value.
func (*Prefixes) Type() string { return "addresses" }
