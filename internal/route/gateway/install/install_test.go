package install

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
	cluster string
}

// join joins a member with the nodes given, which are no more than objects.
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
	testkit.StartManager(t, hub, func(mgr manager.Manager) (err error) {
		if set, err = member.NewSet(mgr); err != nil {
			return err
		}
		return New(set).SetupWithManager(mgr)
	})
	testkit.Create(t, hub.Client, &v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: j.cluster}, Spec: v1alpha1.ClusterSpec{
		Connection: v1alpha1.ClusterConnection{KubeconfigSecretRef: &v1alpha1.SecretReference{Name: "none"}},
	}})
	m, err := set.Connect(j.cluster, "first", j.Config)
	if err != nil {
		t.Fatal(err)
	}
	NewWithT(t).Eventually(func() bool { answering, _ := m.Answering(); return answering }, patience, "50ms").Should(BeTrue())
	set.Admit(j.cluster)
	return j
}

func (j *joined) want(ctx context.Context, g Gomega, wanted v1alpha1.Gateway) {
	cluster := j.read(ctx, g)
	cluster.Spec.Gateway = wanted
	g.Expect(hub.Client.Update(ctx, cluster)).To(Succeed())
}

func (j *joined) read(ctx context.Context, g Gomega) *v1alpha1.Cluster {
	cluster := &v1alpha1.Cluster{}
	g.Expect(hub.Client.Get(ctx, client.ObjectKey{Name: j.cluster}, cluster)).To(Succeed())
	return cluster
}

func (j *joined) object(ctx context.Context, o client.Object, name string) error {
	return j.Client.Get(ctx, client.ObjectKey{Namespace: v1alpha1.GatewayNamespace, Name: name}, o)
}

// pod is one of the gateway, as its DaemonSet would make it.
func (j *joined) pod(t *testing.T, name, node string, ready corev1.ConditionStatus) *corev1.Pod {
	t.Helper()
	set := &appsv1.DaemonSet{}
	if err := j.object(t.Context(), set, v1alpha1.GatewayName); err != nil {
		t.Fatal(err)
	}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.GatewayNamespace, Name: name, Labels: set.Spec.Template.Labels}, Spec: set.Spec.Template.Spec}
	p.Spec.NodeName = node
	testkit.Create(t, j.Client, p)
	j.mark(t, p, ready)
	return p
}

func (j *joined) mark(t *testing.T, p *corev1.Pod, ready corev1.ConditionStatus) {
	t.Helper()
	p.Status.Phase, p.Status.Conditions = corev1.PodRunning, []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
	if err := j.Client.Status().Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// status is the condition of the gateway, in short.
func status(cluster *v1alpha1.Cluster) string {
	c := meta.FindStatusCondition(cluster.Status.Conditions, v1alpha1.ConditionGatewayReady)
	if c == nil {
		return ""
	}
	return string(c.Status) + " " + c.Reason + " " + c.Message
}

// TestING02_GatewayOfAMember has a member get its gateway, tells of it as its pods come and go, and takes it away again.
func TestING02_GatewayOfAMember(t *testing.T) {
	j := join(t, map[string]string{"n1": "192.0.2.1", "n2": "192.0.2.2"})
	j.StartControllers(t, "namespace-controller", "serviceaccount-controller")
	g, ctx := NewWithT(t), t.Context()
	g.Expect(status(j.read(ctx, g))).To(BeEmpty(), "nobody asked for one")

	j.want(ctx, g, v1alpha1.Gateway{Mode: v1alpha1.GatewayManaged})
	g.Eventually(func() string { return status(j.read(ctx, g)) }, patience).Should(Equal("False Reconciling it is on 0 of 2 nodes"))
	service := &corev1.Service{}
	g.Expect(j.object(ctx, service, v1alpha1.GatewayName)).To(Succeed())
	g.Expect(service.Spec.Ports[0].NodePort).To(BeEquivalentTo(v1alpha1.DefaultGatewayPort))
	g.Expect(service.Spec.ExternalTrafficPolicy).To(Equal(corev1.ServiceExternalTrafficPolicyLocal))
	for _, o := range resources() {
		g.Expect(j.Client.Get(ctx, client.ObjectKeyFromObject(o), o)).To(Succeed())
	}

	g.Eventually(func() error { return j.object(ctx, &corev1.ServiceAccount{}, v1alpha1.GatewayName) }, patience).Should(Succeed())
	old := j.pod(t, "yunfan-a", "n2", corev1.ConditionTrue)
	first := j.pod(t, "yunfan-b", "n1", corev1.ConditionFalse)
	g.Eventually(func() []v1alpha1.GatewayReplica { return j.read(ctx, g).Status.Gateways }, patience).Should(Equal([]v1alpha1.GatewayReplica{
		{Node: "n1", Pod: "yunfan-b", Address: "192.0.2.1:30080"}, {Node: "n2", Pod: "yunfan-a", Address: "192.0.2.2:30080", Ready: true},
	}))
	g.Eventually(func() string { return status(j.read(ctx, g)) }, patience).Should(Equal("False NotReady it does not answer on n1"))
	j.mark(t, first, corev1.ConditionTrue)
	g.Eventually(func() string { return status(j.read(ctx, g)) }, patience).Should(HavePrefix("True Ready"))

	j.pod(t, "yunfan-c", "n2", corev1.ConditionTrue)
	j.mark(t, old, corev1.ConditionFalse)
	g.Eventually(func() string { return j.read(ctx, g).Status.Gateways[1].Pod }, patience).Should(Equal("yunfan-c"), "it has taken over")

	j.want(ctx, g, v1alpha1.Gateway{Mode: v1alpha1.GatewayManaged, NodePort: 30111, Image: "example.com/traefik:v1"})
	g.Eventually(func() string { return j.read(ctx, g).Status.Gateways[0].Address }, patience).Should(Equal("192.0.2.1:30111"))
	g.Eventually(func(g Gomega) {
		set := &appsv1.DaemonSet{}
		g.Expect(j.object(ctx, set, v1alpha1.GatewayName)).To(Succeed())
		g.Expect(set.Spec.Template.Spec.Containers[0].Image).To(Equal("example.com/traefik:v1"))
	}, patience).Should(Succeed())

	j.want(ctx, g, v1alpha1.Gateway{Mode: v1alpha1.GatewayNone})
	g.Eventually(func() string { return status(j.read(ctx, g)) }, patience).Should(BeEmpty())
	g.Expect(j.read(ctx, g).Status.Gateways).To(BeEmpty())
	for _, o := range []client.Object{&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: roleName}}, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: roleName}}, resources()[0]} {
		g.Eventually(func() bool { return apierrors.IsNotFound(j.Client.Get(ctx, client.ObjectKeyFromObject(o), o)) }, patience).Should(BeTrue())
	}
	definition := &unstructured.Unstructured{}
	definition.SetAPIVersion("apiextensions.k8s.io/v1")
	definition.SetKind("CustomResourceDefinition")
	g.Expect(j.Client.Get(ctx, client.ObjectKey{Name: "httproutes.gateway.networking.k8s.io"}, definition)).To(Succeed(), "others may use it")
}

