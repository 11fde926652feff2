package rollout

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// told remembers when the status of each rollout that runs was last written. It forgets what is long past.
type told struct {
	mu   sync.Mutex
	last map[types.NamespacedName]time.Time
}

func (t *told) at(key types.NamespacedName) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last[key]
}

func (t *told) note(key types.NamespacedName) {
	const most = 1000
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == nil || len(t.last) > most {
		t.last = map[types.NamespacedName]time.Time{}
	}
	t.last[key] = time.Now()
}
