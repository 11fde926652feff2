package route

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/route/gateway"
	"yunfan.io/yunfan/internal/traffic"
)

// Traffic answers what is asked of the traffic of Deliveries, from the edges and the gateways.
type Traffic struct {
	hub      client.Reader
	members  member.Lookup
	edges    *Edges
	gateways *gateway.Gateways

	mu sync.Mutex
	// counted are the counters that were given last, to see when some of them are gone.
	counted map[countedKey]*counted
}

var _ traffic.Traffic = (*Traffic)(nil)

type countedKey struct {
	delivery types.UID
	track    v1alpha1.TrackRole
}

type counted struct {
	requests  uint64
	restarted string
	breaks    int
}

// maxCounted bounds what is remembered of counters; what is forgotten costs a gate its present count at worst.
const maxCounted = 10000

// Traffic gives the answers about the traffic of Deliveries. From then on Routes say of gateways, too, whether they serve
// them.
func (r *Routes) Traffic() *Traffic {
	t := newTraffic(r.client, r.members, r.edges, gateway.New(r.client, r.members, r.edges.Carries))
	r.gateways, r.problems = t.routeWaiting, t.Problems
	return t
}

func newTraffic(hub client.Reader, members member.Lookup, edges *Edges, gateways *gateway.Gateways) *Traffic {
	return &Traffic{hub: hub, members: members, edges: edges, gateways: gateways, counted: map[countedKey]*counted{}}
}

// Gateways is what asks the gateways.
func (t *Traffic) Gateways() *gateway.Gateways { return t.gateways }

// scene is where a Delivery gets its requests.
type scene struct {
	partition *v1alpha1.Partition
	cluster   *v1alpha1.Cluster
	// member is nil if it does not answer.
	member *member.Member
}

