package route

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// load creates the objects of a file of examples/route.
func load(t *testing.T, name string) (routes []*v1alpha1.Route) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "examples", "route", name))
	if err != nil {
		t.Fatal(err)
	}
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := decoder.Decode(&o.Object); errors.Is(err, io.EOF) {
			return routes
		} else if err != nil {
			t.Fatal(err)
		}
		if err := hub.Client.Create(t.Context(), o, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if o.GetKind() == "Route" {
			route := &v1alpha1.Route{}
			if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(o), route); err != nil {
				t.Fatal(err)
			}
			routes = append(routes, route)
		}
	}
}

func TestING01_TheFourExamples(t *testing.T) {
	g := NewWithT(t)
	s := &standIn{}
	start(t, map[string]*standIn{"http://one": s})
	newEdge(t, "http://one")
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "edu"}})
	load(t, "application.yaml")
	placeOf(t, "edu", "website", "prod-bj", 1, "192.0.2.1:30080")
	var all []*v1alpha1.Route
	for _, name := range []string{"one-backend.yaml", "paths.yaml", "hosts.yaml", "any-host.yaml"} {
		all = append(all, load(t, name)...)
	}
	for _, route := range all {
		g.Eventually(readyOf(t, route), patience).Should(HavePrefix("Ready"), route.Name)
	}
	redirects := map[string]bool{}
	for _, pool := range s.table().Pools {
		if name := parsePool(pool.Name); name.tenant == "edu" {
			redirects[name.route] = pool.RedirectHTTP
			g.Expect(pool.Targets).To(HaveLen(1))
		}
	}
	g.Expect(redirects).To(Equal(map[string]bool{"one-backend": false, "paths": false, "foo": false, "bar": false, "any-host": true}),
		"the one without hosts goes to https by default")

	hostless := all[len(all)-1]
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(hostless), hostless)).To(Succeed())
	hostless.Spec.PlainHTTP = v1alpha1.PlainHTTPServe
	g.Expect(hub.Client.Update(t.Context(), hostless)).To(Succeed())
	g.Eventually(func() bool {
		for _, pool := range s.table().Pools {
			if pool.Name == "edu.any-host.website" {
				return pool.RedirectHTTP
			}
		}
		return true
	}, patience).Should(BeFalse(), "and is served after the switch")
	for _, route := range all {
		g.Expect(hub.Client.Delete(t.Context(), route)).To(Succeed())
	}
}
