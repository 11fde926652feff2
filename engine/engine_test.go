//go:build e2e

// Package engine_test runs the real engine with real clusters: it needs root and the built programs, whose
// yunfan-engine is named by YUNFAN_ENGINE_BIN. It fails, never skips, without them.
package engine_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"yunfan.io/engine/daemon"
	"yunfan.io/engine/supervisor"
	"yunfan.io/engine/topology"
)

const patience = 120 * time.Second

// instance is one engine under test.
type instance struct {
	t    *testing.T
	bin  string
	data string
}

// start brings an instance up and takes it down at the end of the test, checking that nothing is left.
func start(t *testing.T, config string) *instance {
	t.Helper()
	return startWith(t, config, func(string) {})
}

// startWith lets prepare put files into the data directory before the first start.
func startWith(t *testing.T, config string, prepare func(data string)) *instance {
	t.Helper()
	bin := os.Getenv("YUNFAN_ENGINE_BIN")
	if bin == "" {
		t.Fatal("YUNFAN_ENGINE_BIN is not set: run `make build` and point it at bin/engine/yunfan-engine")
	}
	data := t.TempDir()
	i := &instance{t: t, bin: bin, data: data}
	file := filepath.Join(data, "wish.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	prepare(data)
	t.Cleanup(i.downAndCheck)
	i.run("up", "--config", file, "--timeout", patience.String())
	return i
}

func (i *instance) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience+10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, i.bin, append(args, "--data-dir", i.data)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("yunfan-engine %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), err
}

func (i *instance) run(args ...string) string {
	i.t.Helper()
	out, err := i.try(args...)
	if err != nil {
		i.t.Fatal(err)
	}
	return out
}

func (i *instance) status() daemon.Status {
	i.t.Helper()
	var s daemon.Status
	if err := json.Unmarshal([]byte(i.run("status", "-o", "json")), &s); err != nil {
		i.t.Fatal(err)
	}
	return s
}

func (i *instance) cluster(name string) daemon.ClusterStatus {
	i.t.Helper()
	for _, c := range i.status().Clusters {
		if c.Name == name {
			return c
		}
	}
	i.t.Fatalf("no cluster %s", name)
	return daemon.ClusterStatus{}
}

func (i *instance) process(target string) daemon.ProcessStatus {
	i.t.Helper()
	for _, p := range i.status().Processes {
		if p.Target == target {
			return p
		}
	}
	i.t.Fatalf("no process %s", target)
	return daemon.ProcessStatus{}
}

// portForward reaches the TCP port of the keeper through kubectl.
func (i *instance) portForward(g *WithT) {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(i.t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(i.bin), "kubectl"), "--kubeconfig", filepath.Join(i.data, "kubeconfig/north.kubeconfig"), "port-forward", "pod/keep-0", ":1053")
	out, err := cmd.StdoutPipe()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(cmd.Start()).To(Succeed())
	line, err := bufio.NewReader(out).ReadString('\n') // Forwarding from 127.0.0.1:40123 -> 1053
	g.Expect(err).NotTo(HaveOccurred())
	local := strings.Fields(line)[2]
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", local)
	}}
	_, err = resolver.LookupHost(ctx, "whoever.example.")
	var answered *net.DNSError
	g.Expect(errors.As(err, &answered) && !answered.IsTimeout).To(BeTrue(), "the program behind the port answers: %v", err)
	cancel()
	_ = cmd.Wait() // says that it was killed
}

// pids by target, to see that nothing was started again.
func (i *instance) pids() map[string]int {
	i.t.Helper()
	out := map[string]int{}
	for _, p := range i.status().Processes {
		out[p.Target] = p.PID
	}
	return out
}

func (i *instance) eventuallyReady() {
	i.t.Helper()
	NewWithT(i.t).Eventually(func() string {
		s := i.status()
		if s.State != daemon.Ready {
			return fmt.Sprintf("%+v", s.Clusters)
		}
		return s.State
	}).WithTimeout(patience).WithPolling(200 * time.Millisecond).Should(Equal(daemon.Ready))
}

