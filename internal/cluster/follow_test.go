package cluster_test

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cluster"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/testkit"
)

// A server that does not lead is connected to what the leader has joined, and writes nothing; once it leads it goes on
// with the same connections.
func TestCLU01_EveryServerIsConnected(t *testing.T) {
	g := NewWithT(t)
	beijing := testkit.StartMember(t)
	name, lease := testkit.Name(t), testkit.Name(t)
	yield := hub.Lead(t, lease)
	var set *member.Set
	second := time.Second
	renew, retry := second/2, second/4
	mgr := testkit.StartManagerWith(t, hub, manager.Options{
		LeaderElection: true, LeaderElectionID: lease, LeaderElectionNamespace: testkit.PlatformNamespace,
		LeaderElectionReleaseOnCancel: true, LeaseDuration: &second, RenewDeadline: &renew, RetryPeriod: &retry,
	}, func(mgr manager.Manager) (err error) {
		if set, err = member.NewSet(mgr); err != nil {
			return err
		}
		return cluster.New(set).SetupWithManager(mgr)
	})
	c := join(t, name, beijing.Kubeconfig(t, ""))
	connected := func() *member.Member { m, _ := set.Member(name); return m }
	g.Eventually(func() bool {
		m, known := set.Connection(name)
		return known && m.State().Answering
	}, "20s").Should(BeTrue(), "it connects")
	g.Consistently(connected, "500ms").Should(BeNil(), "but uses no cluster that the leader has not joined")
	if _, stored := ready(t, name); stored.ResourceVersion != c.ResourceVersion {
		t.Error("a server that does not lead wrote to the cluster")
	}

	m, _ := set.Connection(name)
	setStatus(t, name, m.State().UID, v1alpha1.ReasonAlreadyJoined)
	g.Consistently(connected, "500ms").Should(BeNil(), "nor one that the leader refuses")
	setStatus(t, name, m.State().UID, v1alpha1.ReasonReady)
	g.Eventually(connected, "20s").ShouldNot(BeNil(), "it uses what the leader uses")
	before := connected()
	g.Eventually(func() error { _, _, err := before.NodesAndPods(t.Context()); return err }, "20s").Should(Succeed(), "with its cache")

	yield()
	g.Eventually(mgr.Elected(), "20s").Should(BeClosed())
	eventually(t, name, "20s", v1alpha1.ReasonReady, "")
	g.Expect(connected()).To(BeIdenticalTo(before), "the new leader goes on with the same connection")
}

func setStatus(t *testing.T, name string, uid, reason string) {
	t.Helper()
	c := &v1alpha1.Cluster{}
	if err := hub.Client.Get(t.Context(), client.ObjectKey{Name: name}, c); err != nil {
		t.Fatal(err)
	}
	c.Status.UID = uid
	meta.SetStatusCondition(&c.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionUnknown, Reason: reason})
	if err := hub.Client.Status().Update(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}
