package faults_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/record"
)

// fiftySteps are ten diamonds.
const fiftySteps = 10

// plan says at which points of which steps the server is killed, each once.
type plan struct {
	mu   sync.Mutex
	left map[string]bool
	busy map[int]bool // servers that are being killed
}

func (p *plan) due(e event) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy[e.pid] {
		return false
	}
	for _, step := range e.steps() {
		if key := e.point + " " + step; p.left[key] {
			delete(p.left, key)
			p.busy[e.pid] = true
			return true
		}
	}
	return false
}

// kills are all that there are: each step that runs, before its effect, after it, before the write that records it, and
// after that was answered; the skipped ones at the writes alone.
func kills(point string) (all []string) {
	runs := sums(fiftySteps)
	for i := range 5 * fiftySteps {
		step := fmt.Sprintf("s%d", i)
		if _, ran := runs[step]; ran || point == pointWriting || point == pointWritten {
			all = append(all, point+" "+step)
		}
	}
	return all
}

var killPoints = []string{pointCalled, pointHad, pointWriting, pointWritten}

// A run of 50 steps with branches outlives the server killed at each of its steps: whole with YUNFAN_FULL, a sample
// otherwise.
func TestOPS10_FiftyStepsAndTheServerKilledAtEach(t *testing.T) {
	if full() {
		for _, point := range killPoints {
			t.Run(point, func(t *testing.T) {
				t.Parallel()
				killAt(t, kills(point))
			})
		}
		return
	}
	t.Parallel()
	chance := random(t)
	var some []string
	const each = 2
	for _, point := range killPoints {
		all := kills(point)
		for _, i := range chance.Perm(len(all))[:each] {
			some = append(some, all[i])
		}
	}
	killAt(t, some)
}

func killAt(t *testing.T, points []string) {
	t.Helper()
	w := newWorld(t)
	p := &plan{left: map[string]bool{}, busy: map[int]bool{}}
	for _, point := range points {
		p.left[point] = true
	}
	planned := len(p.left)
	w.hook = func(server *process, e event) {
		if p.due(e) {
			w.kill(server)
		}
	}
	w.start()
	run := w.run(fiftySteps)
	began := time.Now()
	const perKill = 20 * time.Second // on a machine that does much else
	w.finish(run, patience+time.Duration(planned)*perKill)
	t.Logf("killed %d times in %s: %s", planned-len(p.left), time.Since(began).Round(time.Second), strings.Join(points, ", "))
	// A step may be recorded by the same write as another, at whose point the server was killed.
	if left := slices.Sorted(maps.Keys(p.left)); len(left) > 0 {
		t.Errorf("it was never killed at: %s", strings.Join(left, ", "))
	}
	w.check(run, fiftySteps)
}

// Killed without looking where it is, again and again.
func TestOPS10_TheServerKilledAtRandom(t *testing.T) {
	t.Parallel()
	chance := random(t)
	w := newWorld(t)
	w.start()
	run := w.run(fiftySteps)
	times := 4
	if full() {
		times = 40
	}
	for range times {
		before := len(w.seen(isCall))
		NewWithT(t).Eventually(func() bool {
			return len(w.seen(isCall)) > before || w.finished(run)
		}, patience, time.Millisecond).Should(BeTrue())
		if w.finished(run) {
			break
		}
		<-time.After(time.Duration(chance.IntN(150)) * time.Millisecond)
		calls := w.seen(isCall)
		w.mu.Lock()
		last := w.processes[calls[len(calls)-1].pid]
		w.mu.Unlock()
		w.kill(last)
	}
	w.finish(run, patience)
	w.check(run, fiftySteps)
}

func isCall(e event) bool { return e.point == pointCalled }

func (w *world) finished(run *v1alpha1.WorkflowRun) bool {
	w.Helper()
	if err := hub.Client.Get(w.Context(), client.ObjectKeyFromObject(run), run); err != nil {
		w.Fatal(err)
	}
	return run.Status.Phase.Finished()
}

// The leader stands still at a point beyond its lease, another takes over, and the first is woken again: when everything
// is done, or while the other is in the middle of it.
func TestOPS10_TheLeaderStoppedAndWokenAgain(t *testing.T) {
	for _, point := range []string{pointCalled, pointHad, pointWriting} {
		for _, early := range []bool{false, true} {
			when := map[bool]string{false: "at the end", true: "in the middle"}[early]
			t.Run(point+", woken "+when, func(t *testing.T) {
				t.Parallel()
				stopAt(t, point, early)
			})
		}
	}
}

// stopped is the step at which the leader is stopped: of kind slow, which must not have its effect twice.
const stopped = "s4"

