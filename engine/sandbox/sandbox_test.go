package sandbox

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
)

// TestReaper makes this process adopt orphans, as the first process of a PID namespace does.
func TestReaper(t *testing.T) {
	g := NewWithT(t)
	g.Expect(unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)).To(Succeed())
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	ctx, cancel := context.WithCancel(t.Context())
	r := newReaper()
	done := make(chan struct{})
	go func() {
		r.run(ctx)
		close(done)
	}()
	defer func() { cancel(); <-done }()

	file := filepath.Join(t.TempDir(), "pid")
	wait, err := r.launch(exec.Command("sh", "-c", "(sleep 0.2 & echo $! > "+file+"); exit 3"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(wait()).To(MatchError("exit status 3"), "the ending of a child we wait for is handed on")
	orphan, err := os.ReadFile(file)
	g.Expect(err).NotTo(HaveOccurred())
	g.Eventually(func() error { _, err := os.Stat("/proc/" + string(orphan[:len(orphan)-1])); return err }).
		WithTimeout(5*time.Second).Should(MatchError(os.ErrNotExist), "an orphan does not stay as a zombie")

	wait, err = r.launch(exec.Command("sh", "-c", "kill -9 $$"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(wait()).To(MatchError("signal: killed"))
	wait, err = r.launch(exec.Command("true"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(wait()).To(Succeed())
}

func TestAdopt(t *testing.T) {
	g := NewWithT(t)
	cmd := exec.Command("sleep", "1000")
	g.Expect(cmd.Start()).To(Succeed())
	spec := &Spec{Unit: "test", Dir: t.TempDir()}
	started, err := startTime(cmd.Process.Pid)
	g.Expect(err).NotTo(HaveOccurred())
	run := &Running{Spec: spec, PID: cmd.Process.Pid, StartTime: started}
	g.Expect(run.prepare(func(int) error { return nil })).To(Succeed())

	adopted := Adopt(spec, nil)
	g.Expect(adopted).NotTo(BeNil())
	g.Expect(adopted.PID).To(Equal(cmd.Process.Pid))
	other := *adopted
	other.StartTime++
	g.Expect(other.Alive()).To(BeFalse(), "the same id with another start is another process")

	ended := make(chan bool, 1)
	go func() { ended <- adopted.Wait(t.Context()) }()
	g.Consistently(ended, "300ms").ShouldNot(Receive())
	g.Expect(cmd.Process.Kill()).To(Succeed())
	_ = cmd.Wait() // says that it was killed
	g.Eventually(ended).WithTimeout(5 * time.Second).Should(Receive(BeTrue()))
	g.Expect(Adopt(spec, nil)).To(BeNil(), "what has ended is not adopted")
	g.Expect(spec.Forget()).To(Succeed())
	g.Expect(spec.Forget()).To(Succeed(), "once is enough, twice is no fault")
}
