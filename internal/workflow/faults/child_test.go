package faults_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/testkit"
	"yunfan.io/yunfan/internal/workflow"
	"yunfan.io/yunfan/internal/workflow/history"
)

// What a server is told by its environment.
const (
	envParent     = "YUNFAN_TEST_FAULTS_PARENT"
	envKubeconfig = "YUNFAN_TEST_FAULTS_KUBECONFIG"
	envNamespace  = "YUNFAN_TEST_FAULTS_NAMESPACE"
	envRecords    = "YUNFAN_TEST_FAULTS_RECORDS"
	envFolder     = "YUNFAN_TEST_FAULTS_FOLDER"
)

// taken begins the detail of a write that the hub has taken, before its resource version.
const taken = "taken as "

// The points at which a server says that it has got there, and waits to be told to go on.
const (
	pointStarted = "started" // the process runs
	pointLeading = "leading" // it leads
	pointCalled  = "called"  // a step's action was called, which had no effect yet
	pointHad     = "had"     // it had its effect, of which nobody knows
	pointWriting = "writing" // the write that records steps is about to be sent
	pointWritten = "written" // the hub has answered it, and the server has not heard the answer
	pointRefused = "refused" // the fence has kept a step from its effect
)

const (
	leaseTime, renewTime, retryTime = 4 * time.Second, 3 * time.Second, 300 * time.Millisecond
	// parentTime is longer than a server is ever stopped: the parent's answer may wait for it.
	parentTime = 3 * time.Minute
)

// child is a server: a real one, with leader election, the engine, history and actions with effects on its surroundings.
type child struct {
	parent, folder string
	http           *http.Client
	hub            client.Client

	mu    sync.Mutex
	ended map[string]map[string]bool // steps that were written as ended, by run
}

func serve(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv(envKubeconfig))
	if err != nil {
		return err
	}
	c := &child{
		parent: os.Getenv(envParent), folder: os.Getenv(envFolder), http: &http.Client{Timeout: parentTime}, ended: map[string]map[string]bool{},
	}
	config.QPS = -1
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &watched{child: c, next: next} })
	lease, renew, retry := leaseTime, renewTime, retryTime
	namespace := os.Getenv(envNamespace)
	mgr, err := ctrl.NewManager(config, manager.Options{
		Scheme: testkit.Scheme(), Metrics: metricsserver.Options{BindAddress: "0"},
		Cache:          cache.Options{DefaultNamespaces: map[string]cache.Config{namespace: {}}},
		LeaderElection: true, LeaderElectionID: "faults", LeaderElectionNamespace: namespace, LeaderElectionReleaseOnCancel: true,
		LeaseDuration: &lease, RenewDeadline: &renew, RetryPeriod: &retry,
	})
	if err != nil {
		return err
	}
	if c.hub, err = client.New(config, client.Options{Scheme: testkit.Scheme()}); err != nil {
		return err
	}
	records, err := record.Open(ctx, os.Getenv(envRecords))
	if err != nil {
		return err
	}
	kept := history.New(mgr.GetClient(), records)
	if err := kept.SetupWithManager(mgr); err != nil {
		return err
	}
	actions, err := c.catalogue()
	if err != nil {
		return err
	}
	engine := workflow.New(mgr, workflow.Options{Actions: actions, History: kept, Log: kept.Log})
	if err := engine.SetupWithManager(mgr); err != nil {
		return err
	}
	if err := c.reach(ctx, "", pointStarted, engine.Identity()); err != nil {
		return err
	}
	go func() {
		<-mgr.Elected()
		_ = c.reach(ctx, "", pointLeading, engine.Identity())
	}()
	return errors.Join(mgr.Start(ctx), records.Close())
}

// reach says that the server has got to a point and waits until it may go on.
func (c *child) reach(ctx context.Context, step, point, detail string) error {
	_, err := c.ask(ctx, "/reached", url.Values{"step": {step}, "point": {point}, "detail": {detail}})
	return err
}

func (c *child) ask(ctx context.Context, path string, values url.Values) (string, error) {
	values.Set("pid", strconv.Itoa(os.Getpid()))
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.parent+path+"?"+values.Encode(), nil)
	if err != nil {
		return "", err
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("the parent answers %s: %s", answer.Status, text)
	}
	return string(text), err
}

// watched stops at the writes that record steps.
type watched struct {
	child *child
	next  http.RoundTripper
}

// RoundTrip stops before such a write is sent and before its answer is given on.
func (w *watched) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/workflowruns/") || !strings.HasSuffix(r.URL.Path, "/status") {
		return w.next.RoundTrip(r)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	run := &v1alpha1.WorkflowRun{}
	if err := json.Unmarshal(body, run); err != nil {
		return nil, err
	}
	steps := w.child.endedNow(run)
	// What is written when its context ends meanwhile is written nevertheless: a server that wakes up has no time to look.
	outlast := context.WithoutCancel(r.Context())
	if err := w.child.reach(outlast, steps, pointWriting, run.Name); err != nil {
		return nil, err
	}
	answer, err := w.next.RoundTrip(r.WithContext(outlast))
	if err != nil {
		return nil, err
	}
	detail, err := verdict(answer)
	if err == nil {
		err = w.child.reach(outlast, steps, pointWritten, detail)
	}
	if err != nil {
		answer.Body.Close()
		return nil, err
	}
	return answer, nil
}

