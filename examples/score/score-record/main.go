// Command score-record shows students' scores out of MariaDB: the web part of the score example.
//
//	score-record            serve
//	score-record prestop    tell the server in this pod to finish its work; for a pre-stop hook
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	// adminAddress is reached from inside the pod only.
	adminAddress  = "127.0.0.1:8081"
	stopTimeout   = 10 * time.Second
	drainTimeout  = 20 * time.Second
	headerTimeout = 5 * time.Second
)

func main() {
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	if err := run(log, os.Args[1:]); err != nil {
		log.Error("score-record failed", "error", err.Error())
		os.Exit(1)
	}
}

func run(log *slog.Logger, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	switch {
	case len(args) == 0:
		return serve(ctx, log, settingsFromEnv(os.Getenv))
	case len(args) == 1 && args[0] == "prestop":
		return prestop(ctx)
	}
	return fmt.Errorf("unknown arguments %q: use none, or prestop", args)
}

// serve runs until SIGTERM, then finishes the requests it has.
func serve(ctx context.Context, log *slog.Logger, s settings) (err error) {
	store, err := openStore(s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	app := newApp(log, s, store)
	public := &http.Server{Addr: s.listen, Handler: app.handler(), ReadHeaderTimeout: headerTimeout, IdleTimeout: time.Minute}
	admin := &http.Server{Addr: adminAddress, Handler: app.adminHandler(), ReadHeaderTimeout: headerTimeout}

	failed := make(chan error, 2)
	for _, server := range []*http.Server{public, admin} {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", server.Addr)
		if err != nil {
			return fmt.Errorf("listening: %w", err)
		}
		go func() { failed <- server.Serve(listener) }()
	}
	log.Info("serving", "address", public.Addr, "version", s.version, "instance", s.instance, "database", s.databaseAddress())

	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	log.Info("stopping: finishing requests", "inFlight", app.gate.count())
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	defer log.Info("stopped")
	return errors.Join(public.Shutdown(stopping), admin.Close())
}

// prestop asks the server in the same pod to leave the service and waits until its requests are done.
func prestop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout+5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+adminAddress+"/drain", nil)
	if err != nil {
		return fmt.Errorf("asking to drain: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("asking to drain: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("draining: the server answered %s", response.Status)
	}
	return nil
}
