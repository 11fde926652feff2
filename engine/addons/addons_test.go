package addons

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestObjects(t *testing.T) {
	v := Values{Gateway: "198.18.0.1", RegistryHost: "registry.test", ServiceDNS: "10.96.0.10", Domain: "cluster.local", CA: "Y2E=", MetricsCert: "Yw==", MetricsKey: "aw=="}
	all, err := Objects(v, false)
	if err != nil {
		t.Fatal(err)
	}
	hub, err := Objects(v, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range hub {
		if o.GetNamespace() != "" || o.GetKind() == "DaemonSet" {
			t.Errorf("%s %s would need a node", o.GetKind(), o.GetName())
		}
	}
	if corefile := field(t, all, "ConfigMap", "coredns", "data", "Corefile"); !strings.Contains(corefile, "NXDOMAIN") || strings.Contains(corefile, "forward") || !strings.Contains(corefile, "198.18.0.1 registry.test") {
		t.Errorf("without servers outside names must not exist:\n%s", corefile)
	}
	if class := field(t, all, "APIService", "v1beta1.metrics.k8s.io", "spec", "caBundle"); class != "Y2E=" {
		t.Errorf("metrics are verified by the cluster's authority, got %q", class)
	}
	v.DNS = []string{"192.0.2.53"}
	all, err = Objects(v, false)
	if err != nil {
		t.Fatal(err)
	}
	if corefile := field(t, all, "ConfigMap", "coredns", "data", "Corefile"); !strings.Contains(corefile, "forward . 192.0.2.53") {
		t.Errorf("outside names go to the given server:\n%s", corefile)
	}
}

func TestServes(t *testing.T) {
	start := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	pod := func(ready bool, state string) map[string]any {
		return map[string]any{"spec": map[string]any{"nodeName": "n"}, "status": map[string]any{"containerStatuses": []any{
			map[string]any{"ready": ready, "state": map[string]any{"running": map[string]any{"startedAt": state}}}}}}
	}
	deleted := pod(false, "")
	deleted["metadata"] = map[string]any{"deletionTimestamp": "2026-01-01T12:00:00Z"}
	cases := map[string]struct {
		reason string
		pod    map[string]any
		want   bool
	}{
		"Fresh":    {"Started after its node", pod(true, "2026-01-01T12:00:03Z"), true},
		"Stale":    {"What was reported before the node was started is not true any more", pod(true, "2026-01-01T11:59:59Z"), false},
		"NotReady": {"Running is not enough", pod(false, "2026-01-01T12:00:03Z"), false},
		"NotYet":   {"Nothing reported yet", map[string]any{}, false},
		"Leaving":  {"A pod on its way out does not matter", deleted, true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := serves(unstructured.Unstructured{Object: tc.pod}, map[string]time.Time{"n": start}); got != tc.want {
				t.Errorf("%s: got %v", tc.reason, got)
			}
		})
	}
}

func field(t *testing.T, objects []*unstructured.Unstructured, kind, name string, path ...string) string {
	t.Helper()
	for _, o := range objects {
		if o.GetKind() == kind && o.GetName() == name {
			value, _, err := unstructured.NestedString(o.Object, path...)
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	t.Fatalf("no %s %s", kind, name)
	return ""
}
