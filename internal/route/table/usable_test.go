package table_test

import (
	"strings"
	"testing"

	"yunfan.io/yunfan/internal/route/table"
)

func TestUsableLeavesOutWhatNobodyCouldServe(t *testing.T) {
	target := table.Target{Name: "edu.beijing", Weight: 1, Servers: []string{"192.0.2.1:30080", "192.0.2.2"}}
	given := &table.Table{
		Pools: []table.Pool{
			{Name: "any", Targets: []table.Target{target}},
			{Name: "half", Paths: []table.Path{{Type: table.PathRegex, Value: "(("}, {Type: table.PathExact, Value: "/"}}},
			{Name: "nothing", Paths: []table.Path{{Type: table.PathRegex, Value: "(("}}},
			{Name: "open to whom", Allow: []string{"10.0.0.0/99"}, Targets: []table.Target{target}},
		},
		Certificates: []table.Certificate{{Name: "none", Chain: "-", Key: "-"}},
	}
	usable, left := given.Usable()
	var names []string
	for _, pool := range usable.Pools {
		names = append(names, pool.Name)
	}
	if got := strings.Join(names, ","); got != "any,half,open to whom" {
		t.Errorf("pools %s", got)
	}
	if got := usable.Pools[0].Targets[0].Servers; len(got) != 1 || got[0] != "192.0.2.1:30080" {
		t.Errorf("servers %v: one has no port", got)
	}
	if len(usable.Pools[1].Paths) != 1 || usable.Pools[1].Paths[0].Value != "/" {
		t.Errorf("paths %v: one is no expression", usable.Pools[1].Paths)
	}
	if !usable.Pools[2].Targets[0].Closed {
		t.Error("a pool whose list of addresses cannot be read is open to everybody")
	}
	if len(usable.Certificates) != 0 || len(left) != 6 {
		t.Errorf("left out: %q", left)
	}
	if given.Pools[3].Targets[0].Closed || len(given.Pools[0].Targets[0].Servers) != 2 || len(given.Pools[1].Paths) != 2 {
		t.Error("the table that was given was changed")
	}
}
