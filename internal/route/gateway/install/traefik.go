package install

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	defaultImage = "registry.yunfan.internal/system/gateway:v3.7.13"
	gaugeImage   = "registry.yunfan.internal/system/gauge:v1"

	webPort      = 8000 // what edges send
	internalPort = 9000 // API, metrics and ping
	gaugePort    = 9113

	// readyPath is answered once a whole configuration is served, so that a new gateway gets nothing before.
	readyPath = "/.well-known/yunfan/gateway"
	nobody    = 65532 // a user without rights

	// idle is how long a connection to a pod is kept without a request: short, so that open connections tell how many
	// requests are under way.
	idle = 2 * time.Second
	// throttle is how long a changed configuration waits for more of the same: much of the time that a change takes.
	throttle = 100 * time.Millisecond
	// leaving is how long a gateway that ends goes on as if nothing were, until no edge sends it anything, and finishing
	// how long it may take over requests that it has then.
	leaving   = 5 * time.Second
	finishing = 30 * time.Second
	// tokenLife is how long a token for the API server is good; kubelet brings a new one before.
	tokenLife = 3607
)

// arguments of Traefik. Access logs and whatever would call home are off.
func arguments() []string {
	return []string{
		"--global.checkNewVersion=false", "--global.sendAnonymousUsage=false",
		"--log.level=WARN", "--log.format=json",
		fmt.Sprintf("--entryPoints.web.address=:%d", webPort),
		// Edges are trusted to tell the client's address. Nobody else gets here, see the network policy.
		"--entryPoints.web.forwardedHeaders.insecure=true",
		"--entryPoints.web.http.aliasHeadersStrategy=keep", // names with underscores are the applications' affair
		// A body may take as long as the edge lets it; the edge closes idle connections before this side does.
		"--entryPoints.web.transport.respondingTimeouts.readTimeout=0s",
		"--entryPoints.web.transport.respondingTimeouts.idleTimeout=10m",
		fmt.Sprintf("--entryPoints.web.transport.lifeCycle.requestAcceptGraceTimeout=%s", leaving),
		fmt.Sprintf("--entryPoints.web.transport.lifeCycle.graceTimeOut=%s", finishing),
		// For Gateways that the cluster's own administrators make of this class. Nothing leads there unless they open it.
		"--entryPoints.http.address=:80", "--entryPoints.http.http.aliasHeadersStrategy=keep",
		"--entryPoints.https.address=:443", "--entryPoints.https.http.aliasHeadersStrategy=keep",
		fmt.Sprintf("--entryPoints.traefik.address=:%d", internalPort), "--entryPoints.traefik.http.aliasHeadersStrategy=keep",
		"--api.insecure=true", "--api.dashboard=false",
		"--ping=true", "--ping.entryPoint=traefik",
		"--metrics.prometheus=true", "--metrics.prometheus.entryPoint=traefik",
		"--metrics.prometheus.addServicesLabels=true", "--metrics.prometheus.addEntryPointsLabels=true",
		"--metrics.prometheus.buckets=0.005,0.01,0.025,0.05,0.1,0.25,0.5,1,2.5,5,10",
		fmt.Sprintf("--serversTransport.forwardingTimeouts.idleConnTimeout=%s", idle),
		"--serversTransport.forwardingTimeouts.dialTimeout=5s",
		fmt.Sprintf("--providers.providersThrottleDuration=%s", throttle),
		// Gateways of other classes are somebody else's, who may run Traefik, too.
		"--providers.kubernetesGateway.labelSelector=" + labels.FormatLabels(managed),
		"--providers.kubernetesGateway.statusAddress.hostname=" + v1alpha1.GatewayName + "." + v1alpha1.GatewayNamespace + ".svc",
		// Objects of partitions name none of other namespaces, nor Traefik's own services.
		"--providers.kubernetesGateway=true", "--providers.kubernetesGateway.crossProviderNamespaces=" + v1alpha1.GatewayNamespace,
		"--providers.kubernetesCRD=true", "--providers.kubernetesCRD.crossProviderNamespaces=" + v1alpha1.GatewayNamespace,
		"--providers.kubernetesCRD.allowCrossNamespace=false", "--providers.kubernetesCRD.allowExternalNameServices=false",
		// Names of services are made from their parents: else a-b/c and a/b-c would be one, and so would two uses of a Service
		// that bound its time differently. And a service without pods answers 503, rather than that its Routes are gone.
		"--providers.kubernetesCRD.safeNaming=true", "--providers.kubernetesCRD.allowEmptyServices=true",
	}
}

