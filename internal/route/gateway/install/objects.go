package install

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// roleName is that of the ClusterRole and of its binding.
const roleName = "yunfan-gateway"

var (
	managed   = map[string]string{"app.kubernetes.io/managed-by": "yunfan"}
	podLabels = map[string]string{"app.kubernetes.io/name": "yunfan-gateway"}
)

func named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: v1alpha1.GatewayNamespace, Name: name, Labels: managed}
}

// objects are what a member needs for the gateway, but the custom resources, which need their definitions first.
func objects(cluster *v1alpha1.Cluster) []client.Object {
	return []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.GatewayNamespace, Labels: map[string]string{
			"app.kubernetes.io/managed-by": "yunfan", "pod-security.kubernetes.io/enforce": "restricted",
		}}},
		&corev1.ServiceAccount{ObjectMeta: named(v1alpha1.GatewayName), AutomountServiceAccountToken: new(false)},
		role(),
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: roleName, Labels: managed},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: roleName},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: v1alpha1.GatewayNamespace, Name: v1alpha1.GatewayName}},
		},
		policy(&cluster.Status.Network),
		&corev1.Service{ObjectMeta: named(v1alpha1.GatewayName), Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, Selector: podLabels,
			// So that <node>:<port> is the gateway of that node, and it sees who sends.
			ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
			Ports: []corev1.ServicePort{{
				Name: "web", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromString("web"), NodePort: cluster.Spec.Gateway.Port(),
			}},
		}},
		daemonSet(&cluster.Spec.Gateway),
	}
}

// role is what Traefik's two providers read, and the status that they write. They do not start without Secrets and
// ConfigMaps of all namespaces, though none of the platform's objects names one.
func role() *rbacv1.ClusterRole {
	read := []string{"get", "list", "watch"}
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: roleName, Labels: managed}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"namespaces", "nodes", "services", "secrets", "configmaps"}, Verbs: read},
		{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: read},
		{APIGroups: []string{"gateway.networking.k8s.io"}, Verbs: read, Resources: []string{
			"gatewayclasses", "gateways", "httproutes", "grpcroutes", "tlsroutes", "referencegrants", "backendtlspolicies",
		}},
		{APIGroups: []string{"gateway.networking.k8s.io"}, Verbs: []string{"update"}, Resources: []string{
			"gatewayclasses/status", "gateways/status", "httproutes/status", "grpcroutes/status", "tlsroutes/status", "backendtlspolicies/status",
		}},
		{APIGroups: []string{"traefik.io"}, Verbs: read, Resources: []string{
			"ingressroutes", "ingressroutetcps", "ingressrouteudps", "middlewares", "middlewaretcps", "serverstransports", "serverstransporttcps",
			"tlsoptions", "tlsstores", "traefikservices",
		}},
	}}
}

// policy keeps pods away from the gateway: it would bring them to pods that they may not reach, and its API tells of
// all tenants. What is outside the cluster comes through the node port, to one port only. Where the pods' addresses are
// not known everybody is let in there, and nodes only to the rest.
func policy(network *v1alpha1.ClusterNetwork) *networkingv1.NetworkPolicy {
	outside := []networkingv1.NetworkPolicyPeer{except("0.0.0.0/0", network.Pods, false), except("::/0", network.Pods, true)}
	rules := []networkingv1.NetworkPolicyIngressRule{{From: outside, Ports: ports(webPort, internalPort, gaugePort)}}
	if len(network.Pods) == 0 {
		rules[0].Ports = ports(webPort)
		var nodes []networkingv1.NetworkPolicyPeer
		for _, cidr := range network.Nodes {
			nodes = append(nodes, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: cidr}})
		}
		if len(nodes) > 0 {
			rules = append(rules, networkingv1.NetworkPolicyIngressRule{From: nodes, Ports: ports(internalPort, gaugePort)})
		}
	}
	return &networkingv1.NetworkPolicy{ObjectMeta: named(v1alpha1.GatewayName), Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: podLabels},
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}, Ingress: rules,
	}}
}

func ports(numbers ...int32) []networkingv1.NetworkPolicyPort {
	out := make([]networkingv1.NetworkPolicyPort, len(numbers))
	for i, number := range numbers {
		out[i] = networkingv1.NetworkPolicyPort{Protocol: new(corev1.ProtocolTCP), Port: new(intstr.FromInt32(number))}
	}
	return out
}

// resources are the Gateway that Routes are attached to, and a page of its own, at which it tells that it serves: that
// of a Route with a Middleware, so both of its providers have been read. And since it keeps its last configuration when
// one is empty, there is always something in it.
func resources() []client.Object {
	const group, traefik = "gateway.networking.k8s.io", "traefik.io"
	return []client.Object{
		custom(group+"/v1", "GatewayClass", metav1.ObjectMeta{Name: v1alpha1.GatewayName, Labels: managed}, map[string]any{
			"controllerName": "traefik.io/gateway-controller",
		}),
		custom(group+"/v1", "Gateway", named(v1alpha1.GatewayName), map[string]any{
			"gatewayClassName": v1alpha1.GatewayName,
			"listeners": []any{map[string]any{
				"name": "web", "protocol": "HTTP", "port": int64(webPort),
				"allowedRoutes": map[string]any{"namespaces": map[string]any{"from": "All"}},
			}},
		}),
		custom(traefik+"/v1alpha1", "Middleware", named("ready"), map[string]any{
			"headers": map[string]any{"customResponseHeaders": map[string]any{"Cache-Control": "no-store"}},
		}),
		custom(group+"/v1", "HTTPRoute", named("ready"), map[string]any{
			"parentRefs": []any{map[string]any{"name": v1alpha1.GatewayName}},
			"rules": []any{map[string]any{
				"matches":     []any{map[string]any{"path": map[string]any{"type": "Exact", "value": readyPath}}},
				"filters":     []any{map[string]any{"type": "ExtensionRef", "extensionRef": map[string]any{"group": traefik, "kind": "Middleware", "name": "ready"}}},
				"backendRefs": []any{map[string]any{"group": traefik, "kind": "TraefikService", "name": "ping@internal"}},
			}},
		}),
	}
}

func custom(version, kind string, meta metav1.ObjectMeta, spec map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	o.SetAPIVersion(version)
	o.SetKind(kind)
	o.SetName(meta.Name)
	o.SetNamespace(meta.Namespace)
	o.SetLabels(meta.Labels)
	return o
}
