package request

import (
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

const daily = 24 * time.Hour

// All that can become of a request, with the real step engine and real partitions. They share a server, one after another.
func TestONB05_Lives(t *testing.T) {
	p := start(t)
	for name, test := range map[string]func(*platform, *WithT){
		"rejected: nothing is left behind":             rejected,
		"withdrawn before it is decided":               withdrawn,
		"withdrawn too late":                           withdrawnTooLate,
		"aborted by somebody":                          aborted,
		"refused by the check":                         refused,
		"applicant lost his rights":                    rightsLost,
		"cluster is gone: what was added goes back":    clusterGone,
		"changed, extended, given back":                changedExtendedReturned,
		"over but in use":                              overInUse,
		"in use, then extended":                        overThenExtended,
		"the run is ended or paused: the term goes on": runEnded,
		"the partition is deleted by hand":             deletedByHand,
		"the request is deleted":                       requestDeleted,
		"administrators change the workflow":           changedWorkflow,
	} {
		t.Run(name, func(t *testing.T) {
			inner := *p
			desk := *p.desk
			desk.T, inner.desk = t, &desk
			test(&inner, NewWithT(t))
		})
	}
}

// bare checks that a tenant has what it had, and nothing else.
func (p *platform) untouched(g *WithT, tenant, cpu string) {
	p.Helper()
	p.has(tenant, cpu)
	g.Expect(p.tenant(tenant).Annotations).To(BeEmpty())
	var all v1alpha1.PartitionList
	g.Expect(hub.Client.List(p.Context(), &all, client.InNamespace(tenant))).To(Succeed())
	g.Expect(all.Items).To(BeEmpty())
}

func rejected(p *platform, g *WithT) {
	tenant := p.newTenant("1")
	req := newRequest(p.T, tenant, "prod", p.cluster, cpuOnly("4"))
	p.decide(req, v1alpha1.DecisionRejected, "本季度没有预算", nil)
	p.comes(req, v1alpha1.RequestRejected, "本季度没有预算")
	g.Expect(req.Status.By).To(Equal([]string{"wang"}))
	g.Expect(req.Status.Comment).To(Equal("本季度没有预算"))
	g.Expect(req.Status.Granted).To(BeNil())
	p.untouched(g, tenant, "1")
	g.Expect(p.events(req)).To(Equal([]string{"Applied", "Rejected"}))
	g.Expect(p.post.topics(tenant)[topicRejected]).To(Equal(1))
}

func (p *platform) withdraw(req *v1alpha1.ResourceRequest) {
	p.Helper()
	after := req.DeepCopy()
	after.Spec.Withdrawn = true
	NewWithT(p.T).Expect(hub.Client.Patch(p.Context(), after, client.MergeFrom(req))).To(Succeed())
}

func withdrawn(p *platform, g *WithT) {
	tenant := p.newTenant("1")
	req := newRequest(p.T, tenant, "prod", p.cluster, cpuOnly("4"))
	p.waits(req)
	p.withdraw(req)
	p.comes(req, v1alpha1.RequestWithdrawn, "withdrawn by the applicant")
	p.untouched(g, tenant, "1")
	early := requestFor(p.T, tenant, "prod", p.cluster, cpuOnly("4"))
	early.Spec.Withdrawn = true
	testkit.Create(p.T, hub.Client, early)
	p.comes(early, v1alpha1.RequestWithdrawn, "")
	p.untouched(g, tenant, "1")
}

func withdrawnTooLate(p *platform, g *WithT) {
	tenant := p.newTenant("1")
	req := p.active(newRequest(p.T, tenant, "prod", p.cluster, cpuOnly("4")))
	p.withdraw(req)
	g.Consistently(func() v1alpha1.RequestPhase {
		g.Expect(hub.Client.Get(p.Context(), client.ObjectKeyFromObject(req), req)).To(Succeed())
		return req.Status.Phase
	}, "2s", "200ms").Should(Equal(v1alpha1.RequestActive), "what people use is not taken from them")
	_, err := (&validator{p.Requests}).ValidateUpdate(p.Context(), newRequest(p.T, tenant, "other", p.cluster), func() *v1alpha1.ResourceRequest {
		r := req.DeepCopy()
		r.Spec.Withdrawn = true
		return r
	}())
	g.Expect(err).To(MatchError(ContainSubstring("make a request of type Return")))
}

// steer changes the spec of the request's run.
func (p *platform) runChange(req *v1alpha1.ResourceRequest, change func(*v1alpha1.WorkflowRunSpec)) {
	p.Helper()
	g := NewWithT(p.T)
	run := &v1alpha1.WorkflowRun{}
	g.Expect(hub.Client.Get(p.Context(), client.ObjectKeyFromObject(req), req)).To(Succeed())
	g.Expect(hub.Client.Get(p.Context(), client.ObjectKey{Namespace: req.Namespace, Name: req.Status.Run}, run)).To(Succeed())
	after := run.DeepCopy()
	change(&after.Spec)
	g.Expect(hub.Client.Patch(p.Context(), after, client.MergeFrom(run))).To(Succeed())
}

func aborted(p *platform, g *WithT) {
	tenant := p.newTenant("1")
	req := newRequest(p.T, tenant, "prod", p.cluster, cpuOnly("4"))
	p.waits(req)
	p.runChange(req, func(s *v1alpha1.WorkflowRunSpec) {
		s.Aborted, s.Reason, s.ChangedBy = true, "not needed", &v1alpha1.Actor{Name: "yunfan:zhao"}
	})
	p.comes(req, v1alpha1.RequestWithdrawn, "aborted by zhao: not needed")
	p.untouched(g, tenant, "1")
}

func refused(p *platform, g *WithT) {
	tenant := p.newTenant("1")
	testkit.Create(p.T, hub.Client, &v1alpha1.Product{
		ObjectMeta: metav1.ObjectMeta{Name: "old-" + tenant},
		Spec:       v1alpha1.ProductSpec{Kind: v1alpha1.ProductVirtual, CPU: resource.MustParse("2"), Memory: resource.MustParse("4Gi"), Available: new(bool)},
	})
	for want, change := range map[string]func(*v1alpha1.ResourceRequest){
		`there is no cluster "mars"`: func(r *v1alpha1.ResourceRequest) { r.Spec.Wanted.Cluster = "mars" },
		"cannot be below 0":          cpuOnly("-4"),
		"more than there can be":     cpuOnly("2E"),
		"which has passed":           until(time.Now().Add(-time.Hour)),
		"ask for at most 3650 days":  until(time.Now().Add(20 * 365 * daily)),
		"bounds requests.cpu":        func(r *v1alpha1.ResourceRequest) { r.Spec.Wanted.Quota = quota("pods", "3") },
		"is no resource of a quota":  func(r *v1alpha1.ResourceRequest) { r.Spec.Wanted.Quota["=cmd|'/c calc'!A0"] = resource.MustParse("1") },
		`there is no product "nothing"`: func(r *v1alpha1.ResourceRequest) {
			r.Spec.Wanted.Items = []v1alpha1.RequestItem{{Product: "nothing", Count: 1}}
		},
		"cannot be had at present": func(r *v1alpha1.ResourceRequest) {
			r.Spec.Wanted.Items = []v1alpha1.RequestItem{{Product: "old-" + tenant, Count: 1}}
		},
		"there is no partition prod": kind(v1alpha1.RequestReturn, nil, nil),
	} {
		req := requestFor(p.T, tenant, "prod", p.cluster, cpuOnly("4"), change)
		_, err := (&validator{p.Requests}).ValidateCreate(p.Context(), req)
		g.Expect(err).To(MatchError(ContainSubstring(want)), "admission says the same")
		testkit.Create(p.T, hub.Client, req)
		p.comes(req, v1alpha1.RequestFailed, want)
		g.Expect(p.events(req)).To(Equal([]string{"Applied", "Failed"}))
	}
	p.untouched(g, tenant, "1")
}

func rightsLost(p *platform, g *WithT) {
	tenant := p.newTenant("1")
	req := newRequest(p.T, tenant, "prod", p.cluster, cpuOnly("4"), func(r *v1alpha1.ResourceRequest) { r.Spec.User.Name = "yunfan:" + tenant })
	p.waits(req)
	p.people.bar("yunfan:" + tenant)
	p.decide(req, v1alpha1.DecisionApproved, "", nil)
	p.comes(req, v1alpha1.RequestFailed, "may not ask for this, or not any more")
	p.untouched(g, tenant, "1")
}

func clusterGone(p *platform, g *WithT) {
	tenant := p.newTenant("1")
	going := newCluster(p.T)
	req := newRequest(p.T, tenant, "prod", going, cpuOnly("4"))
	p.waits(req)
	g.Expect(hub.Client.Delete(p.Context(), &v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: going}})).To(Succeed())
	p.decide(req, v1alpha1.DecisionApproved, "", nil)
	p.comes(req, v1alpha1.RequestFailed, `there is no cluster "`+going)
	p.untouched(g, tenant, "1")

	// It goes away between allocation and activation.
	going = newCluster(p.T)
	req = newRequest(p.T, tenant, "prod", going, cpuOnly("4"))
	p.decide(req, v1alpha1.DecisionApproved, "", nil)
	p.comes(req, v1alpha1.RequestAllocated, "")
	p.has(tenant, "4")
	g.Expect(hub.Client.Delete(p.Context(), &v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: going}})).To(Succeed())
	p.clock.move(time.Hour)
	p.comes(req, v1alpha1.RequestFailed, "does not exist")
	p.untouched(g, tenant, "1")
	g.Expect(p.events(req)).To(Equal([]string{"Applied", "Approved", "Allocated", "Failed"}))
}

