package topology

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNET01_CheckOverlap(t *testing.T) {
	network := func(name, prefix string) Network { return Network{name, netip.MustParsePrefix(prefix)} }
	cases := map[string]struct {
		reason   string
		networks []Network
		want     string
	}{
		"Apart":     {"Neighbouring ranges share no address", []Network{network("node", "10.0.0.0/24"), network("pod", "10.0.1.0/24")}, ""},
		"Same":      {"The same range twice is an overlap", []Network{network("node", "10.0.0.0/24"), network("service", "10.0.0.0/24")}, "service 10.0.0.0/24 overlaps node 10.0.0.0/24"},
		"Contained": {"A range within another is an overlap", []Network{network("pod", "10.0.0.0/8"), network("service", "10.96.0.0/16")}, "service 10.96.0.0/16 overlaps pod 10.0.0.0/8"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) { checkError(t, tc.reason, CheckOverlap(tc.networks...), tc.want) })
	}
}

func TestNET01_PlansDoNotOverlap(t *testing.T) {
	var all []Network
	for i := range Instances {
		p := Plan{i}
		all = append(all, Network{"instance", p.Range()})
		slots := []int{1, 2, 3, 4, 5, 6, 7}
		if err := p.Check(slots, nil); err != nil {
			t.Errorf("instance %d: %v", i, err)
		}
		var pods []Network
		for _, slot := range slots {
			if !p.Nodes().Contains(p.ControlPlane(slot)) {
				t.Errorf("instance %d slot %d: control plane %s outside %s", i, slot, p.ControlPlane(slot), p.Nodes())
			}
			for n := range MaxNodesPerCluster {
				pods = append(pods, Network{"node pods", p.NodePods(slot, n)})
				if !p.Nodes().Contains(p.Node(slot, n)) || !p.ClusterPods(slot).Contains(p.NodePods(slot, n).Addr()) || !p.Range().Contains(p.NodePods(slot, n).Addr()) {
					t.Errorf("instance %d slot %d node %d is outside its network", i, slot, n)
				}
			}
		}
		if err := CheckOverlap(pods...); err != nil {
			t.Errorf("instance %d: %v", i, err)
		}
	}
	if err := CheckOverlap(all...); err != nil {
		t.Error(err)
	}
}

func TestNET01_PlanAgainstHostRoutes(t *testing.T) {
	p := Plan{0}
	route := func(prefix string) []Network {
		return []Network{{"a route of this machine,", netip.MustParsePrefix(prefix)}}
	}
	cases := map[string]struct {
		reason string
		host   []Network
		want   string
	}{
		"Elsewhere": {"A company network elsewhere does not matter", route("10.0.0.0/16"), ""},
		"Services":  {"Addresses of services would hide the company's", route("10.96.4.0/24"), "10.96.4.0/24 overlaps service network 10.96.0.0/16"},
		"Nodes":     {"Nodes must not take the company's addresses", route("198.18.1.0/24"), "198.18.1.0/24 overlaps node network"},
		"Pods":      {"Neither must pods of slots in use", route("198.18.8.0/24"), "198.18.8.0/24 overlaps pod network of slot 1"},
		"FreeSlot":  {"A slot not in use claims nothing", route("198.18.56.0/24"), ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) { checkError(t, tc.reason, p.Check([]int{1}, tc.host), tc.want) })
	}
}

