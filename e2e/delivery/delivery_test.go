//go:build e2e

package delivery_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

func pod(change func(*corev1.PodSpec, *corev1.Container)) journey.Change {
	return func(c *v1alpha1.Component, main *corev1.Container) { change(&c.Template.Spec, main) }
}

// TestDeliveryRefused proves, against real members, that a tenant's template cannot reach what its partition may not.
func TestDeliveryRefused(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	for name, tc := range map[string]struct {
		rule   string // that the status must name
		change func(*corev1.PodSpec, *corev1.Container)
	}{
		"host-path": {rule: "hostPath", change: func(s *corev1.PodSpec, _ *corev1.Container) {
			s.Volumes = []corev1.Volume{{Name: "root", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
		}},
		"privileged": {rule: "privileged", change: func(_ *corev1.PodSpec, main *corev1.Container) {
			main.SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
		}},
		"host-network": {rule: "host namespaces", change: func(s *corev1.PodSpec, _ *corev1.Container) { s.HostNetwork = true }},
		"host-pid":     {rule: "host namespaces", change: func(s *corev1.PodSpec, _ *corev1.Container) { s.HostPID = true }},
		"any-node": {rule: v1alpha1.TaintTenant, change: func(s *corev1.PodSpec, _ *corev1.Container) {
			s.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			a := j.Application(name, journey.In("bj"), journey.Echo(name, pod(tc.change)))
			j.Eventually(func() string {
				p := j.Placement(a, "bj")
				return p.Reason + " " + p.Message
			}).WithTimeout(30 * time.Second).Should(And(HavePrefix(v1alpha1.ReasonRefused), ContainSubstring(tc.rule)))
			j.Expect(j.Pods(journey.Beijing, j.Tenant+"-bj", name)).To(BeEmpty())
		})
	}
}

// TestDeliveryIdentity proves that the hub acts as the partition's service account, which may little.
func TestDeliveryIdentity(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	j.Ready(j.Application("web", journey.In("bj"), journey.Echo("web")))
	namespace := j.Tenant + "-bj"
	as := "--as=system:serviceaccount:" + namespace + ":" + v1alpha1.DeliveryServiceAccount
	may := func(args ...string) string {
		return strings.TrimSpace(j.Try(journey.Beijing, append([]string{"auth", "can-i", as}, args...)...))
	}
	j.Expect(may("create", "deployments", "-n", namespace)).To(Equal("yes"))
	for _, forbidden := range [][]string{
		{"create", "deployments", "-n", "kube-system"}, {"get", "secrets", "-n", "kube-system"}, {"create", "clusterroles"}, {"create", "roles", "-n", namespace},
		{"create", "rolebindings", "-n", namespace}, {"patch", "namespaces/" + namespace}, {"patch", "resourcequotas", "-n", namespace}, {"get", "nodes"},
		{"create", "serviceaccounts", "--subresource=token", "-n", namespace}, {"impersonate", "users"},
	} {
		j.Expect(may(forbidden...)).To(MatchRegexp("(?m)^no"), "%v", forbidden) // kubectl may warn first
	}
}

// TestDeliveryReasons proves that the status says why pods are not ready, without anybody looking at the member.
func TestDeliveryReasons(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	for name, tc := range map[string]struct {
		component v1alpha1.Component
		reason    string
		says      []string
	}{
		"image": {
			component: journey.Echo("image", journey.Image("registry.yunfan.internal/examples/nothing:v9")),
			reason:    v1alpha1.ReasonImagePull, says: []string{"examples/nothing:v9"},
		},
		"crash": {
			component: journey.Echo("crash", journey.Args("exit", "3", "the last words")),
			reason:    v1alpha1.ReasonCrashLoop, says: []string{"3", "the last words"},
		},
		"memory": {
			component: journey.Echo("memory", journey.Args("hog", "200"), journey.Resources("50m", "32Mi")),
			reason:    v1alpha1.ReasonOOMKilled, says: []string{"32Mi"},
		},
		"nowhere": {
			component: journey.Echo("nowhere", pod(func(s *corev1.PodSpec, _ *corev1.Container) { s.NodeSelector = map[string]string{"disk": "gold"} })),
			reason:    v1alpha1.ReasonUnschedulable, says: []string{"node"},
		},
		"unready": {
			component: journey.Echo("unready", journey.Readiness("/status/503")),
			reason:    v1alpha1.ReasonNotReady, says: []string{"503"},
		},
		"missing": {
			component: journey.Echo("missing", pod(func(_ *corev1.PodSpec, main *corev1.Container) {
				main.EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "not-there"}}}}
			})),
			reason: v1alpha1.ReasonConfigError, says: []string{"not-there"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := j.Application(name, journey.In("bj"), tc.component)
			j.Eventually(func() string {
				p := j.Placement(a, "bj")
				return p.Reason + " " + p.Message
			}).Should(And(HavePrefix(tc.reason), containAll(tc.says)))
		})
	}
}

