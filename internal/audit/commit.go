package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"yunfan.io/yunfan/internal/record"
)

const (
	// deadTime is how long a writer may be silent before its rows are closed by another.
	deadTime = time.Minute
	// epoch of row numbers: 2024-01-01 UTC, in Unix ms.
	epoch = 1704067200000
	// A row's number is its time in ms since epoch, then writerBits of its writer's number, then a counter.
	writerBits, counterBits = 10, 12
	// rowsPerStatement bounds the arguments of one statement.
	rowsPerStatement = 64
)

// errFenced says that others took this writer for dead and closed its rows: it goes on in a new chain.
var errFenced = errors.New("this writer was silent for too long, and others have ended it")

// alreadyClosedError says that a row was given a result by another.
type alreadyClosedError struct{ id int64 }

func (e *alreadyClosedError) Error() string { return fmt.Sprintf("row %d has a result already", e.id) }

// register begins a chain: after a start, or after others have ended the last one.
func (w *Writer) register(ctx context.Context) error {
	identity := rand.Text()
	start := genesis(w.name, identity)
	var id int64
	err := w.db.Update(ctx, func(tx *record.Tx) error {
		if tx.Dialect() == record.PostgreSQL {
			if err := tx.Exec(ctx, `LOCK TABLE audit_writers IN SHARE ROW EXCLUSIVE MODE`); err != nil {
				return err
			}
		}
		if _, err := tx.One(ctx, []any{&id}, `SELECT COALESCE(MAX(id), 0) + 1 FROM audit_writers`); err != nil {
			return err
		}
		now := clock(tx.Dialect())
		if err := tx.Exec(ctx, `UPDATE audit_writers SET ended = `+now+` WHERE name = ? AND ended IS NULL`, w.name); err != nil {
			return err
		}
		return tx.Exec(ctx, `INSERT INTO audit_writers (id, name, identity, started, seen, head_seq, head_hash, cut_seq, cut_hash)
			VALUES (?, ?, ?, `+now+`, `+now+`, 0, ?, 0, ?)`, id, w.name, identity, start, start)
	})
	if err != nil {
		return err
	}
	w.chain = chain{writer: id, hash: start}
	w.head.Store(&Head{Writer: id, Hash: start})
	return nil
}

// write commits a batch. After an error it is found out first whether the one before was committed all the same.
func (w *Writer) write(batch []*entry) error {
	ctx, cancel := context.WithTimeout(context.Background(), commitTime)
	defer cancel()
	for {
		if err := w.settle(ctx); err != nil {
			return err
		}
		live := slices.DeleteFunc(slices.Clone(batch), func(e *entry) bool { return e.state.Load() != waiting || e.outcome == nil && e.row.id != 0 })
		err := w.commit(ctx, live)
		closed, isClosed := errors.AsType[*alreadyClosedError](err)
		switch {
		case err == nil:
			for _, e := range live {
				w.committed(e)
			}
			return nil
		case isClosed:
			w.log.Info("A result came too late: the row was closed as unknown", "row", closed.id)
			for _, e := range batch {
				if e.outcome != nil && e.row.id == closed.id {
					e.tell(nil)
					e.state.Store(told)
				}
			}
		case errors.Is(err, errFenced):
			w.log.Info("This server was silent for too long; its audit goes on in a new chain")
			if err := w.register(ctx); err != nil {
				return err
			}
			w.written(w.Head())
		default:
			return err
		}
	}
}

// committed tells that a link is on disk. A row whose request was refused in the meantime gets that as its result.
func (w *Writer) committed(e *entry) {
	if !e.tell(nil) && e.outcome == nil {
		go w.End(e.row, Outcome{
			Time: time.Now().UnixMilli(), Result: ResultFailed, Code: http.StatusServiceUnavailable, Reason: "RecordsUnavailable",
			Message: "not sent on: its intent was not on disk in time",
		})
	}
}

// settle finds out whether a transaction was committed whose end is not known.
func (w *Writer) settle(ctx context.Context) error {
	if w.wanted == nil {
		return nil
	}
	var seq int64
	var hash []byte
	err := w.db.View(ctx, func(tx *record.Tx) error {
		_, err := tx.One(ctx, []any{&seq, &hash}, `SELECT head_seq, head_hash FROM audit_writers WHERE id = ?`, w.chain.writer)
		return err
	})
	if err != nil {
		return err
	}
	if bytes.Equal(hash, w.wanted) {
		w.advance(seq, hash)
		for _, e := range w.unsure {
			w.committed(e)
		}
	} else {
		for _, e := range w.unsure {
			if e.outcome == nil {
				e.row.id = 0
			}
		}
	}
	w.wanted, w.unsure = nil, nil
	return nil
}

func (w *Writer) advance(seq int64, hash []byte) {
	w.chain.seq, w.chain.hash = seq, hash
	head := Head{w.chain.writer, seq, hash}
	w.head.Store(&head)
	w.written(head)
}

