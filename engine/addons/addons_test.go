package addons

import (
	"strings"
	"testing"

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
