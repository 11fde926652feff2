package nodeport

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/reconcile"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

// nobody is a hub without members.
type nobody struct{}

func (nobody) Member(string) (*member.Member, bool) { return nil, false }

func want(cluster string, port int32, tenant, application, partition, component string) v1alpha1.NodePortSpec {
	return v1alpha1.NodePortSpec{Cluster: cluster, Port: port, Owner: v1alpha1.NodePortOwner{
		Tenant: tenant, Application: application, Partition: partition, Component: component, PortName: "http",
	}}
}

func reserved(t *testing.T, cluster string, port int32) *v1alpha1.NodePort {
	t.Helper()
	n := &v1alpha1.NodePort{}
	err := hub.Client.Get(t.Context(), client.ObjectKey{Name: v1alpha1.NodePortName(cluster, port)}, n)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		t.Fatal(err)
	}
	return n
}

func expectTaken(t *testing.T, err error, texts ...string) {
	t.Helper()
	var stalled *reconcile.Stalled
	if !errors.As(err, &stalled) || stalled.Reason != v1alpha1.ReasonNodePortTaken {
		t.Fatalf("want it refused as taken, got %v", err)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q does not say %q", err, text)
		}
	}
}

func TestTPL04_Reserve(t *testing.T) {
	ports := &Ports{Hub: hub.Client, Live: hub.Client, Members: nobody{}}
	cluster := testkit.Name(t)
	mine := []v1alpha1.NodePortSpec{want(cluster, 30001, "edu", "score", "prod", "web"), want(cluster, 30002, "edu", "score", "prod", "admin")}
	for range 2 { // again changes nothing
		if err := ports.Reserve(t.Context(), mine); err != nil {
			t.Fatal(err)
		}
	}
	before := reserved(t, cluster, 30001)

	theirs := []v1alpha1.NodePortSpec{want(cluster, 30003, "edu", "shop", "prod", "front"), want(cluster, 30001, "edu", "shop", "prod", "front")}
	expectTaken(t, ports.Reserve(t.Context(), theirs), "node port 30001 of cluster "+cluster+" is taken by edu/score web prod: choose another port")
	expectTaken(t, ports.Check(t.Context(), theirs), "edu/score web prod")
	if reserved(t, cluster, 30003) != nil {
		t.Error("a port was kept although another was taken: it is all or nothing")
	}
	if after := reserved(t, cluster, 30001); after.UID != before.UID {
		t.Error("the owner's reservation was made anew")
	}
	other := []v1alpha1.NodePortSpec{want(testkit.Name(t), 30001, "edu", "shop", "prod", "front")}
	if err := ports.Reserve(t.Context(), other); err != nil {
		t.Errorf("the same port of another cluster: %v", err)
	}
	twice := []v1alpha1.NodePortSpec{want(cluster, 30009, "edu", "shop", "one", "front"), want(cluster, 30009, "edu", "shop", "two", "front")}
	expectTaken(t, ports.Reserve(t.Context(), twice), "edu/shop front one")

	moved := []v1alpha1.NodePortSpec{want(cluster, 30001, "edu", "score", "prod", "admin")}
	if err := ports.Reserve(t.Context(), moved); err != nil {
		t.Fatal(err)
	}
	if owner := reserved(t, cluster, 30001).Spec.Owner; owner.Component != "admin" {
		t.Errorf("the application could not move its port: %+v", owner)
	}
}

// TestTPL04_Race: of many who want a port at the same time exactly one gets it.
func TestTPL04_Race(t *testing.T) {
	const applications = 20
	ports := &Ports{Hub: hub.Client, Live: hub.Client, Members: nobody{}}
	cluster := testkit.Name(t)
	var mu sync.Mutex
	var winners []string
	var all sync.WaitGroup
	for i := range applications {
		all.Go(func() {
			name := fmt.Sprintf("app%d", i)
			wants := []v1alpha1.NodePortSpec{want(cluster, 31000, "edu", name, "prod", "web"), want(cluster, 31001, "edu", name, "prod", "web")}
			if i%2 == 0 {
				wants[0], wants[1] = wants[1], wants[0]
			}
			if err := ports.Reserve(context.Background(), wants); err == nil {
				mu.Lock()
				defer mu.Unlock()
				winners = append(winners, name)
			}
		})
	}
	all.Wait()
	if len(winners) > 1 {
		t.Fatalf("%v all got the port", winners)
	}
	for _, port := range []int32{31000, 31001} {
		n := reserved(t, cluster, port)
		if len(winners) == 0 && n != nil || len(winners) == 1 && (n == nil || n.Spec.Owner.Application != winners[0]) {
			t.Errorf("winners %v, but port %d has %v", winners, port, n)
		}
	}
}

// joined is a hub whose server has one member.
type joined struct {
	*testkit.Member
	cluster string
	ports   *Ports
	manager manager.Manager
}

