package record

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

func TestClaim(t *testing.T) {
	file := func(name string) *Database { return opened(t, filepath.Join(t.TempDir(), name)) }
	mine, other := file("mine"), file("other")
	server := testkit.StartPostgreSQL(t)
	shared, again := opened(t, server.URL), opened(t, server.URL)
	for name, tc := range map[string]struct {
		reason        string
		first, second *Database
		holder        string
		age           time.Duration
		refused       bool
	}{
		"TwoFiles":      {"two servers with a file each", mine, other, "b", 0, true},
		"SameFile":      {"a file is for one server", mine, mine, "b", 0, true},
		"Restart":       {"a server that was killed is followed by itself", mine, mine, "a", 0, false},
		"Moved":         {"a server may move its records", mine, shared, "a", 0, false},
		"Shared":        {"PostgreSQL is for several", shared, again, "b", 0, false},
		"Mixed":         {"all servers need the same", shared, mine, "b", 0, true},
		"Dead":          {"a server that renews no more is no obstacle", mine, other, "b", claimTime + time.Second, false},
		"LongForgotten": {"and its claim is removed", mine, other, "b", claimMemory + time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			g, ctx := NewWithT(t), t.Context()
			namespace := testkit.Namespace(t, hub.Client)
			a := &Claim{Hub: hub.Client, Database: tc.first, Namespace: namespace, Holder: "a"}
			g.Expect(a.Take(ctx)).To(Succeed())
			if tc.age > 0 {
				lease := &coordinationv1.Lease{}
				g.Expect(hub.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: a.name()}, lease)).To(Succeed())
				past := metav1.NewMicroTime(time.Now().Add(-tc.age))
				lease.Spec.RenewTime = &past
				g.Expect(hub.Client.Update(ctx, lease)).To(Succeed())
			}
			b := &Claim{Hub: hub.Client, Database: tc.second, Namespace: namespace, Holder: tc.holder}
			err := b.Take(ctx)
			if !tc.refused {
				g.Expect(err).NotTo(HaveOccurred(), tc.reason)
				return
			}
			g.Expect(err).To(MatchError(And(ContainSubstring("one PostgreSQL"), ContainSubstring("the server a"))), tc.reason)
			g.Expect(err.Error()).NotTo(ContainSubstring(server.Password))

			stopping, cancel := context.WithCancel(ctx)
			cancel()
			g.Expect(a.Start(stopping)).To(Succeed(), "a server that stops gives its claim up")
			g.Expect(b.Take(ctx)).To(Succeed())
		})
	}
}
