// Package faults_test kills, stops and cuts off real servers while they carry runs, and counts what their steps did.
package faults_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/testkit"
	"yunfan.io/yunfan/internal/workflow/history"
)

var hub *testkit.Hub

func TestMain(m *testing.M) {
	if os.Getenv(envParent) == "" {
		testkit.Main(m, &hub)
		return
	}
	ctrl.SetLogger(funcr.New(func(prefix, args string) { fmt.Fprintln(os.Stderr, prefix, args) }, funcr.Options{LogTimestamp: true}))
	if err := serve(ctrl.SetupSignalHandler()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// patience is how long a test waits for what takes seconds on a quiet machine.
const patience = 3 * time.Minute

// full says that everything is tried, not a sample.
func full() bool { return os.Getenv("YUNFAN_FULL") != "" }

// random gives chance that can be repeated.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if given, err := strconv.ParseUint(os.Getenv("YUNFAN_SEED"), 10, 64); err == nil {
		seed = given
	}
	t.Logf("seed %d: try it again with YUNFAN_SEED", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// event is a point that a server has reached.
type event struct {
	pid                 int
	step, point, detail string
}

func (e event) steps() []string { return strings.Split(e.step, ",") }

// process is a server.
type process struct {
	cmd *exec.Cmd
	log *os.File
	// exited is closed when it has ended. It is not started again if it was meant to end.
	exited chan struct{}
	meant  bool
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// freeze stops a process and waits until it stands: on a busy machine its threads go on for a while.
func (w *world) freeze(p *process) {
	p.signal(syscall.SIGSTOP)
	for end := time.Now().Add(patience); time.Now().Before(end); <-time.After(time.Millisecond) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.pid()))
		if err == nil && len(threads) > 0 && !slices.ContainsFunc(threads, runs) {
			return
		}
	}
	w.Errorf("server %d does not stand still", p.pid())
}

// runs says whether the thread of a stat file of the kernel's is not stopped; proc(5).
func runs(stat string) bool {
	text, err := os.ReadFile(stat)
	if err != nil {
		return false // the thread has ended
	}
	state := text[bytes.LastIndexByte(text, ')')+1:]
	return !bytes.HasPrefix(state, []byte(" T"))
}

// world is what servers work on: their hub behind a proxy, records, and what counts their effects.
type world struct {
	*testing.T
	namespace, folder, records, kubeconfig string
	proxy                                  *testkit.Proxy
	parent                                 *httptest.Server

	mu        sync.Mutex
	processes map[int]*process
	events    []event
	strict    map[string][]effectOf // arrivals by key
	posted    map[string][]effectOf
	over      bool
	// hook is asked at every point, while the server waits there.
	hook func(p *process, e event)
}

type effectOf struct {
	pid       int
	run, step string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		T: t, namespace: testkit.Namespace(t, hub.Client), folder: t.TempDir(), processes: map[int]*process{},
		strict: map[string][]effectOf{}, posted: map[string][]effectOf{}, hook: func(*process, event) {},
	}
	dir := t.TempDir()
	w.records, w.kubeconfig = filepath.Join(dir, "records.db"), filepath.Join(dir, "kubeconfig")
	m := &testkit.Member{Config: hub.Config}
	w.proxy = testkit.NewProxy(t, m.Address())
	if err := os.WriteFile(w.kubeconfig, m.Kubeconfig(t, w.proxy.Address()), 0o600); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/reached", w.reached)
	mux.HandleFunc("/strict", func(_ http.ResponseWriter, r *http.Request) { w.arrive(w.strict, r) })
	mux.HandleFunc("/post", func(_ http.ResponseWriter, r *http.Request) { w.arrive(w.posted, r) })
	mux.HandleFunc("/had", func(out http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.strict[r.FormValue("key")]) > 0 {
			fmt.Fprint(out, "yes")
		}
	})
	w.parent = httptest.NewServer(mux)
	t.Cleanup(func() {
		w.end()
		w.parent.Close()
	})
	return w
}

func (w *world) arrive(at map[string][]effectOf, r *http.Request) {
	pid, _ := strconv.Atoi(r.FormValue("pid"))
	w.mu.Lock()
	defer w.mu.Unlock()
	key := r.FormValue("key")
	at[key] = append(at[key], effectOf{pid, r.FormValue("run"), r.FormValue("step")})
}

func (w *world) reached(_ http.ResponseWriter, r *http.Request) {
	pid, _ := strconv.Atoi(r.FormValue("pid"))
	e := event{pid, r.FormValue("step"), r.FormValue("point"), r.FormValue("detail")}
	w.mu.Lock()
	w.events = append(w.events, e)
	p, hook := w.processes[pid], w.hook
	w.mu.Unlock()
	if p != nil {
		hook(p, e)
	}
}

