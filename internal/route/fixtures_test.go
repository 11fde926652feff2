package route

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

// patience is how long something may take on a busy machine.
const patience = 60 * time.Second

// world makes facts.
type world struct{ facts }

func newWorld() *world { return &world{facts{certificates: nil}} }

func (w *world) cluster(name string, gateways ...string) {
	c := v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for i, address := range gateways {
		c.Status.Gateways = append(c.Status.Gateways, v1alpha1.GatewayReplica{Node: fmt.Sprintf("n%d", i), Address: address, Ready: true})
	}
	c.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue}}
	w.clusters = append(w.clusters, c)
}

func (w *world) partition(tenant, name, cluster string) {
	w.partitions = append(w.partitions, v1alpha1.Partition{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: name}, Spec: v1alpha1.PartitionSpec{Cluster: cluster},
	})
}

// delivery of an application whose component web has so many ready pods.
func (w *world) delivery(tenant, application, partition, cluster string, ready int32) *v1alpha1.Delivery {
	w.deliveries = append(w.deliveries, v1alpha1.Delivery{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: v1alpha1.DeliveryName(application, partition), Generation: 1},
		Spec: v1alpha1.DeliverySpec{
			Application: application, Partition: partition, Cluster: cluster,
			Tracks: []v1alpha1.Track{{Role: v1alpha1.TrackStable, Revision: application + "-1", Replicas: map[string]int32{"web": ready}}},
		},
		Status: v1alpha1.DeliveryStatus{Tracks: []v1alpha1.TrackStatus{{
			Role: v1alpha1.TrackStable, Revision: application + "-1", Components: []v1alpha1.ComponentStatus{{Name: "web", Ready: ready}},
		}}},
	})
	return &w.deliveries[len(w.deliveries)-1]
}

// route with hosts that the tenant has.
func (w *world) route(tenant, name string, age time.Duration, hosts []string, rules ...v1alpha1.RouteRule) *v1alpha1.Route {
	w.routes = append(w.routes, v1alpha1.Route{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: tenant, Name: name, Generation: 1,
			CreationTimestamp: metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(-age)),
		},
		Spec: v1alpha1.RouteSpec{Hosts: hosts, Rules: rules},
	})
	r := &w.routes[len(w.routes)-1]
	for _, host := range hostsOf(r) {
		w.hosts = append(w.hosts, v1alpha1.RouteHost{
			ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.RouteHostName(host)}, Spec: v1alpha1.RouteHostSpec{Host: host, Tenant: tenant},
		})
	}
	return r
}

// to is a rule that leads paths to the component web of an application.
func to(application string, paths ...string) v1alpha1.RouteRule {
	rule := v1alpha1.RouteRule{Name: "r" + application, Backends: []v1alpha1.RouteBackend{{Application: application, Component: "web"}}}
	for _, path := range paths {
		rule.Matches = append(rule.Matches, v1alpha1.RouteMatch{Path: &v1alpha1.PathMatch{Type: v1alpha1.MatchPrefix, Value: path}})
	}
	return rule
}
