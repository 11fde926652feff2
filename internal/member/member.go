// Package member is how the platform's controllers work with one joined cluster: its clients, its cache, whether it
// answers, and the controllers that run for it alone. One slow or dead member costs only its own rows, so nothing here
// is shared between members: each has its own connections, timeouts, cache and queues.
package member

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
	"k8s.io/client-go/util/connrotation"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Member is one joined cluster.
type Member struct {
	// Name of the Cluster object.
	Name string
	// Config of the platform's own identity there. Requests have a timeout of a few seconds, watches none.
	Config *rest.Config
	// Client of the platform's own identity, not cached. It never writes a tenant's objects.
	Client client.Client
	// Cache holds what the platform looks at in the member: nodes, pods (cut down to what is used), and every other
	// kind as far as it carries the label yunfan.io/partition, ConfigMaps and Secrets without their contents. While
	// the member does not answer it keeps what was last seen.
	Cache cache.Cache

	connections *connrotation.Dialer
	http        http.RoundTripper
	mapper      meta.RESTMapper
	health      health
	probe       *prober

	mu          sync.Mutex
	identities  map[string]client.Client
	subscribers []chan event.GenericEvent
}

// New makes a member from a kubeconfig's content. Nothing is sent to it before Run.
func New(name string, config *rest.Config) (*Member, error) {
	m := &Member{Name: name, identities: map[string]client.Client{}, connections: connrotation.NewDialer(dial)}
	m.health.init()

	base := rest.CopyConfig(config)
	base.QPS = -1
	base.UserAgent = "yunfan"
	base.WarningHandlerWithContext = warnings{}
	base.Dial = m.connections.DialContext
	shared, err := rest.HTTPClientFor(base)
	if err != nil {
		return nil, fmt.Errorf("making connections to cluster %s: %w", name, err)
	}
	m.http = &prompt{next: shared.Transport, member: m}
	m.Config = rest.CopyConfig(base)
	m.Config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &prompt{next: next, member: m} })

	if m.mapper, err = newMapper(base, &http.Client{Transport: m.http}); err != nil {
		return nil, fmt.Errorf("making the REST mapper of cluster %s: %w", name, err)
	}
	if m.Client, err = m.client(m.http); err != nil {
		return nil, err
	}
	patient := &http.Client{Transport: &patient{next: shared.Transport, member: m}}
	if m.Cache, err = newCache(m.Config, patient, m.mapper); err != nil {
		return nil, fmt.Errorf("making the cache of cluster %s: %w", name, err)
	}
	if m.probe, err = newProber(config); err != nil {
		return nil, fmt.Errorf("making the probe of cluster %s: %w", name, err)
	}
	return m, nil
}

// Run probes the member until ctx ends.
func (m *Member) Run(ctx context.Context) {
	defer m.connections.CloseAll()
	m.probe.run(ctx, m)
}

func (m *Member) client(rt http.RoundTripper) (client.Client, error) {
	c, err := client.New(m.Config, client.Options{
		HTTPClient: &http.Client{Transport: rt}, Scheme: scheme.Scheme, Mapper: m.mapper,
	})
	if err != nil {
		return nil, fmt.Errorf("making a client of cluster %s: %w", m.Name, err)
	}
	return c, nil
}

// As gives a client that acts as the delivery service account of a namespace: it may do there what the partition may,
// and nothing anywhere else. Clients are kept, one per namespace, until the member is removed.
func (m *Member) As(namespace string) (client.Client, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok := m.identities[namespace]; ok {
		return c, nil
	}
	c, err := m.client(m.impersonating(namespace))
	if err != nil {
		return nil, err
	}
	m.identities[namespace] = c
	return c, nil
}

// LogsAs reads the log of a container as the delivery service account of a namespace.
func (m *Member) LogsAs(ctx context.Context, namespace, pod string, options *corev1.PodLogOptions) (io.ReadCloser, error) {
	clientset, err := kubernetes.NewForConfigAndClient(m.Config, &http.Client{Transport: m.impersonating(namespace)})
	if err != nil {
		return nil, fmt.Errorf("making a client of cluster %s: %w", m.Name, err)
	}
	return clientset.CoreV1().Pods(namespace).GetLogs(pod, options).Stream(ctx)
}

func (m *Member) impersonating(namespace string) http.RoundTripper {
	user := fmt.Sprintf("system:serviceaccount:%s:%s", namespace, v1alpha1.DeliveryServiceAccount)
	return transport.NewImpersonatingRoundTripper(transport.ImpersonationConfig{UserName: user}, m.http)
}

// Answering says whether the member answered its last probe, and when it last did.
func (m *Member) Answering() (bool, time.Time) {
	s := m.health.get()
	return s.Answering, s.LastSeen
}

// State is everything known from the probes.
func (m *Member) State() State { return m.health.get() }

// Suspend ends the use of the member: it counts as not answering, for the reason given, whatever it answers. Its
// probes must have ended.
func (m *Member) Suspend(reason, message string) {
	m.observe(func(s *State) { s.Answering, s.Reason, s.Message = false, reason, message })
}

// Subscribe gives a channel of events, one each time the member starts or stops answering, for source.Channel. Events
// that are not taken in time are one.
func (m *Member) Subscribe() <-chan event.GenericEvent {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := make(chan event.GenericEvent, 1)
	m.subscribers = append(m.subscribers, c)
	return c
}

// observe changes the state and tells the subscribers if the member started or stopped answering, or does not answer
// for another reason.
func (m *Member) observe(change func(*State)) {
	before, after := m.health.update(change)
	if before.Answering && !after.Answering {
		// What waits on these connections would wait for minutes.
		m.connections.CloseAll()
	}
	if before.Answering == after.Answering && before.Reason == after.Reason && before.UID == after.UID && before.Version == after.Version {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.subscribers {
		notify(s, m.Name)
	}
}

func notify(c chan<- event.GenericEvent, cluster string) {
	e := event.GenericEvent{Object: &v1alpha1.Cluster{}}
	e.Object.SetName(cluster)
	select {
	case c <- e:
	default: // One is waiting already: whoever takes it sees the newest state.
	}
}

// Lookup finds a joined member; false if there is none of that name or it has never answered.
type Lookup interface {
	Member(name string) (*Member, bool)
}

// NodesAndPods gives all nodes and all pods of the cache. They are shared: never change them.
func (m *Member) NodesAndPods(ctx context.Context) ([]corev1.Node, []corev1.Pod, error) {
	var nodes corev1.NodeList
	var pods corev1.PodList
	if err := m.Cache.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return nil, nil, fmt.Errorf("listing nodes of cluster %s: %w", m.Name, err)
	}
	if err := m.Cache.List(ctx, &pods, client.UnsafeDisableDeepCopy); err != nil {
		return nil, nil, fmt.Errorf("listing pods of cluster %s: %w", m.Name, err)
	}
	return nodes.Items, pods.Items, nil
}