func (i *instance) tryKubectl(cluster, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(i.bin), "kubectl"),
		append([]string{"--cache-dir", filepath.Join(i.data, "kubectl-cache"), "--kubeconfig", filepath.Join(i.data, "kubeconfig", cluster+".kubeconfig")}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), err
}

func (i *instance) kubectl(cluster, stdin string, args ...string) string {
	i.t.Helper()
	out, err := i.tryKubectl(cluster, stdin, args...)
	if err != nil {
		i.t.Fatal(err)
	}
	return out
}

// dial connects to the API server of a cluster within two seconds.
func (i *instance) dial(cluster string) (net.Conn, error) {
	u, err := url.Parse(i.cluster(cluster).Endpoint)
	if err != nil {
		return nil, err
	}
	return net.DialTimeout("tcp", u.Host, 2*time.Second)
}

// downAndCheck stops the instance and looks for anything it left on the machine.
func (i *instance) downAndCheck() {
	state, err := topology.LoadState(topology.Paths{Data: i.data}.State())
	if err != nil {
		i.t.Error(err)
	}
	begun := time.Now()
	if _, err := i.try("down", "--delete-data"); err != nil {
		i.t.Error(err)
		return
	}
	i.t.Logf("down took %s", time.Since(begun).Round(time.Millisecond))
	if _, err := os.Stat(i.data); !errors.Is(err, fs.ErrNotExist) {
		i.t.Errorf("the data directory is still there: %v", err)
	}
	if state != nil {
		for _, left := range leftovers(i.t, i.data, state.Index) {
			i.t.Error("left behind: " + left)
		}
	}
}

