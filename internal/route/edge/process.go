package edge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Pauses before a program that died is started again, and how long it must have run for them to begin anew.
const (
	firstPause = 200 * time.Millisecond
	mostPause  = 10 * time.Second
	steady     = 30 * time.Second
	termGrace  = 5 * time.Second
	mostLine   = 4 << 10
)

// Process is a load balancer's program that is kept running: if it ends it is started again, with pauses that grow.
type Process struct {
	command func() *exec.Cmd
	peace   syscall.Signal
	log     *slog.Logger
	closing chan struct{}
	ended   chan struct{}
	once    sync.Once

	mu  sync.Mutex
	cmd *exec.Cmd // nil while it does not run
}

// StartProcess starts a program that stays in the foreground. Its command is asked for before each start; peace is the
// signal that lets it end what is under way and take nothing new.
func StartProcess(command func() *exec.Cmd, peace syscall.Signal, log *slog.Logger) *Process {
	p := &Process{command: command, peace: peace, log: log, closing: make(chan struct{}), ended: make(chan struct{})}
	go p.run()
	return p
}

func (p *Process) run() {
	// The kernel ends the program when the thread that started it ends: this one lives as long as the agent. So an agent
	// that is killed leaves nothing behind that holds its ports.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.ended)
	for pause := firstPause; ; pause = min(2*pause, mostPause) {
		began := time.Now()
		err := p.runOnce()
		select {
		case <-p.closing:
			return
		default:
		}
		if time.Since(began) > steady {
			pause = firstPause
		}
		p.log.Error("the load balancer ended and is started again", "error", fmt.Sprint(err), "pause", pause.String())
		select {
		case <-p.closing:
			return
		case <-time.After(pause):
		}
	}
}

// runOnce runs the program once.
func (p *Process) runOnce() error {
	cmd := p.command()
	output, input := io.Pipe()
	cmd.Stdout, cmd.Stderr = input, input
	// In a group of its own: what is sent to the agent's group reaches it through the agent, which drains first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	read := make(chan struct{})
	go func() {
		defer close(read)
		p.tell(output)
	}()
	err := p.start(cmd)
	if err == nil {
		err = cmd.Wait()
		p.mu.Lock()
		p.cmd = nil
		p.mu.Unlock()
	}
	_ = input.Close() // never fails
	<-read
	return err
}

func (p *Process) start(cmd *exec.Cmd) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.closing:
		return errors.New("it is being closed")
	default:
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the load balancer: %w", err)
	}
	p.cmd = cmd
	return nil
}

// tell logs what the program prints, line by line.
func (p *Process) tell(output io.Reader) {
	lines := bufio.NewReaderSize(output, mostLine)
	for {
		line, more, err := lines.ReadLine()
		if len(line) > 0 {
			p.log.Info("load balancer", "line", string(line))
		}
		for more && err == nil { // the rest of a long line
			_, more, err = lines.ReadLine()
		}
		if err != nil {
			_, _ = io.Copy(io.Discard, output)
			return
		}
	}
}

// PID is 0 while the program does not run.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Signal sends a signal to the program.
func (p *Process) Signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return errors.New("the load balancer does not run at this moment")
	}
	return p.cmd.Process.Signal(s)
}

// Close ends the program: in peace until ctx ends, and then soon. It returns when the program has gone.
func (p *Process) Close(ctx context.Context) error {
	p.once.Do(func() { close(p.closing) })
	for _, step := range []struct {
		signal syscall.Signal
		wait   func() <-chan struct{}
	}{
		{p.peace, ctx.Done},
		{syscall.SIGTERM, func() <-chan struct{} { return after(termGrace) }},
		{syscall.SIGKILL, func() <-chan struct{} { return after(termGrace) }},
	} {
		_ = p.Signal(step.signal) // it may have gone already
		select {
		case <-p.ended:
			return nil
		case <-step.wait():
		}
	}
	return errors.New("the load balancer does not end")
}

func after(d time.Duration) <-chan struct{} {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	context.AfterFunc(ctx, cancel)
	return ctx.Done()
}
