package route

import (
	"context"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
	"yunfan.io/yunfan/internal/traffic"
)

// TestTrafficWithoutRoutes: where no Route names the application nobody is asked, for there is nobody who could answer.
func TestTrafficWithoutRoutes(t *testing.T) {
	tenant := testkit.Namespace(t, hub.Client)
	_, _, d := placeOf(t, tenant, "shop", "prod", 1)
	tr := newTraffic(hub.Client, nil, nil, nil)
	if waiting, err := tr.Settled(t.Context(), d); err != nil || waiting != "" {
		t.Errorf("settled: %q, %v", waiting, err)
	}
	if missing, err := tr.Reaches(t.Context(), d, v1alpha1.TrackStable); err != nil || missing != "" {
		t.Errorf("reaches: %q, %v", missing, err)
	}
	if flying, err := tr.InFlight(t.Context(), d); err != nil || flying.Edge != 0 || len(flying.Tracks) != 0 {
		t.Errorf("in flight: %+v, %v", flying, err)
	}
	if sample, err := tr.Sample(t.Context(), d, v1alpha1.TrackStable); err != nil || sample.Requests != 0 {
		t.Errorf("sample: %+v, %v", sample, err)
	}
}

// TestTrafficOfALostCluster: the gateways of a cluster that does not answer are waited for, unless nothing is sent there.
func TestTrafficOfALostCluster(t *testing.T) {
	s := &standIn{}
	r := start(t, map[string]*standIn{"https://lost.test:1": s})
	newEdge(t, "https://lost.test:1")
	tenant := testkit.Namespace(t, hub.Client)
	cluster, _, d := placeOf(t, tenant, "shop", "prod", 1, "192.0.2.1:30080")
	create(t, application(tenant, "shop"))
	route := routeObject(tenant, "shop", []string{tenant + ".example.com"}, to("shop"))
	create(t, route)
	tr := r.Traffic()
	g := NewWithT(t)
	settled := func() (string, error) { return tr.Settled(context.Background(), d) }

	// A cluster without a gateway has none to wait for; the Route says what is missing.
	g.Eventually(settled, patience).Should(BeEmpty())
	problems, err := tr.Problems(t.Context(), route)
	if err != nil || !strings.Contains(strings.Join(problems, "; "), "cluster "+cluster.Name+" of partition prod has no gateway") {
		t.Errorf("problems: %v, %v", problems, err)
	}

	before := cluster.DeepCopy()
	cluster.Spec.Gateway.Mode = v1alpha1.GatewayManaged
	if err := hub.Client.Patch(t.Context(), cluster, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	g.Eventually(settled, patience).Should(Equal("cluster " + cluster.Name + " does not answer"))
	if missing, err := tr.Reaches(t.Context(), d, v1alpha1.TrackStable); err != nil || missing != "cluster "+cluster.Name+" does not answer" {
		t.Errorf("reaches: %q, %v", missing, err)
	}
	if _, err := tr.InFlight(t.Context(), d); err == nil {
		t.Error("what is under way to a cluster that does not answer is not known, but was told")
	}

	was := d.DeepCopy()
	d.Spec.Traffic = &v1alpha1.Traffic{Closed: true}
	if err := hub.Client.Patch(t.Context(), d, client.MergeFrom(was)); err != nil {
		t.Fatal(err)
	}
	g.Eventually(settled, patience).Should(BeEmpty())
	if served := s.table(); served == nil || !served.Pools[0].Targets[0].Closed {
		t.Error("it is settled, but the edge does not have it closed")
	}
}

// TestCountersThatBecomeLess are told as a restart: a gateway forgets those of services that it no longer has.
func TestCountersThatBecomeLess(t *testing.T) {
	tr := newTraffic(hub.Client, nil, nil, nil)
	d := &v1alpha1.Delivery{}
	var told []string
	for _, requests := range []uint64{10, 20, 5, 6, 1} {
		s := traffic.Sample{Requests: requests, Restarted: "a@1"}
		tr.remember(d, v1alpha1.TrackStable, &s)
		told = append(told, s.Restarted)
	}
	if got, want := strings.Join(told, ", "), "a@1, a@1, a@1+1, a@1+1, a@1+2"; got != want { //nolint:dupword // told twice
		t.Errorf("told %s, want %s", got, want)
	}
}
