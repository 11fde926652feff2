package request

import (
	"context"
	"maps"
	"path/filepath"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/outbound"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/testkit"
)

var (
	hub    *testkit.Hub
	shared *testkit.Member
)

func TestMain(m *testing.M) {
	testkit.MainWithMember(m, &hub, &shared, "namespace-controller", "resourcequota-controller")
}

// clock is moved by tests.
type clock struct {
	mu    sync.Mutex
	moved time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.moved)
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moved += d
}

// post keeps what people are told.
type post struct {
	mu   sync.Mutex
	sent map[string]outbound.Message
}

func (p *post) send(_ context.Context, m outbound.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sent == nil {
		p.sent = map[string]outbound.Message{}
	}
	if _, twice := p.sent[m.Key]; !twice {
		p.sent[m.Key] = m
	}
	return nil
}

// topics of the messages about a tenant, with how many of each.
func (p *post) topics(tenant string) map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]int{}
	for _, m := range p.sent {
		if m.Tenant == tenant {
			out[m.Topic]++
		}
	}
	return out
}

// people says who may ask; everybody unless a name is barred.
type people struct {
	mu     sync.Mutex
	barred map[string]bool
}

func (p *people) may(_ context.Context, a v1alpha1.Actor, _ authorizationv1.ResourceAttributes) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.barred[a.Name], nil
}

func (p *people) bar(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.barred == nil {
		p.barred = map[string]bool{}
	}
	p.barred[name] = true
}

// desk is the capability without a manager: its actions are called as the engine calls them.
type desk struct {
	*testing.T
	*Requests

	clock  *clock
	post   *post
	people *people
}

func sqlite(t *testing.T) *record.Database {
	t.Helper()
	return opened(t, "sqlite://"+filepath.Join(t.TempDir(), "records.db"))
}

func opened(t *testing.T, location string) *record.Database {
	t.Helper()
	records, err := record.Open(t.Context(), location)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = records.Close() })
	return records
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{T: t, clock: &clock{}, post: &post{}, people: &people{}}
	d.Requests = &Requests{
		Options: Options{
			Records: sqlite(t), Namespace: testkit.PlatformNamespace, May: d.people.may, Send: d.post.send, Now: d.clock.now,
			Notice: DefaultNotice, Longest: DefaultLongest,
		},
		client: hub.Client, reader: hub.Client,
	}
	d.ledger = &Ledger{d.Records}
	if err := d.ledger.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

func quota(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

// tenant makes a tenant with its namespace.
func newTenant(t *testing.T, has corev1.ResourceList) string {
	t.Helper()
	name := testkit.Namespace(t, hub.Client)
	testkit.Create(t, hub.Client, &v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.TenantSpec{Quota: has}})
	return name
}

// newCluster makes a cluster that is ready, with room.
func newCluster(t *testing.T) string {
	t.Helper()
	c := &v1alpha1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Name: testkit.Name(t)},
		Spec:       v1alpha1.ClusterSpec{Connection: v1alpha1.ClusterConnection{KubeconfigSecretRef: &v1alpha1.SecretReference{Name: "x"}}},
	}
	testkit.Create(t, hub.Client, c)
	t.Cleanup(func() { _ = hub.Client.Delete(context.Background(), c) })
	c.Status.Allocatable = quota("cpu", "16", "memory", "64Gi")
	c.Status.Requested = quota("cpu", "4", "memory", "16Gi")
	c.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady, LastTransitionTime: metav1.Now()}}
	if err := hub.Client.Status().Update(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return c.Name
}

// newRequest is a request for a new partition of 4 cores; change makes it another.
func newRequest(t *testing.T, tenant, partition, cluster string, change ...func(*v1alpha1.ResourceRequest)) *v1alpha1.ResourceRequest {
	t.Helper()
	req := requestFor(t, tenant, partition, cluster, change...)
	testkit.Create(t, hub.Client, req)
	return req
}

func requestFor(t *testing.T, tenant, partition, cluster string, change ...func(*v1alpha1.ResourceRequest)) *v1alpha1.ResourceRequest {
	t.Helper()
	req := &v1alpha1.ResourceRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: testkit.Name(t)},
		Spec: v1alpha1.ResourceRequestSpec{
			Form: v1alpha1.RequestForm{
				ProjectGroup: "教务处", Applicant: "李雷", Phone: "010-88880000", Email: "li@example.com", Application: "Web 选课",
				Purpose: "选课高峰", ServerType: v1alpha1.ServerApplicationHost, Machines: 2,
			},
			Wanted: v1alpha1.WantedResources{
				Type: v1alpha1.RequestNew, Partition: partition, Cluster: cluster, Environment: "Production", Quota: quota("requests.cpu", "4", "requests.memory", "8Gi"),
			},
			User: &v1alpha1.Actor{Name: "yunfan:li", Groups: []string{"yunfan:tenant:" + tenant + ":operator"}},
		},
	}
	for _, c := range change {
		c(req)
	}
	return req
}

// kind makes a request one about a partition that is there.
func kind(of v1alpha1.RequestType, amount corev1.ResourceList, until *metav1.Time) func(*v1alpha1.ResourceRequest) {
	return func(req *v1alpha1.ResourceRequest) {
		req.Spec.Wanted.Type, req.Spec.Wanted.Quota, req.Spec.Wanted.Until = of, amount, until
		req.Spec.Wanted.Cluster, req.Spec.Wanted.Environment = "", ""
	}
}

func until(at time.Time) func(*v1alpha1.ResourceRequest) {
	return func(req *v1alpha1.ResourceRequest) {
		req.Spec.Wanted.Until = &metav1.Time{Time: at.UTC().Truncate(time.Second)}
	}
}

// callOf is a call of an action for a request.
func callOf(req *v1alpha1.ResourceRequest, more map[string]any) *action.Call {
	inputs := map[string]any{"request": req.Name, "uid": string(req.UID)}
	maps.Copy(inputs, more)
	return &action.Call{
		Run: types.NamespacedName{Namespace: req.Namespace, Name: "run"}, UID: "run-uid", Step: "step", Attempt: 1, Key: "key",
		User: *req.Spec.User, Inputs: values(inputs), Started: time.Now(),
		Log: func(string, ...any) {}, Fence: func(context.Context) error { return nil },
	}
}

// do calls an action once and expects it to be done.
func (d *desk) do(a action.Action, call *action.Call) map[string]any {
	d.Helper()
	out, err := a.Run(d.Context(), call)
	NewWithT(d).Expect(err).NotTo(HaveOccurred())
	NewWithT(d).Expect(out.Done).To(BeTrue(), out.Message)
	return out.Outputs
}

func (d *desk) tenant(name string) *v1alpha1.Tenant {
	d.Helper()
	t := &v1alpha1.Tenant{}
	NewWithT(d).Expect(hub.Client.Get(d.Context(), client.ObjectKey{Name: name}, t)).To(Succeed())
	return t
}

// has checks the tenant's quota of CPU.
func (d *desk) has(tenant, cpu string) {
	d.Helper()
	q := d.tenant(tenant).Spec.Quota[corev1.ResourceRequestsCPU]
	NewWithT(d).Expect(q.Cmp(resource.MustParse(cpu))).To(BeZero(), "the tenant's quota is %s", q.String())
}

func (d *desk) part(tenant, name string) *v1alpha1.Partition {
	d.Helper()
	p, err := d.partition(d.Context(), tenant, name)
	NewWithT(d).Expect(err).NotTo(HaveOccurred())
	return p
}
