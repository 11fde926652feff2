package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	progressEvery = 3 * time.Second
	tailLines     = 20
	maxLine       = 4096
)

// progressWriter passes on at most one line of a chatty program every few seconds and keeps the last lines for errors.
type progressWriter struct {
	to   io.Writer
	rest []byte
	last []string
	next time.Time
}

func (w *progressWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 && len(w.rest) > maxLine {
			i = len(w.rest) - 1
		}
		if i < 0 {
			return len(p), nil
		}
		w.line(strings.TrimSpace(string(w.rest[:i])))
		w.rest = w.rest[i+1:]
	}
}

func (w *progressWriter) line(s string) {
	if s == "" {
		return
	}
	w.last = append(w.last, s)
	if len(w.last) > tailLines {
		w.last = w.last[1:]
	}
	if now := time.Now(); now.After(w.next) {
		fmt.Fprintln(w.to, "  "+s)
		w.next = now.Add(progressEvery)
	}
}

func (w *progressWriter) tail() string { return strings.Join(w.last, "\n") }

// lockFile takes an exclusive lock between processes and returns its release.
func lockFile(ctx context.Context, path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking the cache: %w", err)
	}
	retry := time.NewTicker(200 * time.Millisecond)
	defer retry.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("locking the cache: %w", err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("waiting for another process that makes the same layer: %w", ctx.Err())
		case <-retry.C:
		}
	}
}