// TestING02_GatewayBesideOthers has a member with a definition of the Gateway API that is not ours, and with a service
// at the gateway's port.
func TestING02_GatewayBesideOthers(t *testing.T) {
	j := join(t, nil)
	g, ctx := NewWithT(t), t.Context()
	all, err := definitions()
	g.Expect(err).NotTo(HaveOccurred())
	theirs := all[0].DeepCopy()
	theirs.SetLabels(map[string]string{"whose": "theirs"})
	testkit.Create(t, j.Client, theirs)
	ns := testkit.Namespace(t, j.Client)
	other := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "other"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: v1alpha1.DefaultGatewayPort}},
	}}
	testkit.Create(t, j.Client, other)

	j.want(ctx, g, v1alpha1.Gateway{Mode: v1alpha1.GatewayManaged})
	g.Eventually(func() string { return status(j.read(ctx, g)) }, patience).Should(And(
		HavePrefix("False NodePortTaken"), ContainSubstring("set spec.gateway.nodePort to another")))
	g.Expect(j.Client.Get(ctx, client.ObjectKeyFromObject(theirs), theirs)).To(Succeed())
	g.Expect(theirs.GetLabels()).To(HaveKeyWithValue("whose", "theirs"))
	g.Expect(theirs.GetAnnotations()).NotTo(HaveKey(annotationBundle), "it stays theirs")
	g.Expect(j.Client.Delete(ctx, other)).To(Succeed())
	g.Eventually(func() string { return status(j.read(ctx, g)) }, patience).Should(HavePrefix("True"))
}

// TestPorts has each entry point at a port of its own: Traefik does not start otherwise.
func TestPorts(t *testing.T) {
	at := map[string]string{}
	for _, argument := range arguments() {
		name, address, _ := strings.Cut(argument, "=")
		if !strings.HasPrefix(name, "--entryPoints.") || !strings.HasSuffix(name, ".address") {
			continue
		}
		if other, taken := at[address]; taken {
			t.Errorf("%s and %s are both at %s", other, name, address)
		}
		at[address] = name
	}
	if len(at) < 2 {
		t.Errorf("%d entry points", len(at))
	}
}

func TestPolicy(t *testing.T) {
	tests := map[string]struct {
		reason  string
		network v1alpha1.ClusterNetwork
		want    []networkingv1.NetworkPolicyIngressRule
	}{
		"Pods known": {
			"Pods come neither to the port that the edge uses nor to the API.",
			v1alpha1.ClusterNetwork{Pods: []string{"10.244.0.0/16", "fd00::/64"}, Nodes: []string{"192.0.2.1/32"}},
			[]networkingv1.NetworkPolicyIngressRule{{Ports: ports(webPort, internalPort, gaugePort), From: []networkingv1.NetworkPolicyPeer{
				{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"10.244.0.0/16"}}}, {IPBlock: &networkingv1.IPBlock{CIDR: "::/0", Except: []string{"fd00::/64"}}},
			}}},
		},
		"Pods not known": {
			"Requests must come in, but the API stays closed to all but nodes.",
			v1alpha1.ClusterNetwork{Nodes: []string{"192.0.2.1/32"}},
			[]networkingv1.NetworkPolicyIngressRule{
				{Ports: ports(webPort), From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0"}}, {IPBlock: &networkingv1.IPBlock{CIDR: "::/0"}}}},
				{Ports: ports(internalPort, gaugePort), From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "192.0.2.1/32"}}}},
			},
		},
		"Nothing known": {
			"", v1alpha1.ClusterNetwork{},
			[]networkingv1.NetworkPolicyIngressRule{{Ports: ports(webPort), From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0"}}, {IPBlock: &networkingv1.IPBlock{CIDR: "::/0"}}}}},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, policy(&tc.network).Spec.Ingress); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}
