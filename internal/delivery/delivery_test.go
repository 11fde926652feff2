package delivery

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

func TestDeliver(t *testing.T) {
	w := newWorld(t).serve(t)
	t.Run("DEP-06 drift", func(t *testing.T) { drift(t, w) })
	t.Run("TPL-03 every kind", func(t *testing.T) { everyKind(t, w) })
	t.Run("TPL-10 order", func(t *testing.T) { order(t, w) })
	t.Run("TPL-11 jobs", func(t *testing.T) { jobs(t, w) })
	t.Run("CFG-04 configurations", func(t *testing.T) { configurations(t, w) })
	t.Run("partition not ready", func(t *testing.T) { partitionNotReady(t, w) })
}

// drift: what was applied stays as it was meant, moves with the revision, and goes with the Delivery.
func drift(t *testing.T, w *world) {
	p := w.partition(t)
	first := revision(t, p, "shop", "aaaaaaaaaa", web("front"), web("back"))
	d := deliver(t, p, first, 2)
	eventually(t, d, "applied", applied)
	front := object(t, w, p, "front", &appsv1.Deployment{}, nil)
	object(t, w, p, "front", &corev1.Service{}, nil)

	before := front.UID
	*front.Spec.Replicas = 7
	update(t, w, front)
	object(t, w, p, "front", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return *o.Spec.Replicas == 2 })
	service := object(t, w, p, "front", &corev1.Service{}, nil)
	service.Spec.Ports[0].Port = 8888
	update(t, w, service)
	object(t, w, p, "front", &corev1.Service{}, func(o *corev1.Service) bool { return o.Spec.Ports[0].Port == 80 })
	front = object(t, w, p, "front", &appsv1.Deployment{}, nil)
	front.Spec.Template.Spec.Containers = append(front.Spec.Template.Spec.Containers, corev1.Container{Name: "added", Image: "added:v1"})
	update(t, w, front)
	object(t, w, p, "front", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return len(o.Spec.Template.Spec.Containers) == 1 })
	front = object(t, w, p, "front", &appsv1.Deployment{}, nil)
	delete(front.Labels, v1alpha1.LabelPartition)
	update(t, w, front)
	object(t, w, p, "front", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool {
		return o.Labels[v1alpha1.LabelPartition] == p.Name && o.UID == before
	})
	if err := w.member.Client.Delete(t.Context(), front); err != nil {
		t.Fatal(err)
	}
	object(t, w, p, "front", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return o.UID != before })

	second := revision(t, p, "shop", "bbbbbbbbbb", web("front", func(c *v1alpha1.Component) { c.Template.Spec.Containers[0].Image = "web:v2" }))
	move(t, d, func(s *v1alpha1.DeliverySpec) { s.Tracks[0] = track(second, 2) })
	object(t, w, p, "front", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return o.Spec.Template.Spec.Containers[0].Image == "web:v2" })
	gone(t, w, p, "back", &appsv1.Deployment{})
	gone(t, w, p, "back", &corev1.Service{})
	got := eventually(t, d, "pruned", func(d *v1alpha1.Delivery) bool { return applied(d) && len(d.Status.Inventory) == 2 })
	if got.Status.Tracks[0].Revision != second.Name {
		t.Errorf("revision %s in the status, want %s", got.Status.Tracks[0].Revision, second.Name)
	}

	if err := hub.Client.Delete(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	gone(t, w, p, "front", &appsv1.Deployment{})
	gone(t, w, p, "front", &corev1.Service{})
}