// routed says whether some Route leads to an application.
func (t *Traffic) routed(ctx context.Context, d *v1alpha1.Delivery) (bool, error) {
	routes := &v1alpha1.RouteList{}
	if err := t.hub.List(ctx, routes, client.InNamespace(d.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("listing routes: %w", err)
	}
	return slices.ContainsFunc(routes.Items, func(r v1alpha1.Route) bool {
		return slices.Contains(applicationsOf(&r), d.Spec.Application)
	}), nil
}

// scene finds the gateways of a Delivery; nil if no Route leads to it, or its cluster has none.
func (t *Traffic) scene(ctx context.Context, d *v1alpha1.Delivery) (*scene, error) {
	if routed, err := t.routed(ctx, d); err != nil || !routed {
		return nil, err
	}
	return t.sceneOf(ctx, client.ObjectKey{Namespace: d.Namespace, Name: d.Spec.Partition})
}

func (t *Traffic) sceneOf(ctx context.Context, key client.ObjectKey) (*scene, error) {
	s := &scene{partition: &v1alpha1.Partition{}, cluster: &v1alpha1.Cluster{}}
	if err := t.hub.Get(ctx, key, s.partition); apierrors.IsNotFound(err) {
		return nil, nil //nolint:nilnil // nothing to be asked
	} else if err != nil {
		return nil, fmt.Errorf("reading partition %s: %w", key.Name, err)
	}
	if err := t.hub.Get(ctx, client.ObjectKey{Name: s.partition.Spec.Cluster}, s.cluster); apierrors.IsNotFound(err) {
		return nil, nil //nolint:nilnil // nothing to be asked
	} else if err != nil {
		return nil, fmt.Errorf("reading cluster %s: %w", s.partition.Spec.Cluster, err)
	}
	if s.cluster.Spec.Gateway.Mode != v1alpha1.GatewayManaged {
		return nil, nil //nolint:nilnil // nothing to be asked
	}
	if m, ok := t.members.Member(s.cluster.Name); ok {
		if answering, _ := m.Answering(); answering {
			s.member = m
		}
	}
	return s, nil
}

func (s *scene) lost() string {
	return fmt.Sprintf("cluster %s does not answer", s.cluster.Name)
}

// Settled says whether every edge and every gateway serves what the Delivery's spec and the Routes want.
func (t *Traffic) Settled(ctx context.Context, d *v1alpha1.Delivery) (waiting string, err error) {
	routed, err := t.routed(ctx, d)
	if err != nil || !routed {
		return "", err
	}
	if waiting := t.edges.Settled(d); waiting != "" {
		return waiting, nil
	}
	s, err := t.scene(ctx, d)
	if err != nil || s == nil {
		return "", err
	}
	if s.member == nil && Closed(d, s.cluster) {
		return "", nil
	}
	return t.waiting(ctx, s, d)
}

// waiting says which gateways do not serve a partition as it should be.
func (t *Traffic) waiting(ctx context.Context, s *scene, newest ...*v1alpha1.Delivery) (string, error) {
	if s.member == nil {
		return s.lost(), nil
	}
	in, err := gateway.ReadInput(ctx, t.hub, s.partition, newest...)
	if err != nil {
		return "", err
	}
	objects, err := gateway.Render(in)
	if err != nil || objects.Marker == nil {
		return "", err
	}
	waiting, err := t.gateways.Waiting(ctx, s.member, s.cluster, s.partition.MemberNamespace(), objects.Generation)
	return s.orLost(waiting, err)
}

// orLost makes of the error of a member that has stopped answering that it does not answer.
func (s *scene) orLost(waiting string, err error) (string, error) {
	if _, lost := errors.AsType[*member.NotAnsweringError](err); lost {
		return s.lost(), nil
	}
	return waiting, err
}

// Reaches says whether every gateway of the Delivery's cluster reaches the components of a track that Routes lead to.
func (t *Traffic) Reaches(ctx context.Context, d *v1alpha1.Delivery, track v1alpha1.TrackRole) (missing string, err error) {
	s, err := t.scene(ctx, d)
	if err != nil || s == nil {
		return "", err
	}
	if s.member == nil {
		return s.lost(), nil
	}
	in, err := gateway.ReadInput(ctx, t.hub, s.partition, d)
	if err != nil {
		return "", err
	}
	var all []string
	for _, component := range in.Components(d.Spec.Application, track) {
		missing, err := s.orLost(t.gateways.Reaches(ctx, s.member, s.partition.MemberNamespace(), d.Spec.Application, component, track))
		if err != nil {
			return "", err
		}
		if missing != "" {
			all = append(all, missing)
		}
	}
	return strings.Join(all, "; "), nil
}

// InFlight counts what is under way to a Delivery.
func (t *Traffic) InFlight(ctx context.Context, d *v1alpha1.Delivery) (traffic.InFlight, error) {
	out := traffic.InFlight{Tracks: map[v1alpha1.TrackRole]int{}}
	routed, err := t.routed(ctx, d)
	if err != nil || !routed {
		return out, err
	}
	out.Edge, _ = t.edges.InFlight(d)
	s, err := t.scene(ctx, d)
	if err != nil || s == nil {
		return out, err
	}
	if s.member == nil {
		return out, fmt.Errorf("counting connections: %s", s.lost())
	}
	connections, err := t.gateways.Connections(ctx, s.member)
	if err != nil {
		return out, fmt.Errorf("counting connections: %w", err)
	}
	in, err := gateway.ReadInput(ctx, t.hub, s.partition, d)
	if err != nil {
		return out, err
	}
	_, pods, err := s.member.NodesAndPods(ctx)
	if err != nil {
		return out, err
	}
	for role, workloads := range in.Workloads(d.Spec.Application) {
		out.Tracks[role] = 0
		for i := range pods {
			if p := &pods[i]; p.Namespace == s.partition.MemberNamespace() && slices.Contains(workloads, p.Labels[v1alpha1.LabelWorkload]) {
				out.Tracks[role] += of(connections, p)
			}
		}
	}
	return out, nil
}

// of gives the connections to a pod.
func of(connections map[string]int, p *corev1.Pod) int {
	n := 0
	for _, ip := range p.Status.PodIPs {
		n += connections[ip.IP]
	}
	if len(p.Status.PodIPs) == 0 {
		n = connections[p.Status.PodIP]
	}
	return n
}

// Sample gives the counters of one track of a Delivery at the gateways.
func (t *Traffic) Sample(ctx context.Context, d *v1alpha1.Delivery, track v1alpha1.TrackRole) (traffic.Sample, error) {
	s, err := t.scene(ctx, d)
	if err != nil || s == nil {
		return traffic.Sample{}, err
	}
	if s.member == nil {
		return traffic.Sample{}, fmt.Errorf("counting requests: %s", s.lost())
	}
	in, err := gateway.ReadInput(ctx, t.hub, s.partition, d)
	if err != nil {
		return traffic.Sample{}, err
	}
	counters, err := t.gateways.Count(ctx, s.member, in, d.Spec.Application, track)
	if err != nil {
		return traffic.Sample{}, fmt.Errorf("counting requests: %w", err)
	}
	out := traffic.Sample{
		Requests: counters.Requests, Failures: counters.Failures, Bounds: counters.Bounds, Slower: counters.Slower, Restarted: counters.Began,
	}
	t.remember(d, track, &out)
	return out, nil
}

// remember tells it as a restart when counters have become less: a gateway forgets those of services that it no longer
// has.
func (t *Traffic) remember(d *v1alpha1.Delivery, track v1alpha1.TrackRole, sample *traffic.Sample) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := countedKey{cmp.Or(d.UID, types.UID(d.Namespace+"/"+d.Name)), track}
	last := t.counted[key]
	if last == nil {
		if len(t.counted) >= maxCounted {
			clear(t.counted)
		}
		last = &counted{}
		t.counted[key] = last
	}
	if sample.Restarted == last.restarted && sample.Requests < last.requests {
		last.breaks++
	}
	last.requests, last.restarted = sample.Requests, sample.Restarted
	if last.breaks > 0 {
		sample.Restarted += fmt.Sprintf("+%d", last.breaks)
	}
}

