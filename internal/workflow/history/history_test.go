package history

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

// TestOPS10_BothDatabases runs tests with a database of each kind: files, and schemas of one server.
func TestOPS10_BothDatabases(t *testing.T) {
	server := testkit.StartPostgreSQL(t).URL
	admin := open(t, server)
	for i, test := range []struct {
		name string
		run  func(t *testing.T, h *History)
	}{
		{"LinesOfSteps", testLinesOfSteps},
		{"LogsAreBounded", testLogsAreBounded},
		{"RunsAreArchived", testRunsAreArchived},
		{"FinishedRunsAreTrimmed", testFinishedRunsAreTrimmed},
		{"RecordsAreTrimmed", testRecordsAreTrimmed},
		{"ListOfLiveAndArchivedRuns", testListOfLiveAndArchivedRuns},
	} {
		t.Run(test.name+"/SQLite", func(t *testing.T) { test.run(t, open(t, file(t))) })
		t.Run(test.name+"/PostgreSQL", func(t *testing.T) {
			schema := fmt.Sprint("s", i)
			if err := admin.Records.Update(t.Context(), func(tx *record.Tx) error { return tx.Exec(t.Context(), "CREATE SCHEMA "+schema) }); err != nil {
				t.Fatal(err)
			}
			test.run(t, open(t, server+"&search_path="+schema))
		})
	}
}

// file is the location of a new database of SQLite.
func file(t *testing.T) string {
	t.Helper()
	return "sqlite://" + filepath.Join(t.TempDir(), "records.db")
}

func open(t *testing.T, location string) *History {
	t.Helper()
	records, err := record.Open(t.Context(), location)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = records.Close() })
	h := New(hub.Client, records)
	if err := h.migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

