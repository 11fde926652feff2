package route

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/route/edge"
	"yunfan.io/yunfan/internal/route/table"
	"yunfan.io/yunfan/internal/testkit"
)

// standIn is an edge in memory whose faults are chosen: a real load balancer does not hang when it is asked to.
type standIn struct {
	mu      sync.Mutex
	served  *table.Table
	hangs   bool
	refuses string
	silent  bool
	down    map[string]string // probes of targets that do not answer
	flying  map[string]int    // requests under way by target
	applied int
}

func (s *standIn) Apply(ctx context.Context, t *table.Table) error {
	s.mu.Lock()
	hangs := s.hangs
	s.applied++
	if !hangs && s.refuses == "" && !s.silent {
		s.served = t
	}
	silent := s.silent
	s.mu.Unlock()
	switch {
	case hangs:
		<-ctx.Done()
		return ctx.Err()
	case silent:
		return errors.New("connection refused")
	}
	return nil
}

func (s *standIn) State(ctx context.Context) (*table.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hangs || s.silent {
		if s.silent {
			return nil, errors.New("connection refused")
		}
		s.mu.Unlock()
		<-ctx.Done()
		s.mu.Lock()
		return nil, ctx.Err()
	}
	state := &table.State{Program: "stand-in 1", Problem: s.refuses}
	if s.served == nil {
		return state, nil
	}
	var err error
	state.Generation, err = s.served.Generation()
	for _, pool := range s.served.Pools {
		for _, target := range pool.Targets {
			probe, down := s.down[target.Name]
			state.Targets = append(state.Targets, table.TargetState{
				Pool: pool.Name, Target: target.Name, Closed: target.Closed, Up: !down && len(target.Servers) > 0, Probe: probe, InFlight: s.flying[target.Name],
			})
		}
	}
	return state, err
}

func (s *standIn) set(change func(*standIn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *standIn) table() *table.Table {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.served
}

// noMembers knows no cluster.
type noMembers struct{}

func (noMembers) Member(string) (*member.Member, bool) { return nil, false }

// start runs the controllers with stand-ins by endpoint until the test ends.
func start(t *testing.T, edges map[string]*standIn) *Routes {
	t.Helper()
	var r *Routes
	testkit.StartManager(t, hub, func(mgr manager.Manager) error {
		r = New(mgr, noMembers{}, Options{
			Namespace: testkit.PlatformNamespace, Poll: 100 * time.Millisecond, Quick: 20 * time.Millisecond,
			Drivers: map[v1alpha1.EdgeDriver]NewDriver{v1alpha1.EdgeDriverAgent: func(endpoint string, _ map[string][]byte) (edge.Driver, error) {
				if s := edges[endpoint]; s != nil {
					return s, nil
				}
				return nil, errors.New("no such stand-in")
			}},
		})
		return r.SetupWithManager(mgr)
	})
	return r
}

// newEdge makes an Edge with its Secret, which go with the test.
func newEdge(t *testing.T, endpoints ...string) *v1alpha1.Edge {
	t.Helper()
	name := testkit.Name(t)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: testkit.PlatformNamespace, Name: name}, Data: map[string][]byte{"token": []byte("t")}}
	e := &v1alpha1.Edge{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.EdgeSpec{
			Endpoints: endpoints, CredentialsSecretRef: v1alpha1.SecretReference{Name: name}, Addresses: []string{"http://192.0.2.9"},
		},
	}
	create(t, secret, e)
	return e
}

// create makes objects that go with the test.
func create(t *testing.T, objects ...client.Object) {
	t.Helper()
	testkit.Create(t, hub.Client, objects...)
	t.Cleanup(func() {
		for _, o := range objects {
			_ = hub.Client.Delete(context.Background(), o)
		}
	})
}

// application with the component web, which has a service.
func application(tenant, name string) *v1alpha1.Application {
	return &v1alpha1.Application{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: name},
		Spec: v1alpha1.ApplicationSpec{
			Components: []v1alpha1.Component{{
				Name: "web", Service: &v1alpha1.Service{Ports: []v1alpha1.ServicePort{{Name: "http", Port: 8080}}},
				Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}}}},
			}},
			Placement: v1alpha1.Placement{Partitions: []v1alpha1.PartitionChoice{{Name: "bj"}}},
		},
	}
}

func routeObject(tenant, name string, hosts []string, rules ...v1alpha1.RouteRule) *v1alpha1.Route {
	return &v1alpha1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: name}, Spec: v1alpha1.RouteSpec{Hosts: hosts, Rules: rules}}
}

// readyOf gives the reason and message of a Route's Ready.
func readyOf(t *testing.T, route *v1alpha1.Route) func() string {
	t.Helper()
	return func() string {
		stored := &v1alpha1.Route{}
		if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(route), stored); err != nil {
			return err.Error()
		}
		c := meta.FindStatusCondition(stored.Status.Conditions, v1alpha1.ConditionReady)
		if c == nil || c.ObservedGeneration != stored.Generation {
			return "nothing yet"
		}
		return c.Reason + ": " + c.Message
	}
}

// place makes a cluster with gateways, a partition of the tenant in it, and a delivery there with ready pods.
func placeOf(t *testing.T, tenant, app, partition string, ready int32, gateways ...string) (*v1alpha1.Cluster, *v1alpha1.Partition, *v1alpha1.Delivery) {
	t.Helper()
	g := NewWithT(t)
	cluster := &v1alpha1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Name: testkit.Name(t)},
		Spec:       v1alpha1.ClusterSpec{Connection: v1alpha1.ClusterConnection{KubeconfigSecretRef: &v1alpha1.SecretReference{Name: "none"}}},
	}
	p := &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: partition}, Spec: v1alpha1.PartitionSpec{Cluster: cluster.Name}}
	d := &v1alpha1.Delivery{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: v1alpha1.DeliveryName(app, partition)},
		Spec: v1alpha1.DeliverySpec{
			Application: app, Partition: partition, Cluster: cluster.Name,
			Tracks: []v1alpha1.Track{{Role: v1alpha1.TrackStable, Revision: app + "-1", Replicas: map[string]int32{"web": ready}}},
		},
	}
	create(t, cluster, p, d)
	for i, address := range gateways {
		cluster.Status.Gateways = append(cluster.Status.Gateways, v1alpha1.GatewayReplica{Node: string(rune('a' + i)), Address: address, Ready: true})
	}
	cluster.Status.Conditions = []metav1.Condition{{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady, LastTransitionTime: metav1.Now(),
	}}
	g.Expect(hub.Client.Status().Update(t.Context(), cluster)).To(Succeed())
	d.Status.Tracks = []v1alpha1.TrackStatus{{
		Role: v1alpha1.TrackStable, Revision: app + "-1", Components: []v1alpha1.ComponentStatus{{Name: "web", Ready: ready}},
	}}
	g.Expect(hub.Client.Status().Update(t.Context(), d)).To(Succeed())
	return cluster, p, d
}
