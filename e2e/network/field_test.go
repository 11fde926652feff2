//go:build e2e

package network_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/e2e/journey"
)

// field is where policies are tried: three namespaces of three pods each, over both nodes of Beijing, as upstream's own
// tests of NetworkPolicy have them. Every pod serves ports 80 and 81 over TCP and UDP and has a Service of its own.
type field struct {
	*journey.Journey

	cluster    *journey.Cluster
	namespaces []*corev1.Namespace
	pods       []*corev1.Pod
	services   map[string]string // cluster address by pod
	policies   []*networkingv1.NetworkPolicy
}

var (
	fieldPorts     = []int32{80, 81}
	fieldProtocols = []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP}
)

func newField(j *journey.Journey) *field {
	f := &field{Journey: j, cluster: j.Clusters[journey.Beijing], services: map[string]string{}}
	var nodes corev1.NodeList
	j.Expect(f.cluster.List(j.Context(), &nodes)).To(Succeed())
	for _, name := range []string{"x", "y", "z"} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name + "-" + j.Tenant, Labels: map[string]string{"ns": name}}}
		j.Expect(f.cluster.Create(j.Context(), ns)).To(Succeed())
		j.Cleanup(func() {
			if err := f.cluster.Delete(context.WithoutCancel(j.Context()), ns); err != nil {
				j.Error(err)
			}
		})
		f.namespaces = append(f.namespaces, ns)
		for i, label := range []string{"a", "b", "c"} {
			f.add(ns, name+label, label, nodes.Items[i%2].Name)
		}
	}
	for _, p := range f.pods {
		f.awaitReady(p)
	}
	return f
}

// add makes a pod on a node, with its Service.
func (f *field) add(ns *corev1.Namespace, name, label, node string) {
	f.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: name, Labels: map[string]string{"pod": label, "name": name}},
		Spec:       corev1.PodSpec{NodeName: node, TerminationGracePeriodSeconds: new(int64(1))},
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: name},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"name": name}},
	}
	for _, number := range fieldPorts {
		address := fmt.Sprint(":", number)
		c := corev1.Container{
			Name: fmt.Sprint("c", number), Image: journey.EchoImage, Args: []string{"serve", "--http", "", "--tcp", address, "--udp", address},
			ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(number)}}, PeriodSeconds: 1},
		}
		for _, protocol := range fieldProtocols {
			portName := fmt.Sprintf("serve-%d-%s", number, strings.ToLower(string(protocol)))
			c.Ports = append(c.Ports, corev1.ContainerPort{Name: portName, ContainerPort: number, Protocol: protocol})
			service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{Name: portName, Port: number, Protocol: protocol})
		}
		pod.Spec.Containers = append(pod.Spec.Containers, c)
	}
	f.Expect(f.cluster.Create(f.Context(), pod)).To(Succeed())
	if f.services[name] == "" {
		f.Expect(f.cluster.Create(f.Context(), service)).To(Succeed())
		f.services[name] = service.Spec.ClusterIP
	}
	f.pods = append(f.pods, pod)
}

// awaitReady waits for a pod that the node's own probes find well, whatever its policies.
func (f *field) awaitReady(p *corev1.Pod) {
	f.Helper()
	f.Eventually(func() (bool, error) {
		if err := f.cluster.Get(f.Context(), client.ObjectKeyFromObject(p), p); err != nil {
			return false, err
		}
		return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}), nil
	}).Should(BeTrue(), "pod %s is ready", p.Name)
}

func (f *field) pod(name string) *corev1.Pod {
	f.Helper()
	i := slices.IndexFunc(f.pods, func(p *corev1.Pod) bool { return p.Name == name })
	f.Expect(i).To(BeNumerically(">=", 0), "pod %s", name)
	return f.pods[i]
}

// policy makes one in namespace x; $xa stands for the address of pod xa, and so on.
func (f *field) policy(name, spec string) *networkingv1.NetworkPolicy {
	f.Helper()
	for _, p := range f.pods {
		spec = strings.ReplaceAll(spec, "$"+p.Name, p.Status.PodIP)
	}
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: f.namespaces[0].Name, Name: name}}
	f.Expect(yaml.UnmarshalStrict([]byte(spec), &np.Spec)).To(Succeed())
	return np
}

// enforce makes these the only policies.
func (f *field) enforce(specs ...string) {
	f.Helper()
	old := f.policies
	f.policies = nil
	for i, spec := range specs {
		np := f.policy(fmt.Sprintf("p%d-%d", time.Now().UnixNano(), i), spec)
		f.Expect(f.cluster.Create(f.Context(), np)).To(Succeed())
		f.policies = append(f.policies, np)
	}
	for _, np := range old {
		f.Expect(f.cluster.Delete(f.Context(), np)).To(Succeed())
	}
}

// isAsItShouldBe compares what every pod reaches of every other with what the policies say.
func (f *field) isAsItShouldBe(reason string) {
	f.Helper()
	f.Eventually(f.faults).WithTimeout(time.Minute).Should(BeEmpty(), reason)
}

