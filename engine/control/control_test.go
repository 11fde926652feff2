package control

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCall(t *testing.T) {
	// Longer than the 107 bytes a socket address can hold.
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 20), strings.Repeat("path", 20))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "x.sock")
	for range 2 { // the second in place of the first's stale socket
		l, err := Listen(socket)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(socket)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("socket has mode %v, %v: want 0600", info.Mode(), err)
		}
		mux := http.NewServeMux()
		Handle(mux, "/double", func(_ context.Context, n int) (int, error) {
			if n < 0 {
				return 0, errors.New("not negative numbers")
			}
			return 2 * n, nil
		})
		Handle(mux, "/hang", func(ctx context.Context, _ int) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		})
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- Serve(ctx, l, mux) }()

		c := Client{Path: socket, Timeout: 500 * time.Millisecond}
		var got int
		if err := c.Call(ctx, "/double", 21, &got); err != nil || got != 42 {
			t.Errorf("got %d, %v: want 42", got, err)
		}
		var refused *Error
		if err := c.Call(ctx, "/double", -1, &got); !errors.As(err, &refused) || err.Error() != "not negative numbers" {
			t.Errorf("got error %v: want the server's words", err)
		}
		if err := c.Call(ctx, "/hang", 0, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got error %v: want a time-out", err)
		}
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serving ended with %v", err)
		}
		if err := c.Call(t.Context(), "/double", 1, &got); err == nil || errors.As(err, &refused) {
			t.Errorf("got error %v: nobody is there", err)
		}
	}
}