func stopAt(t *testing.T, point string, early bool) {
	t.Helper()
	w := newWorld(t)
	const n = 2
	var once, awake sync.Once
	var mu sync.Mutex
	var first *process
	wake := func() {
		awake.Do(func() {
			mu.Lock()
			defer mu.Unlock()
			first.signal(syscall.SIGCONT)
		})
	}
	w.hook = func(server *process, e event) {
		mu.Lock()
		old := first
		mu.Unlock()
		if old == nil && e.point == point && slices.Contains(e.steps(), stopped) {
			once.Do(func() {
				w.freeze(server)
				mu.Lock()
				first = server
				mu.Unlock()
			})
			return
		}
		if early && old != nil && server != old && e.point == pointCalled {
			wake()
			<-time.After(300 * time.Millisecond) // what the old one does, it does now
		}
	}
	w.start()
	w.leader()
	w.start()
	run := w.run(n)
	w.finish(run, patience)
	wake()
	if first == nil {
		t.Fatalf("no server reached %s of %s", point, stopped)
	}
	select {
	case <-first.exited: // it has lost the lead
	case <-time.After(patience):
		t.Error("the old leader goes on as if it led")
	}
	w.check(run, n)
	// What was under way when it was stopped may have been taken before the other began.
	var begun uint64
	for _, e := range w.seen(isTaken) {
		if v := version(w.T, e); e.pid != first.pid() && (begun == 0 || v < begun) {
			begun = v
		}
	}
	for _, e := range w.seen(isTaken) {
		if v := version(w.T, e); e.pid == first.pid() && v > begun {
			t.Errorf("the hub took write %d of the old leader, after %d of the new one", v, begun)
		}
	}
	refused := w.seen(func(e event) bool {
		return e.pid == first.pid() && (e.point == pointRefused || e.point == pointWritten && e.detail == "409")
	})
	t.Logf("the old leader was refused: %+v", refused)
}

func isTaken(e event) bool { return e.point == pointWritten && strings.HasPrefix(e.detail, taken) }

// version is the resource version as which the hub took a write.
func version(t *testing.T, e event) uint64 {
	t.Helper()
	v, err := strconv.ParseUint(strings.TrimPrefix(e.detail, taken), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Two servers at once: every step is run by one of them, also when one hands over to the other.
func TestOPS10_TwoServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.leader()
	w.start()
	const n = 2
	var runs []*v1alpha1.WorkflowRun
	for range 4 {
		runs = append(runs, w.run(n))
	}
	for _, run := range runs {
		w.finish(run, patience)
		w.check(run, n)
	}
	leaders := w.seen(func(e event) bool { return e.point == pointLeading })
	calls := map[string]int{}
	for _, e := range w.seen(isCall) {
		if calls[e.detail+" "+e.step]++; len(leaders) == 1 && e.pid != leaders[0].pid {
			t.Errorf("step %s of %s was called by server %d, which does not lead", e.step, e.detail, e.pid)
		}
	}
	for _, call := range slices.Sorted(maps.Keys(calls)) {
		if len(leaders) == 1 && calls[call] != 1 {
			t.Errorf("step %s was called %d times", call, calls[call])
		}
	}

	more := w.run(n)
	NewWithT(t).Eventually(func() []event {
		return w.seen(func(e event) bool { return isCall(e) && e.detail == more.Name })
	}, patience, time.Millisecond).ShouldNot(BeEmpty())
	leader := w.leader()
	w.mu.Lock()
	leader.meant = true
	w.mu.Unlock()
	leader.signal(syscall.SIGTERM)
	w.finish(more, patience)
	w.check(more, n)
}

// The hub goes away and comes back: shortly, and for longer than the lease.
func TestOPS10_TheHubGoesAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	leader := w.leader()
	run := w.run(fiftySteps)
	calls := func(n int) {
		t.Helper()
		NewWithT(t).Eventually(func() bool { return len(w.seen(isCall)) >= n || w.finished(run) }, patience, time.Millisecond).Should(BeTrue())
	}
	calls(5)
	w.proxy.Refuse(t)
	<-time.After(time.Second)
	w.proxy.Pass(t)
	calls(15)
	w.proxy.Freeze(t)
	select {
	case <-leader.exited:
	case <-time.After(4 * leaseTime): // it may have ended before, and another leads
	}
	w.proxy.Pass(t)
	w.finish(run, patience)
	w.check(run, fiftySteps)
}

// The records are locked by somebody else: runs go on, and are kept when the records can be written again.
func TestOPS10_TheRecordsAreLocked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.leader()
	db, err := record.Open(t.Context(), w.records)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	release, locked, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	go func() {
		ended <- db.Update(t.Context(), func(tx *record.Tx) error {
			if err := tx.Exec(t.Context(), `CREATE TABLE IF NOT EXISTS somebody_elses (a INTEGER)`); err != nil {
				return err
			}
			close(locked)
			<-release
			return nil
		})
	}()
	select {
	case <-locked:
	case err := <-ended:
		t.Fatal(err)
	}
	const n = 2
	run := w.run(n)
	w.finish(run, patience)
	if meta.IsStatusConditionTrue(run.Status.Conditions, v1alpha1.ConditionArchived) {
		t.Error("it is said to be archived, and the records are locked")
	}
	free()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	NewWithT(t).Eventually(func() bool {
		return w.finished(run) && meta.IsStatusConditionTrue(run.Status.Conditions, v1alpha1.ConditionArchived)
	}, patience, 100*time.Millisecond).Should(BeTrue())
	w.check(run, n)
}
