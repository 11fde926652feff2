package install

import (
	"context"
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/testkit"
)

const patience = "60s"

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

// joined is a member whose Cluster wants no gateway yet.
type joined struct {
	*testkit.Member
	manager manager.Manager
	cluster string
}

// nodes of the member. They are no more than objects.
func join(t *testing.T, nodes map[string]string) *joined {
	t.Helper()
	j := &joined{Member: testkit.StartMember(t), cluster: testkit.Name(t)}
	for name, ip := range nodes {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		testkit.Create(t, j.Client, n)
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: ip}}
		if err := j.Client.Status().Update(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	var set *member.Set
	j.manager = testkit.StartManager(t, hub, func(mgr manager.Manager) (err error) {
		if set, err = member.NewSet(mgr); err != nil {
			return err
		}
		return New(set).SetupWithManager(mgr)
	})
	connect(t, set, j)
	testkit.Create(t, hub.Client, &v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: j.cluster}, Spec: v1alpha1.ClusterSpec{
		Connection: v1alpha1.ClusterConnection{KubeconfigSecretRef: &v1alpha1.SecretReference{Name: "none"}},
	}})
	return j
}

func (j *joined) want(g Gomega, ctx context.Context, gateway v1alpha1.Gateway) {
	cluster := j.read(g, ctx)
	cluster.Spec.Gateway = gateway
	g.Expect(hub.Client.Update(ctx, cluster)).To(Succeed())
}

func (j *joined) read(g Gomega, ctx context.Context) *v1alpha1.Cluster {
	cluster := &v1alpha1.Cluster{}
	g.Expect(hub.Client.Get(ctx, client.ObjectKey{Name: j.cluster}, cluster)).To(Succeed())
	return cluster
}

func (j *joined) object(ctx context.Context, o client.Object, name string) error {
	return j.Client.Get(ctx, client.ObjectKey{Namespace: v1alpha1.GatewayNamespace, Name: name}, o)
}