// routeWaiting says which gateways do not serve a Route as it is.
func (t *Traffic) routeWaiting(ctx context.Context, route *v1alpha1.Route) (string, error) {
	scenes, err := t.scenesOf(ctx, route)
	if err != nil {
		return "", err
	}
	var all []string
	for _, s := range scenes {
		waiting, err := t.waiting(ctx, s)
		if err != nil {
			return "", err
		}
		if waiting != "" && !slices.Contains(all, waiting) {
			all = append(all, waiting)
		}
	}
	return strings.Join(all, "; "), nil
}

// partitionsOf gives the partitions that the applications of a Route are delivered to, in the order of their names.
func (t *Traffic) partitionsOf(ctx context.Context, route *v1alpha1.Route) ([]string, error) {
	deliveries := &v1alpha1.DeliveryList{}
	if err := t.hub.List(ctx, deliveries, client.InNamespace(route.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing deliveries: %w", err)
	}
	var out []string
	for _, application := range applicationsOf(route) {
		for i := range deliveries.Items {
			if d := &deliveries.Items[i]; d.Spec.Application == application {
				out = append(out, d.Spec.Partition)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func (t *Traffic) scenesOf(ctx context.Context, route *v1alpha1.Route) ([]*scene, error) {
	partitions, err := t.partitionsOf(ctx, route)
	if err != nil {
		return nil, err
	}
	var out []*scene
	for _, name := range partitions {
		s, err := t.sceneOf(ctx, client.ObjectKey{Namespace: route.Namespace, Name: name})
		if err != nil {
			return nil, err
		}
		if s != nil {
			out = append(out, s)
		}
	}
	return out, nil
}

// Problems says what of a Route the gateways cannot do, or where there is none, for people.
func (t *Traffic) Problems(ctx context.Context, route *v1alpha1.Route) ([]string, error) {
	out := gateway.Check(route)
	partitions, err := t.partitionsOf(ctx, route)
	if err != nil {
		return nil, err
	}
	for _, name := range partitions {
		p := &v1alpha1.Partition{}
		if err := t.hub.Get(ctx, client.ObjectKey{Namespace: route.Namespace, Name: name}, p); client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("reading partition %s: %w", name, err)
		} else if err != nil {
			continue
		}
		cluster := &v1alpha1.Cluster{}
		if err := t.hub.Get(ctx, client.ObjectKey{Name: p.Spec.Cluster}, cluster); client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("reading cluster %s: %w", p.Spec.Cluster, err)
		} else if err == nil && cluster.Spec.Gateway.Mode != v1alpha1.GatewayManaged {
			out = append(out, fmt.Sprintf("cluster %s of partition %s has no gateway: a platform administrator sets its spec.gateway.mode to Managed", cluster.Name, name))
			continue
		}
		in, err := gateway.ReadInput(ctx, t.hub, p)
		if err != nil {
			return nil, err
		}
		objects, err := gateway.Render(in)
		if err != nil {
			return nil, err
		}
		out = append(out, objects.Problems[route.Name]...)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
