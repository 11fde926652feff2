package application

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// expect checks that an error is Stalled with a reason and says all the words.
func expect(t *testing.T, err error, reason string, words ...string) {
	t.Helper()
	var s *reconcile.Stalled
	if !errors.As(err, &s) {
		t.Fatalf("want a refusal with reason %s, got %v", reason, err)
	}
	if s.Reason != reason {
		t.Errorf("want reason %s, got %s: %v", reason, s.Reason, err)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the message does not say %q: %v", word, err)
		}
	}
}

// unsound are changes that make the score application one that is refused.
var unsound = map[string]struct {
	change func(*v1alpha1.Application)
	reason string
	words  []string
}{
	"chart": {
		change: func(a *v1alpha1.Application) { a.Spec.Chart, a.Spec.Components = &v1alpha1.Chart{Name: "x"}, nil },
		reason: v1alpha1.ReasonChartNotSupported, words: []string{"list the components"},
	},
	"TPL-10 unknown dependency": {
		change: func(a *v1alpha1.Application) { web(a).DependsOn = []string{"db"} },
		reason: v1alpha1.ReasonInvalid, words: []string{"score-record depends on db, which is no component"},
	},
	"TPL-10 cycle": {
		change: func(a *v1alpha1.Application) {
			a.Spec.Components[0].DependsOn = []string{"score-record"}
		},
		reason: v1alpha1.ReasonInvalid, words: []string{"circle: db-service → score-record → db-service"},
	},
	"duplicate containers": {
		change: func(a *v1alpha1.Application) {
			web(a).Template.Spec.InitContainers = []corev1.Container{{Name: "web", Image: "x"}}
		},
		reason: v1alpha1.ReasonInvalid, words: []string{"component score-record: two containers are named web"},
	},
	"no containers": {
		change: func(a *v1alpha1.Application) { web(a).Template.Spec.Containers = nil },
		reason: v1alpha1.ReasonInvalid, words: []string{"has no containers"},
	},
	"no image": {
		change: func(a *v1alpha1.Application) { web(a).Template.Spec.Containers[0].Image = "" },
		reason: v1alpha1.ReasonInvalid, words: []string{"container web: it has no image"},
	},
	"container name": {
		change: func(a *v1alpha1.Application) { web(a).Template.Spec.Containers[0].Name = "Web_1" },
		reason: v1alpha1.ReasonInvalid, words: []string{"no DNS label"},
	},
	"unknown volume": {
		change: func(a *v1alpha1.Application) {
			web(a).Template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
		},
		reason: v1alpha1.ReasonInvalid, words: []string{"mounts volume data"},
	},
	"two volumes of one name": {
		change: func(a *v1alpha1.Application) {
			web(a).Template.Spec.Volumes = []corev1.Volume{{Name: "v"}, {Name: "v"}}
		},
		reason: v1alpha1.ReasonInvalid, words: []string{"two volumes are named v"},
	},
	"restartPolicy of a Deployment": {
		change: func(a *v1alpha1.Application) { web(a).Template.Spec.RestartPolicy = corev1.RestartPolicyNever },
		reason: v1alpha1.ReasonInvalid, words: []string{"a Deployment cannot have restartPolicy Never: use Always"},
	},
	"restartPolicy of a Job": {
		change: func(a *v1alpha1.Application) {
			web(a).Workload, web(a).Template.Spec.RestartPolicy = v1alpha1.WorkloadJob, corev1.RestartPolicyAlways
		},
		reason: v1alpha1.ReasonInvalid, words: []string{"a Job cannot have restartPolicy Always"},
	},
	"schedule": {
		change: func(a *v1alpha1.Application) {
			web(a).Workload, web(a).Schedule = v1alpha1.WorkloadCronJob, "every day"
		},
		reason: v1alpha1.ReasonInvalid, words: []string{`schedule "every day" has not five fields`},
	},
	"TPL-07 two probe modes": {
		change: func(a *v1alpha1.Application) {
			web(a).Template.Spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
				HTTPGet: &corev1.HTTPGetAction{}, Exec: &corev1.ExecAction{}}}
		},
		reason: v1alpha1.ReasonInvalid, words: []string{"its liveness probe needs exactly one of"},
	},
	"RES-08 finer than 1m": {
		change: func(a *v1alpha1.Application) {
			web(a).Template.Spec.Containers[0].Resources.Requests = list("cpu", "0.0005")
		},
		reason: v1alpha1.ReasonInvalid, words: []string{"resources.requests.cpu: 500u is finer than 1m", "write 100m or 0.1"},
	},
	"RES-08 thousandths of a byte": {
		change: func(a *v1alpha1.Application) {
			web(a).Template.Spec.Containers[0].Resources.Limits = list("memory", "256500m")
		},
		reason: v1alpha1.ReasonInvalid, words: []string{"resources.limits.memory: 256500m is no whole number"},
	},
	"RES-08 request above limit": {
		change: func(a *v1alpha1.Application) {
			web(a).Template.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list("cpu", "2"), Limits: list("cpu", "1")}
		},
		reason: v1alpha1.ReasonInvalid, words: []string{"requests.cpu 2 is more than the limit 1"},
	},
	"RES-08 negative": {
		change: func(a *v1alpha1.Application) {
			web(a).Template.Spec.Containers[0].Resources.Requests = list("cpu", "-1")
		},
		reason: v1alpha1.ReasonInvalid, words: []string{"-1 is negative"},
	},
	"node port of a ClusterIP service": {
		change: func(a *v1alpha1.Application) { web(a).Service.Type = corev1.ServiceTypeClusterIP },
		reason: v1alpha1.ReasonInvalid, words: []string{"service port http has a nodePort: that needs service.type NodePort"},
	},
	"unknown target port": {
		change: func(a *v1alpha1.Application) {
			web(a).Service.Ports[0].TargetPort = new(intstr.FromString("http"))
		},
		reason: v1alpha1.ReasonInvalid, words: []string{"leads to the container port http, which no container has"},
	},
	"override of an unknown component": {
		change: override(v1alpha1.Override{Component: "web"}),
		reason: v1alpha1.ReasonInvalid, words: []string{"placement.partitions[0].overrides: web is no component"},
	},
	"override of an unknown container": {
		change: override(v1alpha1.Override{Component: "score-record", Images: map[string]string{"tomcat": "x"}}),
		reason: v1alpha1.ReasonInvalid, words: []string{"component score-record has no container tomcat"},
	},
	"override of an unknown port": {
		change: override(v1alpha1.Override{Component: "score-record", NodePorts: map[string]int32{"https": 30002}}),
		reason: v1alpha1.ReasonInvalid, words: []string{"has no service port https"},
	},
	"override of a node port that there is not": {
		change: override(v1alpha1.Override{Component: "db-service", NodePorts: map[string]int32{"sql": 30002}}),
		reason: v1alpha1.ReasonInvalid, words: []string{"node port of component db-service: that needs service.type NodePort"},
	},
	"RES-08 override of resources": {
		change: override(v1alpha1.Override{Component: "db-service", Resources: &corev1.ResourceRequirements{Requests: list("cpu", "100u")}}),
		reason: v1alpha1.ReasonInvalid, words: []string{"component db-service: resources.requests.cpu: 100u is finer than 1m"},
	},
	"configuration for an unknown container": {
		change: func(a *v1alpha1.Application) {
			web(a).Configurations = []v1alpha1.ConfigurationUse{{Name: "c", MountPath: "/c", Containers: []string{"tomcat"}}}
		},
		reason: v1alpha1.ReasonInvalid, words: []string{"configuration c is for container tomcat"},
	},
	"volume with a configuration's name": {
		change: func(a *v1alpha1.Application) {
			web(a).Configurations = []v1alpha1.ConfigurationUse{{Name: "c", MountPath: "/c"}}
			web(a).Template.Spec.Volumes = []corev1.Volume{{Name: "configuration-c"}}
		},
		reason: v1alpha1.ReasonInvalid, words: []string{"volume configuration-c of the template has the name of the one that holds configuration c: rename it"},
	},
	"two configurations at one path": {
		change: func(a *v1alpha1.Application) {
			web(a).Configurations = []v1alpha1.ConfigurationUse{{Name: "c", MountPath: "/c"}, {Name: "d", MountPath: "/c"}}
		},
		reason: v1alpha1.ReasonInvalid, words: []string{"configurations c and d have the same mountPath /c"},
	},
	"unknown partition": {
		change: func(a *v1alpha1.Application) { a.Spec.Placement.Partitions[1].Name = "prod-gz" },
		reason: v1alpha1.ReasonPartitionNotFound, words: []string{"no partition prod-gz"},
	},
	"selector without match": {
		change: func(a *v1alpha1.Application) {
			a.Spec.Placement.Partitions[1] = v1alpha1.PartitionChoice{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}
		},
		reason: v1alpha1.ReasonPartitionNotFound, words: []string{`"a=b" matches no partition`},
	},
	"CFG-04 unknown configuration": {
		change: func(a *v1alpha1.Application) {
			web(a).Configurations = []v1alpha1.ConfigurationUse{{Name: "tomcat-conf", MountPath: "/c"}}
		},
		reason: v1alpha1.ReasonConfigurationNotFound, words: []string{"no configuration tomcat-conf"},
	},
	"one node port twice on a cluster": {
		change: func(a *v1alpha1.Application) {
			db := &a.Spec.Components[0]
			db.Service.Type, db.Service.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30001
		},
		reason: v1alpha1.ReasonNodePortTaken, words: []string{"node port 30001 of cluster beijing is wanted twice"},
	},
	"all problems at once": {
		change: func(a *v1alpha1.Application) {
			web(a).DependsOn = []string{"db"}
			web(a).Template.Spec.Containers[0].Image = ""
		},
		reason: v1alpha1.ReasonInvalid, words: []string{"no image", "depends on db"},
	},
}

