package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	networkTimeout = 10 * time.Second
	maxBody        = 16 << 20
	maxHogMiB      = 16 << 10
)

func cat(_ context.Context, args []string, out io.Writer) error {
	for _, path := range args {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, f)
		f.Close()
		if err != nil {
			return fmt.Errorf("showing %s: %w", path, err)
		}
	}
	return nil
}

func list(_ context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		args = []string{"."}
	}
	for _, dir := range args {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				continue // gone meanwhile
			}
			fmt.Fprintf(out, "%s %8d %s\n", info.Mode(), info.Size(), e.Name())
		}
	}
	return nil
}

func write(_ context.Context, args []string, _ io.Writer) error {
	if len(args) < 2 {
		return errors.New("usage: write FILE TEXT…")
	}
	if err := os.MkdirAll(filepath.Dir(args[0]), 0o755); err != nil {
		return err
	}
	f, err := os.Create(args[0])
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, strings.Join(args[1:], " "))
	return errors.Join(err, f.Sync(), f.Close())
}

func lookup(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("usage: nslookup NAME")
	}
	ctx, cancel := context.WithTimeout(ctx, networkTimeout)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, args[0])
	if err != nil {
		return err
	}
	fmt.Fprintln(out, strings.Join(addresses, "\n"))
	return nil
}

func get(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("usage: get URL [HEADER:VALUE…]")
	}
	ctx, cancel := context.WithTimeout(ctx, networkTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil) //nolint:gosec // asking any address is its purpose
	if err != nil {
		return err
	}
	for _, h := range args[1:] {
		name, value, _ := strings.Cut(h, ":")
		if strings.EqualFold(name, "Host") {
			request.Host = strings.TrimSpace(value)
		}
		request.Header.Set(name, strings.TrimSpace(value))
	}
	response, err := http.DefaultClient.Do(request) //nolint:gosec // see above
	if err != nil {
		return err
	}
	defer response.Body.Close()
	fmt.Fprintln(out, response.Status)
	if _, err := io.Copy(out, io.LimitReader(response.Body, maxBody)); err != nil {
		return err
	}
	if response.StatusCode >= http.StatusBadRequest {
		return exitCode(1)
	}
	return nil
}

func dial(ctx context.Context, args []string, out io.Writer) error {
	if len(args) < 2 {
		return errors.New("usage: dial tcp|udp HOST:PORT [TEXT]")
	}
	dialer := net.Dialer{Timeout: networkTimeout}
	conn, err := dialer.DialContext(ctx, args[0], args[1])
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(networkTimeout)); err != nil {
		return err
	}
	if len(args) == 2 {
		fmt.Fprintln(out, "connected to", conn.RemoteAddr())
		return nil
	}
	if _, err := fmt.Fprintln(conn, strings.Join(args[2:], " ")); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(conn, maxBody)).ReadString('\n')
	fmt.Fprint(out, line)
	return err
}

func environment(_ context.Context, _ []string, out io.Writer) error {
	fmt.Fprintln(out, strings.Join(os.Environ(), "\n"))
	return nil
}

func printWords(_ context.Context, args []string, out io.Writer) error {
	fmt.Fprintln(out, strings.Join(args, " "))
	return nil
}

func sleep(ctx context.Context, args []string, _ io.Writer) error {
	if len(args) != 1 {
		return errors.New("usage: sleep DURATION")
	}
	d, err := time.ParseDuration(args[0])
	if seconds, numeric := strconv.ParseFloat(args[0], 64); numeric == nil {
		d, err = time.Duration(seconds*float64(time.Second)), nil
	}
	if err != nil {
		return err
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return exitCode(143) // as if the signal had ended it
	}
}

func exit(_ context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return exitCode(0)
	}
	code, err := strconv.Atoi(args[0])
	if err != nil || code < 0 || code > 255 {
		return errors.New("usage: exit CODE [TEXT…]; a code is 0 to 255")
	}
	if len(args) > 1 {
		fmt.Fprintln(out, strings.Join(args[1:], " "))
	}
	return exitCode(code)
}

func hog(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("usage: hog MIB [cpu]")
	}
	mib, err := strconv.Atoi(args[0])
	if err != nil || mib < 0 || mib > maxHogMiB {
		return fmt.Errorf("hog takes 0 to %d MiB", maxHogMiB)
	}
	memory := make([][]byte, mib)
	for i := range memory {
		memory[i] = make([]byte, 1<<20)
		for j := 0; j < len(memory[i]); j += os.Getpagesize() {
			memory[i][j] = 1 // only touched pages are taken
		}
	}
	fmt.Fprintf(out, "holding %d MiB\n", mib)
	if len(args) > 1 && args[1] == "cpu" {
		for ctx.Err() == nil { // being busy is the purpose
		}
	}
	<-ctx.Done()
	fmt.Fprintf(out, "giving back %d MiB\n", len(memory))
	return nil
}
