package server

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/api/crds"
	"yunfan.io/yunfan/api/v1alpha1"
)

// ConfigMapName is the ConfigMap in Namespace that tells where the server is: its URL and the CA of its certificate.
const ConfigMapName = "yunfan-server"

// Keys of the ConfigMap.
const (
	KeyURL = "url"
	KeyCA  = "ca"
)

func installScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), apiextensionsv1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("registering kinds: %w", err)
	}
	return scheme, nil
}

// Install brings namespace and kinds to the hub, or to the state of this version, and waits until the hub serves them.
// It may run any number of times, by several replicas at once.
func Install(ctx context.Context, c client.Client) error {
	namespace := map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": Namespace}}
	if err := apply(ctx, c, namespace); err != nil {
		return err
	}
	definitions, err := definitions()
	if err != nil {
		return err
	}
	for _, definition := range definitions {
		if err := apply(ctx, c, definition); err != nil {
			return err
		}
	}
	for _, definition := range definitions {
		u := unstructured.Unstructured{Object: definition}
		if err := waitEstablished(ctx, c, u.GetName()); err != nil {
			return err
		}
	}
	return nil
}

func definitions() ([]map[string]any, error) {
	files, err := crds.Files.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("reading the kinds: %w", err)
	}
	all := make([]map[string]any, 0, len(files))
	for _, file := range files {
		text, err := crds.Files.ReadFile(file.Name())
		if err != nil {
			return nil, fmt.Errorf("reading the kinds: %w", err)
		}
		var definition map[string]any
		if err := yaml.Unmarshal(text, &definition); err != nil {
			return nil, fmt.Errorf("reading the kind in %s: %w", file.Name(), err)
		}
		all = append(all, definition)
	}
	return all, nil
}

// apply is server-side apply: what others added to the object stays, what an older version of ours had goes.
func apply(ctx context.Context, c client.Client, object map[string]any) error {
	u := &unstructured.Unstructured{Object: object}
	if err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(v1alpha1.FieldOwner), client.ForceOwnership); err != nil {
		return fmt.Errorf("installing %s %s on the hub: %w", u.GetKind(), u.GetName(), err)
	}
	return nil
}

func waitEstablished(ctx context.Context, c client.Client, name string) error {
	const interval = 100 * time.Millisecond
	err := wait.PollUntilContextCancel(ctx, interval, true, func(ctx context.Context) (bool, error) {
		definition := &apiextensionsv1.CustomResourceDefinition{}
		if err := c.Get(ctx, client.ObjectKey{Name: name}, definition); err != nil {
			return false, fmt.Errorf("reading the kind %s: %w", name, err)
		}
		for _, condition := range definition.Status.Conditions {
			switch {
			case condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue:
				return true, nil
			case condition.Type == apiextensionsv1.NamesAccepted && condition.Status == apiextensionsv1.ConditionFalse:
				return false, fmt.Errorf("the hub refuses the kind's names: %s", condition.Message)
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("waiting until the hub serves %s: %w", name, err)
	}
	return nil
}

// publish tells the command line where the server is.
func publish(ctx context.Context, c client.Client, address *url.URL, ca []byte) error {
	return apply(ctx, c, map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": ConfigMapName, "namespace": Namespace},
		"data":     map[string]any{KeyURL: address.String(), KeyCA: string(ca)},
	})
}
