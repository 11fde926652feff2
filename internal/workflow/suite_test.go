package workflow_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/testkit"
	"yunfan.io/yunfan/internal/workflow"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

// patience is how long a test waits for what takes a moment on a quiet machine.
const patience = 60 * time.Second

// world is what the actions of a test work on. It outlives servers, as the world does.
type world struct {
	namespace string

	mu sync.Mutex
	// effects by the key of the attempt that had them, and their steps in order.
	effects map[string]int
	order   []string
	calls   []action.Call
	held    map[string]chan struct{}
	lines   []string
	kept    []*v1alpha1.WorkflowRun
	// broken makes the records refuse.
	broken bool
	// forgetful worlds keep no calls: those would keep what they were made from.
	forgetful bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{namespace: testkit.Namespace(t, hub.Client), effects: map[string]int{}, held: map[string]chan struct{}{}}
}

// effect has the call's effect. A repeated call finds that it is there.
func (w *world) effect(call *action.Call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if call.Repeated && w.effects[call.Key] > 0 {
		return
	}
	w.effects[call.Key]++
	w.order = append(w.order, call.Step)
}

// done are the steps in the order of their effects.
func (w *world) done() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.order...)
}

// twice are the steps whose effect was had more than once.
func (w *world) twice() (keys []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, n := range w.effects {
		if n != 1 {
			keys = append(keys, key)
		}
	}
	return keys
}

func (w *world) saw(call *action.Call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.forgetful {
		w.calls = append(w.calls, *call)
	}
}

func (w *world) called(step string) (calls []action.Call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.calls {
		if c.Step == step {
			calls = append(calls, c)
		}
	}
	return calls
}

// gate is closed until open is called for the step.
func (w *world) gate(step string) chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held[step] == nil {
		w.held[step] = make(chan struct{})
	}
	return w.held[step]
}

func (w *world) open(step string) { close(w.gate(step)) }

// Archive keeps a run.
func (w *world) Archive(_ context.Context, run *v1alpha1.WorkflowRun) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken {
		return errors.New("the records are being mended")
	}
	w.kept = append(w.kept, run.DeepCopy())
	return nil
}

func (w *world) archived() []*v1alpha1.WorkflowRun {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*v1alpha1.WorkflowRun(nil), w.kept...)
}

func (w *world) log(_ types.UID, _, run, step string, attempt int32, line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, fmt.Sprintf("%s/%s/%d: %s", run, step, attempt, line))
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.lines, "\n")
}

// act is an action of a test.
type act struct {
	action.Description
	run func(ctx context.Context, call *action.Call) (action.Outcome, error)
}

func (a act) Describe() action.Description { return a.Description }

func (a act) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	return a.run(ctx, call)
}

// stoppable is one that must be told to stop.
type stoppable struct {
	act
	stop func(ctx context.Context, call *action.Call) (action.Outcome, error)
}

func (a stoppable) Stop(ctx context.Context, call *action.Call) (action.Outcome, error) {
	return a.stop(ctx, call)
}

func inputs(names ...string) (fields []action.Field) {
	for _, name := range names {
		fields = append(fields, action.Field{Name: name, Type: v1alpha1.TypeString})
	}
	return fields
}

func text(call *action.Call, name string) string {
	var value string
	_ = json.Unmarshal(call.Inputs[name], &value)
	return value
}

