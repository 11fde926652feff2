package nginx

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// answersSocket is where Nginx sends a line for each answer.
const answersSocket = "answers"

// answers counts the answers of each target. Nginx drops lines rather than wait: the numbers are for shares and rates.
type answers struct {
	conn *net.UnixConn

	mu    sync.Mutex
	count map[string]counted
}

type counted struct{ all, failed uint64 }

// listen counts what arrives, until close or the context's end.
func listen(ctx context.Context, dir string) (*answers, error) {
	name := filepath.Join(dir, answersSocket)
	os.Remove(name)
	// A path may be as long as the data folder wants it; that of a socket may not.
	folder, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the folder for sockets: %w", err)
	}
	defer folder.Close()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{
		Name: fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), answersSocket), Net: "unixgram",
	})
	if err != nil {
		return nil, fmt.Errorf("listening for Nginx's answers: %w", err)
	}
	if err := os.Chmod(name, 0o666); err != nil {
		return nil, fmt.Errorf("opening the socket to Nginx's processes: %w", err)
	}
	a := &answers{conn: conn, count: map[string]counted{}}
	context.AfterFunc(ctx, a.close)
	go a.read()
	return a, nil
}

func (a *answers) read() {
	buffer := make([]byte, 1024)
	for {
		n, err := a.conn.Read(buffer)
		if err != nil {
			return
		}
		a.note(string(buffer[:n]))
	}
}

// note takes one line: what syslog puts before, then the socket's name and the status.
func (a *answers) note(line string) {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return
	}
	name, status := fields[len(fields)-2], fields[len(fields)-1]
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.count[name]
	c.all++
	if strings.HasPrefix(status, "5") {
		c.failed++
	}
	a.count[name] = c
}

func (a *answers) of(name string) (all, failed uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.count[name]
	return c.all, c.failed
}

func (a *answers) close() { _ = a.conn.Close() }