// daemonSet runs Traefik, and the gauge beside it, on every node.
func daemonSet(g *v1alpha1.Gateway) *appsv1.DaemonSet {
	image := g.Image
	if image == "" {
		image = defaultImage
	}
	grace := int64((2*leaving + finishing + leaving) / time.Second)
	return &appsv1.DaemonSet{
		ObjectMeta: named(v1alpha1.GatewayName),
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: podLabels},
			// A new one takes over before the old one goes: they have no port of the node.
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{
				MaxUnavailable: new(intstr.FromInt32(0)), MaxSurge: new(intstr.FromInt32(1)),
			}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: podLabels},
				Spec: corev1.PodSpec{
					ServiceAccountName: v1alpha1.GatewayName, AutomountServiceAccountToken: new(false),
					PriorityClassName:             "system-node-critical",
					TerminationGracePeriodSeconds: &grace,
					Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
					SecurityContext: &corev1.PodSecurityContext{
						RunAsNonRoot: new(true), RunAsUser: new(int64(nobody)), RunAsGroup: new(int64(nobody)),
						SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
						// So that it listens at the ports that Gateways name, without rights.
						Sysctls: []corev1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "0"}},
					},
					Containers: []corev1.Container{traefik(image), gauge()},
					Volumes:    []corev1.Volume{token()},
				},
			},
		},
	}
}

func traefik(image string) corev1.Container {
	return corev1.Container{
		Name: "traefik", Image: image, Args: arguments(), SecurityContext: locked(),
		Ports: []corev1.ContainerPort{
			{Name: "web", ContainerPort: webPort, Protocol: corev1.ProtocolTCP}, {Name: "internal", ContainerPort: internalPort, Protocol: corev1.ProtocolTCP},
		},
		StartupProbe:   get(readyPath, webPort, 1, 120),
		ReadinessProbe: get(readyPath, webPort, 2, 2),
		LivenessProbe:  get("/ping", internalPort, 10, 6),
		Lifecycle:      &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: int64(leaving / time.Second)}}},
		VolumeMounts:   []corev1.VolumeMount{{Name: "token", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount", ReadOnly: true}},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m"), corev1.ResourceMemory: resource.MustParse("96Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("512Mi")},
		},
	}
}

func gauge() corev1.Container {
	return corev1.Container{
		Name: "gauge", Image: gaugeImage, SecurityContext: locked(),
		Ports:          []corev1.ContainerPort{{Name: "gauge", ContainerPort: gaugePort, Protocol: corev1.ProtocolTCP}},
		ReadinessProbe: get("/healthz", gaugePort, 10, 3),
		// It goes on counting while the other takes requests.
		Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: int64(2 * leaving / time.Second)}}},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1m"), corev1.ResourceMemory: resource.MustParse("8Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")},
		},
	}
}

// token is Traefik's for the API server; the gauge has none.
func token() corev1.Volume {
	return corev1.Volume{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: new(int32(0o444)), Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: new(int64(tokenLife))}},
		{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
		}},
	}}}}
}

// locked is what a container may: listen, and send.
func locked() *corev1.SecurityContext {
	return &corev1.SecurityContext{
		AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
}

func get(path string, port, period, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(port), Scheme: corev1.URISchemeHTTP}},
		PeriodSeconds: period, FailureThreshold: failures, TimeoutSeconds: 5, SuccessThreshold: 1,
	}
}