func TestValidate(t *testing.T) {
	for name, tc := range unsound {
		t.Run(name, func(t *testing.T) {
			app := score("edu")
			tc.change(app)
			_, err := newWorld(app).plan()
			expect(t, err, tc.reason, tc.words...)
		})
	}
}

func override(o v1alpha1.Override) func(*v1alpha1.Application) {
	return func(a *v1alpha1.Application) { a.Spec.Placement.Partitions[0].Overrides = []v1alpha1.Override{o} }
}

func TestValidateLetsSoundApplicationsThrough(t *testing.T) {
	cases := map[string]func(*v1alpha1.Application){
		"as it is": func(*v1alpha1.Application) {},
		"RES-08 0.1 core and 256M": func(a *v1alpha1.Application) {
			web(a).Template.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list("cpu", "0.1", "memory", "256M"), Limits: list("cpu", "500m", "memory", "1Gi")}
		},
		"diamond": func(a *v1alpha1.Application) {
			more := func(name string, dependsOn ...string) v1alpha1.Component {
				return v1alpha1.Component{Name: name, DependsOn: dependsOn, Template: template(corev1.Container{Name: "c", Image: "i"})}
			}
			a.Spec.Components = append(a.Spec.Components, more("a", "db-service", "score-record"), more("b", "db-service"), more("c", "a", "b"))
		},
		"claims are volumes": func(a *v1alpha1.Application) {
			db := &a.Spec.Components[0]
			db.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
			db.Template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/var/lib/mysql"}}
		},
		"external": func(a *v1alpha1.Application) {
			a.Spec.Components = append(a.Spec.Components, v1alpha1.Component{Name: "ldap", Workload: v1alpha1.WorkloadExternal,
				Service: &v1alpha1.Service{Ports: []v1alpha1.ServicePort{{Name: "ldap", Port: 389}}}, External: &v1alpha1.External{Addresses: []string{"192.0.2.1"}}})
		},
		"cron job": func(a *v1alpha1.Application) {
			web(a).Workload, web(a).Schedule = v1alpha1.WorkloadCronJob, "@hourly"
		},
		"named target port": func(a *v1alpha1.Application) {
			web(a).Template.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
			web(a).Service.Ports[0].TargetPort = new(intstr.FromString("http"))
		},
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			app := score("edu")
			change(app)
			if _, err := newWorld(app).plan(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNamesOfComponentsInOnePartition(t *testing.T) {
	other := func(age time.Duration) *v1alpha1.Delivery {
		return &v1alpha1.Delivery{
			ObjectMeta: metav1.ObjectMeta{Name: "grades.prod-sh", CreationTimestamp: metav1.NewTime(time.Now().Add(-age))},
			Spec: v1alpha1.DeliverySpec{Application: "grades", Partition: "prod-sh", Tracks: []v1alpha1.Track{
				{Role: v1alpha1.TrackStable, Replicas: map[string]int32{"db-service": 1}}}},
		}
	}
	w := newWorld(score("edu"))
	w.others = []*v1alpha1.Delivery{other(time.Hour)}
	_, err := w.plan()
	expect(t, err, v1alpha1.ReasonInvalid, "application grades already has a component db-service in partition prod-sh")

	w.others = nil
	w.carryOut(t)
	w.deliveries["prod-sh"].CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Minute))
	w.others = []*v1alpha1.Delivery{other(0)}
	if _, err := w.plan(); err != nil {
		t.Errorf("who was first keeps the name: %v", err)
	}
	w.others[0].Spec.Partition = "test-bj"
	w.deliveries["prod-sh"].CreationTimestamp = metav1.Now()
	if _, err := w.plan(); err != nil {
		t.Errorf("another partition is another namespace: %v", err)
	}
	daemon := other(time.Hour)
	daemon.Spec.Tracks[0].Replicas = nil
	daemon.Status.Inventory = []v1alpha1.InventoryEntry{{Kind: "DaemonSet", Name: "score-record", Component: "score-record"}, {Kind: "Secret", Name: "x"}}
	w.others = []*v1alpha1.Delivery{daemon}
	_, err = w.plan()
	expect(t, err, v1alpha1.ReasonInvalid, "component score-record in partition prod-sh")
}

