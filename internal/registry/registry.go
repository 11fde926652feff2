// Package registry serves container images from a directory. It is a process of its own, so that nodes go on pulling
// when nothing else of the platform runs. Pulls and pushes have separate addresses: who may pull cannot write.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Options say where a registry keeps its images and where it is reached.
type Options struct {
	Dir        string // holds images, the push socket and the secret of unfinished uploads
	Listen     string // HOST:PORT for pulls
	PushListen string // unix:PATH or a loopback HOST:PORT for pushes
	Audit      Audit  // of changed images; none if nil
}

const (
	maxConnections = 1024             // per address; more wait in the kernel's queue
	maxBlob        = 16 << 30         // bytes of one upload request
	stallTimeout   = time.Minute      // a client that moves no byte for so long is cut off
	headerTimeout  = 10 * time.Second // to send a request's headers
	idleTimeout    = 2 * time.Minute  // between two requests of one connection
	drainTimeout   = 20 * time.Second // for running requests when the process is asked to stop
)

// Run serves until the context ends, then finishes running requests. It fails at once when an address is taken or the
// directory cannot be written.
func Run(ctx context.Context, o Options, log *slog.Logger) error {
	app, err := newApp(ctx, o.Dir, log)
	if err != nil {
		return err
	}
	pull, err := listenPull(ctx, o.Listen)
	if err != nil {
		return err
	}
	defer pull.Close()
	push, err := listenPush(ctx, o.PushListen)
	if err != nil {
		return err
	}
	defer push.Close()
	log.Info("registry serving", "dir", o.Dir, "pull", pull.Addr().String(), "push", o.PushListen, "pushAddress", push.Addr().String())

	hint := "push through " + o.PushListen + " on the registry's own machine"
	group, ctx := errgroup.WithContext(ctx)
	serve(ctx, group, pull, withHealth(o.Dir, readOnly(hint, unstall(stallTimeout, app))))
	serve(ctx, group, push, withHealth(o.Dir, logWrites(log, audited(o.Audit, unstall(stallTimeout, app)))))
	err = group.Wait()
	log.Info("registry stopped")
	return errors.Join(err, app.Shutdown())
}

func listenPull(ctx context.Context, address string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for pulls: %w: choose another --listen", err)
	}
	return limit(l), nil
}

// listenPush opens the address for writers. A socket file is open to its owner only; TCP must be loopback.
func listenPush(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	path, isSocket := strings.CutPrefix(address, "unix:")
	if !isSocket {
		host, _, err := net.SplitHostPort(address)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			return nil, fmt.Errorf("push address %q is open to others: use unix:PATH or 127.0.0.1:PORT", address)
		}
		l, err := lc.Listen(ctx, "tcp", address)
		if err != nil {
			return nil, fmt.Errorf("listening for pushes: %w: choose another --push-listen", err)
		}
		return limit(l), nil
	}
	if err := removeStaleSocket(ctx, path); err != nil {
		return nil, err
	}
	// The umask, and not a chmod afterwards, leaves no moment in which others can connect.
	old := syscall.Umask(0o177)
	l, err := lc.Listen(ctx, "unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listening for pushes: %w: a socket path has at most 107 bytes, choose another with --push-listen", err)
	}
	return limit(l), nil
}

// removeStaleSocket removes the socket a killed registry left behind, never one that is served.
func removeStaleSocket(ctx context.Context, path string) error {
	dialer := net.Dialer{Timeout: time.Second}
	if conn, err := dialer.DialContext(ctx, "unix", path); err == nil {
		conn.Close()
		return fmt.Errorf("a registry already serves %s: stop it first or choose another --dir", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing a stale push socket: %w", err)
	}
	return nil
}

func serve(ctx context.Context, group *errgroup.Group, l net.Listener, h http.Handler) {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    64 << 10,
		ConnContext:       withPeer,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // clients that hang up are not news
	}
	group.Go(func() error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving images: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if err := server.Shutdown(drain); err != nil {
			// An upload that is cut here can be resumed after the next start.
			return server.Close()
		}
		return nil
	})
}

// withHealth answers /readyz: 200 when the directory can be written.
func withHealth(dir string, next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := writable(dir); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n") //nolint:errcheck // the client hung up
	})
	mux.Handle("/", next)
	return mux
}

func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return fmt.Errorf("writing to the image directory: %w", err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func secretPath(dir string) string { return filepath.Join(dir, "upload-secret") }
