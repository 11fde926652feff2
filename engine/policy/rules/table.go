package rules

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Names of what is always there.
const (
	// FromPods judges packets that a pod sends, ToPods those that one is to receive.
	FromPods = "from-pods"
	ToPods   = "to-pods"
	// Known holds the node's pods whose policies are in force.
	Known = "known"
	// Self holds each of them twice: what a pod sends itself (through a Service) is nobody else's business.
	Self = "self"
	// Entrance leads to the chains of pods of other nodes. A node that passes on what outsiders send to its NodePorts puts
	// its own address in place of theirs, so this is the last place where it can be told who they are.
	Entrance = "entrance"
)

// Set is a set or, where elements have a value, a map.
type Set struct {
	Type     string // as nftables writes it, e.g. "ipv4_addr . inet_service"
	Comment  string
	Elements map[string]string // to the verdict; empty in a set
}

// IsMap tells whether elements have values.
func (s *Set) IsMap() bool { return s.Type == typeVerdicts }

const (
	typeAddresses = "ipv4_addr"
	typePairs     = "ipv4_addr . ipv4_addr"
	typePorts     = "ipv4_addr . inet_service"
	typeVerdicts  = "ipv4_addr : verdict"
)

// Change is what the kernel's table lacks. It is to be written in one transaction.
type Change struct {
	Sets   map[string]*SetChange // by name
	Chains map[string][]string   // whole contents by name
	// Gone names what nothing refers to any more once the rest is written.
	GoneSets   []string
	GoneChains []string
	// Freed are addresses whose pod is not the one it was: the kernel must forget its connections.
	Freed []netip.Addr
	// All: whatever else the table holds does not belong there.
	All bool
	// Number of the state of the model that this leads to.
	Number uint64
}

// Empty tells whether there is nothing to write.
func (c *Change) Empty() bool {
	return len(c.Sets)+len(c.Chains)+len(c.GoneSets)+len(c.GoneChains) == 0 && !c.All
}

// SetChange is a new set, or elements to remove from and to add to one.
type SetChange struct {
	Set    *Set // type and comment; nil for a set that is there
	Map    bool // elements have values
	Remove []string
	Add    map[string]string
}

// table is the wanted content of the kernel's table, together with what has changed since it was last written.
type table struct {
	sets   map[string]*Set
	chains map[string][]string

	written map[string]bool               // sets in the kernel
	laid    map[string]bool               // chains in the kernel
	changed map[string]map[string]*string // of sets in the kernel: elements touched, with the value that is there (nil: none)
	fresh   map[string]bool               // sets made or removed since
	altered map[string]bool               // chains made, changed or removed since
	all     bool
	freed   map[netip.Addr]bool
}

func newTable(pods netip.Prefix, uplink string) *table {
	t := &table{sets: map[string]*Set{}, chains: map[string][]string{}, written: map[string]bool{}, laid: map[string]bool{}, freed: map[netip.Addr]bool{}}
	t.settle()
	t.addSet(Known, typeAddresses, "pods of this node whose policies are in force")
	t.addSet(Self, typePairs, "what a pod sends to itself")
	t.addSet(Ingress.String(), typeVerdicts, "pods that only receive what a policy allows")
	t.addSet(Egress.String(), typeVerdicts, "pods that only send what a policy allows")
	t.addSet(Entrance, typeVerdicts, "pods of other nodes that only receive what a policy allows")
	for d, chain := range map[Direction]string{Ingress: ToPods, Egress: FromPods} {
		own := [...]string{"ip daddr", "ip saddr"}[d]
		t.setChain(chain, []string{
			// An address that is not known yet, or no more, is no pod that policies could have been asked about.
			own + " " + pods.String() + " " + own + " != @" + Known + " drop",
			// Answers to what was allowed. Packets of who began are judged one by one, so that a change of policy ends
			// connections too.
			"ct state established ct direction reply accept",
			"ct state related accept",
			"ip saddr . ip daddr @" + Self + " accept",
			own + " vmap @" + d.String(),
		})
	}
	t.chains[ToPods] = append(t.chains[ToPods], fmt.Sprintf("iifname %q oifname %q ip daddr vmap @%s", uplink, uplink, Entrance))
	t.all = true
	return t
}

func (t *table) addSet(name, kind, comment string) {
	t.sets[name] = &Set{Type: kind, Comment: comment, Elements: map[string]string{}}
	t.fresh[name] = true
}

func (t *table) removeSet(name string) {
	delete(t.sets, name)
	t.fresh[name] = true
}

func (t *table) setChain(name string, rules []string) {
	t.chains[name] = rules
	t.altered[name] = true
}

func (t *table) removeChain(name string) {
	delete(t.chains, name)
	t.altered[name] = true
}

// element adds or changes (value not nil) or removes an element of a set that exists.
func (t *table) element(set, key string, value *string) {
	s := t.sets[set]
	if s == nil {
		return
	}
	if !t.fresh[set] {
		touched := t.changed[set]
		if touched == nil {
			touched = map[string]*string{}
			t.changed[set] = touched
		}
		if _, ok := touched[key]; !ok {
			touched[key] = nil
			if old, there := s.Elements[key]; there {
				touched[key] = &old
			}
		}
	}
	if value == nil {
		delete(s.Elements, key)
		return
	}
	s.Elements[key] = *value
}

// change gives what is to be written. The caller calls settle when it was, or sets all when it failed.
func (t *table) change() *Change {
	c := &Change{Sets: map[string]*SetChange{}, Chains: map[string][]string{}, All: t.all, Freed: slices.Collect(maps.Keys(t.freed))}
	if t.all {
		for name, s := range t.sets {
			c.Sets[name] = &SetChange{Set: s, Map: s.IsMap(), Add: maps.Clone(s.Elements)}
		}
		maps.Copy(c.Chains, t.chains)
		return c
	}
	for name := range t.fresh {
		switch s := t.sets[name]; {
		case s != nil:
			c.Sets[name] = &SetChange{Set: s, Map: s.IsMap(), Add: maps.Clone(s.Elements)}
		case t.written[name]:
			c.GoneSets = append(c.GoneSets, name)
		}
	}
	for name, touched := range t.changed {
		s := t.sets[name]
		if s == nil || t.fresh[name] {
			continue
		}
		sc := &SetChange{Map: s.IsMap(), Add: map[string]string{}}
		for key, old := range touched {
			now, wanted := s.Elements[key]
			if wanted && old != nil && now == *old || !wanted && old == nil {
				continue
			}
			if old != nil {
				sc.Remove = append(sc.Remove, key)
			}
			if wanted {
				sc.Add[key] = now
			}
		}
		if len(sc.Remove)+len(sc.Add) > 0 {
			c.Sets[name] = sc
		}
	}
	for name := range t.altered {
		rules, wanted := t.chains[name]
		switch {
		case wanted:
			c.Chains[name] = rules
		case t.laid[name]:
			c.GoneChains = append(c.GoneChains, name)
		}
	}
	return c
}

// settle begins to record anew: what is wanted now is in the kernel, or about to be.
func (t *table) settle() {
	for name := range t.fresh {
		t.written[name] = t.sets[name] != nil
	}
	for name := range t.altered {
		_, t.laid[name] = t.chains[name]
	}
	maps.DeleteFunc(t.written, func(_ string, there bool) bool { return !there })
	maps.DeleteFunc(t.laid, func(_ string, there bool) bool { return !there })
	t.changed, t.fresh, t.altered, t.all = map[string]map[string]*string{}, map[string]bool{}, map[string]bool{}, false
	clear(t.freed)
}
