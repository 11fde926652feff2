// Package addons puts into every cluster what a normal cluster has: access for kube-proxy and the API server, cluster
// DNS, a default storage class with its provisioner, and metrics. The manifests are applied by server-side apply, so
// doing it again changes nothing.
package addons

import (
	"bytes"
	"context"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"text/template"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"

	"yunfan.io/engine/pki"
)

// Manager owns the fields of what is applied here.
const Manager = "yunfan-engine"

//go:embed *.yaml
var manifests embed.FS

// Values fill the manifests.
type Values struct {
	Gateway      string // address of the host as pods reach it
	RegistryHost string
	DNS          []string // servers for names outside the cluster
	ServiceDNS   string
	Domain       string
	CA           string // base64 of the cluster authority's certificate
	MetricsCert  string // base64 of metrics-server's certificate and key
	MetricsKey   string
}

// ReadCertificates fills the certificate fields.
func (v *Values) ReadCertificates(s pki.Store) error {
	for _, c := range []struct {
		file  string
		field *string
	}{{s.Cert("ca"), &v.CA}, {s.Cert("metrics-server"), &v.MetricsCert}, {s.Key("metrics-server"), &v.MetricsKey}} {
		data, err := os.ReadFile(c.file)
		if err != nil {
			return fmt.Errorf("reading certificates for addons: %w", err)
		}
		*c.field = base64.StdEncoding.EncodeToString(data)
	}
	return nil
}

// always are the manifests for clusters without nodes too.
var always = []string{"rbac.yaml"}

// Objects renders the manifests; onlyControlPlane leaves out everything that would need a node.
func Objects(v Values, onlyControlPlane bool) ([]*unstructured.Unstructured, error) {
	files, err := fs.Glob(manifests, "*.yaml")
	if err != nil {
		return nil, fmt.Errorf("listing addons: %w", err)
	}
	var out []*unstructured.Unstructured
	for _, file := range files {
		if onlyControlPlane && !slices.Contains(always, path.Base(file)) {
			continue
		}
		objects, err := render(file, v)
		if err != nil {
			return nil, fmt.Errorf("rendering addon %s: %w", file, err)
		}
		out = append(out, objects...)
	}
	return out, nil
}

func render(file string, v Values) ([]*unstructured.Unstructured, error) {
	t, err := template.New(file).Option("missingkey=error").ParseFS(manifests, file)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, v); err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	for decoder := yaml.NewYAMLOrJSONDecoder(&text, 4096); ; {
		u := &unstructured.Unstructured{}
		err := decoder.Decode(u)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if len(u.Object) > 0 {
			out = append(out, u)
		}
	}
}

// Apply writes the objects. The order within a file matters (a namespace before its content).
func Apply(ctx context.Context, client dynamic.Interface, objects []*unstructured.Unstructured) error {
	for _, o := range objects {
		gvr, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
		if o.GetKind() == "StorageClass" {
			gvr = schema.GroupVersionResource{Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses"}
		}
		var resource dynamic.ResourceInterface = client.Resource(gvr)
		if o.GetNamespace() != "" {
			resource = client.Resource(gvr).Namespace(o.GetNamespace())
		}
		if _, err := resource.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: Manager, Force: true}); err != nil {
			return fmt.Errorf("applying addon %s %s: %w", strings.ToLower(o.GetKind()), o.GetName(), err)
		}
	}
	return nil
}

var (
	deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	pods        = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
)

// Unavailable names the deployments among the objects that are not available, or whose pods have not been
// ready since their node was started: right after a restart the cluster still believes what it knew before. Metrics are not
// waited for: they need a full collection period after everything else runs.
func Unavailable(ctx context.Context, client dynamic.Interface, objects []*unstructured.Unstructured, since map[string]time.Time) ([]string, error) {
	var out []string
	for _, o := range objects {
		if o.GetKind() != "Deployment" || o.GetName() == "metrics-server" {
			continue
		}
		live, err := client.Resource(deployments).Namespace(o.GetNamespace()).Get(ctx, o.GetName(), metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("reading addon %s: %w", o.GetName(), err)
		}
		labels, _, _ := unstructured.NestedStringMap(live.Object, "spec", "selector", "matchLabels")
		list, err := client.Resource(pods).Namespace(o.GetNamespace()).List(ctx, metav1.ListOptions{LabelSelector: labelSelector(labels)})
		if err != nil {
			return nil, fmt.Errorf("reading pods of addon %s: %w", o.GetName(), err)
		}
		n, _, _ := unstructured.NestedInt64(live.Object, "status", "availableReplicas")
		if n == 0 || slices.ContainsFunc(list.Items, func(p unstructured.Unstructured) bool { return !serves(p, since) }) {
			out = append(out, o.GetName())
		}
	}
	return out, nil
}

func labelSelector(labels map[string]string) string {
	return metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: labels})
}

// serves tells whether all containers of the pod are ready and were started after their node was. Pods on their way out
// do not matter.
func serves(pod unstructured.Unstructured, since map[string]time.Time) bool {
	if pod.GetDeletionTimestamp() != nil {
		return true
	}
	node, _, _ := unstructured.NestedString(pod.Object, "spec", "nodeName")
	containers, _, _ := unstructured.NestedSlice(pod.Object, "status", "containerStatuses")
	return len(containers) > 0 && !slices.ContainsFunc(containers, func(entry any) bool {
		container, _ := entry.(map[string]any)
		ready, _, _ := unstructured.NestedBool(container, "ready")
		text, _, _ := unstructured.NestedString(container, "state", "running", "startedAt")
		started, err := time.Parse(time.RFC3339, text)
		return !ready || err != nil || started.Before(since[node])
	})
}
