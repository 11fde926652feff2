// Package network wires an instance together: one bridge for the host, one bridge per cluster, joined by a single
// veth pair (the uplink), and a veth pair into every unit (control plane or node).
//
//	yf0 (host bridge, gateway address)
//	 └─ yf0u1 ═ yf0d1 ─ yf0c1 (bridge of cluster slot 1)
//	                     ├─ yf0c1-0 ═ eth0 of the control plane
//	                     └─ yf0c1-1 ═ eth0 of the first node
//
// Because a cluster hangs on one wire, cutting that wire isolates it while it goes on inside. All functions are
// idempotent. Interfaces have fixed MAC addresses, so neighbours find a restarted unit at once.
package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"yunfan.io/engine/topology"
)

// Net is the network of one instance.
type Net struct{ topology.Plan }

// Port is the place of a unit on its cluster's bridge: 0 is the control plane, n the node with index n-1.
type Port struct{ Slot, Number int }

// Address of the port's unit.
func (n Net) Address(p Port) netip.Addr {
	if p.Number == 0 {
		return n.ControlPlane(p.Slot)
	}
	return n.Node(p.Slot, p.Number-1)
}

// Route sends a range to a gateway.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

func (n Net) bridge() string                { return fmt.Sprintf("yf%d", n.Index) }
func (n Net) clusterBridge(slot int) string { return fmt.Sprintf("yf%dc%d", n.Index, slot) }
func (n Net) uplink(slot int) string        { return fmt.Sprintf("yf%du%d", n.Index, slot) }
func (n Net) downlink(slot int) string      { return fmt.Sprintf("yf%dd%d", n.Index, slot) }
func (n Net) port(p Port) string            { return fmt.Sprintf("yf%dc%d-%d", n.Index, p.Slot, p.Number) }
func (n Net) table() string                 { return fmt.Sprintf("yunfan%d", n.Index) }

// mac is locally administered and unique on the machine. side tells the ends of a pair apart.
func (n Net) mac(slot, number, side int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0x79, byte(side), byte(n.Index), byte(slot), byte(number)}
}

// EnsureHost makes the host bridge.
func (n Net) EnsureHost() error {
	link, err := ensureBridge(n.bridge(), n.mac(0, 0, 0))
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(link, address(n.Gateway(), n.Nodes().Bits())); err != nil {
		return fmt.Errorf("giving %s its address: %w", n.bridge(), err)
	}
	return nil
}

// EnsureCluster makes the bridge of a cluster and its uplink.
func (n Net) EnsureCluster(slot int) error {
	bridge, err := ensureBridge(n.clusterBridge(slot), n.mac(slot, 255, 0))
	if err != nil {
		return err
	}
	host, err := netlink.LinkByName(n.bridge())
	if err != nil {
		return fmt.Errorf("finding the host bridge: %w", err)
	}
	up, err := netlink.LinkByName(n.uplink(slot))
	if missing(err) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = n.uplink(slot)
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: n.downlink(slot)}); err != nil {
			return fmt.Errorf("making uplink %s: %w", attrs.Name, err)
		}
		up, err = netlink.LinkByName(n.uplink(slot))
	}
	if err != nil {
		return fmt.Errorf("finding uplink %s: %w", n.uplink(slot), err)
	}
	down, err := netlink.LinkByName(n.downlink(slot))
	if err != nil {
		return fmt.Errorf("finding uplink %s: %w", n.downlink(slot), err)
	}
	err = errors.Join(netlink.LinkSetMaster(up, host), netlink.LinkSetMaster(down, bridge), netlink.LinkSetUp(up), netlink.LinkSetUp(down))
	if err != nil {
		return fmt.Errorf("joining cluster bridge %s to the host: %w", n.clusterBridge(slot), err)
	}
	return nil
}

