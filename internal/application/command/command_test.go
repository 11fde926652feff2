package command

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cli"
)

func application(components ...v1alpha1.Component) *v1alpha1.Application {
	app := &v1alpha1.Application{ObjectMeta: metav1.ObjectMeta{Namespace: "edu", Name: "score", Generation: 3}}
	app.Spec.Components = components
	app.Spec.Version = "v2"
	return app
}

func TestSCA01SetReplicas(t *testing.T) {
	for name, tc := range map[string]struct {
		reason      string
		assignments []string
		want        map[string]int32
		code        int
	}{
		"One":       {"one component", []string{"web=3"}, map[string]int32{"web": 3, "db": 1}, 0},
		"Several":   {"several at once", []string{"web=0", "db=2"}, map[string]int32{"web": 0, "db": 2}, 0},
		"Unknown":   {"a component that is not there", []string{"cache=1"}, nil, cli.ExitUsage},
		"DaemonSet": {"a DaemonSet has no number", []string{"agent=1"}, nil, cli.ExitUsage},
		"Negative":  {"fewer than none", []string{"web=-1"}, nil, cli.ExitUsage},
		"NoNumber":  {"no number", []string{"web"}, nil, cli.ExitUsage},
		"TooMany":   {"more than an int32", []string{"web=99999999999"}, nil, cli.ExitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			app := application(
				v1alpha1.Component{Name: "web", Replicas: ptr.To[int32](1)}, v1alpha1.Component{Name: "db", Replicas: ptr.To[int32](1)},
				v1alpha1.Component{Name: "agent", Workload: v1alpha1.WorkloadDaemonSet})
			wanted, err := parseReplicas(tc.assignments)
			if err == nil {
				err = setReplicas(app, wanted)
			}
			if cli.ExitCode(err) != tc.code {
				t.Fatalf("%s: got %v", tc.reason, err)
			}
			for component, n := range tc.want {
				for _, c := range app.Spec.Components {
					if c.Name == component && *c.Replicas != n {
						t.Errorf("%s: %s has %d replicas, want %d", tc.reason, component, *c.Replicas, n)
					}
				}
			}
		})
	}
}

func revision(name string, number int64) v1alpha1.ApplicationRevision {
	return v1alpha1.ApplicationRevision{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.ApplicationRevisionSpec{Number: number}}
}

func TestTPL02ChooseRevision(t *testing.T) {
	all := []v1alpha1.ApplicationRevision{revision("score-c", 3), revision("score-b", 2), revision("score-a", 1)}
	for name, tc := range map[string]struct {
		reason, current, wanted, want string
		code                          int
	}{
		"Previous":   {"without a wish it is the one before", "score-c", "", "score-b", 0},
		"BeforeThat": {"also after a rollback", "score-b", "", "score-a", 0},
		"Number":     {"by number", "score-c", "1", "score-a", 0},
		"Name":       {"by name", "score-c", "score-b", "score-b", 0},
		"Unknown":    {"one that is not there", "score-c", "9", "", cli.ExitUsage},
		"First":      {"before the first there is none", "score-a", "", "", cli.ExitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := choose(all, tc.current, tc.wanted)
			if cli.ExitCode(err) != tc.code || (err == nil && got.Name != tc.want) {
				t.Errorf("%s: got %v, %v", tc.reason, got, err)
			}
		})
	}
}

func TestSettled(t *testing.T) {
	status := func(observed int64, ready metav1.ConditionStatus, reason string, pods ...int32) v1alpha1.ApplicationStatus {
		s := v1alpha1.ApplicationStatus{ObservedGeneration: observed, Conditions: []metav1.Condition{{
			Type: v1alpha1.ConditionReady, Status: ready, Reason: reason, ObservedGeneration: observed, Message: "because",
		}}}
		for _, n := range pods {
			s.Placements = append(s.Placements, v1alpha1.PlacementStatus{Partition: "prod-bj", Ready: n, Desired: 2, Reason: "ImagePullFailed"})
		}
		return s
	}
	for name, tc := range map[string]struct {
		reason string
		status v1alpha1.ApplicationStatus
		done   bool
		says   string
		code   int
	}{
		"New":  {"nothing is known yet", v1alpha1.ApplicationStatus{}, false, "waiting for the server to look at it", 0},
		"Old":  {"the status of an older spec counts for nothing", status(2, metav1.ConditionTrue, "Ready"), false, "waiting for the server to look at it", 0},
		"Way":  {"how far it is, and why no further", status(3, metav1.ConditionFalse, "ImagePullFailed", 1), false, "prod-bj 1/2 ImagePullFailed", 0},
		"Done": {"done", status(3, metav1.ConditionTrue, "Ready", 2), true, "prod-bj 2/2 ImagePullFailed", 0},
		"Approval": {"people are not waited for", v1alpha1.ApplicationStatus{
			ObservedGeneration: 3, Conditions: status(3, metav1.ConditionFalse, v1alpha1.ReasonWaitingForApproval).Conditions,
			Placements: []v1alpha1.PlacementStatus{{Partition: "prod-bj", Reason: v1alpha1.ReasonWaitingForApproval}, {Partition: "test-bj"}},
		}, true, "WaitingForApproval: because", 0},
		"Meanwhile": {"pods are", v1alpha1.ApplicationStatus{
			ObservedGeneration: 3, Conditions: status(3, metav1.ConditionFalse, v1alpha1.ReasonWaitingForApproval).Conditions,
			Placements: []v1alpha1.PlacementStatus{{Partition: "prod-bj", Reason: v1alpha1.ReasonWaitingForApproval}, {Partition: "test-bj", Reason: v1alpha1.ReasonReconciling}},
		}, false, "prod-bj 0/0 WaitingForApproval, test-bj 0/0 Reconciling", 0},
		"Rejected": {"nor what they said before", status(3, metav1.ConditionFalse, v1alpha1.ReasonApprovalRejected), true, "ApprovalRejected: because", 0},
		"Refused":  {"waiting for what is refused is in vain", status(3, metav1.ConditionFalse, v1alpha1.ReasonQuotaExceeded), false, "", cli.ExitInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			app := application()
			app.Status = tc.status
			done, says, err := settled(app, 3)
			if done != tc.done || says != tc.says || cli.ExitCode(err) != tc.code {
				t.Errorf("%s: got %v, %q, %v", tc.reason, done, says, err)
			}
		})
	}
}

