// Package workflow is the step engine: it carries WorkflowRuns from one step to the next. What a run has done is in its
// status, so that another server can go on from there at any moment. A turn is a pure function from one status to the
// next; a pool of workers calls the actions; the controller writes a run's status before what follows from it is done.
package workflow

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// Archive keeps runs that have finished.
type Archive interface {
	// Archive keeps the run as it is. It may be given the same run several times; the last counts.
	Archive(ctx context.Context, run *v1alpha1.WorkflowRun) error
}

// Options of the engine.
type Options struct {
	// Actions are those that steps may name. They may be set until the manager is started, by SetActions.
	Actions action.Catalogue
	// Namespace is the platform's own; yunfan-system if empty.
	Namespace string
	// History keeps finished runs; none if nil.
	History Archive
	// Log takes the lines of steps' logs; nil for none. It must not block.
	Log func(run types.UID, namespace, name, step string, attempt int32, line string)
	// Workers is how many calls are under way at once; 256 if zero. A run has at most a thirty-second of them, a namespace
	// a quarter.
	Workers int
	// Writers is how many runs are written at once; 16 if zero.
	Writers int
}

// Engine is the controller of WorkflowRuns. It runs where the leader is.
type Engine struct {
	options  Options
	identity string
	client   client.Client
	reader   client.Reader // past the cache
	recorder events.EventRecorder
	graphs   *graphs
	sessions *sessions
	pool     *pool
	pulse    *pulse
	queue    *requests
	actions  map[string]action.Description
	stops    map[string]bool
	// archives has a place for each run that is being kept at the same time.
	archives chan struct{}
}

const (
	defaultWorkers, defaultWriters = 256, 16
	platformNamespace              = "yunfan-system"
	// archivesShare of the writers may wait for the records, which must not hold up what has not finished.
	archivesShare = 4
)

// New makes an engine on the manager's hub.
func New(mgr manager.Manager, o Options) *Engine {
	if o.Namespace == "" {
		o.Namespace = platformNamespace
	}
	if o.Workers == 0 {
		o.Workers = defaultWorkers
	}
	if o.Writers == 0 {
		o.Writers = defaultWriters
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	e := &Engine{
		options: o, identity: host + "_" + string(uuid.NewUUID()),
		client: mgr.GetClient(), reader: mgr.GetAPIReader(), recorder: mgr.GetEventRecorder("yunfan-workflow"),
		sessions: &sessions{all: map[types.NamespacedName]*session{}}, pulse: &pulse{}, queue: &requests{},
		archives: make(chan struct{}, max(o.Writers/archivesShare, 1)),
	}
	e.pool = newPool(o.Workers, e.call)
	e.SetActions(o.Actions)
	return e
}

// SetActions replaces the catalogue. Call it before the manager is started only: capabilities made after the engine
// bring theirs.
func (e *Engine) SetActions(actions action.Catalogue) {
	e.options.Actions = actions
	e.actions, e.stops = map[string]action.Description{}, map[string]bool{}
	for name, a := range actions {
		e.actions[name] = a.Describe()
		_, e.stops[name] = a.(action.Stopper)
	}
	e.graphs = newGraphs(e.actions)
}

// Identity is the name that the engine writes into the runs that it carries: no other's, and another after each start.
func (e *Engine) Identity() string { return e.identity }

// SetupWithManager registers the controller and the workers.
func (e *Engine) SetupWithManager(mgr manager.Manager) error {
	if err := mgr.Add(e.pool); err != nil {
		return fmt.Errorf("adding the workers of workflows: %w", err)
	}
	if err := mgr.Add(e.pulse); err != nil {
		return fmt.Errorf("adding the pulse of workflows: %w", err)
	}
	if err := mgr.Add(&counter{client: e.client}); err != nil {
		return fmt.Errorf("adding the counter of runs: %w", err)
	}
	const turnTime = time.Minute
	const firstPause, longestPause = 50 * time.Millisecond, 30 * time.Second
	return ctrl.NewControllerManagedBy(mgr).
		Named("workflowrun").
		For(&v1alpha1.WorkflowRun{}, builder.WithPredicates(steered)).
		Watches(&v1alpha1.Approval{}, handler.EnqueueRequestsFromMapFunc(e.ofApproval), builder.WithPredicates(onlyNew)).
		WatchesRawSource(source.Func(e.queue.take)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: e.options.Writers,
			// A hub that does not answer must not take all writers for good.
			ReconciliationTimeout: turnTime,
			// Not the default's ten new tries a second for all runs together.
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstPause, longestPause),
		}).
		Complete(e)
}

// Wake has a waiting step called at once: what it waits for may have come.
func (e *Engine) Wake(run types.NamespacedName, step string) {
	if s := e.sessions.get(run); s != nil {
		s.wake(step)
		e.queue.add(run)
	}
}

func (e *Engine) ofApproval(_ context.Context, o client.Object) []ctrl.Request {
	approval, ok := o.(*v1alpha1.Approval)
	if !ok {
		return nil
	}
	e.Wake(types.NamespacedName{Namespace: approval.Namespace, Name: approval.Spec.Run}, approval.Spec.Step)
	return nil
}

// steered leaves out the changes of a run's status, which are the engine's own.
var steered = predicate.Funcs{UpdateFunc: func(u event.UpdateEvent) bool {
	return u.ObjectOld.GetGeneration() != u.ObjectNew.GetGeneration() ||
		u.ObjectOld.GetDeletionTimestamp().IsZero() != u.ObjectNew.GetDeletionTimestamp().IsZero()
}}

var onlyNew = predicate.Funcs{
	UpdateFunc: func(event.UpdateEvent) bool { return false },
	DeleteFunc: func(event.DeleteEvent) bool { return false },
}

// requests is the way from the workers to the controller's queue.
type requests struct {
	mu    sync.Mutex
	queue workqueue.TypedRateLimitingInterface[reconcile.Request]
}

func (r *requests) take(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = queue
	return nil
}

func (r *requests) add(run types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.queue != nil {
		r.queue.Add(reconcile.Request{NamespacedName: run})
	}
}

// tell records what people are told of a turn that is written.
func (e *Engine) tell(run *v1alpha1.WorkflowRun, notes []note) {
	for _, n := range notes {
		if n.step != "" {
			e.log(run, n.step, n.attempt, n.text)
		}
		if !n.event {
			continue
		}
		kind, text := corev1.EventTypeNormal, n.text
		if n.warning {
			kind = corev1.EventTypeWarning
		}
		if n.step != "" {
			text = "step " + n.step + " " + text
		}
		e.recorder.Eventf(run, nil, kind, n.reason, "Run", "%s", short(text, longestMessage))
	}
}

// log adds a line to a step's log.
func (e *Engine) log(run *v1alpha1.WorkflowRun, step string, attempt int32, line string) {
	if e.options.Log != nil {
		const longestLine = 4 << 10
		e.options.Log(run.UID, run.Namespace, run.Name, step, attempt, short(line, longestLine))
	}
}
