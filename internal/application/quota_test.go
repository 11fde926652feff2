package application

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

func container(name string, resources corev1.ResourceRequirements) corev1.Container {
	return corev1.Container{Name: name, Image: "i", Resources: resources}
}

func TestRES08_PodDemand(t *testing.T) {
	small := corev1.ResourceRequirements{Requests: list("cpu", "100m", "memory", "64Mi"), Limits: list("cpu", "500m", "memory", "128Mi")}
	limits := []corev1.LimitRangeItem{
		{Type: corev1.LimitTypePod, Default: list("cpu", "9")},
		{Type: corev1.LimitTypeContainer, Default: list("cpu", "300m", "memory", "200Mi"), DefaultRequest: list("cpu", "200m")},
	}
	cases := map[string]struct {
		reason   string
		pod      corev1.PodSpec
		override *corev1.ResourceRequirements
		limits   []corev1.LimitRangeItem
		want     corev1.ResourceList
	}{
		"sum": {
			reason: "a pod is the sum of its containers",
			pod:    corev1.PodSpec{Containers: []corev1.Container{container("a", small), container("b", small)}},
			want:   list("requests.cpu", "200m", "requests.memory", "128Mi", "limits.cpu", "1", "limits.memory", "256Mi", "pods", "1"),
		},
		"init containers run before": {
			reason: "only the larger counts",
			pod: corev1.PodSpec{
				InitContainers: []corev1.Container{container("i", corev1.ResourceRequirements{Requests: list("cpu", "1")})},
				Containers:     []corev1.Container{container("a", small)},
			},
			want: list("requests.cpu", "1", "requests.memory", "64Mi", "limits.cpu", "500m", "limits.memory", "128Mi", "pods", "1"),
		},
		"sidecars run beside": {
			reason: "a restarted init container adds to all that follow",
			pod: corev1.PodSpec{
				InitContainers: []corev1.Container{
					{Name: "s", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways), Resources: corev1.ResourceRequirements{Requests: list("cpu", "1")}},
					container("i", corev1.ResourceRequirements{Requests: list("cpu", "2")}),
				},
				Containers: []corev1.Container{container("a", corev1.ResourceRequirements{Requests: list("cpu", "1")})},
			},
			want: list("requests.cpu", "3", "pods", "1"),
		},
		"defaults": {
			reason: "what is not said the partition's limits say",
			pod:    corev1.PodSpec{Containers: []corev1.Container{container("a", corev1.ResourceRequirements{})}},
			limits: limits,
			want:   list("requests.cpu", "200m", "requests.memory", "200Mi", "limits.cpu", "300m", "limits.memory", "200Mi", "pods", "1"),
		},
		"a limit is a request": {
			reason: "as Kubernetes fills it in, before the defaults",
			pod:    corev1.PodSpec{Containers: []corev1.Container{container("a", corev1.ResourceRequirements{Limits: list("cpu", "1")})}},
			limits: limits,
			want:   list("requests.cpu", "1", "requests.memory", "200Mi", "limits.cpu", "1", "limits.memory", "200Mi", "pods", "1"),
		},
		"override": {
			reason:   "a partition may have resources of its own",
			pod:      corev1.PodSpec{Containers: []corev1.Container{container("a", small), container("b", small)}},
			override: &corev1.ResourceRequirements{Requests: list("cpu", "1")},
			want:     list("requests.cpu", "2", "pods", "1"),
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, podDemand(&tc.pod, tc.override, tc.limits)); diff != "" {
				t.Errorf("%s\n%s", tc.reason, diff)
			}
		})
	}
}

// have says that a partition has n web pods and a database of the current revision.
func (w *world) have(partition string, n int32) {
	w.deliveries[partition] = &v1alpha1.Delivery{Spec: v1alpha1.DeliverySpec{Application: w.app.Name, Partition: partition, Tracks: []v1alpha1.Track{{
		Role: v1alpha1.TrackStable, Revision: w.app.Status.Revision, Replicas: map[string]int32{"score-record": n, "db-service": 1}}}}}
}

