package usage

import (
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

// both runs a test with a database of each kind.
func both(t *testing.T, test func(t *testing.T, h *History)) {
	t.Helper()
	run := func(name string, location func(t *testing.T) string) {
		t.Run(name, func(t *testing.T) {
			records, err := record.Open(t.Context(), location(t))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = records.Close() })
			h := &History{Hub: hub.Client, Records: records}
			if err := h.migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			test(t, h)
		})
	}
	run("SQLite", func(t *testing.T) string { t.Helper(); return "sqlite://" + filepath.Join(t.TempDir(), "records.db") })
	run("PostgreSQL", func(t *testing.T) string { t.Helper(); return testkit.StartPostgreSQL(t).URL })
}

func list(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

// tenant makes a tenant with two partitions, whose state is what their controllers would have written.
func tenant(t *testing.T) string {
	t.Helper()
	name := testkit.Namespace(t, hub.Client)
	testkit.Create(t, hub.Client, &v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.TenantSpec{Quota: list("requests.cpu", "8")}})
	for _, p := range []string{"prod", "test"} {
		testkit.Create(t, hub.Client, &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: p}, Spec: v1alpha1.PartitionSpec{Cluster: "c"}})
	}
	return name
}

func set(t *testing.T, tenant, name, reason string, hard, used corev1.ResourceList, pods int32) {
	t.Helper()
	p := &v1alpha1.Partition{}
	g := NewWithT(t)
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKey{Namespace: tenant, Name: name}, p)).To(Succeed())
	status := metav1.ConditionTrue
	if reason != v1alpha1.ReasonReady {
		status = metav1.ConditionFalse
	}
	p.Status = v1alpha1.PartitionStatus{Namespace: "n", Hard: hard, Used: used, Pods: pods, Conditions: []metav1.Condition{{
		Type: v1alpha1.ConditionReady, Status: status, Reason: reason, LastTransitionTime: metav1.Now(),
	}}}
	g.Expect(hub.Client.Status().Update(t.Context(), p)).To(Succeed())
}

func ask(t *testing.T, h *History, user rest.User, query string) (*Answer, error) {
	t.Helper()
	clients, err := kubernetes.NewForConfig(hub.Config)
	if err != nil {
		t.Fatal(err)
	}
	authorizer := rest.NewAuthorizer(clients)
	authorizer.DecideFirst(func(user rest.User, a authorizationv1.ResourceAttributes) (allowed, decided bool) {
		return user.Name == "yunfan:"+a.Resource+"/"+a.Namespace+"/"+a.Name, strings.HasPrefix(user.Name, v1alpha1.UserPrefix)
	})
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(rest.WithUser(t.Context(), user), "GET", "/?"+query, nil)
	if err := (&API{History: h, Authorizer: authorizer}).Routes()[0].Handler(w, r); err != nil {
		return nil, err
	}
	answer := &Answer{}
	return answer, json.Unmarshal(w.Body.Bytes(), answer)
}

var admin = rest.User{Name: "admin", Groups: []string{"system:masters"}}

func between(from, to time.Time, more string) string {
	return url.Values{"from": {from.Format(time.RFC3339)}, "to": {to.Format(time.RFC3339)}}.Encode() + more
}

func line(a *Answer, name string) []Point {
	for _, s := range a.Series {
		if string(s.Resource) == name {
			return s.Points
		}
	}
	return nil
}

func TestRES07_History(t *testing.T) {
	both(t, func(t *testing.T, h *History) {
		g := NewWithT(t)
		name := tenant(t)
		now := time.Date(2026, 3, 1, 12, 2, 0, 0, time.UTC)
		h.Now = func() time.Time { return now }
		sample := func() { t.Helper(); g.Expect(h.Sample(t.Context())).To(Succeed()) }
		set(t, name, "prod", v1alpha1.ReasonReady, list("requests.cpu", "4", "requests.nvidia.com/gpu", "1"), list("requests.cpu", "1500m", "requests.nvidia.com/gpu", "1"), 3)
		set(t, name, "test", v1alpha1.ReasonReady, nil, nil, 2)
		sample()
		sample() // a second server that has just begun to lead
		now = now.Add(5 * time.Minute)
		set(t, name, "prod", v1alpha1.ReasonReady, list("requests.cpu", "6"), list("requests.cpu", "2500m"), 5)
		sample()
		now = now.Add(5 * time.Minute)
		set(t, name, "prod", v1alpha1.ReasonUnreachable, list("requests.cpu", "6"), list("requests.cpu", "2500m"), 5)
		sample()

		begin := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		answer, err := ask(t, h, admin, "tenant="+name+"&partition=prod&"+between(begin, now, "&step=5m"))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(line(answer, "requests.cpu")).To(Equal([]Point{
			{At: begin, Used: 1.5, Peak: 1.5, Hard: new(4.0)}, {At: begin.Add(5 * time.Minute), Used: 2.5, Peak: 2.5, Hard: new(6.0)},
		}), "nothing is told of a time at which the cluster did not answer")
		g.Expect(line(answer, "requests.nvidia.com/gpu")).To(HaveLen(1), "RES-14: GPUs are a resource like others")
		g.Expect(line(answer, "pods")[1]).To(Equal(Point{At: begin.Add(5 * time.Minute), Used: 5, Peak: 5}))

		answer, err = ask(t, h, admin, "tenant="+name+"&"+between(begin, begin.Add(10*time.Minute), "&step=10m&resource=requests.cpu&resource=pods"))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(answer.Series).To(HaveLen(2))
		g.Expect(line(answer, "requests.cpu")).To(HaveExactElements(Point{At: begin, Used: 2, Peak: 2.5, Hard: new(8.0)}), "the tenant's sum against its quota")
		g.Expect(line(answer, "pods")[0].Peak).To(Equal(7.0))

		over, err := h.Over(t.Context(), name, "prod", begin, now)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(over["requests.cpu"]).To(Equal(Point{At: begin, Used: 2, Peak: 2.5, Hard: new(6.0)}), "average, peak, and the last quota")
		g.Expect(h.Over(t.Context(), name, "none", begin, now)).To(BeEmpty())
	})
}

