package member

import (
	"context"
	"sync"
)

// Warnings are what a member warned of while it served requests, such as a pod template that its pod security level
// will refuse.
type Warnings struct {
	mu    sync.Mutex
	texts []string
}

type warningsKey struct{}

// CollectWarnings gives a context for requests to a member whose warnings are wanted. Without it they are dropped.
func CollectWarnings(ctx context.Context) (context.Context, *Warnings) {
	w := &Warnings{}
	return context.WithValue(ctx, warningsKey{}, w), w
}

// Texts are the warnings so far, in the order in which they came.
func (w *Warnings) Texts() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.texts...)
}

// warnings is client-go's handler of warnings.
type warnings struct{}

// HandleWarningHeaderWithContext keeps a warning for who wants it.
func (warnings) HandleWarningHeaderWithContext(ctx context.Context, code int, _, text string) {
	const warning = 299
	w, wanted := ctx.Value(warningsKey{}).(*Warnings)
	if !wanted || code != warning {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
}
