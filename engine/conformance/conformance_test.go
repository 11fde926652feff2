// Package conformance runs the conformance suite of the Gateway API, profile HTTP, against the gateway of a member. It
// differs from upstream's command in where images come from and how the gateway is reached, not in what is tested.
package conformance

import (
	"context"
	"io/fs"
	"net"
	"os"
	"regexp"
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/roundtripper"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// TestConformance runs with KUBECONFIG set to the member's, CONFORMANCE_HTTP and CONFORMANCE_HTTPS to where ports 80 and
// 443 of the gateway are reached, CONFORMANCE_REPORT to the file for the report and CONFORMANCE_VERSION to that of the
// gateway.
func TestConformance(t *testing.T) {
	options := conformance.DefaultOptions(t)
	options.GatewayClassName = "yunfan"
	options.ConformanceProfiles = []suite.ConformanceProfileName{suite.GatewayHTTPConformanceProfileName}
	options.SupportedFeatures = supported()
	options.ManifestFS = []fs.FS{local{&conformance.Manifests}}
	options.CleanupBaseResources, options.CleanupTestResources = true, true
	options.ReportOutputPath = os.Getenv("CONFORMANCE_REPORT")
	options.Implementation = confv1.Implementation{
		Organization: "yunfan", Project: "yunfan", URL: "https://yunfan.io", Version: os.Getenv("CONFORMANCE_VERSION"), Contact: []string{"https://yunfan.io"},
	}
	options.RoundTripper = &roundtripper.DefaultRoundTripper{TimeoutConfig: options.TimeoutConfig, CustomDialContext: dial}
	conformance.RunConformanceWithOptions(t, options)
}

// supported are the core features of the profile, and those of the others that Traefik says it has and the platform uses.
func supported() []features.FeatureName {
	names := []features.FeatureName{features.SupportGateway, features.SupportReferenceGrant, features.SupportHTTPRoute}
	for _, f := range []features.Feature{
		features.HTTPRouteQueryParamMatchingFeature, features.HTTPRouteMethodMatchingFeature, features.HTTPRouteResponseHeaderModificationFeature,
		features.HTTPRoutePortRedirectFeature, features.HTTPRouteSchemeRedirectFeature, features.HTTPRoutePathRedirectFeature,
		features.HTTPRouteHostRewriteFeature, features.HTTPRoutePathRewriteFeature,
	} {
		names = append(names, f.Name)
	}
	return names
}

// dial leads to the node ports that stand for the ports of the gateway.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	if _, port, err := net.SplitHostPort(address); err == nil {
		switch port {
		case "80":
			address = os.Getenv("CONFORMANCE_HTTP")
		case "443":
			address = os.Getenv("CONFORMANCE_HTTPS")
		}
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// local are the suite's manifests with images that are built here, and with the label by which the gateway knows its
// classes: it leaves others to whoever made them.
type local struct{ fs.ReadFileFS }

var replaced = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`registry\.k8s\.io/gateway-api/echo-basic:\S+`), "registry.yunfan.internal/conformance/echo-basic:v1"},
	{regexp.MustCompile(`registry\.k8s\.io/coredns/coredns:\S+`), "registry.yunfan.internal/system/coredns:v1.15.0"},
	{regexp.MustCompile(`(?m)^(kind: GatewayClass\nmetadata:\n)`), "${1}  labels: {app.kubernetes.io/managed-by: yunfan}\n"},
}

// ReadFile reads a manifest.
func (l local) ReadFile(name string) ([]byte, error) {
	data, err := l.ReadFileFS.ReadFile(name)
	for _, r := range replaced {
		data = r.pattern.ReplaceAll(data, []byte(r.with))
	}
	return data, err
}