// Attach gives the network namespace of process pid its loopback, eth0 with the port's address and a default route.
// An interface left by a former unit is deleted first: namespaces disappear late, and a namesake would stay dark.
func (n Net) Attach(p Port, pid int) error {
	if err := remove(n.port(p)); err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(n.clusterBridge(p.Slot))
	if err != nil {
		return fmt.Errorf("finding the cluster bridge: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.port(p)
	attrs.MasterIndex = bridge.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: n.mac(p.Slot, p.Number, 1), PeerNamespace: netlink.NsPid(pid)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("making interface %s: %w", attrs.Name, err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return fmt.Errorf("raising interface %s: %w", attrs.Name, err)
	}
	return inside(pid, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("finding loopback: %w", err)
		}
		eth, err := h.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("finding eth0: %w", err)
		}
		err = errors.Join(h.LinkSetUp(lo), h.LinkSetUp(eth), h.AddrReplace(eth, address(n.Address(p), n.Nodes().Bits())))
		if err != nil {
			return fmt.Errorf("raising eth0: %w", err)
		}
		if err := h.RouteReplace(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: n.Gateway().AsSlice()}); err != nil {
			return fmt.Errorf("setting the default route: %w", err)
		}
		if p.Number == 0 {
			return nil
		}
		return n.closePods(h, n.NodePods(p.Slot, p.Number-1))
	})
}

// closePods makes a node answer "unreachable" for its pods that are not there. Without it they are sought behind the
// default route, and the node tells the sender so in an ICMP redirect: a pod asked for while its node restarts would
// then stay lost to the sender for five minutes.
func (n Net) closePods(h *netlink.Handle, pods netip.Prefix) error {
	if err := h.RouteReplace(&netlink.Route{Dst: ipnet(pods), Type: unix.RTN_UNREACHABLE}); err != nil {
		return fmt.Errorf("closing the pod range: %w", err)
	}
	return nil
}

// SetRoutes makes the given pod routes the only ones of a unit (pid > 0) or of the host (pid 0).
func (n Net) SetRoutes(pid int, routes []Route) error {
	if pid > 0 {
		return inside(pid, func(h *netlink.Handle) error { return n.setRoutes(h, "eth0", routes) })
	}
	h, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("setting routes: %w", err)
	}
	defer h.Close()
	return n.setRoutes(h, n.bridge(), routes)
}

func (n Net) setRoutes(h *netlink.Handle, device string, routes []Route) error {
	link, err := h.LinkByName(device)
	if err != nil {
		return fmt.Errorf("setting routes: %w", err)
	}
	have, err := h.RouteList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("listing routes: %w", err)
	}
	for _, r := range have {
		if r.Dst == nil || r.Gw == nil || !n.Range().Contains(mustAddr(r.Dst.IP)) {
			continue
		}
		kept := slices.ContainsFunc(routes, func(w Route) bool { return w.To.String() == r.Dst.String() })
		if !kept {
			if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("deleting route to %s: %w", r.Dst, err)
			}
		}
	}
	for _, r := range routes {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipnet(r.To), Gw: r.Via.AsSlice()}
		if err := h.RouteReplace(route); err != nil {
			return fmt.Errorf("setting route to %s: %w", r.To, err)
		}
	}
	return nil
}

// Isolation is the set of wires that are cut: whole clusters by slot, single units by port.
type Isolation struct {
	Clusters []int
	Ports    []Port
}

// Isolate cuts exactly the given wires and mends all others. Packets are dropped without an answer, both ways. ARP is
// let through: without it the sender would learn that nobody is there, which a real blackhole does not tell.
func (n Net) Isolate(ctx context.Context, cut Isolation) error {
	var names []string
	for _, slot := range cut.Clusters {
		names = append(names, fmt.Sprintf("%q", n.uplink(slot)))
	}
	for _, p := range cut.Ports {
		names = append(names, fmt.Sprintf("%q", n.port(p)))
	}
	if len(names) == 0 {
		return n.deleteTable(ctx, "bridge")
	}
	set := "{ " + strings.Join(names, ", ") + " }"
	return nft(ctx, fmt.Sprintf(`table bridge %[1]s
delete table bridge %[1]s
table bridge %[1]s {
 chain in { type filter hook prerouting priority -300; iifname %[2]s ether type != arp drop; }
 chain out { type filter hook postrouting priority 300; oifname %[2]s ether type != arp drop; }
}
`, n.table(), set))
}