func TestDEP05PrintStatus(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	app := application()
	app.Status = v1alpha1.ApplicationStatus{
		Revision:   "score-7f9c",
		Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonCrashLoop, Message: "1 of 2 partitions"}},
		Placements: []v1alpha1.PlacementStatus{
			{Partition: "prod-bj", Cluster: "beijing", Revision: "score-7f9c", Desired: 2, Ready: 2, LastSeenTime: &metav1.Time{Time: now.Add(-2 * time.Second)}},
			{Partition: "prod-sh", Cluster: "shanghai", Revision: "score-7f9c", Desired: 1, Reason: v1alpha1.ReasonCrashLoop, Message: "exit code 1:\nno database"},
			{Partition: "prod-gz", Cluster: "gz", Revision: "score-7f9c", Desired: 1, Ready: 1, LastSeenTime: &metav1.Time{Time: now.Add(-40 * time.Second)}, Reason: v1alpha1.ReasonUnreachable, Message: "no answer"},
		},
	}
	deliveries := []v1alpha1.Delivery{{
		Spec: v1alpha1.DeliverySpec{Partition: "prod-sh"},
		Status: v1alpha1.DeliveryStatus{Tracks: []v1alpha1.TrackStatus{{
			Components: []v1alpha1.ComponentStatus{{Name: "web", Desired: 1, Revision: "score-7f9c", Reason: v1alpha1.ReasonCrashLoop}},
		}}},
	}}
	out := &bytes.Buffer{}
	if err := (&Command{Out: out}).printStatus(stateOf(app, deliveries), now); err != nil {
		t.Fatal(err)
	}
	want := `Application score of tenant edu, version v2, revision score-7f9c
Ready: False (CrashLoop) 1 of 2 partitions

PARTITION   CLUSTER    REVISION     PODS   SEEN      REASON        MESSAGE
prod-bj     beijing    score-7f9c   2/2    now       -             -
prod-sh     shanghai   score-7f9c   0/1    -         CrashLoop     exit code 1: no database
prod-gz     gz         score-7f9c   1/1    40s ago   Unreachable   no answer

COMPONENT   PARTITION   READY   UPDATED   REVISION     REASON      MESSAGE
web         prod-sh     0/1     0         score-7f9c   CrashLoop   -
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestPrintPreview(t *testing.T) {
	preview := &Preview{Partitions: []PartitionPreview{
		{Partition: "prod-bj", Cluster: "beijing", Changes: []Change{
			{Action: "Create", Kind: "Service", Name: "web"},
			{Action: "Update", Kind: "Deployment", Name: "web", Diff: "-  replicas: 1\n+  replicas: 2\n"},
			{Action: "Refuse", Kind: "Deployment", Name: "bad", Message: "privileged is not allowed"},
		}},
		{Partition: "prod-sh", Cluster: "shanghai", Error: "the cluster does not answer"},
	}}
	out, table := &bytes.Buffer{}, &cli.Table{}
	fillPreview(table, preview)
	if err := table.Write(out); err != nil {
		t.Fatal(err)
	}
	printDiffs(out, preview)
	want := `PARTITION   CLUSTER    ACTION    OBJECT           DETAIL
prod-bj     beijing    Create    Service/web      -
prod-bj     beijing    Update    Deployment/web   -
prod-bj     beijing    Refuse    Deployment/bad   privileged is not allowed
prod-sh     shanghai   Unknown   -                the cluster does not answer

prod-bj: Deployment/web
-  replicas: 1
+  replicas: 2
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestReadApplication(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		code int
	}{
		"Fine":      {"kind: Application\nmetadata: {name: a}\nspec: {placement: {partitions: [{name: p}]}}", 0},
		"OtherKind": {"kind: Tenant\nmetadata: {name: a}", cli.ExitUsage},
		"Misspelt":  {"kind: Application\nmetadata: {name: a}\nspec: {placment: {}}", cli.ExitUsage},
		"Nameless":  {"kind: Application", cli.ExitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := readApplication(strings.NewReader(tc.text), "-"); cli.ExitCode(err) != tc.code {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestPrintLines(t *testing.T) {
	out, progress := &bytes.Buffer{}, &bytes.Buffer{}
	err := (&Command{Out: out, Progress: progress}).printLines(strings.NewReader(
		`{"partition":"prod-bj","pod":"web-1","container":"app","text":"hello"}` + "\n" + `{"partition":"prod-sh","error":"cluster shanghai does not answer"}` + "\n"))
	if err != nil || out.String() != "[prod-bj/web-1/app] hello\n" || progress.String() != "[prod-sh] cluster shanghai does not answer\n" {
		t.Errorf("got %q, %q, %v", out, progress, err)
	}
}
