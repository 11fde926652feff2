package nginx

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"yunfan.io/yunfan/internal/route/edge"
	"yunfan.io/yunfan/internal/route/table"
)

// patience bounds each question to the Nginx beside us.
const patience = 5 * time.Second

// State tells what Nginx serves.
func (d *driver) State(ctx context.Context) (*table.State, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	d.mu.Lock()
	t, process := d.table, d.process
	state := &table.State{Program: d.version, Unsupported: d.unsupported, Problem: d.problem}
	d.mu.Unlock()
	if t == nil {
		return state, nil
	}
	var err error
	if state.Generation, err = served(ctx, d.settings, process.PID()); err != nil && state.Problem == "" {
		state.Problem = err.Error()
	}
	open, err := connections()
	for _, pool := range t.Pools {
		for i := range pool.Targets {
			target := &pool.Targets[i]
			socket := socketName(d.settings.Dir, pool.Name, target.Name)
			one := table.TargetState{Pool: pool.Name, Target: target.Name, Closed: target.Closed, InFlight: open[socket]}
			if err != nil {
				one.InFlight = -1
			}
			one.Requests, one.Failures = d.answers.of(socket)
			one.Up, one.DownServers, one.Probe = d.prober.Target(pool.Name, target)
			state.Targets = append(state.Targets, one)
		}
	}
	return state, nil
}

// served is the generation that the data port answers with, if no process takes requests by an older configuration.
func served(ctx context.Context, s edge.Settings, master int) (string, error) {
	scheme, address := "http", s.HTTP
	if address == "" {
		scheme, address = "https", s.HTTPS
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("asking Nginx for its state: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(host, port)+table.MarkerPath, nil)
	if err != nil {
		return "", fmt.Errorf("asking Nginx for its state: %w", err)
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		// The answer is the name of a table, and the program is our own: whose certificate it shows does not matter.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, //nolint:gosec // See above.
	}}
	answer, err := client.Do(r)
	if err != nil {
		return "", fmt.Errorf("asking Nginx for its state: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1024))
	if err != nil || answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("asking Nginx for its state: it answered %d", answer.StatusCode)
	}
	// The one that answered has the newest configuration if any process has. It is served when those before it have been
	// told to end.
	if fresh, _ := workers(master); fresh != workerCount {
		return "", nil
	}
	return strings.TrimSpace(string(text)), nil
}

// workers counts the processes that take requests, and those that only end what they have.
func workers(master int) (fresh, old int) {
	if master == 0 {
		return 0, 0
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", master, master))
	if err != nil {
		return 0, 0
	}
	for child := range strings.FieldsSeq(string(children)) {
		title, err := os.ReadFile("/proc/" + child + "/cmdline")
		switch {
		case err != nil:
		case bytes.Contains(title, []byte("shutting down")):
			old++
		case bytes.Contains(title, []byte("worker process")):
			fresh++
		}
	}
	return fresh, old
}

// connections counts those that were accepted at each of the sockets here, by any process.
func connections() (map[string]int, error) {
	file, err := os.Open("/proc/net/unix")
	if err != nil {
		return nil, fmt.Errorf("counting requests in flight: %w", err)
	}
	defer file.Close()
	const (
		state     = 5
		path      = 7
		connected = 3
	)
	count := map[string]int{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) <= path || !strings.HasPrefix(fields[path], "t-") {
			continue
		}
		if n, err := strconv.ParseInt(fields[state], 16, 32); err == nil && n == connected {
			count[fields[path]]++
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("counting requests in flight: %w", err)
	}
	return count, nil
}