// EnsureEgress lets pods reach networks beyond this machine by the machine's own address.
func (n Net) EnsureEgress(ctx context.Context) error {
	return nft(ctx, fmt.Sprintf(`table ip %[1]s
delete table ip %[1]s
table ip %[1]s {
 chain out { type nat hook postrouting priority 100; ip saddr %[2]s ip daddr != %[2]s masquerade; }
}
`, n.table(), n.Range()))
}

// NodeRules are the nftables rules inside a node: pods keep their address within the cluster and take the node's
// address outside. The CNI plugin's own masquerading would hide pods of other nodes too.
func NodeRules(pods netip.Prefix) string {
	return fmt.Sprintf(`table ip yunfan {
 chain post { type nat hook postrouting priority 101; ip saddr %[1]s ip daddr != %[1]s masquerade; }
}
`, pods)
}

// RemovePort deletes the interface of a unit.
func (n Net) RemovePort(p Port) error { return remove(n.port(p)) }

// RemoveCluster deletes a cluster's bridge and uplink.
func (n Net) RemoveCluster(slot int) error {
	return errors.Join(remove(n.uplink(slot)), remove(n.clusterBridge(slot)))
}

// RemoveAll deletes every interface and table of the instance, known or not; routes go with their interfaces.
func (n Net) RemoveAll(ctx context.Context) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("listing interfaces: %w", err)
	}
	var errs []error
	for _, l := range links {
		name := l.Attrs().Name
		if name == n.bridge() || len(name) > 3 && strings.HasPrefix(name, n.bridge()) && strings.ContainsAny(name[3:4], "cud") {
			errs = append(errs, remove(name))
		}
	}
	return errors.Join(append(errs, n.deleteTable(ctx, "bridge"), n.deleteTable(ctx, "ip"))...)
}

func (n Net) deleteTable(ctx context.Context, family string) error {
	return nft(ctx, fmt.Sprintf("table %[1]s %[2]s\ndelete table %[1]s %[2]s\n", family, n.table()))
}

// HostRoutes lists the ranges the machine already uses, except this instance's own interfaces (index -1: none).
func HostRoutes(index int) ([]topology.Network, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	own := map[int]bool{}
	if links, err := netlink.LinkList(); err == nil {
		for _, l := range links {
			own[l.Attrs().Index] = index >= 0 && strings.HasPrefix(l.Attrs().Name, Net{topology.Plan{Index: index}}.bridge())
		}
	}
	var out []topology.Network
	for _, r := range routes {
		if r.Dst == nil || own[r.LinkIndex] {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		if prefix := netip.PrefixFrom(mustAddr(r.Dst.IP), ones); ones > 0 {
			out = append(out, topology.Network{Name: "a route of this machine,", Prefix: prefix})
		}
	}
	return out, nil
}

func ensureBridge(name string, mac net.HardwareAddr) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if missing(err) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = name, mac
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return nil, fmt.Errorf("making bridge %s: %w", name, err)
		}
		link, err = netlink.LinkByName(name)
	}
	if err != nil {
		return nil, fmt.Errorf("finding bridge %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("raising bridge %s: %w", name, err)
	}
	return link, nil
}

func inside(pid int, do func(*netlink.Handle) error) error {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("entering the network of process %d: %w", pid, err)
	}
	defer func() { _ = ns.Close() }()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return fmt.Errorf("entering the network of process %d: %w", pid, err)
	}
	defer h.Close()
	return do(h)
}

func remove(name string) error {
	link, err := netlink.LinkByName(name)
	if missing(err) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("deleting interface %s: %w", name, err)
	}
	return nil
}

func missing(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}

func nft(ctx context.Context, script string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("loading nftables rules: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

func address(a netip.Addr, bits int) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, 32)}}
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

func mustAddr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	return a
}