func join(t *testing.T, grace time.Duration) *joined {
	t.Helper()
	j := &joined{Member: testkit.StartMember(t), cluster: testkit.Name(t)}
	testkit.Create(t, hub.Client, &v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: j.cluster},
		Spec: v1alpha1.ClusterSpec{Connection: v1alpha1.ClusterConnection{KubeconfigSecretRef: &v1alpha1.SecretReference{Name: "none"}}}})
	var set *member.Set
	j.manager = testkit.StartManager(t, hub, func(mgr manager.Manager) (err error) {
		if set, err = member.NewSet(mgr); err != nil {
			return err
		}
		j.ports = &Ports{Hub: mgr.GetClient(), Live: mgr.GetAPIReader(), Members: set}
		return (&Garbage{Ports: j.ports, Grace: grace}).SetupWithManager(mgr)
	})
	m, err := set.Connect(j.cluster, "first", j.Config)
	if err != nil {
		t.Fatal(err)
	}
	NewWithT(t).Eventually(func() bool { answering, _ := m.Answering(); return answering }, "20s", "50ms").Should(BeTrue())
	set.Admit(j.cluster)
	return j
}

func service(namespace, name string, nodePort int32, labels map[string]string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Name: "http", Port: 80, NodePort: nodePort}},
	}}
}

func labels(tenant, application, partition, component string) map[string]string {
	return map[string]string{v1alpha1.LabelTenant: tenant, v1alpha1.LabelApplication: application, v1alpha1.LabelPartition: partition, v1alpha1.LabelComponent: component}
}

func TestRES11_Table(t *testing.T) {
	j := join(t, time.Hour)
	ns := testkit.Namespace(t, j.Client)
	testkit.Create(t, j.Client,
		service(ns, "webservice1", 30089, nil),
		service(ns, "web", 30091, labels("edu", "score", "prod", "web")),
		&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "externalservice1", Labels: func() map[string]string {
			l := labels("edu", "ext", "prod", "externalservice1")
			l[discoveryv1.LabelServiceName], l[discoveryv1.LabelManagedBy] = "externalservice1", v1alpha1.FieldOwner
			return l
		}()}, AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.168.18.4"}}},
			Ports: []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8081))}}},
	)
	if err := j.ports.Reserve(t.Context(), []v1alpha1.NodePortSpec{want(j.cluster, 30100, "edu", "new", "prod", "web")}); err != nil {
		t.Fatal(err)
	}
	wanted := []Row{
		{Cluster: j.cluster, Namespace: ns, Service: "externalservice1", Address: "192.168.18.4", Port: 8081, Protocol: "TCP", External: true,
			Tenant: "edu", Application: "ext", Component: "externalservice1", Partition: "prod"},
		{Cluster: j.cluster, Namespace: ns, Service: "webservice1", Port: 30089, Protocol: "TCP"},
		{Cluster: j.cluster, Namespace: ns, Service: "web", Port: 30091, Protocol: "TCP", Tenant: "edu", Application: "score", Component: "web", Partition: "prod"},
		{Cluster: j.cluster, Service: "web", Port: 30100, Tenant: "edu", Application: "new", Component: "web", Partition: "prod"},
	}
	var rows []Row
	NewWithT(t).Eventually(func() int {
		all, err := j.ports.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		rows = nil
		for _, row := range all {
			if row.Cluster == j.cluster {
				rows = append(rows, row)
			}
		}
		return len(rows)
	}, "10s", "50ms").Should(Equal(len(wanted)))
	if rows[1].Address == "" || !strings.HasPrefix(rows[1].Address, "10.96.") {
		t.Errorf("the service's own address is missing: %+v", rows[1])
	}
	if diff := cmp.Diff(wanted, rows, cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Address" }, cmp.Comparer(sameAddress))); diff != "" {
		t.Errorf("table differs (-want +got):\n%s", diff)
	}

	// A port that a service has already is refused, with the service's name, whoever made it.
	expectTaken(t, j.ports.Reserve(t.Context(), []v1alpha1.NodePortSpec{want(j.cluster, 30089, "edu", "shop", "prod", "web")}), ns+"/webservice1, which Yunfan did not make")
	expectTaken(t, j.ports.Check(t.Context(), []v1alpha1.NodePortSpec{want(j.cluster, 30091, "edu", "shop", "prod", "web")}), "edu/score web prod")
	if err := j.ports.Reserve(t.Context(), []v1alpha1.NodePortSpec{want(j.cluster, 30091, "edu", "score", "prod", "web")}); err != nil {
		t.Errorf("the application's own service: %v", err)
	}
}

// sameAddress takes an address that the member chose for none that is given.
func sameAddress(a, b string) bool { return a == b || a == "" || b == "" }