func texts(t *testing.T, h *History, run types.UID, step string, attempt int32) []string {
	t.Helper()
	lines, _, err := h.Lines(t.Context(), run, step, attempt, Position{}, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	all := []string{}
	for _, l := range lines {
		all = append(all, fmt.Sprintf("%d %s", l.Attempt, l.Text))
	}
	return all
}

func testLinesOfSteps(t *testing.T, h *History) {
	g := NewWithT(t)
	h.Log("u1", "edu", "release", "build", 1, "first")
	h.Log("u1", "edu", "release", "build", 1, "two\r\nlines\n")
	h.Log("u1", "edu", "release", "build", 2, "again")
	h.Log("u1", "edu", "release", "test", 1, "other step")
	h.Log("u2", "edu", "release", "build", 1, "other run")
	h.Log("u1", "edu", "release", "build", 1, "a late one")
	h.Log("u1", "edu", "release", "build", 1, "\x1b[31mred\x00 \u202egnp.exe \xff 中文\tend")
	g.Expect(texts(t, h, "u1", "build", 0)).To(BeEmpty(), "nothing is written yet")
	g.Expect(h.Flush(t.Context())).To(Succeed())
	g.Expect(texts(t, h, "u1", "build", 0)).To(Equal([]string{
		"1 first", "1 two", "1 lines", "1 a late one", "1 \uFFFD[31mred\uFFFD \uFFFDgnp.exe \uFFFD 中文\tend", "2 again",
	}), "attempt by attempt, and nothing that a terminal obeys")
	g.Expect(texts(t, h, "u1", "build", 2)).To(Equal([]string{"2 again"}))
	g.Expect(texts(t, h, "u2", "build", 0)).To(Equal([]string{"1 other run"}))

	lines, at, err := h.Lines(t.Context(), "u1", "build", 0, Position{}, 2)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(lines).To(HaveLen(2))
	rest, _, err := h.Lines(t.Context(), "u1", "build", 0, at, 100)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(rest).To(HaveLen(4), "it goes on where it was")
	g.Expect(rest[0].At.After(lines[1].At)).To(BeTrue())
}

func testLogsAreBounded(t *testing.T, h *History) {
	g := NewWithT(t)
	h.Log("u", "edu", "r", "long", 1, strings.Repeat("帆", maxLine))
	g.Expect(h.Flush(t.Context())).To(Succeed())
	long := strings.TrimPrefix(texts(t, h, "u", "long", 0)[0], "1 ")
	g.Expect(len(long)).To(And(BeNumerically("<=", maxLine), BeNumerically(">", maxLine-16)))
	g.Expect(long).To(HaveSuffix("帆 [cut]"))

	// Twice as much as an attempt may write, in two goes, as before and after a restart.
	const length = 4095
	for range 2 {
		for range maxLog / (length + 1) {
			h.Log("u", "edu", "r", "much", 1, strings.Repeat("x", length))
		}
		g.Expect(h.Flush(t.Context())).To(Succeed())
	}
	h.Log("u", "edu", "r", "much", 2, "another attempt")
	g.Expect(h.Flush(t.Context())).To(Succeed())
	much := texts(t, h, "u", "much", 1)
	g.Expect(much).To(HaveLen(maxLog/(length+1) + 1))
	g.Expect(much[len(much)-1]).To(Equal("1 [the log has reached 1024 KiB: the rest is not kept]"))
	g.Expect(texts(t, h, "u", "much", 2)).To(Equal([]string{"2 another attempt"}))
}

// A database that does not answer neither stops steps nor fills the memory, and what is missing is told.
func TestOPS10_LinesWaitForTheDatabase(t *testing.T) {
	g := NewWithT(t)
	server := testkit.StartPostgreSQL(t)
	h := open(t, server.URL)
	server.Stop(t)
	const lost = 37
	for i := range maxWaiting + lost {
		h.Log("u", "edu", "r", "s", 1, fmt.Sprint("line ", i))
	}
	g.Expect(h.Flush(t.Context())).NotTo(Succeed())
	g.Expect(h.Archive(t.Context(), &v1alpha1.WorkflowRun{ObjectMeta: metav1.ObjectMeta{Namespace: "none", UID: "u"}})).NotTo(Succeed())
	server.Start(t)
	g.Expect(h.Flush(t.Context())).To(Succeed())
	g.Expect(h.Flush(t.Context())).To(Succeed())
	all := texts(t, h, "u", "s", 1)
	g.Expect(all).To(HaveLen(maxWaiting + 1))
	g.Expect(all[maxWaiting-1]).To(Equal(fmt.Sprint("1 line ", maxWaiting-1)))
	g.Expect(all[maxWaiting]).To(Equal("1 [37 lines are missing here: they came faster than they could be written]"))
}

// Lines are written by themselves, and the last ones when the server stops.
func TestOPS10_LinesAreWrittenByThemselves(t *testing.T) {
	g := NewWithT(t)
	h := open(t, file(t))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- h.Start(ctx) }()
	h.Log("u", "edu", "r", "s", 1, "soon there")
	g.Eventually(func() []string { return texts(t, h, "u", "s", 1) }, "20s", "50ms").Should(Equal([]string{"1 soon there"}))
	h.Log("u", "edu", "r", "s", 1, "the last")
	cancel()
	g.Expect(<-ended).To(Succeed())
	g.Expect(texts(t, h, "u", "s", 1)).To(Equal([]string{"1 soon there", "1 the last"}))
}

// Two servers write to the same log: no line is lost, none comes twice, also if a batch is written again.
func TestOPS10_TwoServersWriteOneLog(t *testing.T) {
	g := NewWithT(t)
	url := testkit.StartPostgreSQL(t).URL
	a, b := open(t, url), open(t, url)
	a.lines.writer, b.lines.writer = 1, 2 // by chance otherwise
	for i := range 400 {
		a.Log("u", "edu", "r", fmt.Sprint("s", i%3), 1, "a")
		b.Log("u", "edu", "r", fmt.Sprint("s", (i+1)%3), 1, "b")
	}
	batch := a.lines.next()
	g.Expect(a.write(t.Context(), batch)).To(Succeed())
	done := make(chan error)
	go func() { done <- b.Flush(t.Context()) }()
	g.Expect(a.Flush(t.Context())).To(Succeed(), "the first batch is written again: its end was not seen")
	g.Expect(<-done).To(Succeed())
	n := 0
	for i := range 3 {
		n += len(texts(t, a, "u", fmt.Sprint("s", i), 1))
	}
	g.Expect(n).To(Equal(800))
}

