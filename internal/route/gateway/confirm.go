package gateway

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
)

// Gateways knows what the gateways of members serve.
type Gateways struct {
	hub     client.Reader
	members member.Lookup
	asker   *Asker
	// carries says whether an edge may send something to the gateway at an address: others are not waited for.
	carries func(address string) bool
}

// New makes what asks the gateways of members. Carries says whether an edge may send something to the gateway at an
// address, such as 192.0.2.7:30080; nil if all count.
func New(hub client.Reader, members member.Lookup, carries func(address string) bool) *Gateways {
	return &Gateways{hub: hub, members: members, asker: NewAsker(DefaultPorts), carries: carries}
}

// With gives the same for gateways that answer at other ports.
func (g *Gateways) With(ports Ports) *Gateways {
	out := *g
	out.asker = NewAsker(ports)
	return &out
}

// gateways of a cluster that are waited for, with the nodes they are named by.
func (g *Gateways) gateways(ctx context.Context, m *member.Member, cluster *v1alpha1.Cluster) ([]*corev1.Pod, error) {
	pods, err := Pods(ctx, m)
	if err != nil || g.carries == nil {
		return pods, err
	}
	addresses := map[string]string{}
	for _, replica := range cluster.Status.Gateways {
		addresses[replica.Node] = replica.Address
	}
	var out []*corev1.Pod
	for _, p := range pods {
		// One whose address is not known yet may get requests any moment.
		if address := addresses[p.Spec.NodeName]; address == "" || g.carries(address) {
			out = append(out, p)
		}
	}
	return out, nil
}

// Waiting says which gateways of a cluster do not serve a namespace as it should be; empty if all do.
func (g *Gateways) Waiting(ctx context.Context, m *member.Member, cluster *v1alpha1.Cluster, namespace, generation string) (string, error) {
	return g.waiting(ctx, m, cluster, MarkerPath(namespace), "g-", generation)
}

func (g *Gateways) waiting(ctx context.Context, m *member.Member, cluster *v1alpha1.Cluster, path, prefix, generation string) (string, error) {
	pods, err := g.gateways(ctx, m, cluster)
	if err != nil {
		return "", err
	}
	var late []string
	for i, answer := range g.asker.Ask(ctx, m, pods, g.asker.ports.Web, path, nil) {
		if answer.generation(prefix) != generation {
			late = append(late, fmt.Sprintf("gateway %s/%s %s", m.Name, pods[i].Spec.NodeName, answer.describe()))
		}
	}
	return strings.Join(late, "; "), nil
}

// Reaches says which gateways of a cluster do not reach a component of a track; empty if all do. Each of them is asked,
// carried or not: those that carry nothing now may be the ones that do in a moment.
func (g *Gateways) Reaches(ctx context.Context, m *member.Member, namespace, application, component string, track v1alpha1.TrackRole) (string, error) {
	pods, err := Pods(ctx, m)
	if err != nil {
		return "", err
	}
	if len(pods) == 0 {
		return fmt.Sprintf("no gateway of cluster %s is ready", m.Name), nil
	}
	var missing []string
	header := http.Header{HeaderProbe: {namespace}}
	path := ProbePath(namespace, application, component, track)
	for i, answer := range g.asker.Ask(ctx, m, pods, g.asker.ports.Web, path, header) {
		where := fmt.Sprintf("gateway %s/%s to component %s", m.Name, pods[i].Spec.NodeName, component)
		switch {
		case answer.Err != nil:
			missing = append(missing, where+": "+answer.Err.Error())
		case answer.Header.Get(HeaderReached) != namespace:
			missing = append(missing, where+": the gateway does not know the way yet")
		case answer.Status == http.StatusBadGateway, answer.Status == http.StatusServiceUnavailable, answer.Status == http.StatusGatewayTimeout:
			missing = append(missing, fmt.Sprintf("%s: status %d", where, answer.Status))
		}
	}
	return strings.Join(missing, "; "), nil
}
