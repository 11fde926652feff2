package assembly

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

var (
	placeholder = regexp.MustCompile(`\{[^}]*\}`)
	documented  = regexp.MustCompile("`((?:GET|POST|PUT|PATCH|DELETE) /api/v1/[^` ]*)`")
	word        = regexp.MustCompile(`^[A-Z][A-Z]*$`)
)

// routes of the whole server, as it is put together.
func routes(t *testing.T) []string {
	t.Helper()
	mgr, err := ctrl.NewManager(hub.Config, manager.Options{Scheme: hub.Scheme, Metrics: metricsserver.Options{BindAddress: "0"}})
	if err != nil {
		t.Fatal(err)
	}
	set, err := kubernetes.NewForConfig(hub.Config)
	if err != nil {
		t.Fatal(err)
	}
	records, err := record.Open(t.Context(), filepath.Join(t.TempDir(), "records.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = records.Close() })
	address := &url.URL{Scheme: "https", Host: "127.0.0.1:8443"}
	parts, err := Add(mgr, rest.NewAuthorizer(set), Options{URL: address, Namespace: testkit.PlatformNamespace, Records: records, Place: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, route := range parts.Routes {
		if strings.Contains(route.Pattern, " /api/v1/") {
			all = append(all, placeholder.ReplaceAllString(route.Pattern, "*"))
		}
	}
	return all
}

// Everything that a page does is a documented request: docs/api.md names every route, and none that is not there.
func TestOPS11_EveryRequestIsDocumented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	var pages []string
	for _, found := range documented.FindAllStringSubmatch(string(text), -1) {
		path, _, _ := strings.Cut(found[1], "?")
		parts := strings.Split(path, "/")
		for i, part := range parts {
			if i > 0 && word.MatchString(part) {
				parts[i] = "*"
			}
		}
		pages = append(pages, strings.Join(parts, "/"))
	}
	all := routes(t)
	for _, route := range all {
		if !slices.Contains(pages, route) {
			t.Errorf("%s is not in docs/api.md", route)
		}
	}
	for _, page := range pages {
		if !slices.Contains(all, page) {
			t.Errorf("docs/api.md has %s, which the server has not", page)
		}
	}
	if len(all) == 0 {
		t.Error("there are no routes")
	}
}
