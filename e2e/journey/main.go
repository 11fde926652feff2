//go:build e2e

// Package journey is the frame of the journeys: one Yunfan with real clusters, made by `yunfan up`, and what tests do
// with it. Packages of journeys call Main from their TestMain and begin each test with Begin. All packages of one run
// share one instance (`make test-journeys` starts it); a package that is run by itself starts its own.
package journey

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// DataDirVariable names the data directory of the instance to use.
const DataDirVariable = "YUNFAN_E2E_DATA_DIR"

// world is what the tests of this package work on; Main sets it.
var world *World

// Main runs a package's journeys. Clusters that are not ready fail the package.
func Main(m *testing.M) {
	log.SetLogger(logr.Discard()) // what clients log is in their errors, too
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, m)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(ctx context.Context, m *testing.M) (code int, err error) {
	instance := Existing(os.Getenv(DataDirVariable))
	if instance == nil {
		if instance, err = Start(ctx); err != nil {
			return 1, err
		}
		defer func() { err = errors.Join(err, instance.Stop()) }()
	}
	if world, err = Open(ctx, instance); err != nil {
		return 1, err
	}
	done := make(chan int, 1)
	go func() { done <- m.Run() }()
	select {
	case code = <-done:
		return code, nil
	case <-ctx.Done():
		return 1, fmt.Errorf("running journeys: %w", context.Cause(ctx))
	}
}
