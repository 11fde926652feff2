package member_test

import (
	"context"
	"errors"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

// started records for which members it was started.
type started struct{ members chan *member.Member }

func (s *started) StartForMember(_ context.Context, _ manager.Manager, m *member.Member) error {
	s.members <- m
	return nil
}

func join(t *testing.T, cluster *testkit.Member, through string) (*member.Set, *member.Member) {
	t.Helper()
	var set *member.Set
	controller := &started{make(chan *member.Member, 1)}
	testkit.StartManager(t, hub, func(mgr manager.Manager) (err error) {
		set, err = member.NewSet(mgr)
		return err
	})
	set.Register(controller)
	config, err := clientcmd.RESTConfigFromKubeConfig(cluster.Kubeconfig(t, through))
	if err != nil {
		t.Fatal(err)
	}
	m, err := set.Connect("c", "1", config)
	if err != nil {
		t.Fatal(err)
	}
	if _, found := set.Member("c"); found {
		t.Fatal("a member that was not admitted was found")
	}
	NewWithT(t).Eventually(func() bool { ok, _ := m.Answering(); return ok }, "10s").Should(BeTrue())
	set.Admit("c")
	select {
	case got := <-controller.members:
		if got != m {
			t.Fatalf("the controller was started for another member")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the controller was not started")
	}
	return set, m
}

func TestCLU01_Reachability(t *testing.T) {
	cluster := testkit.StartMember(t)
	proxy := testkit.NewProxy(t, cluster.Address())
	_, m := join(t, cluster, proxy.Address())
	changes := m.Subscribe()
	nodes := func() int {
		var list corev1.NodeList
		if err := m.Cache.List(t.Context(), &list); err != nil {
			return -1
		}
		return len(list.Items)
	}
	g := NewWithT(t)
	g.Eventually(nodes, "10s").Should(Equal(0))

	cases := []struct {
		name    string
		reason  string
		disturb func(testing.TB)
	}{
		{"Refuse", "the API server was killed", proxy.Refuse},
		{"Freeze", "the API server accepts and never answers", proxy.Freeze},
		{"Drop", "packets are lost", proxy.Drop},
	}
	for i, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			g := NewWithT(t)
			drain(changes)
			tc.disturb(t)
			g.Eventually(changes, "10s").Should(Receive(), tc.reason)
			answering, seen := m.Answering()
			if answering || time.Since(seen) > 10*time.Second {
				t.Errorf("%s: answering %v, last seen %s ago", tc.reason, answering, time.Since(seen))
			}
			begin := time.Now()
			var refused *member.NotAnsweringError
			if err := m.Client.Get(t.Context(), client.ObjectKey{Name: "default"}, &corev1.Namespace{}); !errors.As(err, &refused) {
				t.Errorf("want a request to be refused at once, got %v", err)
			}
			if took := time.Since(begin); took > time.Second {
				t.Errorf("a request to a member that does not answer took %s", took)
			}
			if got := nodes(); got != i {
				t.Errorf("the cache should keep what was last seen, %d nodes, and has %d", i, got)
			}
			testkit.Create(t, cluster.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: testkit.Name(t)}})
			proxy.Pass(t)
			g.Eventually(changes, "10s").Should(Receive())
			g.Eventually(nodes, "5s").Should(Equal(i+1), "the cache should go on when the member is back")
		})
	}
}

func drain(c <-chan event.GenericEvent) {
	for {
		select {
		case <-c:
		default:
			return
		}
	}
}

func TestAsActsAsThePartition(t *testing.T) {
	cluster := testkit.StartMember(t)
	_, m := join(t, cluster, "")
	ns, other := testkit.Namespace(t, cluster.Client), testkit.Namespace(t, cluster.Client)
	testkit.Create(t, cluster.Client,
		&rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "r"},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"create"}}},
		},
		&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "r"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "r"},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: ns, Name: v1alpha1.DeliveryServiceAccount}},
		})
	c, err := m.As(ns)
	if err != nil {
		t.Fatal(err)
	}
	object := func(namespace string) client.Object {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "x"}}
	}
	NewWithT(t).Eventually(func() error { return c.Create(t.Context(), object(ns)) }, "5s").Should(Succeed())
	if err := c.Create(t.Context(), object(other)); !apierrors.IsForbidden(err) {
		t.Errorf("creating in another namespace: want Forbidden, got %v", err)
	}
}

func TestCacheIsSlim(t *testing.T) {
	cluster := testkit.StartMember(t)
	_, m := join(t, cluster, "")
	ns := testkit.Namespace(t, cluster.Client)
	ours := map[string]string{v1alpha1.LabelPartition: "p"}
	pod := func(name string, labels map[string]string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: labels, Annotations: map[string]string{"a": "b"}},
			Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i", Env: []corev1.EnvVar{{Name: "E"}}}}},
		}
	}
	testkit.Create(t, cluster.Client,
		pod("ours", ours), pod("foreign", map[string]string{"app": "x"}),
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "ours", Labels: ours}, Data: map[string][]byte{"k": []byte("v")}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "foreign"}})

	g := NewWithT(t)
	var pods corev1.PodList
	g.Eventually(func(g Gomega) {
		g.Expect(m.Cache.List(t.Context(), &pods, client.InNamespace(ns))).To(Succeed())
		g.Expect(pods.Items).To(HaveLen(2), "pods of all are needed for the free capacity")
	}, "10s").Should(Succeed())
	for _, p := range pods.Items {
		g.Expect(p.ManagedFields).To(BeNil())
		g.Expect(p.Annotations).To(BeNil())
		g.Expect(p.Spec.NodeName).To(Equal("n"))
		g.Expect(p.Spec.Containers[0].Env).To(BeNil())
	}
	var secrets corev1.SecretList
	g.Eventually(func(g Gomega) {
		g.Expect(m.Cache.List(t.Context(), &secrets, client.InNamespace(ns))).To(Succeed())
		g.Expect(secrets.Items).To(HaveLen(1), "only what carries the partition's label is kept")
	}, "10s").Should(Succeed())
	g.Expect(secrets.Items[0].Data).To(BeNil(), "contents of Secrets have no business in the hub's memory")
}
