package workflow_test

import (
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Many runs at once: at most two writes per step, and each step once. YUNFAN_RUNS sets how many, for measuring.
func TestManyRunsAtOnce(t *testing.T) {
	count := 20
	if n, err := strconv.Atoi(os.Getenv("YUNFAN_RUNS")); err == nil {
		count = n
	}
	const steps = 10
	w := newWorld(t)
	w.forgetful = true
	s := w.serve(t)
	definition := branching(3 * steps / 2)
	begin := time.Now()
	for range count {
		w.run(t, definition)
	}
	created := time.Since(begin)
	g := NewWithT(t)
	finished := func() (n int) {
		var all v1alpha1.WorkflowRunList
		g.Expect(s.mgr.GetClient().List(t.Context(), &all, client.InNamespace(w.namespace))).To(Succeed())
		for i := range all.Items {
			if all.Items[i].Status.Phase == v1alpha1.RunSucceeded {
				n++
			}
		}
		return n
	}
	g.Eventually(finished, 5*patience, 100*time.Millisecond).Should(Equal(count))
	all := time.Since(begin)
	ran := len(w.done())
	var memory runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory)
	t.Logf("%d runs, %d steps: created in %s, finished after %s, %.2f writes per step, heap %d MiB",
		count, ran, created.Round(time.Millisecond), all.Round(time.Millisecond), float64(s.writes.Load())/float64(ran), memory.HeapAlloc>>20)
	if ran != count*steps || len(w.twice()) > 0 {
		t.Errorf("%d steps ran, want %d; more than once: %v", ran, count*steps, w.twice())
	}
	if writes := s.writes.Load(); writes > int64(2*ran) {
		t.Errorf("%d writes for %d steps", writes, ran)
	}
}
