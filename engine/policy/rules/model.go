// Package rules turns NetworkPolicies, pods and namespaces into the sets, maps and chains of one nftables table. It
// touches nothing itself: Model takes what the cluster says, Take gives what the kernel's table lacks.
//
// Every policy is a chain of each direction it speaks of, which accepts what the policy allows. Pods of the node that
// the same policies select share a chain: it asks those of the policies in turn and drops the rest. A verdict map leads
// from the pod's address to it. Peers are sets of addresses, one for each pair of selectors, and named ports are sets of
// addresses with port numbers. So a pod that comes, goes or changes its labels costs a few elements, and a policy that
// changes costs its chain.
package rules

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Pod is what rules depend on.
type Pod struct {
	UID, Namespace, Name, Node string
	Labels                     map[string]string
	Address                    netip.Addr // as the API tells; of pods of this node, the sandbox tells it
	Created                    time.Time
	Ports                      []Port
	HostNetwork                bool // such a pod is the node: policies neither restrict nor name it
}

// Port is a port that a container gives a name.
type Port struct {
	Name     string
	Protocol corev1.Protocol
	Number   int32
}

// Model is what is known of the cluster and the rules that follow from it. Its methods may be called at the same time.
type Model struct {
	node string
	// Changed receives, without waiting, whenever there may be something to Take.
	Changed chan struct{}

	mu         sync.Mutex
	table      *table
	number     uint64
	namespaces map[string]*namespace
	pods       map[string]*pod // by UID
	holders    map[netip.Addr][]*pod
	sandboxes  map[string]sandbox // by id
	attached   int                // sandboxes, so far
	uses       map[string]*use    // of sets by policies
	groups     map[string]int     // pods by chain
}

type namespace struct {
	labels   labels.Set // nil until the namespace itself was seen
	pods     map[string]*pod
	policies map[string]*policy
}

type pod struct {
	Pod
	sandbox  string     // id; empty: no address on this node yet, or not of this node
	address  netip.Addr // in force
	elements []element  // what its being there puts into sets
	groups   [2]string  // chain by Direction
}

type element struct{ set, key, value string }

type sandbox struct {
	pod     string // UID
	address netip.Addr
	order   int // later ones have the greater number
}

type use struct {
	source

	policies int
}

// New makes the model of a node whose pods have addresses of a range, and that an interface leads out of.
func New(node string, pods netip.Prefix, uplink string) *Model {
	return &Model{
		node: node, Changed: make(chan struct{}, 1), table: newTable(pods, uplink), namespaces: map[string]*namespace{}, pods: map[string]*pod{},
		holders: map[netip.Addr][]*pod{}, sandboxes: map[string]sandbox{}, uses: map[string]*use{}, groups: map[string]int{},
	}
}

// Take gives what is to be written now, and counts it as written.
func (m *Model) Take() *Change {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.table.change()
	m.table.settle()
	m.number++
	c.Number = m.number
	return c
}

// Distrust makes the next Take give everything: a write failed, so nobody knows what is there.
func (m *Model) Distrust() {
	m.update(func() { m.table.all = true })
}

func (m *Model) update(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	m.announce()
}

func (m *Model) announce() {
	select {
	case m.Changed <- struct{}{}:
	default:
	}
}

func (m *Model) namespace(name string) *namespace {
	n := m.namespaces[name]
	if n == nil {
		n = &namespace{pods: map[string]*pod{}, policies: map[string]*policy{}}
		m.namespaces[name] = n
	}
	return n
}

// tidy forgets a namespace that nothing is known of any more.
func (m *Model) tidy(name string) {
	if n := m.namespaces[name]; n != nil && n.labels == nil && len(n.pods)+len(n.policies) == 0 {
		delete(m.namespaces, name)
	}
}

// SetNamespace takes a namespace's labels.
func (m *Model) SetNamespace(name string, set map[string]string) {
	m.update(func() {
		n := m.namespace(name)
		if n.labels != nil && maps.Equal(n.labels, set) {
			return
		}
		n.labels = labels.Set{}
		maps.Copy(n.labels, set)
		for _, p := range n.pods {
			m.refresh(p)
		}
	})
}

// DeleteNamespace forgets the namespace itself; its pods and policies are forgotten one by one.
func (m *Model) DeleteNamespace(name string) {
	m.update(func() {
		n := m.namespace(name)
		n.labels = nil
		for _, p := range n.pods {
			m.refresh(p)
		}
		m.tidy(name)
	})
}

// SetPod takes a pod that runs or will run.
func (m *Model) SetPod(fresh Pod) {
	m.update(func() {
		p := m.pods[fresh.UID]
		if p == nil {
			p = &pod{}
			m.pods[fresh.UID] = p
			m.namespace(fresh.Namespace).pods[fresh.UID] = p
			for id, s := range m.sandboxes {
				if s.pod == fresh.UID && s.order > m.sandboxes[p.sandbox].order {
					p.sandbox = id
				}
			}
		}
		p.Pod = fresh
		m.locate(p)
	})
}

