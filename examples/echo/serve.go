package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const maxLine = 64 << 10

// secret matches names of variables whose values are nobody's business.
var secret = regexp.MustCompile(`(?i)pass|secret|token|key|credential`)

// serve answers over HTTP with what was asked and who answered, and over TCP and UDP with what was sent.
func serve(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	httpAddress := flags.String("http", env("ECHO_HTTP", ":8080"), "address of the web server; empty: none")
	tcpAddress := flags.String("tcp", env("ECHO_TCP", ""), "address that sends TCP lines back; empty: none")
	udpAddress := flags.String("udp", env("ECHO_UDP", ""), "address that sends UDP packets back; empty: none")
	life := newLife()
	life.flags(flags)
	if err := flags.Parse(args); err != nil {
		return exitCode(2)
	}
	log := slog.New(slog.NewJSONHandler(out, nil))
	if !life.begin(ctx, log) {
		return nil // told to end before it had begun
	}
	failed := make(chan error, 3)
	for _, one := range []struct {
		address string
		listen  func(context.Context, *slog.Logger, string, chan<- error) error
	}{{*httpAddress, life.serveHTTP}, {*tcpAddress, serveTCP}, {*udpAddress, serveUDP}} {
		if one.address == "" {
			continue
		}
		if err := one.listen(ctx, log, one.address, failed); err != nil {
			return fmt.Errorf("listening: %w", err)
		}
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		life.end(log)
		log.Info("stopped")
		return nil
	}
}

func env(name, otherwise string) string {
	if v, ok := os.LookupEnv(name); ok {
		return v
	}
	return otherwise
}

func handler(log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		log.Info("request", "method", r.Method, "path", r.URL.Path, "from", r.RemoteAddr)
		answer(w, r)
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, shownEnvironment()) })
	mux.HandleFunc("/hostname", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, hostname()) })
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.PathValue("code"))
		if err != nil || code < 200 || code > 599 {
			code = http.StatusBadRequest
		}
		http.Error(w, http.StatusText(code), code)
	})
	mux.HandleFunc("/exit/{code}", func(_ http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.PathValue("code"))
		if err != nil || code < 0 || code > 255 {
			code = 1
		}
		log.Warn("exiting as asked", "code", code)
		os.Exit(code)
	})
	return mux
}

func answer(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxLine))
	if err != nil {
		http.Error(w, "the body is too big", http.StatusRequestEntityTooLarge)
		return
	}
	w.Header().Set("Echo-Bytes", strconv.Itoa(len(body)))
	writeJSON(w, map[string]any{
		"hostname": hostname(), "version": os.Getenv("ECHO_VERSION"), "method": r.Method, "path": r.URL.Path, "query": r.URL.RawQuery, "partition": partition(),
		"host": r.Host, "from": r.RemoteAddr, "headers": r.Header, "body": string(body),
	})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.Encode(v) //nolint:errcheck,errchkjson // the client hung up
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

func shownEnvironment() map[string]string {
	out := map[string]string{}
	for _, e := range os.Environ() {
		name, value, _ := strings.Cut(e, "=")
		if secret.MatchString(name) {
			value = "(hidden)"
		}
		out[name] = value
	}
	return out
}

func serveTCP(ctx context.Context, log *slog.Logger, address string, failed chan<- error) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	log.Info("serving", "tcp", listener.Addr().String())
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				failed <- err
				return
			}
			go echoLines(conn)
		}
	}()
	return nil
}

func echoLines(conn net.Conn) {
	defer conn.Close()
	scanner := bufio.NewScanner(conn)
	scanner.Buffer(nil, maxLine)
	for {
		err := conn.SetDeadline(time.Now().Add(time.Minute))
		if err != nil || !scanner.Scan() {
			return
		}
		if _, err := fmt.Fprintf(conn, "%s %s\n", hostname(), scanner.Bytes()); err != nil {
			return
		}
	}
}

func serveUDP(ctx context.Context, log *slog.Logger, address string, failed chan<- error) error {
	conn, err := new(net.ListenConfig).ListenPacket(ctx, "udp", address)
	if err != nil {
		return err
	}
	log.Info("serving", "udp", conn.LocalAddr().String())
	go func() {
		buffer := make([]byte, maxLine)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err == nil {
				_, err = conn.WriteTo(append([]byte(hostname()+" "), buffer[:n]...), from)
			}
			if errors.Is(err, net.ErrClosed) {
				failed <- err
				return
			}
		}
	}()
	return nil
}
