package route

import (
	"context"
	"sync"

	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

type queue = workqueue.TypedRateLimitingInterface[ctrl.Request]

// kicker puts requests into a controller's queue, which keeps each of them once, for what no object tells.
type kicker struct {
	mu    sync.Mutex
	queue queue
}

func (k *kicker) source() source.Source {
	return source.Func(func(_ context.Context, q queue) error {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.queue = q
		return nil
	})
}

// add enqueues objects; before the controller has started it looks at all of them anyway.
func (k *kicker) add(keys ...client.ObjectKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.queue == nil {
		return
	}
	for _, key := range keys {
		k.queue.Add(ctrl.Request{NamespacedName: key})
	}
}
