//go:build e2e

package network_test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/e2e/journey"
)

// turn is a moment at which the answer of a target changed.
type turn struct {
	at          time.Time
	target, who string
}

// watcher asks targets from inside a pod, again and again.
type watcher struct {
	*field

	targets []string
	cmd     *exec.Cmd
	mu      sync.Mutex
	out     strings.Builder
}

// Write implements io.Writer.
func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(p)
}

func (f *field) watch(from *corev1.Pod, flags []string, targets ...string) *watcher {
	f.Helper()
	args := append([]string{"-n", from.Namespace, "exec", from.Name, "-c", "c80", "--", "/bin/reach"}, flags...)
	w := &watcher{field: f, targets: targets, cmd: f.World.Kubectl(f.Context(), journey.Beijing, append(args, targets...)...)}
	w.cmd.Stdout, w.cmd.Stderr = w, w
	f.Expect(w.cmd.Start()).To(Succeed())
	return w
}

// turns gives what changed so far.
func (w *watcher) turns() []turn {
	w.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var turns []turn
	for line := range strings.Lines(w.out.String()) {
		if !strings.HasSuffix(line, "\n") { // the rest is on its way
			break
		}
		words := strings.Fields(line)
		w.Expect(words).To(HaveLen(3), w.out.String())
		at, err := time.Parse(time.RFC3339Nano, words[0])
		w.Expect(err).NotTo(HaveOccurred(), w.out.String())
		turns = append(turns, turn{at, words[1], words[2]})
	}
	return turns
}

// at gives who answered a target at a moment; "" if it was not asked yet.
func (w *watcher) at(target string, moment time.Time) string {
	w.Helper()
	who := ""
	for _, t := range w.turns() {
		if t.target == target && !t.at.After(moment) {
			who = t.who
		}
	}
	return who
}

// stop ends watchers that watched until now.
func (f *field) stop(watchers ...*watcher) {
	f.Helper()
	for _, w := range watchers {
		f.Expect(w.cmd.Process.Kill()).To(Succeed(), "it watched until now: %s", w.out.String())
		f.Expect(w.cmd.Wait()).NotTo(Succeed())
	}
}

// slow is how late a change may be on a machine that does many other things at the same time.
const slow = 3 * time.Second

// TestNET08ChangesLive opens and closes a way several times while connections are made over it, and one is kept.
func TestNET08ChangesLive(t *testing.T) {
	f := newField(journey.Begin(t))
	targets := []string{"tcp://" + f.pod("xa").Status.PodIP + ":80", "tcp://" + f.services["xb"] + ":80", "udp://" + f.pod("xc").Status.PodIP + ":80"}
	flags := []string{"--every", "20ms", "--timeout", "400ms", "--for", "1h"}
	fresh := f.watch(f.pod("ya"), flags, targets...)
	kept := f.watch(f.pod("yb"), append(flags, "--keep"), targets[0])
	for _, w := range []*watcher{fresh, kept} {
		f.Eventually(func() bool {
			return !slices.ContainsFunc(targets[:len(w.targets)], func(t string) bool { return w.at(t, time.Now()) == "" || w.at(t, time.Now()) == "-" })
		}).
			Should(BeTrue(), "everything answers at first: %v", w.turns)
	}
	np := f.policy("switch", `{podSelector: {}, policyTypes: [Ingress]}`)
	tick := time.NewTicker(slow + time.Second)
	defer tick.Stop()
	var changes []time.Time
	for i := range 5 {
		<-tick.C
		changes = append(changes, time.Now())
		switch {
		case i == 4: // only ends the time of the change before
		case i%2 == 0:
			np.ResourceVersion = ""
			f.Expect(f.cluster.Create(f.Context(), np)).To(Succeed())
		default:
			f.Expect(f.cluster.Delete(f.Context(), np)).To(Succeed())
		}
	}
	f.stop(fresh, kept)
	var late []time.Duration
	for _, target := range targets {
		for i, change := range changes[:4] {
			closed := i%2 == 0
			expected := Equal("-")
			if !closed {
				expected = Not(expected)
			}
			f.Expect(fresh.at(target, change.Add(slow))).To(expected, "%s, %s after change %d: %v", target, slow, i, fresh.turns())
			for _, turn := range fresh.turns() {
				if turn.target != target || turn.at.Before(change) || turn.at.After(changes[i+1]) {
					continue
				}
				if (turn.who == "-") == closed {
					late = append(late, turn.at.Sub(change))
					break
				}
			}
		}
	}
	f.Expect(len(late)).To(BeNumerically(">=", 3*len(targets)), "changes were seen: %v", fresh.turns())
	slices.Sort(late)
	t.Logf("NET-08 changes were seen after %s at the median, %s at the latest", late[len(late)/2], late[len(late)-1])
	f.Expect(late[len(late)/2]).To(BeNumerically("<", time.Second), "%v", late)
	f.Expect(kept.at(targets[0], changes[0].Add(slow))).To(Equal("-"), "a connection that was there before ends too: %v", kept.turns())
}

