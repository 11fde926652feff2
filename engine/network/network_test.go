package network

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yunfan.io/engine/topology"
)

func TestNamesFitTheKernel(t *testing.T) {
	n := Net{topology.Plan{Index: topology.Instances - 1}}
	last := Port{topology.MaxClusters, topology.MaxNodesPerCluster}
	for _, name := range []string{n.bridge(), n.clusterBridge(last.Slot), n.uplink(last.Slot), n.downlink(last.Slot), n.port(last)} {
		if len(name) > 15 {
			t.Errorf("interface name %s has more than 15 characters", name)
		}
	}
}

func TestMACsAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for index := range topology.Instances {
		n := Net{topology.Plan{Index: index}}
		macs := []string{n.mac(0, 0, 0).String()}
		for slot := 1; slot <= topology.MaxClusters; slot++ {
			macs = append(macs, n.mac(slot, 255, 0).String())
			for number := range topology.MaxNodesPerCluster + 1 {
				macs = append(macs, n.mac(slot, number, 1).String())
			}
		}
		for _, mac := range macs {
			if seen[mac] {
				t.Errorf("%s is given twice", mac)
			}
			seen[mac] = true
		}
	}
}

func TestNodeRules(t *testing.T) {
	want := `table ip yunfan {
 chain post { type nat hook postrouting priority 101; ip saddr 198.18.8.0/21 ip daddr != 198.18.8.0/21 masquerade; }
}
`
	if diff := cmp.Diff(want, NodeRules(netip.MustParsePrefix("198.18.8.0/21"))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
