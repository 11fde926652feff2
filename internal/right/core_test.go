package right_test

import (
	"strings"
	"testing"

	"k8s.io/client-go/discovery"

	"yunfan.io/yunfan/internal/proxy"
	"yunfan.io/yunfan/internal/rest"
)

// TestNoViewHidesKubernetes asks a real API server which names below /api/v1 are its own: none may be a view's.
func TestNoViewHidesKubernetes(t *testing.T) {
	client, err := discovery.NewDiscoveryClientForConfig(hub.Config)
	if err != nil {
		t.Fatal(err)
	}
	list, err := client.ServerResourcesForGroupVersion("v1")
	if err != nil || len(list.APIResources) < 10 {
		t.Fatalf("%v: %v", list, err)
	}
	for _, resource := range list.APIResources {
		name, _, _ := strings.Cut(resource.Name, "/")
		if len(proxy.Shadowing([]rest.Route{{Pattern: "GET /api/v1/" + name}})) == 0 {
			t.Errorf("a view named %s would answer in place of Kubernetes", name)
		}
	}
}
