package history

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/testkit"
)

var root = rest.User{Name: "admin", Groups: []string{"system:masters"}}

// person is a user of the platform with some groups.
func person(name string, groups ...string) rest.User {
	return rest.User{Name: v1alpha1.UserPrefix + name, Groups: groups}
}

func viewer(name, tenant string) rest.User {
	return person(name, v1alpha1.TenantGroup(tenant, v1alpha1.RoleViewer))
}

func newAPI(t *testing.T, h *History) *API {
	t.Helper()
	clients, err := kubernetes.NewForConfig(hub.Config)
	if err != nil {
		t.Fatal(err)
	}
	authorizer := rest.NewAuthorizer(clients)
	// As the rights are: who has a role in a tenant reads its runs, limited members only by name.
	authorizer.DecideFirst(func(user rest.User, a authorizationv1.ResourceAttributes) (allowed, decided bool) {
		for _, group := range user.Groups {
			grant, ok := v1alpha1.ParseGroup(group)
			allowed = allowed || group == v1alpha1.GroupPlatformAdmin || ok && grant.Tenant == a.Namespace && (!grant.Limited || a.Verb == "get" && a.Name == "visible")
		}
		return allowed, strings.HasPrefix(user.Name, v1alpha1.UserPrefix)
	})
	return &API{History: h, Authorizer: authorizer, Namespace: testkit.PlatformNamespace}
}

// call asks for a path and gives the body.
func call(t *testing.T, a *API, user rest.User, path string) (string, error) {
	t.Helper()
	return callFor(t.Context(), a, user, path, httptest.NewRecorder())
}

func callFor(ctx context.Context, a *API, user rest.User, path string, w *httptest.ResponseRecorder) (string, error) {
	mux := http.NewServeMux()
	var failed error
	for _, route := range a.Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) { failed = route.Handler(w, r) })
	}
	mux.ServeHTTP(w, httptest.NewRequestWithContext(rest.WithUser(ctx, user), http.MethodGet, path, nil))
	return w.Body.String(), failed
}

func page[T any](t *testing.T, a *API, user rest.User, path string) rest.Page[T] {
	t.Helper()
	body, err := call(t, a, user, path)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var p rest.Page[T]
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func names(p rest.Page[Row]) []string {
	all := []string{}
	for _, r := range p.Items {
		all = append(all, r.Name)
	}
	return all
}

// Pages of runs of the hub and archived ones are those of one list, whatever is asked for.
func testListOfLiveAndArchivedRuns(t *testing.T, h *History) {
	g := NewWithT(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 1))
	var live, all []Row
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for i := range 300 {
		pick := func(words ...string) string { return words[chance.IntN(len(words))] }
		run := newRun(pick("edu", "fin"), fmt.Sprintf("run-%d", chance.IntN(100)), pick("Release", "release", "部署", "x_y"), pick("li", "wang", "Zhao"),
			v1alpha1.RunPhase(pick("Succeeded", "Failed")), begin.Add(time.Duration(chance.IntN(50))*time.Hour))
		run.UID = types.UID(fmt.Sprintf("%08x-0000", uint32(i)*2654435761))
		row := rowOf(run)
		where := chance.IntN(4)
		if where == 0 || where == 1 {
			live = append(live, row)
		}
		if where > 0 { // 1: archived and still there
			g.Expect(h.Archive(t.Context(), run)).To(Succeed())
		}
		row.Archived = where > 1
		all = append(all, row)
	}
	markLeft(t, h, all, chance)
	for range 150 {
		values := url.Values{"pageSize": {fmt.Sprint(1 + chance.IntN(90))}, "page": {fmt.Sprint(1 + chance.IntN(5))}}
		maybe := func(key string, options ...string) {
			if chance.IntN(3) == 0 {
				values[key] = options[:1+chance.IntN(len(options))]
			}
		}
		maybe("sort", []string{"name", "-name", "workflow", "-user", "phase", "-createdAt", "createdAt", "tenant", "finishedAt", "-startedAt", "steps"}[chance.IntN(11)])
		maybe("phase", "Failed", "Succeeded")
		maybe("workflow", "release", "部署")
		maybe("user", "Zhao", "li")
		maybe("search", []string{"RUN-1", "部署", "x_y", "%", "li"}[chance.IntN(5)])
		maybe("since", begin.Add(20*time.Hour).Format(time.RFC3339))
		q, err := parse(values)
		g.Expect(err).NotTo(HaveOccurred())
		q.visible = []scope{{all: true}, {tenants: []string{"edu"}}, {user: "li", own: []string{"fin"}, tenants: []string{"edu"}}, {}}[chance.IntN(4)]
		got, err := h.list(t.Context(), seen(live, q), q)
		g.Expect(err).NotTo(HaveOccurred())
		want := seen(all, q)
		want = slices.DeleteFunc(want, func(r Row) bool { return !q.matches(&r) })
		slices.SortFunc(want, func(a, b Row) int { return q.compare(&a, &b) })
		g.Expect(got.Total).To(Equal(len(want)), "%v", values)
		from, to := min((q.page-1)*q.size, len(want)), min(q.page*q.size, len(want))
		if diff := cmp.Diff(append([]Row{}, want[from:to]...), got.Items); diff != "" {
			t.Fatalf("%v %+v: -want +got:\n%s", values, q.visible, diff)
		}
	}
}

