package partition_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/partition"
	"yunfan.io/yunfan/internal/testkit"
)

func cpu(amount string) func(*v1alpha1.PartitionSpec) {
	return func(s *v1alpha1.PartitionSpec) { s.Quota = list("requests.cpu", amount) }
}

// secondServer runs the controllers once more, with a connection of its own to the same member.
func (w *world) secondServer() {
	w.Helper()
	var set *member.Set
	testkit.StartManager(w, hub, func(mgr manager.Manager) (err error) {
		if set, err = member.NewSet(mgr); err != nil {
			return err
		}
		return partition.New(set).SetupWithManager(mgr)
	})
	config, err := clientcmd.RESTConfigFromKubeConfig(w.member.Kubeconfig(w, ""))
	if err != nil {
		w.Fatal(err)
	}
	m, err := set.Connect(w.cluster, "1", config)
	if err != nil {
		w.Fatal(err)
	}
	NewWithT(w).Eventually(func() bool { ok, _ := m.Answering(); return ok }, "20s").Should(BeTrue())
	set.Admit(w.cluster)
}

// neverMore fails the test as soon as the partitions of a tenant were given more than limit, on the hub or in the
// cluster. It watches until the test ends.
func (w *world) neverMore(tenant string, limit string) {
	w.Helper()
	most := resource.MustParse(limit)
	c, err := client.NewWithWatch(w.member.Config, client.Options{Scheme: testkit.Scheme()})
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	changes, err := c.Watch(ctx, &corev1.ResourceQuotaList{}, client.MatchingLabels{v1alpha1.LabelTenant: tenant})
	if err != nil {
		cancel()
		w.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		granted := map[string]resource.Quantity{}
		for change := range changes.ResultChan() {
			quota, ok := change.Object.(*corev1.ResourceQuota)
			if !ok {
				if ctx.Err() == nil {
					w.Errorf("watching the cluster's quotas: %v", change.Object)
				}
				return
			}
			if granted[quota.Namespace] = quota.Spec.Hard["requests.cpu"]; change.Type == watch.Deleted {
				delete(granted, quota.Namespace)
			}
			sum := resource.Quantity{}
			for _, amount := range granted {
				sum.Add(amount)
			}
			if sum.Cmp(most) > 0 {
				w.Errorf("the cluster grants %s of %s", sum.String(), limit)
				return
			}
		}
	}()
	w.Cleanup(func() { cancel(); changes.Stop(); <-done })
}

// hard sums up what the cluster grants to a tenant's partitions, from one consistent list.
func (w *world) hard(ctx context.Context, tenant string) resource.Quantity {
	var quotas corev1.ResourceQuotaList
	sum := resource.Quantity{}
	if err := w.member.Client.List(ctx, &quotas, client.MatchingLabels{v1alpha1.LabelTenant: tenant}); err != nil {
		return sum // the test has ended
	}
	for i := range quotas.Items {
		sum.Add(quotas.Items[i].Spec.Hard["requests.cpu"])
	}
	return sum
}

func (w *world) stored(tenant string) *v1alpha1.Tenant {
	w.Helper()
	t := &v1alpha1.Tenant{}
	if err := hub.Client.Get(w.Context(), client.ObjectKey{Name: tenant}, t); err != nil {
		w.Fatal(err)
	}
	return t
}

// Twenty partitions want the last of a quota at the same instant, and two servers give it out.
func TestRES03_TenantQuotaIsNeverExceeded(t *testing.T) {
	w := start(t)
	w.secondServer()
	g := NewWithT(t)
	tenant := w.tenant(list("requests.cpu", "7"))
	w.neverMore(tenant, "7")
	const n = 20
	partitions := make([]*v1alpha1.Partition, n)
	errs := make(chan error, n)
	for i := range n {
		p := &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: fmt.Sprintf("p%d", i)}, Spec: v1alpha1.PartitionSpec{Cluster: w.cluster, Quota: list("requests.cpu", "1")}}
		partitions[i] = p
		go func() { errs <- hub.Client.Create(t.Context(), p) }()
	}
	for range n {
		g.Expect(<-errs).To(Succeed())
	}
	count := func() (ready, refused int) {
		for _, p := range partitions {
			if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
				continue
			}
			c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
			switch {
			case c != nil && c.Status == metav1.ConditionTrue:
				ready++
			case c != nil && c.Reason == v1alpha1.ReasonQuotaExceeded && strings.Contains(c.Message, "requests.cpu: 1 is asked for, but of the 7 of tenant "+tenant+" 7 is given to others"):
				refused++
			}
		}
		return ready, refused
	}
	g.Eventually(func() string { return fmt.Sprint(count()) }, "60s", "200ms").Should(Equal("7 13"))
	g.Expect(w.stored(tenant).Status.Allocated).To(HaveLen(7))
	sum := w.hard(t.Context(), tenant)
	g.Expect(sum.String()).To(Equal("7"))

	for i, p := range partitions { // one that goes lets another in
		if meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionReady) {
			w.delete(p)
			w.gone(hub.Client, p)
			partitions = append(partitions[:i], partitions[i+1:]...)
			break
		}
	}
	g.Eventually(func() string { return fmt.Sprint(count()) }, "30s", "200ms").Should(Equal("7 12"))
	for _, p := range partitions { // the refused ones first, or each that goes would let one in
		if !meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionReady) {
			w.delete(p)
		}
	}
}

