//go:build e2e

package network_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/e2e/journey"
)

// turn is a moment at which the answer of a target changed.
type turn struct {
	at          time.Time
	target, who string
}

// follow starts asking targets from inside a pod, again and again, and gives what changed when it is over.
func (f *field) follow(from *corev1.Pod, flags []string, targets ...string) (turns func() []turn) {
	f.Helper()
	args := append([]string{"-n", from.Namespace, "exec", from.Name, "-c", "c80", "--", "/bin/reach"}, flags...)
	cmd := f.World.Kubectl(f.Context(), journey.Beijing, append(args, targets...)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	f.Expect(cmd.Start()).To(Succeed())
	return func() []turn {
		f.Helper()
		f.Expect(cmd.Wait()).To(Succeed(), out.String())
		var turns []turn
		for line := range strings.Lines(out.String()) {
			words := strings.Fields(line)
			at, err := time.Parse(time.RFC3339Nano, words[0])
			f.Expect(err).NotTo(HaveOccurred(), out.String())
			turns = append(turns, turn{at, words[1], words[2]})
		}
		return turns
	}
}

// slow is how late a change may be on a machine that does many other things at the same time.
const slow = 3 * time.Second

// TestNET08ChangesLive opens and closes a way several times while connections are made over it, and one is kept.
func TestNET08ChangesLive(t *testing.T) {
	f := newField(journey.Begin(t))
	targets := []string{"tcp://" + f.pod("xa").Status.PodIP + ":80", "tcp://" + f.services["xb"] + ":80", "udp://" + f.pod("xc").Status.PodIP + ":80"}
	flags := []string{"--every", "20ms", "--timeout", "300ms", "--for", "16s"}
	fresh := f.follow(f.pod("ya"), flags, targets...)
	kept := f.follow(f.pod("yb"), append(flags, "--keep"), targets[0])
	np := f.policy("switch", `{podSelector: {}, policyTypes: [Ingress]}`)
	tick := time.NewTicker(3 * time.Second)
	defer tick.Stop()
	var changes []time.Time
	for i := range 4 {
		<-tick.C
		changes = append(changes, time.Now())
		if i%2 == 0 {
			np.ResourceVersion = ""
			f.Expect(f.cluster.Create(f.Context(), np)).To(Succeed())
			continue
		}
		f.Expect(f.cluster.Delete(f.Context(), np)).To(Succeed())
	}
	var late []time.Duration
	turns := fresh()
	for _, target := range targets {
		of := slices.DeleteFunc(slices.Clone(turns), func(t turn) bool { return t.target != target })
		f.Expect(of).To(HaveLen(1+len(changes)), "%s turns with each change and at no other time: %v", target, of)
		for i, change := range changes {
			f.Expect(of[1+i].who == "-").To(Equal(i%2 == 0), "%v", of)
			late = append(late, of[1+i].at.Sub(change))
		}
	}
	slices.Sort(late)
	t.Logf("NET-08 changes were seen after %s at the median, %s at the latest", late[len(late)/2], late[len(late)-1])
	f.Expect(late[len(late)/2]).To(BeNumerically("<", time.Second), "%v", late)
	f.Expect(late[len(late)-1]).To(BeNumerically("<", slow), "%v", late)

	cut := kept()
	f.Expect(len(cut)).To(BeNumerically(">=", 2), "a connection that was there before ends too: %v", cut)
	f.Expect(cut[1].who).To(Equal("-"))
	f.Expect(cut[1].at.Sub(changes[0])).To(BeNumerically("<", slow), "%v", cut)
}

// leaker serves, and calls another pod from its first moment on.
func leaker(namespace, victim string) *corev1.PodTemplateSpec {
	return &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Labels: map[string]string{"app": "leaker"}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(0)), RestartPolicy: corev1.RestartPolicyNever,
			Containers: []corev1.Container{
				{Name: "serve", Image: journey.EchoImage, Args: []string{"serve", "--http", "", "--tcp", ":8999"}},
				{Name: "call", Image: journey.EchoImage, Args: []string{"reach", "--every", "5ms", "--timeout", "200ms", "--for", "1m", victim}},
			},
		},
	}
}

// TestNET08NothingLeaks makes and ends pods that may neither send nor receive, and kills what enforces that, while these
// pods try to send and others try to reach every address of the node.
func TestNET08NothingLeaks(t *testing.T) {
	j := journey.Begin(t)
	f := newField(j)
	closed := f.namespaces[0]
	f.Expect(f.cluster.Create(f.Context(), f.policy("closed", `{podSelector: {matchLabels: {app: leaker}}, policyTypes: [Ingress, Egress]}`))).To(Succeed())
	node := f.pod("xa").Spec.NodeName
	victim := "tcp://" + f.pod("ya").Status.PodIP + ":80"
	var everywhere []string
	for last := byte(2); last < 255; last++ {
		address := netip.MustParseAddr(f.pod("xa").Status.PodIP).As4()
		address[3] = last
		everywhere = append(everywhere, fmt.Sprintf("tcp://%s:8999", netip.AddrFrom4(address)))
	}
	flags := []string{"--every", "50ms", "--timeout", "150ms", "--for", "45s"}
	sameNode, otherNode := f.follow(f.pod("ya"), flags, everywhere...), f.follow(f.pod("yb"), flags, everywhere...)

	enforcer := journey.Beijing + "/" + node + "/yunfan-policy"
	started := 0
	for wave := range 6 {
		for i := range 5 {
			template := leaker(closed.Name, victim)
			pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
			pod.Name, pod.Spec.NodeName = fmt.Sprintf("leaker-%d-%d", wave, i), node
			f.Expect(f.cluster.Create(f.Context(), pod)).To(Succeed())
		}
		if wave%2 == 1 {
			f.Drill("kill", enforcer)
		}
		var pods corev1.PodList
		f.Eventually(func() (int, error) {
			err := f.cluster.List(f.Context(), &pods, client.InNamespace(closed.Name), client.MatchingLabels{"app": "leaker"})
			pods.Items = slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool {
				return p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning
			})
			return len(pods.Items), err
		}).Should(Equal(5))
		for _, p := range pods.Items {
			said := j.Kubectl(journey.Beijing, "-n", closed.Name, "logs", p.Name, "-c", "call")
			f.Expect(strings.TrimSpace(said)).To(HaveSuffix(" -"), "%s was answered", p.Name)
			f.Expect(strings.Count(said, "\n")).To(Equal(1), "%s was answered for a moment: %s", p.Name, said)
			started++
		}
		f.Expect(f.cluster.DeleteAllOf(f.Context(), &corev1.Pod{}, client.InNamespace(closed.Name),
			&client.DeleteAllOfOptions{ListOptions: client.ListOptions{LabelSelector: labels.SelectorFromSet(labels.Set{"app": "leaker"})}, DeleteOptions: *(&client.DeleteOptions{GracePeriodSeconds: new(int64(wave % 2))})})).To(Succeed())
		if wave%2 == 0 { // otherwise the next ones start while these end
			f.Eventually(func() (int, error) {
				err := f.cluster.List(f.Context(), &pods, client.InNamespace(closed.Name), client.MatchingLabels{"app": "leaker"})
				return len(pods.Items), err
			}).Should(BeZero())
		}
	}
	for side, turns := range map[string]func() []turn{"the same node": sameNode, "another node": otherNode} {
		for _, seen := range turns() {
			f.Expect(seen.who).To(Equal("-"), "%s was reached from %s", seen.target, side)
		}
	}
	t.Logf("NET-08 %d pods came and went; nobody reached them and they reached nobody", started)
}
