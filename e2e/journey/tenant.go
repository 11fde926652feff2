//go:build e2e

package journey

import (
	"context"
	"fmt"
	"time"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// Partition creates a partition of the tenant and waits until it is ready.
func (j *Journey) Partition(name, cluster string, change ...func(*v1alpha1.PartitionSpec)) *v1alpha1.Partition {
	j.Helper()
	p := &v1alpha1.Partition{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: j.Tenant},
		Spec:       v1alpha1.PartitionSpec{Cluster: cluster},
	}
	for _, c := range change {
		c(&p.Spec)
	}
	j.Create(p)
	j.Eventually(j.Condition(p, v1alpha1.ConditionReady)).Should(gomega.HavePrefix("True"))
	return p
}

// Public opens a partition to everybody: by default, whoever is not of the tenant does not reach its pods, and neither
// does the machine that the journeys run on.
func Public(s *v1alpha1.PartitionSpec) { s.Isolation.Ingress = v1alpha1.IsolationAll }

// Application creates an application with a placement.
func (j *Journey) Application(name string, placement v1alpha1.Placement, components ...v1alpha1.Component) *v1alpha1.Application {
	j.Helper()
	a := &v1alpha1.Application{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: j.Tenant},
		Spec:       v1alpha1.ApplicationSpec{Version: "v1", Placement: placement, Components: components},
	}
	j.Create(a)
	return a
}

// Refused proves that an application is refused with all of the words: at once by the webhook or, should the server have
// been away at that moment, in its condition.
func (j *Journey) Refused(name string, placement v1alpha1.Placement, component v1alpha1.Component, words ...string) {
	j.Helper()
	a := &v1alpha1.Application{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: j.Tenant},
		Spec:       v1alpha1.ApplicationSpec{Placement: placement, Components: []v1alpha1.Component{component}},
	}
	said := j.Condition(a, v1alpha1.ConditionReady)
	if err := j.Hub().Create(j.ctx, a); err != nil {
		said = func() (string, error) { return err.Error(), nil }
	} else {
		defer func() { j.Expect(j.Hub().Delete(j.ctx, a)).To(gomega.Succeed()) }()
	}
	for _, word := range words {
		j.Eventually(said).WithTimeout(10 * time.Second).Should(gomega.ContainSubstring(word))
	}
}

// In places everything in full in each of the partitions.
func In(partitions ...string) v1alpha1.Placement {
	var p v1alpha1.Placement
	for _, name := range partitions {
		p.Partitions = append(p.Partitions, v1alpha1.PartitionChoice{Name: name})
	}
	return p
}

// Ready waits until an application is ready at its present generation.
func (j *Journey) Ready(a *v1alpha1.Application) {
	j.Helper()
	j.Eventually(j.Condition(a, v1alpha1.ConditionReady)).Should(gomega.HavePrefix("True"))
}

// Condition reads an object of the hub and gives its condition as "Status Reason: message", for matchers. A condition
// of an older generation is not given.
func (j *Journey) Condition(o reconcile.Object, kind string) func() (string, error) {
	return func() (string, error) {
		if err := j.Get(o); err != nil {
			return "", err
		}
		c := meta.FindStatusCondition(*o.StatusConditions(), kind)
		if c == nil || c.ObservedGeneration != o.GetGeneration() {
			return fmt.Sprintf("%s not yet decided for generation %d", kind, o.GetGeneration()), nil
		}
		return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message), nil
	}
}

// Placement reads an application and gives its state in a partition.
func (j *Journey) Placement(a *v1alpha1.Application, partition string) v1alpha1.PlacementStatus {
	j.Helper()
	if err := j.Get(a); err != nil {
		j.Fatal(err)
	}
	for _, p := range a.Status.Placements {
		if p.Partition == partition {
			return p
		}
	}
	return v1alpha1.PlacementStatus{}
}

// Pods of a component in a member's namespace; of all components if none is named.
func (j *Journey) Pods(cluster, namespace, component string) []corev1.Pod {
	j.Helper()
	var pods corev1.PodList
	options := []client.ListOption{client.InNamespace(namespace)}
	if component != "" {
		options = append(options, client.MatchingLabels{v1alpha1.LabelComponent: component})
	}
	if err := j.Clusters[cluster].List(j.ctx, &pods, options...); err != nil {
		j.Fatalf("listing pods of %s in %s: %v", namespace, cluster, err)
	}
	return pods.Items
}

// end shows what there was if the test failed, and removes the tenant's things in the order in which people would.
func (j *Journey) end() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), patience)
	defer cancel()
	j.ctx = ctx
	if j.Failed() {
		j.show()
	}
	for _, kind := range []client.Object{&v1alpha1.Route{}, &v1alpha1.Application{}, &v1alpha1.Configuration{}, &v1alpha1.Partition{}} {
		if err := j.Hub().DeleteAllOf(ctx, kind, client.InNamespace(j.Tenant)); err != nil {
			j.Errorf("removing the tenant's %T: %v", kind, err)
		}
	}
	if err := j.waitForNone(ctx); err != nil {
		j.Errorf("the tenant's partitions were not removed: %v", err)
		j.show()
	}
	if err := j.Hub().Delete(ctx, &v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: j.Tenant}}); ignoreNotFound(err) != nil {
		j.Errorf("removing the tenant: %v", err)
	}
}

func (j *Journey) waitForNone(ctx context.Context) error {
	return wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) {
		var left v1alpha1.PartitionList
		err := j.Hub().List(ctx, &left, client.InNamespace(j.Tenant))
		return err == nil && len(left.Items) == 0, nil
	})
}

// show logs the tenant's objects on the hub, and pods and events of its namespaces on the members.
func (j *Journey) show() {
	run := func(cluster string, args ...string) {
		j.Helper()
		j.Logf("%s$ kubectl %v\n%s", cluster, args, j.Try(cluster, args...))
	}
	run(Hub, "get", "clusters")
	run(Hub, "-n", j.Tenant, "get", "applications,deliveries,partitions,routes,rollouts", "-o", "yaml", "--show-managed-fields=false")
	var partitions v1alpha1.PartitionList
	if err := j.Hub().List(j.ctx, &partitions, client.InNamespace(j.Tenant)); err != nil {
		j.Log(err)
	}
	for _, p := range partitions.Items {
		run(p.Spec.Cluster, "-n", p.MemberNamespace(), "get", "pods", "-o", "wide")
		run(p.Spec.Cluster, "-n", p.MemberNamespace(), "get", "events", "--sort-by=.lastTimestamp")
	}
}
