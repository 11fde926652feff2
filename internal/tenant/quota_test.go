package tenant_test

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/tenant"
	"yunfan.io/yunfan/internal/testkit"
)

func cpus(amount string) corev1.ResourceList {
	return corev1.ResourceList{"requests.cpu": resource.MustParse(amount)}
}

// given makes a partition and writes what it was given, as the partition's controller does.
func given(t *testing.T, o *v1alpha1.Tenant, name string, quota corev1.ResourceList) {
	t.Helper()
	testkit.Create(t, hub.Client, &v1alpha1.Partition{
		ObjectMeta: metav1.ObjectMeta{Namespace: o.Name, Name: name}, Spec: v1alpha1.PartitionSpec{Cluster: "c", Quota: quota},
	})
	write(t, o, func() {
		o.Status.Allocated = append(o.Status.Allocated, v1alpha1.Allocation{Partition: name, Quota: quota})
	})
}

func write(t *testing.T, o *v1alpha1.Tenant, change func()) {
	t.Helper()
	NewWithT(t).Eventually(func() error {
		if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		change()
		return hub.Client.Status().Update(t.Context(), o)
	}, "5s").Should(Succeed())
}

// within waits until the condition WithinQuota has the status and the words.
func within(t *testing.T, o *v1alpha1.Tenant, status metav1.ConditionStatus, words ...string) {
	t.Helper()
	NewWithT(t).Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o)).To(Succeed())
		c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionWithinQuota)
		g.Expect(c).NotTo(BeNil())
		g.Expect(c.Status).To(Equal(status), c.Message)
		for _, word := range words {
			g.Expect(c.Message).To(ContainSubstring(word))
		}
	}, "15s", "50ms").Should(Succeed())
}

func setQuota(t *testing.T, o *v1alpha1.Tenant, quota corev1.ResourceList) {
	t.Helper()
	NewWithT(t).Eventually(func() error {
		if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		o.Spec.Quota = quota
		return hub.Client.Update(t.Context(), o)
	}, "5s").Should(Succeed())
}

func TestRES03_TenantSaysWhenItsQuotaIsOverdrawn(t *testing.T) {
	run(t)
	o := create(t, testkit.Name(t))
	setQuota(t, o, cpus("8"))
	eventually(t, o, v1alpha1.ReasonReady, "")
	given(t, o, "a", cpus("3"))
	given(t, o, "b", cpus("2"))
	within(t, o, metav1.ConditionTrue)
	setQuota(t, o, cpus("4"))
	within(t, o, metav1.ConditionFalse, "requests.cpu: the quota is 4, but 5 is given out (a 3, b 2), 1 too much", "nothing is taken away")
	if len(o.Status.Allocated) != 2 {
		t.Errorf("what was given changed: %v", o.Status.Allocated)
	}
	setQuota(t, o, corev1.ResourceList{"requests.cpu": resource.MustParse("5"), "pods": resource.MustParse("9")})
	within(t, o, metav1.ConditionFalse, "pods: the quota is 9, but these partitions have none and may use any amount: a, b")
	setQuota(t, o, cpus("5"))
	within(t, o, metav1.ConditionTrue)
	setQuota(t, o, cpus("-5"))
	eventually(t, o, v1alpha1.ReasonInvalid, "cannot be below 0")
}

// What was given to a partition that somebody removed past its finalizer is not lost for ever.
func TestRES03_QuotaOfGonePartitionsComesBack(t *testing.T) {
	run(t)
	o := create(t, testkit.Name(t))
	eventually(t, o, v1alpha1.ReasonReady, "")
	given(t, o, "stays", cpus("1"))
	write(t, o, func() {
		o.Status.Allocated = append(o.Status.Allocated, v1alpha1.Allocation{Partition: "gone", Quota: cpus("1")})
	})
	NewWithT(t).Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o)).To(Succeed())
		g.Expect(o.Status.Allocated).To(HaveLen(1))
		g.Expect(o.Status.Allocated[0].Partition).To(Equal("stays"))
	}, "15s", "50ms").Should(Succeed())
}

func TestRES07_TenantsView(t *testing.T) {
	run(t)
	g := NewWithT(t)
	o, other := create(t, testkit.Name(t)), create(t, testkit.Name(t))
	setQuota(t, o, cpus("8"))
	eventually(t, o, v1alpha1.ReasonReady, "")
	for _, name := range []string{"a", "b"} {
		given(t, o, name, cpus("3"))
		p := &v1alpha1.Partition{}
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKey{Namespace: o.Name, Name: name}, p)).To(Succeed())
		p.Status = v1alpha1.PartitionStatus{Hard: cpus("3"), Used: cpus("500m"), Pods: 2}
		g.Expect(hub.Client.Status().Update(t.Context(), p)).To(Succeed())
	}
	set, err := kubernetes.NewForConfig(hub.Config)
	g.Expect(err).NotTo(HaveOccurred())
	authorizer := rest.NewAuthorizer(set)
	authorizer.DecideFirst(func(user rest.User, a authorizationv1.ResourceAttributes) (allowed, decided bool) {
		return a.Verb == "get" && user.Name == "yunfan:"+a.Name, strings.HasPrefix(user.Name, v1alpha1.UserPrefix)
	})
	see := func(user rest.User, query string) []tenant.Row {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(rest.WithUser(t.Context(), user), "GET", "/?"+query, nil)
		g.Expect((&tenant.API{Hub: hub.Client, Authorizer: authorizer}).Routes()[0].Handler(w, r)).To(Succeed())
		var page rest.Page[tenant.Row]
		g.Expect(json.Unmarshal(w.Body.Bytes(), &page)).To(Succeed())
		return page.Items
	}
	rows := see(rest.User{Name: "yunfan:" + o.Name}, "")
	g.Expect(rows).To(HaveLen(1), "his own tenant only")
	amount := func(l corev1.ResourceList) string { q := l["requests.cpu"]; return q.String() }
	row := rows[0]
	g.Expect([]string{amount(row.Quota), amount(row.Given), amount(row.Left), amount(row.Hard), amount(row.Used)}).To(Equal([]string{"8", "6", "2", "6", "1"}))
	g.Expect(row.RunningPods).To(BeEquivalentTo(4))
	g.Expect(row.Partitions).To(Equal(2))
	g.Expect(see(rest.User{Name: "admin", Groups: []string{"system:masters"}}, "tenant="+other.Name+"&tenant="+o.Name)).To(HaveLen(2))
	g.Expect(see(rest.User{Name: "stranger"}, "")).To(BeEmpty())
}
