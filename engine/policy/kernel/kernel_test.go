//go:build e2e

package kernel

import (
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"yunfan.io/engine/policy/rules"
)

// alone moves the test into a network namespace of its own, which ends with it. It needs root.
func alone(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test, and its namespace with the thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("making a network namespace, which needs root: %v", err)
	}
}

func list(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "nft", "--numeric", "list", "table", "ip", Table).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func policyOf(i int) *networkingv1.NetworkPolicy {
	app := func(n int) metav1.LabelSelector {
		return metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint("app", n%50)}}
	}
	peer, port := app(i+7), intstr.FromInt32(int32(8000+i))
	name := intstr.FromString("http")
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("ns", i%10), Name: fmt.Sprint("policy", i)},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: app(i), PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{
				From: []networkingv1.NetworkPolicyPeer{
					{PodSelector: &peer}, {NamespaceSelector: &metav1.LabelSelector{}, PodSelector: &peer},
					{IPBlock: &networkingv1.IPBlock{CIDR: "172.17.0.0/16", Except: []string{"172.17.1.0/24"}}},
				},
				Ports: []networkingv1.NetworkPolicyPort{{Port: &port, EndPort: new(int32(9000))}, {Port: &name}},
			}},
			Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{PodSelector: &peer}}}},
		},
	}
}

func podOf(i int) rules.Pod {
	p := rules.Pod{
		UID: fmt.Sprint(i), Namespace: fmt.Sprint("ns", i%10), Name: fmt.Sprint("pod", i), Node: "elsewhere", Labels: map[string]string{"app": fmt.Sprint("app", i%50)},
		Address: netip.AddrFrom4([4]byte{10, 2, byte(i / 250), byte(i%250 + 1)}), Ports: []rules.Port{{Name: "http", Protocol: "TCP", Number: 8080}},
	}
	if i < 240 {
		p.Node = "here"
	}
	return p
}

func add(m *rules.Model, p rules.Pod, i int) {
	m.SetPod(p)
	if p.Node == "here" {
		m.Attach(p.UID, p.UID, netip.AddrFrom4([4]byte{10, 1, 0, byte(i + 1)}))
	}
}

// TestCrowd writes the rules of a cluster of 1,000 pods and 200 policies, changes them, and finds in the kernel what a
// process that starts anew would write.
func TestCrowd(t *testing.T) {
	alone(t)
	k, err := Open("eth0")
	if err != nil {
		t.Fatal(err)
	}
	build := func(skip int) *rules.Model {
		m := rules.New("here", netip.MustParsePrefix("10.1.0.0/24"), "eth0")
		for i := range 10 {
			m.SetNamespace(fmt.Sprint("ns", i), map[string]string{"ns": fmt.Sprint(i)})
		}
		for i := range 1000 {
			if i != skip {
				add(m, podOf(i), i)
			}
		}
		for i := range 200 {
			if err := m.SetPolicy(policyOf(i)); err != nil {
				t.Fatal(err)
			}
		}
		return m
	}
	m := build(17)
	write := func(what string, limit time.Duration) {
		t.Helper()
		begun := time.Now()
		c := m.Take()
		computed := time.Since(begun)
		if err := k.Write(t.Context(), c); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		took := time.Since(begun)
		t.Logf("%s: %s, of which %s to find what to write (%d sets, %d chains)", what, took.Round(time.Millisecond), computed.Round(time.Microsecond), len(c.Sets), len(c.Chains))
		if took > limit {
			t.Errorf("%s took %s", what, took)
		}
	}
	const patience = 5 * time.Second // of a machine that does other things
	write("everything", 6*patience)
	add(m, podOf(17), 17)
	write("a pod comes", patience)
	changed := policyOf(30)
	changed.Spec.Ingress[0].Ports = nil
	if err := m.SetPolicy(changed); err != nil {
		t.Fatal(err)
	}
	write("a policy changes", patience)
	if err := m.SetPolicy(policyOf(30)); err != nil {
		t.Fatal(err)
	}
	m.SetNamespace("ns3", map[string]string{"ns": "other"})
	write("a policy changes back, a namespace's label changes", patience)
	m.SetNamespace("ns3", map[string]string{"ns": "3"})
	m.DeletePolicy("ns0", "policy40")
	write("a policy goes", patience)
	if err := m.SetPolicy(policyOf(40)); err != nil {
		t.Fatal(err)
	}
	write("and comes back", patience)

	got := list(t)
	for _, stranger := range []string{"chain left { drop; }", "set left { type ipv4_addr; }", "map left { type ipv4_addr : verdict; }"} {
		cmd := exec.CommandContext(t.Context(), "nft", "-f", "-")
		cmd.Stdin = strings.NewReader("table ip " + Table + " {\n " + strings.ReplaceAll(stranger, "left", fmt.Sprint("left", len(stranger))) + "\n}\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	m = build(-1)
	write("everything, over what a process before left", 6*patience)
	// Sets stand in the order in which they were made, elements in that of their hashes: lines are compared as a bag.
	lines := func(s string) map[string]int {
		bag := map[string]int{}
		for line := range strings.FieldsFuncSeq(s, func(r rune) bool { return strings.ContainsRune("\n,{}", r) }) {
			bag[strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "elements ="))]++
		}
		return bag
	}
	if diff := cmp.Diff(lines(got), lines(list(t))); diff != "" {
		t.Errorf("changes step by step, -, and everything anew, +, differ:\n%s", diff)
	}
}

// TestSelfHealing finds that a table somebody changed is written anew after the first refusal.
func TestSelfHealing(t *testing.T) {
	alone(t)
	k, err := Open("eth0")
	if err != nil {
		t.Fatal(err)
	}
	m := rules.New("here", netip.MustParsePrefix("10.1.0.0/24"), "eth0")
	if err := k.Write(t.Context(), m.Take()); err != nil {
		t.Fatal(err)
	}
	before := list(t)
	add(m, podOf(1), 1)
	if err := k.Write(t.Context(), m.Take()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "nft", "flush", "set", "ip", Table, rules.Known).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m.Detach("1")
	if err := k.Write(t.Context(), m.Take()); err == nil {
		t.Fatal("an element that is not there was removed")
	}
	m.Distrust()
	if err := k.Write(t.Context(), m.Take()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, list(t)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
