package main

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// An exited child nobody waited for stays a zombie and can still be signalled; once reaped it is gone.
func TestWaitReapsOrphansUntilToldToEnd(t *testing.T) {
	child := exec.Command("true")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	ended, orphans, returned := make(chan os.Signal), make(chan os.Signal), make(chan struct{})
	go func() {
		wait(ended, orphans)
		close(returned)
	}()
	deadline := time.After(10 * time.Second)
	for syscall.Kill(child.Process.Pid, 0) != syscall.ESRCH {
		select {
		case orphans <- syscall.SIGCHLD:
		case <-deadline:
			t.Fatalf("process %d was not reaped", child.Process.Pid)
		}
	}
	ended <- syscall.SIGTERM
	select {
	case <-returned:
	case <-deadline:
		t.Fatal("wait did not return after SIGTERM")
	}
}