func changedExtendedReturned(p *platform, g *WithT) {
	tenant := p.newTenant("1")
	end := p.clock.now().Add(30 * daily)
	first := p.active(newRequest(p.T, tenant, "prod", p.cluster, cpuOnly("4"), until(end)))
	change := p.active(newRequest(p.T, tenant, "prod", "", kind(v1alpha1.RequestChange, quota("requests.cpu", "6"), nil)))
	p.has(tenant, "6")
	g.Expect(sameQuota(p.part(tenant, "prod").Spec.Quota, quota("requests.cpu", "6"))).To(BeTrue())
	g.Expect(holds(p.part(tenant, "prod"), first)).To(BeTrue(), "a change without an end leaves the term as it is")
	later := metav1.NewTime(end.Add(30 * daily).UTC().Truncate(time.Second))
	extension := p.active(newRequest(p.T, tenant, "prod", "", kind(v1alpha1.RequestExtend, nil, &later)))
	g.Expect(extension.Status.Granted.Until.Equal(&later)).To(BeTrue())
	p.poke(first)
	p.comes(first, v1alpha1.RequestActive, "request "+extension.Name+" carries the term from now on")
	p.clock.move(31 * daily)
	p.poke(extension)
	g.Consistently(func() *v1alpha1.Partition { return p.part(tenant, "prod") }, "1s", "200ms").ShouldNot(BeNil(), "the term was moved")

	back := newRequest(p.T, tenant, "prod", "", kind(v1alpha1.RequestReturn, nil, nil))
	p.decide(back, v1alpha1.DecisionApproved, "", nil)
	p.comes(back, v1alpha1.RequestReturned, "")
	p.gone(tenant, "prod")
	p.poke(extension)
	for _, req := range []*v1alpha1.ResourceRequest{first, change, extension} {
		p.comes(req, v1alpha1.RequestReturned, "")
	}
	p.untouched(g, tenant, "1")
}