// newRun is a finished run, as the engine leaves it.
func newRun(tenant, name, workflow, user string, phase v1alpha1.RunPhase, at time.Time) *v1alpha1.WorkflowRun {
	start, finish := metav1.NewMicroTime(at), metav1.NewMicroTime(at.Add(time.Minute))
	return &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: name, UID: types.UID(tenant + "/" + name), CreationTimestamp: metav1.NewTime(at)},
		Spec:       v1alpha1.WorkflowRunSpec{Workflow: workflow, User: &v1alpha1.Actor{Name: "yunfan:" + user}, Inputs: map[string]json.RawMessage{"a": json.RawMessage(`1`)}},
		Status: v1alpha1.WorkflowRunStatus{
			Phase: phase, Message: "all done", StartTime: &start, FinishTime: &finish,
			Definition: &v1alpha1.WorkflowSpec{DisplayName: "发布", Steps: []v1alpha1.WorkflowStep{{Name: "one", Action: "wait"}, {Name: "two", Action: "wait"}}},
			Steps:      []v1alpha1.StepStatus{{Name: "one", Phase: v1alpha1.StepSucceeded, Attempt: 1, StartTime: &start, FinishTime: &finish, Actor: "yunfan:" + user}, {Name: "two", Phase: v1alpha1.StepPending}},
		},
	}
}

func testRunsAreArchived(t *testing.T, h *History) {
	g := NewWithT(t)
	tenant := testkit.Namespace(t, hub.Client)
	at := time.Date(2026, 3, 1, 12, 0, 0, 123000, time.UTC)
	run := newRun(tenant, "r", "release", "li", v1alpha1.RunFailed, at)
	run.Status.Message = "broken\x00 by \x1b[1mit"
	testkit.Create(t, hub.Client,
		approval(tenant, "first", run, "one", v1alpha1.DecisionApproved), approval(tenant, "of-another", newRun(tenant, "x", "", "", "", at), "one", v1alpha1.DecisionApproved))
	h.Log(run.UID, tenant, "r", "one", 1, "hello")
	g.Expect(h.Archive(t.Context(), run)).To(Succeed())
	g.Expect(texts(t, h, run.UID, "one", 0)).To(Equal([]string{"1 hello"}), "what was logged before is there")
	g.Expect(h.Archive(t.Context(), run)).To(Succeed(), "twice is once")

	kept, err := h.Find(t.Context(), tenant, "r", "")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(cmp.Diff(run.Status.Steps, kept.Run.Status.Steps)).To(BeEmpty())
	g.Expect(kept.Run.Spec).To(Equal(run.Spec))
	g.Expect(kept.Approvals).To(HaveLen(1))
	g.Expect(kept.Approvals[0].Name).To(Equal("first"))

	retried := run.DeepCopy()
	retried.Status.Retries, retried.Status.Phase, retried.Status.Message = 1, v1alpha1.RunSucceeded, ""
	g.Expect(h.Archive(t.Context(), retried)).To(Succeed())
	g.Expect(h.Archive(t.Context(), run)).To(Succeed(), "a server that was asleep")
	kept, err = h.Find(t.Context(), tenant, "r", run.UID)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(kept.Run.Status.Phase).To(Equal(v1alpha1.RunSucceeded), "the newest is kept")

	for _, missing := range [][2]string{{tenant, "other"}, {"other", "r"}} {
		kept, err = h.Find(t.Context(), missing[0], missing[1], "")
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(kept).To(BeNil())
	}
}

