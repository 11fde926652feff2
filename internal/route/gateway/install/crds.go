package install

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/internal/reconcile"
)

// upstream are the definitions of the kinds that Traefik reads, of the Gateway API and its own, without descriptions: they
// are made from the modules that Traefik is built with, see TestDefinitions.
//
//go:embed crds/*.yaml
var upstream embed.FS

// annotationBundle tells for which version of Traefik we made a definition. Those without it are somebody else's.
const annotationBundle = "yunfan.io/gateway-definitions"

// bundle is the version of the definitions.
const bundle = "traefik-v3.7.13"

var definitions = sync.OnceValues(func() ([]*unstructured.Unstructured, error) {
	files, err := fs.Glob(upstream, "crds/*.yaml")
	if err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	for _, file := range files {
		data, err := upstream.ReadFile(file)
		if err != nil {
			return nil, err
		}
		all, err := parse(data)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		out = append(out, all...)
	}
	return out, nil
})

// parse reads definitions.
func parse(data []byte) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := decoder.Decode(&o.Object); err == io.EOF { //nolint:errorlint // the decoder gives it as it is
			return out, nil
		} else if err != nil {
			return nil, err
		}
		if o.GetKind() == "CustomResourceDefinition" {
			out = append(out, o)
		}
	}
}

// define applies the definitions that the member lacks, or has of another version of ours. Those of somebody else stay as
// they are: other gateways work with them.
func (r *reconciler) define(ctx context.Context) error {
	all, err := definitions()
	if err != nil {
		return err
	}
	for _, definition := range all {
		have := &metav1.PartialObjectMetadata{}
		have.SetGroupVersionKind(definition.GroupVersionKind())
		err := r.member.Client.Get(ctx, client.ObjectKeyFromObject(definition), have)
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("looking for the definition %s: %w", definition.GetName(), err)
		}
		if of, ours := have.Annotations[annotationBundle]; err == nil && (!ours || of == bundle) {
			continue
		}
		wanted := definition.DeepCopy()
		annotations := wanted.GetAnnotations()
		annotations[annotationBundle] = bundle
		wanted.SetAnnotations(annotations)
		if _, err := reconcile.Apply(ctx, r.member.Client, wanted); err != nil {
			return err
		}
	}
	return nil
}
