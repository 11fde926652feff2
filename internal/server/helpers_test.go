package server

import (
	"net"
	"net/url"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func objectMeta(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

// freeAddress is an address of this machine that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// definition is one of the kinds that are installed.
func definition(t *testing.T, name string) map[string]any {
	t.Helper()
	all, err := definitions()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		if (&unstructured.Unstructured{Object: d}).GetName() == name {
			return d
		}
	}
	t.Fatalf("there is no kind %s", name)
	return nil
}

// schemaOf gives the properties of a kind's spec.
func schemaOf(t *testing.T, definition map[string]any) map[string]any {
	t.Helper()
	versions, _, err := unstructured.NestedSlice(definition, "spec", "versions")
	if err != nil || len(versions) == 0 {
		t.Fatalf("the kind has no versions: %v", err)
	}
	// NestedSlice copies: the kind itself must change.
	version := definition["spec"].(map[string]any)["versions"].([]any)[0].(map[string]any)
	properties := version["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any)["properties"].(map[string]any)
	return properties["spec"].(map[string]any)["properties"].(map[string]any)
}

func TestAddress(t *testing.T) {
	anywhere := &net.TCPAddr{IP: net.IPv4zero, Port: 8443}
	for name, tc := range map[string]struct {
		reason, advertise string
		listen            net.Addr
		want              string
	}{
		"Advertised": {"what is advertised counts", "https://yunfan.example.com", anywhere, "https://yunfan.example.com"},
		"Slash":      {"a slash is no path", "https://yunfan.example.com/", anywhere, "https://yunfan.example.com"},
		"Listen":     {"else it is the address listened on", "", &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}, "https://10.0.0.1:1"},
		"Everywhere": {"from everywhere, this machine", "", anywhere, "https://127.0.0.1:8443"},
		"PlainHTTP":  {"certificates are shown over TLS only", "http://yunfan.example.com", anywhere, ""},
		"Path":       {"below a path nothing would be found", "https://example.com/yunfan", anywhere, ""},
		"NoURL":      {"a host alone is no URL", "example.com", anywhere, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := address(tc.advertise, tc.listen)
			if got == nil {
				got = &url.URL{}
			}
			if got.String() != tc.want || (err == nil) != (tc.want != "") {
				t.Errorf("%s: got %q, %v", tc.reason, got, err)
			}
		})
	}
}
