package member

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// syncTimeout is how long the member's cache may take to fill: the member may be lost while it does.
const syncTimeout = 24 * time.Hour

// Controller is a controller that runs once for each member, with a queue of its own.
type Controller interface {
	// StartForMember starts what is needed for the member, with hub as the way to the hub's cache and client. What it
	// starts ends with ctx.
	StartForMember(ctx context.Context, hub manager.Manager, m *Member) error
}

// StartController starts a controller for m that reconciles what sources name. The name is that of the kind of object;
// it ends with ctx.
func StartController(ctx context.Context, hub manager.Manager, m *Member, name string, options controller.Options, sources []source.Source) error {
	logger := hub.GetLogger().WithName(name).WithValues("cluster", m.Name)
	skip := true
	options.SkipNameValidation = &skip // one of this name for each member
	options.CacheSyncTimeout = syncTimeout
	options.LogConstructor = func(request *ctrl.Request) logr.Logger {
		if request == nil {
			return logger
		}
		return logger.WithValues(name, request.NamespacedName)
	}
	c, err := controller.NewUnmanaged(name, options)
	if err != nil {
		return fmt.Errorf("making the %s controller of cluster %s: %w", name, m.Name, err)
	}
	for _, s := range sources {
		if err := c.Watch(s); err != nil {
			return fmt.Errorf("watching for the %s controller of cluster %s: %w", name, m.Name, err)
		}
	}
	go func() {
		if err := c.Start(ctx); err != nil && ctx.Err() == nil {
			logger.Error(err, "The controller ended")
		}
	}()
	return nil
}

// OnHub watches a kind of the hub like source.Kind, but its handler leaves the hub's cache when the member does: the
// cache outlives it. Updates count if changed says so.
func OnHub(hub cache.Cache, kind client.Object, changed func(was, is client.Object) bool, requests handler.MapFunc) source.Source {
	return source.Func(func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[ctrl.Request]) error {
		informer, err := hub.GetInformer(ctx, kind)
		if err != nil {
			return fmt.Errorf("watching %T: %w", kind, err)
		}
		add := func(o any) {
			if last, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			if object, ok := o.(client.Object); ok {
				for _, request := range requests(ctx, object) {
					queue.Add(request)
				}
			}
		}
		registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: add,
			UpdateFunc: func(was, is any) {
				if changed(was.(client.Object), is.(client.Object)) {
					add(is)
				}
			},
			DeleteFunc: add,
		})
		if err != nil {
			return fmt.Errorf("watching %T: %w", kind, err)
		}
		context.AfterFunc(ctx, func() { _ = informer.RemoveEventHandler(registration) })
		return nil
	})
}

// GenerationChanged says whether the spec of an object of the hub was changed.
func GenerationChanged(was, is client.Object) bool { return was.GetGeneration() != is.GetGeneration() }

// NeverChanged leaves out every update.
func NeverChanged(_, _ client.Object) bool { return false }