// commit writes links in one transaction.
func (w *Writer) commit(ctx context.Context, batch []*entry) error {
	if len(batch) == 0 {
		return nil
	}
	seq, hash := w.chain.seq, w.chain.hash
	var begun, ended []stored
	for _, e := range batch {
		seq++
		if e.outcome == nil {
			e.row.id = w.nextID(e.row.intent.Time)
			hash = link(hash, seq, kindIntent, e.row.id, e.row.text, nil)
			begun = append(begun, stored{e, seq, hash})
		} else {
			hash = link(hash, seq, kindOutcome, e.row.id, e.row.text, e.text)
			ended = append(ended, stored{e, seq, hash})
		}
	}
	w.unsure, w.wanted = batch, hash
	err := w.db.Update(ctx, func(tx *record.Tx) error {
		changed, err := tx.Change(ctx, `UPDATE audit_writers SET head_seq = ?, head_hash = ?, seen = `+clock(tx.Dialect())+`
			WHERE id = ? AND head_seq = ? AND ended IS NULL`, seq, hash, w.chain.writer, w.chain.seq)
		if err != nil {
			return err
		}
		if changed == 0 {
			return errFenced
		}
		for chunk := range slices.Chunk(begun, rowsPerStatement) {
			if err := w.insert(ctx, tx, chunk); err != nil {
				return err
			}
		}
		return w.update(ctx, tx, ended)
	})
	_, isClosed := errors.AsType[*alreadyClosedError](err)
	switch {
	case err == nil:
		w.unsure, w.wanted = nil, nil
		w.advance(seq, hash)
	case isClosed, errors.Is(err, errFenced): // nothing was committed, for sure
		for _, e := range begun {
			e.row.id = 0
		}
		w.unsure, w.wanted = nil, nil
	}
	return err
}

// stored is an entry with its place in the chain.
type stored struct {
	*entry
	seq  int64
	hash []byte
}

func (w *Writer) insert(ctx context.Context, tx *record.Tx, rows []stored) error {
	const columns = 13
	args := make([]any, 0, columns*len(rows))
	for _, s := range rows {
		row := rowOf(s.row.id, s.row.intent, nil)
		args = append(args, s.row.id, w.chain.writer, s.seq, s.hash)
		for _, column := range row.columns() {
			args = append(args, column)
		}
		args = append(args, string(s.row.text))
	}
	values := strings.TrimSuffix(strings.Repeat("(?,?,?,?,?,?,?,?,?,?,?,?,?),", len(rows)), ",")
	return tx.Exec(ctx, `INSERT INTO audit_rows (id, writer, seq, hash, user_name, tenant, cluster, resource, name, action, result, words, intent) VALUES `+values, args...)
}

func (w *Writer) update(ctx context.Context, tx *record.Tx, rows []stored) error {
	if len(rows) == 0 {
		return nil
	}
	statement, err := tx.Prepare(ctx, `UPDATE audit_rows SET result_writer = ?, result_seq = ?, result_hash = ?,
		user_name = ?, tenant = ?, cluster = ?, resource = ?, name = ?, action = ?, result = ?, words = ?, outcome = ?, state_before = ?, state_after = ?
		WHERE id = ? AND result_seq IS NULL`)
	if err != nil {
		return err
	}
	defer func() { _ = statement.Close() }()
	for _, s := range rows {
		row := rowOf(s.row.id, s.row.intent, s.outcome)
		args := []any{w.chain.writer, s.seq, s.hash}
		for _, column := range row.columns() {
			args = append(args, column)
		}
		result, err := statement.ExecContext(ctx, append(args, string(s.text), s.outcome.Before, s.outcome.After, s.row.id)...)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, &alreadyClosedError{s.row.id})
		}
	}
	return nil
}

// nextID gives a number that is larger than all before it, and no other writer's.
func (w *Writer) nextID(ms int64) int64 {
	id := (ms-epoch)<<(writerBits+counterBits) | (w.chain.writer%(1<<writerBits))<<counterBits
	w.lastID = max(id, w.lastID+1)
	return w.lastID
}

// idAt is the smallest number of a row of that time.
func idAt(t time.Time) int64 { return (t.UnixMilli() - epoch) << (writerBits + counterBits) }

// closeOpen gives the rows of writers that have ended the result Unknown.
func (w *Writer) closeOpen(ctx context.Context) error {
	for {
		var rows []*open
		const page = 500
		err := w.db.View(ctx, func(tx *record.Tx) error {
			return tx.Each(ctx, func(scan func(...any) error) error {
				row := &open{}
				var text string
				if err := scan(&row.id, &text); err != nil {
					return err
				}
				row.text = []byte(text)
				rows = append(rows, row)
				return json.Unmarshal(row.text, &row.intent)
			}, `SELECT r.id, r.intent FROM audit_rows r JOIN audit_writers w ON w.id = r.writer
				WHERE r.result_seq IS NULL AND w.ended IS NOT NULL AND w.id <> ? ORDER BY r.id LIMIT ?`, w.Head().Writer, page)
		})
		if err != nil || len(rows) == 0 {
			return err
		}
		w.log.Info("Closing rows of a server that has ended", "rows", len(rows))
		done := make(chan error, len(rows))
		for _, row := range rows {
			outcome := Outcome{Time: time.Now().UnixMilli(), Result: ResultUnknown, Reason: "ServerEnded", Message: "the server ended before it knew the result"}
			outcome.bounded()
			select {
			case w.queue <- &entry{row: row, outcome: &outcome, text: encode(outcome), done: done}:
			case <-w.ended:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		for range rows {
			select {
			case err := <-done:
				if err != nil {
					return err
				}
			case <-w.ended:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// tend says again and again that this writer lives, and closes the rows of those that do not.
func (w *Writer) tend(ctx context.Context) error {
	err := w.db.Update(ctx, func(tx *record.Tx) error {
		now, me := clock(tx.Dialect()), w.Head().Writer
		if err := tx.Exec(ctx, `UPDATE audit_writers SET seen = `+now+` WHERE id = ? AND ended IS NULL`, me); err != nil {
			return err
		}
		return tx.Exec(ctx, `UPDATE audit_writers SET ended = `+now+` WHERE ended IS NULL AND id <> ? AND seen < `+now+` - ?`, me, deadTime.Milliseconds())
	})
	if err != nil {
		return fmt.Errorf("tending the audit of %s: %w", w.name, err)
	}
	return w.closeOpen(ctx)
}
