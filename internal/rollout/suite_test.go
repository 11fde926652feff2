package rollout

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/outbound"
	frame "yunfan.io/yunfan/internal/reconcile"
	"yunfan.io/yunfan/internal/testkit"
	"yunfan.io/yunfan/internal/traffic"
	"yunfan.io/yunfan/internal/workflow"
	"yunfan.io/yunfan/internal/workflow/builtin"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

const patience = "60s"

// world is what rollouts move: partitions whose clusters do at once what Deliveries say, and traffic that follows. It
// outlives servers, as the world does.
type world struct {
	*testing.T

	tenant string

	mu sync.Mutex
	// wrote are the specs of Deliveries in the order in which they were seen, as partition=what.
	wrote []string
	last  map[string]string
	// broken revisions do not become healthy; partitions that are slow do not either, for a while.
	broken, held map[string]bool
	// flying is how much is under way, by partition or by partition and track.
	flying map[string]int
	// sampled are the counters of candidates and of partitions.
	sampled traffic.Sample
	// unsettled partitions wait for a gateway.
	unsettled map[string]string
	messages  []outbound.Message
	// wrap changes the way of the next server's rollouts to the hub.
	wrap func(client.Client) client.Client
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{
		T: t, tenant: testkit.Namespace(t, hub.Client), last: map[string]string{}, broken: map[string]bool{}, held: map[string]bool{},
		flying: map[string]int{}, unsettled: map[string]string{},
	}
}

// short tells the spec of a Delivery in a word: the revisions' versions, ! for stopped, and the traffic.
func short(spec *v1alpha1.DeliverySpec) string {
	version := func(revision string) string { return revision[strings.LastIndex(revision, "-")+1:] }
	var parts []string
	for _, t := range spec.Tracks {
		text := version(t.Revision)
		if t.Suffix != "" {
			text += "/" + t.Suffix
		}
		parts = append(parts, text)
	}
	out := strings.Join(parts, "+")
	if spec.Stopped {
		out += "!"
	}
	if tr := spec.Traffic; tr != nil {
		if tr.Closed {
			out += " closed"
		}
		if tr.UntilHealthy {
			out += " until healthy"
		}
		if len(spec.Tracks) > 1 {
			out += fmt.Sprintf(" %d%%", tr.Weight)
		}
		if tr.Mirror > 0 {
			out += fmt.Sprintf(" mirror %d%%", tr.Mirror)
		}
		if len(tr.Matches) > 0 {
			out += fmt.Sprintf(" %d matches", len(tr.Matches))
		}
	}
	return out
}

// cluster is the controller that plays all member clusters.
type cluster struct {
	*world

	hub client.Client
}

// Reconcile does what a Delivery says, and tells it.
func (c *cluster) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	d := &v1alpha1.Delivery{}
	if err := c.hub.Get(ctx, req.NamespacedName, d); err != nil || d.Namespace != c.tenant {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := d.DeepCopy()
	reason, status := v1alpha1.ReasonReady, metav1.ConditionTrue
	c.mu.Lock()
	for i := range d.Spec.Tracks {
		d.Status.Tracks = append(d.Status.Tracks[:i:i], v1alpha1.TrackStatus{Role: d.Spec.Tracks[i].Role, Revision: d.Spec.Tracks[i].Revision})
		if c.broken[d.Spec.Tracks[i].Revision] && !d.Spec.Stopped {
			reason, status = v1alpha1.ReasonCrashLoop, metav1.ConditionFalse
		}
	}
	held := c.held[d.Spec.Partition]
	c.mu.Unlock()
	if held {
		return ctrl.Result{RequeueAfter: 50 * time.Millisecond}, nil
	}
	d.Status.ObservedGeneration = d.Generation
	frame.SetCondition(d, v1alpha1.ConditionApplied, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
	frame.SetCondition(d, v1alpha1.ConditionHealthy, status, reason, "as it is")
	return ctrl.Result{}, frame.PatchStatus(ctx, c.hub, before, d)
}

func (w *world) saw(d *v1alpha1.Delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if text := short(&d.Spec); w.last[d.Spec.Partition] != text {
		w.last[d.Spec.Partition] = text
		w.wrote = append(w.wrote, d.Spec.Partition+"="+text)
	}
}

// history is what was written, in order; of one partition if it is named.
func (w *world) history(partition string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, line := range w.wrote {
		if partition == "" {
			out = append(out, line)
		} else if text, ok := strings.CutPrefix(line, partition+"="); ok {
			out = append(out, text)
		}
	}
	return out
}

func (w *world) set(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do()
}

// Settled says who serves something older.
func (w *world) Settled(_ context.Context, d *v1alpha1.Delivery) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.unsettled[d.Spec.Partition], nil
}