func TestChoose(t *testing.T) {
	all := map[int]bool{0: true, 1: true, 2: true, 3: true, 4: true, 5: true, 6: true, 7: true}
	allBut5 := map[int]bool{0: true, 1: true, 2: true, 3: true, 4: true, 6: true, 7: true}
	route := []Network{{"a route of this machine,", Plan{5}.Range()}, {"a route of this machine,", netip.MustParsePrefix("198.18.0.0/24")}}
	cases := map[string]struct {
		reason string
		taken  map[int]bool
		host   []Network
		index  int
		want   string
	}{
		"OnlyFree": {"The one free range is found from any seed", allBut5, nil, 5, ""},
		"Full":     {"All in use is said clearly", all, nil, 0, "all 8 ranges"},
		"Route":    {"A range the machine routes elsewhere is not taken", allBut5, route, 0, "overlaps"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p, err := Choose("seed", tc.taken, tc.host)
			checkError(t, tc.reason, err, tc.want)
			if diff := cmp.Diff(tc.index, p.Index); err == nil && diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	cases := map[string]struct {
		reason string
		yaml   string
		want   string
	}{
		"Default":     {"A hub and two members are fine", "clusters: [{name: hub, nodes: 0}, {name: a, nodes: 2}]", ""},
		"BadName":     {"Names become host names and folders", "clusters: [{name: ../etc}]", "lower-case letters"},
		"Twice":       {"Names are unique", "clusters: [{name: a}, {name: a}]", "taken"},
		"Reserved":    {"services is the name of the services' units", "clusters: [{name: services}]", "taken"},
		"ManyNodes":   {"There are eight pod networks in a cluster", "clusters: [{name: a, nodes: 9}]", "between 0 and 8"},
		"ManyCluster": {"There are seven slots", "clusters: [{name: a},{name: b},{name: c},{name: d},{name: e},{name: f},{name: g},{name: h}]", "addresses for 7"},
		"BadSize":     {"Sizes are Kubernetes quantities", "clusters: [{name: a, node: {memory: lots}}]", "positive quantity"},
		"NoCommand":   {"A service is a program", "services: [{name: s}]", "no command"},
		"NeedsWho":    {"Waiting for what never comes would hang", "services: [{name: s, command: [x], needs: [hub]}]", "does not exist"},
		"Typo":        {"An unknown field is a mistake, not a wish to be ignored", "clusterz: []", "unknown field"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "engine.yaml")
			if err := os.WriteFile(file, []byte(tc.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(file)
			checkError(t, tc.reason, err, tc.want)
		})
	}
}

func TestStateKeepsPlaces(t *testing.T) {
	s := &State{}
	wish := &Topology{Clusters: []Cluster{{Name: "a", Nodes: 2}, {Name: "b"}}}
	if changed, err := s.Merge(wish); err != nil || !changed {
		t.Fatalf("first merge: changed %v, %v", changed, err)
	}
	if changed, err := s.Merge(wish); err != nil || changed {
		t.Fatalf("the same wish again: changed %v, %v", changed, err)
	}
	s.Cluster("a").RemoveNode("a-1")
	s.RemoveCluster("nothing")
	if _, err := s.Cluster("a").AddNode("extra"); err != nil {
		t.Fatal(err)
	}
	want := &State{Clusters: []*ClusterState{
		{Name: "a", Slot: 1, Nodes: []*NodeState{{Name: "a-2", Index: 1}, {Name: "extra", Index: 0}}},
		{Name: "b", Slot: 2},
	}}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("a node that stays keeps its number, a new one takes the free one: -want +got:\n%s", diff)
	}
	file := filepath.Join(t.TempDir(), "state.json")
	if err := s.Save(file); err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadState(file)
	if diff := cmp.Diff(s, loaded); err != nil || diff != "" {
		t.Errorf("read back: %v, -want +got:\n%s", err, diff)
	}
	for _, name := range []string{"extra", ControlPlane} {
		if _, err := s.Cluster("a").AddNode(name); err == nil {
			t.Errorf("node name %s was accepted", name)
		}
	}
}

func TestExpand(t *testing.T) {
	s := Service{Command: []string{"x", "--at=${gateway}:5000"}, Env: []string{"D=${data}"}, Ready: "http://${gateway}/"}
	want := Service{Command: []string{"x", "--at=198.18.0.1:5000"}, Env: []string{"D=/d"}, Ready: "http://198.18.0.1/"}
	if diff := cmp.Diff(want, s.Expand("198.18.0.1", "/d")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func checkError(t *testing.T, reason string, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%s: got error %v, want %q", reason, err, want)
	}
}
