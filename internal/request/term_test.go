package request

import (
	"encoding/json"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// given is a request whose partition was given, for ten days.
func (d *desk) given(t *testing.T) (*v1alpha1.ResourceRequest, *action.Call) {
	t.Helper()
	cluster := newCluster(t)
	tenant := newTenant(t, quota("requests.cpu", "1"))
	req := newRequest(t, tenant, "prod", cluster, until(d.clock.now().Add(10*daily)), cpuOnly("4"))
	d.do(&allocate{d.Requests}, grants(req, req.Spec.Wanted.Quota, cluster, ""))
	return req, callOf(req, nil)
}

func keep(t *testing.T, call *action.Call, out action.Outcome) {
	t.Helper()
	text, err := json.Marshal(out.State)
	if err != nil {
		t.Fatal(err)
	}
	call.State = text
}

func TestONB05_TermIsReadAgain(t *testing.T) {
	d := newDesk(t)
	g := NewWithT(t)
	req, call := d.given(t)
	waits := func() action.Outcome {
		t.Helper()
		out, err := (&term{d.Requests}).Run(t.Context(), call)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(out.Done).To(BeFalse())
		g.Expect(out.Waiting).To(BeTrue())
		g.Expect(out.Again).To(And(BeNumerically(">", 0), BeNumerically("<=", look)), "a changed clock is not slept through")
		return out
	}
	expiring := func() int { return d.post.topics(req.Namespace)[topicExpiring] }
	keep(t, call, waits())
	g.Expect(expiring()).To(BeZero())
	d.clock.move(8 * daily)
	lost := waits() // the server is killed before the answer is written
	call.Repeated = true
	out := waits()
	g.Expect(out.State).To(Equal(lost.State))
	g.Expect(expiring()).To(Equal(1), "notice is given once")
	keep(t, call, out)
	keep(t, call, waits())
	g.Expect(expiring()).To(Equal(1))

	// The clock is set back: nothing ends early, nobody is told again.
	d.clock.move(-5 * daily)
	keep(t, call, waits())
	g.Expect(expiring()).To(Equal(1))

	// An administrator moves the end.
	p := d.part(req.Namespace, "prod")
	later := metav1.Time{Time: d.clock.now().Add(100 * daily)}
	p.Annotations[annotationUntil] = timeText(&later)
	g.Expect(hub.Client.Update(t.Context(), p)).To(Succeed())
	d.clock.move(60 * daily)
	keep(t, call, waits())
	d.clock.move(35 * daily)
	keep(t, call, waits())
	g.Expect(expiring()).To(Equal(2), "of another end, notice is given anew")
	d.clock.move(10 * daily)
	g.Expect(d.do(&term{d.Requests}, call)).To(HaveKeyWithValue("ended", true))
	rows, _, err := d.ledger.page(t.Context(), &where{}, false, 0, 10)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(rows).To(HaveLen(2), "and stands in the ledger")

	p = d.part(req.Namespace, "prod")
	p.Annotations[annotationUntil] = "some day"
	g.Expect(hub.Client.Update(t.Context(), p)).To(Succeed())
	_, err = (&term{d.Requests}).Run(t.Context(), call)
	g.Expect(err).To(MatchError(ContainSubstring("write a time such as")))
}

func TestONB05_ShortTermsGetShortNotice(t *testing.T) {
	d := newDesk(t)
	g := NewWithT(t)
	cluster := newCluster(t)
	tenant := newTenant(t, nil)
	req := newRequest(t, tenant, "prod", cluster, until(time.Now().Add(40*time.Minute)))
	d.do(&allocate{d.Requests}, grants(req, req.Spec.Wanted.Quota, cluster, ""))
	call := callOf(req, nil)
	for _, minutes := range []int{0, 29, 32} {
		moved := *d.Requests
		moved.Now = func() time.Time { return time.Now().Add(time.Duration(minutes) * time.Minute) }
		_, err := (&term{&moved}).Run(t.Context(), call)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(d.post.topics(tenant)[topicExpiring]).To(Equal(map[int]int{0: 0, 29: 0, 32: 1}[minutes]), "after %d minutes", minutes)
	}
}

// The server is killed after each write of giving back: nothing is lowered twice, and no other partition is touched.
func TestONB05_ReclaimedAfterEachWrite(t *testing.T) {
	for write := 1; write <= 2; write++ {
		d := newDesk(t)
		g := NewWithT(t)
		req, call := d.given(t)
		tenant := req.Namespace
		d.has(tenant, "4")
		d.clock.move(11 * daily)
		killed := *d.Requests
		killed.client = (&dying{left: write}).client(t)
		if _, err := (&reclaim{&killed}).Run(t.Context(), call); write == 1 {
			g.Expect(err).To(MatchError(errKilled))
		}
		if write == 2 {
			_, err := (&reclaim{&killed}).Run(t.Context(), call)
			g.Expect(err).To(MatchError(errKilled))
		}
		call.Repeated = true
		g.Expect(d.do(&reclaim{d.Requests}, call)).To(HaveKeyWithValue("returned", true))
		d.has(tenant, "1")
		// A later partition of the same name is another one.
		next := newRequest(t, tenant, "prod", req.Spec.Wanted.Cluster, cpuOnly("3"))
		d.do(&allocate{d.Requests}, grants(next, next.Spec.Wanted.Quota, req.Spec.Wanted.Cluster, ""))
		g.Expect(d.do(&reclaim{d.Requests}, call)).To(HaveKeyWithValue("returned", true))
		d.has(tenant, "3")
		g.Expect(d.part(tenant, "prod")).NotTo(BeNil())
	}
}

func TestONB05_ReturnIsOnce(t *testing.T) {
	d := newDesk(t)
	g := NewWithT(t)
	req, _ := d.given(t)
	back := newRequest(t, req.Namespace, "prod", "", kind(v1alpha1.RequestReturn, nil, nil))
	call := callOf(back, nil)
	out, err := (&allocate{d.Requests}).Run(t.Context(), call)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(out.Done).To(BeFalse())
	call.Repeated = true // without state: the answer was lost
	g.Expect(d.do(&allocate{d.Requests}, call)).To(HaveKeyWithValue("returned", true))
	keep(t, call, out)
	g.Expect(d.do(&allocate{d.Requests}, call)).To(HaveKeyWithValue("returned", true))
	d.has(req.Namespace, "1")
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKey{Namespace: req.Namespace, Name: "prod"}, &v1alpha1.Partition{})).NotTo(Succeed())
}