// leaker serves, and calls another pod from its first moment on.
func leaker(namespace, victim string) *corev1.PodTemplateSpec {
	return &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Labels: map[string]string{"app": "leaker"}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(0)), RestartPolicy: corev1.RestartPolicyNever,
			Containers: []corev1.Container{
				{Name: "serve", Image: journey.EchoImage, Args: []string{"serve", "--http", "", "--tcp", ":8999"}},
				{Name: "call", Image: journey.EchoImage, Args: []string{"reach", "--every", "20ms", "--timeout", "200ms", "--for", "5m", victim}},
			},
		},
	}
}

// TestNET08NothingLeaks makes and ends pods that may neither send nor receive, and kills what enforces that, while these
// pods try to send and others try to reach every address of the node.
func TestNET08NothingLeaks(t *testing.T) {
	f := newField(journey.Begin(t))
	closed := f.namespaces[0]
	policy := f.policy("closed", `{podSelector: {matchLabels: {app: leaker}}, policyTypes: [Ingress, Egress]}`)
	f.Expect(f.cluster.Create(f.Context(), policy)).To(Succeed())
	node := f.pod("xa").Spec.NodeName
	victim := "tcp://" + f.pod("ya").Status.PodIP + ":80"
	var everywhere []string
	for last := byte(2); last < 255; last++ {
		address := netip.MustParseAddr(f.pod("xa").Status.PodIP).As4()
		address[3] = last
		everywhere = append(everywhere, "tcp://"+netip.AddrPortFrom(netip.AddrFrom4(address), 8999).String())
	}
	flags := []string{"--every", "250ms", "--timeout", "150ms", "--for", "1h"}
	watchers := map[string]*watcher{"the same node": f.watch(f.pod("ya"), flags, everywhere...), "another node": f.watch(f.pod("yb"), flags, everywhere...)}

	const waves, each = 4, 5
	for wave := range waves {
		f.startLeakers(fmt.Sprint("leaker-", wave), closed.Name, node, victim, each)
		if wave%2 == 1 {
			f.Drill("kill", journey.Beijing+"/"+node+"/yunfan-policy")
		}
		f.Eventually(func() ([]string, error) { return f.leakers(closed.Name) }).Should(HaveLen(each))
		names, err := f.leakers(closed.Name)
		f.Expect(err).NotTo(HaveOccurred())
		for _, name := range names {
			said := f.callsOf(closed.Name, name)
			f.Expect(strings.TrimSpace(said)).To(HaveSuffix(" -"), "%s was answered", name)
			f.Expect(strings.Count(said, "\n")).To(Equal(1), "%s was answered for a moment: %s", name, said)
		}
		if wave < waves-1 {
			f.endLeakers(closed.Name, int64(wave%2))
		}
	}
	opened := time.Now()
	f.Expect(f.cluster.Delete(f.Context(), policy)).To(Succeed())
	names, err := f.leakers(closed.Name)
	f.Expect(err).NotTo(HaveOccurred())
	f.Eventually(func() string { return strings.TrimSpace(f.callsOf(closed.Name, names[0])) }).Should(HaveSuffix(" ya"), "without the policy it is answered")
	for side, w := range watchers {
		f.Eventually(func() bool {
			return slices.ContainsFunc(w.turns(), func(t turn) bool { return strings.HasPrefix(t.who, "leaker") })
		}).
			Should(BeTrue(), "without the policy it is reached from %s", side)
		for _, seen := range w.turns() {
			if seen.at.Before(opened) {
				f.Expect(seen.who).To(Equal("-"), "%s was reached from %s", seen.target, side)
			}
		}
		f.stop(w)
	}
	t.Logf("NET-08 %d pods came and went; nobody reached them and they reached nobody", waves*each)
}

// startLeakers makes pods on a node.
func (f *field) startLeakers(prefix, namespace, node, victim string, number int) {
	f.Helper()
	for i := range number {
		template := leaker(namespace, victim)
		pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
		pod.Name, pod.Spec.NodeName = fmt.Sprintf("%s-%d", prefix, i), node
		f.Expect(f.cluster.Create(f.Context(), pod)).To(Succeed())
	}
}

// leakers names those that run and are to go on running.
func (f *field) leakers(namespace string) ([]string, error) {
	var pods corev1.PodList
	err := f.cluster.List(f.Context(), &pods, client.InNamespace(namespace), client.MatchingLabels{"app": "leaker"})
	var names []string
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning {
			names = append(names, p.Name)
		}
	}
	return names, err
}

// callsOf is what a leaker says of its calls, once it has made one.
func (f *field) callsOf(namespace, name string) string {
	f.Helper()
	said := ""
	f.Eventually(func() string {
		said = f.Try(journey.Beijing, "-n", namespace, "logs", name, "-c", "call")
		return said
	}).Should(ContainSubstring("tcp://"))
	return said
}

// endLeakers deletes them: with no grace the API forgets them at once, while they still run.
func (f *field) endLeakers(namespace string, grace int64) {
	f.Helper()
	options := &client.DeleteAllOfOptions{DeleteOptions: client.DeleteOptions{GracePeriodSeconds: &grace}}
	f.Expect(f.cluster.DeleteAllOf(f.Context(), &corev1.Pod{}, client.InNamespace(namespace), client.MatchingLabels{"app": "leaker"}, options)).To(Succeed())
}