// Reaches says that every gateway reaches every pod.
func (w *world) Reaches(context.Context, *v1alpha1.Delivery, v1alpha1.TrackRole) (string, error) {
	return "", nil
}

// InFlight tells what the test says.
func (w *world) InFlight(_ context.Context, d *v1alpha1.Delivery) (traffic.InFlight, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := traffic.InFlight{Edge: w.flying[d.Spec.Partition], Tracks: map[v1alpha1.TrackRole]int{}}
	for _, role := range []v1alpha1.TrackRole{v1alpha1.TrackStable, v1alpha1.TrackCandidate} {
		out.Tracks[role] = w.flying[d.Spec.Partition+"/"+string(role)]
	}
	return out, nil
}

// Sample tells what the test says.
func (w *world) Sample(context.Context, *v1alpha1.Delivery, v1alpha1.TrackRole) (traffic.Sample, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sampled, nil
}

func (w *world) send(_ context.Context, m outbound.Message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.messages = append(w.messages, m)
	return nil
}

// deaf serves no webhooks: the hub of tests does not ask any.
type deaf struct{ webhook.Server }

func (deaf) Register(string, http.Handler) {}

func (deaf) NeedLeaderElection() bool { return false }

func (deaf) Start(ctx context.Context) error { <-ctx.Done(); return nil }

// clusters plays the member clusters until the test ends.
func (w *world) clusters() {
	w.Helper()
	testkit.StartManagerWith(w.T, hub, manager.Options{}, func(mgr manager.Manager) error {
		return ctrl.NewControllerManagedBy(mgr).Named("clusters").For(&v1alpha1.Delivery{}, builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			if d := o.(*v1alpha1.Delivery); d.Namespace == w.tenant { // each change is told here, while a queue forgets some
				w.saw(d)
			}
			return true
		}))).Complete(&cluster{w, mgr.GetClient()})
	})
}

// serve starts a server with the step engine; it ends with the function that it gives, or with the test.
func (w *world) serve(change ...func(*Options)) (stop func()) {
	w.Helper()
	skip := true
	mgr, err := ctrl.NewManager(rest.CopyConfig(hub.Config), manager.Options{
		Scheme: hub.Scheme, Metrics: metricsserver.Options{BindAddress: "0"}, WebhookServer: deaf{}, Controller: config.Controller{SkipNameValidation: &skip},
	})
	if err != nil {
		w.Fatal(err)
	}
	var engine *workflow.Engine
	o := Options{
		Traffic: w, Namespace: testkit.PlatformNamespace, Patience: time.Second,
		Wake: func(run types.NamespacedName, step string) { engine.Wake(run, step) },
	}
	for _, c := range change {
		c(&o)
	}
	rollouts, err := New(mgr, o)
	if err != nil {
		w.Fatal(err)
	}
	if w.wrap != nil {
		rollouts.client = w.wrap(rollouts.client)
	}
	catalogue, err := action.NewCatalogue(append(builtin.Actions(builtin.Options{
		Hub: mgr.GetClient(), Live: mgr.GetAPIReader(), Send: w.send,
	}), rollouts.Actions()...)...)
	if err != nil {
		w.Fatal(err)
	}
	engine = workflow.New(mgr, workflow.Options{Actions: catalogue, Namespace: testkit.PlatformNamespace})
	for _, c := range []interface {
		SetupWithManager(mgr manager.Manager) error
	}{rollouts, engine} {
		if err := c.SetupWithManager(mgr); err != nil {
			w.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				w.Errorf("running the server: %v", err)
			}
		})
	}
	w.Cleanup(stop)
	return stop
}

// app makes an application with its revisions v1 and v2, delivered to partitions, given as partition@cluster.
func (w *world) app(name string, partitions []string, change ...func(*v1alpha1.Component)) {
	w.Helper()
	component := v1alpha1.Component{
		Name: "web", Workload: v1alpha1.WorkloadDeployment,
		Service:  &v1alpha1.Service{Type: corev1.ServiceTypeClusterIP, Ports: []v1alpha1.ServicePort{{Name: "http", Port: 80}}},
		Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}}},
	}
	for _, c := range change {
		c(&component)
	}
	for i, version := range []string{"v1", "v2", "v3"} {
		testkit.Create(w.T, hub.Client, &v1alpha1.ApplicationRevision{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.tenant, Name: name + "-" + version},
			Spec:       v1alpha1.ApplicationRevisionSpec{Application: name, Number: int64(i + 1), Version: version, Components: []v1alpha1.Component{component}},
		})
	}
	testkit.Create(w.T, hub.Client, &v1alpha1.Application{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.tenant, Name: name},
		Spec: v1alpha1.ApplicationSpec{Components: []v1alpha1.Component{component}, Placement: v1alpha1.Placement{
			Policy: v1alpha1.PlacementDuplicated, Partitions: []v1alpha1.PartitionChoice{{Name: "x"}},
		}},
	})
	for _, one := range partitions {
		partition, cluster, _ := strings.Cut(one, "@")
		testkit.Create(w.T, hub.Client, &v1alpha1.Delivery{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.tenant, Name: v1alpha1.DeliveryName(name, partition)},
			Spec: v1alpha1.DeliverySpec{
				Application: name, Partition: partition, Cluster: cluster,
				Tracks: []v1alpha1.Track{{Role: v1alpha1.TrackStable, Revision: name + "-v1", Replicas: map[string]int32{"web": 2}}},
			},
		})
	}
}