// A partition's quota is frozen at what is used once, and what was not counted stays as it is.
func TestONB05_FrozenAtWhatIsUsed(t *testing.T) {
	d := newDesk(t)
	g := NewWithT(t)
	req, _ := d.given(t)
	p := d.part(req.Namespace, "prod")
	p.Spec.Quota = quota("requests.cpu", "4", "pods", "9", "requests.memory", "8Gi")
	g.Expect(hub.Client.Update(t.Context(), p)).To(Succeed())
	p.Status.Used = quota("requests.cpu", "1500m", "pods", "12")
	g.Expect(hub.Client.Status().Update(t.Context(), p)).To(Succeed())
	for range 2 {
		g.Expect(d.freeze(t.Context(), req)).To(Succeed())
	}
	p = d.part(req.Namespace, "prod")
	g.Expect(sameQuota(p.Spec.Quota, quota("requests.cpu", "1500m", "pods", "9", "requests.memory", "8Gi"))).To(BeTrue(), words(p.Spec.Quota))
	was, err := quotaOf(p)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(sameQuota(was, quota("requests.cpu", "4", "pods", "9", "requests.memory", "8Gi"))).To(BeTrue(), words(was))
}

// The status is what says that a phase was entered: killed before it is written, everything is done again, and is there once.
func TestONB05_PhasesAreEnteredOnce(t *testing.T) {
	d := newDesk(t)
	g := NewWithT(t)
	req := newRequest(t, newTenant(t, nil), "prod", "beijing")
	// The hub's clock, of which the first time comes, is a minute ahead of the server's.
	at := metav1.NewTime(time.Now().Add(-time.Minute))
	events := []occurrence{{v1alpha1.RequestApplied, req.CreationTimestamp, "li"}, {v1alpha1.RequestApproved, at, "wang"}, {v1alpha1.RequestActive, at, ""}}
	for range 2 {
		lost := req.DeepCopy()
		for range 2 {
			for _, e := range events {
				g.Expect(d.enter(t.Context(), lost, &state{}, e)).To(Succeed())
			}
		}
		g.Expect(lost.Status.Phase).To(Equal(v1alpha1.RequestActive))
		g.Expect(lost.Status.History).To(HaveLen(3))
	}
	rows, _, err := d.ledger.page(t.Context(), &where{}, false, 0, 10)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(rows).To(HaveLen(3))
	g.Expect(d.post.topics(req.Namespace)).To(Equal(map[string]int{topicApplied: 1, topicApproved: 1, topicActive: 1}))

	for i := range 40 {
		later := metav1.NewTime(at.Add(time.Duration(i+1) * time.Hour))
		g.Expect(d.enter(t.Context(), req, &state{}, occurrence{phase: v1alpha1.RequestActive, at: later})).To(Succeed())
	}
	g.Expect(len(req.Status.History)).To(BeNumerically("<=", 20), "the history in the status is bounded")
}
