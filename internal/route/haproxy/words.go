package haproxy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// word writes a text as one word of HAProxy's configuration, whatever is in it: every byte that could mean something is
// written as \xHH, so that nothing breaks out of its place.
func word(text string) string {
	if text == "" {
		return `""`
	}
	var out strings.Builder
	for i := range len(text) {
		c := text[i]
		if plain(c) {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, `\x%02x`, c)
		}
	}
	return out.String()
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_-./:", c) >= 0
}

// argument writes a text as an argument in the brackets of a fetch method, in a word of its own: there are quotes and
// backslashes in there, too.
func argument(text string) string {
	return word(strings.NewReplacer(`\`, `\\`, `'`, `\'`, `"`, `\"`).Replace(text))
}

// control says whether there are characters in a text that no request can have, or that end lines and texts.
func control(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f })
}

var (
	// names are what pools, targets and networks may be called: what HAProxy takes as a name, and no slash.
	names = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,250}$`)
	hosts = regexp.MustCompile(`^[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?$`)
	// tokens are the names of headers, cookies and query parameters.
	tokens  = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}$")
	cookies = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	folders = regexp.MustCompile(`^/[A-Za-z0-9._/-]+$`)
)

// ranges gives client ranges, or addresses, as lines of a file.
func ranges(cidrs []string) (string, error) {
	var out strings.Builder
	for _, cidr := range cidrs {
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil {
			address, other := netip.ParseAddr(cidr)
			if other != nil || address.Zone() != "" {
				return "", fmt.Errorf("%q is no range of addresses", cidr)
			}
			prefix = netip.PrefixFrom(address, address.BitLen())
		}
		out.WriteString(prefix.Masked().String() + "\n")
	}
	return out.String(), nil
}

// digest names a content, short.
func digest(parts ...string) string {
	sum := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(sum, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}
