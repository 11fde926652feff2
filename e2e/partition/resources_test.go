//go:build e2e

package partition_test

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

// podRow is what the list of an application's pods tells.
type podRow struct {
	Pod, Component, QOSClass, Reason, Message string
	Ready                                     bool
	Restarts                                  int32
	Causes, Remedies                          []string
	Containers                                []struct {
		Last *struct{ Reason, ExitCode any }
	}
}

// pods asks as users do.
func pods(j *journey.Journey, application string) []podRow {
	j.Helper()
	var rows []podRow
	if err := json.Unmarshal([]byte(j.Yunfan("pods", application, "--tenant", j.Tenant, "-o", "json")), &rows); err != nil {
		j.Fatal(err)
	}
	return rows
}

func sized(requests, limits corev1.ResourceList) journey.Change {
	return func(_ *v1alpha1.Component, main *corev1.Container) {
		main.Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
	}
}

func list(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

func TestRES09QualityOfService(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	a := j.Application("qos", journey.In("bj"),
		journey.Echo("guaranteed", journey.Resources("50m", "32Mi")),
		journey.Echo("burstable", sized(list("cpu", "20m"), list("memory", "64Mi"))),
		journey.Echo("best-effort", sized(nil, nil)))
	j.Ready(a)
	classes := map[string]string{}
	for _, row := range pods(j, "qos") {
		classes[row.Component] = row.QOSClass
	}
	j.Expect(classes).To(Equal(map[string]string{"guaranteed": "Guaranteed", "burstable": "Burstable", "best-effort": "BestEffort"}))
}

// EX-03: a program that takes memory until it is killed, and a pod that no node has room for.
func TestRES10Diagnosis(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	leak := journey.Echo("leak", journey.Args("hog", "200"), journey.Resources("100m", "50Mi"))
	leak.Service = nil
	a := j.Application("leak", journey.In("bj"), leak)
	j.Eventually(func() string {
		p := j.Placement(a, "bj")
		return p.Reason + " " + p.Message
	}).Should(And(HavePrefix(v1alpha1.ReasonOOMKilled), ContainSubstring("limit of 50Mi"), ContainSubstring("exit code 137"), ContainSubstring("restarts")))
	j.Eventually(func(g Gomega) {
		row := pods(j, "leak")[0]
		g.Expect(row.Reason).To(Equal(v1alpha1.ReasonOOMKilled))
		g.Expect(row.Restarts).To(BeNumerically(">=", 1))
		g.Expect(row.Containers[0].Last).NotTo(BeNil())
		g.Expect(*row.Containers[0].Last).To(Equal(struct{ Reason, ExitCode any }{"OOMKilled", float64(137)}))
	}).Should(Succeed())

	// As much as the largest node can give at all, and 1.1 cores more.
	var nodes corev1.NodeList
	j.Expect(j.Clusters[journey.Beijing].List(j.Context(), &nodes)).To(Succeed())
	most := resource.MustParse("1100m")
	for _, node := range nodes.Items {
		if free := node.Status.Allocatable.Cpu().DeepCopy(); free.Cmp(most) > 0 {
			most = free
		}
	}
	most.Add(resource.MustParse("1100m"))
	b := j.Application("large", journey.In("bj"), journey.Echo("large", sized(corev1.ResourceList{"cpu": most}, nil)))
	j.Eventually(func() string {
		p := j.Placement(b, "bj")
		return p.Reason + " " + p.Message
	}).Should(And(HavePrefix(v1alpha1.ReasonUnschedulable), ContainSubstring("not enough free CPU: the pod requests "+most.String()),
		ContainSubstring("Insufficient cpu"), ContainSubstring("add a node, stop other pods or lower the request")))
	row := pods(j, "large")[0]
	j.Expect(row.Causes).To(ContainElement("not enough free CPU: the pod requests " + most.String()))
	j.Expect(row.Remedies).To(Equal([]string{"add a node", "stop other pods", "lower the request"}))
}

// The limits of the book, and what an application says that does not keep them.
func TestRES05LimitsAreExplained(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	p := j.Partition("bj", journey.Beijing, func(s *v1alpha1.PartitionSpec) {
		s.Limits = []corev1.LimitRangeItem{
			{Type: corev1.LimitTypePod, Max: list("cpu", "4", "memory", "2Gi"), Min: list("cpu", "200m", "memory", "6Mi"), MaxLimitRequestRatio: list("cpu", "3", "memory", "2")},
			{
				Type: corev1.LimitTypeContainer, Default: list("cpu", "300m", "memory", "200Mi"), DefaultRequest: list("cpu", "200m", "memory", "100Mi"),
				Max: list("cpu", "2", "memory", "1Gi"), Min: list("cpu", "100m", "memory", "3Mi"), MaxLimitRequestRatio: list("cpu", "5", "memory", "4"),
			},
		}
	})
	j.Ready(j.Application("plain", journey.In("bj"), journey.Echo("plain", sized(nil, nil))))
	got := j.Pods(journey.Beijing, p.MemberNamespace(), "plain")[0].Spec.Containers[0].Resources
	j.Expect(got.Limits.Cpu().String() + " " + got.Limits.Memory().String()).To(Equal("300m 200Mi"))
	for name, tc := range map[string]struct {
		requests, limits corev1.ResourceList
		words            string
	}{
		"five-cpu":  {list("cpu", "2", "memory", "100Mi"), list("cpu", "5", "memory", "200Mi"), "maximum cpu usage per Container is 2, but limit is 5"},
		"ratio-six": {list("cpu", "200m", "memory", "100Mi"), list("cpu", "1200m", "memory", "100Mi"), "ratio per Container is 5, but provided ratio is 6"},
	} {
		a := j.Application(name, journey.In("bj"), journey.Echo(name, sized(tc.requests, tc.limits)))
		j.Eventually(j.Condition(a, v1alpha1.ConditionReady)).Should(And(HavePrefix("False "+v1alpha1.ReasonRefused), ContainSubstring(tc.words)))
	}
}

// devices offers two GPUs that do not exist to the kubelet of a node, over its real device plugin API.
func devices(j *journey.Journey) {
	j.Helper()
	plugin := filepath.Join(j.TempDir(), "deviceplugin")
	build := exec.CommandContext(j.Context(), "go", "build", "-mod=readonly", "-o", plugin, "./deviceplugin")
	build.Dir = filepath.Join(j.Bin(), "..", "engine", "kubernetes")
	if out, err := build.CombinedOutput(); err != nil {
		j.Fatalf("building the device plugin: %v\n%s", err, out)
	}
	var folder string
	_ = filepath.WalkDir(j.DataDir, func(path string, entry os.DirEntry, _ error) error {
		if entry != nil && entry.Name() == "kubelet.sock" && strings.Contains(path, journey.Beijing) && filepath.Base(filepath.Dir(path)) == "device-plugins" {
			folder = filepath.Dir(path)
			return filepath.SkipAll
		}
		return nil
	})
	j.Expect(folder).NotTo(BeEmpty(), "the kubelet's folder of device plugins")
	cmd := exec.Command(plugin, folder, "nvidia.com/gpu", "2")
	input, err := cmd.StdinPipe()
	j.Expect(err).NotTo(HaveOccurred())
	output, err := cmd.StdoutPipe()
	j.Expect(err).NotTo(HaveOccurred())
	cmd.Stderr = os.Stderr
	j.Expect(cmd.Start()).To(Succeed())
	j.Cleanup(func() { _ = input.Close(); _ = cmd.Wait() })
	word, err := bufio.NewReader(output).ReadString('\n')
	j.Expect(word, err).To(Equal("registered\n"))
}

// A partition with a GPU quota of 1 admits one pod with a GPU and refuses the second.
func TestRES14GPU(t *testing.T) {
	j := journey.Begin(t)
	devices(j)
	j.Eventually(func() int64 {
		var nodes corev1.NodeList
		j.Expect(j.Clusters[journey.Beijing].List(j.Context(), &nodes)).To(Succeed())
		sum := int64(0)
		for _, node := range nodes.Items {
			q := node.Status.Allocatable["nvidia.com/gpu"]
			sum += q.Value()
		}
		return sum
	}).Should(BeEquivalentTo(2), "the node offers what its plugin has")
	tenant := &v1alpha1.Tenant{ObjectMeta: journey.Named("", j.Tenant)}
	j.Update(tenant, func() { tenant.Spec.Quota = list("requests.nvidia.com/gpu", "1") })
	p := j.Partition("gpu", journey.Beijing, func(s *v1alpha1.PartitionSpec) { s.Quota = list("requests.nvidia.com/gpu", "1") })
	second := &v1alpha1.Partition{ObjectMeta: journey.Named(j.Tenant, "more"), Spec: v1alpha1.PartitionSpec{Cluster: journey.Beijing, Quota: list("requests.nvidia.com/gpu", "1")}}
	j.Create(second)
	j.Eventually(j.Condition(second, v1alpha1.ConditionReady)).Should(And(HavePrefix("False "+v1alpha1.ReasonQuotaExceeded), ContainSubstring("nvidia.com/gpu: 1 is asked for, but of the 1")))

	gpu := sized(list("cpu", "10m", "nvidia.com/gpu", "1"), list("nvidia.com/gpu", "1"))
	one := j.Application("one", journey.In("gpu"), journey.Echo("one", gpu))
	j.Ready(one)
	running := j.Pods(journey.Beijing, p.MemberNamespace(), "one")[0]
	j.Expect(j.Kubectl(journey.Beijing, "-n", p.MemberNamespace(), "exec", running.Name, "--", "/bin/env")).To(ContainSubstring("FAKE_GPU=[fake-"), "the kubelet gave it a device")
	// A placement is judged by what the partition was last seen to use: before that is counted, the cluster refuses the pod.
	j.Eventually(func() string {
		j.Expect(j.Get(p)).To(Succeed())
		used, hard, free := p.Status.Used["requests.nvidia.com/gpu"], p.Status.Hard["requests.nvidia.com/gpu"], p.Status.Free["nvidia.com/gpu"]
		return used.String() + " of " + hard.String() + ", free " + free.String()
	}).Should(Equal("1 of 1, free 1"))
	j.Refused("two", journey.In("gpu"), journey.Echo("two", gpu), "requests.nvidia.com/gpu: 1 wanted, others use 1 of 1")
	past := &corev1.Pod{ObjectMeta: journey.Named(p.MemberNamespace(), "past"), Spec: *running.Spec.DeepCopy()}
	past.Spec.NodeName = ""
	j.Expect(j.Clusters[journey.Beijing].Create(j.Context(), past)).To(MatchError(ContainSubstring("exceeded quota: yunfan, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=1")))

	cluster := &v1alpha1.Cluster{}
	j.Eventually(func() string {
		j.Expect(j.Hub().Get(j.Context(), client.ObjectKey{Name: journey.Beijing}, cluster)).To(Succeed())
		requested, allocatable := cluster.Status.Requested["nvidia.com/gpu"], cluster.Status.Allocatable["nvidia.com/gpu"]
		return requested.String() + " of " + allocatable.String()
	}).Should(Equal("1 of 2"))
	j.Expect(j.Yunfan("partitions", "--where", "tenant="+j.Tenant, "-o", "json")).To(ContainSubstring(`"gpu": "1"`))
	// Samples are taken every five minutes: the first one that counts may be some time away, the view is there at once.
	j.Expect(j.Yunfan("usage", "--tenant", j.Tenant, "--from", time.Now().Add(-time.Hour).UTC().Format(time.RFC3339), "-o", "json")).To(ContainSubstring(`"tenant": "` + j.Tenant + `"`))
}
