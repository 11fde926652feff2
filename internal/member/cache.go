package member

import (
	"net/http"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"yunfan.io/yunfan/api/v1alpha1"
)

func newCache(config *rest.Config, httpClient *http.Client, mapper meta.RESTMapper) (cache.Cache, error) {
	ours, err := labels.NewRequirement(v1alpha1.LabelPartition, selection.Exists, nil)
	if err != nil {
		return nil, err
	}
	return cache.New(config, cache.Options{
		HTTPClient:           httpClient,
		Scheme:               scheme.Scheme,
		Mapper:               mapper,
		DefaultLabelSelector: labels.NewSelector().Add(*ours),
		DefaultTransform:     slim,
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:  {Label: labels.Everything(), Transform: slim},
			&corev1.Node{}: {Label: labels.Everything(), Transform: slim},
			// Services that are not ours have node ports too.
			&corev1.Service{}: {Label: labels.Everything(), Transform: slim},
		},
	})
}

// mapper knows beforehand the kinds that the cache asks for before the member has ever answered.
type mapper struct {
	meta.RESTMapper
	known meta.RESTMapper
}

func newMapper(config *rest.Config, httpClient *http.Client) (meta.RESTMapper, error) {
	dynamic, err := apiutil.NewDynamicRESTMapper(config, httpClient)
	if err != nil {
		return nil, err
	}
	known := meta.NewDefaultRESTMapper(nil)
	known.Add(corev1.SchemeGroupVersion.WithKind("Pod"), meta.RESTScopeNamespace)
	known.Add(corev1.SchemeGroupVersion.WithKind("Service"), meta.RESTScopeNamespace)
	known.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	return &mapper{RESTMapper: dynamic, known: known}, nil
}

// RESTMapping gives the resource of a kind.
func (m *mapper) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	if mapping, err := m.known.RESTMapping(kind, versions...); err == nil {
		return mapping, nil
	}
	return m.RESTMapper.RESTMapping(kind, versions...)
}

// slim cuts an object down to what controllers and lists look at, before the cache keeps it.
func slim(in any) (any, error) {
	if object, err := meta.Accessor(in); err == nil {
		object.SetManagedFields(nil)
	}
	switch o := in.(type) {
	case *corev1.Pod:
		return slimPod(o), nil
	case *corev1.Node:
		o.Annotations = nil
		o.Status.Images = nil
		o.Status.VolumesAttached = nil
		o.Status.VolumesInUse = nil
	case *corev1.Secret:
		o.Data = nil
	case *corev1.ConfigMap:
		o.Data, o.BinaryData = nil, nil
	case *unstructured.Unstructured:
		if kind := o.GroupVersionKind(); kind.Group == "" && (kind.Kind == "Secret" || kind.Kind == "ConfigMap") {
			delete(o.Object, "data")
			delete(o.Object, "binaryData")
		}
	}
	return in, nil
}

// slimPod keeps of a pod who made it, where it runs, what it asks for and how it is; of pods that are neither
// delivered by us nor gateways only what counts for the free capacity.
func slimPod(p *corev1.Pod) *corev1.Pod {
	out := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: p.Name, Namespace: p.Namespace, UID: p.UID, ResourceVersion: p.ResourceVersion, Labels: p.Labels,
			OwnerReferences: p.OwnerReferences, CreationTimestamp: p.CreationTimestamp, DeletionTimestamp: p.DeletionTimestamp,
			DeletionGracePeriodSeconds: p.DeletionGracePeriodSeconds,
		},
		Spec: corev1.PodSpec{
			NodeName: p.Spec.NodeName, NodeSelector: p.Spec.NodeSelector, Overhead: p.Spec.Overhead, Resources: p.Spec.Resources,
			Containers: slimContainers(p.Spec.Containers), InitContainers: slimContainers(p.Spec.InitContainers),
		},
		Status: p.Status,
	}
	if _, ours := p.Labels[v1alpha1.LabelPartition]; !ours && p.Namespace != v1alpha1.GatewayNamespace {
		out.Labels, out.Spec.NodeSelector = nil, nil
		out.Status = corev1.PodStatus{Phase: p.Status.Phase, Reason: p.Status.Reason}
	}
	return out
}

func slimContainers(in []corev1.Container) []corev1.Container {
	out := make([]corev1.Container, len(in))
	for i, c := range in {
		out[i] = corev1.Container{
			Name: c.Name, Image: c.Image, Resources: c.Resources, RestartPolicy: c.RestartPolicy,
			ReadinessProbe: c.ReadinessProbe, StartupProbe: c.StartupProbe, // a status says which of them fails
		}
	}
	return out
}
