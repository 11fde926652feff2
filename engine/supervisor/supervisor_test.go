package supervisor

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
)

func TestMain(m *testing.M) {
	SetDefaultEventuallyTimeout(5 * time.Second) // a process without a probe is ready after one
	os.Exit(m.Run())
}

// supervised runs processes until the test ends.
func supervised(t *testing.T, processes ...Process) *Supervisor {
	t.Helper()
	for i := range processes {
		processes[i].Log = filepath.Join(t.TempDir(), processes[i].Name+".log")
	}
	s, err := New(Exec, processes)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		s.Run(ctx)
		close(done)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("Run does not return")
		}
	})
	return s
}

func sleeper(name string) Process { return Process{Name: name, Command: []string{"sleep", "1000"}} }

// state is a function for Eventually.
func state(s *Supervisor, name string) func() State {
	return func() State { return get(s, name).State }
}

func get(s *Supervisor, name string) Status {
	for _, p := range s.Status() {
		if p.Name == name {
			return p
		}
	}
	return Status{}
}

func TestKilledProcessComesBack(t *testing.T) {
	g := NewWithT(t)
	s := supervised(t, sleeper("a"))
	g.Eventually(state(s, "a")).Should(Equal(Ready))
	first := get(s, "a")
	g.Expect(s.Kill("a")).To(Succeed())
	g.Eventually(func() bool { p := get(s, "a"); return p.State == Ready && p.PID != first.PID }).WithTimeout(5 * time.Second).Should(BeTrue())
	again := get(s, "a")
	g.Expect(again.Restarts).To(Equal(1))
	g.Expect(again.LastError).To(Equal("signal: killed"))
}

func TestEndingAtOnceIsNeverReady(t *testing.T) {
	g := NewWithT(t)
	s := supervised(t, Process{Name: "a", Command: []string{"sh", "-c", "exit 3"}})
	seen := map[State]bool{}
	// Ends in a pause: the clean-up of the test also proves that Run returns from there.
	g.Eventually(func() int { p := get(s, "a"); seen[p.State] = true; return p.Restarts }).
		WithPolling(time.Millisecond).Should(Equal(2))
	g.Expect(seen).NotTo(HaveKey(Ready))
}

func TestPausesGrow(t *testing.T) {
	g := NewWithT(t)
	start := time.Now()
	s := supervised(t, Process{Name: "a", Command: []string{"sh", "-c", "echo the reason; exit 3"}, Ready: Probe{URL: "unix:///nowhere"}})
	g.Eventually(func() int { return get(s, "a").Restarts }).WithTimeout(10 * time.Second).Should(Equal(3))
	if took := time.Since(start); took < firstPause+2*firstPause {
		t.Errorf("three failures within %s: the pauses do not grow", took)
	}
	g.Expect(get(s, "a").LastError).To(Equal("exit status 3"))
	g.Expect(Tail(get(s, "a").Log, 1)).To(Equal([]string{"the reason"}))
	g.Expect(s.Stop("a")).To(Succeed())
	g.Eventually(state(s, "a")).Should(Equal(Stopped), "a stop is not held up by the pause")
}

func TestStopAndStart(t *testing.T) {
	g := NewWithT(t)
	s := supervised(t, sleeper("a"))
	g.Eventually(state(s, "a")).Should(Equal(Ready))
	g.Expect(s.Stop("a")).To(Succeed())
	g.Eventually(state(s, "a")).Should(Equal(Stopped))
	g.Expect(get(s, "a").PID).To(BeZero())
	g.Consistently(state(s, "a"), "500ms").Should(Equal(Stopped))
	g.Expect(s.Kill("a")).To(MatchError(ContainSubstring("does not run")))
	g.Expect(s.Start("a")).To(Succeed())
	g.Eventually(state(s, "a")).Should(Equal(Ready))
	g.Expect(s.Start("b")).To(MatchError(ContainSubstring(`no process "b"`)))
}

func TestFreeze(t *testing.T) {
	g := NewWithT(t)
	s := supervised(t, sleeper("a"))
	g.Eventually(state(s, "a")).Should(Equal(Ready))
	pid := get(s, "a").PID
	kernel := func() string {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return strings.Fields(string(data))[2]
	}
	g.Expect(s.Freeze("a", true)).To(Succeed())
	g.Expect(get(s, "a").State).To(Equal(Frozen))
	g.Eventually(kernel).Should(Equal("T"))
	g.Expect(s.Freeze("a", false)).To(Succeed())
	g.Expect(get(s, "a").State).To(Equal(Ready))
	g.Eventually(kernel).Should(Equal("S"))
	g.Expect(s.Freeze("a", true)).To(Succeed())
	g.Expect(s.Stop("a")).To(Succeed())
	g.Eventually(state(s, "a")).WithTimeout(5*time.Second).Should(Equal(Stopped), "a frozen process can be stopped")
}

func TestOrder(t *testing.T) {
	g := NewWithT(t)
	var open atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !open.Load() {
			http.Error(w, "warming up", http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	first := sleeper("first")
	first.Ready = Probe{URL: server.URL}
	second := sleeper("second")
	second.Needs = []string{"first"}
	s := supervised(t, second, first,
		Process{Name: "once", Once: true, Command: []string{"true"}, Needs: []string{"second"}},
		Process{Name: "last", Command: []string{"sleep", "1000"}, Needs: []string{"once"}})
	g.Eventually(func() string { return get(s, "first").LastError }).Should(ContainSubstring("warming up"))
	g.Expect(get(s, "second").State).To(Equal(Waiting))
	open.Store(true)
	g.Eventually(state(s, "first")).Should(Equal(Ready))
	g.Expect(get(s, "first").LastError).To(BeEmpty(), "what the probe said on the way is no error")
	g.Eventually(state(s, "last")).WithTimeout(5 * time.Second).Should(Equal(Ready))
	g.Expect(get(s, "once").State).To(Equal(Done))
}

func TestNewRefuses(t *testing.T) {
	cases := map[string]struct {
		reason    string
		processes []Process
		want      string
	}{
		"NoCommand": {"There is nothing to run", []Process{{Name: "a"}}, "needs a command"},
		"Twice":     {"Commands could not tell them apart", []Process{sleeper("a"), sleeper("a")}, "name of its own"},
		"Unknown":   {"It would wait for ever", []Process{{Name: "a", Command: []string{"true"}, Needs: []string{"b"}}}, "not there"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := New(Exec, tc.processes); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: got error %v, want %q", tc.reason, err, tc.want)
			}
		})
	}
}

func TestLogsAreBounded(t *testing.T) {
	log := filepath.Join(t.TempDir(), "x.log")
	if err := os.WriteFile(log, []byte("old\nnew1\nnew2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := trim(log, 100); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"new1", "new2"}, Tail(log, 2)); diff != "" {
		t.Errorf("a short log is left alone: -want +got:\n%s", diff)
	}
	if err := trim(log, 10); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"new1", "new2"}, Tail(log+".1", 9)); diff != "" {
		t.Errorf("the end of a long log is kept beside it: -want +got:\n%s", diff)
	}
	if got := Tail(log, 9); got != nil {
		t.Errorf("the log itself begins anew, got %q", got)
	}
	if got := Tail(log+".none", 9); got != nil {
		t.Errorf("no file, no lines, got %q", got)
	}
}
