package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"yunfan.io/engine/pki"
	"yunfan.io/engine/topology"
)

func TestReserve(t *testing.T) {
	const gi = 1 << 30
	cases := map[string]struct {
		reason  string
		machine Machine
		want    topology.NodeSize
		nodes   int
		res     Reserved
	}{
		"Share":   {"Nodes share a big machine evenly", Machine{32000, 64 * gi}, topology.NodeSize{}, 4, Reserved{"24000m", "50331648Ki"}},
		"Floor":   {"On a small machine a node still offers 2 CPUs and 2 GiB", Machine{2000, 4 * gi}, topology.NodeSize{}, 3, Reserved{"0m", "2097152Ki"}},
		"Tiny":    {"A node cannot offer more than there is", Machine{1000, 1 * gi}, topology.NodeSize{}, 1, Reserved{"0m", "0Ki"}},
		"Wish":    {"A wish is granted", Machine{8000, 16 * gi}, topology.NodeSize{CPU: "500m", Memory: "1Gi"}, 2, Reserved{"7500m", "15728640Ki"}},
		"NoNodes": {"Without nodes nothing is divided", Machine{4000, 8 * gi}, topology.NodeSize{}, 0, Reserved{"0m", "0Ki"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := tc.machine.Reserve(tc.want, tc.nodes)
			if diff := cmp.Diff(tc.res, got); err != nil || diff != "" {
				t.Errorf("%s: %v, -want +got:\n%s", tc.reason, err, diff)
			}
		})
	}
}

// TestPrepare reads the written files back as their programs would.
func TestPrepare(t *testing.T) {
	paths := topology.Paths{Data: t.TempDir()}
	c := &topology.ClusterState{Name: "a", Slot: 1, Nodes: []*topology.NodeState{{Name: "a-1"}}}
	s := pki.Store{Dir: paths.PKI("a")}
	if err := s.CA("ca", "test"); err != nil {
		t.Fatal(err)
	}
	if err := s.Sign(pki.Request{Name: "kube-proxy", CA: "ca", CommonName: "system:kube-proxy"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Sign(pki.Request{Name: "network-policy", CA: "ca", CommonName: "system:network-policy"}); err != nil {
		t.Fatal(err)
	}
	config := Config{Paths: paths, Programs: topology.Programs{Dir: "/opt/x"}, Cluster: c, Node: c.Nodes[0], Reserved: Reserved{"1000m", "1024Ki"}}
	if err := config.Prepare(); err != nil {
		t.Fatal(err)
	}
	read := func(name string, decode func([]byte) error) {
		data, err := os.ReadFile(config.file(name))
		if err == nil {
			err = decode(data)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	var kubelet, proxy, cni map[string]any
	read("kubelet.yaml", func(b []byte) error { return yaml.UnmarshalStrict(b, &kubelet) })
	read("kube-proxy.yaml", func(b []byte) error { return yaml.UnmarshalStrict(b, &proxy) })
	read("cni/10-yunfan.conflist", func(b []byte) error { return json.Unmarshal(b, &cni) })
	if got := kubelet["clusterDNS"]; !cmp.Equal(got, []any{topology.ServiceDNS}) {
		t.Errorf("DNS-01 kubelet has cluster DNS %v", got)
	}
	if got := proxy["clusterCIDR"]; got != "198.18.8.0/21" {
		t.Errorf("kube-proxy has pods %v", got)
	}
	for file, want := range map[string]string{
		"resolv.conf":                 "nameserver 198.18.0.1\n",
		"certs.d/_default/hosts.toml": "server = \"http://198.18.0.1:5000\"\n[host.\"http://198.18.0.1:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
	} {
		read(file, func(b []byte) error {
			if diff := cmp.Diff(want, string(b)); diff != "" {
				t.Errorf("%s: -want +got:\n%s", file, diff)
			}
			return nil
		})
	}
	spec := config.Spec()
	for _, p := range spec.Processes {
		if filepath.Dir(p.Log) != filepath.Join(paths.Node("a", "a-1"), "log") {
			t.Errorf("%s logs to %s", p.Name, p.Log)
		}
	}
}