// release makes a Rollout as the application controller does.
func (w *world) release(name, to string, partitions []string, strategy v1alpha1.Strategy) *v1alpha1.Rollout {
	w.Helper()
	o := &v1alpha1.Rollout{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.tenant, Name: fmt.Sprintf("%s-%s-1", name, to)},
		Spec: v1alpha1.RolloutSpec{
			Application: name, From: name + "-v1", To: name + "-" + to, Strategy: strategy, Partitions: partitions, User: "yunfan:li",
		},
	}
	w.announce(name, o.Name)
	testkit.Create(w.T, hub.Client, o)
	return o
}

// announce writes the newest rollout into the application's status, before it is made.
func (w *world) announce(name, rollout string) {
	w.Helper()
	app := &v1alpha1.Application{}
	g := NewWithT(w.T)
	g.Expect(hub.Client.Get(w.Context(), client.ObjectKey{Namespace: w.tenant, Name: name}, app)).To(Succeed())
	app.Status.Rollout = rollout
	g.Expect(hub.Client.Status().Update(w.Context(), app)).To(Succeed())
}

// comes waits until a rollout is in a phase.
func (w *world) comes(o *v1alpha1.Rollout, phase v1alpha1.RolloutPhase) *v1alpha1.Rollout {
	w.Helper()
	NewWithT(w.T).Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(w.Context(), client.ObjectKeyFromObject(o), o)).To(Succeed())
		g.Expect(o.Status.Phase).To(Equal(phase), "%s\n%s", o.Status.Message, w.steps(o))
	}, patience, "50ms").Should(Succeed())
	return o
}

func (w *world) run(o *v1alpha1.Rollout) *v1alpha1.WorkflowRun {
	run := &v1alpha1.WorkflowRun{}
	_ = hub.Client.Get(w.Context(), client.ObjectKey{Namespace: o.Namespace, Name: runName(o)}, run)
	return run
}

// steps tells where the rollout's run is.
func (w *world) steps(o *v1alpha1.Rollout) string {
	var lines []string
	run := w.run(o)
	for i := range run.Status.Steps {
		st := &run.Status.Steps[i]
		lines = append(lines, fmt.Sprintf("%s: %s %s", st.Name, st.Phase, st.Message))
	}
	return strings.Join(append(lines, run.Status.Message), "\n")
}

// reaches waits until a step of the rollout's run has begun.
func (w *world) reaches(o *v1alpha1.Rollout, step string) {
	w.Helper()
	NewWithT(w.T).Eventually(func(g Gomega) {
		run := w.run(o)
		at := slices.IndexFunc(run.Status.Steps, func(s v1alpha1.StepStatus) bool { return s.Name == step })
		g.Expect(at).To(BeNumerically(">=", 0), "%s", w.steps(o))
		g.Expect(run.Status.Steps[at].Phase).NotTo(Equal(v1alpha1.StepPending), "%s", w.steps(o))
	}, patience, "20ms").Should(Succeed())
}

// stop aborts the rollout's run, as a person does.
func (w *world) abort(o *v1alpha1.Rollout) {
	w.Helper()
	run := w.run(o)
	before := run.DeepCopy()
	run.Spec.Aborted, run.Spec.Reason = true, "by the test"
	if err := hub.Client.Patch(w.Context(), run, client.MergeFrom(before)); err != nil {
		w.Fatal(err)
	}
}

// withoutSuffix leaves out the suffixes of tracks.
func withoutSuffix(text string) string { return suffixes.ReplaceAllString(text, "") }

var suffixes = regexp.MustCompile(`/[a-z0-9]+`)

func specOf(t *testing.T, tenant, name, partition string) *v1alpha1.Delivery {
	t.Helper()
	d := &v1alpha1.Delivery{}
	if err := hub.Client.Get(t.Context(), client.ObjectKey{Namespace: tenant, Name: v1alpha1.DeliveryName(name, partition)}, d); err != nil {
		t.Fatal(err)
	}
	return d
}