// catalogue are the actions of the world.
func (w *world) catalogue(t *testing.T) action.Catalogue {
	t.Helper()
	out := inputs("value")
	c, err := action.NewCatalogue(
		act{action.Description{Name: "echo", Inputs: inputs("value"), Outputs: out}, func(_ context.Context, call *action.Call) (action.Outcome, error) {
			w.saw(call)
			w.effect(call)
			call.Log("echo %s", text(call, "value"))
			return action.Done(map[string]any{"value": text(call, "value")}), nil
		}},
		act{action.Description{Name: "flaky", Inputs: []action.Field{{Name: "failures", Type: v1alpha1.TypeInteger}}, Outputs: out}, func(_ context.Context, call *action.Call) (action.Outcome, error) {
			w.saw(call)
			var in struct{ Failures int32 }
			if err := call.Decode(&in); err != nil {
				return action.Outcome{}, err
			}
			if call.Attempt <= in.Failures {
				return action.Outcome{}, fmt.Errorf("attempt %d is too early", call.Attempt)
			}
			w.effect(call)
			return action.Done(map[string]any{"value": fmt.Sprint(call.Attempt)}), nil
		}},
		// Its effect comes before the gate: between it and the write that records it is all the time that a test wants.
		act{action.Description{Name: "hold", Outputs: out}, func(ctx context.Context, call *action.Call) (action.Outcome, error) {
			w.saw(call)
			w.effect(call)
			select {
			case <-w.gate(call.Step):
				return action.Done(map[string]any{"value": call.Key}), nil
			case <-ctx.Done():
				return action.Outcome{}, ctx.Err()
			}
		}},
		act{action.Description{Name: "sign", Outputs: inputs("by"), Timeout: action.NoTimeout}, w.sign},
		act{action.Description{Name: "panic"}, func(context.Context, *action.Call) (action.Outcome, error) { panic("oh no") }},
		// Roles are enumerated: the hub refuses the run's status with it.
		act{action.Description{Name: "nonsense"}, func(context.Context, *action.Call) (action.Outcome, error) {
			return action.Outcome{Approval: &v1alpha1.ApprovalWanted{Digest: "x", Roles: []v1alpha1.ApproverRole{"Emperor"}}}, nil
		}},
		act{action.Description{Name: "refuse"}, func(context.Context, *action.Call) (action.Outcome, error) {
			return action.Outcome{}, action.Failed(errors.New("never"))
		}},
		act{action.Description{Name: "huge", Outputs: out}, func(context.Context, *action.Call) (action.Outcome, error) {
			return action.Done(map[string]any{"value": strings.Repeat("x", 1<<20)}), nil
		}},
		act{action.Description{Name: "large", Outputs: out}, func(context.Context, *action.Call) (action.Outcome, error) {
			return action.Done(map[string]any{"value": strings.Repeat("x", 15<<10)}), nil
		}},
		act{action.Description{Name: "poll"}, func(_ context.Context, call *action.Call) (action.Outcome, error) {
			w.saw(call)
			return action.Again(50*time.Millisecond, "not yet"), nil
		}},
		stoppable{act{action.Description{Name: "job"}, func(_ context.Context, call *action.Call) (action.Outcome, error) {
			w.saw(call)
			w.effect(call)
			return action.Outcome{Again: time.Hour, State: map[string]string{"job": call.Key}, Message: "the job runs"}, nil
		}}, func(_ context.Context, call *action.Call) (action.Outcome, error) {
			w.saw(&action.Call{Step: "stop " + call.Step, Key: call.Key, State: call.State})
			return action.Done(nil), nil
		}},
		act{action.Description{Name: "secret.dealing", Internal: true}, func(_ context.Context, call *action.Call) (action.Outcome, error) {
			w.effect(call)
			return action.Done(nil), nil
		}},
	)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// sign waits for an Approval of the step.
func (w *world) sign(ctx context.Context, call *action.Call) (action.Outcome, error) {
	w.saw(call)
	var all v1alpha1.ApprovalList
	if err := hub.Client.List(ctx, &all, client.InNamespace(call.Run.Namespace)); err != nil {
		return action.Outcome{}, err
	}
	for _, a := range all.Items {
		if a.Spec.RunUID == string(call.UID) && a.Spec.Step == call.Step && a.Spec.Digest == call.Key {
			w.effect(call)
			return action.Outcome{Done: true, Outputs: map[string]any{"by": "wang"}, Actor: "yunfan:wang"}, nil
		}
	}
	return action.Outcome{
		Again: 5 * time.Minute, Message: "waits for wang", Waiting: true,
		Approval: &v1alpha1.ApprovalWanted{Digest: call.Key, Subject: "go on", Users: []string{"wang"}},
	}, nil
}

// server is an engine in a manager of its own.
type server struct {
	engine *workflow.Engine
	mgr    manager.Manager
	writes *atomic.Int64
	stop   func()
}

// serve starts a server that knows the world's namespace only. Change may adjust its options.
func (w *world) serve(t *testing.T, change ...func(*manager.Options, *workflow.Options)) *server {
	t.Helper()
	skip := true
	mo := manager.Options{
		Scheme: hub.Scheme, Metrics: metricsserver.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: &skip},
		Cache: cache.Options{DefaultNamespaces: map[string]cache.Config{w.namespace: {}}, DefaultTransform: cache.TransformStripManagedFields()},
	}
	wo := workflow.Options{Actions: w.catalogue(t), History: w, Log: w.log}
	for _, c := range change {
		c(&mo, &wo)
	}
	s := &server{writes: &atomic.Int64{}}
	cfg := rest.CopyConfig(hub.Config)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return counting{next, s.writes} })
	mgr, err := ctrl.NewManager(cfg, mo)
	if err != nil {
		t.Fatal(err)
	}
	s.mgr, s.engine = mgr, workflow.New(mgr, wo)
	if err := s.engine.SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		_ = mgr.Start(ctx)
		close(ended)
	}()
	s.stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(s.stop)
	return s
}