// deliver puts an application into a partition.
func (p *platform) deliver(tenant, partition string) *v1alpha1.Delivery {
	p.Helper()
	d := &v1alpha1.Delivery{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: "score-" + partition, Labels: map[string]string{v1alpha1.LabelPartition: partition}},
		Spec:       v1alpha1.DeliverySpec{Application: "score", Partition: partition, Tracks: []v1alpha1.Track{{Revision: "score-1", Role: v1alpha1.TrackStable}}},
	}
	testkit.Create(p.T, hub.Client, d)
	return d
}

func overInUse(p *platform, g *WithT) {
	tenant := p.newTenant("1")
	req := p.active(newRequest(p.T, tenant, "prod", p.cluster, cpuOnly("4"), until(p.clock.now().Add(daily))))
	delivery := p.deliver(tenant, "prod")
	p.clock.move(2 * daily)
	p.poke(req)
	p.comes(req, v1alpha1.RequestExpired, "partition prod is still in use: application score")
	g.Eventually(func() string { return p.part(tenant, "prod").Annotations[annotationFrozen] }, patiently).Should(ContainSubstring("requests.cpu"))
	cpu := p.part(tenant, "prod").Spec.Quota[corev1.ResourceRequestsCPU]
	g.Expect(cpu.IsZero()).To(BeTrue(), "nothing was used: nothing can grow, it is %s", cpu.String())
	g.Eventually(func() int { return p.post.topics(tenant)[topicInUse] }, patiently).Should(Equal(1))
	for day := 2; day <= 3; day++ {
		p.clock.move(daily)
		p.poke(req)
		g.Eventually(func() int { return p.post.topics(tenant)[topicInUse] }, patiently).Should(Equal(day), "both sides are told daily")
	}
	g.Expect(p.part(tenant, "prod").DeletionTimestamp).To(BeNil(), "nothing that runs is destroyed")
	g.Expect(hub.Client.Delete(p.Context(), delivery)).To(Succeed())
	p.poke(req)
	p.comes(req, v1alpha1.RequestReturned, "")
	p.gone(tenant, "prod")
	p.untouched(g, tenant, "1")
}

