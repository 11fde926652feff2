package builtin

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/outbound"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

// journal keeps what a step logged and which messages were sent, each key once.
type journal struct {
	mu     sync.Mutex
	lines  []string
	sent   []outbound.Message
	calls  int // of Send
	broken error
	fences int
	taken  error // what the fence answers
}

func (j *journal) log(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

func (j *journal) text() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, "\n")
}

func (j *journal) send(_ context.Context, m outbound.Message) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.calls++
	if j.broken != nil {
		return j.broken
	}
	for _, before := range j.sent {
		if before.Key == m.Key {
			return nil
		}
	}
	j.sent = append(j.sent, m)
	return nil
}

func (j *journal) fence(context.Context) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.fences++
	return j.taken
}

// callOf makes the first call of a first attempt.
func callOf(j *journal, inputs map[string]any) *action.Call {
	in := map[string]json.RawMessage{}
	for name, value := range inputs {
		raw, err := json.Marshal(value)
		if err != nil {
			panic(err)
		}
		in[name] = raw
	}
	return &action.Call{
		Run: types.NamespacedName{Namespace: "edu", Name: "release"}, UID: "0-1-2", Step: "the-step", Attempt: 1, Key: "key-of-the-attempt",
		User: actor("li"), Inputs: in, Started: time.Now(), Log: j.log, Fence: j.fence,
	}
}

// actor is a user as admission stamps him, with roles in the tenant edu.
func actor(name string, groups ...string) v1alpha1.Actor {
	return v1alpha1.Actor{Name: v1alpha1.UserPrefix + name, Groups: append([]string{v1alpha1.GroupAuthenticated}, groups...)}
}

// again keeps of an outcome what the next call is given.
func again(t *testing.T, call *action.Call, out action.Outcome) {
	t.Helper()
	if out.State == nil {
		return
	}
	state, err := json.Marshal(out.State)
	if err != nil {
		t.Fatal(err)
	}
	if len(state) > action.MaxState {
		t.Fatalf("the state has %d bytes", len(state))
	}
	call.State = state
}

// everybody may do everything, except those who are named.
func everybody(except ...string) May {
	return func(_ context.Context, user v1alpha1.Actor, _ authorizationv1.ResourceAttributes) (bool, error) {
		for _, name := range except {
			if v1alpha1.PlainName(user.Name) == name {
				return false, nil
			}
		}
		return true, nil
	}
}

// desk is a hub with the controller of approvals, and one run whose step waits.
type desk struct {
	*journal
	mgr    manager.Manager
	action *approve
	run    *v1alpha1.WorkflowRun
	call   *action.Call
}

func newDesk(t *testing.T, inputs map[string]any) *desk {
	t.Helper()
	d := &desk{journal: &journal{}}
	d.mgr = testkit.StartManager(t, hub, Setup)
	d.action = &approve{hub: d.mgr.GetClient(), live: hub.Client, send: d.send}
	owner := actor("li", v1alpha1.TenantGroup("x", v1alpha1.RoleAdmin))
	d.run = &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: testkit.Namespace(t, hub.Client), Name: "release"},
		Spec: v1alpha1.WorkflowRunSpec{User: &owner, Definition: &v1alpha1.WorkflowSpec{
			Steps: []v1alpha1.WorkflowStep{{Name: "decide", Action: "approve"}},
		}},
	}
	testkit.Create(t, hub.Client, d.run)
	d.call = callOf(d.journal, inputs)
	d.call.Run, d.call.UID, d.call.Step, d.call.User = client.ObjectKeyFromObject(d.run), d.run.UID, "decide", owner
	NewWithT(t).Eventually(func() error {
		return d.mgr.GetClient().Get(t.Context(), d.call.Run, &v1alpha1.WorkflowRun{})
	}, "10s").Should(Succeed())
	return d
}

// ask calls the action, and shows what it wants in the run's status as the engine does.
func (d *desk) ask(t *testing.T) (action.Outcome, error) {
	t.Helper()
	out, err := d.action.Run(t.Context(), d.call)
	again(t, d.call, out)
	st := v1alpha1.StepStatus{Name: "decide", Attempt: d.call.Attempt, Phase: v1alpha1.StepWaiting, Approval: out.Approval}
	if err != nil {
		st.Phase = v1alpha1.StepFailed
	} else if out.Done {
		st.Phase = v1alpha1.StepSucceeded
	}
	d.run.Status.Phase = v1alpha1.RunWaiting
	d.run.Status.Steps = []v1alpha1.StepStatus{st}
	if uerr := hub.Client.Status().Update(t.Context(), d.run); uerr != nil {
		t.Fatal(uerr)
	}
	return out, err
}

// admin gives the groups of an administrator of the run's tenant.
func (d *desk) admin() string { return v1alpha1.TenantGroup(d.run.Namespace, v1alpha1.RoleAdmin) }

// approval is one of a user, for what the step waits for now.
func (d *desk) approval(t *testing.T, user v1alpha1.Actor, changes ...func(*v1alpha1.ApprovalSpec)) *v1alpha1.Approval {
	t.Helper()
	a := &v1alpha1.Approval{
		ObjectMeta: metav1.ObjectMeta{Namespace: d.run.Namespace, Name: testkit.Name(t)},
		Spec: v1alpha1.ApprovalSpec{
			Run: d.run.Name, RunUID: string(d.run.UID), Step: "decide", Decision: v1alpha1.DecisionApproved, User: &user,
		},
	}
	if wanted := d.run.Status.Steps[0].Approval; wanted != nil {
		a.Spec.Digest = wanted.Digest
	}
	for _, change := range changes {
		change(&a.Spec)
	}
	return a
}

// decide creates an approval and waits until the cache has it.
func (d *desk) decide(t *testing.T, a *v1alpha1.Approval) *v1alpha1.Approval {
	t.Helper()
	testkit.Create(t, hub.Client, a)
	NewWithT(t).Eventually(func() error {
		return d.mgr.GetClient().Get(t.Context(), client.ObjectKeyFromObject(a), &v1alpha1.Approval{})
	}, "10s").Should(Succeed())
	return a
}

// accepted gives the condition of an approval as the hub has it: "True Counted".
func accepted(t *testing.T, a *v1alpha1.Approval) string {
	t.Helper()
	live := &v1alpha1.Approval{}
	if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(a), live); err != nil {
		t.Fatal(err)
	}
	c := meta.FindStatusCondition(live.Status.Conditions, v1alpha1.ConditionAccepted)
	if c == nil {
		return ""
	}
	return string(c.Status) + " " + c.Reason
}

func rejecting(s *v1alpha1.ApprovalSpec) {
	s.Decision, s.Comment = v1alpha1.DecisionRejected, "not today"
}