// markLeft tells the records of some of the runs that have left the hub; of the others they do not know it yet.
func markLeft(t *testing.T, h *History, all []Row, chance *rand.Rand) {
	t.Helper()
	err := h.Records.Update(t.Context(), func(tx *record.Tx) error {
		for _, r := range all {
			if r.Archived && chance.IntN(10) > 0 {
				if err := tx.Exec(t.Context(), `UPDATE workflow_runs SET live = 0 WHERE uid = ?`, r.UID); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func seen(rows []Row, q *query) []Row {
	return slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { return !q.visible.has(r.Tenant, r.User) })
}

func TestOPS10_ListIsNotEverybodys(t *testing.T) {
	g := NewWithT(t)
	h := open(t, file(t))
	a := newAPI(t, h)
	mine, other := testkit.Namespace(t, hub.Client), testkit.Namespace(t, hub.Client)
	for _, name := range []string{mine, other} {
		testkit.Create(t, hub.Client, &v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: name}})
		onHub(t, newRun(name, "live", "w", "li", v1alpha1.RunSucceeded, time.Now()))
		gone := newRun(name, "gone", "w", "wang", v1alpha1.RunFailed, time.Now().Add(-time.Hour))
		g.Expect(h.Archive(t.Context(), gone)).To(Succeed())
	}
	limited := v1alpha1.LimitedGroup(mine)
	for reason, tc := range map[string]struct {
		user rest.User
		want []string
	}{
		"AViewer":          {viewer("x", mine), []string{"gone", "live"}},
		"OfNoTenant":       {person("x"), []string{}},
		"LimitedStartedIt": {person("wang", limited), []string{"gone"}},
		"LimitedAnother":   {person("x", limited), []string{}},
	} {
		p := page[Row](t, a, tc.user, "/api/v1/workflow-runs?sort=name")
		g.Expect(names(p)).To(Equal(tc.want), reason)
		g.Expect(p.Total).To(Equal(len(tc.want)), reason)
	}
	both := page[Row](t, a, root, "/api/v1/workflow-runs?sort=name&tenant="+mine+"&tenant="+other)
	g.Expect(names(both)).To(Equal([]string{"gone", "gone", "live", "live"}))
	for query, want := range map[string]string{
		"colour=red": "there is no field", "sort=colour": "there is no field", "page=0": "give a number", "pageSize=501": "give a number",
		"since=yesterday": "is no time", "startedAt=x": "there is no field", strings.Repeat("phase=x&", 51): "too many",
	} {
		_, err := call(t, a, root, "/api/v1/workflow-runs?"+query)
		g.Expect(err).To(MatchError(ContainSubstring(want)), query)
		g.Expect(apierrors.IsBadRequest(err)).To(BeTrue(), query)
	}
}

func TestOPS10_OneRun(t *testing.T) {
	g := NewWithT(t)
	h := open(t, file(t))
	a := newAPI(t, h)
	tenant := testkit.Namespace(t, hub.Client)
	first := newRun(tenant, "visible", "w", "wang", v1alpha1.RunFailed, time.Now().Add(-time.Hour))
	g.Expect(h.Archive(t.Context(), first)).To(Succeed())
	live := onHub(t, newRun(tenant, "visible", "w", "li", v1alpha1.RunSucceeded, time.Now()))
	testkit.Create(t, hub.Client, approval(tenant, "a", live, "one", v1alpha1.DecisionApproved))
	path := "/api/v1/tenants/" + tenant + "/workflow-runs/visible"
	get := func(user rest.User, path string) (*Detail, error) {
		body, err := call(t, a, user, path)
		if err != nil {
			return nil, err
		}
		d := &Detail{}
		return d, json.Unmarshal([]byte(body), d)
	}
	detail, err := get(viewer("x", tenant), path)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect([]any{detail.IsArchived, detail.Run.UID, len(detail.Approvals)}).To(Equal([]any{false, live.UID, 1}))
	detail, err = get(viewer("x", tenant), path+"?uid="+url.QueryEscape(string(first.UID)))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect([]any{detail.IsArchived, detail.Run.Status.Phase}).To(Equal([]any{true, v1alpha1.RunFailed}))

	limited := v1alpha1.LimitedGroup(tenant)
	old := "?uid=" + url.QueryEscape(string(first.UID))
	for reason, tc := range map[string]struct {
		user rest.User
		path string
		ok   bool
	}{
		"LimitedByName":            {person("x", limited), path, true},
		"LimitedArchivedOfAnother": {person("x", limited), path + old, false},
		"LimitedArchivedOwn":       {person("wang", limited), path + old, true},
		"LogOfAnother":             {person("x", limited), path + "/steps/one/log" + old, false},
		"OtherTenant":              {viewer("x", "other"), path, false},
		"OtherTenantOwn":           {viewer("wang", "other"), path + old, false},
		"NotThereOtherTenant":      {viewer("x", "other"), "/api/v1/tenants/" + tenant + "/workflow-runs/missing", false},
	} {
		_, err := call(t, a, tc.user, tc.path)
		g.Expect(err == nil).To(Equal(tc.ok), "%s: %v", reason, err)
		g.Expect(tc.ok || apierrors.IsForbidden(err)).To(BeTrue(), "%s: %v", reason, err)
	}
	for _, missing := range []string{"/api/v1/tenants/" + tenant + "/workflow-runs/missing", path + "?uid=x", path + "/steps/three/log"} {
		_, err := call(t, a, viewer("x", tenant), missing)
		g.Expect(apierrors.IsNotFound(err)).To(BeTrue(), "%s: %v", missing, err)
	}
	for _, wrong := range []string{path + "?color=red", path + "/steps/one/log?attempt=0", path + "/steps/one/log?follow=maybe", path + "/steps/one/log?color=red"} {
		_, err := call(t, a, viewer("x", tenant), wrong)
		g.Expect(apierrors.IsBadRequest(err)).To(BeTrue(), "%s: %v", wrong, err)
	}
}

func TestAUD03_LogOfAStep(t *testing.T) {
	g := NewWithT(t)
	h := open(t, file(t))
	a := newAPI(t, h)
	tenant := testkit.Namespace(t, hub.Client)
	running := newRun(tenant, "r", "w", "li", v1alpha1.RunRunning, time.Now())
	running.Status.FinishTime, running.Status.Steps[0].Phase = nil, v1alpha1.StepRunning
	run := onHub(t, running)
	path := "/api/v1/tenants/" + tenant + "/workflow-runs/r/steps/one/log"
	h.Log(run.UID, tenant, "r", "one", 1, "first attempt")
	h.Log(run.UID, tenant, "r", "one", 2, "second attempt")
	g.Expect(h.Flush(t.Context())).To(Succeed())
	stamp := `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z `
	text, err := call(t, a, viewer("x", tenant), path)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(text).To(MatchRegexp("^" + stamp + "first attempt\n--- attempt 2 ---\n" + stamp + "second attempt\n$"))
	text, err = call(t, a, viewer("x", tenant), path+"?attempt=2")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(text).To(MatchRegexp("^" + stamp + "second attempt\n$"))

	w, ended := httptest.NewRecorder(), make(chan error)
	go func() {
		_, err := callFor(t.Context(), a, viewer("x", tenant), path+"?follow=true", w)
		ended <- err
	}()
	for i := range 2 * linesInMemory {
		h.Log(run.UID, tenant, "r", "one", 2, fmt.Sprint("more ", i))
	}
	g.Expect(h.Flush(t.Context())).To(Succeed())
	g.Consistently(ended, "1200ms").ShouldNot(Receive(), "it goes on while the step does")
	h.Log(run.UID, tenant, "r", "one", 2, "the last")
	run.Status.Steps[0].Phase = v1alpha1.StepSucceeded
	g.Expect(hub.Client.Status().Update(t.Context(), run)).To(Succeed())
	g.Expect(h.Flush(t.Context())).To(Succeed())
	g.Eventually(ended, "20s").Should(Receive(BeNil()))
	lines := strings.Split(strings.TrimSpace(w.Body.String()), "\n")
	g.Expect(lines).To(HaveLen(3 + 2*linesInMemory + 1))
	g.Expect(lines[len(lines)-1]).To(HaveSuffix(" the last"))
}

func TestOPS10_Inbox(t *testing.T) {
	g := NewWithT(t)
	h := open(t, file(t))
	a := newAPI(t, h)
	tenant := testkit.Namespace(t, hub.Client)
	waiting := newRun(tenant, "r", "w", "li", v1alpha1.RunWaiting, time.Now())
	waiting.Status.FinishTime, waiting.Status.RetriedBy = nil, &v1alpha1.Actor{Name: "yunfan:wang"}
	waiting.Status.Steps[0].Phase, waiting.Status.Steps[0].Approval = v1alpha1.StepWaiting, &v1alpha1.ApprovalWanted{
		Digest: "d", Subject: "release v2", Roles: []v1alpha1.ApproverRole{v1alpha1.ApproverAdmin}, Users: []string{"chen"}, Count: 2,
	}
	run := onHub(t, waiting)
	over := newRun(tenant, "over", "w", "li", v1alpha1.RunAborted, time.Now())
	over.Status.Steps[0] = *waiting.Status.Steps[0].DeepCopy()
	onHub(t, over)
	given := approval(tenant, "given", run, "one", v1alpha1.DecisionApproved)
	given.Spec.User.Name = "yunfan:zhao"
	testkit.Create(t, hub.Client, given)
	given.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue, Reason: "Accepted", LastTransitionTime: metav1.Now()}}
	g.Expect(hub.Client.Status().Update(t.Context(), given)).To(Succeed())

	admin, operator := v1alpha1.TenantGroup(tenant, v1alpha1.RoleAdmin), v1alpha1.TenantGroup(tenant, v1alpha1.RoleOperator)
	for reason, tc := range map[string]struct {
		user     rest.User
		relation string
	}{
		"AnAdmin":           {person("sun", admin), RelationDecide},
		"AnOperator":        {person("sun", operator), ""},
		"ByName":            {person("chen"), RelationDecide},
		"ThePlatforms":      {person("sun", v1alpha1.GroupPlatformAdmin), RelationDecide},
		"AdminElsewhere":    {person("sun", v1alpha1.TenantGroup("other", v1alpha1.RoleAdmin)), ""},
		"WhoStartedIt":      {person("li", admin), RelationAsked},
		"WhoRetriedIt":      {person("wang", admin), RelationAsked},
		"WhoHasDecided":     {person("zhao", admin), ""},
		"NamesakeOfTheHub":  {rest.User{Name: "chen"}, ""},
		"LimitedToPartOfIt": {person("sun", v1alpha1.PartitionGroup(tenant, "p", v1alpha1.RoleOperator)), ""},
	} {
		p := page[Wanted](t, a, tc.user, "/api/v1/approvals?tenant="+tenant)
		if tc.relation == "" {
			g.Expect(p.Items).To(BeEmpty(), reason)
			continue
		}
		g.Expect(p.Items).To(HaveLen(1), reason)
		got := p.Items[0]
		g.Expect([]string{got.Relation, got.Run, got.Step, got.Digest, got.Subject, got.AskedBy}).To(Equal([]string{tc.relation, "r", "one", "d", "release v2", "li"}), reason)
		g.Expect(got.ApprovedBy).To(Equal([]string{"zhao"}))
		g.Expect(got.Count).To(Equal(int32(2)))
	}
}

// waiter is an action for the catalogue.
type waiter struct{ action.Action }

func (waiter) Describe() action.Description {
	return action.Description{Name: "wait", Summary: "Waits.", Timeout: action.NoTimeout, Inputs: []action.Field{{Name: "for", Type: v1alpha1.TypeString}}}
}

func TestOPS10_ActionsThatThereAre(t *testing.T) {
	a := newAPI(t, open(t, file(t)))
	a.Actions = action.Catalogue{"wait": waiter{}}
	p := page[Action](t, a, person("x"), "/api/v1/workflow-actions")
	NewWithT(t).Expect(p.Items).To(Equal([]Action{{Description: action.Description{Name: "wait", Summary: "Waits.", Inputs: []action.Field{{Name: "for", Type: v1alpha1.TypeString}}}, Timeout: "none"}}))
}
