package member

import (
	"net/netip"
	"slices"
)

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
