package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// reach tries many addresses at once and says of each whether it answers and who. With --every it goes on and says when
// that changes.
func reach(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("reach", flag.ContinueOnError)
	timeout := flags.Duration("timeout", time.Second, "how long an answer may take")
	every := flags.Duration("every", 0, "try again after so long, and show only what changes, with the time")
	until := flags.Duration("for", time.Minute, "with --every: end after so long")
	keep := flags.Bool("keep", false, "with --every: ask over the connection that answered before")
	if err := flags.Parse(args); err != nil {
		return exitCode(2)
	}
	if flags.NArg() == 0 {
		return errors.New("usage: reach [--timeout 1s] [--every 50ms [--for 1m] [--keep]] tcp://HOST:PORT udp://HOST:PORT…")
	}
	if *every > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *until)
		defer cancel()
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, target := range flags.Args() {
		network, address, ok := strings.Cut(target, "://")
		if !ok {
			return fmt.Errorf("%q is not like tcp://HOST:PORT", target)
		}
		wg.Go(func() {
			r := reacher{network: network, address: address, timeout: *timeout, keep: *keep}
			defer r.close()
			r.follow(ctx, *every, func(at time.Time, who string) {
				mu.Lock()
				defer mu.Unlock()
				if *every > 0 {
					fmt.Fprintf(out, "%s ", at.UTC().Format(time.RFC3339Nano))
				}
				fmt.Fprintln(out, target, who)
			})
		})
	}
	wg.Wait()
	return nil
}

// nobody is who answers where no answer comes.
const nobody = "-"

type reacher struct {
	network, address string
	timeout          time.Duration
	keep             bool
	conn             net.Conn
}

// follow asks once, or again and again until the context ends, and tells who answers when that is another
// than before, with the time at which it was asked.
func (r *reacher) follow(ctx context.Context, every time.Duration, tell func(time.Time, string)) {
	last := ""
	for {
		begun := time.Now()
		who := r.ask(ctx)
		if last != "" && who == nobody && over(ctx) {
			return // it was not given its time to answer
		}
		if who != last {
			tell(begun, who)
			last = who
		}
		if every == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
	}
}

// over says whether the time of a context has come, though it may not have ended yet.
func over(ctx context.Context) bool {
	end, limited := ctx.Deadline()
	return ctx.Err() != nil || limited && !time.Now().Before(end)
}

// ask sends a line and gives the first word of the one that comes back.
func (r *reacher) ask(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	if r.conn == nil {
		conn, err := new(net.Dialer).DialContext(ctx, r.network, r.address)
		if err != nil {
			return nobody
		}
		r.conn = conn
	}
	if !r.keep {
		defer r.close()
	}
	deadline, _ := ctx.Deadline()
	if err := r.conn.SetDeadline(deadline); err != nil {
		return nobody
	}
	if _, err := fmt.Fprintln(r.conn, "?"); err != nil {
		return nobody
	}
	line, err := bufio.NewReader(r.conn).ReadString('\n')
	who, _, _ := strings.Cut(line, " ")
	if err != nil || who == "" {
		return nobody
	}
	return who
}

func (r *reacher) close() {
	if r.conn != nil {
		r.conn.Close()
		r.conn = nil
	}
}