func approval(tenant, name string, run *v1alpha1.WorkflowRun, step string, decision v1alpha1.Decision) *v1alpha1.Approval {
	return &v1alpha1.Approval{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: name},
		Spec: v1alpha1.ApprovalSpec{
			Run: run.Name, RunUID: string(run.UID), Step: step, Digest: "d", Decision: decision, Comment: "c",
			User: &v1alpha1.Actor{Name: "yunfan:wang"},
		},
	}
}

// onHub creates a run there, with the status given.
func onHub(t *testing.T, run *v1alpha1.WorkflowRun) *v1alpha1.WorkflowRun {
	t.Helper()
	g := NewWithT(t)
	status := run.Status
	run.UID, run.CreationTimestamp = "", metav1.Time{}
	testkit.Create(t, hub.Client, run)
	run.Status = status
	g.Expect(hub.Client.Status().Update(t.Context(), run)).To(Succeed())
	return run
}

func testFinishedRunsAreTrimmed(t *testing.T, h *History) {
	g := NewWithT(t)
	now := time.Now()
	tenant := testkit.Namespace(t, hub.Client)
	trimmer := NewTrimmer(h, hub.Client)
	trimmer.KeepCount = 3
	trimmer.Now = func() time.Time { return now }
	old := onHub(t, newRun(tenant, "old", "w", "li", v1alpha1.RunSucceeded, now.Add(-2*time.Hour)))
	running := newRun(tenant, "running", "w", "li", v1alpha1.RunRunning, now.Add(-9*time.Hour))
	running.Status.FinishTime = nil
	onHub(t, running)
	again := newRun(tenant, "again", "w", "li", v1alpha1.RunFailed, now.Add(-9*time.Hour))
	again.Spec.Retry = &v1alpha1.RunRetry{Number: 1}
	onHub(t, again)
	for i := range 4 {
		onHub(t, newRun(tenant, fmt.Sprint("r", i), "w", "li", v1alpha1.RunFailed, now.Add(-time.Duration(10-i)*time.Minute)))
	}
	decision := approval(tenant, "decision", old, "one", v1alpha1.DecisionApproved)
	decision.Spec.RunUID = string(old.UID)
	testkit.Create(t, hub.Client, decision)

	g.Expect(trimmer.Trim(t.Context())).To(Succeed())
	left := func() (names []string) {
		var list v1alpha1.WorkflowRunList
		g.Expect(hub.Client.List(t.Context(), &list, client.InNamespace(tenant))).To(Succeed())
		for _, r := range list.Items {
			names = append(names, r.Name)
		}
		return names
	}
	g.Expect(left()).To(ConsistOf("running", "again", "r1", "r2", "r3"), "neither what runs or will, nor the youngest")
	kept, err := h.Find(t.Context(), tenant, "old", "")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(kept.Approvals).To(HaveLen(1))

	now = now.Add(30 * time.Minute)
	g.Expect(trimmer.Trim(t.Context())).To(Succeed())
	g.Expect(apierrors.IsNotFound(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(decision), decision))).To(BeTrue(), "its approvals follow it")
	now = now.Add(31 * time.Minute)
	g.Expect(trimmer.Trim(t.Context())).To(Succeed())
	g.Expect(left()).To(ConsistOf("running", "again"))
}

// What the records cannot take stays on the hub.
func TestOPS10_NothingLeavesTheHubUnarchived(t *testing.T) {
	g := NewWithT(t)
	tenant := testkit.Namespace(t, hub.Client)
	run := onHub(t, newRun(tenant, "r", "w", "li", v1alpha1.RunSucceeded, time.Now().Add(-2*time.Hour)))
	h := open(t, file(t))
	g.Expect(h.Records.Close()).To(Succeed())
	g.Expect(NewTrimmer(h, hub.Client).Trim(t.Context())).NotTo(Succeed())
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(run), run)).To(Succeed())
	g.Expect(hub.Client.Delete(t.Context(), run)).To(Succeed())
}

