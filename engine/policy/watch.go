package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"yunfan.io/engine/policy/rules"
)

// retrySteps is how often a pause doubles until it is the longest.
const retrySteps = 10

// sink gives what a watch tells to the model, which is all that is kept of it.
type sink[T metav1.Object] struct {
	set    func(T)
	remove func(identity)
	synced func() // once, when everything there is was told

	mu   sync.Mutex
	seen map[string]identity // by UID
	once sync.Once
}

type identity struct{ uid, namespace, name string }

func identityOf(o metav1.Object) identity {
	return identity{string(o.GetUID()), o.GetNamespace(), o.GetName()}
}

func (s *sink[T]) put(object any) error {
	o, ok := object.(T)
	if !ok {
		return fmt.Errorf("watching: %T was not asked for", object)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[string(o.GetUID())] = identityOf(o)
	s.set(o)
	return nil
}

// Add implements cache.ReflectorStore.
func (s *sink[T]) Add(object any) error { return s.put(object) }

// Update implements cache.ReflectorStore.
func (s *sink[T]) Update(object any) error { return s.put(object) }

// Delete implements cache.ReflectorStore.
func (s *sink[T]) Delete(object any) error {
	o, ok := object.(T)
	if !ok {
		return fmt.Errorf("watching: %T was not asked for", object)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.seen, string(o.GetUID()))
	s.remove(identityOf(o))
	return nil
}

// Replace implements cache.ReflectorStore: what is not in the list is gone.
func (s *sink[T]) Replace(list []any, _ string) error {
	present := map[string]bool{}
	for _, object := range list {
		if o, ok := object.(T); ok {
			present[string(o.GetUID())] = true
		}
	}
	s.mu.Lock()
	for uid, o := range s.seen {
		if !present[uid] {
			delete(s.seen, uid)
			s.remove(o)
		}
	}
	s.mu.Unlock()
	for _, object := range list {
		if err := s.put(object); err != nil {
			return err
		}
	}
	s.once.Do(s.synced)
	return nil
}

// Resync implements cache.ReflectorStore.
func (s *sink[T]) Resync() error { return nil }

func newSink[T metav1.Object](set func(T), remove func(identity), synced func()) *sink[T] {
	return &sink[T]{set: set, remove: remove, synced: synced, seen: map[string]identity{}}
}

// watch keeps the model up to date until the context ends. The function it returns waits until everything was told once.
func watch(ctx context.Context, kubeconfig string, model *rules.Model, log *slog.Logger) (synced func(context.Context) error, err error) {
	core, networking, err := clients(kubeconfig)
	if err != nil {
		return nil, err
	}
	var told sync.WaitGroup
	told.Add(3)
	pods := newSink(func(p *corev1.Pod) { model.SetPod(podOf(p)) }, func(i identity) { model.DeletePod(i.uid) }, told.Done)
	namespaces := newSink(func(n *corev1.Namespace) { model.SetNamespace(n.Name, n.Labels) },
		func(i identity) { model.DeleteNamespace(i.name) }, told.Done)
	policies := newSink(func(p *networkingv1.NetworkPolicy) {
		if err := model.SetPolicy(p); err != nil {
			log.Warn("part of a policy allows nothing", "error", err)
		}
	}, func(i identity) { model.DeletePolicy(i.namespace, i.name) }, told.Done)
	// Pods that have ended have no address any more; for a watch they are deleted.
	living := fields.ParseSelectorOrDie("status.phase!=Succeeded,status.phase!=Failed")
	for _, r := range []*cache.Reflector{
		reflector(core, "namespaces", fields.Everything(), &corev1.Namespace{}, namespaces),
		reflector(networking, "networkpolicies", fields.Everything(), &networkingv1.NetworkPolicy{}, policies),
		reflector(core, "pods", living, &corev1.Pod{}, pods),
	} {
		go r.RunWithContext(ctx)
	}
	return func(ctx context.Context) error {
		done := make(chan struct{})
		go func() {
			told.Wait()
			close(done)
		}()
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}, nil
}

func reflector(client rest.Interface, resource string, which fields.Selector, kind runtime.Object, store cache.ReflectorStore) *cache.Reflector {
	return cache.NewReflectorWithOptions(cache.NewListWatchFromClient(client, resource, metav1.NamespaceAll, which), kind, store,
		cache.ReflectorOptions{Name: resource, Backoff: &wait.Backoff{Duration: firstPause, Factor: 2, Jitter: 1, Steps: retrySteps, Cap: maxPause}})
}

// clients know the kinds that are watched and no others, which saves memory, and speak protobuf.
func clients(kubeconfig string) (core, networking rest.Interface, err error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, nil, fmt.Errorf("reading kubeconfig: %w", err)
	}
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Pod{}, &corev1.PodList{}, &corev1.Namespace{}, &corev1.NamespaceList{})
	scheme.AddKnownTypes(networkingv1.SchemeGroupVersion, &networkingv1.NetworkPolicy{}, &networkingv1.NetworkPolicyList{})
	for _, gv := range []schema.GroupVersion{corev1.SchemeGroupVersion, networkingv1.SchemeGroupVersion} {
		metav1.AddToGroupVersion(scheme, gv)
	}
	config.ContentType = runtime.ContentTypeProtobuf
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.UserAgent = "yunfan-policy"
	dial := func(gv schema.GroupVersion, path string) (rest.Interface, error) {
		c := rest.CopyConfig(config)
		c.GroupVersion, c.APIPath = &gv, path
		client, err := rest.RESTClientFor(c)
		if err != nil {
			return nil, fmt.Errorf("making the API client: %w", err)
		}
		return client, nil
	}
	if core, err = dial(corev1.SchemeGroupVersion, "/api"); err != nil {
		return nil, nil, err
	}
	networking, err = dial(networkingv1.SchemeGroupVersion, "/apis")
	return core, networking, err
}

// podOf takes from a pod what rules depend on.
func podOf(p *corev1.Pod) rules.Pod {
	out := rules.Pod{
		UID: string(p.UID), Namespace: p.Namespace, Name: p.Name, Node: p.Spec.NodeName, Labels: p.Labels,
		Created: p.CreationTimestamp.Time, HostNetwork: p.Spec.HostNetwork,
	}
	// Unspecified or of another family: no address that rules could name.
	out.Address, _ = netip.ParseAddr(p.Status.PodIP)
	containers := p.Spec.Containers
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(slices.Clip(containers), c)
		}
	}
	for _, c := range containers {
		for _, port := range c.Ports {
			if port.Name != "" {
				out.Ports = append(out.Ports, rules.Port{Name: port.Name, Protocol: port.Protocol, Number: port.ContainerPort})
			}
		}
	}
	return out
}