// TestGarbage: a reservation goes when no delivery uses it and the member has let go of the port, and not before.
func TestGarbage(t *testing.T) {
	j := join(t, time.Second)
	tenant := testkit.Namespace(t, hub.Client)
	ns := testkit.Namespace(t, j.Client)
	revision := &v1alpha1.ApplicationRevision{ObjectMeta: metav1.ObjectMeta{Name: "shop-a", Namespace: tenant}, Spec: v1alpha1.ApplicationRevisionSpec{
		Application: "shop", Number: 1,
		Components: []v1alpha1.Component{{Name: "web", Service: &v1alpha1.Service{Type: corev1.ServiceTypeNodePort, Ports: []v1alpha1.ServicePort{{Name: "http", Port: 80, NodePort: 30500}}}}},
		Overrides:  []v1alpha1.PartitionOverrides{{Partition: "prod", Overrides: []v1alpha1.Override{{Component: "web", NodePorts: map[string]int32{"http": 30501}}}}},
	}}
	delivery := &v1alpha1.Delivery{ObjectMeta: metav1.ObjectMeta{Name: "shop.prod", Namespace: tenant}, Spec: v1alpha1.DeliverySpec{
		Application: "shop", Partition: "prod", Cluster: j.cluster, Tracks: []v1alpha1.Track{{Role: v1alpha1.TrackStable, Revision: "shop-a"}},
	}}
	held := service(ns, "web", 30501, labels(tenant, "shop", "prod", "web"))
	testkit.Create(t, hub.Client, revision, delivery)
	testkit.Create(t, j.Client, held)
	unused, used := want(j.cluster, 30500, tenant, "shop", "prod", "web"), want(j.cluster, 30501, tenant, "shop", "prod", "web")
	g := NewWithT(t)
	g.Eventually(func() error { return j.ports.Reserve(t.Context(), []v1alpha1.NodePortSpec{unused, used}) }, "5s").Should(Succeed())
	g.Eventually(func() *v1alpha1.NodePort { return reserved(t, j.cluster, 30500) }, "10s", "100ms").Should(BeNil(), "the partition uses another port")
	if reserved(t, j.cluster, 30501) == nil {
		t.Fatal("the port in use was released")
	}

	if err := hub.Client.Delete(t.Context(), delivery); err != nil {
		t.Fatal(err)
	}
	g.Consistently(func() *v1alpha1.NodePort { return reserved(t, j.cluster, 30501) }, "3s", "100ms").ShouldNot(BeNil(), "the member still has the service")
	if err := j.Client.Delete(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	g.Eventually(func() *v1alpha1.NodePort { return reserved(t, j.cluster, 30501) }, "10s", "100ms").Should(BeNil())
}

func TestRES12_ProgramsOfNodes(t *testing.T) {
	j := join(t, time.Hour)
	testkit.Create(t, j.Client,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: reportNamespace}},
		&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: reportNamespace, Name: "ports-n1", Labels: map[string]string{LabelReport: "true"}},
			Data:       map[string]string{ReportNode: "n1", ReportPorts: "30021 nginx\n30022\nnonsense\n"},
		},
		service(testkit.Namespace(t, j.Client), "own", 30022, labels("edu", "shop", "prod", "web")),
	)
	expectTaken(t, j.ports.Check(t.Context(), []v1alpha1.NodePortSpec{want(j.cluster, 30021, "edu", "shop", "prod", "web")}),
		"node port 30021 of cluster "+j.cluster+" is taken by nginx, which listens on node n1")
	expectTaken(t, j.ports.Reserve(t.Context(), []v1alpha1.NodePortSpec{want(j.cluster, 30022, "edu", "other", "prod", "web")}), "a program, which listens on node n1")
	NewWithT(t).Eventually(func() error {
		return j.ports.Check(t.Context(), []v1alpha1.NodePortSpec{want(j.cluster, 30022, "edu", "shop", "prod", "web")})
	}, "10s").Should(Succeed(), "what the application's own service has is not asked about")
	if err := j.ports.Check(t.Context(), []v1alpha1.NodePortSpec{want(j.cluster, 30023, "edu", "shop", "prod", "web")}); err != nil {
		t.Errorf("a port that nobody uses: %v", err)
	}
}

func TestRES12_OtherTenantsAreNotNamed(t *testing.T) {
	ports := &Ports{Hub: hub.Client, Live: hub.Client, Members: nobody{}}
	cluster := testkit.Name(t)
	if err := ports.Reserve(t.Context(), []v1alpha1.NodePortSpec{want(cluster, 30001, "edu", "score", "prod", "web")}); err != nil {
		t.Fatal(err)
	}
	theirs := []v1alpha1.NodePortSpec{want(cluster, 30001, "fin", "shop", "prod", "front")}
	for _, err := range []error{ports.Check(t.Context(), theirs), ports.Reserve(t.Context(), theirs)} {
		expectTaken(t, err, "is taken by another tenant: choose another port")
		if strings.Contains(err.Error(), "score") {
			t.Errorf("the other tenant's application is named: %v", err)
		}
	}
}