// What a cluster that does not answer may still hand out is not given to others.
func TestRES03_LostClusterKeepsItsShare(t *testing.T) {
	t.Parallel() // it waits more than it works
	w := start(t)
	tenant := w.tenant(list("requests.cpu", "4"))
	w.neverMore(tenant, "4")
	first := w.ready(tenant, "first", cpu("3"))
	w.proxy.Freeze(t)
	w.eventually(first, v1alpha1.ReasonUnreachable, "")
	w.update(first, cpu("1"))
	w.eventually(first, v1alpha1.ReasonUnreachable, "")
	second := w.partition(tenant, "second", cpu("3"))
	w.eventually(second, v1alpha1.ReasonQuotaExceeded, "3 is given to others (first 3), so 1 is left")
	w.proxy.Pass(t)
	w.eventually(first, v1alpha1.ReasonReady, "")
	w.eventually(second, v1alpha1.ReasonReady, "")
}

func TestRES03_TenantQuotaLowered(t *testing.T) {
	w := start(t)
	tenant := w.tenant(list("requests.cpu", "4"))
	first, second := w.ready(tenant, "first", cpu("2")), w.ready(tenant, "second", cpu("2"))
	lowered := w.stored(tenant)
	lowered.Spec.Quota = list("requests.cpu", "3")
	if err := hub.Client.Update(t.Context(), lowered); err != nil {
		t.Fatal(err)
	}
	w.eventually(first, v1alpha1.ReasonReady, "")
	w.update(second, cpu("3"))
	w.eventually(second, v1alpha1.ReasonQuotaExceeded, "3 is asked for, but of the 3 of tenant "+tenant+" 2 is given to others (first 2), so 1 is left")
	w.update(second, cpu("1500m"))
	w.eventually(second, v1alpha1.ReasonReady, "")
	sum := w.hard(t.Context(), tenant)
	if sum.String() != "3500m" {
		t.Errorf("want what was given to stay, and less to be given: %s", sum.String())
	}
	third := w.partition(tenant, "third", cpu("100m"))
	w.eventually(third, v1alpha1.ReasonQuotaExceeded, "so 0 is left")
}

func TestRES03_QuotaThatCheats(t *testing.T) {
	w := start(t)
	tenant := w.tenant(list("requests.cpu", "4"))
	w.eventually(w.partition(tenant, "negative", cpu("-3")), v1alpha1.ReasonInvalid, "cannot be below 0")
	w.eventually(w.partition(tenant, "other-name", func(s *v1alpha1.PartitionSpec) { s.Quota = list("cpu", "5") }), v1alpha1.ReasonQuotaExceeded, "5 is asked for")
	w.ready(tenant, "short-name", func(s *v1alpha1.PartitionSpec) { s.Quota = list("cpu", "3") })
	dropped := w.ready(tenant, "dropped", cpu("1"))
	w.update(dropped, func(s *v1alpha1.PartitionSpec) { s.Quota = list("pods", "1") })
	w.eventually(dropped, v1alpha1.ReasonQuotaExceeded, `set spec.quota["requests.cpu"]`)
	quota := &corev1.ResourceQuota{}
	w.get(quota, dropped.Status.Namespace, "yunfan")
	if got := text(quota.Spec.Hard, "requests.cpu"); got != "1" {
		t.Errorf("the cluster's quota became %v", quota.Spec.Hard)
	}
}

// All four fields of a partition's quota, refused by the cluster with a message that says which.
func TestRES03_QuotaFields(t *testing.T) {
	w := start(t)
	p := w.ready(w.tenant(nil), "prod", func(s *v1alpha1.PartitionSpec) {
		s.Quota = list("limits.cpu", "2", "limits.memory", "1Gi", "pods", "2", "persistentvolumeclaims", "1", "requests.storage", "10Gi")
	})
	g := NewWithT(t)
	ns := p.Status.Namespace
	sized := func(cpu, memory string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Limits = list("cpu", cpu, "memory", memory) }
	}
	claim := func() *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: ns, GenerateName: "c-"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: list("storage", "5Gi")},
		}}
	}
	create := func(o client.Object) error { return w.member.Client.Create(t.Context(), o) }
	g.Eventually(func() error { return create(pod(ns, sized("1", "512Mi"))) }, "15s").Should(Succeed(), "the quota is known after a moment")
	g.Expect(create(pod(ns, sized("1500m", "1Mi")))).To(MatchError(ContainSubstring("exceeded quota: yunfan, requested: limits.cpu=1500m, used: limits.cpu=1, limited: limits.cpu=2")))
	g.Expect(create(pod(ns, sized("1m", "600Mi")))).To(MatchError(ContainSubstring("limits.memory=600Mi, used: limits.memory=512Mi, limited: limits.memory=1Gi")))
	g.Expect(create(pod(ns, sized("1m", "1Mi")))).To(Succeed())
	g.Expect(create(pod(ns, sized("1m", "1Mi")))).To(MatchError(ContainSubstring("requested: pods=1, used: pods=2, limited: pods=2")))
	g.Expect(create(claim())).To(Succeed())
	g.Expect(create(claim())).To(MatchError(ContainSubstring("persistentvolumeclaims=1, used: persistentvolumeclaims=1, limited: persistentvolumeclaims=1")))
}
