package haproxy

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	// askTimeout bounds one question to HAProxy's processes.
	askTimeout = 5 * time.Second
	// mostAnswer bounds what they say: a table of a few thousand servers has a few megabytes.
	mostAnswer = 64 << 20
	// mostCommands bounds what is asked at once, in bytes: HAProxy reads a line into one buffer of 16 KiB.
	mostCommands = 12 << 10
)

// master is the socket of HAProxy's first process, which passes commands on to the workers.
type master struct{ path string }

// ask sends one line, and what belongs to it, and reads the answer to its end.
func (m master) ask(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	connection, err := (&net.Dialer{}).DialContext(ctx, "unix", m.path)
	if err != nil {
		return "", fmt.Errorf("asking HAProxy: %w", err)
	}
	defer connection.Close()
	deadline, _ := ctx.Deadline()
	if err := connection.SetDeadline(deadline); err != nil {
		return "", fmt.Errorf("asking HAProxy: %w", err)
	}
	if _, err := io.WriteString(connection, command+"\n"); err != nil {
		return "", fmt.Errorf("asking HAProxy: %w", err)
	}
	// The first process passes answers of workers on and keeps the connection, unless it is told that nothing more comes.
	if half, ok := connection.(*net.UnixConn); ok {
		if err := half.CloseWrite(); err != nil {
			return "", fmt.Errorf("asking HAProxy: %w", err)
		}
	}
	answer, err := io.ReadAll(io.LimitReader(connection, mostAnswer))
	if err != nil {
		return "", fmt.Errorf("asking HAProxy: %w", err)
	}
	return string(answer), nil
}

// worker asks one worker.
func (m master) worker(ctx context.Context, pid int, command string) (string, error) {
	answer, err := m.ask(ctx, fmt.Sprintf("@!%d %s", pid, command))
	if err == nil && (answer == "" || strings.HasPrefix(answer, "Can't find the target")) {
		err = errGone
	}
	return answer, err
}

// errGone says that a worker has ended since it was listed, or is about to.
var errGone = errors.New("the process has ended")

// all sends many commands to one worker, in lines that are not too long. Their answers are of no use: what they did is
// looked at afterwards.
func (m master) all(ctx context.Context, pid int, commands []string) error {
	for len(commands) > 0 {
		line := strings.Builder{}
		fmt.Fprintf(&line, "@!%d", pid)
		for len(commands) > 0 && line.Len()+len(commands[0]) < mostCommands {
			line.WriteString(";" + commands[0])
			commands = commands[1:]
		}
		if _, err := m.ask(ctx, line.String()); err != nil {
			return err
		}
	}
	return nil
}

// workers are the processes that serve: the newest, which takes new connections (0 if there is none), and those that
// only end what they have begun.
func (m master) workers(ctx context.Context) (newest int, old []int, err error) {
	answer, err := m.ask(ctx, "show proc")
	if err != nil {
		return 0, nil, err
	}
	part := ""
	for line := range strings.Lines(answer) {
		if strings.HasPrefix(line, "#") {
			part = strings.TrimSpace(line)
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[1] != "worker" {
			continue
		}
		pid, err := strconv.Atoi(fields[0])
		if err != nil {
			continue
		}
		if strings.HasPrefix(part, "# old") {
			old = append(old, pid)
		} else {
			newest = pid
		}
	}
	return newest, old, nil
}

// row is one line of the statistics, by the names of its columns.
type row map[string]string

func (r row) number(columns ...string) (sum uint64) {
	for _, column := range columns {
		n, _ := strconv.ParseUint(r[column], 10, 64) // empty where it does not apply
		sum += n
	}
	return sum
}

// servers are the statistics of all servers at one worker.
func (m master) servers(ctx context.Context, pid int) ([]row, error) {
	answer, err := m.worker(ctx, pid, "show stat -1 4 -1")
	if err != nil {
		return nil, err
	}
	text := strings.TrimPrefix(strings.TrimSpace(answer), "# ")
	if !strings.HasPrefix(text, "pxname") {
		return nil, fmt.Errorf("reading HAProxy's statistics: it answered %.100q", answer)
	}
	reader := csv.NewReader(strings.NewReader(text))
	reader.FieldsPerRecord, reader.LazyQuotes = -1, true
	records, err := reader.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("reading HAProxy's statistics: %w", err)
	}
	rows := make([]row, 0, len(records)-1)
	for _, record := range records[1:] {
		r := row{}
		for i, column := range records[0] {
			if i < len(record) {
				r[column] = record[i]
			}
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// entries reads a map.
func (m master) entries(ctx context.Context, pid int, file string) (map[string]string, error) {
	answer, err := m.worker(ctx, pid, "show map "+file)
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for line := range strings.Lines(answer) {
		if fields := strings.Fields(line); len(fields) == 3 && strings.HasPrefix(fields[0], "0x") {
			found[fields[1]] = fields[2]
		}
	}
	return found, nil
}
