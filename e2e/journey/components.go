//go:build e2e

package journey

import (
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"yunfan.io/yunfan/api/v1alpha1"
)

// EchoImage is a web server that tells who it is, with a few commands; see examples/echo.
const EchoImage = "registry.yunfan.internal/examples/echo:v1"

// portName is the name of the port of every echo server.
var portName = intstr.FromString("http")

// Change is one thing that differs from the plain component.
type Change func(*v1alpha1.Component, *corev1.Container)

// Echo is a component with one ready echo server on port 8080 and a service.
func Echo(name string, changes ...Change) v1alpha1.Component {
	c := v1alpha1.Component{
		Name: name, Workload: v1alpha1.WorkloadDeployment,
		Service: &v1alpha1.Service{
			Type: corev1.ServiceTypeClusterIP, Ports: []v1alpha1.ServicePort{{Name: "http", Port: 8080, Protocol: corev1.ProtocolTCP}},
		},
		Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(2)),
			Containers: []corev1.Container{{
				Name: "main", Image: EchoImage, ImagePullPolicy: corev1.PullIfNotPresent,
				Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
			}},
		}},
	}
	return With(c, changes...)
}

// With is the component, changed.
func With(c v1alpha1.Component, changes ...Change) v1alpha1.Component {
	for _, change := range changes {
		change(&c, &c.Template.Spec.Containers[0])
	}
	return c
}

// Workload sets the kind of workload.
func Workload(kind v1alpha1.WorkloadKind) Change {
	return func(c *v1alpha1.Component, _ *corev1.Container) { c.Workload = kind }
}

// Replicas sets the number of pods.
func Replicas(n int32) Change {
	return func(c *v1alpha1.Component, _ *corev1.Container) { c.Replicas = &n }
}

// NodePort opens the service on a port of every node.
func NodePort(port int32) Change {
	return func(c *v1alpha1.Component, _ *corev1.Container) {
		c.Service.Type = corev1.ServiceTypeNodePort
		c.Service.Ports[0].NodePort = port
	}
}

// DependsOn names components that come first.
func DependsOn(names ...string) Change {
	return func(c *v1alpha1.Component, _ *corev1.Container) { c.DependsOn = names }
}

// Image sets the container's image.
func Image(reference string) Change {
	return func(_ *v1alpha1.Component, main *corev1.Container) { main.Image = reference }
}

// Args sets the words that the image's program is called with: a command of examples/echo.
func Args(words ...string) Change {
	return func(_ *v1alpha1.Component, main *corev1.Container) { main.Args = words }
}

// Env sets a variable.
func Env(name, value string) Change {
	return func(_ *v1alpha1.Component, main *corev1.Container) {
		main.Env = append(main.Env, corev1.EnvVar{Name: name, Value: value})
	}
}

// Resources sets requests and limits to the same; empty means not said.
func Resources(cpu, memory string) Change {
	return func(_ *v1alpha1.Component, main *corev1.Container) {
		list := corev1.ResourceList{}
		if cpu != "" {
			list[corev1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			list[corev1.ResourceMemory] = resource.MustParse(memory)
		}
		main.Resources = corev1.ResourceRequirements{Requests: list, Limits: list}
	}
}

// Claim gives each pod of a StatefulSet a volume of its own, mounted at a path.
func Claim(name, path string) Change {
	return func(c *v1alpha1.Component, main *corev1.Container) {
		c.Workload = v1alpha1.WorkloadStatefulSet
		c.VolumeClaimTemplates = append(c.VolumeClaimTemplates, corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("16Mi")}},
			},
		})
		main.VolumeMounts = append(main.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: path})
		// The volume belongs to root; a group makes it writable for the image's user.
		c.Template.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(65532))}
	}
}

// Readiness asks a path of the container until it answers.
func Readiness(path string) Change {
	return func(_ *v1alpha1.Component, main *corev1.Container) { main.ReadinessProbe = probe(path) }
}

// Liveness restarts the container when a path does not answer.
func Liveness(path string) Change {
	return func(_ *v1alpha1.Component, main *corev1.Container) { main.LivenessProbe = probe(path) }
}

func probe(path string) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: portName}},
		PeriodSeconds: 1, FailureThreshold: 2,
	}
}

// Port picks a node port; of the few that are open at a time, hardly two are the same.
func Port() int32 { return int32(30100 + rand.IntN(2600)) }
