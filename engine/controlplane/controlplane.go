// Package controlplane describes the control plane of a cluster: its certificates and the command lines of etcd,
// kube-apiserver, kube-controller-manager and kube-scheduler.
package controlplane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"yunfan.io/engine/pki"
	"yunfan.io/engine/sandbox"
	"yunfan.io/engine/supervisor"
	"yunfan.io/engine/topology"
)

// Names of the processes; kubectl users and the drills know them by these.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
)

// hubControllers make sense without nodes. Workload controllers would create pods that nothing can run.
const hubControllers = "bootstrap-signer-controller,certificatesigningrequest-approving-controller," +
	"certificatesigningrequest-cleaner-controller,certificatesigningrequest-signing-controller," +
	"clusterrole-aggregation-controller,garbage-collector-controller,legacy-serviceaccount-token-cleaner-controller," +
	"namespace-controller,resourcequota-controller,root-ca-certificate-publisher-controller,serviceaccount-controller," +
	"serviceaccount-token-controller,validatingadmissionpolicy-status-controller"

// Config is what a control plane is made from.
type Config struct {
	Paths    topology.Paths
	Programs topology.Programs
	Plan     topology.Plan
	Cluster  *topology.ClusterState
	Lifetime time.Duration // of certificates made from now on; 0 is the default
}

// Endpoint is the URL of the API server.
func (c Config) Endpoint() string {
	return c.Plan.Endpoint(c.Cluster.Slot)
}

func (c Config) store() pki.Store {
	return pki.Store{Dir: c.Paths.PKI(c.Cluster.Name), Lifetime: c.Lifetime, Parent: c.Paths.Authority()}
}

// Prepare makes certificates that are missing, renews those that are due, and writes kubeconfigs.
func (c Config) Prepare() error {
	s, ip := c.store(), c.Plan.ControlPlane(c.Cluster.Slot).String()
	err := errors.Join(
		s.CA("ca", "kubernetes-"+c.Cluster.Name), s.CA("etcd-ca", "etcd-"+c.Cluster.Name),
		s.CA("front-proxy-ca", "front-proxy-"+c.Cluster.Name), s.KeyPair("sa"))
	if err != nil {
		return fmt.Errorf("making authorities of %s: %w", c.Cluster.Name, err)
	}
	local := []string{"127.0.0.1"}
	requests := []pki.Request{
		{Name: "etcd", CA: "etcd-ca", CommonName: "etcd", DNS: []string{"localhost"}, IPs: local, Server: true},
		{Name: "etcd-client", CA: "etcd-ca", CommonName: "kube-apiserver-etcd-client"},
		{Name: "apiserver", CA: "ca", CommonName: "kube-apiserver", ServerOnly: true, IPs: []string{ip, topology.ServiceAPI, "127.0.0.1"},
			DNS: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + topology.Domain}},
		{Name: "kubelet-client", CA: "ca", CommonName: "kube-apiserver-kubelet-client"},
		{Name: "front-proxy-client", CA: "front-proxy-ca", CommonName: "front-proxy-client"},
		{Name: "controller-manager", CA: "ca", CommonName: "system:kube-controller-manager", IPs: local, Server: true},
		{Name: "scheduler", CA: "ca", CommonName: "system:kube-scheduler", IPs: local, Server: true},
		{Name: "kube-proxy", CA: "ca", CommonName: "system:kube-proxy"},
		{Name: "network-policy", CA: "ca", CommonName: "system:network-policy"},
		{Name: "metrics-server", CA: "ca", CommonName: "metrics-server", ServerOnly: true, DNS: []string{"metrics-server.kube-system.svc"}},
		{Name: "admin", CA: "ca", CommonName: "yunfan-admin", Organization: []string{"system:masters"}},
	}
	for _, r := range requests {
		if err := s.Sign(r); err != nil {
			return err
		}
	}
	for _, client := range []string{"controller-manager", "scheduler"} {
		if err := s.Kubeconfig(c.kubeconfig(client), c.Cluster.Name, "https://127.0.0.1:6443", client); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(c.Paths.ControlPlane(c.Cluster.Name), "etcd"), 0o700); err != nil {
		return fmt.Errorf("making the etcd directory: %w", err)
	}
	if err := c.prepareSecurity(); err != nil {
		return err
	}
	if err := s.KubeconfigOfFiles(c.kubeconfig("admin"), c.Cluster.Name, c.Endpoint(), "admin"); err != nil {
		return err
	}
	return s.Kubeconfig(c.Paths.Kubeconfig(c.Cluster.Name), c.Cluster.Name, c.Endpoint(), "admin")
}

func (c Config) kubeconfig(client string) string {
	return filepath.Join(c.Paths.PKI(c.Cluster.Name), client+".kubeconfig")
}