// start starts a server. One that ends by itself, as those do that have lost the lead, is started again, as by whatever
// keeps servers running.
func (w *world) start() *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return nil
	}
	log, err := os.CreateTemp(w.folder, ".log")
	if err != nil {
		w.Error(err)
		return nil
	}
	p := &process{cmd: exec.Command(os.Args[0]), exited: make(chan struct{}), log: log}
	p.cmd.Stderr = log
	p.cmd.Env = append(os.Environ(), envParent+"="+w.parent.URL, envKubeconfig+"="+w.kubeconfig,
		envNamespace+"="+w.namespace, envRecords+"="+w.records, envFolder+"="+w.folder)
	if err := p.cmd.Start(); err != nil {
		w.Errorf("starting a server: %v", err)
		return nil
	}
	w.processes[p.pid()] = p
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
		w.mu.Lock()
		again := !p.meant && !w.over
		w.mu.Unlock()
		if again {
			w.start()
		}
	}()
	return p
}

// kill kills a server where it stands and starts another. Nobody waits for the lease to run out.
func (w *world) kill(p *process) {
	w.mu.Lock()
	p.meant = true
	w.mu.Unlock()
	p.signal(syscall.SIGKILL)
	<-p.exited
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "faults"}}
	_ = hub.Client.Delete(context.Background(), lease)
	w.start()
}

// end ends all servers.
func (w *world) end() {
	w.mu.Lock()
	w.over = true
	all := make([]*process, 0, len(w.processes))
	for _, p := range w.processes {
		p.meant = true
		all = append(all, p)
	}
	w.mu.Unlock()
	for _, p := range all {
		p.signal(syscall.SIGCONT)
		p.signal(syscall.SIGKILL)
		<-p.exited
		if w.Failed() {
			text, _ := os.ReadFile(p.log.Name())
			w.Logf("server %d: …%s", p.pid(), text[max(0, len(text)-2000):])
		}
		p.log.Close()
	}
}

// seen are the events so far that are wanted.
func (w *world) seen(wanted func(event) bool) (found []event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if wanted(e) {
			found = append(found, e)
		}
	}
	return found
}

// leader waits for a server that leads.
func (w *world) leader() *process {
	w.Helper()
	var found []event
	NewWithT(w).Eventually(func() []event {
		found = w.seen(func(e event) bool { return e.point == pointLeading })
		return found
	}, patience, 20*time.Millisecond).ShouldNot(BeEmpty())
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.processes[found[len(found)-1].pid]
}

// kinds are the actions that steps have in turn.
var kinds = []string{"strict", "post", "object", "file", "slow"}

func kindOf(i int) string { return kinds[(i+i/5)%len(kinds)] }

// diamonds is a definition of 5 steps for each: a head, two branches and a conditional one, and what joins them.
func diamonds(n int) string {
	var d strings.Builder
	step := func(i int, a string, b any, more string) {
		fmt.Fprintf(&d, "- {name: s%d, action: %s, with: {a: \"${{ %s }}\", b: %v}%s}\n", i, kindOf(i), a, b, more)
	}
	value := func(i int) string { return fmt.Sprintf("steps.s%d.outputs.value", i) }
	d.WriteString("inputs: [{name: start, type: Integer, default: 1}]\nsteps:\n")
	for k := range n {
		head := 5 * k
		if k == 0 {
			step(head, "inputs.start", 0, "")
		} else {
			step(head, value(head-1), k, fmt.Sprintf(", needs: [s%d]", head-1))
		}
		needs := fmt.Sprintf(", needs: [s%d]", head)
		step(head+1, value(head), 1, needs)
		step(head+2, value(head), 2, needs)
		step(head+3, value(head), 3, needs+fmt.Sprintf(", when: \"%s %% 2 == 0\"", value(head)))
		step(head+4, value(head+1), fmt.Sprintf("\"${{ %s }}\"", value(head+2)), fmt.Sprintf(", needs: [s%d, s%d, s%d]", head+1, head+2, head+3))
	}
	fmt.Fprintf(&d, "outputs: {total: \"${{ %s }}\"}\n", value(5*n-1))
	return d.String()
}

// sums are what the steps of so many diamonds give; those that are skipped are not in it.
func sums(n int) map[string]int64 {
	out, last := map[string]int64{}, int64(1)
	for k := range n {
		head := last + int64(k)
		name := func(i int) string { return fmt.Sprintf("s%d", 5*k+i) }
		out[name(0)], out[name(1)], out[name(2)] = head, head+1, head+2
		if head%2 == 0 {
			out[name(3)] = head + 3
		}
		last = 2*head + 3
		out[name(4)] = last
	}
	return out
}