// everyKind: a real API server takes what is rendered for each kind, and applying it again finds nothing to do.
func everyKind(t *testing.T, w *world) {
	p := w.partition(t)
	kind := func(k v1alpha1.WorkloadKind) func(*v1alpha1.Component) {
		return func(c *v1alpha1.Component) { c.Workload = k }
	}
	r := revision(t, p, "zoo", "cafe012345",
		web("one", kind(v1alpha1.WorkloadDeployment)),
		web("two", kind(v1alpha1.WorkloadStatefulSet), func(c *v1alpha1.Component) {
			c.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: quantity("1Gi")}},
			}}}
		}),
		web("three", kind(v1alpha1.WorkloadDaemonSet)),
		web("four", kind(v1alpha1.WorkloadReplicationController), func(c *v1alpha1.Component) { c.Service.SessionAffinity = corev1.ServiceAffinityClientIP }),
		web("five", kind(v1alpha1.WorkloadJob)),
		web("six", kind(v1alpha1.WorkloadCronJob), func(c *v1alpha1.Component) { c.Schedule = "0 3 * * *"; c.Service = nil }),
		web("seven", kind(v1alpha1.WorkloadExternal), func(c *v1alpha1.Component) {
			c.Template, c.External = nil, &v1alpha1.External{Addresses: []string{"192.168.18.4", "fd00::5"}}
		}),
		web("eight", func(c *v1alpha1.Component) {
			c.Service.Type = corev1.ServiceTypeNodePort
			c.Service.Ports[0].NodePort = 30777
		}),
	)
	d := deliver(t, p, r, 1)
	eventually(t, d, "applied", applied)
	object(t, w, p, "two", &appsv1.StatefulSet{}, nil)
	object(t, w, p, "two-pods", &corev1.Service{}, func(s *corev1.Service) bool { return s.Spec.ClusterIP == "None" && s.Spec.PublishNotReadyAddresses })
	object(t, w, p, "three", &appsv1.DaemonSet{}, nil)
	object(t, w, p, "four", &corev1.ReplicationController{}, nil)
	t.Run("NET-11 session affinity", func(t *testing.T) {
		object(t, w, p, "four", &corev1.Service{}, func(s *corev1.Service) bool { return s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP })
		object(t, w, p, "one", &corev1.Service{}, func(s *corev1.Service) bool { return s.Spec.SessionAffinity == corev1.ServiceAffinityNone })
	})
	object(t, w, p, "five-cafe0123", &batchv1.Job{}, nil)
	object(t, w, p, "six", &batchv1.CronJob{}, nil)
	t.Run("RES-11 external service", func(t *testing.T) {
		slice := object(t, w, p, "seven", &discoveryv1.EndpointSlice{}, nil)
		if slice.Endpoints[0].Addresses[0] != "192.168.18.4" || *slice.Ports[0].Port != 80 {
			t.Errorf("endpoint slice %v leads elsewhere", slice)
		}
	})
	t.Run("TPL-04 node port", func(t *testing.T) {
		object(t, w, p, "eight", &corev1.Service{}, func(s *corev1.Service) bool { return s.Spec.Ports[0].NodePort == 30777 })
	})

	// The controller starts anew, as after a restart, and applies everything again: no generation grows.
	generation := object(t, w, p, "two", &appsv1.StatefulSet{}, nil).Generation
	w.rejoin(t)
	r2 := revision(t, p, "probe", "cafe012345", web("probe"))
	eventually(t, deliver(t, p, r2, 0), "applied", applied)
	eventually(t, d, "still applied", applied)
	if again := object(t, w, p, "two", &appsv1.StatefulSet{}, nil).Generation; again != generation {
		t.Errorf("applying again changed the StatefulSet: generation %d, was %d", again, generation)
	}

	move(t, d, func(s *v1alpha1.DeliverySpec) { s.Stopped = true })
	object(t, w, p, "one", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return *o.Spec.Replicas == 0 })
	object(t, w, p, "three", &appsv1.DaemonSet{}, func(o *appsv1.DaemonSet) bool {
		return o.Spec.Template.Spec.NodeSelector["yunfan.io/stopped"] == "true"
	})
	object(t, w, p, "six", &batchv1.CronJob{}, func(o *batchv1.CronJob) bool { return *o.Spec.Suspend })
	object(t, w, p, "one", &corev1.Service{}, nil)
	move(t, d, func(s *v1alpha1.DeliverySpec) { s.Stopped = false })
	object(t, w, p, "one", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return *o.Spec.Replicas == 1 })
	object(t, w, p, "three", &appsv1.DaemonSet{}, func(o *appsv1.DaemonSet) bool { return o.Spec.Template.Spec.NodeSelector == nil })
}