func containAll(words []string) OmegaMatcher {
	var matchers []OmegaMatcher
	for _, w := range words {
		matchers = append(matchers, ContainSubstring(w))
	}
	return And(matchers...)
}

// TestMemberLost loses a member while an application is changed: the other gets the change at once, the lost one when
// it is back, and what is shown of it meanwhile is old and says so. Not parallel: it takes Shanghai from everybody.
func TestMemberLost(t *testing.T) {
	for _, fault := range []struct{ name, verb, heal string }{
		{"isolated", "isolate", "heal"}, {"frozen", "freeze", "heal"}, {"stopped", "stop", "start"},
	} {
		t.Run(fault.name, func(t *testing.T) {
			j := journey.Begin(t)
			j.Partition("bj", journey.Beijing)
			j.Partition("sh", journey.Shanghai)
			a := j.Application("web", journey.In("bj", "sh"), journey.Echo("web", journey.Env("ECHO_VERSION", "v1"), journey.Readiness("/healthz")))
			j.Ready(a)
			before := a.Status.Revision

			j.Drill(fault.verb, journey.Shanghai)
			lost := time.Now()
			heal := j.Heal(fault.heal, journey.Shanghai)
			cluster := &v1alpha1.Cluster{}
			cluster.Name = journey.Shanghai
			j.Eventually(j.Condition(cluster, v1alpha1.ConditionReady)).WithTimeout(15 * time.Second).Should(HavePrefix("False " + v1alpha1.ReasonUnreachable))
			t.Logf("CLU-01 not Ready after %s", time.Since(lost).Round(100*time.Millisecond))
			j.Expect(time.Since(lost)).To(BeNumerically("<", 10*time.Second))

			j.Update(a, func() { a.Spec.Components[0].Template.Spec.Containers[0].Env[0].Value = "v2" })
			changed := time.Now()
			image := func(cluster, namespace string) func() string {
				return func() string {
					return j.Try(cluster, "-n", namespace, "get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].env[0].value}")
				}
			}
			j.Eventually(image(journey.Beijing, j.Tenant+"-bj")).WithTimeout(10 * time.Second).Should(Equal("v2"))
			t.Logf("the other member had the change after %s", time.Since(changed).Round(100*time.Millisecond))
			j.Eventually(func() string { return j.Placement(a, "sh").Reason }).Should(Equal(v1alpha1.ReasonUnreachable))
			shown := j.Placement(a, "sh")
			j.Expect(shown.Revision).To(Equal(before), "its last known state is shown")
			j.Expect(shown.LastSeenTime.Time).To(BeTemporally("<", lost.Add(5*time.Second)))

			heal()
			j.Eventually(image(journey.Shanghai, j.Tenant+"-sh")).Should(Equal("v2"))
			j.Ready(a)
		})
	}
}

