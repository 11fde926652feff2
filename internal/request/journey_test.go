package request

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/partition"
	"yunfan.io/yunfan/internal/tenant"
	"yunfan.io/yunfan/internal/testkit"
	"yunfan.io/yunfan/internal/workflow"
	"yunfan.io/yunfan/internal/workflow/builtin"
)

const patiently = "60s"

// platform is a hub with everything that a request needs: step engine, tenants, partitions in a joined member.
type platform struct {
	*desk

	cluster string
	engine  *workflow.Engine
}

// deaf serves no webhooks: the hub of tests does not ask any.
type deaf struct{ webhook.Server }

func (deaf) Register(string, http.Handler) {}

func (deaf) NeedLeaderElection() bool { return false }

func (deaf) Start(ctx context.Context) error { <-ctx.Done(); return nil }

// start runs the capability with the real engine and real controllers of what it works on.
func start(t *testing.T) *platform {
	t.Helper()
	p := &platform{desk: newDesk(t)}
	p.join()
	p.run()
	return p
}

// run starts a server; it ends when the function that it gives is called, or with the test.
func (p *platform) run() {
	p.Helper()
	var set *member.Set
	testkit.StartManagerWith(p.T, hub, manager.Options{WebhookServer: deaf{}}, func(mgr manager.Manager) (err error) {
		if set, err = member.NewSet(mgr); err != nil {
			return err
		}
		requests, err := New(mgr, p.Options)
		if err != nil {
			return err
		}
		catalogue, err := action.NewCatalogue(append(builtin.Actions(builtin.Options{
			Hub: mgr.GetClient(), Live: mgr.GetAPIReader(), Members: set, Send: p.post.send, May: p.people.may,
		}), requests.Actions()...)...)
		if err != nil {
			return err
		}
		p.engine = workflow.New(mgr, workflow.Options{Actions: catalogue, Namespace: testkit.PlatformNamespace})
		for _, c := range []interface {
			SetupWithManager(mgr manager.Manager) error
		}{
			tenant.New(), partition.New(set), requests, p.engine,
			workflow.NewValidity(mgr, workflow.Descriptions(catalogue), testkit.PlatformNamespace),
		} {
			if err := c.SetupWithManager(mgr); err != nil {
				return err
			}
		}
		return nil
	})
	config, err := clientcmd.RESTConfigFromKubeConfig(shared.Kubeconfig(p.T, ""))
	if err != nil {
		p.Fatal(err)
	}
	m, err := set.Connect(p.cluster, "1", config)
	if err != nil {
		p.Fatal(err)
	}
	NewWithT(p.T).Eventually(func() bool { ok, _ := m.Answering(); return ok }, "20s").Should(BeTrue())
	set.Admit(p.cluster)
}

// join makes the cluster with its addresses, as the cluster controller finds them.
func (p *platform) join() {
	p.Helper()
	p.cluster = newCluster(p.T)
	c := &v1alpha1.Cluster{}
	g := NewWithT(p.T)
	g.Expect(hub.Client.Get(p.Context(), client.ObjectKey{Name: p.cluster}, c)).To(Succeed())
	c.Status.Network = v1alpha1.ClusterNetwork{APIServers: []string{"192.168.1.10:6443"}, Nodes: []string{"192.168.1.12/30"}, Pods: []string{"10.244.0.0/16"}}
	g.Expect(hub.Client.Status().Update(p.Context(), c)).To(Succeed())
}

// newTenant makes a tenant and waits for its namespace.
func (p *platform) newTenant(cpu string) string {
	p.Helper()
	name := testkit.Name(p.T)
	testkit.Create(p.T, hub.Client, &v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.TenantSpec{Quota: quota("requests.cpu", cpu)}})
	p.ready(&v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: name}})
	return name
}

func (p *platform) ready(o client.Object) {
	p.Helper()
	NewWithT(p.T).Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(p.Context(), client.ObjectKeyFromObject(o), o)).To(Succeed())
		with, ok := o.(interface{ StatusConditions() *[]metav1.Condition })
		g.Expect(ok).To(BeTrue())
		g.Expect(meta.IsStatusConditionTrue(*with.StatusConditions(), v1alpha1.ConditionReady)).To(BeTrue(), "%v", *with.StatusConditions())
	}, patiently, "100ms").Should(Succeed())
}

