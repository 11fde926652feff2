// Package node describes a node of a cluster: its certificates, the configuration files of containerd, kubelet,
// kube-proxy and the CNI plugins, and their command lines.
package node

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"yunfan.io/engine/network"
	"yunfan.io/engine/pki"
	"yunfan.io/engine/sandbox"
	"yunfan.io/engine/supervisor"
	"yunfan.io/engine/topology"
)

// Names of the processes.
const (
	Containerd = "containerd"
	Images     = "images" // imports system images, then ends
	Kubelet    = "kubelet"
	KubeProxy  = "kube-proxy"
	Policy     = "yunfan-policy" // puts network policies in force
)

// RegistryHost is the name under which nodes know the instance's registry; RegistryPort is where it listens on the
// host bridge.
const (
	RegistryHost = "registry.yunfan.internal"
	RegistryPort = 5000
)

// SystemImage names an image that comes with the engine.
func SystemImage(name string) string { return RegistryHost + "/system/" + name }

// Config is what a node is made from.
type Config struct {
	Paths    topology.Paths
	Programs topology.Programs
	Plan     topology.Plan
	Cluster  *topology.ClusterState
	Node     *topology.NodeState
	Reserved Reserved
	DNS      []string // servers for names outside the cluster
	Egress   bool
	CgroupV1 []string
	Lifetime time.Duration // of certificates made from now on; 0 is the default
}

func (c Config) store() pki.Store {
	return pki.Store{Dir: c.Paths.PKI(c.Cluster.Name), Lifetime: c.Lifetime}
}

func (c Config) dir() string { return c.Paths.Node(c.Cluster.Name, c.Node.Name) }
func (c Config) file(name string) string {
	return filepath.Join(c.dir(), "etc", name)
}

// Prepare makes certificates that are missing, renews those that are due, and writes all configuration anew.
func (c Config) Prepare() error {
	s, ip := c.store(), c.Plan.Node(c.Cluster.Slot, c.Node.Index).String()
	user, serving := "kubelet-"+c.Node.Name, "kubelet-"+c.Node.Name+"-serving"
	err := errors.Join(
		s.Sign(pki.Request{Name: user, CA: "ca", CommonName: "system:node:" + c.Node.Name, Organization: []string{"system:nodes"}}),
		s.Sign(pki.Request{Name: serving, CA: "ca", CommonName: "system:node:" + c.Node.Name, DNS: []string{c.Node.Name}, IPs: []string{ip}, ServerOnly: true}),
		s.Kubeconfig(c.file("kubelet.kubeconfig"), c.Cluster.Name, c.Plan.Endpoint(c.Cluster.Slot), user),
		s.Kubeconfig(c.file("kube-proxy.kubeconfig"), c.Cluster.Name, c.Plan.Endpoint(c.Cluster.Slot), "kube-proxy"),
		s.Kubeconfig(c.file("policy.kubeconfig"), c.Cluster.Name, c.Plan.Endpoint(c.Cluster.Slot), "network-policy"))
	if err != nil {
		return fmt.Errorf("preparing node %s: %w", c.Node.Name, err)
	}
	registry := "http://" + netip.AddrPortFrom(c.Plan.Gateway(), RegistryPort).String()
	files := map[string]string{
		"containerd.toml":                         c.containerd(),
		"certs.d/" + RegistryHost + "/hosts.toml": hosts(registry, registry),
		"certs.d/_default/hosts.toml":             hosts(registry, map[bool]string{false: registry}[c.Egress]),
		"cni/10-yunfan.conflist":                  c.cni(),
		"kubelet.yaml":                            c.kubelet(s, ip, serving),
		"kube-proxy.yaml":                         c.kubeProxy(),
		"resolv.conf":                             c.resolvConf(),
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := topology.WriteFile(c.file(name), []byte(files[name]), 0o644); err != nil {
			return fmt.Errorf("preparing node %s: %w", c.Node.Name, err)
		}
	}
	return nil
}

