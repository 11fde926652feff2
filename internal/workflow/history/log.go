package history

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"yunfan.io/yunfan/internal/record"
)

const (
	// flushInterval is how long a line may wait to be written.
	flushInterval = 200 * time.Millisecond
	// batchLines are written in one transaction.
	batchLines = 500
	// maxWaiting lines, and bytes of them, wait to be written; further ones are dropped, and counted.
	maxWaiting, maxWaitingBytes = 20_000, 16 << 20
	// maxLine is the length to which a line is cut, in bytes; maxLog how much one attempt of a step may write.
	maxLine, maxLog = 8 << 10, 1 << 20
	// maxDropped logs are told apart when lines are dropped.
	maxDropped = 1000
	// complainInterval is how often it is told that lines cannot be written.
	complainInterval = time.Minute
	// lastFlush bounds the writing of what is left when the server stops.
	lastFlush = 5 * time.Second
	// writerBits of a line's number tell servers apart; above them is its time in microseconds.
	writerBits = 10
)

// attempt is whose log a line is in.
type attempt struct {
	run    types.UID
	step   string
	number int32
}

type line struct {
	attempt

	number int64 // by its time; no two lines have the same
	text   string
}

// buffer has lines that wait to be written.
type buffer struct {
	mu      sync.Mutex
	waiting []line
	bytes   int
	dropped map[attempt]int
	last    int64 // microsecond of the last line
	writer  int64 // number of this server among others, by chance
}

// add takes a line, or drops it if too many wait. It says whether a batch is full.
func (b *buffer) add(a attempt, text string, now time.Time) (full bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) >= maxWaiting || b.bytes+len(text) > maxWaitingBytes {
		if b.dropped == nil {
			b.dropped = map[attempt]int{}
		}
		if _, known := b.dropped[a]; known || len(b.dropped) < maxDropped {
			b.dropped[a]++
		}
		return false
	}
	b.append(a, text, now)
	return len(b.waiting) == batchLines
}

func (b *buffer) append(a attempt, text string, now time.Time) {
	b.last = max(b.last+1, now.UnixMicro())
	b.waiting = append(b.waiting, line{a, b.last<<writerBits | b.writer, text})
	b.bytes += len(text)
}

// next gives the oldest lines, which stay until they are said to be written.
func (b *buffer) next() []line {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting[:min(batchLines, len(b.waiting)):min(batchLines, len(b.waiting))]
}

// written removes the n oldest lines. Once there is room again, those that were dropped meanwhile are told of.
func (b *buffer) written(n int, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.waiting[:n] {
		b.bytes -= len(l.text)
	}
	b.waiting = slices.Clone(b.waiting[n:])
	if len(b.dropped) == 0 || len(b.waiting) >= batchLines {
		return
	}
	for a, count := range b.dropped { // each into a log of its own: their order does not matter
		b.append(a, fmt.Sprintf("[%d lines are missing here: they came faster than they could be written]", count), now)
	}
	b.dropped = nil
}

// Log adds a line to the log of an attempt of a step. It never waits: lines are written a moment later, and dropped, with
// their number told, if too many wait. Several lines in one text become several.
func (h *History) Log(run types.UID, _, _, step string, number int32, text string) {
	full, now := false, time.Now()
	for part := range strings.SplitSeq(strings.TrimRight(text, "\r\n"), "\n") {
		full = h.lines.add(attempt{run, step, number}, harmless(part), now) || full
	}
	if full {
		select {
		case h.wake <- struct{}{}:
		default:
		}
	}
}

// harmless makes a line that a terminal shows and does not obey, and that a database takes; at most maxLine bytes of it.
func harmless(text string) string {
	const more = " [cut]"
	text = strings.TrimRight(text, "\r")
	cut := len(text) > maxLine
	if cut {
		text = text[:maxLine-len(more)]
		for len(text) > 0 && !utf8.RuneStart(text[len(text)-1]) {
			text = text[:len(text)-1]
		}
		if r, size := utf8.DecodeLastRuneInString(text); r == utf8.RuneError && size == 1 {
			text = text[:len(text)-1]
		}
		text += more
	}
	return clean(text)
}

// clean replaces what steers a terminal or turns the direction of a text, and what is no UTF-8.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return r
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r), r == '\u2028', r == '\u2029':
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(text, string(utf8.RuneError)))
}

// NeedLeaderElection says that every server writes its lines.
func (h *History) NeedLeaderElection() bool { return false }

// Start writes lines until ctx ends, and then what is left.
func (h *History) Start(ctx context.Context) error {
	ticker := time.NewTicker(flushInterval)
	defer ticker.Stop()
	var complained time.Time
	for {
		if err := h.Flush(ctx); err != nil && ctx.Err() == nil && time.Since(complained) > complainInterval {
			complained = time.Now()
			log.FromContext(ctx).Error(err, "Lines of step logs wait to be written")
		}
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
			defer cancel()
			return h.Flush(last)
		case <-ticker.C:
		case <-h.wake:
		}
	}
}

