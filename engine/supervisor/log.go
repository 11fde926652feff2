package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// trimLogs keeps log files bounded. The processes hold the files open for appending, so a file is
// copied and emptied rather than renamed; a line written in that instant may be lost.
func (s *Supervisor) trimLogs(ctx context.Context) {
	tick := time.NewTicker(logCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, p := range s.processes {
			if err := Trim(p.Log); err != nil {
				s.mu.Lock()
				p.status.LastError = err.Error()
				s.mu.Unlock()
			}
		}
	}
}

// Trim cuts a log file that has more than 16 MiB; its end is kept in a second file, <path>.1.
func Trim(path string) error { return trim(path, maxLog) }

func trim(path string, limit int64) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() <= limit {
		return nil
	}
	in, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cutting log: %w", err)
	}
	defer in.Close()
	out, err := os.Create(path + ".1")
	if err != nil {
		return fmt.Errorf("cutting log: %w", err)
	}
	_, err = in.Seek(-limit, io.SeekEnd)
	if err == nil {
		_, err = io.Copy(out, in)
	}
	if err = errors.Join(err, out.Close(), os.Truncate(path, 0)); err != nil {
		return fmt.Errorf("cutting log: %w", err)
	}
	return nil
}

// Tail returns the last lines of a log file, at most 16 KiB of it.
func Tail(path string, lines int) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	const most = 16 << 10
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	data, _ := io.ReadAll(io.LimitReader(f, most))
	all := strings.Split(strings.TrimSpace(string(bytes.ToValidUTF8(data, nil))), "\n")
	if len(all) == 1 && all[0] == "" {
		return nil
	}
	return all[max(0, len(all)-lines):]
}
