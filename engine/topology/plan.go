package topology

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
)

// The address plan. 198.18.0.0/15 is the range reserved for benchmarks (RFC 2544), which company networks do not
// use. It is cut into eight /18, one per instance:
//
//	/21 number 0   nodes: block (/24) 0 is the host bridge, block s the control plane and nodes of cluster slot s
//	/21 number s   pods of cluster slot s (1 to 7), one /24 per node
var pool = netip.MustParsePrefix("198.18.0.0/15")

const (
	// Instances is how many instances fit on one machine.
	Instances = 8
	// ServiceCIDR is the same in every cluster: services never leave their cluster.
	ServiceCIDR = "10.96.0.0/16"
	// ServiceAPI is the address of the API server as pods see it.
	ServiceAPI = "10.96.0.1"
	// ServiceDNS is the address of the cluster's DNS.
	ServiceDNS = "10.96.0.10"
	// Domain is the DNS domain of every cluster.
	Domain = "cluster.local"

	firstHost = 10 // last byte of a control plane's address; nodes follow
)

// Plan computes the addresses of one instance from its number (0 to 7).
type Plan struct{ Index int }

func (p Plan) at(offset uint32) netip.Addr {
	base := pool.Addr().As4()
	var out [4]byte
	binary.BigEndian.PutUint32(out[:], binary.BigEndian.Uint32(base[:])+uint32(p.Index)<<14+offset)
	return netip.AddrFrom4(out)
}

// Range is the instance's whole /18.
func (p Plan) Range() netip.Prefix { return netip.PrefixFrom(p.at(0), 18) }

// Nodes is the network all nodes and control planes of the instance are on.
func (p Plan) Nodes() netip.Prefix { return netip.PrefixFrom(p.at(0), 21) }

// Gateway is the address of the host on the node network.
func (p Plan) Gateway() netip.Addr { return p.at(1) }

// ControlPlane is the address of the API server of the cluster in a slot (1 to 7).
func (p Plan) ControlPlane(slot int) netip.Addr { return p.at(uint32(slot)<<8 + firstHost) }

// Endpoint is the URL of the API server of the cluster in a slot.
func (p Plan) Endpoint(slot int) string {
	return "https://" + netip.AddrPortFrom(p.ControlPlane(slot), 6443).String()
}

// Node is the address of a node (0 to 7) of the cluster in a slot.
func (p Plan) Node(slot, node int) netip.Addr {
	return p.at(uint32(slot)<<8 + firstHost + 1 + uint32(node))
}

// ClusterPods holds the pod networks of all nodes of a cluster.
func (p Plan) ClusterPods(slot int) netip.Prefix { return netip.PrefixFrom(p.at(uint32(slot)<<11), 21) }

// NodePods is the pod network of one node.
func (p Plan) NodePods(slot, node int) netip.Prefix {
	return netip.PrefixFrom(p.at(uint32(slot)<<11+uint32(node)<<8), 24)
}

// Network is a named range of an address plan.
type Network struct {
	Name   string
	Prefix netip.Prefix
}

// CheckOverlap returns an error that names the first two ranges that share an address.
func CheckOverlap(networks ...Network) error {
	for i, a := range networks {
		for _, b := range networks[:i] {
			if a.Prefix.Overlaps(b.Prefix) {
				return fmt.Errorf("%s %s overlaps %s %s: give one of them another range", a.Name, a.Prefix, b.Name, b.Prefix)
			}
		}
	}
	return nil
}

// Check proves that node, service and pod networks of the slots in use do not overlap each other or the host's routes.
func (p Plan) Check(slots []int, host []Network) error {
	networks := []Network{
		{"node network", p.Nodes()},
		{"service network", netip.MustParsePrefix(ServiceCIDR)},
	}
	for _, slot := range slots {
		networks = append(networks, Network{fmt.Sprintf("pod network of slot %d", slot), p.ClusterPods(slot)})
	}
	if err := CheckOverlap(networks...); err != nil {
		return err
	}
	for _, route := range host {
		if err := CheckOverlap(append(slices.Clip(networks), route)...); err != nil {
			return err
		}
	}
	return nil
}

// Choose picks an instance number whose range is neither taken nor overlaps a route of the host. The search begins at
// a place that follows from the seed (the data directory), so that instances that do not run at the same time rarely
// get the same number: they could not run beside each other later.
func Choose(seed string, taken map[int]bool, host []Network) (Plan, error) {
	var last error
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(seed)) // never fails
	for offset := range Instances {
		p := Plan{int(hash.Sum32()%Instances+uint32(offset)) % Instances}
		if taken[p.Index] {
			continue
		}
		if last = CheckOverlap(append([]Network{{"instance range", p.Range()}}, overlapping(p, host)...)...); last == nil {
			return p, nil
		}
	}
	if last != nil {
		return Plan{}, fmt.Errorf("choosing addresses: %w", last)
	}
	return Plan{}, fmt.Errorf("choosing addresses: all %d ranges of %s are in use: stop another instance first", Instances, pool)
}

// overlapping drops routes that do not concern the instance, so that routes that overlap each other are no fault.
func overlapping(p Plan, host []Network) []Network {
	for _, n := range host {
		if n.Prefix.Overlaps(p.Range()) {
			return []Network{n}
		}
	}
	return nil
}
