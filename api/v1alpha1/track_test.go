package v1alpha1_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

func TestRunsBesideItself(t *testing.T) {
	pod := func(change func(*corev1.PodSpec)) *corev1.PodTemplateSpec {
		template := &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web"}}}}
		if change != nil {
			change(&template.Spec)
		}
		return template
	}
	volume := func(source corev1.VolumeSource) *corev1.PodTemplateSpec {
		return pod(func(p *corev1.PodSpec) { p.Volumes = []corev1.Volume{{Name: "data", VolumeSource: source}} })
	}
	cases := map[string]struct {
		reason    string
		component v1alpha1.Component
		want      bool
		why       string
	}{
		"deployment":  {"nothing of it is there once only", v1alpha1.Component{Template: pod(nil)}, true, ""},
		"controller":  {"as a Deployment", v1alpha1.Component{Workload: v1alpha1.WorkloadReplicationController, Template: pod(nil)}, true, ""},
		"statefulset": {"its pods have names and volumes of their own", v1alpha1.Component{Workload: v1alpha1.WorkloadStatefulSet, Template: pod(nil)}, false, "a StatefulSet is changed in place"},
		"daemonset":   {"one pod on each node", v1alpha1.Component{Workload: v1alpha1.WorkloadDaemonSet, Template: pod(nil)}, false, "a DaemonSet is changed in place"},
		"external":    {"nothing runs", v1alpha1.Component{Workload: v1alpha1.WorkloadExternal}, false, "it has no pods"},
		"host network": {"two pods would want the same ports of a node",
			v1alpha1.Component{Template: pod(func(p *corev1.PodSpec) { p.HostNetwork = true })}, false, "its pods use the network of their nodes"},
		"host port": {"likewise", v1alpha1.Component{Template: pod(func(p *corev1.PodSpec) {
			p.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
		})}, false, "container web takes a port of its node"},
		"host path": {"two versions would write the same files",
			v1alpha1.Component{Template: volume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}})}, false, "volume data is a path of the node"},
		"claim": {"it may be for one pod only",
			v1alpha1.Component{Template: volume(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}})},
			false, "volume data may be for one writer only"},
		"claim to read": {"readers are not in each other's way",
			v1alpha1.Component{Template: volume(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c", ReadOnly: true}})}, true, ""},
		"empty": {"each pod has its own",
			v1alpha1.Component{Template: volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})}, true, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got, why := tc.component.RunsBesideItself(); got != tc.want || why != tc.why {
				t.Errorf("%s: got %v, %q, want %v, %q", tc.reason, got, why, tc.want, tc.why)
			}
		})
	}
}

func TestNamesOfTracks(t *testing.T) {
	web := &v1alpha1.Component{Name: "web", Workload: v1alpha1.WorkloadDeployment}
	db := &v1alpha1.Component{Name: "db", Workload: v1alpha1.WorkloadStatefulSet}
	plain, second := &v1alpha1.Track{}, &v1alpha1.Track{Suffix: "1b44e0c9"}
	for _, tc := range []struct{ reason, got, want string }{
		{"in place nothing changes", plain.WorkloadName(web), "web"},
		{"a track with a suffix has its own pods", second.WorkloadName(web), "web-1b44e0c9"},
		{"but not of what is there once only", second.WorkloadName(db), "db"},
		{"the component's service is the stable one's", plain.ServiceName("web"), "web"},
		{"a track with a suffix has its own", second.ServiceName("db"), "db-1b44e0c9"},
		{"eight letters of the revision's hash", v1alpha1.NewSuffix("score", "score-1b44e0c9d7", ""), "1b44e0c9"},
		{"the same revision again has another name", v1alpha1.NewSuffix("score", "score-1b44e0c9d7", "1b44e0c9"), "1b44e0c9b"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.reason, tc.got, tc.want)
		}
	}
}