// DeletePod forgets a pod. Should something still use its address, it is cut off.
func (m *Model) DeletePod(uid string) {
	m.update(func() {
		p := m.pods[uid]
		if p == nil {
			return
		}
		m.move(p, netip.Addr{})
		m.refresh(p)
		delete(m.pods, uid)
		delete(m.namespace(p.Namespace).pods, uid)
		m.tidy(p.Namespace)
	})
}

// Attach takes the address of a pod's sandbox on this node. Whoever had it before has it no more.
func (m *Model) Attach(id, uid string, address netip.Addr) {
	m.update(func() {
		for other, s := range m.sandboxes {
			if s.address == address && other != id {
				m.detach(other)
			}
		}
		m.attached++
		m.sandboxes[id] = sandbox{uid, address, m.attached}
		m.table.freed[address] = true
		if p := m.pods[uid]; p != nil {
			p.sandbox = id
			m.locate(p)
		}
	})
}

// Detach takes the address from a sandbox.
func (m *Model) Detach(id string) {
	m.update(func() { m.detach(id) })
}

func (m *Model) detach(id string) {
	s := m.sandboxes[id]
	delete(m.sandboxes, id)
	if p := m.pods[s.pod]; p != nil && p.sandbox == id {
		p.sandbox = ""
		m.locate(p)
	}
}

// Attached tells whether the sandbox's pod is known. If so, its rules are in force when the change of that number is
// written, which is the next one; there will be one, if only an empty one.
func (m *Model) Attached(id string) (known bool, number uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.pods[m.sandboxes[id].pod]; p == nil || p.sandbox != id {
		return false, 0
	}
	m.announce()
	return true, m.number + 1
}

// locate finds the address of a pod that is in force, and what follows.
func (m *Model) locate(p *pod) {
	address := p.Address
	if p.Node == m.node {
		address = m.sandboxes[p.sandbox].address
	}
	if p.HostNetwork || !address.Is4() {
		address = netip.Addr{}
	}
	m.move(p, address)
	m.refresh(p)
}

// move gives the pod an address. Others that hold the same one, as the API may say for a moment, are refreshed: the
// youngest has it.
func (m *Model) move(p *pod, address netip.Addr) {
	if p.address == address {
		return
	}
	old := p.address
	p.address = address
	for _, a := range []netip.Addr{old, address} {
		if !a.IsValid() {
			continue
		}
		m.table.freed[a] = true
		before := slices.Clone(m.holders[a])
		holders := slices.DeleteFunc(slices.Clone(before), func(h *pod) bool { return h == p })
		if a == address {
			holders = append(holders, p)
		}
		slices.SortFunc(holders, func(x, y *pod) int { return cmp.Or(x.Created.Compare(y.Created), strings.Compare(x.UID, y.UID)) })
		m.holders[a] = holders
		if len(holders) == 0 {
			delete(m.holders, a)
		}
		if a != address {
			m.refresh(p)
		}
		for _, h := range holders { // the owner last: it takes what the others leave
			m.refresh(h)
		}
	}
}

// owns tells whether the pod's address is its own.
func (m *Model) owns(p *pod) bool {
	h := m.holders[p.address]
	return p.address.IsValid() && len(h) > 0 && h[len(h)-1] == p
}

// refresh brings the sets in line with a pod: a few selectors are asked about it, nothing else is looked at.
func (m *Model) refresh(p *pod) {
	var elements []element
	groups := [2]string{}
	if m.owns(p) {
		address := p.address.String()
		for set, u := range m.uses {
			elements = append(elements, m.share(set, &u.source, p)...)
		}
		verdictMaps := [2]string{Ingress: Entrance}
		if p.Node == m.node {
			elements = append(elements, element{Known, address, ""}, element{Self, address + " . " + address, ""})
			verdictMaps = [2]string{Ingress: Ingress.String(), Egress: Egress.String()}
		}
		for d, verdicts := range verdictMaps {
			if verdicts == "" {
				continue
			}
			if groups[d] = m.group(p, Direction(d)); groups[d] != "" {
				elements = append(elements, element{verdicts, address, "jump " + groups[d]})
			}
		}
	}
	for _, e := range p.elements {
		if !slices.Contains(elements, e) {
			m.table.element(e.set, e.key, nil)
		}
	}
	for _, e := range elements {
		if !slices.Contains(p.elements, e) {
			m.table.element(e.set, e.key, &e.value)
		}
	}
	p.elements = elements
	for d, group := range p.groups {
		m.leave(group, groups[d])
	}
	p.groups = groups
}