// TestProcessKilled kills a process in the middle of a delivery: nothing is lost. The server is always among them.
func TestProcessKilled(t *testing.T) {
	for _, target := range append([]string{"services/server/server"}, sample(t, 3,
		"services/registry/registry", "hub/etcd", "hub/kube-apiserver", "hub/kube-controller-manager",
		"beijing/etcd", "beijing/kube-apiserver", "beijing/kube-controller-manager", "beijing/kube-scheduler",
		"beijing/beijing-1/containerd", "beijing/beijing-1/kubelet", "beijing/beijing-1/kube-proxy",
		"beijing/beijing-1/yunfan-policy")...) {
		t.Run(strings.ReplaceAll(target, "/", " "), func(t *testing.T) {
			j := journey.Begin(t)
			j.Partition("bj", journey.Beijing)
			j.Partition("sh", journey.Shanghai)
			var all []*v1alpha1.Application
			for i := range 6 {
				if i == 3 {
					j.Drill("kill", target)
				}
				a := &v1alpha1.Application{
					ObjectMeta: journey.Named(j.Tenant, fmt.Sprintf("web-%d", i)),
					Spec:       v1alpha1.ApplicationSpec{Placement: journey.In("bj", "sh"), Components: []v1alpha1.Component{journey.Echo(fmt.Sprintf("web-%d", i))}},
				}
				// The hub, or the webhook in the server, may be away for a moment.
				j.Eventually(func() error { return j.Hub().Create(j.Context(), a) }).WithTimeout(time.Minute).Should(Or(Succeed(), MatchError(ContainSubstring("already exists"))))
				all = append(all, a)
			}
			for _, a := range all {
				j.Ready(a)
				j.Expect(a.Status.Pods).To(Equal("2/2"))
			}
		})
	}
}

// sample picks n of all, by a seed that is printed; make test-full takes them all.
func sample(t *testing.T, n int, all ...string) []string {
	t.Helper()
	if os.Getenv("YUNFAN_FULL") != "" {
		return all
	}
	seed := uint64(time.Now().Unix())
	if given := os.Getenv("YUNFAN_SEED"); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatalf("YUNFAN_SEED: %v", err)
		}
	}
	t.Logf("a sample of %d of %d: YUNFAN_SEED=%d picks the same", n, len(all), seed)
	order := rand.New(rand.NewPCG(seed, seed))
	order.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:n]
}

// TestDEP06NodeLost cuts one of Beijing's nodes off for half a minute: its pods are made anew on the other, and when it is
// back there are as many as there should be. Not parallel: it takes the node from everybody.
func TestDEP06NodeLost(t *testing.T) {
	const replicas, node, other = 4, "beijing-2", "beijing-1"
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	a := j.Application("web", journey.In("bj"), journey.Echo("web", journey.Replicas(replicas), journey.Readiness("/healthz")))
	j.Ready(a)
	on := func(node string) func() int {
		return func() (ready int) {
			for _, pod := range j.Pods(journey.Beijing, j.Tenant+"-bj", "web") {
				for _, c := range pod.Status.Conditions {
					if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && pod.Spec.NodeName == node {
						ready++
					}
				}
			}
			return ready
		}
	}
	j.Expect(on(node)()).To(BeNumerically(">", 0), "pods are spread over the nodes")

	j.Drill("isolate", journey.Beijing+"/"+node)
	lost := time.Now()
	heal := j.Heal("heal", journey.Beijing+"/"+node)
	j.Eventually(on(other)).Should(Equal(replicas))
	t.Logf("all pods on the other node after %s", time.Since(lost).Round(100*time.Millisecond))
	j.Eventually(func() time.Duration { return time.Since(lost) }).Should(BeNumerically(">=", 30*time.Second))

	heal()
	j.Eventually(func() int { return len(j.Pods(journey.Beijing, j.Tenant+"-bj", "web")) }).Should(Equal(replicas), "those of the lost node are gone")
	j.Ready(a)
}