// run starts a run of so many diamonds.
func (w *world) run(n int) *v1alpha1.WorkflowRun {
	w.Helper()
	spec := &v1alpha1.WorkflowSpec{}
	if err := yaml.UnmarshalStrict([]byte(diamonds(n)), spec); err != nil {
		w.Fatal(err)
	}
	run := &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: testkit.Name(w), Finalizers: []string{v1alpha1.FinalizerRun}},
		Spec:       v1alpha1.WorkflowRunSpec{Definition: spec, User: &v1alpha1.Actor{Name: "yunfan:li"}},
	}
	testkit.Create(w, hub.Client, run)
	return run
}

// finish waits until the run has finished, and reads it.
func (w *world) finish(run *v1alpha1.WorkflowRun, wait time.Duration) {
	w.Helper()
	NewWithT(w).Eventually(func() v1alpha1.RunPhase {
		if err := hub.Client.Get(w.Context(), client.ObjectKeyFromObject(run), run); err != nil {
			w.Fatal(err)
		}
		if p := run.Status.Phase; p.Finished() && p != v1alpha1.RunSucceeded {
			w.Fatalf("the run has %s: %s", p, run.Status.Message)
		}
		return run.Status.Phase
	}, wait, 50*time.Millisecond).Should(Equal(v1alpha1.RunSucceeded), func() string {
		return fmt.Sprintf("%s: %s; steps %+v", run.Status.Phase, run.Status.Message, run.Status.Steps)
	})
}

// check compares what a run of n diamonds says, what its effects were and what the records keep.
func (w *world) check(run *v1alpha1.WorkflowRun, n int) {
	w.Helper()
	want := sums(n)
	keys := map[string]string{} // of steps
	for _, s := range run.Status.Steps {
		sum, runs := want[s.Name]
		switch {
		case !runs && s.Phase != v1alpha1.StepSkipped, runs && s.Phase != v1alpha1.StepSucceeded:
			w.Errorf("step %s is %s: %s", s.Name, s.Phase, s.Message)
		case runs && string(s.Outputs["value"]) != strconv.FormatInt(sum, 10):
			w.Errorf("step %s gave %s, want %d", s.Name, s.Outputs["value"], sum)
		case runs && s.Attempt != 1:
			w.Errorf("step %s had %d attempts", s.Name, s.Attempt)
		}
		keys[s.Name] = strings.Trim(string(s.Outputs["key"]), `"`)
	}
	if total := string(run.Status.Outputs["total"]); total != strconv.FormatInt(want[fmt.Sprintf("s%d", 5*n-1)], 10) {
		w.Errorf("the run gave %s", total)
	}
	for i := range 5 * n {
		name := fmt.Sprintf("s%d", i)
		wanted := 0
		if _, runs := want[name]; runs {
			wanted = 1
		}
		if got := w.effects(run, kindOf(i), name, keys[name]); got != wanted {
			w.Errorf("step %s (%s) had %d effects, want %d", name, kindOf(i), got, wanted)
		}
	}
	w.checkRecords(run)
}

// effects counts those of a step, under whatever key. Arrivals of what must not come twice count each; others by their key.
func (w *world) effects(run *v1alpha1.WorkflowRun, kind, step, key string) (n int) {
	w.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	mine := func(e effectOf) bool { return e.run == run.Name && e.step == step }
	switch kind {
	case "strict", "slow":
		for k, arrivals := range w.strict {
			for _, e := range arrivals {
				if mine(e) {
					n++
				}
				if mine(e) && k != key {
					w.Errorf("step %s had an effect under the key %s, and its attempt's is %s", step, k, key)
				}
			}
		}
	case "post":
		for _, arrivals := range w.posted {
			if mine(arrivals[0]) {
				n++
			}
		}
	case "object":
		var made corev1.ConfigMapList
		if err := hub.Client.List(w.Context(), &made, client.InNamespace(w.namespace), client.MatchingLabels{"run": run.Name, "step": step}); err != nil {
			w.Fatal(err)
		}
		n = len(made.Items)
	case "file":
		found, err := filepath.Glob(filepath.Join(w.folder, run.Name+"."+step+".*"))
		if err != nil {
			w.Fatal(err)
		}
		n = len(found)
	}
	return n
}

// checkRecords waits until the records keep the run as it ended.
func (w *world) checkRecords(run *v1alpha1.WorkflowRun) {
	w.Helper()
	db, err := record.OpenToRead(w.Context(), w.records)
	if err != nil {
		w.Fatal(err)
	}
	defer db.Close()
	kept := history.New(hub.Client, db)
	NewWithT(w).Eventually(func(g Gomega) {
		found, err := kept.Find(w.Context(), run.Namespace, run.Name, run.UID)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(found).NotTo(BeNil())
		g.Expect(found.Run.Status.Phase).To(Equal(v1alpha1.RunSucceeded))
		g.Expect(found.Run.Status.Outputs).To(Equal(run.Status.Outputs))
	}, patience, 100*time.Millisecond).Should(Succeed())
}