// share is what the pod, whose address is its own, adds to a set.
func (m *Model) share(set string, s *source, p *pod) []element {
	address := p.address.String()
	if s.pods == nil {
		var out []element
		for _, port := range p.Ports {
			if port.Name == s.port && port.Protocol == s.protocol {
				e := element{set, fmt.Sprintf("%s . %d", address, port.Number), ""}
				if !slices.Contains(out, e) {
					out = append(out, e)
				}
			}
		}
		return out
	}
	if s.namespaces == nil {
		if s.namespace != p.Namespace {
			return nil
		}
	} else if n := m.namespaces[p.Namespace]; n == nil || n.labels == nil || !s.namespaces.Matches(n.labels) {
		return nil
	}
	if !s.pods.Matches(labels.Set(p.Labels)) {
		return nil
	}
	return []element{{set, address, ""}}
}

// group is the chain of the policies that select a pod in a direction, made if it is the first; empty without any.
func (m *Model) group(p *pod, d Direction) string {
	var keys, rules []string
	policies := m.namespace(p.Namespace).policies
	for _, key := range slices.Sorted(maps.Keys(policies)) {
		if policy := policies[key]; policy.ways[d] != nil && policy.pods.Matches(labels.Set(p.Labels)) {
			keys = append(keys, key)
			rules = append(rules, "jump "+policy.ways[d].chain)
		}
	}
	if len(keys) == 0 {
		return ""
	}
	chain := name(d.String()+"-pods", strings.Join(keys, " "))
	if p.groups[d] != chain {
		m.groups[chain]++
		if m.groups[chain] == 1 {
			m.table.setChain(chain, append(rules, "drop"))
		}
	}
	return chain
}

// leave counts that a pod goes from a chain to another.
func (m *Model) leave(from, to string) {
	if from == "" || from == to {
		return
	}
	m.groups[from]--
	if m.groups[from] == 0 {
		delete(m.groups, from)
		m.table.removeChain(from)
	}
}

// SetPolicy takes a policy. The error names what in it could not be understood and therefore allows nothing.
func (m *Model) SetPolicy(np *networkingv1.NetworkPolicy) error {
	fresh, sources, err := compile(np)
	m.update(func() {
		n := m.namespace(fresh.namespace)
		old := n.policies[fresh.key]
		n.policies[fresh.key] = fresh
		for d, w := range fresh.ways {
			if w == nil {
				continue
			}
			for _, set := range w.uses {
				m.acquire(set, sources[set])
			}
			if old == nil || old.ways[d] == nil || !slices.Equal(old.ways[d].rules, w.rules) {
				m.table.setChain(w.chain, w.rules)
			}
		}
		m.replaced(n, old, fresh)
	})
	return err
}

// DeletePolicy forgets a policy.
func (m *Model) DeletePolicy(namespace, name string) {
	m.update(func() {
		n := m.namespace(namespace)
		key := namespace + "/" + name
		old := n.policies[key]
		delete(n.policies, key)
		m.replaced(n, old, nil)
		m.tidy(namespace)
	})
}

// replaced takes away what only the old policy needed, and asks anew which policies select the namespace's pods if that
// may have changed.
func (m *Model) replaced(n *namespace, old, fresh *policy) {
	same := old != nil && fresh != nil && old.pods.String() == fresh.pods.String()
	for d := range 2 {
		same = same && (old.ways[d] == nil) == (fresh.ways[d] == nil)
	}
	if !same {
		for _, p := range n.pods {
			m.refresh(p)
		}
	}
	if old == nil {
		return
	}
	for d, w := range old.ways {
		if w == nil {
			continue
		}
		for _, set := range w.uses {
			m.release(set)
		}
		if fresh == nil || fresh.ways[d] == nil {
			m.table.removeChain(w.chain)
		}
	}
}

// acquire makes the set unless another policy has it already.
func (m *Model) acquire(set string, s source) {
	u := m.uses[set]
	if u != nil {
		u.policies++
		return
	}
	m.uses[set] = &use{s, 1}
	kind := typeAddresses
	if s.pods == nil {
		kind = typePorts
	}
	m.table.addSet(set, kind, s.comment)
	for _, p := range m.pods {
		if !m.owns(p) {
			continue
		}
		for _, e := range m.share(set, &s, p) {
			m.table.element(e.set, e.key, &e.value)
			p.elements = append(p.elements, e)
		}
	}
}

func (m *Model) release(set string) {
	u := m.uses[set]
	if u.policies--; u.policies > 0 {
		return
	}
	delete(m.uses, set)
	m.table.removeSet(set)
	for _, p := range m.pods {
		p.elements = slices.DeleteFunc(p.elements, func(e element) bool { return e.set == set })
	}
}