// comes waits until the request is in the phase, and gives it.
func (p *platform) comes(req *v1alpha1.ResourceRequest, phase v1alpha1.RequestPhase, message string) *v1alpha1.ResourceRequest {
	p.Helper()
	NewWithT(p.T).Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(p.Context(), client.ObjectKeyFromObject(req), req)).To(Succeed())
		g.Expect(req.Status.Phase).To(Equal(phase), "%s\n%s", req.Status.Message, p.steps(req))
		g.Expect(req.Status.Message).To(ContainSubstring(message))
	}, patiently, "100ms").Should(Succeed())
	return req
}

// steps tells where the request's run is.
func (p *platform) steps(req *v1alpha1.ResourceRequest) (out string) {
	run := &v1alpha1.WorkflowRun{}
	if err := hub.Client.Get(p.Context(), client.ObjectKey{Namespace: req.Namespace, Name: req.Status.Run}, run); err != nil {
		return err.Error()
	}
	for _, s := range run.Status.Steps {
		out += fmt.Sprintf("%s %s %s\n", s.Name, s.Phase, s.Message)
	}
	return out + string(run.Status.Phase) + " " + run.Status.Message
}

// waits gives the run once its step waits for an approval.
func (p *platform) waits(req *v1alpha1.ResourceRequest) (*v1alpha1.WorkflowRun, *v1alpha1.StepStatus) {
	p.Helper()
	run := &v1alpha1.WorkflowRun{}
	var step *v1alpha1.StepStatus
	NewWithT(p.T).Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(p.Context(), client.ObjectKeyFromObject(req), req)).To(Succeed())
		g.Expect(req.Status.Run).NotTo(BeEmpty())
		g.Expect(hub.Client.Get(p.Context(), client.ObjectKey{Namespace: req.Namespace, Name: req.Status.Run}, run)).To(Succeed())
		step = nil
		for i := range run.Status.Steps {
			if s := &run.Status.Steps[i]; s.Approval != nil && s.Phase == v1alpha1.StepWaiting {
				step = s
			}
		}
		g.Expect(step).NotTo(BeNil(), p.steps(req))
	}, patiently, "100ms").Should(Succeed())
	return run, step
}

// decide approves or rejects as a platform administrator, with values in place of those asked for.
func (p *platform) decide(req *v1alpha1.ResourceRequest, decision v1alpha1.Decision, comment string, given map[string]any) {
	p.Helper()
	run, step := p.waits(req)
	a := &v1alpha1.Approval{
		ObjectMeta: metav1.ObjectMeta{Namespace: req.Namespace, Name: testkit.Name(p.T)},
		Spec: v1alpha1.ApprovalSpec{
			Run: run.Name, RunUID: string(run.UID), Step: step.Name, Digest: step.Approval.Digest, Decision: decision, Comment: comment,
			Values: values(given), User: &v1alpha1.Actor{Name: "yunfan:wang", Groups: []string{v1alpha1.GroupPlatformAdmin}},
		},
	}
	if len(given) == 0 {
		a.Spec.Values = nil
	}
	testkit.Create(p.T, hub.Client, a)
}

// poke has the steps of a request's run look again at once, instead of within a minute.
func (p *platform) poke(req *v1alpha1.ResourceRequest) {
	p.Helper()
	run := &v1alpha1.WorkflowRun{}
	NewWithT(p.T).Expect(hub.Client.Get(p.Context(), client.ObjectKeyFromObject(req), req)).To(Succeed())
	NewWithT(p.T).Expect(hub.Client.Get(p.Context(), client.ObjectKey{Namespace: req.Namespace, Name: req.Status.Run}, run)).To(Succeed())
	for _, s := range run.Status.Steps {
		p.engine.Wake(client.ObjectKeyFromObject(run), s.Name)
	}
}