// counting counts writes of the runs themselves.
type counting struct {
	next   http.RoundTripper
	writes *atomic.Int64
}

func (c counting) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/workflowruns/") {
		c.writes.Add(1)
	}
	return c.next.RoundTrip(r)
}

// run starts a run of a definition in YAML. Changes adjust it before.
func (w *world) run(t *testing.T, definition string, changes ...func(*v1alpha1.WorkflowRun)) *v1alpha1.WorkflowRun {
	t.Helper()
	spec := &v1alpha1.WorkflowSpec{}
	if err := yaml.UnmarshalStrict([]byte(definition), spec); err != nil {
		t.Fatalf("reading %s: %v", definition, err)
	}
	run := &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: testkit.Name(t), Finalizers: []string{v1alpha1.FinalizerRun}},
		Spec:       v1alpha1.WorkflowRunSpec{Definition: spec, User: &v1alpha1.Actor{Name: "yunfan:li"}},
	}
	for _, change := range changes {
		change(run)
	}
	testkit.Create(t, hub.Client, run)
	return run
}

// now reads the run.
func now(t *testing.T, run *v1alpha1.WorkflowRun) *v1alpha1.WorkflowRun {
	t.Helper()
	live := &v1alpha1.WorkflowRun{}
	if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(run), live); err != nil {
		t.Fatal(err)
	}
	return live
}

// until waits until the run is as wanted and gives it.
func until(t *testing.T, run *v1alpha1.WorkflowRun, what string, is func(*v1alpha1.WorkflowRun) bool) *v1alpha1.WorkflowRun {
	t.Helper()
	var live *v1alpha1.WorkflowRun
	NewWithT(t).Eventually(func() bool {
		live = now(t, run)
		return is(live)
	}, patience, 20*time.Millisecond).Should(BeTrue(), func() string {
		return fmt.Sprintf("waiting until %s; the run is %s (%s): %s", what, live.Status.Phase, live.Status.Message, phases(live))
	})
	return live
}

func untilPhase(t *testing.T, run *v1alpha1.WorkflowRun, phase v1alpha1.RunPhase) *v1alpha1.WorkflowRun {
	t.Helper()
	return until(t, run, "it is "+string(phase), func(r *v1alpha1.WorkflowRun) bool { return r.Status.Phase == phase })
}

// phases says where the steps are: name=Phase.
func phases(run *v1alpha1.WorkflowRun) string {
	var all []string
	for _, s := range run.Status.Steps {
		all = append(all, s.Name+"="+string(s.Phase))
	}
	return strings.Join(all, " ")
}

func step(t *testing.T, run *v1alpha1.WorkflowRun, name string) v1alpha1.StepStatus {
	t.Helper()
	for _, s := range run.Status.Steps {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("the run has no step %s", name)
	return v1alpha1.StepStatus{}
}

// steer changes the run's spec as a user does.
func steer(t *testing.T, run *v1alpha1.WorkflowRun, change func(*v1alpha1.WorkflowRunSpec)) {
	t.Helper()
	live := now(t, run)
	before := live.DeepCopy()
	change(&live.Spec)
	if err := hub.Client.Patch(t.Context(), live, client.MergeFrom(before)); err != nil {
		t.Fatalf("steering the run: %v", err)
	}
}

// approve creates the Approval that a step waits for.
func approve(t *testing.T, run *v1alpha1.WorkflowRun, name string) {
	t.Helper()
	wanted := step(t, run, name).Approval
	if wanted == nil {
		t.Fatalf("step %s waits for no approval", name)
	}
	testkit.Create(t, hub.Client, &v1alpha1.Approval{
		ObjectMeta: metav1.ObjectMeta{Namespace: run.Namespace, Name: testkit.Name(t)},
		Spec: v1alpha1.ApprovalSpec{
			Run: run.Name, RunUID: string(run.UID), Step: name, Digest: wanted.Digest, Decision: v1alpha1.DecisionApproved,
			User: &v1alpha1.Actor{Name: "yunfan:wang"},
		},
	})
}