func overThenExtended(p *platform, g *WithT) {
	tenant := p.newTenant("1")
	req := p.active(newRequest(p.T, tenant, "prod", p.cluster, cpuOnly("4"), until(p.clock.now().Add(daily))))
	p.deliver(tenant, "prod")
	p.clock.move(2 * daily)
	p.poke(req)
	p.comes(req, v1alpha1.RequestExpired, "still in use")
	g.Eventually(func() string { return p.part(tenant, "prod").Annotations[annotationFrozen] }, patiently).ShouldNot(BeEmpty())
	later := metav1.NewTime(p.clock.now().Add(30 * daily).UTC().Truncate(time.Second))
	extension := p.active(newRequest(p.T, tenant, "prod", "", kind(v1alpha1.RequestExtend, nil, &later)))
	g.Expect(sameQuota(p.part(tenant, "prod").Spec.Quota, quota("requests.cpu", "4"))).To(BeTrue(), "it has its quota back: %s", words(p.part(tenant, "prod").Spec.Quota))
	p.poke(req)
	p.comes(req, v1alpha1.RequestActive, "request "+extension.Name+" carries the term")
	p.has(tenant, "4")
}

func runEnded(p *platform, g *WithT) {
	tenant := p.newTenant("1")
	req := p.active(newRequest(p.T, tenant, "prod", p.cluster, cpuOnly("4"), until(p.clock.now().Add(10*daily))))
	first := req.Status.Run
	p.runChange(req, func(s *v1alpha1.WorkflowRunSpec) {
		s.Aborted, s.Reason, s.ChangedBy = true, "keep it for ever", &v1alpha1.Actor{Name: "yunfan:li"}
	})
	g.Eventually(func() string {
		g.Expect(hub.Client.Get(p.Context(), client.ObjectKeyFromObject(req), req)).To(Succeed())
		return req.Status.Run
	}, patiently, "100ms").Should(Equal(first + "-2"))
	g.Expect(p.part(tenant, "prod")).NotTo(BeNil())
	p.has(tenant, "4")
	p.comes(req, v1alpha1.RequestActive, "active until")
	p.runChange(req, func(s *v1alpha1.WorkflowRunSpec) { s.Paused, s.ChangedBy = true, &v1alpha1.Actor{Name: "yunfan:li"} })
	p.clock.move(11 * daily)
	p.poke(req)
	p.comes(req, v1alpha1.RequestReturned, "")
	p.gone(tenant, "prod")
	p.untouched(g, tenant, "1")
}

