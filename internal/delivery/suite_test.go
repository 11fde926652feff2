package delivery

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

// world is a hub with a running server and one member, cluster.
type world struct {
	member  *testkit.Member
	cluster string
	set     *member.Set
	// requests counts what is sent to the member by identities of partitions.
	requests *atomic.Int64
	// before, if set, sees each of these requests before the member does.
	before func(*http.Request)
	// through is the address by which the member is reached; empty for its own.
	through string
}

// newWorld starts a member and joins it.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{member: testkit.StartMember(t), cluster: testkit.Name(t), requests: &atomic.Int64{}}
	testkit.Create(t, hub.Client, &v1alpha1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Name: w.cluster},
		Spec:       v1alpha1.ClusterSpec{Connection: v1alpha1.ClusterConnection{KubeconfigSecretRef: &v1alpha1.SecretReference{Name: w.cluster}}},
	})
	return w
}

// serve runs the delivery controllers until the test or stop ends them.
func (w *world) serve(t *testing.T) *world {
	t.Helper()
	testkit.StartManager(t, hub, func(mgr manager.Manager) (err error) {
		if w.set, err = member.NewSet(mgr); err != nil {
			return err
		}
		w.set.Register(Controller{})
		return (&Keeper{Hub: mgr.GetClient(), Members: w.set}).SetupWithManager(mgr)
	})
	w.join(t, w.config())
	return w
}

func (w *world) config() *rest.Config {
	config := rest.CopyConfig(w.member.Config)
	if w.through != "" {
		config.Host = "https://" + w.through
	}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return counter{w, next} })
	return config
}

// rejoin starts the member's controllers anew: they remember nothing.
func (w *world) rejoin(t *testing.T) {
	t.Helper()
	w.set.Disconnect(w.cluster)
	w.join(t, w.config())
}

func (w *world) join(t *testing.T, config *rest.Config) {
	t.Helper()
	m, err := w.set.Connect(w.cluster, "first", config)
	if err != nil {
		t.Fatal(err)
	}
	NewWithT(t).Eventually(func() bool { answering, _ := m.Answering(); return answering }, "20s", "50ms").Should(BeTrue())
	w.set.Admit(w.cluster)
}

// counter counts the requests that are made for a partition.
type counter struct {
	*world

	next http.RoundTripper
}

func (c counter) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("Impersonate-User") != "" {
		c.requests.Add(1)
		if c.before != nil {
			c.before(r)
		}
	}
	return c.next.RoundTrip(r)
}

// partition makes a tenant's namespace and a partition of it, ready, with what its controller sets up on the member.
func (w *world) partition(t *testing.T, change ...func(*v1alpha1.Partition)) *v1alpha1.Partition {
	t.Helper()
	tenant := testkit.Namespace(t, hub.Client)
	return w.partitionOf(t, tenant, "prod", change...)
}

func (w *world) partitionOf(t *testing.T, tenant, name string, change ...func(*v1alpha1.Partition)) *v1alpha1.Partition {
	t.Helper()
	p := &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: tenant}, Spec: v1alpha1.PartitionSpec{Cluster: w.cluster}}
	for _, c := range change {
		c(p)
	}
	testkit.Create(t, hub.Client, p)
	ns := p.MemberNamespace()
	account := metav1.ObjectMeta{Name: v1alpha1.DeliveryServiceAccount, Namespace: ns}
	testkit.Create(t, w.member.Client,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{
			v1alpha1.LabelTenant: tenant, v1alpha1.LabelPartition: name,
			"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "baseline",
		}}},
		&rbacv1.Role{ObjectMeta: account, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"", "apps", "batch", "discovery.k8s.io"}, Verbs: []string{"*"}, Resources: []string{
				"configmaps", "secrets", "services", "replicationcontrollers", "deployments", "statefulsets", "daemonsets", "jobs", "cronjobs", "endpointslices",
			}},
			{APIGroups: []string{""}, Verbs: []string{"get", "list", "watch"}, Resources: []string{"events"}},
			{APIGroups: []string{""}, Verbs: []string{"get", "list", "watch", "delete", "patch"}, Resources: []string{"pods"}},
		}},
		&rbacv1.RoleBinding{ObjectMeta: account, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: account.Name},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: account.Name, Namespace: ns}}},
	)
	w.ready(t, p, metav1.ConditionTrue)
	return p
}

func (w *world) ready(t *testing.T, p *v1alpha1.Partition, status metav1.ConditionStatus) {
	t.Helper()
	p.Status.Namespace = p.MemberNamespace()
	p.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: status, Reason: v1alpha1.ReasonReady, LastTransitionTime: metav1.Now()}}
	if err := hub.Client.Status().Update(t.Context(), p); err != nil {
		t.Fatalf("making the partition ready: %v", err)
	}
}