func TestNodePortsOfOthers(t *testing.T) {
	app := score("edu")
	w := newWorld(app)
	reserve := func(tenant, application string) {
		name := v1alpha1.NodePortName("shanghai", 30001)
		w.nodePorts[name] = &v1alpha1.NodePort{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.NodePortSpec{Cluster: "shanghai", Port: 30001,
			Owner: v1alpha1.NodePortOwner{Tenant: tenant, Application: application, Partition: "p", Component: "c", PortName: "n"}}}
	}
	reserve("finance", "score")
	_, err := w.plan()
	expect(t, err, v1alpha1.ReasonNodePortTaken, "node port 30001 of cluster shanghai belongs to another tenant")

	app.Spec.Placement.Partitions[1].Overrides = []v1alpha1.Override{{Component: "score-record", NodePorts: map[string]int32{"http": 30002}}}
	p, err := w.plan()
	if err != nil {
		t.Fatalf("an override chooses another port: %v", err)
	}
	if p.NodePorts[0].Port != 30001 || p.NodePorts[1].Port != 30002 || p.NodePorts[1].Owner.Partition != "prod-sh" {
		t.Errorf("unexpected reservations %v", p.NodePorts)
	}
	app.Spec.Placement.Partitions[1].Overrides = nil
	reserve("edu", "score")
	if _, err := w.plan(); err != nil {
		t.Errorf("the application's own reservation is no conflict: %v", err)
	}
}