func deletedByHand(p *platform, g *WithT) {
	tenant := p.newTenant("1")
	ending := p.active(newRequest(p.T, tenant, "prod", p.cluster, cpuOnly("4"), until(p.clock.now().Add(10*daily))))
	endless := p.active(newRequest(p.T, tenant, "test", p.cluster, cpuOnly("2")))
	p.has(tenant, "6")
	for _, name := range []string{"prod", "test"} {
		g.Expect(hub.Client.Delete(p.Context(), p.part(tenant, name))).To(Succeed())
		p.gone(tenant, name)
	}
	p.poke(ending)
	p.comes(ending, v1alpha1.RequestReturned, "")
	p.comes(endless, v1alpha1.RequestReturned, "does not exist any more")
	p.untouched(g, tenant, "1")
}

func requestDeleted(p *platform, g *WithT) {
	tenant := p.newTenant("1")
	req := newRequest(p.T, tenant, "prod", p.cluster, cpuOnly("4"))
	p.waits(req)
	g.Expect(hub.Client.Delete(p.Context(), req)).To(Succeed())
	g.Eventually(func() error { return hub.Client.Get(p.Context(), client.ObjectKeyFromObject(req), req) }, patiently, "100ms").ShouldNot(Succeed())
	p.untouched(g, tenant, "1")
	g.Expect(p.events(req)).To(Equal([]string{"Applied", "Deleted"}))
}

func changedWorkflow(p *platform, g *WithT) {
	w := &v1alpha1.Workflow{}
	g.Expect(hub.Client.Get(p.Context(), client.ObjectKey{Namespace: testkit.PlatformNamespace, Name: WorkflowName}, w)).To(Succeed())
	before := w.DeepCopy()
	p.Cleanup(func() { _ = hub.Client.Delete(p.Context(), before) })
	first := v1alpha1.WorkflowStep{Name: "tenant", Action: "approve", Needs: []string{"check"}, With: values(map[string]any{"roles": []string{"Admin"}, "subject": "first the tenant"})}
	for i := range w.Spec.Steps {
		if w.Spec.Steps[i].Name == "approve" {
			w.Spec.Steps[i].Needs = append(w.Spec.Steps[i].Needs, "tenant")
		}
	}
	w.Spec.Steps = append(w.Spec.Steps, first)
	g.Expect(hub.Client.Update(p.Context(), w)).To(Succeed())
	tenant := p.newTenant("1")
	req := newRequest(p.T, tenant, "prod", p.cluster, cpuOnly("4"))
	_, step := p.waits(req)
	g.Expect(step.Name).To(Equal("tenant"))
	p.decide(req, v1alpha1.DecisionApproved, "fine by us", nil)
	g.Eventually(func() string { _, step := p.waits(req); return step.Name }, patiently).Should(Equal("approve"))
	p.decide(req, v1alpha1.DecisionApproved, "and by the platform", nil)
	p.comes(req, v1alpha1.RequestActive, "")
	g.Expect(strings.Split(req.Status.Comment, "\n")).To(ConsistOf("fine by us", "and by the platform"))

	g.Expect(hub.Client.Delete(p.Context(), w)).To(Succeed())
	again := newRequest(p.T, tenant, "test", p.cluster, cpuOnly("1"))
	_, step = p.waits(again)
	g.Expect(step.Name).To(Equal("approve"), "a missing workflow is made again")
}