// active makes a request, has it approved and waits until it can be used.
func (p *platform) active(req *v1alpha1.ResourceRequest) *v1alpha1.ResourceRequest {
	p.Helper()
	p.decide(req, v1alpha1.DecisionApproved, "", nil)
	return p.comes(req, v1alpha1.RequestActive, "")
}

// events of a request in the ledger.
func (p *platform) events(req *v1alpha1.ResourceRequest) (names []string) {
	p.Helper()
	w := &where{}
	w.in("uid", []string{string(req.UID)})
	rows, _, err := p.ledger.page(context.Background(), w, false, 0, 100)
	NewWithT(p.T).Expect(err).NotTo(HaveOccurred())
	for _, row := range rows {
		names = append(names, row.Event)
	}
	return names
}

func (p *platform) gone(tenant, name string) {
	p.Helper()
	NewWithT(p.T).Eventually(func() *v1alpha1.Partition { return p.part(tenant, name) }, patiently, "100ms").Should(BeNil())
}

func (p *platform) eventuallyHas(tenant, cpu string) {
	p.Helper()
	NewWithT(p.T).Eventually(func() string {
		q := p.tenant(tenant).Spec.Quota["requests.cpu"]
		return q.String()
	}, patiently, "100ms").Should(Equal(cpu))
}

func cpuOnly(cpu string) func(*v1alpha1.ResourceRequest) {
	return func(req *v1alpha1.ResourceRequest) { req.Spec.Wanted.Quota = quota("requests.cpu", cpu) }
}

func TestONB05_Life(t *testing.T) {
	p := start(t)
	g := NewWithT(t)
	tenant := p.newTenant("1")
	req := newRequest(t, tenant, "prod", p.cluster, cpuOnly("4"), until(p.clock.now().Add(20*24*time.Hour)))
	p.comes(req, v1alpha1.RequestApplied, "waits for approval by role PlatformAdministrator")
	_, step := p.waits(req)
	g.Expect(step.Approval.Subject).To(ContainSubstring("li (李雷, 教务处) asks for a new partition prod in cluster " + p.cluster + " with requests.cpu 4"))
	g.Expect(step.Approval.Subject).To(ContainSubstring("would be raised by 3"))
	g.Expect(p.part(tenant, "prod")).To(BeNil(), "nothing is given before it is approved")
	p.has(tenant, "1")

	p.decide(req, v1alpha1.DecisionApproved, "先给 3 核", map[string]any{"quota": map[string]string{"requests.cpu": "3"}})
	p.comes(req, v1alpha1.RequestActive, "active until")
	g.Expect(sameQuota(req.Status.Granted.Quota, quota("requests.cpu", "3"))).To(BeTrue())
	g.Expect(req.Status.By).To(Equal([]string{"wang"}))
	g.Expect(req.Status.Comment).To(Equal("先给 3 核"))
	g.Expect(meta.IsStatusConditionTrue(req.Status.Conditions, v1alpha1.ConditionReady)).To(BeTrue())
	p.ready(&v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: "prod"}})
	p.has(tenant, "3")
	g.Expect(p.events(req)).To(Equal([]string{"Applied", "Approved", "Allocated", "Active"}))

	p.clock.move(16 * 24 * time.Hour)
	p.poke(req)
	g.Eventually(func() int { return p.post.topics(tenant)[topicExpiring] }, patiently, "100ms").Should(Equal(1), "notice is given once")
	p.clock.move(5 * 24 * time.Hour)
	p.poke(req)
	p.comes(req, v1alpha1.RequestReturned, "")
	p.gone(tenant, "prod")
	p.eventuallyHas(tenant, "1")
	// In whatever order, for the clock of the step engine was not moved.
	g.Expect(p.events(req)).To(ConsistOf("Applied", "Approved", "Allocated", "Active", "Expiring", "Expired", "Returned"))
	g.Expect(p.post.topics(tenant)).To(Equal(map[string]int{
		topicApplied: 1, topicApproved: 1, topicActive: 1, topicExpiring: 1, topicExpired: 1, topicReturned: 1, "workflow.approval-wanted": 1,
	}))
}
