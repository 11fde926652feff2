package manifest

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// GoverningService is the name of the headless service that gives each pod of a StatefulSet a name of its own.
func GoverningService(component string) string { return component + "-pods" }

// services lead to a component. Its own name leads to the stable track, so a candidate has it only for what is new; a track
// with a suffix has one besides that leads to it.
func (r *renderer) services(c *v1alpha1.Component, override v1alpha1.Override) ([]client.Object, error) {
	var out []client.Object
	if c.Workload == v1alpha1.WorkloadStatefulSet && !r.lent(c) {
		out = append(out, r.governing(c))
	}
	if c.Service == nil {
		return out, nil
	}
	var services []*corev1.Service
	if r.Beside == nil || r.Beside.component(c.Name) == nil {
		services = append(services, r.service(c, override))
	}
	if name := r.Track.ServiceName(c.Name); name != c.Name {
		services = append(services, r.inner(c, name))
	}
	for _, service := range services {
		out = append(out, service)
		if c.Workload != v1alpha1.WorkloadExternal {
			continue
		}
		service.Spec.Selector = nil
		slices, err := r.endpointSlices(c, service.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, slices...)
	}
	return out, nil
}

// inner is the service of a track with a suffix: gateways send the track's requests to it.
func (r *renderer) inner(c *v1alpha1.Component, name string) *corev1.Service {
	spec := corev1.ServiceSpec{Selector: r.podSelector(c)}
	for _, p := range c.Service.Ports {
		spec.Ports = append(spec.Ports, servicePort(p))
	}
	return &corev1.Service{TypeMeta: coreService, ObjectMeta: r.meta(name, r.labels(c.Name)), Spec: spec}
}

func servicePort(p v1alpha1.ServicePort) corev1.ServicePort {
	port := corev1.ServicePort{Name: p.Name, Port: p.Port, Protocol: protocol(p), TargetPort: intstr.FromInt32(p.Port)}
	if p.TargetPort != nil {
		port.TargetPort = *p.TargetPort
	}
	return port
}

// service is the component's own, at which everybody reaches it.
func (r *renderer) service(c *v1alpha1.Component, override v1alpha1.Override) *corev1.Service {
	spec := corev1.ServiceSpec{
		Type: c.Service.Type, SessionAffinity: c.Service.SessionAffinity, Selector: r.podSelector(c), ExternalIPs: c.Service.ExternalIPs,
	}
	if len(override.ExternalIPs) > 0 {
		spec.ExternalIPs = override.ExternalIPs
	}
	if c.Service.Headless {
		spec.ClusterIP = corev1.ClusterIPNone
	}
	for _, p := range c.Service.Ports {
		port := servicePort(p)
		port.NodePort = p.NodePort
		if own, ok := override.NodePorts[p.Name]; ok {
			port.NodePort = own
		}
		spec.Ports = append(spec.Ports, port)
	}
	return &corev1.Service{TypeMeta: coreService, ObjectMeta: r.meta(c.Name, r.labels(c.Name)), Spec: spec}
}

var coreService = metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}

// podSelector chooses the pods of one workload object: another track's must not get these requests. A Job has another
// name in each revision, so its pods are chosen by component.
func (r *renderer) podSelector(c *v1alpha1.Component) map[string]string {
	if c.Workload == v1alpha1.WorkloadJob {
		return map[string]string{v1alpha1.LabelApplication: r.Revision.Spec.Application, v1alpha1.LabelComponent: c.Name}
	}
	track := &r.Track
	if r.lent(c) {
		if stable := r.Beside.component(c.Name); stable != nil {
			track, c = &r.Beside.Track, stable
		}
	}
	return map[string]string{v1alpha1.LabelWorkload: track.WorkloadName(c)}
}

// governing publishes pods before they are ready: members of a set find each other while they start.
func (r *renderer) governing(c *v1alpha1.Component) *corev1.Service {
	return &corev1.Service{TypeMeta: coreService, ObjectMeta: r.meta(GoverningService(c.Name), r.labels(c.Name)), Spec: corev1.ServiceSpec{
		ClusterIP: corev1.ClusterIPNone, PublishNotReadyAddresses: true, Selector: r.podSelector(c),
	}}
}

// endpointSlices are where a service of an External component leads: one slice for each family of addresses.
func (r *renderer) endpointSlices(c *v1alpha1.Component, service string) ([]client.Object, error) {
	ports, err := endpointPorts(c.Service.Ports)
	if err != nil {
		return nil, err
	}
	families := map[discoveryv1.AddressType][]string{}
	for _, address := range c.External.Addresses {
		ip, err := netip.ParseAddr(address)
		if err != nil {
			return nil, fmt.Errorf("reading address %q: %w", address, err)
		}
		family := discoveryv1.AddressTypeIPv6
		if ip.Is4() {
			family = discoveryv1.AddressTypeIPv4
		}
		families[family] = append(families[family], address)
	}
	ready := true
	var out []client.Object
	for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		if len(families[family]) == 0 {
			continue
		}
		labels := r.labels(c.Name)
		labels[discoveryv1.LabelServiceName] = service
		labels[discoveryv1.LabelManagedBy] = v1alpha1.FieldOwner // else the cluster's own controller would remove it
		name := service
		if family == discoveryv1.AddressTypeIPv6 {
			name += "-ipv6"
		}
		slice := &discoveryv1.EndpointSlice{
			TypeMeta:   metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
			ObjectMeta: r.meta(name, labels), AddressType: family, Ports: ports,
		}
		for _, address := range families[family] {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			})
		}
		out = append(out, slice)
	}
	return out, nil
}

func endpointPorts(ports []v1alpha1.ServicePort) ([]discoveryv1.EndpointPort, error) {
	out := make([]discoveryv1.EndpointPort, 0, len(ports))
	for _, p := range ports {
		number, kind := p.Port, protocol(p)
		if p.TargetPort != nil {
			if p.TargetPort.Type == intstr.String {
				return nil, fmt.Errorf("target port %q of an External component must be a number: there is no pod that could name it", p.TargetPort.StrVal)
			}
			number = p.TargetPort.IntVal
		}
		out = append(out, discoveryv1.EndpointPort{Name: &p.Name, Port: &number, Protocol: &kind})
	}
	return out, nil
}

func protocol(p v1alpha1.ServicePort) corev1.Protocol {
	if p.Protocol == "" {
		return corev1.ProtocolTCP
	}
	return p.Protocol
}
