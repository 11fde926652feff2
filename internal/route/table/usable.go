package table

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
)

// Usable gives the table without what no load balancer could serve: expressions and ranges that do not parse,
// certificates that are none, addresses without a port. It says what was left out, pool by pool. What keeps clients out
// is never left out alone: the pool closes all its targets then.
func (t *Table) Usable() (usable *Table, left []string) {
	usable = &Table{}
	for _, pool := range t.Pools {
		anyPath := len(pool.Paths) == 0
		var said []string
		pool, said = pool.usable()
		if anyPath || len(pool.Paths) > 0 {
			usable.Pools = append(usable.Pools, pool)
		}
		for _, text := range said {
			left = append(left, fmt.Sprintf("pool %s: %s", pool.Name, text))
		}
	}
	for _, c := range t.Certificates {
		if _, err := tls.X509KeyPair([]byte(c.Chain), []byte(c.Key)); err != nil {
			left = append(left, fmt.Sprintf("certificate %s: %v", c.Name, err))
			continue
		}
		usable.Certificates = append(usable.Certificates, c)
	}
	return usable, left
}

func (p Pool) usable() (Pool, []string) {
	var said []string
	p.Paths = slices.DeleteFunc(slices.Clone(p.Paths), func(path Path) bool {
		if path.Type != PathRegex {
			return false
		}
		_, err := regexp.Compile(path.Value)
		if err != nil {
			said = append(said, fmt.Sprintf("the path %q is no expression: %v", path.Value, err))
		}
		return err != nil
	})
	closed := false
	for _, ranges := range [][]string{p.Allow, p.Deny} {
		for _, text := range ranges {
			if _, err := netip.ParsePrefix(text); err != nil {
				said, closed = append(said, fmt.Sprintf("closed, since %q is no range of addresses", text)), true
			}
		}
	}
	if closed {
		p.Allow, p.Deny = nil, nil
	}
	p.Networks = slices.Clone(p.Networks)
	for i := range p.Networks {
		n := &p.Networks[i]
		n.CIDRs = slices.DeleteFunc(slices.Clone(n.CIDRs), func(text string) bool {
			_, err := netip.ParsePrefix(text)
			return err != nil
		})
	}
	p.Targets = slices.Clone(p.Targets)
	for i := range p.Targets {
		target := &p.Targets[i]
		target.Closed = target.Closed || closed
		target.Servers = slices.DeleteFunc(slices.Clone(target.Servers), func(address string) bool {
			_, _, err := net.SplitHostPort(address)
			if err != nil {
				said = append(said, fmt.Sprintf("%q of %s is no address with a port", address, target.Name))
			}
			return err != nil
		})
	}
	return p, said
}
