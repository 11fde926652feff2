package daemon

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yunfan.io/engine/supervisor"
	"yunfan.io/engine/topology"
)

func TestDrillStates(t *testing.T) {
	cases := map[string]struct {
		reason string
		drills drills
		want   string
	}{
		"None":            {"Nothing was done", drills{}, ""},
		"Other":           {"What was done to another cluster does not matter", drills{"b": {isolated: true}, "b/x": {frozen: true}}, ""},
		"ClusterIsolated": {"The wire of the cluster is the unit's wire", drills{"a": {isolated: true}}, Isolated},
		"UnitIsolated":    {"Its own wire", drills{"a/x": {isolated: true}}, Isolated},
		"Frozen":          {"Frozen says more than isolated", drills{"a": {isolated: true}, "a/x": {frozen: true}}, Frozen},
		"Stopped":         {"Stopped says most", drills{"a": {isolated: true}, "a/x": {frozen: true, stopped: true}}, Stopped},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := tc.drills.on("a", "x"); got != tc.want {
				t.Errorf("%s: got %q, want %q", tc.reason, got, tc.want)
			}
		})
	}
	d := drills{}
	d.set("a", func(x *drill) { x.frozen = true })
	d.set("a", func(x *drill) { x.frozen = false })
	if diff := cmp.Diff(0, len(d)); diff != "" {
		t.Errorf("a healed target is forgotten: %v", d)
	}
}

func TestResolve(t *testing.T) {
	d := &Daemon{state: &topology.State{}, units: map[string]*unit{}}
	c, err := d.state.AddCluster("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.AddNode(""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a/control-plane", "a/a-1", "services/registry"} {
		d.units[name] = &unit{name: name}
	}
	cases := map[string]struct {
		reason  string
		units   []string
		process string
		fails   bool
	}{
		"a":                          {"A cluster is all its units", []string{"a/a-1", "a/control-plane"}, "", false},
		"a/a-1":                      {"A node", []string{"a/a-1"}, "", false},
		"a/control-plane":            {"The control plane", []string{"a/control-plane"}, "", false},
		"a/etcd":                     {"A process of the control plane", []string{"a/control-plane"}, "etcd", false},
		"a/a-1/kubelet":              {"A process of a node", []string{"a/a-1"}, "kubelet", false},
		"services/registry":          {"A service", []string{"services/registry"}, "", false},
		"services/registry/registry": {"Its process", []string{"services/registry"}, "registry", false},
		"b":                          {"No such cluster", nil, "", true},
		"b/etcd":                     {"No such cluster", nil, "", true},
		"a/a-2/kubelet":              {"No such node", nil, "", true},
		"":                           {"Nothing", nil, "", true},
		"a/b/c/d":                    {"Too deep", nil, "", true},
	}
	for target, tc := range cases {
		t.Run(target, func(t *testing.T) {
			units, process, err := d.resolve(target)
			var names []string
			for _, u := range units {
				names = append(names, u.name)
			}
			if diff := cmp.Diff(tc.units, names); diff != "" || process != tc.process || (err != nil) != tc.fails {
				t.Errorf("%s: process %q, error %v, units -want +got:\n%s", tc.reason, process, err, diff)
			}
		})
	}
}

func TestCulprit(t *testing.T) {
	p := func(target string, state supervisor.State, restarts int) ProcessStatus {
		return ProcessStatus{supervisor.Status{State: state, Restarts: restarts}, target}
	}
	cases := map[string]struct {
		reason    string
		processes []ProcessStatus
		want      string
	}{
		"Fine":    {"Nobody is to blame", []ProcessStatus{p("a", supervisor.Ready, 7), p("b", supervisor.Done, 0)}, ""},
		"Failing": {"Who fails is to blame, not who waits for it", []ProcessStatus{p("waits", supervisor.Waiting, 0), p("slow", supervisor.Starting, 0), p("fails", supervisor.Backoff, 2)}, "fails"},
		"Between": {"Caught between two failures", []ProcessStatus{p("slow", supervisor.Starting, 0), p("fails", supervisor.Starting, 2)}, "fails"},
		"Slow":    {"Who is slow comes before who waits", []ProcessStatus{p("waits", supervisor.Waiting, 0), p("slow", supervisor.Starting, 0)}, "slow"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := ""
			if c := (&Status{Processes: tc.processes}).Culprit(); c != nil {
				got = c.Target
			}
			if got != tc.want {
				t.Errorf("%s: got %q, want %q", tc.reason, got, tc.want)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	s := Status{State: Ready, Clusters: []ClusterStatus{{Name: "a", State: Ready}, {Name: "b", State: Ready}},
		Processes: []ProcessStatus{{supervisor.Status{State: supervisor.Ready}, "a/etcd"}, {supervisor.Status{State: supervisor.Starting}, "b/b-1/kubelet"}}}
	judge(&s)
	got := []string{s.State, s.Clusters[0].State, s.Clusters[1].State}
	if diff := cmp.Diff([]string{Starting, Ready, Starting}, got); diff != "" {
		t.Errorf("a cluster is not Ready while one of its processes is not: -want +got:\n%s", diff)
	}
	narrow := func(cluster string) []any {
		n := Status{State: s.State, Clusters: slices.Clone(s.Clusters), Processes: slices.Clone(s.Processes)}
		n.Narrow(cluster)
		return []any{n.State, len(n.Clusters), len(n.Processes)}
	}
	if diff := cmp.Diff([][]any{{Ready, 1, 1}, {Starting, 1, 1}, {Starting, 0, 0}}, [][]any{narrow("a"), narrow("b"), narrow("c")}); diff != "" {
		t.Errorf("only one cluster counts: -want +got:\n%s", diff)
	}
}