// order: a component waits for what it depends on, at each revision, and is not held up by scaling.
func order(t *testing.T, w *world) {
	p := w.partition(t)
	needs := func(names ...string) func(*v1alpha1.Component) {
		return func(c *v1alpha1.Component) { c.DependsOn = names }
	}
	external := func(c *v1alpha1.Component) {
		c.Workload, c.Template, c.External = v1alpha1.WorkloadExternal, nil, &v1alpha1.External{Addresses: []string{"192.168.18.4"}}
	}
	first := revision(t, p, "score", "aaaaaaaaaa", web("front", needs("db")), web("db", needs("outside")), web("outside", external))
	d := deliver(t, p, first, 1)
	eventually(t, d, "front waits", is(v1alpha1.ConditionApplied, metav1.ConditionFalse, v1alpha1.ReasonWaitingForDependency))
	db := object(t, w, p, "db", &appsv1.Deployment{}, nil)
	if err := w.member.Client.Get(t.Context(), keyIn(p, "front"), &appsv1.Deployment{}); err == nil {
		t.Error("front was created before db was ready")
	}
	makeReady(t, w, db)
	front := object(t, w, p, "front", &appsv1.Deployment{}, nil)
	makeReady(t, w, front)
	eventually(t, d, "healthy", is(v1alpha1.ConditionHealthy, metav1.ConditionTrue, v1alpha1.ReasonReady))

	move(t, d, func(s *v1alpha1.DeliverySpec) { s.Tracks[0].Replicas = map[string]int32{"db": 2, "front": 2} })
	object(t, w, p, "front", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return *o.Spec.Replicas == 2 })

	v2 := func(c *v1alpha1.Component) { c.Template.Spec.Containers[0].Image = "web:v2" }
	second := revision(t, p, "score", "bbbbbbbbbb", web("front", needs("db"), v2), web("db", needs("outside"), v2), web("outside", external))
	move(t, d, func(s *v1alpha1.DeliverySpec) { s.Tracks[0] = track(second, 2) })
	db = object(t, w, p, "db", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return o.Spec.Template.Spec.Containers[0].Image == "web:v2" })
	got := eventually(t, d, "front waits again", is(v1alpha1.ConditionApplied, metav1.ConditionFalse, v1alpha1.ReasonWaitingForDependency))
	for _, c := range got.Status.Tracks[0].Components {
		if want := map[string]string{"front": first.Name, "db": second.Name, "outside": second.Name}[c.Name]; c.Revision != want {
			t.Errorf("%s is at revision %s, want %s", c.Name, c.Revision, want)
		}
	}
	makeReady(t, w, db)
	object(t, w, p, "front", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return o.Spec.Template.Spec.Containers[0].Image == "web:v2" })
	eventually(t, d, "applied", applied)
}

// jobs: each revision has a Job of its own, and the one before goes.
func jobs(t *testing.T, w *world) {
	p := w.partition(t)
	job := func(c *v1alpha1.Component) { c.Workload, c.Service = v1alpha1.WorkloadJob, nil }
	first := revision(t, p, "batch", "aaaaaaaaaa", web("migrate", job))
	d := deliver(t, p, first, 1)
	one := object(t, w, p, "migrate-aaaaaaaa", &batchv1.Job{}, nil)
	eventually(t, d, "runs", is(v1alpha1.ConditionHealthy, metav1.ConditionFalse, v1alpha1.ReasonReconciling))
	now := metav1.Now()
	one.Status = batchv1.JobStatus{Succeeded: 1, StartTime: &now, CompletionTime: &now, Conditions: []batchv1.JobCondition{
		{Type: batchv1.JobSuccessCriteriaMet, Status: corev1.ConditionTrue}, {Type: batchv1.JobComplete, Status: corev1.ConditionTrue},
	}}
	if err := w.member.Client.Status().Update(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	eventually(t, d, "done", is(v1alpha1.ConditionHealthy, metav1.ConditionTrue, v1alpha1.ReasonReady))

	second := revision(t, p, "batch", "bbbbbbbbbb", web("migrate", job))
	move(t, d, func(s *v1alpha1.DeliverySpec) { s.Tracks[0] = track(second, 1) })
	object(t, w, p, "migrate-bbbbbbbb", &batchv1.Job{}, nil)
	gone(t, w, p, "migrate-aaaaaaaa", &batchv1.Job{})
}

// configurations: pods of two applications use one copy of a version, which goes when the last of them has left it.
func configurations(t *testing.T, w *world) {
	p := w.partition(t)
	pin := v1alpha1.ConfigurationPin{Name: "conf", Type: v1alpha1.ConfigurationConfigMap, Version: "v1"}
	testkit.Create(t, hub.Client,
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "conf-v1", Namespace: p.Namespace}, Data: map[string]string{"server.xml": "<Server/>\n"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "conf-v2", Namespace: p.Namespace}, Data: map[string]string{"server.xml": "<Other/>\n"}},
	)
	with := func(application, hash, version string) *v1alpha1.ApplicationRevision {
		r := newRevision(p, application, hash, web(application, func(c *v1alpha1.Component) {
			c.Configurations = []v1alpha1.ConfigurationUse{{Name: "conf", MountPath: "/conf"}}
		}))
		pin.Version = version
		r.Spec.Configurations = []v1alpha1.ConfigurationPin{pin}
		testkit.Create(t, hub.Client, r)
		return r
	}
	one, two := deliver(t, p, with("one", "aaaaaaaaaa", "v1"), 1), deliver(t, p, with("two", "aaaaaaaaaa", "v1"), 1)
	eventually(t, one, "applied", applied)
	eventually(t, two, "applied", applied)
	conf := object(t, w, p, "conf-v1", &corev1.ConfigMap{}, func(o *corev1.ConfigMap) bool { return o.Data["server.xml"] == "<Server/>\n" && *o.Immutable })

	if err := w.member.Client.Delete(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	object(t, w, p, "conf-v1", &corev1.ConfigMap{}, nil)

	next := with("one", "bbbbbbbbbb", "v2")
	move(t, one, func(s *v1alpha1.DeliverySpec) { s.Tracks[0] = track(next, 1) })
	object(t, w, p, "conf-v2", &corev1.ConfigMap{}, nil)
	eventually(t, one, "applied", applied)
	object(t, w, p, "conf-v1", &corev1.ConfigMap{}, nil)
	if err := hub.Client.Delete(t.Context(), two); err != nil {
		t.Fatal(err)
	}
	gone(t, w, p, "two", &appsv1.Deployment{})
	gone(t, w, p, "conf-v1", &corev1.ConfigMap{})
}