// Spec describes the unit.
func (c Config) Spec() *sandbox.Spec {
	dir := c.Paths.ControlPlane(c.Cluster.Name)
	ca := c.store().Cert("ca")
	processes := []supervisor.Process{
		{Name: Etcd, Command: c.etcd(dir), Ready: supervisor.Probe{URL: "http://127.0.0.1:2381/readyz"}},
		{Name: APIServer, Command: c.apiServer(), Needs: []string{Etcd}, Ready: supervisor.Probe{URL: "https://127.0.0.1:6443/readyz", CA: ca}},
		{Name: ControllerManager, Command: c.controllerManager(), Needs: []string{APIServer}, Ready: supervisor.Probe{URL: "https://127.0.0.1:10257/healthz", CA: ca}},
	}
	if len(c.Cluster.Nodes) > 0 {
		processes = append(processes, supervisor.Process{Name: Scheduler, Command: c.scheduler(),
			Needs: []string{APIServer}, Ready: supervisor.Probe{URL: "https://127.0.0.1:10259/readyz", CA: ca}})
	}
	for i, p := range processes {
		processes[i].Log = filepath.Join(dir, "log", p.Name+".log")
	}
	return &sandbox.Spec{
		Unit: c.Cluster.Name + "/" + topology.ControlPlane, Dir: dir, Program: c.Programs.Path("yunfan-engine"),
		Hostname: c.Cluster.Name + "-" + topology.ControlPlane, Processes: processes,
	}
}

// etcd keeps its default fsync: what was acknowledged survives a power failure.
func (c Config) etcd(dir string) []string {
	s := c.store()
	return []string{c.Programs.Path("etcd"), "--name=" + c.Cluster.Name, "--data-dir=" + filepath.Join(dir, "etcd"),
		"--listen-client-urls=https://127.0.0.1:2379", "--advertise-client-urls=https://127.0.0.1:2379",
		"--listen-peer-urls=https://127.0.0.1:2380", "--initial-advertise-peer-urls=https://127.0.0.1:2380",
		"--initial-cluster=" + c.Cluster.Name + "=https://127.0.0.1:2380", "--listen-metrics-urls=http://127.0.0.1:2381",
		"--cert-file=" + s.Cert("etcd"), "--key-file=" + s.Key("etcd"), "--client-cert-auth", "--trusted-ca-file=" + s.Cert("etcd-ca"),
		"--peer-cert-file=" + s.Cert("etcd"), "--peer-key-file=" + s.Key("etcd"), "--peer-client-cert-auth", "--peer-trusted-ca-file=" + s.Cert("etcd-ca"),
		"--log-level=warn"}
}

func (c Config) apiServer() []string {
	s, ip := c.store(), c.Plan.ControlPlane(c.Cluster.Slot).String()
	args := []string{c.Programs.Path(APIServer),
		"--etcd-servers=https://127.0.0.1:2379", "--etcd-cafile=" + s.Cert("etcd-ca"), "--etcd-certfile=" + s.Cert("etcd-client"), "--etcd-keyfile=" + s.Key("etcd-client"),
		"--advertise-address=" + ip, "--secure-port=6443", "--tls-cert-file=" + s.Cert("apiserver"), "--tls-private-key-file=" + s.Key("apiserver"),
		"--client-ca-file=" + s.Cert("ca"), "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
		"--service-account-issuer=https://kubernetes.default.svc." + topology.Domain,
		"--service-account-signing-key-file=" + s.Key("sa"), "--service-account-key-file=" + filepath.Join(s.Dir, "sa.pub"),
		"--service-cluster-ip-range=" + topology.ServiceCIDR, "--service-node-port-range=30000-32767",
		"--kubelet-client-certificate=" + s.Cert("kubelet-client"), "--kubelet-client-key=" + s.Key("kubelet-client"),
		"--kubelet-certificate-authority=" + s.Cert("ca"), "--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + s.Cert("front-proxy-ca"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group", "--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + s.Cert("front-proxy-client"), "--proxy-client-key-file=" + s.Key("front-proxy-client"),
		// No kube-proxy runs beside the API server: aggregated APIs are reached by pod address.
		"--enable-aggregator-routing",
		"--default-not-ready-toleration-seconds=10", "--default-unreachable-toleration-seconds=10", "--profiling=false",
		"--encryption-provider-config=" + c.encryption()}
	return append(args, c.audit()...)
}

func (c Config) controllerManager() []string {
	s, kubeconfig := c.store(), c.kubeconfig("controller-manager")
	args := []string{c.Programs.Path(ControllerManager),
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1", "--tls-cert-file=" + s.Cert("controller-manager"), "--tls-private-key-file=" + s.Key("controller-manager"),
		"--service-account-private-key-file=" + s.Key("sa"), "--root-ca-file=" + s.Cert("ca"), "--use-service-account-credentials",
		"--cluster-signing-cert-file=" + s.Cert("ca"), "--cluster-signing-key-file=" + s.Key("ca"), "--allocate-node-cidrs=false",
		"--node-monitor-period=1s", "--node-monitor-grace-period=8s"}
	if len(c.Cluster.Nodes) == 0 {
		args = append(args, "--controllers="+hubControllers)
	}
	return append(args, client()...)
}

func (c Config) scheduler() []string {
	s, kubeconfig := c.store(), c.kubeconfig("scheduler")
	return append([]string{c.Programs.Path(Scheduler),
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1", "--tls-cert-file=" + s.Cert("scheduler"), "--tls-private-key-file=" + s.Key("scheduler")}, client()...)
}

// client flags: there is one replica, so no leader is elected; the rates let 100 pods start in one go.
func client() []string {
	return []string{"--leader-elect=false", "--kube-api-qps=300", "--kube-api-burst=500", "--profiling=false"}
}