// verdict is what the hub has answered to a write: the resource version of what it took, otherwise the code.
func verdict(answer *http.Response) (string, error) {
	if answer.StatusCode != http.StatusOK {
		return strconv.Itoa(answer.StatusCode), nil
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", err
	}
	answer.Body.Close()
	answer.Body = io.NopCloser(bytes.NewReader(body))
	run := &v1alpha1.WorkflowRun{}
	if err := json.Unmarshal(body, run); err != nil {
		return "", err
	}
	return taken + run.ResourceVersion, nil
}

// endedNow are the steps that this write is the first of this server's to call ended.
func (c *child) endedNow(run *v1alpha1.WorkflowRun) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.ended[run.Name]
	if known == nil {
		known = map[string]bool{}
		c.ended[run.Name] = known
	}
	var steps []string
	for _, s := range run.Status.Steps {
		if (s.Phase == v1alpha1.StepSucceeded || s.Phase == v1alpha1.StepSkipped) && !known[s.Name] {
			known[s.Name] = true
			steps = append(steps, s.Name)
		}
	}
	return strings.Join(steps, ",")
}

// effect is what an action does to its surroundings. Each kind keeps from doing it twice in its own way.
type effect struct {
	child *child
	name  string
	have  func(ctx context.Context, call *action.Call) error
	// slow ones are called a second time, when they have set out.
	slow bool
}

func (c *child) catalogue() (action.Catalogue, error) {
	return action.NewCatalogue(
		&effect{child: c, name: "strict", have: c.strict},
		&effect{child: c, name: "slow", have: c.strict, slow: true},
		&effect{child: c, name: "post", have: c.post},
		&effect{child: c, name: "object", have: c.object},
		&effect{child: c, name: "file", have: c.file},
	)
}

// Describe tells of two numbers that are added.
func (e *effect) Describe() action.Description {
	number := func(name string) action.Field { return action.Field{Name: name, Type: v1alpha1.TypeInteger} }
	return action.Description{Name: e.name, Inputs: []action.Field{number("a"), number("b")}, Outputs: []action.Field{number("value"), {Name: "key", Type: v1alpha1.TypeString}}}
}

// Run has the effect and gives the sum.
func (e *effect) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	var in struct{ A, B int64 }
	if err := call.Decode(&in); err != nil {
		return action.Outcome{}, err
	}
	setOut, err := call.Remembered(&struct{ SetOut bool }{})
	if err != nil {
		return action.Outcome{}, err
	}
	if !setOut {
		// What an action has sent cannot be called back: nothing but the fence keeps a server that wakes up from its effect.
		outlast := context.WithoutCancel(ctx)
		if err := e.child.reach(outlast, call.Step, pointCalled, call.Run.Name); err != nil {
			return action.Outcome{}, err
		}
		if err := e.have(ctx, call); err != nil {
			return action.Outcome{}, err
		}
		if err := e.child.reach(ctx, call.Step, pointHad, call.Run.Name); err != nil {
			return action.Outcome{}, err
		}
		if e.slow {
			return action.Outcome{Again: 20 * time.Millisecond, State: map[string]bool{"SetOut": true}, Message: "it has set out"}, nil
		}
	}
	call.Log("%d and %d", in.A, in.B)
	return action.Done(map[string]any{"value": in.A + in.B, "key": call.Key}), nil
}

// strict has an effect that must not come twice: it asks whether it was had before, and for the fence.
func (c *child) strict(ctx context.Context, call *action.Call) error {
	if call.Repeated {
		if had, err := c.ask(ctx, "/had", url.Values{"key": {call.Key}}); err != nil || had == "yes" {
			return err
		}
	}
	if err := call.Fence(ctx); err != nil {
		return errors.Join(err, c.reach(context.WithoutCancel(ctx), call.Step, pointRefused, err.Error()))
	}
	_, err := c.ask(context.WithoutCancel(ctx), "/strict", url.Values{"key": {call.Key}, "step": {call.Step}, "run": {call.Run.Name}})
	return err
}

// post has an effect that knows its key.
func (c *child) post(ctx context.Context, call *action.Call) error {
	_, err := c.ask(ctx, "/post", url.Values{"key": {call.Key}, "step": {call.Step}, "run": {call.Run.Name}})
	return err
}

// object has an effect by a name.
func (c *child) object(ctx context.Context, call *action.Call) error {
	labels := map[string]string{"run": call.Run.Name, "step": call.Step}
	err := c.hub.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: call.Run.Namespace, Name: call.Key, Labels: labels}})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// file has an effect in a folder.
func (c *child) file(_ context.Context, call *action.Call) error {
	f, err := os.OpenFile(filepath.Join(c.folder, call.Run.Name+"."+call.Step+"."+call.Key), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}
