package gateway

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// ReadInput reads what the objects of a partition are made from. Of Deliveries that are given, the newer one counts: the
// hub's cache may be behind those who have just written one.
func ReadInput(ctx context.Context, hub client.Reader, p *v1alpha1.Partition, given ...*v1alpha1.Delivery) (*Input, error) {
	in := &Input{Partition: p, Applications: map[string]*Application{}}
	routes := &v1alpha1.RouteList{}
	if err := hub.List(ctx, routes, client.InNamespace(p.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	for i := range routes.Items {
		in.Routes = append(in.Routes, &routes.Items[i])
	}
	slices.SortFunc(in.Routes, func(a, b *v1alpha1.Route) int { return strings.Compare(a.Name, b.Name) })
	if len(in.Routes) == 0 {
		return in, nil
	}
	deliveries := &v1alpha1.DeliveryList{}
	if err := hub.List(ctx, deliveries, client.InNamespace(p.Namespace), client.MatchingLabels{v1alpha1.LabelPartition: p.Name}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing deliveries: %w", err)
	}
	newest := map[string]*v1alpha1.Delivery{}
	for i := range deliveries.Items {
		newest[deliveries.Items[i].Spec.Application] = &deliveries.Items[i]
	}
	for _, d := range given {
		if have := newest[d.Spec.Application]; d.Spec.Partition == p.Name && (have == nil || have.Generation < d.Generation) {
			newest[d.Spec.Application] = d
		}
	}
	for name, d := range newest {
		if !routed(in.Routes, name) {
			continue
		}
		a, err := readApplication(ctx, hub, d)
		if err != nil {
			return nil, err
		}
		in.Applications[name] = a
	}
	return in, nil
}

// routed says whether some Route leads to an application.
func routed(routes []*v1alpha1.Route, application string) bool {
	return slices.ContainsFunc(routes, func(r *v1alpha1.Route) bool { return leads(r, application) })
}

func leads(route *v1alpha1.Route, application string) bool {
	return slices.ContainsFunc(route.Spec.Rules, func(rule v1alpha1.RouteRule) bool {
		return len(rule.Backends) > 0 && rule.Backends[0].Application == application
	})
}

// readApplication reads the components of a Delivery's tracks. A revision that is not there yet has none.
func readApplication(ctx context.Context, hub client.Reader, d *v1alpha1.Delivery) (*Application, error) {
	a := &Application{Delivery: d, Components: map[v1alpha1.TrackRole]map[string]*v1alpha1.Component{}}
	for i := range d.Spec.Tracks {
		track := &d.Spec.Tracks[i]
		revision := &v1alpha1.ApplicationRevision{}
		err := hub.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: track.Revision}, revision, client.UnsafeDisableDeepCopy)
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("reading revision %s: %w", track.Revision, err)
		}
		components := map[string]*v1alpha1.Component{}
		for j := range revision.Spec.Components {
			components[revision.Spec.Components[j].Name] = &revision.Spec.Components[j]
		}
		a.Components[track.Role] = components
	}
	return a, nil
}
