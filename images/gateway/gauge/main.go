// Command gauge counts the connections that the programs of its pod have opened, by whom they lead to. It runs beside a
// gateway, which does not tell how many requests are under way to each pod.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	address = ":9113"
	proc    = "/proc/net"
	timeout = 5 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context) error {
	server := &http.Server{Addr: address, Handler: handler(proc), ReadHeaderTimeout: timeout, WriteTimeout: timeout, IdleTimeout: time.Minute}
	context.AfterFunc(ctx, func() {
		ending, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		_ = server.Shutdown(ending)
	})
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

// handler answers with the connections, as {"10.244.1.5:8080": 3}, and says that it lives.
func handler(folder string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /connections", func(w http.ResponseWriter, _ *http.Request) {
		counts, err := connections(folder)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(counts) // who asked has gone
	})
	return mux
}