func TestRES07_HistoryIsThinnedOut(t *testing.T) {
	both(t, func(t *testing.T, h *History) {
		g := NewWithT(t)
		h.Interval = 20 * time.Minute
		name := tenant(t)
		now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
		h.Now = func() time.Time { return now }
		begin := now
		for i := range 6 * 24 * 3 { // six days
			used := "1"
			if i%3 == 0 {
				used = "4"
			}
			g.Expect(h.Records.Update(t.Context(), func(tx *record.Tx) error {
				return insert(t.Context(), tx, subject{name, "prod"}, now.Unix(), 1200, newAmounts(list("requests.cpu", used), list("requests.cpu", "5")))
			})).To(Succeed())
			now = now.Add(h.Interval)
		}
		count := func() (n int) {
			g.Expect(h.Records.View(t.Context(), func(tx *record.Tx) error {
				_, err := tx.One(t.Context(), []any{&n}, `SELECT COUNT(*) FROM usage_samples WHERE tenant = ?`, name)
				return err
			})).To(Succeed())
			return n
		}
		g.Expect(h.Thin(t.Context())).To(Succeed())
		g.Expect(count()).To(Equal(2*24*3+4*24), "two days as taken, four by the hour")
		answer, err := ask(t, h, admin, "tenant="+name+"&partition=prod&"+between(begin, now, "&step=24h"))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(line(answer, "requests.cpu")).To(HaveLen(6))
		for _, p := range line(answer, "requests.cpu") {
			g.Expect([]float64{p.Used, p.Peak, *p.Hard}).To(Equal([]float64{2, 4, 5}), "averages and peaks stay what they were")
		}
		now = now.Add(91 * day)
		g.Expect(h.Thin(t.Context())).To(Succeed())
		g.Expect(count()).To(Equal(6), "by the day after 90 days")
		again, err := ask(t, h, admin, "tenant="+name+"&partition=prod&"+between(begin, begin.Add(6*day), "&step=24h"))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(again.Series).To(Equal(answer.Series))
		now = now.Add(2 * 365 * day)
		g.Expect(h.Thin(t.Context())).To(Succeed())
		g.Expect(count()).To(BeZero(), "nothing stays longer than two years")
	})
}

func TestRES07_HistoryIsNotEverybodys(t *testing.T) {
	both(t, func(t *testing.T, h *History) {
		g := NewWithT(t)
		name := tenant(t)
		for query, users := range map[string]map[string]bool{
			"tenant=" + name:                     {"yunfan:tenants//" + name: true, "yunfan:partitions/" + name + "/prod": false, "yunfan:tenants//other": false, "somebody": false},
			"tenant=" + name + "&partition=prod": {"yunfan:partitions/" + name + "/prod": true, "yunfan:partitions/" + name + "/test": false, "somebody": false},
		} {
			for user, allowed := range users {
				_, err := ask(t, h, rest.User{Name: user}, query)
				g.Expect(err == nil).To(Equal(allowed), "%s asks %s: %v", user, query, err)
				g.Expect(allowed || apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
			}
		}
		for query, want := range map[string]string{
			"":                                  "whose usage",
			"tenant=a&colour=red":               "there is no \"colour\"",
			"tenant=a&from=yesterday":           "give a time",
			"tenant=a&from=200&to=100":          "from must be before to",
			"tenant=a&from=0":                   "not more than two years",
			"tenant=a&step=0s":                  "give a duration",
			"tenant=a&from=0&to=86400&step=10s": "at most 2000 steps",
		} {
			_, err := ask(t, h, admin, query)
			g.Expect(err).To(MatchError(ContainSubstring(want)), query)
			g.Expect(apierrors.IsBadRequest(err)).To(BeTrue(), query)
		}
	})
}

// The server that leads takes samples by itself.
func TestRES07_SamplesAreTaken(t *testing.T) {
	name := tenant(t)
	set(t, name, "prod", v1alpha1.ReasonReady, list("pods", "4"), list("pods", "1"), 1)
	records, err := record.Open(t.Context(), "sqlite://"+filepath.Join(t.TempDir(), "records.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = records.Close() })
	h := &History{Records: records, Interval: time.Second}
	testkit.StartManager(t, hub, func(mgr manager.Manager) error {
		h.Hub = mgr.GetClient()
		return h.SetupWithManager(mgr)
	})
	NewWithT(t).Eventually(func() int {
		answer, err := ask(t, h, admin, "tenant="+name+"&partition=prod&step=1s&"+between(time.Now().Add(-10*time.Minute), time.Now().Add(time.Minute), ""))
		if err != nil {
			t.Fatal(err)
		}
		return len(line(answer, "pods"))
	}, "20s", "200ms").Should(BeNumerically(">=", 2))
}