// partitionNotReady: nothing is applied before the partition is set up, and the wait ends with it.
func partitionNotReady(t *testing.T, w *world) {
	p := w.partition(t)
	w.ready(t, p, metav1.ConditionFalse)
	d := deliver(t, p, revision(t, p, "shop", "aaaaaaaaaa", web("front")), 1)
	eventually(t, d, "waits", is(v1alpha1.ConditionApplied, metav1.ConditionFalse, v1alpha1.ReasonPartitionNotReady))
	w.ready(t, p, metav1.ConditionTrue)
	eventually(t, d, "applied", applied)
}

func makeReady(t *testing.T, w *world, d *appsv1.Deployment) {
	t.Helper()
	n := *d.Spec.Replicas
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n,
		Conditions: []appsv1.DeploymentCondition{
			{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue},
			{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: "NewReplicaSetAvailable"},
		}}
	if err := w.member.Client.Status().Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}

func TestPreview(t *testing.T) {
	w := newWorld(t).serve(t)
	p := w.partition(t)
	testkit.Create(t, w.member.Client, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "foreign", Namespace: p.MemberNamespace()},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
	d := deliver(t, p, revision(t, p, "shop", "aaaaaaaaaa", web("same"), web("changed"), web("old")), 1)
	d = eventually(t, d, "applied", applied)

	would := newRevision(p, "shop", "bbbbbbbbbb", web("same"), web("new", func(c *v1alpha1.Component) {
		c.Template.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
	}), web("foreign"), web("changed", func(c *v1alpha1.Component) {
		c.Template.Spec.Containers[0].Image = "web:v2"
	}), web("broken", func(c *v1alpha1.Component) { c.Template.Spec.Containers[0].Name = "No Name" }))
	spec := d.Spec
	spec.Tracks = []v1alpha1.Track{track(would, 1)}
	changes, err := (&Preview{Hub: hub.Client, Members: w.set}).DryRun(t.Context(), p, would, spec, d.Status.Inventory)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Change{}
	for _, c := range changes {
		got[c.Kind+" "+c.Name] = c
	}
	for object, want := range map[string]Action{
		"Service same": Unchanged, "Service new": Create, "Deployment new": Create, "Service foreign": Refuse, "Deployment changed": Update,
		"Deployment old": Remove, "Service old": Remove, "Deployment broken": Refuse,
	} {
		if got[object].Action != want {
			t.Errorf("%s: %+v, want %s", object, got[object], want)
		}
	}
	g := NewWithT(t)
	g.Expect(got["Deployment changed"].Fields).To(ContainElement(`spec.template.spec.containers[web].image: "web:v1" → "web:v2"`))
	g.Expect(got["Deployment new"].Error).To(ContainSubstring(`violate PodSecurity "baseline:latest": privileged`))
	g.Expect(got["Service foreign"].Error).To(ContainSubstring("was not made by Yunfan"))
	g.Expect(got["Deployment broken"].Error).To(ContainSubstring("spec.template.spec.containers[0].name"))
	if err := w.member.Client.Get(t.Context(), keyIn(p, "new"), &appsv1.Deployment{}); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("the preview wrote something: %v", err)
	}
}