// leftovers looks for what belongs to one instance only, since others may run beside.
func leftovers(t *testing.T, data string, index int) []string {
	t.Helper()
	var out []string
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range processes {
		cmdline, _ := os.ReadFile(p)
		if pid := filepath.Base(filepath.Dir(p)); bytes.Contains(cmdline, []byte(data)) && pid != fmt.Sprint(os.Getpid()) {
			out = append(out, "process "+pid+": "+strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(data)) {
		out = append(out, "a mount below "+data)
	}
	for _, pattern := range []string{fmt.Sprintf("/sys/class/net/yf%d", index), fmt.Sprintf("/sys/class/net/yf%d[cud]*", index),
		fmt.Sprintf("/sys/fs/cgroup/yunfan/%d", index), fmt.Sprintf("/sys/fs/cgroup/*/yunfan/%d", index), fmt.Sprintf("/run/yunfan/instance-%d.json", index)} {
		found, _ := filepath.Glob(pattern)
		out = append(out, found...)
	}
	for what, cmd := range map[string][]string{"nftables table": {"nft", "list", "tables"}, "route": {"ip", "route", "show", "table", "all"}} {
		text, err := exec.Command(cmd[0], cmd[1:]...).Output()
		if err != nil {
			t.Fatal(err)
		}
		mark := map[string]string{"nftables table": fmt.Sprintf("yunfan%d", index), "route": fmt.Sprintf("yf%d", index)}[what]
		if strings.Contains(string(text), mark+"\n") || strings.Contains(string(text), mark+" ") {
			out = append(out, what+"s:\n"+string(text))
		}
	}
	return out
}

const twoClusters = `{name: %s, clusters: [{name: hub, nodes: 0}, {name: north, nodes: 2}, {name: south, nodes: 1}]}`

// keeper writes its process id to a volume once and fails if the volume is empty when it should not be.
const keeper = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: keep, namespace: default}
spec:
  serviceName: keep
  selector: {matchLabels: {app: keep}}
  template:
    metadata: {labels: {app: keep}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: registry.yunfan.internal/system/coredns:v1.15.0
        args: [-dns.port=1053, -pidfile=/data/pid]
        readinessProbe: {tcpSocket: {port: 1053}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
`

// step runs a subtest, unless an earlier one failed: the rest would only repeat its failure.
func (i *instance) step(name string, f func()) {
	i.t.Helper()
	if i.t.Failed() {
		return
	}
	outer := i.t
	defer func() { i.t = outer }()
	outer.Run(name, func(t *testing.T) {
		i.t = t
		f()
	})
}

// TestInstance walks one instance through its life. The steps build on each other, in this order.
func TestInstance(t *testing.T) {
	i := start(t, fmt.Sprintf(twoClusters, "e2e-life"))
	i.step("up again changes nothing", i.testUpAgain)
	i.step("a workload runs with logs, exec, DNS, metrics and a volume", i.testWorkload)
	i.step("every process killed comes back", i.testKillEach)
	i.step("the daemon killed is replaced and adopts", i.testDaemonKilled)
	i.step("isolate a cluster", i.testIsolateCluster)
	i.step("isolate a node", i.testIsolateNode)
	i.step("freeze a cluster", i.testFreezeCluster)
	i.step("freeze a process", i.testFreezeProcess)
	i.step("stop and start a cluster", i.testStopCluster)
	i.step("CLU-07 add and remove a node", i.testNodes)
	i.step("add and remove a cluster", i.testClusters)
	i.step("reboot", i.testReboot)
}

func (i *instance) testUpAgain() {
	before := i.pids()
	i.run("up")
	NewWithT(i.t).Expect(i.pids()).To(Equal(before))
	for _, c := range i.status().Clusters {
		info, err := os.Stat(c.Kubeconfig)
		if err != nil {
			i.t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			i.t.Errorf("%s has mode %s, want 0600", c.Kubeconfig, info.Mode())
		}
	}
}

func (i *instance) testWorkload() {
	g := NewWithT(i.t)
	i.kubectl("north", keeper, "apply", "-f", "-")
	g.Eventually(func() error {
		_, err := i.tryKubectl("north", "", "wait", "--for=condition=Ready", "pod/keep-0", "--timeout=60s")
		return err
	}).WithTimeout(patience).Should(Succeed())
	g.Expect(i.kubectl("north", "", "exec", "keep-0", "--", "/coredns", "-version")).To(ContainSubstring("CoreDNS"))
	i.portForward(g)
	g.Expect(i.kubectl("north", "", "logs", "keep-0")).To(ContainSubstring("CoreDNS"))
	g.Expect(i.kubectl("north", "", "get", "pvc", "data-keep-0", "-o", "jsonpath={.status.phase} {.spec.storageClassName}")).To(Equal("Bound standard"))
	g.Eventually(func() error {
		_, err := i.tryKubectl("north", "", "top", "nodes")
		return err
	}).WithTimeout(patience).Should(Succeed())

	// The host reaches pods directly; DNS-01: the cluster's DNS knows its services.
	server := i.kubectl("north", "", "-n", "kube-system", "get", "pod", "-l", "k8s-app=kube-dns", "-o", "jsonpath={.items[0].status.podIP}")
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", server+":53")
	}}
	ctx, cancel := context.WithTimeout(i.t.Context(), 10*time.Second)
	defer cancel()
	for name, want := range map[string]string{"kubernetes.default.svc.cluster.local.": topology.ServiceAPI, "registry.yunfan.internal.": i.status().Gateway} {
		g.Expect(resolver.LookupHost(ctx, name)).To(Equal([]string{want}))
	}
}

func (i *instance) testKillEach() {
	for _, p := range i.status().Processes {
		if strings.HasPrefix(p.Target, "south") || p.State != supervisor.Ready { // one member is enough
			continue
		}
		i.step(p.Target, func() {
			i.run("kill", p.Target)
			NewWithT(i.t).Eventually(func() bool {
				now := i.process(p.Target)
				return now.State == supervisor.Ready && now.PID != p.PID && now.PID != 0
			}).WithTimeout(patience).WithPolling(100 * time.Millisecond).Should(BeTrue())
			i.eventuallyReady()
		})
	}
	i.kubectl("north", "", "wait", "--for=condition=Ready", "pod/keep-0", "--timeout=60s")
}

func (i *instance) testDaemonKilled() {
	g := NewWithT(i.t)
	before := i.process("north/north-1")
	i.killDaemon()
	g.Expect(i.kubectl("north", "", "get", "--raw", "/readyz")).To(Equal("ok"), "clusters need no daemon")
	i.run("up")
	g.Expect(i.process("north/north-1").PID).To(Equal(before.PID), "adopted, not started again")
}

// killDaemon finds the daemon of this instance by its command line.
func (i *instance) killDaemon() {
	i.t.Helper()
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range processes {
		cmdline, _ := os.ReadFile(p)
		if strings.HasSuffix(string(cmdline), "daemon\x00--data-dir\x00"+i.data+"\x00") {
			var pid int
			fmt.Sscan(filepath.Base(filepath.Dir(p)), &pid)
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				i.t.Fatal(err)
			}
			return
		}
	}
	i.t.Fatal("no daemon found")
}

func (i *instance) testIsolateCluster() {
	g := NewWithT(i.t)
	i.run("isolate", "north")
	g.Expect(i.cluster("north").State).To(Equal(daemon.Isolated))
	_, err := i.dial("north")
	var timeout net.Error
	g.Expect(errors.As(err, &timeout) && timeout.Timeout()).To(BeTrue(), "packets are dropped without an answer, got: %v", err)
	g.Expect(i.cluster("south").State).To(Equal(daemon.Ready), "the other member is not touched")
	i.run("heal", "north")
	g.Expect(i.kubectl("north", "", "get", "--raw", "/readyz")).To(Equal("ok"))
	i.eventuallyReady()
	g.Expect(i.kubectl("north", "", "get", "pod", "keep-0", "-o", "jsonpath={.status.phase}")).To(Equal("Running"))
}

func (i *instance) testIsolateNode() {
	g := NewWithT(i.t)
	i.run("isolate", "north/north-2")
	g.Eventually(func() string {
		return i.kubectl("north", "", "get", "node", "north-2", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
	}).WithTimeout(30 * time.Second).Should(Equal("Unknown"))
	i.run("heal", "north/north-2")
	i.eventuallyReady()
}

func (i *instance) testFreezeCluster() {
	g := NewWithT(i.t)
	i.run("freeze", "north")
	g.Expect(i.cluster("north").State).To(Equal(daemon.Frozen))
	conn, err := i.dial("north")
	g.Expect(err).NotTo(HaveOccurred(), "a frozen API server still accepts connections")
	defer conn.Close()
	// A TLS record that any living server would answer, if only by an alert.
	_, err = conn.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(conn.SetReadDeadline(time.Now().Add(2 * time.Second))).To(Succeed())
	_, err = conn.Read(make([]byte, 1))
	g.Expect(errors.Is(err, os.ErrDeadlineExceeded)).To(BeTrue(), "never answers, got: %v", err)
	i.run("heal", "north")
	i.eventuallyReady()
}

func (i *instance) testFreezeProcess() {
	g := NewWithT(i.t)
	i.run("freeze", "north/kube-apiserver")
	g.Expect(i.process("north/kube-apiserver").State).To(Equal(supervisor.Frozen))
	g.Expect(i.cluster("north").State).NotTo(Equal(daemon.Ready))
	i.run("heal", "north/kube-apiserver")
	i.eventuallyReady()
}

func (i *instance) testStopCluster() {
	g := NewWithT(i.t)
	i.run("stop", "north")
	g.Expect(i.cluster("north").State).To(Equal(daemon.Stopped))
	g.Expect(i.process("north/north-1").PID).To(BeZero())
	i.run("start", "north")
	i.eventuallyReady()
	i.kubectl("north", "", "wait", "--for=condition=Ready", "pod/keep-0", "--timeout=60s")
}

func (i *instance) testNodes() {
	g := NewWithT(i.t)
	name := strings.TrimSpace(i.run("node", "add", "south"))
	g.Expect(name).To(Equal("south-2"))
	g.Expect(i.kubectl("south", "", "get", "nodes", "-o", "name")).To(Equal("node/south-1\nnode/south-2"))
	i.run("node", "add", "hub", "worker")
	g.Expect(i.kubectl("hub", "", "get", "nodes", "-o", "name")).To(Equal("node/worker"), "a hub becomes a full cluster")
	i.run("node", "remove", "hub/worker")
	i.run("node", "remove", "south/south-2")
	g.Expect(i.kubectl("south", "", "get", "nodes", "-o", "name")).To(Equal("node/south-1"))
	_, err := i.try("node", "remove", "south/south-2")
	g.Expect(err).To(MatchError(ContainSubstring(`nothing here is called "south/south-2"`)))
	i.eventuallyReady()
}

func (i *instance) testClusters() {
	g := NewWithT(i.t)
	i.run("cluster", "add", "west", "--nodes", "1")
	g.Expect(i.cluster("west").State).To(Equal(daemon.Ready))
	g.Expect(i.kubectl("west", "", "get", "nodes", "-o", "name")).To(Equal("node/west-1"))
	_, err := i.try("cluster", "add", "west")
	g.Expect(err).To(MatchError(ContainSubstring("taken")))
	i.run("cluster", "remove", "west")
	g.Expect(i.status().Clusters).To(HaveLen(3))
	i.run("up")
	g.Expect(i.status().Clusters).To(HaveLen(3), "what was removed is not wanted again")
}

// testReboot kills everything at once and wipes what a reboot would wipe.
func (i *instance) testReboot() {
	g := NewWithT(i.t)
	i.kubectl("north", "", "create", "configmap", "remember", "--from-literal=word=cloud")
	marks, err := filepath.Glob(filepath.Join(i.data, "clusters/north/nodes/*/volumes/*/pid"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(marks).To(HaveLen(1))
	mark := filepath.Join(filepath.Dir(marks[0]), "mark")
	g.Expect(os.WriteFile(mark, []byte("mine"), 0o600)).To(Succeed())

	container := i.kubectl("north", "", "get", "pod", "keep-0", "-o", "jsonpath={.status.containerStatuses[0].containerID}")

	status := i.status()
	i.killDaemon()
	for _, p := range status.Processes {
		if p.PID > 0 {
			_ = syscall.Kill(p.PID, syscall.SIGKILL) // those inside may be gone with their first process
		}
	}
	i.wipe(status)
	i.run("up")
	g.Expect(i.kubectl("north", "", "get", "configmap", "remember", "-o", "jsonpath={.data.word}")).To(Equal("cloud"))
	// The restart count tells the new container from the state stored before.
	g.Eventually(func() string {
		return i.kubectl("north", "", "get", "pod", "keep-0", "-o", "jsonpath={.status.containerStatuses[0].ready} {.status.containerStatuses[0].containerID}")
	}).WithTimeout(patience).Should(And(HavePrefix("true"), Not(HaveSuffix(container))))
	g.Expect(os.ReadFile(mark)).To(Equal([]byte("mine")))
	g.Expect(i.status().Range).To(Equal(status.Range), "addresses are kept")
}

// wipe removes what does not survive a reboot: interfaces, cgroups and /run.
func (i *instance) wipe(s daemon.Status) {
	i.t.Helper()
	g := NewWithT(i.t)
	state, err := topology.LoadState(topology.Paths{Data: i.data}.State())
	g.Expect(err).NotTo(HaveOccurred())
	g.Eventually(func() error {
		for _, p := range s.Processes {
			if p.PID > 0 && syscall.Kill(p.PID, 0) == nil {
				return fmt.Errorf("%s is still there", p.Target)
			}
		}
		return nil
	}).WithTimeout(30 * time.Second).Should(Succeed())
	links, _ := filepath.Glob(fmt.Sprintf("/sys/class/net/yf%d*", state.Index))
	for _, link := range links {
		_ = exec.Command("ip", "link", "delete", filepath.Base(link)).Run() // the other end of a pair is gone by then
	}
	g.Eventually(func() []string {
		roots, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/yunfan/%d", state.Index))
		for _, root := range roots {
			_ = exec.Command("find", root, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";").Run()
		}
		return roots
	}).WithTimeout(30 * time.Second).Should(BeEmpty())
	_ = os.Remove(fmt.Sprintf("/run/yunfan/instance-%d.json", state.Index))
}

func TestTwoInstancesSideBySide(t *testing.T) {
	g := NewWithT(t)
	a := start(t, `{name: e2e-left, clusters: [{name: same, nodes: 1}]}`)
	b := start(t, `{name: e2e-right, clusters: [{name: same, nodes: 1}]}`)
	g.Expect(a.status().Range).NotTo(Equal(b.status().Range))
	a.kubectl("same", "", "create", "configmap", "left")
	_, err := b.tryKubectl("same", "", "get", "configmap", "left")
	g.Expect(err).To(MatchError(ContainSubstring("not found")))
	before := a.pids()
	b.killDaemon()
	b.run("down")
	b.run("down") // once more is no fault, and does not touch whoever has the addresses now
	g.Expect(a.pids()).To(Equal(before), "the other's end is not noticed")
	a.eventuallyReady()
	b.run("up")
	g.Expect(b.status().State).To(Equal(daemon.Ready))
}

func TestServices(t *testing.T) {
	g := NewWithT(t)
	i := start(t, `
name: e2e-services
egress: true
clusters: [{name: hub, nodes: 0}]
services:
- {name: late, needs: [hub], env: ["WHERE=${data} ${gateway}"], command: [sh, -c, 'echo "$WHERE"; exec sleep infinity']}
`)
	p := i.process("services/late/late")
	g.Expect(p.State).To(Equal(supervisor.Ready))
	g.Expect(supervisor.Tail(p.Log, 1)).To(Equal([]string{i.data + " " + i.status().Gateway}))
	state, err := topology.LoadState(topology.Paths{Data: i.data}.State())
	g.Expect(err).NotTo(HaveOccurred())
	rules, err := exec.Command("nft", "list", "table", "ip", fmt.Sprintf("yunfan%d", state.Index)).CombinedOutput()
	g.Expect(string(rules), err).To(ContainSubstring("masquerade"), "egress was asked for")
	i.run("kill", "services/late/late")
	g.Eventually(func() int { return i.process("services/late/late").Restarts }).WithTimeout(patience).Should(Equal(1))

	i.step("a failing service is named with its last lines", func() {
		g := NewWithT(i.t)
		config := topology.Paths{Data: i.data}.Config()
		wish, err := topology.Load(config)
		g.Expect(err).NotTo(HaveOccurred())
		wish.Services[0].Command = []string{"sh", "-c", "echo the reason is here >&2; exit 3"}
		g.Expect(wish.Save(config)).To(Succeed())
		_, err = i.try("up", "--timeout", "60s")
		g.Expect(err).To(MatchError(And(ContainSubstring("services/late/late"), ContainSubstring("exit status 3"), ContainSubstring("the reason is here"))))
		wish.Services = nil
		g.Expect(wish.Save(config)).To(Succeed())
		i.run("up")
	})
	i.step("a control plane that cannot start is named with its last lines", func() {
		g := NewWithT(i.t)
		i.run("stop", "hub")
		wal := filepath.Join(topology.Paths{Data: i.data}.ControlPlane("hub"), "etcd/member")
		g.Expect(os.Rename(wal, wal+".good")).To(Succeed())
		g.Expect(os.WriteFile(wal, []byte("not a folder"), 0o600)).To(Succeed())
		_, err := i.try("up", "--timeout", "60s")
		g.Expect(err).To(MatchError(And(ContainSubstring("hub/etcd is"), ContainSubstring("last lines of"), ContainSubstring("not a directory"))))
		g.Expect(os.Remove(wal)).To(Succeed())
		g.Expect(os.Rename(wal+".good", wal)).To(Succeed())
		i.run("up")
	})
	i.step("down ends what is frozen", func() { i.run("freeze", "hub") })
}
