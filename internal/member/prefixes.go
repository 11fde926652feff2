package member

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
)

// Address gives address and port of an API server's URL; false if its host is a name, or an address that only this
// machine can use.
func Address(host string) (netip.AddrPort, bool) {
	u, err := url.Parse(host)
	if err != nil {
		return netip.AddrPort{}, false
	}
	address, err := netip.ParseAddr(u.Hostname())
	if err != nil || address.IsLoopback() || address.IsUnspecified() {
		return netip.AddrPort{}, false
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		port = 443
	}
	return netip.AddrPortFrom(address, uint16(port)), true
}

// Aggregate gives ranges, at most as many as wanted for each of the two kinds of address, that hold all the given
// ones, in order. Ranges within others and halves of one are joined; only if there are still too many, addresses are
// held that were not given.
func Aggregate(prefixes []netip.Prefix, most int) []netip.Prefix {
	var four, six []netip.Prefix
	for _, p := range prefixes {
		switch {
		case !p.IsValid():
		case p.Addr().Is4():
			four = append(four, p.Masked())
		default:
			six = append(six, p.Masked())
		}
	}
	return slices.Concat(aggregate(four, most, 32), aggregate(six, most, 128))
}

func aggregate(prefixes []netip.Prefix, most, bits int) []netip.Prefix {
	joined := join(prefixes)
	for ; len(joined) > most && bits > 0; bits-- {
		for i, p := range joined {
			if p.Bits() >= bits {
				joined[i] = netip.PrefixFrom(p.Addr(), bits-1).Masked()
			}
		}
		joined = join(joined)
	}
	return joined
}

// join leaves out what is within others, and makes one of two halves.
func join(prefixes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	var out []netip.Prefix
	for _, p := range prefixes {
		if len(out) > 0 && out[len(out)-1].Overlaps(p) { // in this order the wider one comes first
			continue
		}
		out = append(out, p)
		for len(out) > 1 {
			last, before := out[len(out)-1], out[len(out)-2]
			if last.Bits() != before.Bits() || last.Bits() == 0 {
				break
			}
			both := netip.PrefixFrom(before.Addr(), before.Bits()-1).Masked()
			if both.Addr() != before.Addr() || !both.Contains(last.Addr()) {
				break
			}
			out = append(out[:len(out)-2], both)
		}
	}
	return out
}