// faults are the connections that are not as they should be, by address of the pod and of its Service.
func (f *field) faults() []string {
	var targets, out []string
	type target struct {
		pod      *corev1.Pod
		protocol corev1.Protocol
		port     int32
	}
	meant := map[string]target{}
	for _, to := range f.pods {
		for _, protocol := range fieldProtocols {
			for _, port := range fieldPorts {
				for _, address := range []string{to.Status.PodIP, f.services[to.Name]} {
					url := fmt.Sprintf("%s://%s:%d", strings.ToLower(string(protocol)), address, port)
					targets = append(targets, url)
					meant[url] = target{to, protocol, port}
				}
			}
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, from := range f.pods {
		wg.Go(func() {
			answers := f.reach(from, targets)
			mu.Lock()
			defer mu.Unlock()
			for _, url := range targets {
				t, want := meant[url], "-"
				if f.allows(from, t.pod, t.protocol, t.port) {
					want = t.pod.Name
				}
				if answers[url] != want {
					out = append(out, fmt.Sprintf("%s to %s (%s): %q, want %q", from.Name, t.pod.Name, url, answers[url], want))
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(out)
	return out
}

// reach asks targets from inside a pod, all at once, and gives who answers each.
func (f *field) reach(from *corev1.Pod, targets []string) map[string]string {
	said := f.Try(journey.Beijing, append([]string{"-n", from.Namespace, "exec", from.Name, "-c", "c80", "--", "/bin/reach", "--timeout", "1s"}, targets...)...)
	answers := map[string]string{}
	for line := range strings.Lines(said) {
		if url, who, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			answers[url] = who
		}
	}
	return answers
}

// allows judges by the text of Kubernetes' documentation. A pod always reaches itself.
func (f *field) allows(from, to *corev1.Pod, protocol corev1.Protocol, port int32) bool {
	return from.Name == to.Name || f.lets(networkingv1.PolicyTypeEgress, from, to, to, protocol, port) &&
		f.lets(networkingv1.PolicyTypeIngress, to, from, to, protocol, port)
}

type rule struct {
	peers []networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

// lets judges one direction of one side: a pod that no policy selects is free, others may what any of theirs allows.
func (f *field) lets(kind networkingv1.PolicyType, subject, peer, receiver *corev1.Pod, protocol corev1.Protocol, port int32) bool {
	free := true
	for _, np := range f.policies {
		if np.Namespace != subject.Namespace || !slices.Contains(np.Spec.PolicyTypes, kind) || !selects(&np.Spec.PodSelector, subject.Labels) {
			continue
		}
		free = false
		var rules []rule
		for _, r := range np.Spec.Ingress {
			if kind == networkingv1.PolicyTypeIngress {
				rules = append(rules, rule{r.From, r.Ports})
			}
		}
		for _, r := range np.Spec.Egress {
			if kind == networkingv1.PolicyTypeEgress {
				rules = append(rules, rule{r.To, r.Ports})
			}
		}
		for _, r := range rules {
			who := len(r.peers) == 0 || slices.ContainsFunc(r.peers, func(p networkingv1.NetworkPolicyPeer) bool { return f.means(np.Namespace, p, peer) })
			what := len(r.ports) == 0 || slices.ContainsFunc(r.ports, func(p networkingv1.NetworkPolicyPort) bool { return covers(p, receiver, protocol, port) })
			if who && what {
				return true
			}
		}
	}
	return free
}

func (f *field) means(namespace string, p networkingv1.NetworkPolicyPeer, pod *corev1.Pod) bool {
	if p.IPBlock != nil {
		address := netip.MustParseAddr(pod.Status.PodIP)
		return netip.MustParsePrefix(p.IPBlock.CIDR).Contains(address) &&
			!slices.ContainsFunc(p.IPBlock.Except, func(e string) bool { return netip.MustParsePrefix(e).Contains(address) })
	}
	if p.PodSelector != nil && !selects(p.PodSelector, pod.Labels) {
		return false
	}
	if p.NamespaceSelector == nil {
		return namespace == pod.Namespace
	}
	i := slices.IndexFunc(f.namespaces, func(ns *corev1.Namespace) bool { return ns.Name == pod.Namespace })
	return selects(p.NamespaceSelector, f.namespaces[i].Labels)
}

func covers(p networkingv1.NetworkPolicyPort, receiver *corev1.Pod, protocol corev1.Protocol, port int32) bool {
	switch {
	case *p.Protocol != protocol: // the API server fills in TCP
		return false
	case p.Port == nil:
		return true
	case p.Port.Type == intstr.Int:
		last := p.Port.IntVal
		if p.EndPort != nil {
			last = *p.EndPort
		}
		return port >= p.Port.IntVal && port <= last
	}
	return slices.ContainsFunc(receiver.Spec.Containers, func(c corev1.Container) bool {
		return slices.ContainsFunc(c.Ports, func(named corev1.ContainerPort) bool {
			return named.Name == p.Port.StrVal && named.Protocol == protocol && named.ContainerPort == port
		})
	})
}

func selects(s *metav1.LabelSelector, set map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(set))
}