// web is a component with pods of one container and a service.
func web(name string, change ...func(*v1alpha1.Component)) v1alpha1.Component {
	c := v1alpha1.Component{
		Name: name, Workload: v1alpha1.WorkloadDeployment,
		Service:  &v1alpha1.Service{Type: corev1.ServiceTypeClusterIP, Ports: []v1alpha1.ServicePort{{Name: "http", Port: 80}}},
		Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:v1"}}}},
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

// revision makes a revision of an application.
func revision(t *testing.T, p *v1alpha1.Partition, application, hash string, components ...v1alpha1.Component) *v1alpha1.ApplicationRevision {
	t.Helper()
	r := newRevision(p, application, hash, components...)
	testkit.Create(t, hub.Client, r)
	return r
}

func newRevision(p *v1alpha1.Partition, application, hash string, components ...v1alpha1.Component) *v1alpha1.ApplicationRevision {
	return &v1alpha1.ApplicationRevision{
		ObjectMeta: metav1.ObjectMeta{Name: application + "-" + hash, Namespace: p.Namespace},
		Spec:       v1alpha1.ApplicationRevisionSpec{Application: application, Number: 1, Components: components},
	}
}

// deliver makes the Delivery of a revision, with the number of replicas for each component.
func deliver(t *testing.T, p *v1alpha1.Partition, r *v1alpha1.ApplicationRevision, replicas int32) *v1alpha1.Delivery {
	t.Helper()
	d := newDelivery(p, r, replicas)
	testkit.Create(t, hub.Client, d)
	return d
}

func newDelivery(p *v1alpha1.Partition, r *v1alpha1.ApplicationRevision, replicas int32) *v1alpha1.Delivery {
	application := r.Spec.Application
	return &v1alpha1.Delivery{
		ObjectMeta: metav1.ObjectMeta{
			Name: v1alpha1.DeliveryName(application, p.Name), Namespace: p.Namespace, Finalizers: []string{v1alpha1.FinalizerDelivery},
			Labels: map[string]string{v1alpha1.LabelApplication: application, v1alpha1.LabelPartition: p.Name, v1alpha1.LabelCluster: p.Spec.Cluster},
		},
		Spec: v1alpha1.DeliverySpec{Application: application, Partition: p.Name, Cluster: p.Spec.Cluster, Tracks: []v1alpha1.Track{track(r, replicas)}},
	}
}

func track(r *v1alpha1.ApplicationRevision, replicas int32) v1alpha1.Track {
	out := v1alpha1.Track{Role: v1alpha1.TrackStable, Revision: r.Name, Replicas: map[string]int32{}}
	for _, c := range r.Spec.Components {
		out.Replicas[c.Name] = replicas
	}
	return out
}

// move changes a Delivery's spec.
func move(t *testing.T, d *v1alpha1.Delivery, change func(*v1alpha1.DeliverySpec)) {
	t.Helper()
	before := d.DeepCopy()
	change(&d.Spec)
	if err := hub.Client.Patch(t.Context(), d, client.MergeFrom(before)); err != nil {
		t.Fatalf("changing the delivery: %v", err)
	}
}

// eventually reads a Delivery until done says that it is as wanted.
func eventually(t *testing.T, d *v1alpha1.Delivery, reason string, done func(*v1alpha1.Delivery) bool) *v1alpha1.Delivery {
	t.Helper()
	got := &v1alpha1.Delivery{}
	NewWithT(t).Eventually(func() bool {
		err := hub.Client.Get(context.Background(), client.ObjectKeyFromObject(d), got)
		return err == nil && got.Status.ObservedGeneration == got.Generation && done(got)
	}, "20s", "20ms").Should(BeTrue(), func() string { return reason + ": " + describe(got) })
	return got
}

func describe(d *v1alpha1.Delivery) string {
	out := ""
	for _, c := range d.Status.Conditions {
		out += c.Type + "=" + string(c.Status) + " " + c.Reason + " " + c.Message + "\n"
	}
	for _, track := range d.Status.Tracks {
		for _, c := range track.Components {
			out += c.Name + "@" + c.Revision + " " + c.Reason + " " + c.Message + "\n"
		}
	}
	return out
}

func is(kind string, status metav1.ConditionStatus, reason string) func(*v1alpha1.Delivery) bool {
	return func(d *v1alpha1.Delivery) bool {
		for _, c := range d.Status.Conditions {
			if c.Type == kind {
				return c.Status == status && c.Reason == reason && c.ObservedGeneration == d.Generation
			}
		}
		return false
	}
}

var applied = is(v1alpha1.ConditionApplied, metav1.ConditionTrue, v1alpha1.ReasonReady)

// object reads an object of the member until done says that it is as wanted.
func object[T client.Object](t *testing.T, w *world, p *v1alpha1.Partition, name string, o T, done func(T) bool) T {
	t.Helper()
	NewWithT(t).Eventually(func() bool {
		err := w.member.Client.Get(context.Background(), client.ObjectKey{Namespace: p.MemberNamespace(), Name: name}, o)
		return err == nil && (done == nil || done(o))
	}, "20s", "20ms").Should(BeTrue(), "%T %s never became as wanted: %v", o, name, o)
	return o
}

func gone(t *testing.T, w *world, p *v1alpha1.Partition, name string, o client.Object) {
	t.Helper()
	NewWithT(t).Eventually(func() error {
		return w.member.Client.Get(context.Background(), client.ObjectKey{Namespace: p.MemberNamespace(), Name: name}, o)
	}, "20s", "20ms").Should(MatchError(ContainSubstring("not found")), "%T %s is still there", o, name)
}

func keyIn(p *v1alpha1.Partition, name string) client.ObjectKey {
	return client.ObjectKey{Namespace: p.MemberNamespace(), Name: name}
}

func update(t *testing.T, w *world, o client.Object) {
	t.Helper()
	if err := w.member.Client.Update(t.Context(), o); err != nil {
		t.Fatalf("updating %T %s: %v", o, o.GetName(), err)
	}
}

func quantity(text string) resource.Quantity { return resource.MustParse(text) }
