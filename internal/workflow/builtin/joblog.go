package builtin

import (
	"bufio"
	"context"
	"io"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// maxJobLog is how much of a container's log becomes the step's, in bytes; maxJobLine how much of one line.
	maxJobLog, maxJobLine = 256 << 10, 4 << 10
	// maxJobEnd is how much of it is kept for the log's end.
	maxJobEnd = 64 << 10
	// maxJobLines are asked for at once: of more lines between two looks the first are left out.
	maxJobLines = 2000
	// logWithin bounds one look at a log.
	logWithin = 10 * time.Second
)

// progress is how far the logs of running containers have been read. After a restart the last lines of a log may be read
// again: to know better would cost a write for each look.
type progress struct {
	mu  sync.Mutex
	all map[string]*reading
}

// reading is how far one log has been read.
type reading struct {
	mu   sync.Mutex
	last time.Time // of the last line that was read
	size int       // of what was read
}

func newProgress() *progress { return &progress{all: map[string]*reading{}} }

func (p *progress) of(key string) *reading {
	p.mu.Lock()
	defer p.mu.Unlock()
	const most = 10000 // of steps that ended without anybody telling
	if p.all[key] == nil {
		if len(p.all) >= most {
			clear(p.all)
		}
		p.all[key] = &reading{}
	}
	return p.all[key]
}

func (p *progress) forget(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, key)
}

// follow adds to the step's log what the container has written since the last look. Of a long log, the beginning and the
// end are kept. A log that cannot be read fails no step.
func (c *container) follow(ctx context.Context, j *job, last bool) {
	ctx, cancel := context.WithTimeout(ctx, logWithin)
	defer cancel()
	r := c.logs.of(j.call.Key)
	r.mu.Lock()
	defer r.mu.Unlock()
	budget := maxJobLog - r.size
	if !last {
		budget -= maxJobEnd
	}
	if budget <= 0 {
		return
	}
	pods, err := j.pods(ctx)
	if err != nil || len(pods) == 0 || !started(&pods[0]) {
		return
	}
	options := &corev1.PodLogOptions{Timestamps: true, TailLines: new(int64(maxJobLines))}
	if !r.last.IsZero() {
		options.SinceTime = &metav1.Time{Time: r.last}
	}
	stream, err := j.member.LogsAs(ctx, j.key.Namespace, pods[0].Name, options)
	if err != nil {
		if last && ctx.Err() == nil {
			j.call.Log("the container's log could not be read: %v", err)
		}
		return
	}
	defer stream.Close()
	kept, left := r.read(stream, budget, last)
	if left {
		j.call.Log("… lines are left out here: a step keeps %d KiB of its container's log", maxJobLog>>10)
	}
	for _, line := range kept {
		j.call.Log("%s", line)
	}
}

// read gives the lines that are new, as far as the budget goes: the first of them, or the last once the container has
// ended. Left says that there were others.
func (r *reading) read(stream io.Reader, budget int, last bool) (kept []string, left bool) {
	reader := bufio.NewReaderSize(stream, maxJobLine)
	for size := 0; ; {
		raw, long, err := reader.ReadLine()
		if err != nil {
			return kept, left
		}
		text := string(raw)
		for long && err == nil { // the rest of a line that is too long is left out
			_, long, err = reader.ReadLine()
		}
		stamp, line, _ := strings.Cut(strings.ToValidUTF8(text, "�"), " ")
		at, err := time.Parse(time.RFC3339Nano, stamp)
		if err != nil || !at.After(r.last) {
			continue
		}
		if size+len(line) > budget && !last {
			return kept, false // they come at the end
		}
		r.last = at
		r.size += len(line) + 1
		size += len(line) + 1
		kept = append(kept, line)
		for size > budget {
			left = true
			size -= len(kept[0]) + 1
			kept = kept[1:]
		}
	}
}

func started(pod *corev1.Pod) bool {
	for _, s := range pod.Status.ContainerStatuses {
		if s.State.Running != nil || s.State.Terminated != nil {
			return true
		}
	}
	return false
}