func testRecordsAreTrimmed(t *testing.T, h *History) {
	g := NewWithT(t)
	tenant := testkit.Namespace(t, hub.Client)
	now := time.Now()
	for i := range 30 {
		run := newRun(tenant, fmt.Sprintf("r%02d", i), "w", "li", v1alpha1.RunSucceeded, now.Add(-time.Duration(i)*24*time.Hour))
		for range 200 {
			h.Log(run.UID, tenant, run.Name, "one", 1, "line")
		}
		g.Expect(h.Archive(t.Context(), run)).To(Succeed())
	}
	trimmer := NewTrimmer(h, hub.Client)
	trimmer.KeepRecords, trimmer.MaxRecords, trimmer.Now = 20*24*time.Hour, 12, func() time.Time { return now }
	count := func(query string) (n int) {
		g.Expect(h.Records.View(t.Context(), func(tx *record.Tx) error {
			_, err := tx.One(t.Context(), []any{&n}, query)
			return err
		})).To(Succeed())
		return n
	}
	g.Expect(trimmer.trimRecords(t.Context())).To(Succeed())
	g.Expect(count(`SELECT COUNT(*) FROM workflow_runs`)).To(Equal(30), "none is known to have left the hub")
	g.Expect(trimmer.left(t.Context(), map[string]bool{tenant + "/r29": true})).To(Succeed())
	g.Expect(trimmer.trimRecords(t.Context())).To(Succeed())
	g.Expect(count(`SELECT COUNT(*) FROM workflow_runs`)).To(Equal(13), "twelve, and the one on the hub")
	g.Expect(count(`SELECT COUNT(*) FROM workflow_run_objects`)).To(Equal(13))
	g.Expect(count(`SELECT COUNT(*) FROM workflow_logs`)).To(Equal(13))
	g.Expect(count(`SELECT COUNT(*) FROM workflow_lines`)).To(Equal(13 * 200))
	kept, err := h.Find(t.Context(), tenant, "r11", "")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(kept).NotTo(BeNil(), "the newest stay")
	h.Log("never-archived", tenant, "x", "one", 1, "line")
	g.Expect(h.Flush(t.Context())).To(Succeed())
	now = now.Add(21 * 24 * time.Hour)
	g.Expect(trimmer.trimRecords(t.Context())).To(Succeed())
	g.Expect(count(`SELECT COUNT(*) FROM workflow_runs`)).To(Equal(1))
	g.Expect(count(`SELECT COUNT(*) FROM workflow_lines`)).To(Equal(200))
}

// The leader trims by itself.
func TestOPS10_RunsAreTrimmedByThemselves(t *testing.T) {
	tenant := testkit.Namespace(t, hub.Client)
	run := onHub(t, newRun(tenant, "r", "w", "li", v1alpha1.RunSucceeded, time.Now().Add(-2*time.Hour)))
	h := open(t, file(t))
	testkit.StartManager(t, hub, func(mgr manager.Manager) error {
		h.Hub = mgr.GetClient()
		trimmer := NewTrimmer(h, mgr.GetClient())
		trimmer.Interval = 200 * time.Millisecond
		if err := h.SetupWithManager(mgr); err != nil {
			return err
		}
		return trimmer.SetupWithManager(mgr)
	})
	NewWithT(t).Eventually(func() bool {
		return apierrors.IsNotFound(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(run), run.DeepCopy()))
	}, "30s", "100ms").Should(BeTrue())
	NewWithT(t).Eventually(func() (live int) {
		_ = h.Records.View(t.Context(), func(tx *record.Tx) error {
			_, err := tx.One(t.Context(), []any{&live}, `SELECT live FROM workflow_runs WHERE uid = ?`, string(run.UID))
			return err
		})
		return live
	}, "30s", "100ms").Should(BeZero())
}
