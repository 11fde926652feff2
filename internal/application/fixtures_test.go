package application

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

// list makes quantities from pairs of names and values.
func list(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func template(containers ...corev1.Container) *corev1.PodTemplateSpec {
	return &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: containers}}
}

// score is the students' scores: a database and a web service in front of it, in two partitions.
func score(namespace string) *v1alpha1.Application {
	return &v1alpha1.Application{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "score", Generation: 1},
		Spec: v1alpha1.ApplicationSpec{
			Version: "v1", Description: "students score management",
			Components: []v1alpha1.Component{
				{
					Name: "db-service", Workload: v1alpha1.WorkloadStatefulSet, Replicas: ptr.To[int32](1),
					Service:  &v1alpha1.Service{Type: corev1.ServiceTypeClusterIP, Ports: []v1alpha1.ServicePort{{Name: "sql", Port: 3306}}},
					Template: template(corev1.Container{Name: "mariadb", Image: "registry.yunfan.internal/db-service:v1"}),
				},
				{
					Name: "score-record", Workload: v1alpha1.WorkloadDeployment, Replicas: ptr.To[int32](10), DependsOn: []string{"db-service"},
					Service:  &v1alpha1.Service{Type: corev1.ServiceTypeNodePort, Ports: []v1alpha1.ServicePort{{Name: "http", Port: 8080, NodePort: 30001}}},
					Template: template(corev1.Container{Name: "web", Image: "registry.yunfan.internal/score-record:v1"}),
				},
			},
			Placement: v1alpha1.Placement{
				Policy: v1alpha1.PlacementWeighted,
				Partitions: []v1alpha1.PartitionChoice{
					{Name: "prod-bj", Weight: ptr.To[int32](7)},
					{Name: "prod-sh", Weight: ptr.To[int32](3)},
				},
			},
		},
	}
}

func newPartition(namespace, name, cluster string) *v1alpha1.Partition {
	return &v1alpha1.Partition{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1alpha1.PartitionSpec{Cluster: cluster},
		Status: v1alpha1.PartitionStatus{Conditions: []metav1.Condition{{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady, LastTransitionTime: metav1.Now(),
		}}},
	}
}

// newWorld is the application in a world with partitions prod-bj and prod-sh and nothing else.
func newWorld(app *v1alpha1.Application) *world {
	return &world{
		app: app,
		partitions: []v1alpha1.Partition{
			*newPartition(app.Namespace, "prod-bj", "beijing"), *newPartition(app.Namespace, "prod-sh", "shanghai"),
		},
		clusters:       map[string]map[string]string{},
		configurations: map[string]*v1alpha1.Configuration{},
		revisions:      map[string]*v1alpha1.ApplicationRevision{},
		deliveries:     map[string]*v1alpha1.Delivery{},
		nodePorts:      map[string]*v1alpha1.NodePort{},
	}
}

// deliver puts the plan into the world as if it had been carried out.
func (w *world) carryOut(t *testing.T) *Plan {
	t.Helper()
	p, err := w.plan()
	if err != nil {
		t.Fatal(err)
	}
	r := p.Revision.DeepCopy()
	r.ResourceVersion = "1"
	w.revisions[r.Name] = r
	w.app.Status.Revision = r.Name
	for i := range p.Deliveries {
		w.deliveries[p.Deliveries[i].Spec.Partition] = &p.Deliveries[i]
	}
	return p
}

func web(app *v1alpha1.Application) *v1alpha1.Component { return &app.Spec.Components[1] }
