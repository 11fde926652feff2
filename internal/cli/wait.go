package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/pflag"
)

// pollInterval is how often something waited for is looked at.
const pollInterval = 300 * time.Millisecond

// Wait says whether and how long a command waits for what it asked for.
type Wait struct {
	Wanted  bool
	Timeout time.Duration
}

// Flags adds --wait and --timeout.
func (w *Wait) Flags(flags *pflag.FlagSet, wanted bool) {
	const timeout = 5 * time.Minute
	flags.BoolVar(&w.Wanted, "wait", wanted, "wait until every partition has it, and show how far it is")
	flags.DurationVar(&w.Timeout, "timeout", timeout, "how long to wait at most; exit code 3 if it takes longer")
}

// Until calls look again and again until it says done. What it says on the way is written to progress, each time it
// changes. An error ends the waiting; a timeout is a TimeoutError with what was said last.
func Until(ctx context.Context, timeout time.Duration, progress io.Writer, look func(context.Context) (done bool, says string, err error)) error {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	said := ""
	for {
		done, says, err := look(bounded)
		if err != nil && bounded.Err() == nil {
			return err
		}
		if err == nil && says != said && says != "" {
			said = says
			fmt.Fprintln(progress, says)
		}
		if done && err == nil {
			return nil
		}
		select {
		case <-bounded.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return fmt.Errorf("waiting was interrupted; what was asked for stays: %w", ctx.Err())
			}
			if said == "" {
				said = "nothing was seen"
			}
			return &TimeoutError{fmt.Errorf("not there after %s; last seen: %s", timeout, said)}
		case <-time.After(pollInterval):
		}
	}
}
