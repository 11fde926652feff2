// Package kernel writes rules into the kernel's packet filter, each change in one transaction: packets see the rules
// before it or those after it, never anything between.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"

	"yunfan.io/engine/policy/rules"
)

// Table is the name of the table, in the family ip of the node's network namespace.
const Table = "yunfan-policy"

// Kernel is the table of this network namespace.
type Kernel struct {
	nft knftables.Interface
	// Uplink leads out of the node: packets from other interfaces must come from the pod that is behind them.
	Uplink string
}

// Open finds the nft program.
func Open(uplink string) (*Kernel, error) {
	nft, err := knftables.New(knftables.IPv4Family, Table)
	if err != nil {
		return nil, fmt.Errorf("opening nftables: %w", err)
	}
	return &Kernel{nft: nft, Uplink: uplink}, nil
}

// Write makes a change, then forgets the connections of freed addresses.
func (k *Kernel) Write(ctx context.Context, c *rules.Change) error {
	if !c.Empty() {
		tx, err := k.transaction(ctx, c)
		if err != nil {
			return err
		}
		if err := k.nft.Run(ctx, tx); err != nil {
			return fmt.Errorf("writing rules: %w", err)
		}
	}
	return forget(c.Freed)
}

// transaction orders a change so that nothing refers to what is not there yet, or is deleted while it is referred to.
func (k *Kernel) transaction(ctx context.Context, c *rules.Change) (*knftables.Transaction, error) {
	tx := k.nft.NewTransaction()
	goneSets, goneMaps, goneChains := c.GoneSets, []string(nil), c.GoneChains
	if c.All {
		table := k.nft.NewTransaction()
		table.Add(&knftables.Table{})
		if err := k.nft.Run(ctx, table); err != nil { // what is not there cannot be listed
			return nil, fmt.Errorf("making the table: %w", err)
		}
		present, err := k.nft.ListAll(ctx)
		if err != nil {
			return nil, fmt.Errorf("listing what the table holds: %w", err)
		}
		goneSets, goneMaps, goneChains = strangers(present["set"], c), strangers(present["map"], c), strangers(present["chain"], c)
		k.addBase(tx)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Sets)) {
		declare(tx, name, c.Sets[name].Set)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Chains)) {
		tx.Add(&knftables.Chain{Name: name})
		tx.Flush(&knftables.Chain{Name: name})
	}
	for _, name := range goneChains {
		tx.Flush(&knftables.Chain{Name: name})
	}
	for _, name := range slices.Sorted(maps.Keys(c.Sets)) {
		elements(tx, name, c.Sets[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.Chains)) {
		for _, rule := range c.Chains[name] {
			tx.Add(&knftables.Rule{Chain: name, Rule: rule})
		}
	}
	if c.All {
		k.addHooks(tx)
	}
	for _, name := range goneMaps {
		tx.Delete(&knftables.Map{Name: name})
	}
	for _, name := range goneChains {
		tx.Delete(&knftables.Chain{Name: name})
	}
	for _, name := range goneSets {
		tx.Delete(&knftables.Set{Name: name})
	}
	return tx, nil
}

// strangers are those of the present objects that the change, which holds everything, does not know.
func strangers(present []string, c *rules.Change) []string {
	return slices.DeleteFunc(slices.Clone(present), func(name string) bool {
		_, set := c.Sets[name]
		_, chain := c.Chains[name]
		return set || chain || slices.ContainsFunc(hooks, func(h hook) bool { return h.chain == name })
	})
}

func declare(tx *knftables.Transaction, name string, s *rules.Set) {
	if s == nil {
		return
	}
	comment := new(fmt.Sprintf("%.*s", knftables.CommentLengthMax, s.Comment))
	if s.IsMap() {
		tx.Add(&knftables.Map{Name: name, Type: s.Type, Comment: comment})
		tx.Flush(&knftables.Map{Name: name})
		return
	}
	tx.Add(&knftables.Set{Name: name, Type: s.Type, Comment: comment})
	tx.Flush(&knftables.Set{Name: name})
}

func elements(tx *knftables.Transaction, name string, c *rules.SetChange) {
	element := func(key, value string) *knftables.Element {
		e := &knftables.Element{Set: name, Key: []string{key}}
		if c.Map {
			e.Set, e.Map, e.Value = "", name, []string{value}
		}
		return e
	}
	for _, key := range c.Remove {
		tx.Delete(element(key, ""))
	}
	for _, key := range slices.Sorted(maps.Keys(c.Add)) {
		tx.Add(element(key, c.Add[key]))
	}
}

type hook struct {
	chain    string
	hook     knftables.BaseChainHook
	priority knftables.BaseChainPriority
	rule     string // one, with the uplink
}

// hooks are where packets meet the rules. What accepts in one chain still has to pass the next, so that a packet between
// two pods of the node must be allowed by both. Forwarding comes after the address of a Service was replaced by a pod's
// and before the sender's is by the node's. What the node itself sends to its pods (probes) is not judged, as Kubernetes
// wants it.
var hooks = []hook{
	{"source", knftables.PreroutingHook, "raw", "iifname != { lo, %q } fib saddr . iif oif missing drop"},
	{"forward-egress", knftables.ForwardHook, "filter - 2", "jump " + rules.FromPods},
	{"forward-ingress", knftables.ForwardHook, "filter - 1", "jump " + rules.ToPods},
	{"node-egress", knftables.InputHook, "filter - 2", "jump " + rules.FromPods},
}

func (k *Kernel) addBase(tx *knftables.Transaction) {
	tx.Add(&knftables.Table{Comment: new("network policies of Kubernetes; written by yunfan-policy")})
	for _, h := range hooks {
		tx.Add(&knftables.Chain{Name: h.chain, Type: new(knftables.FilterType), Hook: new(h.hook), Priority: new(h.priority)})
		tx.Flush(&knftables.Chain{Name: h.chain})
	}
}

func (k *Kernel) addHooks(tx *knftables.Transaction) {
	for i, h := range hooks {
		rule := h.rule
		if i == 0 {
			rule = fmt.Sprintf(rule, k.Uplink)
		}
		tx.Add(&knftables.Rule{Chain: h.chain, Rule: rule})
	}
}

// forget ends the kernel's memory of connections from and to addresses, so that nobody goes on with those of a former
// holder.
func forget(addresses []netip.Addr) error {
	var filters []netlink.CustomConntrackFilter
	for _, a := range addresses {
		for _, side := range []netlink.ConntrackFilterType{netlink.ConntrackOrigSrcIP, netlink.ConntrackReplySrcIP} {
			f := &netlink.ConntrackFilter{}
			if err := f.AddIP(side, net.IP(a.AsSlice())); err != nil {
				return fmt.Errorf("forgetting connections: %w", err)
			}
			filters = append(filters, f)
		}
	}
	if len(filters) == 0 {
		return nil
	}
	_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filters...)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("forgetting connections: %w", err)
	}
	return nil
}