// Spec describes the unit.
func (c Config) Spec() *sandbox.Spec {
	dir, p := c.dir(), c.Programs
	api := supervisor.Probe{URL: c.Plan.Endpoint(c.Cluster.Slot) + "/readyz", CA: c.store().Cert("ca")}
	processes := []supervisor.Process{
		{Name: Containerd, Command: []string{p.Path("containerd"), "--config=" + c.file("containerd.toml")},
			Ready: supervisor.Probe{URL: "unix:///run/containerd/containerd.sock"}},
		{Name: Images, Once: true, Needs: []string{Containerd},
			Command: []string{p.Path("yunfan-engine"), "import-images", "--images=" + p.Images(), "--record=" + filepath.Join(dir, "images.json")}},
		{Name: Policy, Gate: api, Ready: supervisor.Probe{URL: "unix:///run/yunfan-policy/policy.sock"},
			Command: []string{p.Path(Policy), "--node=" + c.Node.Name, "--pods=" + c.Plan.NodePods(c.Cluster.Slot, c.Node.Index).String(),
				"--kubeconfig=" + c.file("policy.kubeconfig")},
			// A connection that was cut without a word is noticed within seconds, not most of a minute: policies change over it.
			Env: []string{"GOMEMLIMIT=24MiB", "GOGC=50", "HTTP2_READ_IDLE_TIMEOUT_SECONDS=5", "HTTP2_PING_TIMEOUT_SECONDS=3"}},
		{Name: Kubelet, Needs: []string{Images, Policy}, Gate: api, Ready: supervisor.Probe{URL: "http://127.0.0.1:10248/healthz"},
			Command: []string{p.Path(Kubelet), "--config=" + c.file("kubelet.yaml"), "--kubeconfig=" + c.file("kubelet.kubeconfig"),
				"--hostname-override=" + c.Node.Name, "--node-ip=" + c.Plan.Node(c.Cluster.Slot, c.Node.Index).String()}},
		{Name: KubeProxy, Gate: api, Command: []string{p.Path(KubeProxy), "--config=" + c.file("kube-proxy.yaml")},
			Ready: supervisor.Probe{URL: "http://127.0.0.1:10249/healthz"}},
	}
	for i := range processes {
		processes[i].Log = filepath.Join(dir, "log", processes[i].Name+".log")
	}
	return &sandbox.Spec{
		Unit: c.Cluster.Name + "/" + c.Node.Name, Dir: dir, Program: p.Path("yunfan-engine"), Hostname: c.Node.Name,
		PrivateFS: true, CgroupV1: c.CgroupV1, Processes: processes,
		// Default paths inside, whatever the length of the data directory: sockets and CSI drivers count on them.
		Binds: []sandbox.Bind{
			{Source: filepath.Join(dir, "kubelet"), Target: "/var/lib/kubelet"},
			{Source: filepath.Join(dir, "containerd"), Target: "/var/lib/containerd"},
			{Source: filepath.Join(dir, "varlog"), Target: "/var/log"},
			{Source: filepath.Join(dir, "volumes"), Target: "/var/lib/yunfan-volumes"},
			{Source: filepath.Join(dir, "cni"), Target: "/var/lib/cni"},
		},
		Sysctls: map[string]string{"net.ipv4.ip_forward": "1"},
		Rules:   network.NodeRules(c.Plan.ClusterPods(c.Cluster.Slot)),
		Env:     []string{"PATH=" + p.Dir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}
}

// hosts sends pulls to the registry; server is asked when the registry does not have the image.
func hosts(registry, server string) string {
	head := ""
	if server != "" {
		head = fmt.Sprintf("server = %q\n", server)
	}
	return fmt.Sprintf("%s[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", head, registry)
}

// containerd: restrict_oom_score_adj helps where CAP_SYS_RESOURCE is missing; the snapshotters and plugins switched
// off need file systems or services that are not there.
func (c Config) containerd() string {
	return fmt.Sprintf(`version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs", "io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.internal.v1.opt']
  path = "/var/lib/containerd/opt"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = [%q]
  conf_dir = %q
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = %q
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = %q
`, c.Programs.Path("cni"), c.file("cni"), SystemImage("pause:v1"), c.file("certs.d"))
}

// cni routes every pod by its own point-to-point link, so that rules for forwarded packets see traffic between pods
// of one node too. The last plugin waits until the pod's network policies are in force.
func (c Config) cni() string {
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "yunfan", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam",
    "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "backend": "nftables"},
  {"type": "yunfan-policy"}]}
`, c.Plan.NodePods(c.Cluster.Slot, c.Node.Index))
}

// kubelet: eviction and image garbage collection are off, since they would judge the host's disk, which all nodes
// share. Leases and status are frequent so that a lost node is noticed within ten seconds.
func (c Config) kubelet(s pki.Store, ip, serving string) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failSwapOn: false
address: %[1]s
healthzBindAddress: 127.0.0.1
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %[2]q}}
authorization: {mode: Webhook}
tlsCertFile: %[3]q
tlsPrivateKeyFile: %[4]q
clusterDNS: [%[5]s]
clusterDomain: %[6]s
resolvConf: %[7]q
maxPods: 240
volumePluginDir: /var/lib/kubelet/volumeplugins
serializeImagePulls: false
registryPullQPS: 0
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {nodefs.available: "0%%", imagefs.available: "0%%"}
systemReserved: {cpu: %[8]q, memory: %[9]q}
nodeStatusUpdateFrequency: 2s
nodeLeaseDurationSeconds: 8
kubeAPIQPS: 100
kubeAPIBurst: 200
`, ip, s.Cert("ca"), s.Cert(serving), s.Key(serving), topology.ServiceDNS, topology.Domain, c.file("resolv.conf"), c.Reserved.CPU, c.Reserved.Memory)
}

// kubeProxy leaves connection tracking limits alone: they cannot be written from a network namespace.
func (c Config) kubeProxy() string {
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: %s
hostnameOverride: %s
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
clientConnection: {kubeconfig: %q}
conntrack: {maxPerCore: 0, min: 0, tcpCloseWaitTimeout: 0s, tcpEstablishedTimeout: 0s}
`, c.Plan.ClusterPods(c.Cluster.Slot), c.Node.Name, c.file("kube-proxy.kubeconfig"))
}

// resolvConf is for pods that do not use the cluster DNS. The gateway stands in where no server was given, as kubelet
// would otherwise fall back to the machine's.
func (c Config) resolvConf() string {
	servers := c.DNS
	if len(servers) == 0 {
		servers = []string{c.Plan.Gateway().String()}
	}
	return "nameserver " + strings.Join(servers, "\nnameserver ") + "\n"
}