// Flush writes all lines that were logged before it was called.
func (h *History) Flush(ctx context.Context) error {
	h.writing.Lock()
	defer h.writing.Unlock()
	for range maxWaiting/batchLines + 1 {
		batch := h.lines.next()
		if len(batch) == 0 {
			return nil
		}
		if err := h.write(ctx, batch); err != nil {
			return fmt.Errorf("writing step logs: %w", err)
		}
		h.lines.written(len(batch), time.Now())
	}
	return nil
}

// write writes a batch in one transaction. A batch whose end was not seen may be written again: lines keep their number.
func (h *History) write(ctx context.Context, batch []line) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return h.Records.Update(ctx, func(tx *record.Tx) error {
		insert, err := tx.Prepare(ctx, `INSERT INTO workflow_lines (log, number, line) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`)
		if err != nil {
			return err
		}
		defer func() { _ = insert.Close() }()
		logs, err := openLogs(ctx, tx, batch)
		if err != nil {
			return err
		}
		for _, l := range batch {
			text, ok := logs.of[l.attempt].take(l.text)
			if !ok {
				continue
			}
			if _, err := insert.ExecContext(ctx, logs.of[l.attempt].id, l.number, text); err != nil {
				return err
			}
		}
		return logs.close(ctx, tx)
	})
}

// openedLogs are the logs that a batch writes to.
type openedLogs struct {
	of map[attempt]*openLog
	// order is that in which every server locks them: two never wait for each other.
	order []attempt
}

// openLog is the log of an attempt while a batch is written.
type openLog struct{ id, bytes int64 }

// openLogs finds or makes the logs of a batch.
func openLogs(ctx context.Context, tx *record.Tx, batch []line) (*openedLogs, error) {
	o := &openedLogs{of: map[attempt]*openLog{}}
	for _, l := range batch {
		if o.of[l.attempt] == nil {
			o.of[l.attempt] = &openLog{}
			o.order = append(o.order, l.attempt)
		}
	}
	slices.SortFunc(o.order, func(a, b attempt) int {
		return cmp.Or(cmp.Compare(a.run, b.run), cmp.Compare(a.step, b.step), cmp.Compare(a.number, b.number))
	})
	for _, a := range o.order {
		_, err := tx.One(ctx, []any{&o.of[a].id, &o.of[a].bytes}, `INSERT INTO workflow_logs (run_uid, step, attempt, bytes, written) VALUES (?, ?, ?, 0, ?)
			ON CONFLICT (run_uid, step, attempt) DO UPDATE SET written = excluded.written RETURNING id, bytes`, string(a.run), a.step, a.number, batch[len(batch)-1].number>>writerBits)
		if err != nil {
			return nil, err
		}
	}
	return o, nil
}

// close keeps how much is in each log.
func (o *openedLogs) close(ctx context.Context, tx *record.Tx) error {
	for _, a := range o.order {
		if err := tx.Exec(ctx, `UPDATE workflow_logs SET bytes = ? WHERE id = ?`, o.of[a].bytes, o.of[a].id); err != nil {
			return err
		}
	}
	return nil
}

// take says whether a line still fits, and what is written: in place of the first that does not, that it does not.
func (o *openLog) take(text string) (string, bool) {
	full := o.bytes > maxLog
	o.bytes += int64(len(text)) + 1
	switch {
	case full:
		o.bytes = maxLog + 1
		return "", false
	case o.bytes > maxLog:
		o.bytes = maxLog + 1
		return fmt.Sprintf("[the log has reached %d KiB: the rest is not kept]", maxLog>>10), true
	}
	return text, true
}

// Position is how far a log was read: after a line of an attempt.
type Position struct {
	Attempt int32
	After   int64
}

// Line is one line of a step's log.
type Line struct {
	Attempt int32
	At      time.Time
	Text    string
}

// Lines gives at most limit lines of a step's log after a position, of one attempt or, if number is zero, of all one after
// the other, and how far that is.
func (h *History) Lines(ctx context.Context, run types.UID, step string, number int32, from Position, limit int) ([]Line, Position, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	var lines []Line
	err := h.Records.View(ctx, func(tx *record.Tx) error {
		return tx.Each(ctx, func(scan func(...any) error) error {
			l := Line{}
			if err := scan(&from.Attempt, &from.After, &l.Text); err != nil {
				return err
			}
			l.Attempt, l.At = from.Attempt, fromMicros(from.After>>writerBits)
			lines = append(lines, l)
			return nil
		}, `SELECT g.attempt, l.number, l.line FROM workflow_logs g JOIN workflow_lines l ON l.log = g.id
			WHERE g.run_uid = ? AND g.step = ? AND (g.attempt = ? OR ? = 0) AND (g.attempt > ? OR (g.attempt = ? AND l.number > ?))
			ORDER BY g.attempt, l.number LIMIT ?`, string(run), step, number, number, from.Attempt, from.Attempt, from.After, limit)
	})
	if err != nil {
		return nil, from, fmt.Errorf("reading the log of step %s: %w", step, err)
	}
	return lines, from, nil
}