func TestQuota(t *testing.T) {
	cases := map[string]struct {
		reason string
		change func(*world)
		words  []string
	}{
		"fits exactly": {
			reason: "seven pods of 100m beside one of the database",
			change: func(w *world) { w.partitions[0].Status.Hard = list("requests.cpu", "700m", "pods", "8") },
		},
		"too many pods": {
			reason: "7 and 1 pods where 7 are allowed",
			change: func(w *world) { w.partitions[0].Status.Hard = list("pods", "7") },
			words:  []string{"partition prod-bj", "pods: 8 wanted, others use 0 of 7", "have the quota raised"},
		},
		"others": {
			reason: "what others use is not there",
			change: func(w *world) {
				w.partitions[0].Status.Hard, w.partitions[0].Status.Used = list("cpu", "1"), list("cpu", "400m")
			},
			words: []string{"requests.cpu: 700m wanted, others use 400m of 1"},
		},
		"before the partition is set up": {
			reason: "what its spec says counts",
			change: func(w *world) { w.partitions[1].Spec.Quota = list("pods", "3") },
			words:  []string{"partition prod-sh"},
		},
		"own use is no obstacle": {
			reason: "what the application has there already is part of what it wants",
			change: func(w *world) {
				w.partitions[0].Status.Hard, w.partitions[0].Status.Used = list("pods", "8"), list("pods", "8")
				w.have("prod-bj", 7)
			},
		},
		"what shrinks is let through": {
			reason: "the quota was lowered below what is used; taking pods away must not be refused",
			change: func(w *world) {
				w.partitions[0].Status.Hard, w.partitions[0].Status.Used = list("pods", "2"), list("pods", "11")
				w.have("prod-bj", 9)
			},
		},
		"stopped": {
			reason: "no pods are wanted",
			change: func(w *world) {
				w.app.Spec.Stopped = true
				w.partitions[0].Status.Hard = list("pods", "0")
			},
		},
		"services and node ports": {
			reason: "three services: web, database, and the one that governs the database's names",
			change: func(w *world) {
				w.partitions[1].Status.Hard = list("services", "2", "services.nodeports", "0")
			},
			words: []string{"services: 3 wanted", "services.nodeports: 1 wanted"},
		},
		"claims": {
			reason: "each pod of the database has one",
			change: func(w *world) {
				db := &w.app.Spec.Components[0]
				db.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"},
					Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: list("storage", "10Gi")}}}}
				db.Replicas = ptr.To[int32](2)
				w.partitions[1].Status.Hard = list("persistentvolumeclaims", "1", "requests.storage", "15Gi")
			},
			words: []string{"persistentvolumeclaims: 2 wanted", "requests.storage: 20Gi wanted"},
		},
		"one pod per node": {
			reason: "a DaemonSet has as many pods as the pool has nodes",
			change: func(w *world) {
				web(w.app).Workload, web(w.app).Replicas = v1alpha1.WorkloadDaemonSet, nil
				w.partitions[1].Status.Nodes, w.partitions[1].Status.Hard = 3, list("pods", "3")
			},
			words: []string{"pods: 4 wanted"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			app := score("edu")
			web(app).Template.Spec.Containers[0].Resources.Requests = list("cpu", "100m")
			w := newWorld(app)
			w.carryOut(t)
			w.deliveries = map[string]*v1alpha1.Delivery{}
			tc.change(w)
			_, err := w.plan()
			if tc.words == nil {
				if err != nil {
					t.Errorf("%s: %v", tc.reason, err)
				}
				return
			}
			expect(t, err, v1alpha1.ReasonQuotaExceeded, tc.words...)
		})
	}
}

func TestRoom(t *testing.T) {
	p := newPartition("edu", "p", "c")
	if room := roomOf(p); room != nil {
		t.Errorf("nothing is known of it: %v", room)
	}
	p.Status.Free = list("cpu", "2", "memory", "1Gi", "pods", "20")
	p.Status.Hard, p.Status.Used = list("requests.cpu", "3", "limits.cpu", "4", "pods", "5"), list("requests.cpu", "2", "limits.cpu", "1", "pods", "1")
	want := list("requests.cpu", "1", "requests.memory", "1Gi", "limits.cpu", "3", "pods", "4")
	if diff := cmp.Diff(want, roomOf(p)); diff != "" {
		t.Errorf("the scarcer of nodes and quota\n%s", diff)
	}
}

func TestREL09_RoomForASecondRevision(t *testing.T) {
	tenant := testkit.Namespace(t, hub.Client)
	p := newPartition(tenant, "prod", "beijing")
	p.Spec.Quota = list("pods", "10", "requests.cpu", "2", "services", "6")
	status := p.Status
	testkit.Create(t, hub.Client, p)
	p.Status = status
	p.Status.Used = list("pods", "6", "requests.cpu", "1200m", "services", "3")
	if err := hub.Client.Status().Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	app := score(tenant)
	app.Spec.Components[1].Template.Spec.Containers[0].Resources.Requests = list("cpu", "200m")
	to := &v1alpha1.ApplicationRevision{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: "score-2"}, Spec: v1alpha1.ApplicationRevisionSpec{Components: app.Spec.Components}}
	check := CheckQuota(hub.Client)
	for _, tc := range []struct {
		reason string
		pods   int32
		want   string
	}{
		{"four more fit", 4, ""},
		{"a fifth does not", 5, "the quota of partition prod does not hold it: pods: 5 wanted, others use 6 of 10; the quota of partition prod does not hold it: requests.cpu: 1 wanted, others use 1200m of 2"},
	} {
		err := check(t.Context(), to, map[string]map[string]int32{"prod": {"score-record": tc.pods, "db-service": 1}, "gone": {"score-record": 100}})
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: got %v, want %q", tc.reason, err, tc.want)
		}
	}
}
