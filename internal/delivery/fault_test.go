package delivery

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"slices"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

// TestServerDies: the server ends in the middle of many deliveries, while they are changed, and another takes over.
// Before every request that creates an object it is in a stored inventory, so that nothing is ever left behind.
func TestServerDies(t *testing.T) {
	const applications = 20
	w := newWorld(t)
	p := w.partition(t)
	var mu sync.Mutex
	unlisted := []string{}
	w.before = func(r *http.Request) {
		if r.Method != http.MethodPatch || listed(p, path.Base(r.URL.Path)) {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		unlisted = append(unlisted, r.URL.Path)
	}
	var deliveries []*v1alpha1.Delivery
	t.Run("first server", func(t *testing.T) {
		w.serve(t)
		for i := range applications {
			name := fmt.Sprintf("app%d", i)
			r := newRevision(p, name, "aaaaaaaaaa", web(name), web(name+"-old"))
			testkit.Create(t, hub.Client, r)
			deliveries = append(deliveries, deliver(t, p, r, 0))
		}
		object(t, w, p, "app0", &appsv1.Deployment{}, nil) // some are there, and the rest may be under way
	})
	for i, d := range deliveries {
		name := fmt.Sprintf("app%d", i)
		r := newRevision(p, name, "bbbbbbbbbb", web(name))
		testkit.Create(t, hub.Client, r)
		if i%2 == 0 {
			move(t, d, func(s *v1alpha1.DeliverySpec) { s.Tracks[0] = track(r, 0) })
		} else if err := hub.Client.Delete(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	w.serve(t)
	for i, d := range deliveries {
		if i%2 == 0 {
			eventually(t, d, "applied by the second server", applied)
		}
	}
	NewWithT(t).Eventually(func() []string { return workloads(t, w, p) }, "30s", "100ms").Should(HaveLen(applications / 2))
	for _, name := range workloads(t, w, p) {
		if len(name) > len("app00") {
			t.Errorf("%s was left behind", name)
		}
	}
	if len(unlisted) > 0 {
		t.Errorf("applied before they were in a stored inventory: %v", unlisted)
	}
}

// listed says whether a stored inventory has an object.
func listed(p *v1alpha1.Partition, name string) bool {
	list := &v1alpha1.DeliveryList{}
	if err := hub.Client.List(context.Background(), list, client.InNamespace(p.Namespace)); err != nil {
		return true // the test is over
	}
	return slices.ContainsFunc(list.Items, func(d v1alpha1.Delivery) bool {
		return slices.ContainsFunc(d.Status.Inventory, func(e v1alpha1.InventoryEntry) bool { return e.Name == name })
	})
}

func workloads(t *testing.T, w *world, p *v1alpha1.Partition) []string {
	t.Helper()
	list := &appsv1.DeploymentList{}
	if err := w.member.Client.List(t.Context(), list, client.InNamespace(p.MemberNamespace())); err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names
}

// TestUnreachable: a member is lost in each of the ways a network loses one, the application is changed, and the change
// arrives when the member is back. Meanwhile what is shown is the last state, with its age, and not as healthy.
func TestUnreachable(t *testing.T) {
	w := newWorld(t)
	proxy := testkit.NewProxy(t, w.member.Address())
	w.through = proxy.Address()
	w.serve(t)
	p := w.partition(t)
	d := deliver(t, p, revision(t, p, "shop", "aaaaaaaaaa", web("front")), 1)
	eventually(t, d, "applied", applied)
	replicas := int32(1)
	for name, lose := range map[string]func(testing.TB){"refused": proxy.Refuse, "frozen": proxy.Freeze, "dropped": proxy.Drop} {
		t.Run(name, func(t *testing.T) {
			lose(t)
			lost := time.Now()
			isLost := is(v1alpha1.ConditionHealthy, metav1.ConditionUnknown, v1alpha1.ReasonUnreachable)
			got := &v1alpha1.Delivery{}
			NewWithT(t).Eventually(func() bool {
				return hub.Client.Get(t.Context(), keyOfDelivery(d), got) == nil && isLost(got)
			}, "15s", "50ms").Should(BeTrue())
			if took := time.Since(lost); took > 12*time.Second {
				t.Errorf("it took %v to say so", took)
			}
			if got.Status.LastSeenTime == nil || got.Status.LastSeenTime.After(time.Now()) || len(got.Status.Tracks) == 0 {
				t.Errorf("the last state is gone: %+v", got.Status)
			}
			replicas++
			move(t, d, func(s *v1alpha1.DeliverySpec) { s.Tracks[0].Replicas = map[string]int32{"front": replicas} })
			proxy.Pass(t)
			object(t, w, p, "front", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return *o.Spec.Replicas == replicas })
			eventually(t, d, "applied", applied)
		})
	}
}

// TestKeeper: Deliveries to clusters that were never reached or are gone say so, and can be deleted when it is gone.
func TestKeeper(t *testing.T) {
	w := newWorld(t).serve(t)
	p := w.partition(t)
	other := &v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: testkit.Name(t)},
		Spec: v1alpha1.ClusterSpec{Connection: v1alpha1.ClusterConnection{KubeconfigSecretRef: &v1alpha1.SecretReference{Name: "none"}}}}
	testkit.Create(t, hub.Client, other)
	other.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse,
		Reason: v1alpha1.ReasonUnreachable, Message: "refused", LastTransitionTime: metav1.Now()}}
	if err := hub.Client.Status().Update(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	r := revision(t, p, "shop", "aaaaaaaaaa", web("front"))
	d := newDelivery(p, r, 1)
	d.Spec.Cluster, d.Labels[v1alpha1.LabelCluster] = other.Name, other.Name
	testkit.Create(t, hub.Client, d)
	unknown := func(reason string) func() bool {
		return func() bool {
			return hub.Client.Get(t.Context(), keyOfDelivery(d), d) == nil && is(v1alpha1.ConditionHealthy, metav1.ConditionUnknown, reason)(d)
		}
	}
	g := NewWithT(t)
	g.Eventually(unknown(v1alpha1.ReasonUnreachable), "10s").Should(BeTrue())
	if err := hub.Client.Delete(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	g.Eventually(unknown(v1alpha1.ReasonClusterNotFound), "10s").Should(BeTrue())
	if err := hub.Client.Delete(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	g.Eventually(func() bool { return apierrors.IsNotFound(hub.Client.Get(t.Context(), keyOfDelivery(d), d)) }, "10s").Should(BeTrue())
}

// TestAdopted: in a namespace that was there before, objects that are nobody's are taken over.
func TestAdopted(t *testing.T) {
	w := newWorld(t).serve(t)
	p := w.partition(t, func(p *v1alpha1.Partition) { p.Spec.Adopt = true })
	testkit.Create(t, w.member.Client, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "front", Namespace: p.MemberNamespace()},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "old", Port: 81}}}})
	d := deliver(t, p, revision(t, p, "shop", "aaaaaaaaaa", web("front")), 1)
	eventually(t, d, "applied", applied)
	object(t, w, p, "front", &corev1.Service{}, func(s *corev1.Service) bool { return len(s.Spec.Ports) == 1 && s.Spec.Ports[0].Port == 80 })
}

func keyOfDelivery(d *v1alpha1.Delivery) client.ObjectKey { return client.ObjectKeyFromObject(d) }
