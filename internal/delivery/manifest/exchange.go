package manifest

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	// lingering is how long a pod that ends goes on serving, in seconds: until then requests still come to it, for those
	// that send them learn of its end later than it does.
	lingering = 5
	// usualGrace is the time that Kubernetes gives a pod to end, in seconds.
	usualGrace = 30
)

// surge is how many pods more than wanted there may be while they are exchanged, as in Kubernetes.
var surge = intstr.FromString("25%")

// exchange bounds how a Deployment replaces its pods. One with a service loses none before the next is ready, if its pods
// can be there twice; else Kubernetes decides.
func (r *renderer) exchange(c *v1alpha1.Component) appsv1.DeploymentStrategy {
	beside, _ := c.RunsBesideItself()
	serves := c.Service != nil && beside
	asked := r.RollingUpdate
	if asked == nil {
		asked = &v1alpha1.RollingUpdateStrategy{}
	}
	if !serves && asked.MaxSurge == nil && asked.MaxUnavailable == nil {
		return appsv1.DeploymentStrategy{}
	}
	most, fewer := asked.MaxSurge, asked.MaxUnavailable
	if most == nil {
		most = &surge
	}
	if fewer == nil {
		none := intstr.FromInt32(0)
		if fewer = &none; !serves || isZero(most) {
			fewer = &surge // something must give way
		}
	}
	return appsv1.DeploymentStrategy{
		Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: most, MaxUnavailable: fewer},
	}
}

func isZero(n *intstr.IntOrString) bool {
	return n.Type == intstr.Int && n.IntVal == 0 || n.Type == intstr.String && n.StrVal == "0%"
}

// linger lets the containers of a pod that ends serve on for a while, and gives it as much more time to end. What has a
// hook of its own does as that says.
func linger(c *v1alpha1.Component, pod *corev1.PodSpec) {
	if c.Service == nil || c.Workload == v1alpha1.WorkloadJob || c.Workload == v1alpha1.WorkloadCronJob || onWindows(pod) {
		return
	}
	grace := int64(usualGrace)
	if pod.TerminationGracePeriodSeconds != nil {
		grace = *pod.TerminationGracePeriodSeconds
	}
	if grace == 0 {
		return // it is to be killed at once
	}
	added := false
	for i := range pod.Containers {
		container := &pod.Containers[i]
		if container.Lifecycle != nil && container.Lifecycle.PreStop != nil {
			continue
		}
		if container.Lifecycle == nil {
			container.Lifecycle = &corev1.Lifecycle{}
		}
		container.Lifecycle.PreStop = &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: lingering}}
		added = true
	}
	if added {
		grace += lingering
		pod.TerminationGracePeriodSeconds = &grace
	}
}

func onWindows(pod *corev1.PodSpec) bool {
	return pod.OS != nil && pod.OS.Name == corev1.Windows || pod.NodeSelector[corev1.LabelOSStable] == string(corev1.Windows)
}
